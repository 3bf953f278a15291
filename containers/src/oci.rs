//! A static program as an OCI image: one layer with one file, packed as an OCI image layout in a
//! tar archive. The same program gives the same bytes. Source: OCI Image Format Specification 1.1.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;

/// The time that every image claims, so that building it again gives the same bytes.
const CREATED: &str = "2025-10-09T08:53:20Z";
const CREATED_SECONDS: u64 = 1_760_000_000;

/// A blob with its digest.
struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { digest, bytes }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.bytes.len() })
    }
}

fn add(archive: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_mtime(CREATED_SECONDS);
    header.set_entry_type(tar::EntryType::Regular);
    Ok(archive.append_data(&mut header, path, bytes)?)
}

/// Packs `program` under its own file name; the image's entry point is that file.
///
/// # Errors
/// A file that can't be read, or a name that a tar archive can't hold.
pub fn pack(name: &str, version: &str, program: &Path) -> Result<Vec<u8>> {
    let file =
        program.file_name().and_then(|name| name.to_str()).context("the program has no name")?;
    let bytes = std::fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, file, &bytes, 0o755)?;
    let layer = Blob::new(layer.into_inner()?);
    let config = Blob::json(&json!({
        "created": CREATED,
        "architecture": "amd64",
        "os": "linux",
        "config": { "Entrypoint": [format!("/{file}")], "WorkingDir": "/", "User": "65534:65534" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)] },
    }));
    let manifest = Blob::json(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
    }));
    let mut descriptor = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    descriptor["annotations"] = json!({
        "org.opencontainers.image.ref.name": format!("{name}:{version}"),
        "io.containerd.image.name": format!("{name}:{version}"),
    });
    let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    add(&mut archive, "index.json", index.to_string().as_bytes(), 0o644)?;
    for blob in [&manifest, &config, &layer] {
        add(&mut archive, &format!("blobs/sha256/{}", blob.digest), &blob.bytes, 0o644)?;
    }
    Ok(archive.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_twice_gives_the_same_bytes() {
        let program = std::env::current_exe().unwrap();
        let first = pack("quietcore/test", "1", &program).unwrap();
        assert_eq!(first, pack("quietcore/test", "1", &program).unwrap());
        let mut archive = tar::Archive::new(&first[..]);
        let names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names[..2], ["oci-layout", "index.json"]);
        assert_eq!(names.len(), 5);
    }
}
