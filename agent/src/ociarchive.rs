//! OCI images as archives: an image layout in a tar file, with one image in it. Every blob's digest is
//! checked before it is used. Source: OCI Image Format Specification 1.1, "Image Layout".

use crate::limits::ARCHIVE_LEN_MAX;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why an archive can't be used.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// It can't be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is not as the specification says.
    #[error("{path}: {what}; make the archive again")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What.
        what: String,
    },
}

/// An image whose blobs all have the digests they are named by.
pub struct Image {
    /// The name it is known by.
    pub name: String,
    /// The manifest's descriptor.
    pub target: Descriptor,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The configuration.
    pub config: ImageConfiguration,
    /// Every blob, by digest.
    pub blobs: HashMap<String, Vec<u8>>,
}

/// Reads an archive.
///
/// # Errors
/// [`ArchiveError`] names the file and what is wrong with it.
pub fn read(path: &Path) -> Result<Image, ArchiveError> {
    let io = |source| ArchiveError::Read { path: path.into(), source };
    let malformed = |what: String| ArchiveError::Malformed { path: path.into(), what };
    let file = std::fs::File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() > ARCHIVE_LEN_MAX {
        return Err(malformed("larger than 2 GiB".into()));
    }
    let mut files = HashMap::new();
    for entry in tar::Archive::new(file).entries().map_err(io)? {
        let mut entry = entry.map_err(io)?;
        let name = entry.path().map_err(io)?.display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(io)?;
        files.insert(name.trim_start_matches("./").to_string(), bytes);
    }
    let mut blobs = HashMap::new();
    for (name, bytes) in &mut files {
        if let Some(hex) = name.strip_prefix("blobs/sha256/") {
            let digest: String =
                Sha256::digest(&*bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            if digest != hex {
                return Err(malformed(format!("blob sha256:{hex} has the digest sha256:{digest}")));
            }
            blobs.insert(format!("sha256:{hex}"), std::mem::take(bytes));
        }
    }
    let index = files.get("index.json").ok_or_else(|| malformed("no index.json".into()))?;
    assemble(index, blobs).map_err(malformed)
}

fn assemble(index: &[u8], blobs: HashMap<String, Vec<u8>>) -> Result<Image, String> {
    let index = ImageIndex::from_reader(index).map_err(|error| format!("index.json: {error}"))?;
    let [target] = index.manifests().as_slice() else {
        return Err(format!(
            "index.json has {} images where one is expected",
            index.manifests().len()
        ));
    };
    let annotation = "org.opencontainers.image.ref.name";
    let name = target.annotations().as_ref().and_then(|all| all.get(annotation)).cloned();
    let name = name.ok_or_else(|| format!("index.json: the image has no {annotation}"))?;
    let blob = |descriptor: &Descriptor| {
        let digest = descriptor.digest().to_string();
        blobs.get(&digest).map(Vec::as_slice).ok_or(format!("blob {digest} is missing"))
    };
    let manifest =
        ImageManifest::from_reader(blob(target)?).map_err(|error| format!("manifest: {error}"))?;
    let config = ImageConfiguration::from_reader(blob(manifest.config())?)
        .map_err(|error| format!("config: {error}"))?;
    for layer in manifest.layers() {
        blob(layer)?;
    }
    if config.rootfs().diff_ids().len() != manifest.layers().len() {
        return Err("the configuration names another number of layers than the manifest".into());
    }
    Ok(Image { name, target: target.clone(), manifest, config, blobs })
}

/// The name of the snapshot that holds layers up to each one (OCI Image Specification, "Layer ChainID").
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => diff_id.clone(),
            Some(parent) => {
                let digest = Sha256::digest(format!("{parent} {diff_id}"));
                format!(
                    "sha256:{}",
                    digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
                )
            }
        };
        chain.push(id);
    }
    chain
}
