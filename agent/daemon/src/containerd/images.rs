//! Images: from archives into containerd's store, and what the store has from an earlier OS.

use crate::containerd::{Containerd, ContainerdError, SNAPSHOTTER, call, request};
use agent_core::limits::{CONTAINERD_TIMEOUT, IMPORT_LEASE, UNPACK_SILENCE};
use agent_host::images::archive::{Image, chain_ids};
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, StatSnapshotRequest, UsageRequest,
};
use containerd_client::services::v1::{
    ApplyRequest, CreateImageRequest, CreateRequest as CreateLease, DeleteImageRequest,
    DeleteRequest as DeleteLease, GetImageRequest, Image as ImageRecord, ListImagesRequest,
    ReadContentRequest, UpdateImageRequest, WriteAction, WriteContentRequest,
};
use containerd_client::types::Descriptor;
use oci_spec::image::{ImageConfiguration, ImageManifest};
use std::collections::{BTreeSet, HashMap};
use std::io::{Cursor, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use tokio::time::timeout;
use tonic::{Code, Request};
use tracing::warn;

/// Beginning of the names of snapshots that layers are unpacked into.
const UNPACKING: &str = "unpack-";
/// Beginning of the names of views of images that are read.
pub(super) const VIEWING: &str = "view-";

/// A number that nothing else has, also of an agent before this one.
pub(super) fn unique() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{number}", since.as_nanos())
}

/// Bytes of a blob in one message: gRPC's default limit is 4 MiB.
const CHUNK: usize = 1 << 20;

/// Image in containerd's store.
#[derive(Debug)]
pub struct StoredImage {
    /// Name as compose files have it.
    pub name: String,
    /// Digest of its manifest.
    pub digest: String,
    /// OCI configuration of the image.
    pub config: ImageConfiguration,
}

impl Containerd {
    /// Puts an image into containerd and unpacks it, unless both were done before. Its layers are
    /// not kept packed: where they came from has them.
    ///
    /// # Errors
    /// [`ContainerdError::Call`] names the step and the blob.
    pub async fn import(&self, image: &Image) -> Result<(), ContainerdError> {
        let chain = chain_ids(image.config.rootfs().diff_ids());
        if !self.is_there(image, &chain).await? {
            // Until the image has its name, nothing but the lease holds what was written.
            let lease = self.lease(image).await?;
            let written = self.write_image(image, &chain, &lease).await;
            let mut leases = LeasesClient::new(self.channel.clone());
            let delete = leases.delete(request(DeleteLease { id: lease.clone(), sync: false }));
            call("end lease", &lease, &[Code::NotFound], delete).await?;
            written?;
        }
        Ok(())
    }

    /// Whether the image has its name, and its last layer is unpacked.
    async fn is_there(&self, image: &Image, chain: &[String]) -> Result<bool, ContainerdError> {
        let get = GetImageRequest { name: image.name.clone() };
        let mut images = ImagesClient::new(self.channel.clone());
        let found = call("look up image", &image.name, &[Code::NotFound], images.get(request(get)));
        let record = found.await?.and_then(|answer| answer.image);
        let target = record.and_then(|record| record.target);
        let is_named = target.is_some_and(|target| target.digest == image.target.digest().as_ref());
        match chain.last() {
            Some(last) if is_named => self.has_snapshot(last).await,
            _ => Ok(is_named),
        }
    }

    async fn has_snapshot(&self, key: &str) -> Result<bool, ContainerdError> {
        let stat = StatSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: key.into() };
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        let found = call("look up snapshot", key, &[Code::NotFound], snapshots.stat(request(stat)));
        Ok(found.await?.is_some())
    }

    /// A lease for an image that is written; it ends by itself if this agent does.
    async fn lease(&self, image: &Image) -> Result<String, ContainerdError> {
        let ends = prost_types::Timestamp::from(SystemTime::now() + IMPORT_LEASE).to_string();
        // One that an earlier agent left ends when it said.
        let id = format!("quietcore-{}-{}", unique(), image.target.digest());
        let labels = [("containerd.io/gc.expire".to_owned(), ends)].into();
        let create = CreateLease { id: id.clone(), labels };
        let mut leases = LeasesClient::new(self.channel.clone());
        call("lease", &id, &[Code::AlreadyExists], leases.create(request(create))).await?;
        Ok(id)
    }

    async fn write_image(
        &self,
        image: &Image,
        chain: &[String],
        lease: &str,
    ) -> Result<(), ContainerdError> {
        let config = image.manifest.config().digest().to_string();
        let manifest_labels = [("containerd.io/gc.ref.content.config".to_owned(), config)].into();
        for layer in image.manifest.layers() {
            self.write_blob(image, layer, HashMap::new(), lease).await?;
        }
        let mut config_labels = HashMap::new();
        if let Some(last) = chain.last() {
            config_labels
                .insert(format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"), last.clone());
        }
        self.write_blob(image, image.manifest.config(), config_labels, lease).await?;
        self.write_blob(image, &image.target, manifest_labels, lease).await?;
        self.unpack(image, chain, lease).await?;
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
        Ok(())
    }

    async fn write_blob(
        &self,
        image: &Image,
        blob: &oci_spec::image::Descriptor,
        labels: HashMap<String, String>,
        lease: &str,
    ) -> Result<(), ContainerdError> {
        let digest = blob.digest().to_string();
        let failed = |message: String| ContainerdError::Call {
            action: "write blob",
            object: digest.clone(),
            message,
        };
        let place = &image.blobs[&digest];
        let total = place.len as i64;
        let base = WriteContentRequest {
            r#ref: format!("quietcore-{}-{digest}", unique()),
            total,
            expected: digest.clone(),
            ..Default::default()
        };
        let mut file = place.open().map_err(|error| failed(error.to_string()))?;
        let (each, mut offset) = (base.clone(), 0);
        let chunks = std::iter::from_fn(move || {
            let mut data = Vec::with_capacity(CHUNK);
            // What can't be read is missing at the commit, which then has another digest.
            let len = (&mut file).take(CHUNK as u64).read_to_end(&mut data).unwrap_or(0);
            let action = WriteAction::Write.into();
            let message = WriteContentRequest { action, offset, data, ..each.clone() };
            offset += len as i64;
            (len > 0).then_some(message)
        });
        let action = WriteAction::Commit.into();
        let commit = WriteContentRequest { action, offset: total, labels, ..base };
        let messages = tokio_stream::iter(chunks.chain([commit]));
        let mut client = ContentClient::new(self.channel.clone());
        let write = client.write(leased(messages, lease));
        let expected = [Code::AlreadyExists];
        let Some(mut answers) = call("write blob", &digest, &expected, write).await? else {
            return Ok(());
        };
        // The stream's end says that the commit is done; an existing blob shows up in it too.
        loop {
            match timeout(UNPACK_SILENCE, answers.message()).await {
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(status)) if status.code() == Code::AlreadyExists => return Ok(()),
                Ok(Err(status)) => return Err(failed(status.message().to_string())),
                Err(_) => return Err(failed("no answer".into())),
            }
        }
    }

    async fn unpack(
        &self,
        image: &Image,
        chain: &[String],
        lease: &str,
    ) -> Result<(), ContainerdError> {
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        let mut parent = String::new();
        let layers = image.manifest.layers().iter().zip(image.config.rootfs().diff_ids());
        for ((layer, diff_id), id) in layers.zip(chain) {
            if !self.has_snapshot(id).await? {
                // Two images that come side by side may have this layer: each unpacks its own.
                let key = format!("{UNPACKING}{}-{id}", unique());
                let mounts = self.prepare(&key, &parent).await?;
                let diff = Some(descriptor(layer));
                let apply = ApplyRequest { diff, mounts, ..Default::default() };
                let mut differ = DiffClient::new(self.channel.clone());
                let applied = differ.apply(leased(apply, lease));
                let applied = match self.while_it_grows(&key, applied).await {
                    Ok(applied) => applied,
                    Err(error) => {
                        self.remove_snapshot(&key).await?;
                        return Err(error);
                    }
                };
                let found = applied.and_then(|answer| answer.applied).map(|it| it.digest);
                if let Err(why) = check_layer(diff_id, found.as_deref()) {
                    self.remove_snapshot(&key).await?;
                    let layer = layer.digest().to_string();
                    return Err(ContainerdError::Layer { layer, message: why });
                }
                // A layer that is known is never unpacked again: its files must be on the disk
                // first.
                let _ = tokio::task::spawn_blocking(nix::unistd::sync).await;
                // An empty label counts for nothing (containerd's docs/garbage-collection.md).
                let labels = [("containerd.io/gc.root".to_owned(), id.clone())].into();
                let commit = CommitSnapshotRequest {
                    snapshotter: SNAPSHOTTER.into(),
                    name: id.clone(),
                    key: key.clone(),
                    labels,
                };
                let known = [Code::AlreadyExists];
                let kept = snapshots.commit(request(commit));
                if call("keep layer", id, &known, kept).await?.is_none() {
                    self.remove_snapshot(&key).await?;
                }
            }
            parent.clone_from(id);
        }
        Ok(())
    }

    /// Waits for a layer that is unpacked into a snapshot, as long as that grows: a layer of many
    /// files takes its time.
    async fn while_it_grows<T>(
        &self,
        key: &str,
        unpacking: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<Option<T>, ContainerdError> {
        let failed = |message: String| ContainerdError::Call {
            action: "unpack layer into",
            object: key.into(),
            message,
        };
        let (mut unpacking, mut last) = (std::pin::pin!(unpacking), None);
        loop {
            match timeout(UNPACK_SILENCE, &mut unpacking).await {
                Ok(Ok(response)) => return Ok(Some(response.into_inner())),
                Ok(Err(status)) => return Err(failed(status.message().to_string())),
                Err(_) => {
                    let usage = self.usage(key).await?;
                    if last == Some(usage) {
                        let seconds = UNPACK_SILENCE.as_secs();
                        return Err(failed(format!("nothing came for {seconds} s")));
                    }
                    last = Some(usage);
                }
            }
        }
    }

    /// Bytes and files of a snapshot.
    async fn usage(&self, key: &str) -> Result<(i64, i64), ContainerdError> {
        let usage = UsageRequest { snapshotter: SNAPSHOTTER.into(), key: key.into() };
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        let usage = call("measure snapshot", key, &[], snapshots.usage(request(usage))).await?;
        Ok(usage.map_or((0, 0), |usage| (usage.size, usage.inodes)))
    }

    /// Removes snapshots that an earlier agent was killed with: layers half unpacked, views.
    ///
    /// # Errors
    /// [`ContainerdError::Call`].
    pub async fn remove_leftovers(&self) -> Result<(), ContainerdError> {
        for name in self.snapshots().await? {
            if name.starts_with(UNPACKING) || name.starts_with(VIEWING) {
                self.try_remove_snapshot(&name).await?;
            }
        }
        Ok(())
    }

    /// Images that containerd has, also those that an earlier agent or OS left there.
    ///
    /// # Errors
    /// The store can't be listed; an image that can't be read is left out.
    pub async fn stored_images(&self) -> Result<Vec<StoredImage>, ContainerdError> {
        let mut images = ImagesClient::new(self.channel.clone());
        let list = images.list(request(ListImagesRequest::default()));
        let records = call("list", "images", &[], list).await?.unwrap_or_default().images;
        let mut stored = Vec::new();
        for record in records {
            let digest = record.target.as_ref().map_or("", |target| &target.digest).to_owned();
            match self.stored_config(&record).await {
                Ok(config) => stored.push(StoredImage { name: record.name, digest, config }),
                Err(error) => warn!("image {} of an earlier OS: {error}", record.name),
            }
        }
        Ok(stored)
    }

    /// Takes away every image but those, and the layers that none of them has; returns how many
    /// images. A layer below a container stays until the container goes.
    ///
    /// # Errors
    /// [`ContainerdError::Call`]; doing it again goes on from there.
    pub async fn collect(&self, keep: &BTreeSet<String>) -> Result<usize, ContainerdError> {
        let mut images = ImagesClient::new(self.channel.clone());
        let list = images.list(request(ListImagesRequest::default()));
        let records = call("list", "images", &[], list).await?.unwrap_or_default().images;
        let gone: Vec<String> =
            records.into_iter().map(|it| it.name).filter(|name| !keep.contains(name)).collect();
        for name in &gone {
            let delete =
                DeleteImageRequest { name: name.clone(), sync: false, ..Default::default() };
            let deleted = images.delete(request(delete));
            call("remove image", name, &[Code::NotFound], deleted).await?;
        }
        let stored = self.stored_images().await?;
        // A layer of an image that can't be read just now would be taken for nobody's.
        let list = images.list(request(ListImagesRequest::default()));
        let left = call("list", "images", &[], list).await?.unwrap_or_default().images.len();
        if stored.len() < left {
            return Err(ContainerdError::Call {
                action: "collect",
                object: "layers".into(),
                message: format!("{} of {left} images can't be read", left - stored.len()),
            });
        }
        let chains = stored.iter().map(|image| chain_ids(image.config.rootfs().diff_ids()));
        let needed: BTreeSet<String> = chains.flatten().collect();
        // Children first: a layer with one above it is refused, and its turn comes in the next
        // round.
        loop {
            let layers = self.snapshots().await?.into_iter();
            let mut removed = false;
            for layer in layers.filter(|key| key.starts_with("sha256:") && !needed.contains(key)) {
                removed |= self.try_remove_snapshot(&layer).await?;
            }
            if !removed {
                return Ok(gone.len());
            }
        }
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
            let failed = |message: String| ContainerdError::Call {
                action: "read",
                object: digest.into(),
                message,
            };
            loop {
                match timeout(CONTAINERD_TIMEOUT, answers.message()).await {
                    Ok(Ok(Some(part))) => bytes.extend_from_slice(&part.data),
                    Ok(Ok(None)) => break,
                    Ok(Err(status)) => return Err(failed(status.message().to_string())),
                    Err(_) => return Err(failed("no answer".into())),
                }
            }
        }
        Ok(bytes)
    }
}

/// Compares what a layer unpacked to with what the image's configuration says. The name of a
/// snapshot is made of the latter, and whoever has the same configuration gets it: an image of a
/// stranger must not put other files there.
///
/// # Errors
/// They differ, or containerd does not say what it unpacked.
fn check_layer(diff_id: &str, found: Option<&str>) -> Result<(), String> {
    match found {
        Some(found) if found == diff_id => Ok(()),
        Some(found) => Err(format!(
            "it unpacks to {found}, and the image's configuration says {diff_id}; the image is not what it says"
        )),
        None => Err("containerd does not say what it unpacked".into()),
    }
}

/// A request under a lease.
fn leased<T>(message: T, lease: &str) -> Request<T> {
    let mut request = request(message);
    let lease = lease.parse().expect("a digest and a number are a header value");
    request.metadata_mut().insert("containerd-lease", lease);
    request
}

fn descriptor(from: &oci_spec::image::Descriptor) -> Descriptor {
    Descriptor {
        media_type: from.media_type().to_string(),
        digest: from.digest().to_string(),
        size: from.size() as i64,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_what_the_configuration_says() {
        assert_eq!(check_layer("sha256:1", Some("sha256:1")), Ok(()));
        let error = check_layer("sha256:1", Some("sha256:2")).unwrap_err();
        assert!(error.contains("unpacks to sha256:2") && error.contains("says sha256:1"));
        assert!(check_layer("sha256:1", None).is_err());
    }
}
