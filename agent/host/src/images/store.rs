//! Image store on the data partition: blobs by digest, and for each image name its digest.
//! containerd's own store is a cache of this one. Files are written atomically. The pull worker
//! writes them and is not trusted: every blob is hashed again when it is read, and names of images
//! loaded by hand are kept in another directory.

use crate::beneath::Beneath;
use crate::files::write_whole;
use crate::images::archive::{self, BlobLocation, Image};
use agent_core::cosign::Signature;
use agent_core::digest;
use agent_core::limits::{METADATA_LEN_MAX, NAME_ENTRIES_LEN_MAX, NAME_ENTRY_LEN_MAX};
use anyhow::{Context, Result, ensure};
use oci_spec::image::{Descriptor, Digest, MediaType};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Directory of blobs, by the digits of their digest.
const BLOBS: &str = "blobs/sha256";
/// Directory of blobs on their way.
const PARTIAL: &str = "partial";
/// Directory of what names of fetched images mean.
const NAMES: &str = "names";

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
        let named = || format!("make {}", self.root.display());
        std::fs::create_dir_all(&self.root).with_context(named)?;
        let root = self.beneath()?;
        for directory in [BLOBS, PARTIAL, NAMES] {
            root.make_directories(Path::new(directory)).with_context(named)?;
        }
        let mut loaded = self.loaded.iter();
        loaded.try_for_each(|path| {
            std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))
        })
    }

    /// The store's directory, in which links are not followed: the pull worker owns it.
    fn beneath(&self) -> Result<Beneath> {
        Beneath::open(&self.root).with_context(|| format!("open {}", self.root.display()))
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
        Ok(self.root.join(BLOBS).join(hex_of(digest)?))
    }

    /// Where a blob grows.
    ///
    /// # Errors
    /// The digest is none of SHA-256.
    pub fn partial(&self, digest: &str) -> Result<PathBuf> {
        Ok(self.root.join(PARTIAL).join(hex_of(digest)?))
    }

    /// Makes a blob of its partial file, whose hash the caller has taken.
    ///
    /// # Errors
    /// What the file system says.
    pub fn keep(&self, digest: &str) -> Result<()> {
        self.keep_file(&self.beneath()?, digest, &Path::new(PARTIAL).join(hex_of(digest)?))
    }

    fn keep_file(&self, root: &Beneath, digest: &str, from: &Path) -> Result<()> {
        let to = Path::new(BLOBS).join(hex_of(digest)?);
        root.read(from).and_then(|file| file.sync_all()).context("sync a blob")?;
        root.rename(from, &to).with_context(|| format!("keep {digest}"))?;
        root.sync(Path::new(BLOBS)).context("sync the store")
    }

    /// Puts a blob in, unless it is there.
    ///
    /// # Errors
    /// It has another digest, or there is no room.
    pub fn put(&self, digest: &str, mut from: impl Read) -> Result<()> {
        let root = self.beneath()?;
        if root.read(&Path::new(BLOBS).join(hex_of(digest)?)).is_ok() {
            return Ok(());
        }
        // Not the file that grows over the network: that one may be somebody else's.
        let path = Path::new(PARTIAL).join(hex_of(digest)?).with_extension("put");
        let named = || format!("write {}", self.root.join(&path).display());
        let mut file = root.create(&path).with_context(named)?;
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 18]);
        loop {
            let len = from.read(&mut buffer).with_context(|| format!("read {digest}"))?;
            if len == 0 {
                break;
            }
            hash.update(&buffer[..len]);
            file.write_all(&buffer[..len]).with_context(named)?;
        }
        let found = format!("sha256:{}", digest::hex(&hash.finalize()));
        if found != digest {
            let _ = root.remove(&path);
        }
        ensure!(found == digest, "blob {digest} has the digest {found}");
        self.keep_file(&root, digest, &path)
    }

    /// File of a name, in either directory of names.
    fn file(name: &str) -> PathBuf {
        format!("{}.json", digest::hex(&Sha256::digest(name))).into()
    }

    /// Entries of images that were loaded by hand, in a directory of the agent's own.
    fn loaded(&self) -> Option<Beneath> {
        Beneath::open(self.loaded.as_ref()?).ok()
    }

    /// Says what a name means; the last step, when every blob is there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn name(&self, named: &Named) -> Result<()> {
        let directory = match (named.pinned, &self.loaded) {
            (true, loaded) => loaded.clone().context("nothing is loaded by hand here")?,
            (false, _) => self.root.join(NAMES),
        };
        let path = directory.join(Self::file(&named.name));
        let text = serde_json::to_string_pretty(named)?;
        let len = text.len() as u64;
        ensure!(
            len <= NAME_ENTRY_LEN_MAX,
            "its signatures have more than {NAME_ENTRY_LEN_MAX} bytes"
        );
        write_whole(&path, &text)
    }

    /// Returns the entry of an image name, if it is known: what was loaded by hand comes first.
    pub fn find(&self, name: &str) -> Option<Named> {
        let file = Self::file(name);
        let loaded = self.loaded().and_then(|loaded| Some(read(&loaded, &file, true)?.0));
        let fetched = || Some(read(&self.beneath().ok()?, &Path::new(NAMES).join(&file), false)?.0);
        let is_it = |named: &Named| named.name == name;
        loaded.filter(is_it).or_else(|| fetched().filter(is_it))
    }

    /// Forgets a name; its blobs go with the next [`Self::collect`].
    ///
    /// # Errors
    /// It is not known, or can't be removed.
    pub fn forget(&self, name: &str) -> Result<()> {
        let file = Self::file(name);
        let from_names = self.beneath()?.remove(&Path::new(NAMES).join(&file));
        let from_loaded = self.loaded().map(|loaded| loaded.remove(&file));
        let mut known = false;
        for removed in from_loaded.into_iter().chain([from_names]) {
            match removed {
                Ok(()) => known = true,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("forget {name}")),
            }
        }
        ensure!(known, "image {name:?} is not in the store; see qctl image ls");
        Ok(())
    }

    /// Every name, in order; of more than [`NAME_ENTRIES_LEN_MAX`] bytes the rest is none.
    pub fn all(&self) -> Vec<Named> {
        let of = |root: Beneath, directory: &str, pinned: bool| -> Vec<Named> {
            let directory = Path::new(directory);
            let names = root.names(directory).unwrap_or_default();
            let entries =
                names.iter().filter_map(|name| read(&root, &directory.join(name), pinned));
            let mut bytes = 0;
            let entries = entries.take_while(|(_, len)| {
                bytes += len;
                bytes <= NAME_ENTRIES_LEN_MAX
            });
            entries.map(|(named, _)| named).collect()
        };
        let mut all = self.loaded().map_or_else(Vec::new, |loaded| of(loaded, ".", true));
        all.extend(self.beneath().into_iter().flat_map(|root| of(root, NAMES, false)));
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// An image with all its blobs, whose manifests and configuration are hashed here; layers are
    /// where they are used.
    ///
    /// # Errors
    /// Something of it is missing or is something else.
    pub fn image(&self, named: &Named) -> Result<Image> {
        let root = self.beneath()?;
        let read = |digest: &str| -> Result<Vec<u8>> {
            let path = Path::new(BLOBS).join(hex_of(digest)?);
            let bytes = read_bytes(&root, &path, METADATA_LEN_MAX)?;
            let found = digest::digest_of(&bytes);
            ensure!(found == digest, "blob {digest} has the digest {found}");
            Ok(bytes)
        };
        let digest: Digest = named.digest.parse().context("the digest of a name")?;
        let target =
            Descriptor::new(MediaType::from(named.media_type.as_str()), named.size, digest);
        let place = |descriptor: &Descriptor| -> Result<BlobLocation> {
            let path = Path::new(BLOBS).join(hex_of(descriptor.digest().as_ref())?);
            let file = root.read(&path).with_context(|| format!("open {}", path.display()))?;
            let len = file.metadata().with_context(|| format!("find {}", path.display()))?.len();
            Ok(BlobLocation { directory: Some(self.root.clone()), path, offset: 0, len })
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
        let root = self.beneath()?;
        for directory in [BLOBS, PARTIAL] {
            let path = Path::new(directory);
            let names = root.names(path);
            for name in names.with_context(|| format!("read {directory}"))? {
                if directory == PARTIAL || !needed.contains(&name) {
                    let path = path.join(name);
                    root.remove(&path).with_context(|| format!("remove {}", path.display()))?;
                }
            }
        }
        Ok(removed)
    }
}

/// Reads a file beneath a directory, of at most `len_max` bytes.
fn read_bytes(root: &Beneath, path: &Path, len_max: u64) -> Result<Vec<u8>> {
    let named = || format!("read {}", root.path().join(path).display());
    let mut bytes = Vec::new();
    let file = root.read(path).with_context(named)?;
    let len = file.take(len_max + 1).read_to_end(&mut bytes).with_context(named)? as u64;
    ensure!(len <= len_max, "{}: larger than {len_max} bytes", named());
    Ok(bytes)
}

/// An entry, and its bytes.
fn read(root: &Beneath, path: &Path, pinned: bool) -> Option<(Named, u64)> {
    let bytes = read_bytes(root, path, NAME_ENTRY_LEN_MAX).ok()?;
    let named: Named = serde_json::from_slice(&bytes).ok()?;
    Some((Named { pinned, ..named }, bytes.len() as u64))
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

    fn store() -> (tempfile::TempDir, Store) {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("store");
        let store = Store::with_loaded(&root, &root.join("loaded"));
        store.prepare().unwrap();
        (temporary, store)
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
        let (_temporary, store) = store();
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
    }

    #[test]
    fn who_fetches_can_not_say_that_somebody_loaded_it() {
        let (_temporary, store) = store();
        let forged = fill(&store, "r/a@x", b"layer", false);
        let path = store.root().join(NAMES).join(Store::file("r/a@x"));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen('{', "{\"pinned\": true,", 1)).unwrap();
        assert_eq!(store.find("r/a@x"), Some(forged.clone()));
        assert!(!store.all()[0].pinned);
        let fetching = Store::at(store.root());
        assert!(fetching.name(&Named { pinned: true, ..forged }).is_err());
    }

    #[test]
    fn a_link_of_the_worker_leads_root_nowhere() {
        let temporary = tempfile::tempdir().unwrap();
        let (root, agents) = (temporary.path().join("images"), temporary.path().join("agent"));
        let store = Store::with_loaded(&root, &agents.join("images"));
        store.prepare().unwrap();
        let names = ["desired.json", "audit.jsonl", "compose.yaml"];
        let write = |name: &str| std::fs::write(agents.join(name), name).unwrap();
        names.iter().for_each(|name| write(name));
        let is_whole = || {
            names.iter().all(|name| std::fs::read_to_string(agents.join(name)).unwrap() == *name)
        };
        // In place of the file that is written.
        let bytes = b"services: {evil: {image: x}}";
        let put = store.partial(&digest(bytes)).unwrap().with_extension("put");
        std::os::unix::fs::symlink(agents.join("compose.yaml"), &put).unwrap();
        store.put(&digest(bytes), &bytes[..]).unwrap();
        assert!(is_whole() && store.blob(&digest(bytes)).unwrap().is_file());
        // In place of each directory.
        for directory in [PARTIAL, BLOBS, NAMES] {
            let (path, was) = (root.join(directory), root.join("was"));
            std::fs::rename(&path, &was).unwrap();
            std::os::unix::fs::symlink(&agents, &path).unwrap();
            let _ = store.collect(&Default::default());
            let _ = store.put(&digest(b"more"), &b"more"[..]);
            let _ = (store.forget("x"), store.all(), store.prepare());
            assert!(is_whole(), "by {directory}");
            assert_eq!(std::fs::read_dir(&agents).unwrap().count(), names.len() + 1);
            std::fs::remove_file(&path).unwrap();
            std::fs::rename(&was, &path).unwrap();
        }
        // In place of a blob: a pipe keeps nobody waiting.
        let named = fill(&store, "a", b"layer", false);
        let blob = store.blob(&named.digest).unwrap();
        std::fs::remove_file(&blob).unwrap();
        nix::unistd::mkfifo(&blob, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(store.image(&named).is_err());
    }

    #[test]
    fn what_is_declared_or_pinned_is_kept_and_the_rest_goes() {
        let (_temporary, store) = store();
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
    }
}
