//! Images for what is declared: from the archives that came with the OS, from the store, or wanted
//! of who fetches. What was fetched is judged here, before containerd sees it.

use crate::containerd::{Containerd, ContainerdError};
use agent_core::compose::Service;
use agent_core::limits::{IMPORT_PAUSE, REFUSED_PAUSE};
use agent_core::protocol::types::{ImageLine, Level};
use agent_host::events::EventLog;
use agent_host::images::archive::{self, Image};
use agent_host::images::policy::Policy;
use agent_host::images::store::{Named, Store};
use agent_host::images::wanted::ImagePaths;
use anyhow::{Context, Result, bail};
use oci_spec::image::ImageConfiguration;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tracing::info;

/// Beginning of the names of images that come with the OS.
const OS_IMAGES: &str = "quietcore/";

/// Reason why an image is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Fetch requested or under way, with its progress as text.
    Fetching(String),
    /// Not available, with the reason: refused by the policy, or not fetched or imported.
    Refused(String),
}

/// Image that is on this host and not yet in containerd.
#[derive(Debug)]
pub struct Import {
    /// Name of the image.
    pub name: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Archive that came with the OS.
    Shipped(Arc<Image>),
    /// Entry of the store, which the policy allows.
    Stored(Store, Box<Named>),
}

/// Why an image is not in containerd.
#[derive(Debug)]
pub enum ImportError {
    /// Content that is not what it is to be: fetched again, it may be.
    Content(anyhow::Error),
    /// containerd did not take it.
    Containerd(ContainerdError),
}

impl From<ContainerdError> for ImportError {
    fn from(error: ContainerdError) -> Self {
        match error {
            ContainerdError::Layer { .. } => Self::Content(error.into()),
            other => Self::Containerd(other),
        }
    }
}

impl Import {
    /// Brings the image into containerd. It may take long, and asks nothing of the manager.
    ///
    /// # Errors
    /// [`ImportError`].
    pub async fn run(&self, containerd: &Containerd) -> Result<ImageConfiguration, ImportError> {
        let image = match &self.source {
            Source::Shipped(image) => image.clone(),
            Source::Stored(store, named) => {
                let (store, named) = (store.clone(), named.clone());
                let read = tokio::task::spawn_blocking(move || store.image(&named)).await;
                Arc::new(read.expect("it does not panic").map_err(ImportError::Content)?)
            }
        };
        containerd.import(&image).await?;
        Ok(image.config.clone())
    }
}

/// Reads an archive into the store, and its image into containerd; returns name and configuration.
///
/// # Errors
/// The archive is damaged, there is no room, or containerd does not take it.
pub async fn load(
    store: Store,
    containerd: Containerd,
    archive: PathBuf,
) -> Result<(Named, ImageConfiguration)> {
    let into = store.clone();
    let keep = move || -> Result<Named> {
        let image = archive::read(&archive)?;
        for (digest, place) in &image.blobs {
            into.put(digest, place.open().context("the archive")?)?;
        }
        let named = Named {
            digest: image.target.digest().to_string(),
            media_type: image.target.media_type().to_string(),
            size: image.target.size(),
            name: image.name,
            pinned: true,
            signatures: Vec::new(),
        };
        into.name(&named)?;
        Ok(named)
    };
    let named = tokio::task::spawn_blocking(keep).await??;
    let source = Source::Stored(store, Box::new(named.clone()));
    let import = Import { name: named.name.clone(), source };
    match import.run(&containerd).await {
        Ok(config) => Ok((named, config)),
        Err(ImportError::Content(error)) => Err(error),
        Err(ImportError::Containerd(error)) => Err(error.into()),
    }
}

/// Reads the archives that came with the OS.
///
/// # Errors
/// An archive is damaged.
pub fn read_shipped(archives: &Path) -> Result<BTreeMap<String, Arc<Image>>> {
    let entries =
        std::fs::read_dir(archives).with_context(|| format!("read {}", archives.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "tar"));
    let images = paths.map(|path| {
        let image = archive::read(&path)?;
        Ok((image.name.clone(), Arc::new(image)))
    });
    images.collect()
}

/// The images' side of the agent.
#[derive(Debug)]
pub struct ImageManager {
    paths: ImagePaths,
    store: Store,
    policy: Policy,
    /// Images that came with the OS, by name: containerd gets of them what is declared.
    pub shipped: BTreeMap<String, Arc<Image>>,
    wanted: BTreeSet<String>,
    log: EventLog,
    /// Images that were not taken: why, and until when they are not tried again.
    refused: BTreeMap<String, (String, Instant)>,
    /// Something may be there that nobody needs any more.
    collect: bool,
}

impl ImageManager {
    /// Manager of the store at `paths`.
    ///
    /// # Errors
    /// The store can't be made.
    pub fn new(paths: ImagePaths, policy: Policy, log: EventLog) -> Result<Self> {
        let store = Store::with_loaded(&paths.store, &paths.loaded);
        store.prepare()?;
        let wanted = BTreeSet::new();
        paths.want(&wanted)?;
        Ok(Self {
            paths,
            store,
            policy,
            shipped: BTreeMap::new(),
            wanted,
            log,
            refused: BTreeMap::new(),
            collect: true,
        })
    }

    /// Store of images that were fetched or loaded.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Finds the images that are declared and not in containerd: those that can be brought there
    /// now, and, by image, why the others are not here. What no store has is wanted of who fetches.
    pub fn find(&mut self, images: &BTreeSet<String>) -> (Vec<Import>, BTreeMap<String, Missing>) {
        let (mut imports, mut wanted, mut said) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        self.refused.retain(|_, (_, until)| Instant::now() < *until);
        for name in images {
            if let Some((why, _)) = self.refused.get(name) {
                said.insert(name.clone(), Missing::Refused(why.clone()));
                continue;
            }
            let source = match (self.shipped.get(name), self.store.find(name)) {
                (Some(image), _) => Ok(Some(Source::Shipped(image.clone()))),
                (None, Some(named)) => self.judge(named).map(Some),
                (None, None) => self.policy.admit(name).map_err(Into::into).map(|_| None),
            };
            match source {
                Ok(Some(source)) => imports.push(Import { name: name.clone(), source }),
                Ok(None) => drop(wanted.insert(name.clone())),
                Err(error) => {
                    drop(said.insert(name.clone(), Missing::Refused(format!("{error:#}"))))
                }
            }
        }
        let failed = self.want(&wanted).err().map(|error| format!("{error:#}"));
        let progress = self.paths.progress_file().read().ok().flatten().unwrap_or_default();
        for name in wanted {
            let how_far = progress.get(&name);
            let missing = match (&failed, how_far) {
                (Some(failed), _) => Missing::Refused(failed.clone()),
                (None, Some(progress)) if progress.error.is_some() => {
                    Missing::Refused(progress.text())
                }
                (None, progress) => Missing::Fetching(
                    progress.map_or("is asked for".into(), |progress| progress.text()),
                ),
            };
            said.insert(name, missing);
        }
        (imports, said)
    }

    fn want(&mut self, wanted: &BTreeSet<String>) -> Result<()> {
        if self.wanted != *wanted {
            self.paths.want(wanted)?;
            self.wanted.clone_from(wanted);
        }
        Ok(())
    }

    /// Judges an entry of the store. What was fetched must be what the policy wants; what somebody
    /// loaded was judged by who did. One that is refused is forgotten, and fetched again after a
    /// while.
    fn judge(&mut self, named: Named) -> Result<Source> {
        let verified = match named.pinned {
            true => Ok(()),
            false => self.policy.verify(&named.name, &named.digest, &named.signatures),
        };
        if let Err(error) = verified {
            self.refuse(&named.name, &ImportError::Content(error.into()));
            let (why, _) = &self.refused[&named.name];
            bail!("{why}");
        }
        Ok(Source::Stored(self.store.clone(), Box::new(named)))
    }

    /// Notes that an image is in containerd now.
    pub fn note_imported(&self, name: &str) {
        let stored = self.store.find(name).filter(|_| !self.shipped.contains_key(name));
        let Some(Named { pinned, digest, .. }) = stored else {
            return info!(image = name, "image {name} of the OS is in containerd");
        };
        let from = if pinned { "an archive" } else { "its registry" };
        let text = format!("taken from {from}, {digest}");
        self.log.record(Level::Info, &format!("image {name}"), &text);
    }

    /// Notes why an image is not in containerd; what is not what it is to be is forgotten.
    pub fn refuse(&mut self, name: &str, error: &ImportError) {
        let (why, pause) = match error {
            ImportError::Containerd(error) => (error.to_string(), IMPORT_PAUSE),
            ImportError::Content(error) => {
                let mut why = format!("{error:#}");
                let is_stored = self.store.find(name).is_some();
                if let Err(error) = if is_stored { self.store.forget(name) } else { Ok(()) } {
                    why += &format!("; {error:#}");
                }
                (why, REFUSED_PAUSE)
            }
        };
        self.refused.insert(name.to_owned(), (why, Instant::now() + pause));
    }

    /// Returns true if an image that containerd has from before may run under the policy of now: it
    /// came with the OS, was loaded by hand, or is signed as its registry demands.
    pub fn may_run(&self, name: &str, digest: &str) -> bool {
        let is_os = |image: &str| image.starts_with(OS_IMAGES);
        match self.store.find(name) {
            Some(named) if named.pinned => named.digest == digest,
            Some(named) => {
                let verified = self.policy.verify(name, &named.digest, &named.signatures);
                named.digest == digest && verified.is_ok()
            }
            // An earlier OS left it, unless a registry of that name is admitted.
            None => match self.policy.admit(name) {
                Ok(_) => self.policy.verify(name, digest, &[]).is_ok(),
                Err(_) => self.shipped.contains_key(name) || is_os(name),
            },
        }
    }

    /// The digest of an image that this host has.
    pub fn digest(&self, name: &str) -> Option<String> {
        let kept = || self.store.find(name).map(|named| named.digest);
        self.shipped.get(name).map(|image| image.target.digest().to_string()).or_else(kept)
    }

    /// Checks that an image could be had, in principle; `is_there` says that containerd may have
    /// it.
    ///
    /// # Errors
    /// Why it can't.
    pub fn check(&self, is_there: bool, name: &str) -> Result<()> {
        if !is_there && !self.shipped.contains_key(name) && self.store.find(name).is_none() {
            self.policy.admit(name)?;
        }
        Ok(())
    }

    /// Takes an image away that nothing declared needs.
    ///
    /// # Errors
    /// It is needed, or not there.
    pub fn remove(&mut self, name: &str, declared: &[Service]) -> Result<()> {
        if let Some(service) = declared.iter().find(|service| service.image == name) {
            bail!("image {name} is declared by the service {}", service.name);
        }
        if self.shipped.contains_key(name) {
            bail!("image {name} is part of the OS");
        }
        self.store.forget(name)?;
        self.collect = true;
        Ok(())
    }

    /// All images, in order of their names.
    pub fn list(&self, declared: &[Service]) -> Vec<ImageLine> {
        let line = |name: &str, digest: &str, from: &str| ImageLine {
            name: name.into(),
            digest: digest.into(),
            from: from.into(),
            declared: declared.iter().any(|service| service.image == name),
        };
        let shipped = self.shipped.values();
        let shipped = shipped.map(|image| line(&image.name, image.target.digest().as_ref(), "os"));
        let kept = self.store.all();
        let kept = kept.iter().map(|named| {
            line(&named.name, &named.digest, if named.pinned { "archive" } else { "registry" })
        });
        let mut all: Vec<_> = shipped.chain(kept).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Something else is declared: what only the last one needed can go, once the new one runs.
    pub fn changed(&mut self) {
        self.collect = true;
        self.refused.clear();
    }

    /// Returns the images to keep once after a change, when what nobody needs can go: all but what
    /// came with the OS, is declared, was declared before, or was loaded by hand; `None` as long as
    /// there is nothing to collect.
    pub fn to_keep(&mut self, services: &[&[Service]]) -> Option<BTreeSet<String>> {
        if !self.collect || !self.wanted.is_empty() {
            return None;
        }
        self.collect = false;
        let declared = services.iter().flat_map(|services| services.iter());
        Some(declared.map(|service| service.image.clone()).collect())
    }

    /// Notes the end of a collection; one that failed is tried again.
    pub fn note_collected(&mut self, removed: &Result<[usize; 2]>) {
        match removed {
            Ok([0, 0]) => {}
            Ok([stored, unpacked]) => {
                let text = format!("{stored} taken out of the store, {unpacked} out of containerd");
                self.log.record(Level::Info, "images", &text);
            }
            Err(_) => self.collect = true,
        }
    }
}

/// Takes away every image but those; returns how many the store had of them, and containerd.
///
/// # Errors
/// The store or containerd does not let one go.
pub async fn collect(
    store: Store,
    containerd: Containerd,
    mut keep: BTreeSet<String>,
    shipped: BTreeSet<String>,
) -> Result<[usize; 2]> {
    let from_store = move || -> Result<(usize, BTreeSet<String>)> {
        let removed = store.collect(&keep)?;
        keep.extend(shipped);
        keep.extend(store.all().into_iter().map(|named| named.name));
        Ok((removed, keep))
    };
    let (stored, keep) = tokio::task::spawn_blocking(from_store).await??;
    Ok([stored, containerd.collect(&keep).await?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_of_now_counts_for_what_containerd_has() {
        let temporary = tempfile::tempdir().unwrap();
        let at = |name: &str| temporary.path().join(name);
        let paths = ImagePaths {
            wanted: at("wanted.json"),
            progress: at("progress.json"),
            store: at("store"),
            loaded: at("loaded"),
        };
        let log = EventLog::at(&at("events"));
        let manager = |policy: &str| {
            let policy = Policy::parse(policy).unwrap();
            ImageManager::new(paths.clone(), policy, log.clone()).unwrap()
        };
        let pem = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEzawuqLNUnbaw8hGbKnTHp3jmLFvy\n17YMYCE/d3Mhj7C1MAfEhGVmd+3Ah19sEChORls4YiY9VwDJZ02b4ZwQ3Q==\n-----END PUBLIC KEY-----\n";
        let rule = |line: &str| {
            format!("version = 1\n[[registry]]\nname = \"r.example\"\ntags = true\n{line}\n")
        };
        let unsigned = manager(&rule("unsigned = true"));
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let named = |pinned: bool| Named {
            name: "r.example/a:1".into(),
            digest: digest.into(),
            media_type: "x".into(),
            size: 1,
            pinned,
            signatures: Vec::new(),
        };
        unsigned.store.name(&named(false)).unwrap();
        assert!(unsigned.may_run("r.example/a:1", digest));
        assert!(!unsigned.may_run("r.example/a:1", "sha256:other"));
        assert!(!unsigned.may_run("other.example/a:1", digest));
        assert!(unsigned.may_run("quietcore/exporter:0.0.1", digest), "an earlier OS had it");
        // The registry's images need a signature now.
        let Ok(policy) = Policy::parse(&rule(&format!("signers = ['''{pem}''']"))) else {
            panic!("the key of the test is none")
        };
        let strict = ImageManager::new(paths.clone(), policy, log.clone()).unwrap();
        assert!(!strict.may_run("r.example/a:1", digest));
        assert!(!strict.may_run("r.example/never-stored:1", digest));
        strict.store.name(&named(true)).unwrap();
        assert!(strict.may_run("r.example/a:1", digest), "somebody loaded it by hand");
    }
}
