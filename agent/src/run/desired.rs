//! The agent's side of the desired state: takes what came, applies it when it may, says how what is declared differs.

use super::Agent;
use super::declaration::changes;
use crate::compose::{self, Service};
use crate::desired::follow::{Places, Progress};
use crate::desired::keeper::Keeper;
use crate::desired::{CREDENTIAL, Config, Report, Step};
use crate::events::Level;
use crate::files::read_up_to;
use crate::limits::DESIRED_LEN_MAX;
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const ABOUT: &str = "desired state";

/// What this host follows, if it follows something.
#[derive(Debug, Default)]
pub(super) struct Follower {
    keeper: Option<Keeper>,
    places: Places,
    /// Why there is no keeper although there is a credential.
    broken: Option<String>,
    /// The file that was looked at last: it is replaced, and so is its number.
    seen: Option<(u64, i64, i64)>,
    /// Why it was not taken.
    refused: Option<String>,
    /// Why what waits is not applied.
    failed: Option<String>,
    drift: Vec<String>,
}

impl Follower {
    /// What the credentials say, and the file that remembers.
    pub(super) fn new(credentials: Option<&Path>, memory: &Path) -> Self {
        let kept =
            |config: Option<Config>| config.map(|config| Keeper::open(config, memory)).transpose();
        match Config::read(credentials).and_then(kept) {
            Ok(keeper) => Self { keeper, ..Self::default() },
            Err(error) => Self { broken: Some(format!("{error:#}")), ..Self::default() },
        }
    }

    pub(super) fn report(&self) -> Option<Report> {
        self.keeper.as_ref().map(|keeper| keeper.report(&self.drift))
    }

    fn keeper(&mut self) -> Result<&mut Keeper> {
        self.keeper.as_mut().with_context(|| {
            format!("this host follows nobody; give it the credential {CREDENTIAL}")
        })
    }

    /// An envelope that nobody has looked at yet.
    fn arrived(&mut self) -> Option<Result<Vec<u8>>> {
        let file = self.places.envelope.metadata().ok()?;
        let seen = Some((file.ino(), file.mtime(), file.mtime_nsec()));
        if self.seen == seen {
            return None;
        }
        self.seen = seen;
        Some(read_up_to(&self.places.envelope, DESIRED_LEN_MAX))
    }

    fn compare(&mut self, declared: &[Service], parse: impl Fn(&str) -> Result<Vec<Service>>) {
        let applied = self.keeper.as_ref().and_then(|keeper| keeper.applied());
        let wanted = applied.map(|applied| parse(&applied.compose));
        let mut drift = match wanted {
            None => Vec::new(),
            Some(Ok(wanted)) => changes(&wanted, declared),
            // It was written for other cores, or an older release.
            Some(Err(error)) => vec![format!("! {error:#}")],
        };
        drift.retain(|line| !line.starts_with('='));
        self.drift = drift;
    }
}

impl Agent {
    /// Once a second.
    pub(super) fn follow(&mut self) {
        if self.follower.keeper.is_none() {
            return self.problem(ABOUT, self.follower.broken.clone());
        }
        if let Some(arrived) = self.follower.arrived() {
            let taken = arrived.and_then(|envelope| self.take(&envelope));
            self.follower.refused = taken.err().map(|error| format!("{error:#}"));
        }
        self.apply_due();
        let Follower { refused, failed, places, .. } = &self.follower;
        let said = refused.as_ref().or(failed.as_ref()).cloned();
        self.problem(ABOUT, said.or_else(|| Progress::read(places).error));
    }

    fn take(&mut self, envelope: &[u8]) -> Result<()> {
        let cores = &self.cores;
        let check = |compose: &str| Ok(compose::parse(compose, cores).map(drop)?);
        if let Some(serial) = self.follower.keeper()?.take(envelope, check)? {
            self.log.say(Level::Info, ABOUT, &format!("serial {serial} is here"));
        }
        Ok(())
    }

    /// What waits is applied once it may be; not while something is on trial by hand.
    fn apply_due(&mut self) {
        let due = self.follower.keeper.as_ref().and_then(|keeper| keeper.due());
        let due = due.filter(|_| self.try_until.is_none()).map(|due| due.serial);
        let Some(serial) = due else {
            self.follower.failed = None;
            return;
        };
        let done = self.apply_newest();
        self.follower.failed = done.err().map(|error| format!("serial {serial}: {error:#}"));
    }

    fn apply_newest(&mut self) -> Result<()> {
        let newest = self.follower.keeper()?.newest().cloned();
        let newest = newest.context("nothing has come yet")?;
        self.apply(&newest.compose, false, None)?;
        self.follower.keeper()?.applied_now()?;
        self.note_drift();
        self.log.say(Level::Info, ABOUT, &format!("serial {} is applied", newest.serial));
        Ok(())
    }

    /// Says it when what is declared begins or ceases to be another than what was applied.
    pub(super) fn note_drift(&mut self) {
        let cores = &self.cores;
        let parse = |text: &str| Ok(compose::parse(text, cores)?);
        self.follower.compare(&self.declared, parse);
        let drift = self.follower.drift.join("; ");
        self.problem("drift from desired state", (!drift.is_empty()).then_some(drift));
    }

    /// What somebody brought; it waits for its window as any other.
    pub(super) fn deliver(&mut self, envelope: &str) -> Result<()> {
        ensure!(envelope.len() as u64 <= DESIRED_LEN_MAX, "larger than {DESIRED_LEN_MAX} bytes");
        self.take(envelope.as_bytes())?;
        self.apply_due();
        Ok(())
    }

    pub(super) fn step_desired(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Hold | Step::Resume => {
                let held = step == Step::Hold;
                self.follower.keeper()?.hold(held)?;
                let said = if held { "is held" } else { "is followed again" };
                self.log.say(Level::Info, ABOUT, said);
                Ok(())
            }
            Step::Sync => self.apply_newest(),
        }
    }
}
