//! The process that fetches images: it asks the registries that the policy allows, mirrors first,
//! and puts what it gets into the store. What was broken off goes on where it was. It is a user of
//! its own that reaches the network and nothing else.

use crate::pull::registry_client::{MANIFESTS, RegistryClient};
use agent_core::cosign::{self, BUNDLE_LEN_MAX, PAYLOAD_LEN_MAX, SIGNATURES_MAX, Signature};
use agent_core::digest::{digest_of, hex};
use agent_core::limits::{DISK_SPARE, PULL_PAUSE, PULL_PAUSE_MAX};
use agent_host::files::free_bytes;
use agent_host::images::archive::{is_index, this_machines};
use agent_host::images::policy::{Login, Policy, Registry};
use agent_host::images::store::{Named, Store};
use agent_host::images::wanted::{AllProgress, ImagePaths, Progress};
use anyhow::{Context, Result, bail, ensure};
use oci_spec::distribution::Reference;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Client of one registry.
pub mod registry_client;

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

/// Fetches one image from the first of its mirrors that has it and a signature that counts, or from
/// its registry.
///
/// # Errors
/// No source gives it, and why each does not.
pub async fn pull(
    store: &Store,
    policy: &Policy,
    name: &str,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let (reference, registry) = policy.admit(name)?;
    let mut sources = Source::all(&reference, registry)?;
    let mut errors = Vec::new();
    for at in 0..sources.len() {
        match pull_from(&mut sources, at, store, policy, name, tell).await {
            Ok(()) => return Ok(()),
            Err(error) => errors.push(format!("{}: {error:#}", sources[at].host)),
        }
    }
    bail!("{}", errors.join("; "))
}

/// Fetches one image from one of its sources; signatures come from any.
async fn pull_from(
    sources: &mut [Source<'_>],
    at: usize,
    store: &Store,
    policy: &Policy,
    name: &str,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let (bytes, digest) = sources[at].named_manifest().await?;
    let signatures = signatures(sources, at, policy, name, &digest).await?;
    sources[at].pull(store, name, bytes, digest, signatures, tell).await
}

/// Signatures that the policy demands of an image, from the source that has it or from any other: a
/// mirror often has none.
async fn signatures(
    sources: &mut [Source<'_>],
    at: usize,
    policy: &Policy,
    name: &str,
    digest: &str,
) -> Result<Vec<Signature>> {
    let Err(mut refused) = policy.verify(name, digest, &[]) else { return Ok(Vec::new()) };
    let (mut order, mut silent): (Vec<usize>, _) = ((0..sources.len()).collect(), String::new());
    order.rotate_left(at);
    for other in order {
        match sources[other].signatures(digest).await {
            Ok(found) if found.is_empty() => {}
            Ok(found) => match policy.verify(name, digest, &found) {
                Ok(()) => return Ok(found),
                Err(error) => refused = error,
            },
            Err(error) => {
                silent += &format!("; its signatures at {}: {error:#}", sources[other].host)
            }
        }
    }
    bail!("{refused}{silent}")
}

/// The layer of this type that an artefact has now, from the first of its mirrors that answers.
/// Nobody's signature is looked at.
///
/// # Errors
/// No registry gives it, and why.
pub async fn artefact(policy: &Policy, name: &str, kind: &str, len_max: u64) -> Result<Vec<u8>> {
    let (reference, registry) = policy.registry(name)?;
    let mut errors = Vec::new();
    for mut source in Source::all(&reference, registry)? {
        match source.layer(kind, len_max).await {
            Ok(layer) => return Ok(layer),
            Err(error) => errors.push(format!("{}: {error:#}", source.host)),
        }
    }
    bail!("{}", errors.join("; "))
}

/// One host to ask for one image.
struct Source<'a> {
    host: &'a str,
    client: RegistryClient,
    reference: &'a Reference,
    registry: &'a Registry,
}

impl<'a> Source<'a> {
    /// The mirrors of a registry in their order, then the registry.
    fn all(reference: &'a Reference, registry: &'a Registry) -> Result<Vec<Self>> {
        let upstream = (registry.name.as_str(), registry.login());
        let mirrors = registry.mirrors.iter().map(|mirror| (mirror.host(), mirror.login()));
        let source = |(host, login): (&'a str, Option<Login>)| {
            let client = RegistryClient::new(host, login.as_ref(), reference, registry)?;
            Ok(Self { host, client, reference, registry })
        };
        mirrors.chain([upstream]).map(source).collect()
    }

    /// The manifest or index that the image's name means here, and its digest.
    async fn named_manifest(&mut self) -> Result<(Vec<u8>, String)> {
        let name = self.reference.digest().or(self.reference.tag()).unwrap_or("latest").to_owned();
        self.manifest(&name).await
    }

    async fn manifest(&mut self, name: &str) -> Result<(Vec<u8>, String)> {
        let bytes = self.client.manifest(name).await?;
        let bytes = bytes.with_context(|| format!("{name} is not there"))?;
        let digest = digest_of(&bytes);
        let is_digest = name.contains(':');
        ensure!(!is_digest || name == digest, "{name}: its bytes have the digest {digest}");
        Ok((bytes, digest))
    }

    async fn pull(
        &mut self,
        store: &Store,
        name: &str,
        bytes: Vec<u8>,
        digest: String,
        signatures: Vec<Signature>,
        tell: &mut dyn FnMut(u64, u64),
    ) -> Result<()> {
        let media_type = media_type(&bytes)?;
        store.put(&digest, &*bytes)?;
        let size = bytes.len() as u64;
        let manifest = match is_index(&MediaType::from(media_type.as_str())) {
            false => bytes,
            true => {
                let index = ImageIndex::from_reader(&*bytes).context("the index")?;
                let one = this_machines(&index).context("it has no image for linux/amd64")?;
                let (bytes, digest) = self.manifest(one.digest().as_ref()).await?;
                store.put(&digest, &*bytes)?;
                bytes
            }
        };
        let manifest = ImageManifest::from_reader(&*manifest).context("the manifest")?;
        let blobs: Vec<&Descriptor> =
            std::iter::once(manifest.config()).chain(manifest.layers()).collect();
        let of = blobs.iter().fold(0, |sum: u64, blob| sum.saturating_add(blob.size()));
        check_space(store, &blobs)?;
        let mut done = 0;
        for blob in blobs {
            self.blob(store, blob, &mut |at| tell(done + at, of)).await?;
            done += blob.size();
        }
        tell(done, of);
        let named =
            Named { name: name.into(), digest, media_type, size, pinned: false, signatures };
        store.name(&named)
    }

    /// The layer of a type, in memory. It needs no hash of ours: who signed what is in it is looked
    /// at by who asks.
    async fn layer(&mut self, kind: &str, len_max: u64) -> Result<Vec<u8>> {
        let (manifest, _) = self.named_manifest().await?;
        let manifest = ImageManifest::from_reader(&*manifest).context("the manifest")?;
        let layer = manifest.layers().iter().find(|layer| layer.media_type().as_ref() == kind);
        let layer = layer.with_context(|| format!("it has no layer of type {kind}"))?;
        ensure!(layer.size() <= len_max, "{} bytes, at most {len_max}", layer.size());
        self.client.small_blob(layer.digest().as_ref(), len_max).await
    }

    /// A blob into the store, from where it was broken off.
    async fn blob(
        &mut self,
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
            let mut coming = self.client.blob(&digest, at).await?;
            if coming.from != at {
                file.set_len(0)?;
                (at, hash) = (0, Sha256::new());
            }
            let (start, from) = (Instant::now(), at);
            let broken = || format!("fetch the blob {digest}");
            while let Some(bytes) = coming.next().await.with_context(broken)? {
                let bytes = bytes.as_ref();
                at += bytes.len() as u64;
                ensure!(at <= blob.size(), "blob {digest}: more than {} bytes", blob.size());
                hash.update(bytes);
                file.write_all(bytes).with_context(|| format!("write {}", path.display()))?;
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

    /// Fetches the signatures of an image that are here: cosign's by tag, and Sigstore bundles by
    /// what refers to the image. Who signed is judged by the policy.
    async fn signatures(&mut self, digest: &str) -> Result<Vec<Signature>> {
        let mut signatures = Vec::new();
        if let Some(bytes) = self.client.manifest(&cosign::tag(digest)).await? {
            let manifest = ImageManifest::from_reader(&*bytes).context("signatures' manifest")?;
            for layer in manifest.layers().iter().take(SIGNATURES_MAX) {
                let annotations = layer.annotations().as_ref();
                let signature = annotations.and_then(|all| all.get(cosign::ANNOTATION));
                let Some(signature) = signature.filter(|_| layer.size() <= PAYLOAD_LEN_MAX) else {
                    continue;
                };
                let blob = self.client.small_blob(layer.digest().as_ref(), PAYLOAD_LEN_MAX).await?;
                let payload = String::from_utf8(blob).context("a signature's payload")?;
                signatures.push(Signature::simple(payload, signature.clone()));
            }
        }
        let Some(referrers) = self.client.referrers(digest).await? else { return Ok(signatures) };
        let is_bundle = |kind: Option<&MediaType>| {
            kind.is_some_and(|kind| kind.as_ref().starts_with(cosign::BUNDLE_TYPE))
        };
        let bundles = referrers.manifests().iter();
        let bundles = bundles.filter(|it| is_bundle(it.artifact_type().as_ref()));
        for bundle in bundles.take(SIGNATURES_MAX) {
            let (manifest, _) = self.manifest(bundle.digest().as_ref()).await?;
            let manifest = ImageManifest::from_reader(&*manifest).context("a bundle's manifest")?;
            let layer = manifest.layers().iter().find(|it| is_bundle(Some(it.media_type())));
            let Some(layer) = layer else { continue };
            let blob = self.client.small_blob(layer.digest().as_ref(), BUNDLE_LEN_MAX).await?;
            signatures.extend(cosign::bundle_signature(&blob));
        }
        Ok(signatures)
    }
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
    let mut missing = blobs.iter().map(|blob| -> Result<u64> {
        let digest = blob.digest().to_string();
        let there = store.blob(&digest)?.exists();
        let partial = store.partial(&digest)?.metadata().map_or(0, |file| file.len());
        Ok(if there { 0 } else { blob.size().saturating_sub(partial) })
    });
    let missing = missing.try_fold(0u64, |sum, one| one.map(|len| sum.saturating_add(len)))?;
    let free = free_bytes(store.root())?;
    // Unpacked it takes as much again, and more.
    let needed = missing.saturating_mul(3).saturating_add(DISK_SPARE);
    ensure!(
        missing == 0 || free >= needed,
        "the data partition has {} MiB free, {} are needed; remove images (qctl image rm) or volumes",
        free >> 20,
        needed >> 20
    );
    Ok(())
}
