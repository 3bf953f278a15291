//! OCI images as archives: an image layout in a tar file, with one image in it. Every blob's digest
//! is checked before it is used. Source: OCI Image Format Specification 1.1, "Image Layout".

use crate::beneath::Beneath;
use agent_core::digest::{digest_of, hex};
use agent_core::limits::{ARCHIVE_LEN_MAX, METADATA_LEN_MAX};
use anyhow::{Context, Result, ensure};
use oci_spec::image::{
    Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os,
};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why an archive can't be used.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// Read error of the archive.
    #[error("read {path}")]
    Read {
        /// Path of the archive.
        path: PathBuf,
        source: std::io::Error,
    },
    /// Something in it is not as the specification says.
    #[error("{path}: {what}; make the archive again")]
    Malformed {
        /// Path of the archive.
        path: PathBuf,
        /// Violation of the specification that was found.
        what: String,
    },
}

/// Where a blob's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobLocation {
    /// Directory of another user that the file lies beneath, if it does.
    pub directory: Option<PathBuf>,
    /// File that contains the blob: in that directory, or a path of its own.
    pub path: PathBuf,
    /// The first byte in it.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

impl BlobLocation {
    /// The bytes, to be read in order.
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn open(&self) -> io::Result<io::Take<File>> {
        let mut file = match &self.directory {
            Some(directory) => Beneath::open(directory)?.read(&self.path)?,
            None => File::open(&self.path)?,
        };
        file.seek(SeekFrom::Start(self.offset))?;
        Ok(file.take(self.len))
    }
}

/// An image whose manifest and configuration have the digests they are named by, and whose layers
/// are there.
#[derive(Debug)]
pub struct Image {
    /// The name it is known by.
    pub name: String,
    /// The manifest's descriptor.
    pub target: Descriptor,
    /// OCI manifest of the image.
    pub manifest: ImageManifest,
    /// OCI configuration of the image.
    pub config: ImageConfiguration,
    /// Every blob of it, by digest.
    pub blobs: HashMap<String, BlobLocation>,
}

/// Reads an archive and hashes all of it.
///
/// # Errors
/// [`ArchiveError`] names the file and what is wrong with it.
pub fn read(path: &Path) -> Result<Image, ArchiveError> {
    let io = |source| ArchiveError::Read { path: path.into(), source };
    let malformed = |what: String| ArchiveError::Malformed { path: path.into(), what };
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() > ARCHIVE_LEN_MAX {
        return Err(malformed("larger than 2 GiB".into()));
    }
    let (mut index, mut locations) = (Vec::new(), HashMap::new());
    for entry in tar::Archive::new(file).entries().map_err(io)? {
        let mut entry = entry.map_err(io)?;
        let name = entry.path().map_err(io)?.display().to_string();
        let name = name.trim_start_matches("./");
        if name == "index.json" {
            (&mut entry).take(METADATA_LEN_MAX).read_to_end(&mut index).map_err(io)?;
        } else if let Some(wanted) = name.strip_prefix("blobs/sha256/").filter(|n| !n.is_empty()) {
            let (offset, len) = (entry.raw_file_position(), entry.size());
            let mut hash = Sha256::new();
            io::copy(&mut entry, &mut hash).map_err(io)?;
            let found = hex(&hash.finalize());
            if found != wanted {
                return Err(malformed(format!(
                    "blob sha256:{wanted} has the digest sha256:{found}"
                )));
            }
            locations.insert(
                format!("sha256:{wanted}"),
                BlobLocation { directory: None, path: path.into(), offset, len },
            );
        }
    }
    if index.is_empty() {
        return Err(malformed("no index.json".into()));
    }
    let (name, target) = only_image(&index).map_err(malformed)?;
    let find = |digest: &str| -> anyhow::Result<BlobLocation> {
        locations.get(digest).cloned().with_context(|| format!("blob {digest} is missing"))
    };
    let read = |digest: &str| -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        find(digest)?.open()?.take(METADATA_LEN_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let place = |descriptor: &Descriptor| find(descriptor.digest().as_ref());
    assemble(&name, target, &read, &place).map_err(|error| malformed(format!("{error:#}")))
}

/// The name and descriptor of a layout's only image.
fn only_image(index: &[u8]) -> Result<(String, Descriptor), String> {
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
    Ok((name, target.clone()))
}

/// Puts an image together from what `target` names: a manifest, or an index of which this machine's
/// is taken. `read` gives a blob whose digest it has checked, `place` where one is.
///
/// # Errors
/// A part is missing or is not what it is to be.
pub fn assemble(
    name: &str,
    target: Descriptor,
    read: &dyn Fn(&str) -> anyhow::Result<Vec<u8>>,
    place: &dyn Fn(&Descriptor) -> anyhow::Result<BlobLocation>,
) -> anyhow::Result<Image> {
    let mut blobs = HashMap::new();
    let mut bytes = read(target.digest().as_ref())?;
    let mut target = target;
    if is_index(target.media_type()) {
        let index = ImageIndex::from_reader(&*bytes).context("index")?;
        target = this_machines(&index).context("the index has no image for linux/amd64")?;
        bytes = read(target.digest().as_ref())?;
    }
    let manifest = ImageManifest::from_reader(&*bytes).context("manifest")?;
    let config = read(manifest.config().digest().as_ref())?;
    let config = ImageConfiguration::from_reader(&*config).context("config")?;
    ensure!(
        config.rootfs().diff_ids().len() == manifest.layers().len(),
        "the configuration names another number of layers than the manifest"
    );
    for descriptor in manifest.layers().iter().chain([manifest.config(), &target]) {
        blobs.insert(descriptor.digest().to_string(), place(descriptor)?);
    }
    Ok(Image { name: name.into(), target, manifest, config, blobs })
}

/// Whether a blob of this type is an index of manifests.
pub fn is_index(media_type: &MediaType) -> bool {
    let docker = "application/vnd.docker.distribution.manifest.list.v2+json";
    *media_type == MediaType::ImageIndex || media_type.to_string() == docker
}

/// The entry of an index for linux/amd64.
pub fn this_machines(index: &ImageIndex) -> Option<Descriptor> {
    let fits = |descriptor: &&Descriptor| {
        descriptor.platform().as_ref().is_some_and(|platform| {
            (platform.os(), platform.architecture()) == (&Os::Linux, &Arch::Amd64)
        })
    };
    index.manifests().iter().find(fits).cloned()
}

/// The name of the snapshot that holds layers up to each one (OCI Image Specification, "Layer
/// ChainID").
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => diff_id.clone(),
            Some(parent) => digest_of(format!("{parent} {diff_id}").as_bytes()),
        };
        chain.push(id);
    }
    chain
}

/// The SHA-256 of a file, in hexadecimal digits.
pub fn sha256(mut from: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut from, &mut hash)?;
    Ok(hex(&hash.finalize()))
}
