//! Images: from archives into containerd's store, and what the store has from an earlier OS.

use super::{Containerd, ContainerdError, SNAPSHOTTER, call, request};
use crate::limits::CONTAINERD_TIMEOUT;
use crate::ociarchive::{Image, chain_ids};
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{CommitSnapshotRequest, StatSnapshotRequest};
use containerd_client::services::v1::{
    ApplyRequest, CreateImageRequest, Image as ImageRecord, ListImagesRequest, ReadContentRequest,
    UpdateImageRequest, WriteAction, WriteContentRequest,
};
use containerd_client::types::Descriptor;
use oci_spec::image::{ImageConfiguration, ImageManifest};
use std::collections::HashMap;
use std::io::Cursor;
use tokio::time::timeout;
use tonic::Code;
use tracing::warn;

/// Bytes of a blob in one message: gRPC's default limit is 4 MiB.
const CHUNK: usize = 1 << 20;

impl Containerd {
    /// Puts an image into containerd and unpacks it, unless both were done before.
    ///
    /// # Errors
    /// [`ContainerdError::Call`] names the step and the blob.
    pub async fn import(&mut self, image: &Image) -> Result<(), ContainerdError> {
        let manifest_labels = {
            let mut labels = HashMap::new();
            labels.insert(
                "containerd.io/gc.ref.content.config".into(),
                image.manifest.config().digest().to_string(),
            );
            for (index, layer) in image.manifest.layers().iter().enumerate() {
                labels.insert(
                    format!("containerd.io/gc.ref.content.l.{index}"),
                    layer.digest().to_string(),
                );
            }
            labels
        };
        let chain = chain_ids(image.config.rootfs().diff_ids());
        for layer in image.manifest.layers() {
            self.write_blob(image, layer, HashMap::new()).await?;
        }
        let mut config_labels = HashMap::new();
        if let Some(last) = chain.last() {
            config_labels
                .insert(format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"), last.clone());
        }
        self.write_blob(image, image.manifest.config(), config_labels).await?;
        self.write_blob(image, &image.target, manifest_labels).await?;
        let record = ImageRecord {
            name: image.name.clone(),
            target: Some(descriptor(&image.target)),
            ..Default::default()
        };
        let mut images = ImagesClient::new(self.channel.clone());
        let create = CreateImageRequest { image: Some(record.clone()), ..Default::default() };
        let name = &image.name;
        let known = [Code::AlreadyExists];
        if call("name image", name, &known, images.create(request(create))).await?.is_none() {
            // An older OS may have had another image under this name.
            let update = UpdateImageRequest { image: Some(record), ..Default::default() };
            call("name image", name, &[], images.update(request(update))).await?;
        }
        self.unpack(image, &chain).await?;
        self.images.insert(image.name.clone(), image.config.clone());
        Ok(())
    }

    async fn write_blob(
        &self,
        image: &Image,
        blob: &oci_spec::image::Descriptor,
        labels: HashMap<String, String>,
    ) -> Result<(), ContainerdError> {
        let digest = blob.digest().to_string();
        let bytes = &image.blobs[&digest];
        let total = bytes.len() as i64;
        let base = WriteContentRequest {
            r#ref: format!("quietcore-{digest}"),
            total,
            expected: digest.clone(),
            ..Default::default()
        };
        let mut messages = Vec::new();
        for (index, chunk) in bytes.chunks(CHUNK).enumerate() {
            let offset = (index * CHUNK) as i64;
            let action = WriteAction::Write.into();
            messages.push(WriteContentRequest {
                action,
                offset,
                data: chunk.to_vec(),
                ..base.clone()
            });
        }
        let action = WriteAction::Commit.into();
        messages.push(WriteContentRequest { action, offset: total, labels, ..base });
        let mut client = ContentClient::new(self.channel.clone());
        let write = client.write(request(tokio_stream::iter(messages)));
        let expected = [Code::AlreadyExists];
        let Some(mut answers) = call("write blob", &digest, &expected, write).await? else {
            return Ok(());
        };
        // The stream's end says that the commit is done; an existing blob shows up in it too.
        loop {
            let failed = |message: String| ContainerdError::Call {
                action: "write blob",
                object: digest.clone(),
                message,
            };
            match timeout(CONTAINERD_TIMEOUT, answers.message()).await {
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(status)) if status.code() == Code::AlreadyExists => return Ok(()),
                Ok(Err(status)) => return Err(failed(status.message().to_string())),
                Err(_) => return Err(failed("no answer".into())),
            }
        }
    }

    async fn unpack(&self, image: &Image, chain: &[String]) -> Result<(), ContainerdError> {
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        let mut parent = String::new();
        for (layer, id) in image.manifest.layers().iter().zip(chain) {
            let stat = StatSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: id.clone() };
            if call("look up snapshot", id, &[Code::NotFound], snapshots.stat(request(stat)))
                .await?
                .is_none()
            {
                let key = format!("unpack-{id}");
                self.remove_snapshot(&key).await?;
                let mounts = self.prepare(&key, &parent).await?;
                let diff = Some(descriptor(layer));
                let apply = ApplyRequest { diff, mounts, ..Default::default() };
                call(
                    "unpack layer",
                    id,
                    &[],
                    DiffClient::new(self.channel.clone()).apply(request(apply)),
                )
                .await?;
                // A layer that is known is never unpacked again: its files must be on the disk first.
                let _ = tokio::task::spawn_blocking(nix::unistd::sync).await;
                let labels = [("containerd.io/gc.root".to_string(), String::new())].into();
                let commit = CommitSnapshotRequest {
                    snapshotter: SNAPSHOTTER.into(),
                    name: id.clone(),
                    key,
                    labels,
                };
                call("keep layer", id, &[Code::AlreadyExists], snapshots.commit(request(commit)))
                    .await?;
            }
            parent.clone_from(id);
        }
        Ok(())
    }

    /// Takes the images that an earlier OS left in containerd's store: a compose file that names them still
    /// runs after an update.
    ///
    /// # Errors
    /// The store can't be listed; an image that can't be read is left out.
    pub async fn adopt(&mut self) -> Result<(), ContainerdError> {
        let mut images = ImagesClient::new(self.channel.clone());
        let list = images.list(request(ListImagesRequest::default()));
        let records = call("list", "images", &[], list).await?.unwrap_or_default().images;
        for record in records {
            if self.images.contains_key(&record.name) {
                continue;
            }
            match self.stored_config(&record).await {
                Ok(config) => drop(self.images.insert(record.name, config)),
                Err(error) => warn!("image {} of an earlier OS: {error}", record.name),
            }
        }
        Ok(())
    }

    async fn stored_config(
        &self,
        record: &ImageRecord,
    ) -> Result<ImageConfiguration, ContainerdError> {
        let unreadable = |error: oci_spec::OciSpecError| ContainerdError::Call {
            action: "read",
            object: record.name.clone(),
            message: error.to_string(),
        };
        let target = record.target.as_ref().map_or("", |target| &target.digest);
        let manifest = self.read_blob(target).await?;
        let manifest = ImageManifest::from_reader(Cursor::new(manifest)).map_err(unreadable)?;
        let config = self.read_blob(manifest.config().digest().as_ref()).await?;
        ImageConfiguration::from_reader(Cursor::new(config)).map_err(unreadable)
    }

    async fn read_blob(&self, digest: &str) -> Result<Vec<u8>, ContainerdError> {
        let read = ReadContentRequest { digest: digest.into(), ..Default::default() };
        let mut content = ContentClient::new(self.channel.clone());
        let mut bytes = Vec::new();
        if let Some(mut answers) = call("read", digest, &[], content.read(request(read))).await? {
            while let Ok(Ok(Some(part))) = timeout(CONTAINERD_TIMEOUT, answers.message()).await {
                bytes.extend_from_slice(&part.data);
            }
        }
        Ok(bytes)
    }
}

fn descriptor(from: &oci_spec::image::Descriptor) -> Descriptor {
    Descriptor {
        media_type: from.media_type().to_string(),
        digest: from.digest().to_string(),
        size: from.size() as i64,
        ..Default::default()
    }
}
