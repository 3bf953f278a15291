//! Image store on the data partition: blobs by digest, and for each image name its digest.
//! containerd's own store is a cache of this one. Files are written atomically. The pull worker
//! writes them and is not trusted: every blob is hashed again when it is read, and names of images
//! loaded by hand are kept in another directory.

use crate::files::{read_up_to, write_whole};
use crate::images::archive::{self, BlobLocation, Image};
use agent_core::cosign::Signature;
use agent_core::digest;
use agent_core::limits::METADATA_LEN_MAX;
use anyhow::{Context, Result, ensure};
use oci_spec::image::{Descriptor, Digest, MediaType};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Entry of the store: an image name and the digest it resolves to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The name, as compose files have it.
    pub name: String,
    /// The digest of its manifest or of an index of manifests.
    pub digest: String,
    /// Media type of the manifest or index.
    pub media_type: String,
    /// Bytes of that.
    pub size: u64,
    /// Somebody loaded it by hand: it is kept until somebody takes it away, and nobody's signature
    /// is asked for. Where the file lies says so, not the file.
    #[serde(skip)]
    pub pinned: bool,
    /// Signatures over the digest, from the registry.
    #[serde(default)]
    pub signatures: Vec<Signature>,
}

/// Image store below a directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    /// Names that were loaded by hand, where only the agent writes.
    loaded: Option<PathBuf>,
}

impl Store {
    /// The store below a directory, as who fetches sees it.
    pub fn at(root: &Path) -> Self {
        Self { root: root.into(), loaded: None }
    }

    /// The same with what was loaded by hand, whose names are in a directory of the agent's own.
    pub fn with_loaded(root: &Path, loaded: &Path) -> Self {
        Self { root: root.into(), loaded: Some(loaded.into()) }
    }

    /// Makes its directories.
    ///
    /// # Errors
    /// They can't be made.
    pub fn prepare(&self) -> Result<()> {
        for directory in ["blobs/sha256", "partial", "names"] {
            let path = self.root.join(directory);
            std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
        let mut loaded = self.loaded.iter();
        loaded.try_for_each(|path| {
            std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))
        })
    }

    /// Where it is, for who asks how much room there is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A blob's file, whether it is there or not.
    ///
    /// # Errors
    /// The digest is none of SHA-256.
    pub fn blob(&self, digest: &str) -> Result<PathBuf> {
        Ok(self.root.join("blobs/sha256").join(hex_of(digest)?))
    }

    /// Where a blob grows.
    ///
    /// # Errors
    /// The digest is none of SHA-256.
    pub fn partial(&self, digest: &str) -> Result<PathBuf> {
        Ok(self.root.join("partial").join(hex_of(digest)?))
    }

    /// Makes a blob of a file below the store whose hash the caller has taken.
    ///
    /// # Errors
    /// What the file system says.
    pub fn keep(&self, digest: &str, from: &Path) -> Result<()> {
        let to = self.blob(digest)?;
        File::open(from).and_then(|file| file.sync_all()).context("sync a blob")?;
        std::fs::rename(from, &to).with_context(|| format!("keep {}", to.display()))?;
        File::open(self.root.join("blobs/sha256"))?.sync_all().context("sync the store")
    }

    /// Puts a blob in, unless it is there.
    ///
    /// # Errors
    /// It has another digest, or there is no room.
    pub fn put(&self, digest: &str, mut from: impl Read) -> Result<()> {
        if self.blob(digest)?.exists() {
            return Ok(());
        }
        // Not the file that grows over the network: that one may be somebody else's.
        let path = self.partial(digest)?.with_extension("put");
        let mut file = File::create(&path).with_context(|| format!("write {}", path.display()))?;
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 18]);
        loop {
            let len = from.read(&mut buffer).with_context(|| format!("read {digest}"))?;
            if len == 0 {
                break;
            }
            hash.update(&buffer[..len]);
            file.write_all(&buffer[..len]).with_context(|| format!("write {}", path.display()))?;
        }
        let found = format!("sha256:{}", digest::hex(&hash.finalize()));
        if found != digest {
            let _ = std::fs::remove_file(&path);
        }
        ensure!(found == digest, "blob {digest} has the digest {found}");
        self.keep(digest, &path)
    }

    /// Where names are: those that were loaded first.
    fn directories(&self) -> Vec<(PathBuf, bool)> {
        let loaded = self.loaded.iter().map(|path| (path.clone(), true));
        loaded.chain([(self.root.join("names"), false)]).collect()
    }

    /// The files that may say what a name means.
    fn files(&self, name: &str) -> Vec<(PathBuf, bool)> {
        let file = format!("{}.json", digest::hex(&Sha256::digest(name)));
        let directories = self.directories().into_iter();
        directories.map(|(path, pinned)| (path.join(&file), pinned)).collect()
    }

    /// Says what a name means; the last step, when every blob is there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn name(&self, named: &Named) -> Result<()> {
        let files = self.files(&named.name);
        let file = files.iter().find(|(_, pinned)| *pinned == named.pinned);
        let (path, _) = file.context("nothing is loaded by hand here")?;
        write_whole(path, &serde_json::to_string_pretty(named)?)
    }

    /// Returns the entry of an image name, if it is known.
    pub fn find(&self, name: &str) -> Option<Named> {
        let mut found =
            self.files(name).into_iter().filter_map(|(path, pinned)| read(&path, pinned));
        found.find(|named| named.name == name)
    }

    /// Forgets a name; its blobs go with the next [`Self::collect`].
    ///
    /// # Errors
    /// It is not known, or can't be removed.
    pub fn forget(&self, name: &str) -> Result<()> {
        let files = self.files(name).into_iter().filter(|(path, _)| path.exists());
        let mut known = false;
        for (path, _) in files {
            std::fs::remove_file(path).with_context(|| format!("forget {name}"))?;
            known = true;
        }
        ensure!(known, "image {name:?} is not in the store; see qctl image ls");
        Ok(())
    }

    /// Every name, in order.
    pub fn all(&self) -> Vec<Named> {
        let mut all: Vec<Named> = Vec::new();
        for (directory, pinned) in self.directories() {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            all.extend(entries.filter_map(|entry| read(&entry.path(), pinned)));
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// An image with all its blobs, whose manifests and configuration are hashed here; layers are
    /// where they are used.
    ///
    /// # Errors
    /// Something of it is missing or is something else.
    pub fn image(&self, named: &Named) -> Result<Image> {
        let read = |digest: &str| -> Result<Vec<u8>> {
            let path = self.blob(digest)?;
            let bytes = read_up_to(&path, METADATA_LEN_MAX)?;
            let found = digest::digest_of(&bytes);
            ensure!(found == digest, "blob {digest} has the digest {found}");
            Ok(bytes)
        };
        let digest: Digest = named.digest.parse().context("the digest of a name")?;
        let target =
            Descriptor::new(MediaType::from(named.media_type.as_str()), named.size, digest);
        let place = |descriptor: &Descriptor| -> Result<BlobLocation> {
            let path = self.blob(descriptor.digest().as_ref())?;
            let len = path.metadata().with_context(|| format!("find {}", path.display()))?.len();
            Ok(BlobLocation { path, offset: 0, len })
        };
        archive::assemble(&named.name, target, &read, &place)
    }

    /// Removes every name that is neither pinned nor among those, and every blob that none of the
    /// rest needs. A name whose blobs can't be read keeps nothing.
    ///
    /// # Errors
    /// The store can't be read, or something of it can't be removed.
    pub fn collect(&self, keep: &BTreeSet<String>) -> Result<usize> {
        let mut removed = 0;
        let mut needed = BTreeSet::new();
        for named in self.all() {
            if !named.pinned && !keep.contains(&named.name) {
                self.forget(&named.name)?;
                removed += 1;
                continue;
            }
            needed.insert(hex_of(&named.digest)?.to_owned());
            if let Ok(image) = self.image(&named) {
                let digests = image.blobs.keys().filter_map(|digest| hex_of(digest).ok());
                needed.extend(digests.map(str::to_owned));
            }
        }
        for directory in ["blobs/sha256", "partial"] {
            let path = self.root.join(directory);
            let entries = std::fs::read_dir(&path);
            for entry in entries.with_context(|| format!("read {}", path.display()))? {
                let entry = entry?;
                let is_needed = |name: &str| needed.contains(name) && directory != "partial";
                if !entry.file_name().to_str().is_some_and(is_needed) {
                    let path = entry.path();
                    std::fs::remove_file(&path)
                        .with_context(|| format!("remove {}", path.display()))?;
                }
            }
        }
        Ok(removed)
    }
}

fn read(path: &Path, pinned: bool) -> Option<Named> {
    let named: Named = serde_json::from_slice(&read_up_to(path, METADATA_LEN_MAX).ok()?).ok()?;
    Some(Named { pinned, ..named })
}

/// The digits of a SHA-256 digest: nothing else becomes a file's name.
fn hex_of(digest: &str) -> Result<&str> {
    let hex = digest.strip_prefix("sha256:").filter(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    });
    hex.with_context(|| format!("{digest:?} is no digest of SHA-256"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::digest::digest_of as digest;

    fn store(name: &str) -> Store {
        let root =
            std::env::temp_dir().join(format!("quietcore-store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let store = Store::with_loaded(&root, &root.join("loaded"));
        store.prepare().unwrap();
        store
    }

    /// An image of one layer under a name.
    fn fill(store: &Store, name: &str, layer: &[u8], pinned: bool) -> Named {
        let config = format!(
            "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{}\"]}}}}",
            digest(layer)
        );
        let part = |kind: &str, bytes: &[u8]| serde_json::json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": part("application/vnd.oci.image.config.v1+json", config.as_bytes()),
            "layers": [part("application/vnd.oci.image.layer.v1.tar", layer)],
        });
        let manifest = manifest.to_string();
        for bytes in [layer, config.as_bytes(), manifest.as_bytes()] {
            store.put(&digest(bytes), bytes).unwrap();
        }
        let named = Named {
            name: name.into(),
            digest: digest(manifest.as_bytes()),
            media_type: media_type.into(),
            size: manifest.len() as u64,
            pinned,
            signatures: Vec::new(),
        };
        store.name(&named).unwrap();
        named
    }

    #[test]
    fn what_is_put_in_comes_out_and_nothing_else_does() {
        let store = store("in-out");
        let named = fill(&store, "r/a@x", b"layer", false);
        assert_eq!(store.find("r/a@x"), Some(named.clone()));
        assert_eq!(store.find("r/b"), None);
        let image = store.image(&named).unwrap();
        assert_eq!((image.blobs.len(), image.manifest.layers().len()), (3, 1));
        let error = store.put(&digest(b"other"), &b"this"[..]).unwrap_err().to_string();
        assert!(error.contains("has the digest"), "{error}");
        assert!(store.blob("sha256:../../../etc/passwd").is_err());
        // A manifest that was changed behind its digest is noticed.
        std::fs::write(store.blob(&named.digest).unwrap(), "{}").unwrap();
        assert!(store.image(&named).is_err());
        std::fs::remove_dir_all(store.root()).unwrap();
    }

    #[test]
    fn who_fetches_can_not_say_that_somebody_loaded_it() {
        let store = store("forged");
        let forged = fill(&store, "r/a@x", b"layer", false);
        let (path, _) = store.files("r/a@x").pop().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen('{', "{\"pinned\": true,", 1)).unwrap();
        assert_eq!(store.find("r/a@x"), Some(forged.clone()));
        assert!(!store.all()[0].pinned);
        let fetching = Store::at(store.root());
        assert!(fetching.name(&Named { pinned: true, ..forged }).is_err());
        std::fs::remove_dir_all(store.root()).unwrap();
    }

    #[test]
    fn what_is_declared_or_pinned_is_kept_and_the_rest_goes() {
        let store = store("collect");
        let kept = fill(&store, "declared", b"one", false);
        let pinned = fill(&store, "pinned", b"two", true);
        let gone = fill(&store, "gone", b"three", false);
        std::fs::write(store.partial(&digest(b"half")).unwrap(), "ha").unwrap();
        let removed = store.collect(&["declared".to_owned()].into()).unwrap();
        assert_eq!(removed, 1);
        store.image(&kept).unwrap();
        store.image(&pinned).unwrap();
        assert!(store.image(&gone).is_err() && !store.blob(&digest(b"three")).unwrap().exists());
        assert!(!store.partial(&digest(b"half")).unwrap().exists());
        assert_eq!(store.all().len(), 2);
        std::fs::remove_dir_all(store.root()).unwrap();
    }
}
