//! The agent's side of the desired state: takes what came, applies it when it may, says how what is
//! declared differs.

use crate::reconcile::Agent;
use crate::reconcile::apply::{How, changes, check_host};
use crate::reconcile::desired_store::{Keeper, Taken};
use agent_core::compose::{self, Service};
use agent_core::desired::{CREDENTIAL, Config, Report, Step};
use agent_core::limits::{DESIRED_LEN_MAX, REFUSED_PAUSE};
use agent_core::protocol::types::Level;
use agent_host::desired_exchange::{DesiredPaths, read_config};
use agent_host::files::read_up_to;
use anyhow::{Context, Result, bail, ensure};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

const ABOUT: &str = "desired state";

/// Number and time of a file.
type Seen = (u64, i64, i64);

/// Desired state that this host follows, if it has the credential for it.
#[derive(Debug, Default)]
pub struct DesiredSync {
    keeper: Option<Keeper>,
    paths: DesiredPaths,
    /// Why there is no keeper although there is a credential.
    broken: Option<String>,
    /// The file that was looked at last: it is replaced, and so is its number.
    seen: Option<Seen>,
    /// Why it was not taken.
    refused: Option<String>,
    /// Why what waits is not applied, and when that is tried again.
    failed: Option<(String, Duration)>,
    drift: Vec<String>,
}

impl DesiredSync {
    /// Reads the configuration from the credentials, and opens the store at `memory`.
    pub fn new(credentials: Option<&Path>, memory: &Path) -> Self {
        let kept =
            |config: Option<Config>| config.map(|config| Keeper::open(config, memory)).transpose();
        match read_config(credentials).and_then(kept) {
            Ok(keeper) => Self { keeper, ..Self::default() },
            Err(error) => Self { broken: Some(format!("{error:#}")), ..Self::default() },
        }
    }

    fn keeper(&mut self) -> Result<&mut Keeper> {
        self.keeper.as_mut().with_context(|| {
            format!("this host follows nobody; give it the credential {CREDENTIAL}")
        })
    }

    /// An envelope that nobody has looked at yet.
    fn arrived(&self) -> Option<(Seen, Result<Vec<u8>>)> {
        let file = self.paths.envelope.metadata().ok()?;
        let seen = (file.ino(), file.mtime(), file.mtime_nsec());
        let is_new = self.seen != Some(seen);
        is_new.then(|| (seen, read_up_to(&self.paths.envelope, DESIRED_LEN_MAX)))
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
            return self.problems.set(ABOUT, self.follower.broken.clone());
        }
        if let Some((seen, arrived)) = self.follower.arrived() {
            match arrived.and_then(|envelope| self.take(&envelope, false)) {
                // What can't be read or written now is looked at again.
                Err(error) => self.follower.refused = Some(format!("{error:#}")),
                Ok(refused) => {
                    self.follower.refused = refused.map(|why| format!("{why:#}"));
                    self.follower.seen = Some(seen);
                }
            }
        }
        self.apply_due();
        let DesiredSync { refused, failed, paths, keeper, .. } = &self.follower;
        let said = refused.as_ref().or(failed.as_ref().map(|(why, _)| why)).cloned();
        let looked = || paths.wrong(keeper.as_ref()?.config(), self.now());
        let expired = || keeper.as_ref().and_then(|keeper| keeper.expired());
        let said = said.or_else(looked).or_else(expired);
        self.problems.set(ABOUT, said);
    }

    /// Says why it is not taken.
    fn take(&mut self, envelope: &[u8], by_hand: bool) -> Result<Option<anyhow::Error>> {
        let cores = &self.cores;
        let check = |compose: &str| check_host(&compose::parse(compose, cores)?);
        Ok(match self.follower.keeper()?.take(envelope, by_hand, check)? {
            Taken::Same => None,
            Taken::Refused(why) => Some(why),
            Taken::New(serial) => {
                self.follower.failed = None;
                self.log.record(Level::Info, ABOUT, &format!("serial {serial} is here"));
                None
            }
        })
    }

    /// Applies the waiting desired state once its window is open; not during a trial by hand, and
    /// [`REFUSED_PAUSE`] after a failure at the earliest.
    fn apply_due(&mut self) {
        let due = self.follower.keeper.as_ref().and_then(|keeper| keeper.due());
        let Some(serial) = due.filter(|_| self.rollouts.try_until.is_none()).map(|due| due.serial)
        else {
            self.follower.failed = None;
            return;
        };
        let now = self.now();
        if self.follower.failed.as_ref().is_some_and(|(_, again)| now < *again) {
            return;
        }
        let done = self.apply_newest(false).err();
        let failed = done.map(|error| (format!("serial {serial}: {error:#}"), now + REFUSED_PAUSE));
        self.follower.failed = failed;
    }

    /// Applies the newest; `again`, although it was applied already.
    fn apply_newest(&mut self, again: bool) -> Result<()> {
        let keeper = self.follower.keeper()?;
        let newest = keeper.newest().cloned().context("nothing has come yet")?;
        if let Some(why) = keeper.expired() {
            bail!("{why}");
        }
        if again || !self.is_applied(&newest.compose) {
            self.apply(&newest.compose, How::Now)?;
        }
        self.follower.keeper()?.applied_now()?;
        self.note_drift();
        self.log.record(Level::Info, ABOUT, &format!("serial {} is applied", newest.serial));
        Ok(())
    }

    fn is_applied(&self, compose: &str) -> bool {
        std::fs::read_to_string(&self.paths.applied).is_ok_and(|text| text == compose)
    }

    /// When the agent starts: the power may have gone between applying and writing that down.
    pub(super) fn apply_desired(&mut self) {
        let waiting = self.follower.keeper.as_ref().and_then(|keeper| keeper.waiting());
        if waiting.is_some_and(|waiting| self.is_applied(&waiting.compose))
            && let Err(error) = self.apply_newest(false)
        {
            self.log.record(Level::Error, ABOUT, &format!("{error:#}"));
        }
        self.note_drift();
    }

    /// Says it when what is declared begins or ceases to be another than what was applied.
    pub(super) fn note_drift(&mut self) {
        let cores = &self.cores;
        let parse = |text: &str| Ok(compose::parse(text, cores)?);
        self.follower.compare(&self.rollouts.services, parse);
        let drift = self.follower.drift.join("; ");
        self.problems.set("drift from desired state", (!drift.is_empty()).then_some(drift));
    }

    /// Takes an envelope that an operator delivered; it waits for its window like any other.
    pub(super) fn deliver(&mut self, envelope: &str) -> Result<()> {
        ensure!(envelope.len() as u64 <= DESIRED_LEN_MAX, "larger than {DESIRED_LEN_MAX} bytes");
        if let Some(why) = self.take(envelope.as_bytes(), true)? {
            return Err(why);
        }
        self.follower.refused = None;
        self.apply_due();
        Ok(())
    }

    pub(super) fn step_desired(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Hold | Step::Resume => {
                let held = step == Step::Hold;
                self.follower.keeper()?.hold(held)?;
                let said = if held { "is held" } else { "is followed again" };
                self.log.record(Level::Info, ABOUT, said);
                Ok(())
            }
            Step::Sync => self.apply_newest(true),
        }
    }

    pub(super) fn desired_report(&self) -> Option<Report> {
        let keeper = self.follower.keeper.as_ref()?;
        let mut report = keeper.report(&self.follower.drift);
        if report.waiting.is_some() && self.rollouts.try_until.is_some() {
            report.waits_for.get_or_insert_with(|| "the end of what is on trial".into());
        }
        Some(report)
    }
}
