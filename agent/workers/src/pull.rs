//! The process that fetches images: it asks the registries that the policy allows, mirrors first,
//! and puts what it gets into the store. What was broken off goes on where it was. It is a user of
//! its own that reaches the network and nothing else.

use agent_core::cosign::{self, PAYLOAD_LEN_MAX, Signature};
use agent_core::digest::{digest_of, hex};
use agent_core::limits::{
    CONNECT_TIMEOUT, DISK_SPARE, METADATA_LEN_MAX, PULL_PAUSE, PULL_PAUSE_MAX, REGISTRY_SILENCE,
};
use agent_host::files::free_bytes;
use agent_host::images::archive::{is_index, this_machines};
use agent_host::images::policy::{Policy, Registry};
use agent_host::images::store::{Named, Store};
use agent_host::images::wanted::{AllProgress, ImagePaths, Progress};
use anyhow::{Context, Result, bail, ensure};
use oci_client::client::{
    BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol, SizedStream,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::time::{Duration, Instant};
use tokio_stream::StreamExt;
use tracing::{info, warn};

/// Manifests and indices, of OCI and of Docker.
const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Fetches until nothing is wanted any more.
///
/// # Errors
/// The store can't be made.
pub async fn run(paths: &ImagePaths, policy: &Policy) -> Result<()> {
    let store = Store::at(&paths.store);
    store.prepare()?;
    let mut progress = AllProgress::new();
    let mut pause = PULL_PAUSE;
    while let Some(wanted) = wanted(paths) {
        progress.retain(|name, _| wanted.contains(name));
        let mut failed = false;
        for name in wanted.iter().filter(|name| store.find(name).is_none()) {
            let failures = progress.get(name).map_or(0, |progress| progress.failures);
            let one = Progress { failures, ..Progress::default() };
            progress.insert(name.clone(), one);
            let mut tell = |done, of| {
                let told = progress.entry(name.clone()).or_default();
                (told.done, told.of) = (done, of);
                // The next one says it again.
                let _ = paths.progress_file().write(&progress);
            };
            match pull(&store, policy, name, &mut tell).await {
                Ok(()) => info!(image = name, "image {name} was fetched"),
                Err(error) => {
                    failed = true;
                    warn!(image = name, "image {name}: {error:#}");
                    let told = progress.entry(name.clone()).or_default();
                    told.failures += 1;
                    told.error = Some(format!("{error:#}"));
                }
            }
            paths.progress_file().write(&progress)?;
        }
        pause = if failed { (pause * 2).min(PULL_PAUSE_MAX) } else { PULL_PAUSE };
        // A new wish is not made to wait for an old one's failures.
        let start = Instant::now();
        while start.elapsed() < pause && self::wanted(paths).as_ref() == Some(&wanted) {
            tokio::time::sleep(PULL_PAUSE).await;
        }
    }
    Ok(())
}

/// Names of the images that the agent wants; none if it wants nothing more.
fn wanted(paths: &ImagePaths) -> Option<BTreeSet<String>> {
    paths.wanted_file().read().ok().flatten()
}

/// Fetches one image from the first of its mirrors that has it, or from its registry.
async fn pull(
    store: &Store,
    policy: &Policy,
    name: &str,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let (reference, registry) = policy.admit(name)?;
    let mut said = Vec::new();
    for host in registry.mirrors.iter().chain([&registry.name]) {
        let source = Source::new(host, &reference, registry)?;
        match source.pull(store, name, tell).await {
            Ok(()) => return Ok(()),
            Err(error) => said.push(format!("{host}: {error:#}")),
        }
    }
    bail!("{}", said.join("; "))
}

/// The layer of this type that an artefact has now, from the first of its mirrors that answers.
/// Nobody's signature is looked at.
///
/// # Errors
/// No registry gives it, and why.
pub async fn artefact(policy: &Policy, name: &str, kind: &str, len_max: u64) -> Result<Vec<u8>> {
    let (reference, registry) = policy.registry(name)?;
    let mut said = Vec::new();
    for host in registry.mirrors.iter().chain([&registry.name]) {
        let source = Source::new(host, &reference, registry)?;
        match source.layer(kind, len_max).await {
            Ok(layer) => return Ok(layer),
            Err(error) => said.push(format!("{host}: {error:#}")),
        }
    }
    bail!("{}", said.join("; "))
}

/// One host to ask for one image.
struct Source<'a> {
    client: Client,
    auth: RegistryAuth,
    reference: Reference,
    registry: &'a Registry,
}

impl<'a> Source<'a> {
    fn new(host: &str, reference: &Reference, registry: &'a Registry) -> Result<Self> {
        let protocol =
            if registry.plain_http { ClientProtocol::Http } else { ClientProtocol::Https };
        let own = agent_host::credentials::HostPaths::default().authorities();
        let own = std::fs::read_to_string(own).unwrap_or_default();
        let authorities = registry.authority.iter().chain([&own]).flat_map(|pem| certificates(pem));
        let config = ClientConfig {
            protocol,
            extra_root_certificates: authorities.collect(),
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(REGISTRY_SILENCE),
            user_agent: concat!("quietcore/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).context("authority: no certificate in PEM")?;
        let auth = match (&registry.username, &registry.password) {
            (Some(name), Some(password)) => RegistryAuth::Basic(name.clone(), password.clone()),
            _ => RegistryAuth::Anonymous,
        };
        let repository = reference.repository().to_owned();
        let reference = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => Reference::with_digest(host.into(), repository, digest.into()),
            (None, tag) => {
                Reference::with_tag(host.into(), repository, tag.unwrap_or("latest").into())
            }
        };
        Ok(Self { client, auth, reference, registry })
    }

    async fn pull(&self, store: &Store, name: &str, tell: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let (bytes, digest) = self.manifest(&self.reference).await?;
        let media_type = media_type(&bytes)?;
        store.put(&digest, &*bytes)?;
        let size = bytes.len() as u64;
        let manifest = match is_index(&MediaType::from(media_type.as_str())) {
            false => bytes,
            true => {
                let index = ImageIndex::from_reader(&*bytes).context("the index")?;
                let one = this_machines(&index).context("it has no image for linux/amd64")?;
                let (bytes, digest) = self
                    .manifest(&self.reference.clone_with_digest(one.digest().to_string()))
                    .await?;
                store.put(&digest, &*bytes)?;
                bytes
            }
        };
        let manifest = ImageManifest::from_reader(&*manifest).context("the manifest")?;
        let blobs: Vec<&Descriptor> =
            std::iter::once(manifest.config()).chain(manifest.layers()).collect();
        let of = blobs.iter().map(|blob| blob.size()).sum();
        check_space(store, &blobs)?;
        let mut done = 0;
        for blob in blobs {
            self.blob(store, blob, &mut |at| tell(done + at, of)).await?;
            done += blob.size();
        }
        tell(done, of);
        let signatures = if self.registry.signers.is_empty() {
            Vec::new()
        } else {
            self.signatures(&digest).await?
        };
        let named =
            Named { name: name.into(), digest, media_type, size, pinned: false, signatures };
        store.name(&named)
    }

    /// The layer of a type, in memory. It needs no hash of ours: who signed what is in it is looked
    /// at by who asks.
    async fn layer(&self, kind: &str, len_max: u64) -> Result<Vec<u8>> {
        let (manifest, _) = self.manifest(&self.reference).await?;
        let manifest = ImageManifest::from_reader(&*manifest).context("the manifest")?;
        let layer = manifest.layers().iter().find(|layer| layer.media_type().as_ref() == kind);
        let layer = layer.with_context(|| format!("it has no layer of type {kind}"))?;
        ensure!(layer.size() <= len_max, "{} bytes, at most {len_max}", layer.size());
        let (digest, mut bytes) = (layer.digest().to_string(), Vec::new());
        let asked = self.client.pull_blob_stream(&self.reference, &*digest).await;
        let mut stream = asked.with_context(|| format!("ask for the blob {digest}"))?.stream;
        // What it sends need not be what it said.
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece.with_context(|| format!("fetch the blob {digest}"))?);
            ensure!(bytes.len() as u64 <= len_max, "blob {digest}: more than {len_max} bytes");
        }
        Ok(bytes)
    }

    async fn manifest(&self, reference: &Reference) -> Result<(Vec<u8>, String)> {
        let asked = self.client.pull_manifest_raw(reference, &self.auth, &MANIFESTS).await;
        let (bytes, _) = asked.with_context(|| format!("ask for {reference}"))?;
        ensure!(
            bytes.len() as u64 <= METADATA_LEN_MAX,
            "{reference}: a manifest of {} bytes",
            bytes.len()
        );
        let digest = digest_of(&bytes);
        Ok((bytes.to_vec(), digest))
    }

    /// A blob into the store, from where it was broken off.
    async fn blob(
        &self,
        store: &Store,
        blob: &Descriptor,
        tell: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let digest = blob.digest().to_string();
        if store.blob(&digest)?.exists() {
            return Ok(());
        }
        let path = store.partial(&digest)?;
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let mut file = file.with_context(|| format!("write {}", path.display()))?;
        if file.metadata()?.len() > blob.size() {
            file.set_len(0)?;
        }
        let mut hash = Sha256::new();
        let mut at = io::copy(&mut file, &mut hash)?;
        if at < blob.size() {
            let asked = self.client.pull_blob_stream_partial(&self.reference, &*digest, at, None);
            let answer = asked.await.with_context(|| format!("ask for the blob {digest}"))?;
            let mut stream: SizedStream = match answer {
                BlobResponse::Partial(stream) => stream,
                BlobResponse::Full(stream) => {
                    file.set_len(0)?;
                    (at, hash) = (0, Sha256::new());
                    stream
                }
            };
            let (start, from) = (Instant::now(), at);
            while let Some(bytes) = stream.stream.next().await {
                let bytes = bytes.with_context(|| format!("fetch the blob {digest}"))?;
                at += bytes.len() as u64;
                ensure!(at <= blob.size(), "blob {digest}: more than {} bytes", blob.size());
                hash.update(&bytes);
                file.write_all(&bytes).with_context(|| format!("write {}", path.display()))?;
                tell(at);
                self.slow_down(start, at - from).await;
            }
        }
        ensure!(at == blob.size(), "blob {digest}: {at} of {} bytes came", blob.size());
        let found = format!("sha256:{}", hex(&hash.finalize()));
        if found != digest {
            std::fs::remove_file(&path)?;
        }
        ensure!(found == digest, "blob {digest}: its bytes have the digest {found}");
        store.keep(&digest)
    }

    /// Waits until so many bytes may have come since the start.
    async fn slow_down(&self, start: Instant, bytes: u64) {
        let Some(rate) = self.registry.rate_bytes_per_second else { return };
        let due = Duration::from_secs_f64(bytes as f64 / rate as f64);
        tokio::time::sleep(due.saturating_sub(start.elapsed())).await;
    }

    /// Fetches the cosign signatures of an image; none is no error here, since the agent verifies
    /// them.
    async fn signatures(&self, digest: &str) -> Result<Vec<Signature>> {
        let (host, repository) = (self.reference.registry(), self.reference.repository());
        let place = Reference::with_tag(host.into(), repository.into(), cosign::tag(digest));
        let Ok((bytes, _)) = self.manifest(&place).await else { return Ok(Vec::new()) };
        let manifest = ImageManifest::from_reader(&*bytes).context("the signatures' manifest")?;
        let mut signatures = Vec::new();
        for layer in manifest.layers() {
            let signature = layer.annotations().as_ref().and_then(|a| a.get(cosign::ANNOTATION));
            let Some(signature) = signature.filter(|_| layer.size() <= PAYLOAD_LEN_MAX) else {
                continue;
            };
            let (signature, mut payload) = (signature.clone(), Vec::new());
            let digest = layer.digest().to_string();
            let asked = self.client.pull_blob(&place, &*digest, &mut payload).await;
            asked.with_context(|| format!("ask for the signature {digest}"))?;
            let payload = String::from_utf8(payload).context("a signature's payload")?;
            signatures.push(Signature { payload, signature });
        }
        Ok(signatures)
    }
}

/// The certificates of a PEM file, one by one.
fn certificates(pem: &str) -> Vec<Certificate> {
    const END: &str = "-----END CERTIFICATE-----";
    let parts = pem.split_inclusive(END).filter(|part| part.contains(END));
    let certificate = |part: &str| Certificate {
        encoding: CertificateEncoding::Pem,
        data: part.as_bytes().to_vec(),
    };
    parts.map(certificate).collect()
}

fn media_type(manifest: &[u8]) -> Result<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let kind: Kind = serde_json::from_slice(manifest).context("the manifest")?;
    // OCI lets it be left out (Image Format Specification 1.1, "Image Manifest").
    let which = usize::from(kind.manifests.is_some());
    Ok(kind.media_type.unwrap_or_else(|| MANIFESTS[which].into()))
}

fn check_space(store: &Store, blobs: &[&Descriptor]) -> Result<()> {
    let missing = blobs.iter().map(|blob| -> Result<u64> {
        let digest = blob.digest().to_string();
        let there = store.blob(&digest)?.exists();
        let partial = store.partial(&digest)?.metadata().map_or(0, |file| file.len());
        Ok(if there { 0 } else { blob.size().saturating_sub(partial) })
    });
    let missing: u64 = missing.sum::<Result<u64>>()?;
    let free = free_bytes(store.root())?;
    // Unpacked it takes as much again, and more.
    let needed = missing * 3 + DISK_SPARE;
    ensure!(
        missing == 0 || free >= needed,
        "the data partition has {} MiB free, {} are needed; remove images (qctl image rm) or volumes",
        free >> 20,
        needed >> 20
    );
    Ok(())
}
