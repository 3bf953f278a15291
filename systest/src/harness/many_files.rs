//! Image archive with a layer of very many empty files, as an OCI image layout in a tar archive.
//! Source: OCI Image Format Specification 1.1.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

/// Files of one directory: a layer of real software has no larger ones.
const FILES_OF_DIRECTORY: usize = 1000;

fn descriptor(kind: &str, digest: &str, size: u64) -> Value {
    let kind = format!("application/vnd.oci.image.{kind}");
    json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": size })
}

fn header(kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o755);
    header.set_mtime(0);
    header
}

fn sha256(mut from: impl Read) -> Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(&mut from, &mut hash)?;
    Ok(format!("{:x}", hash.finalize()))
}

/// Writes the archive of an image of this name with so many empty files.
///
/// # Errors
/// A file can't be written.
pub fn write_archive(path: &Path, name: &str, files: usize) -> Result<()> {
    let layer_path = path.with_extension("layer");
    let mut layer = tar::Builder::new(BufWriter::new(File::create(&layer_path)?));
    for number in 0..files {
        let directory = format!("files/{}", number / FILES_OF_DIRECTORY);
        if number % FILES_OF_DIRECTORY == 0 {
            let mut of_directory = header(tar::EntryType::Directory, 0);
            layer.append_data(&mut of_directory, format!("{directory}/"), &[][..])?;
        }
        let mut of_file = header(tar::EntryType::Regular, 0);
        layer.append_data(&mut of_file, format!("{directory}/{number}"), &[][..])?;
    }
    layer.into_inner()?.flush()?;
    let (digest, size) = (sha256(File::open(&layer_path)?)?, layer_path.metadata()?.len());
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let config = config.to_string();
    let config_digest = sha256(config.as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config_digest, config.len() as u64),
        "layers": [descriptor("layer.v1.tar", &digest, size)],
    });
    let manifest = manifest.to_string();
    let manifest_digest = sha256(manifest.as_bytes())?;
    let mut target = descriptor("manifest.v1+json", &manifest_digest, manifest.len() as u64);
    target["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [target] }).to_string();
    let mut archive = tar::Builder::new(File::create(path)?);
    let mut add = |name: &str, from: &mut dyn Read, size: u64| {
        let mut of_file = header(tar::EntryType::Regular, size);
        archive.append_data(&mut of_file, name, from).with_context(|| format!("pack {name}"))
    };
    add("index.json", &mut index.as_bytes(), index.len() as u64)?;
    for (digest, bytes) in [(&manifest_digest, &manifest), (&config_digest, &config)] {
        add(&format!("blobs/sha256/{digest}"), &mut bytes.as_bytes(), bytes.len() as u64)?;
    }
    add(&format!("blobs/sha256/{digest}"), &mut File::open(&layer_path)?, size)?;
    archive.into_inner()?.sync_all()?;
    std::fs::remove_file(&layer_path).context("remove the layer")
}
