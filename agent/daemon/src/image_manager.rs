//! Images for what is declared: from the archives that came with the OS, from the store, or wanted
//! of who fetches. What was fetched is judged here, before containerd sees it.

use crate::containerd::Containerd;
use agent_core::compose::Service;
use agent_core::limits::REFUSED_PAUSE;
use agent_core::protocol::types::{ImageLine, Level};
use agent_host::events::EventLog;
use agent_host::images::archive::{self, Image};
use agent_host::images::policy::Policy;
use agent_host::images::store::{Named, Store};
use agent_host::images::wanted::ImagePaths;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
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

/// The images' side of the agent.
#[derive(Debug)]
pub struct ImageManager {
    archives: PathBuf,
    paths: ImagePaths,
    store: Store,
    policy: Policy,
    /// Images that came with the OS, by name.
    shipped: BTreeMap<String, Image>,
    wanted: BTreeSet<String>,
    log: EventLog,
    /// Images that were fetched and not taken: why, and when.
    refused: BTreeMap<String, (String, Instant)>,
    /// Something may be there that nobody needs any more.
    collect: bool,
}

impl ImageManager {
    /// With the archives that came with the OS.
    ///
    /// # Errors
    /// The store can't be made.
    pub fn new(
        archives: PathBuf,
        paths: ImagePaths,
        policy: Policy,
        log: EventLog,
    ) -> Result<Self> {
        let store = Store::with_loaded(&paths.store, &paths.loaded);
        store.prepare()?;
        let wanted = BTreeSet::new();
        paths.want(&wanted)?;
        Ok(Self {
            archives,
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

    /// Reads what came with the OS: containerd gets of it what is declared.
    ///
    /// # Errors
    /// An archive is damaged.
    pub fn read_shipped(&mut self) -> Result<()> {
        let entries = std::fs::read_dir(&self.archives)
            .with_context(|| format!("read {}", self.archives.display()))?;
        let mut archives: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
            .collect();
        archives.sort();
        for path in archives {
            let image = archive::read(&path)?;
            self.shipped.insert(image.name.clone(), image);
        }
        Ok(())
    }

    /// Imports an image that came with the OS into containerd.
    async fn import_shipped(&self, containerd: &mut Containerd, image: &Image) -> Result<()> {
        containerd.import(image).await?;
        info!(image = image.name, "image {} is in containerd", image.name);
        Ok(())
    }

    /// Brings the images of what is declared into containerd, as far as they are there; the rest is
    /// wanted. Says, by image, what keeps it from being there.
    pub async fn bring(
        &mut self,
        containerd: &mut Containerd,
        images: &BTreeSet<String>,
    ) -> BTreeMap<String, Missing> {
        let (mut wanted, mut said) = (BTreeSet::new(), BTreeMap::new());
        self.refused.retain(|_, (_, when)| when.elapsed() < REFUSED_PAUSE);
        for name in images {
            if containerd.has_image(name) {
                continue;
            }
            if let Some((why, _)) = self.refused.get(name) {
                said.insert(name.clone(), Missing::Refused(why.clone()));
                continue;
            }
            let shipped = self.shipped.get(name);
            let kept = match (shipped, self.store.find(name)) {
                (Some(image), _) => self.import_shipped(containerd, image).await,
                (None, Some(named)) => self.take(containerd, &named).await,
                (None, None) => self.policy.admit(name).map_err(Into::into).map(|_| {
                    wanted.insert(name.clone());
                }),
            };
            if let Err(error) = kept {
                said.insert(name.clone(), Missing::Refused(format!("{error:#}")));
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
        said
    }

    fn want(&mut self, wanted: &BTreeSet<String>) -> Result<()> {
        if self.wanted != *wanted {
            self.paths.want(wanted)?;
            self.wanted.clone_from(wanted);
        }
        Ok(())
    }

    /// An image of the store into containerd. What was fetched must be what the policy wants; what
    /// somebody loaded was judged by who did. One that is refused is forgotten, and fetched again
    /// after a while.
    async fn take(&mut self, containerd: &mut Containerd, named: &Named) -> Result<()> {
        let verified = match named.pinned {
            true => Ok(()),
            false => self.policy.verify(&named.name, &named.digest, &named.signatures),
        };
        let image = verified.map_err(Into::into).and_then(|()| self.store.image(named));
        match image {
            Ok(image) => containerd.import(&image).await?,
            Err(error) => {
                let refused = (format!("{error:#}"), Instant::now());
                self.refused.insert(named.name.clone(), refused);
                self.store.forget(&named.name)?;
                return Err(error);
            }
        }
        let from = if named.pinned { "an archive" } else { "its registry" };
        let text = format!("taken from {from}, {}", named.digest);
        self.log.record(Level::Info, &format!("image {}", named.name), &text);
        Ok(())
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

    /// Whether this image could be had, in principle.
    ///
    /// # Errors
    /// Why it can't.
    pub fn check(&self, containerd: Option<&Containerd>, name: &str) -> Result<()> {
        let is_there = self.shipped.contains_key(name)
            || containerd.is_none_or(|containerd| containerd.has_image(name));
        if !is_there && self.store.find(name).is_none() {
            self.policy.admit(name)?;
        }
        Ok(())
    }

    /// Puts an archive's image into the store and into containerd; returns its name.
    ///
    /// # Errors
    /// The archive is damaged, there is no room, or containerd does not take it.
    pub async fn load(&mut self, containerd: &mut Containerd, archive: &Path) -> Result<String> {
        let (store, archive) = (self.store.clone(), archive.to_owned());
        let keep = move || -> Result<Named> {
            let image = archive::read(&archive)?;
            for (digest, place) in &image.blobs {
                store.put(digest, place.open().context("the archive")?)?;
            }
            let named = Named {
                digest: image.target.digest().to_string(),
                media_type: image.target.media_type().to_string(),
                size: image.target.size(),
                name: image.name,
                pinned: true,
                signatures: Vec::new(),
            };
            store.name(&named)?;
            Ok(named)
        };
        let named = tokio::task::spawn_blocking(keep).await??;
        self.take(containerd, &named).await?;
        Ok(named.name)
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

    /// Takes away what nobody needs, after a change: all but what came with the OS, is declared,
    /// was declared before, or was loaded by hand.
    ///
    /// # Errors
    /// The store or containerd does not let it go.
    pub async fn collect(
        &mut self,
        containerd: &mut Containerd,
        services: &[&[Service]],
    ) -> Result<()> {
        if !self.collect || !self.wanted.is_empty() {
            return Ok(());
        }
        let declared = services.iter().flat_map(|services| services.iter());
        let mut keep: BTreeSet<String> = declared.map(|service| service.image.clone()).collect();
        let removed = self.store.collect(&keep)?;
        keep.extend(self.shipped.keys().cloned());
        keep.extend(self.store.all().into_iter().map(|named| named.name));
        let unpacked = containerd.collect(&keep).await?;
        if removed + unpacked > 0 {
            let text = format!("{removed} taken out of the store, {unpacked} out of containerd");
            self.log.record(Level::Info, "images", &text);
        }
        self.collect = false;
        Ok(())
    }
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
            ImageManager::new(at("none"), paths.clone(), policy, log.clone()).unwrap()
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
        let strict = ImageManager::new(at("none"), paths.clone(), policy, log.clone()).unwrap();
        assert!(!strict.may_run("r.example/a:1", digest));
        assert!(!strict.may_run("r.example/never-stored:1", digest));
        strict.store.name(&named(true)).unwrap();
        assert!(strict.may_run("r.example/a:1", digest), "somebody loaded it by hand");
    }
}
