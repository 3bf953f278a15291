//! Desired states of this host, kept over restarts: the one applied, the one waiting, and whether
//! they are on hold. An older one than those here is never taken.

use agent_core::desired::{Config, Desired, Report, time_text};
use agent_host::files::write_private;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// One that was taken: kept as it came, and opened anew with the keys that this host has now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct StoredDesired {
    envelope: String,
    /// Somebody brought it; what is looked at may be behind.
    by_hand: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct StoreCache {
    held: bool,
    applied: Option<StoredDesired>,
    waiting: Option<StoredDesired>,
}

/// Result of taking an envelope.
#[derive(Debug)]
pub enum Taken {
    /// Accepted with this serial; it waits to be applied.
    New(u64),
    /// Nothing new: already here, or older than one delivered by hand.
    Same,
    /// Refused, with the reason.
    Refused(anyhow::Error),
}

/// See the module.
#[derive(Debug)]
pub struct Keeper {
    config: Config,
    path: PathBuf,
    memory: StoreCache,
    applied: Option<Desired>,
    waiting: Option<Desired>,
}

impl Keeper {
    /// Opens the store in a file; empty if there is none. Envelopes signed by a key that this host
    /// no longer knows, or made for another name, are dropped.
    ///
    /// # Errors
    /// It is damaged, or can't be read: what was applied is not known, and no older one may be
    /// taken for new.
    pub fn open(config: Config, path: &Path) -> Result<Self> {
        let mut memory: StoreCache = match std::fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text)
                .with_context(|| format!("{}: remove it to begin anew", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => StoreCache::default(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let opened = |kept: &mut Option<StoredDesired>| {
            let desired = kept.as_ref().and_then(|it| config.open(it.envelope.as_bytes()).ok());
            if desired.is_none() {
                *kept = None;
            }
            desired
        };
        let (applied, waiting) = (opened(&mut memory.applied), opened(&mut memory.waiting));
        Ok(Self { path: path.into(), memory, applied, waiting, config })
    }

    /// Where and how often it is looked for.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn remember(&mut self, memory: StoreCache) -> Result<()> {
        write_private(&self.path, &serde_json::to_string(&memory)?)?;
        self.memory = memory;
        Ok(())
    }

    /// Takes an envelope, if it is for this host and newer than what is here. `check` reads its
    /// compose file.
    ///
    /// # Errors
    /// It can't be written down; it may be taken later.
    pub fn take(
        &mut self,
        envelope: &[u8],
        by_hand: bool,
        check: impl FnOnce(&str) -> Result<()>,
    ) -> Result<Taken> {
        let desired = match self.admit(envelope, by_hand, check) {
            Ok(Some(desired)) => desired,
            Ok(None) => return Ok(Taken::Same),
            Err(why) => return Ok(Taken::Refused(why)),
        };
        let serial = desired.serial;
        let envelope = String::from_utf8_lossy(envelope).into_owned();
        let waiting = Some(StoredDesired { envelope, by_hand });
        self.remember(StoreCache { waiting, ..self.memory.clone() })?;
        self.waiting = Some(desired);
        Ok(Taken::New(serial))
    }

    fn admit(
        &self,
        envelope: &[u8],
        by_hand: bool,
        check: impl FnOnce(&str) -> Result<()>,
    ) -> Result<Option<Desired>> {
        let desired = self.config.open(envelope)?;
        let newest = self.memory.waiting.as_ref().or(self.memory.applied.as_ref());
        let is_ahead = newest.is_some_and(|newest| newest.by_hand) && !by_hand;
        if let Some(here) = self.newest() {
            let (new, old) = (desired.serial, here.serial);
            if *here == desired || new < old && is_ahead {
                return Ok(None);
            }
            ensure!(
                new != old,
                "serial {new} is here with other contents; sign it with a higher one"
            );
            ensure!(
                new > old,
                "serial {new} is older than {old}, which is here; sign it with a higher one"
            );
            let known = desired.follows.unwrap_or(old);
            ensure!(
                known >= old,
                "serial {new} follows {known}, and {old} is here, which who signed it did not know; \
                 sign it again after {old}"
            );
        }
        ensure!(
            desired.expires.is_some() || !self.config.must_expire,
            "serial {} does not expire, and this host takes none such; sign it with --expires",
            desired.serial
        );
        if let Some(why) = expiry_of(&desired, seconds_now()) {
            bail!("{why}");
        }
        check(&desired.compose).with_context(|| format!("serial {}", desired.serial))?;
        Ok(Some(desired))
    }

    /// Says that the newest that is here has expired: nobody signed a newer one, or somebody keeps
    /// it from this host.
    pub fn expired(&self) -> Option<String> {
        self.newest().and_then(|newest| expiry_of(newest, seconds_now()))
    }

    /// Returns the waiting desired state if neither a hold nor a closed window prevents it, nor its
    /// expiry.
    pub fn due(&self) -> Option<&Desired> {
        self.waiting.as_ref().filter(|_| self.waits_for().is_none())
    }

    /// The newest that is here.
    pub fn newest(&self) -> Option<&Desired> {
        self.waiting.as_ref().or(self.applied.as_ref())
    }

    /// Returns the desired state that waits to be applied.
    pub fn waiting(&self) -> Option<&Desired> {
        self.waiting.as_ref()
    }

    /// Returns the desired state that was applied last.
    pub fn applied(&self) -> Option<&Desired> {
        self.applied.as_ref()
    }

    /// The newest is applied.
    ///
    /// # Errors
    /// It can't be written down.
    pub fn applied_now(&mut self) -> Result<()> {
        if self.waiting.is_some() {
            let applied = self.memory.waiting.clone();
            self.remember(StoreCache { applied, waiting: None, ..self.memory.clone() })?;
            self.applied = self.waiting.take();
        }
        Ok(())
    }

    /// Holds what comes, or not any more.
    ///
    /// # Errors
    /// It can't be written down.
    pub fn hold(&mut self, held: bool) -> Result<()> {
        self.remember(StoreCache { held, ..self.memory.clone() })
    }

    fn waits_for(&self) -> Option<String> {
        let waiting = self.waiting.as_ref();
        if waiting.is_some_and(|waiting| expiry_of(waiting, seconds_now()).is_some()) {
            return Some("a newer one: it has expired".into());
        }
        match (self.memory.held, self.config.windows.next_after(minute_now())) {
            (true, _) => Some("qctl desired resume".into()),
            (false, next) => next,
        }
    }

    /// For the status.
    pub fn report(&self, drift: &[String]) -> Report {
        let (applied, waiting) = (&self.applied, &self.waiting);
        Report {
            name: self.config.name.clone(),
            url: self.config.url.clone(),
            serial: applied.as_ref().map(|applied| applied.serial),
            waiting: waiting.as_ref().map(|waiting| waiting.serial),
            waits_for: waiting.as_ref().and_then(|_| self.waits_for()),
            held: self.memory.held,
            expires: self.newest().and_then(|newest| newest.expires).map(time_text),
            windows: self.config.windows.text(),
            opens: self.config.windows.next_after(minute_now()),
            drift: drift.to_vec(),
        }
    }
}

/// This host's clock, in seconds of the Unix epoch.
fn seconds_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn minute_now() -> u64 {
    seconds_now() / 60
}

/// Says that a desired state has expired, if it has.
fn expiry_of(desired: &Desired, now: u64) -> Option<String> {
    let expires = desired.expires.filter(|expires| *expires <= now)?;
    Some(format!(
        "serial {} expired at {}, and no newer one came; ask who signs, or for what keeps it from this host",
        desired.serial,
        time_text(expires)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;
    use ed25519_dalek::pkcs8::EncodePublicKey;
    use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;

    fn config(more: &str) -> Config {
        let key = SigningKey::from_bytes(&[7; 32]).verifying_key();
        let pem = key.to_public_key_pem(LineEnding::LF).unwrap();
        let text = format!("version = 1\nname = \"ny4\"\nkeys = ['''{pem}''']\n{more}\n");
        Config::parse(&text).unwrap()
    }

    fn keeper(path: &Path, more: &str) -> Keeper {
        Keeper::open(config(more), path).unwrap()
    }

    fn envelope(serial: u64, compose: &str) -> Vec<u8> {
        seal(Desired { serial, compose: compose.into(), ..Desired::default() })
    }

    fn seal(desired: Desired) -> Vec<u8> {
        let desired = Desired { name: "ny4".into(), ..desired };
        desired.seal(&SigningKey::from_bytes(&[7; 32])).unwrap().into_bytes()
    }

    #[test]
    fn an_old_one_is_not_shown_for_ever_and_a_branch_is_not_taken() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("desired.json");
        let mut keeper = keeper(&path, "");
        let mut take = |desired: Desired| match keeper.take(&seal(desired), false, |_| Ok(())) {
            Ok(Taken::Refused(why)) => format!("{why:#}"),
            Ok(Taken::New(serial)) => format!("new {serial}"),
            other => format!("{other:?}"),
        };
        let one = |serial| Desired { serial, ..Desired::default() };
        let past = take(Desired { expires: Some(1_000_000_000), ..one(1) });
        assert!(past.contains("serial 1 expired at 2001-09-09T01:46:40Z"), "{past}");
        let soon = seconds_now() + 2;
        assert_eq!(take(Desired { expires: Some(soon), follows: Some(0), ..one(5) }), "new 5");
        // Two who signed after the same one: the second did not know of the first.
        let branch = take(Desired { follows: Some(4), ..one(6) });
        assert!(branch.contains("serial 6 follows 4, and 5 is here"), "{branch}");
        assert_eq!((keeper.expired(), keeper.due().map(|due| due.serial)), (None, Some(5)));
        while seconds_now() < soon {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        // It was here in time, and is not applied any more.
        assert!(keeper.expired().unwrap().contains("serial 5 expired") && keeper.due().is_none());
        let waits = keeper.report(&[]).waits_for.unwrap();
        assert!(waits.contains("expired"), "{waits}");
        // A host that was away takes what follows others that it never saw.
        let later = Desired { follows: Some(8), ..one(9) };
        assert!(matches!(keeper.take(&seal(later), false, |_| Ok(())), Ok(Taken::New(9))));
        assert_eq!(keeper.expired(), None);
        let mut strict = Keeper::open(config("must_expire = true"), &path).unwrap();
        let taken = strict.take(&seal(one(10)), false, |_| Ok(())).unwrap();
        assert!(
            matches!(&taken, Taken::Refused(why) if why.to_string().contains("--expires")),
            "{taken:?}"
        );
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn only_newer_ones_are_taken_over_restarts_too() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("desired.json");
        let mut first = keeper(&path, "");
        let taken = first.take(&envelope(5, "a"), false, |_| Ok(())).unwrap();
        assert!(matches!(taken, Taken::New(5)));
        assert_eq!(first.due().unwrap().compose, "a");
        let again = first.take(&envelope(5, "a"), false, |_| Ok(())).unwrap();
        assert!(matches!(again, Taken::Same));
        first.applied_now().unwrap();
        assert!(first.due().is_none());
        // An agent that starts anew, and who plays an old one to it.
        let mut next = keeper(&path, "");
        fn why(taken: Result<Taken>) -> String {
            match taken.unwrap() {
                Taken::Refused(why) => format!("{why:#}"),
                other => format!("{other:?}"),
            }
        }
        let taken = next.take(&envelope(4, "old"), false, |_| Ok(()));
        assert!(why(taken).contains("older than 5"));
        let taken = next.take(&envelope(5, "b"), false, |_| Ok(()));
        assert!(why(taken).contains("with other contents"));
        let taken = next.take(&envelope(6, "b"), false, |_| anyhow::bail!("line 1: no"));
        assert!(why(taken).contains("serial 6: line 1"));
        assert_eq!(next.report(&[]).text(), "ny4 serial 5");
        // Somebody is ahead of the server, which is no mistake of the server's.
        next.take(&envelope(7, "c"), true, |_| Ok(())).unwrap();
        assert!(matches!(next.take(&envelope(6, "b"), false, |_| Ok(())).unwrap(), Taken::Same));
        assert!(why(next.take(&envelope(6, "b"), true, |_| Ok(()))).contains("older than 7"));
        // Another key, and nothing of it is believed any more.
        let other = SigningKey::from_bytes(&[8; 32]).verifying_key();
        let pem = other.to_public_key_pem(LineEnding::LF).unwrap();
        let text = format!("version = 1\nname = \"ny4\"\nkeys = ['''{pem}''']\n");
        let other = Keeper::open(Config::parse(&text).unwrap(), &path).unwrap();
        assert!(other.newest().is_none());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_held_or_out_of_its_window_waits_and_says_for_what() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("desired.json");
        let mut held = keeper(&path, "");
        held.hold(true).unwrap();
        held.take(&envelope(1, "a"), false, |_| Ok(())).unwrap();
        let held = keeper(&path, "");
        assert!(held.due().is_none() && held.newest().is_some());
        assert_eq!(
            held.report(&[]).text(),
            "ny4 nothing yet, serial 1 waits for qctl desired resume"
        );
        std::fs::remove_file(&path).unwrap();
        // A minute of some other day.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let days = ["Sat", "Sun", "Mon", "Tue", "Wed", "Thu", "Fri"];
        let day = days[(now.as_secs() / 86_400 % 7) as usize];
        let mut closed = keeper(&path, &format!("windows = [\"{day} 00:00-00:01\"]"));
        closed.take(&envelope(1, "a"), false, |_| Ok(())).unwrap();
        assert!(closed.due().is_none());
        assert!(closed.report(&[]).text().ends_with(&format!("waits for {day} 00:00 UTC")));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_damaged_memory_is_no_empty_one() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("desired.json");
        std::fs::write(&path, "{\"held\":").unwrap();
        let error = Keeper::open(config(""), &path).unwrap_err();
        assert!(error.to_string().contains("remove it to begin anew"));
        std::fs::remove_file(path).unwrap();
    }
}
