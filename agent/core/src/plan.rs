//! Reconcile plan: actions that bring what runs to what is declared. Pure and level-triggered: it
//! uses only the state observed now, so that it recovers from every half state that a crash can
//! leave.

use crate::compose::{Restart, Service};
use crate::instance::Instance;
use crate::limits::{RESTART_DELAY, RESTART_DELAY_MAX, RESTART_FORGIVEN, STOP_GRACE};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A task as containerd reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Made, never started: a crash between the two.
    Created,
    /// Task is running.
    Running,
    /// Ended with this status.
    Stopped(u32),
}

/// Stop signal and grace period of a container. Stored with the container, because the service may
/// be declared otherwise by the time it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Signal that asks it to end.
    pub signal: u32,
    /// Time from the signal to the kill.
    pub grace: Duration,
}

impl Default for Ending {
    fn default() -> Self {
        Self { signal: nix::libc::SIGTERM as u32, grace: STOP_GRACE }
    }
}

impl Ending {
    /// As a service declares it; without a signal there, the image's (`STOPSIGNAL`), else SIGTERM.
    pub fn of(service: &Service, of_image: Option<u32>) -> Self {
        let signal = service.policy.stop_signal.or(of_image);
        let signal = signal.unwrap_or(nix::libc::SIGTERM as u32);
        Self { signal, grace: service.policy.stop_grace }
    }

    /// Parses the text of [`Self::label`]; none if it is not one.
    pub fn read(label: &str) -> Option<Self> {
        let (signal, grace) = label.split_once(' ')?;
        Some(Self {
            signal: signal.parse().ok()?,
            grace: Duration::from_millis(grace.parse().ok()?),
        })
    }

    /// Signal and milliseconds.
    pub fn label(self) -> String {
        format!("{} {}", self.signal, self.grace.as_millis())
    }
}

/// Container, task and snapshot that containerd has under one name. Each new container gets a new
/// name, so that leftovers of a killed one, in containerd or in runc, can't collide with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// The instance that it was made for.
    pub instance: String,
    /// The fingerprint of the service that it was made from, if there is a container.
    pub fingerprint: Option<String>,
    /// Stop signal and grace period that it was made with.
    pub ending: Ending,
    /// Its task; none after its shim was killed.
    pub task: Option<Task>,
    /// Whether a snapshot is left.
    pub snapshot: bool,
    /// Processes of it that the kernel killed for want of memory.
    pub oom_kills: u64,
}

impl Observed {
    /// A task without a container: the agent was killed while it had one made, the next one found
    /// no task yet and took the container away, and then the task came.
    pub fn is_orphan(&self) -> bool {
        self.task.is_some() && self.fingerprint.is_none()
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Take away task, container and snapshot of that name, whatever of them there is.
    Remove(String),
    /// Make and start one for this instance.
    Create(String),
}

/// The instance that it was made for, if that is wanted in the version that it was made from.
fn is_of<'a>(wanted: &'a [Instance], found: &Observed) -> Option<&'a Instance> {
    let version = found.fingerprint.as_ref();
    wanted.iter().find(|it| it.id == found.instance && Some(&it.fingerprint) == version)
}

/// Returns stop signal and grace period of a found container: the declared ones if it is of a
/// wanted version, else its own.
pub fn ending(wanted: &[Instance], found: &Observed) -> Ending {
    is_of(wanted, found).map_or(found.ending, |instance| {
        // What is declared now counts, and of the image what it was made with.
        Ending::of(&instance.service, Some(found.ending.signal))
    })
}

/// Whether something is still to go: it may use what nothing that is wanted does.
pub fn has_others(wanted: &[Instance], observed: &BTreeMap<String, Observed>) -> bool {
    observed.values().any(|found| is_of(wanted, found).is_none())
}

/// Restart history of an instance: counts and the last start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// Restarts since the agent started.
    pub restarts: u32,
    /// Failures in a row: the wait grows with them.
    pub failures: u32,
    /// When it was last started, since the agent started.
    pub started_at: Option<Duration>,
}

impl History {
    /// When it may be started.
    fn due_at(&self) -> Duration {
        let Some(started) = self.started_at else { return Duration::ZERO };
        let delay = RESTART_DELAY.saturating_mul(1 << self.failures.min(16)).min(RESTART_DELAY_MAX);
        started + delay
    }

    /// Counts a container that could not be made as a failure, which lengthens the restart delay.
    pub fn note_not_made(&mut self) {
        self.failures += 1;
    }

    /// Records a start at `now`. An end without the container's own doing (a killed shim, a lost
    /// containerd) is no failure.
    pub fn note_start(&mut self, now: Duration, ended_by_itself: bool) {
        if self.started_at.is_some() {
            self.restarts += 1;
        }
        if self.started_at.is_some() && ended_by_itself {
            // Counted from when it could have been started: the wait itself is not time that it
            // ran.
            let ran = now.saturating_sub(self.due_at());
            self.failures = if ran >= RESTART_FORGIVEN { 0 } else { self.failures + 1 };
        }
        self.started_at = Some(now);
    }
}

/// Whether a service has done what it was to do and is not started again.
pub fn is_over(service: &Service, task: Option<Task>) -> bool {
    matches!(
        (service.policy.restart, task),
        (Restart::No, Some(Task::Stopped(_))) | (Restart::OnFailure, Some(Task::Stopped(0)))
    )
}

/// The container of an instance, and its name; of several, the one that is most of what it is to
/// be.
pub fn container_of<'a>(
    observed: &'a BTreeMap<String, Observed>,
    instance: &Instance,
) -> Option<(&'a String, &'a Observed)> {
    let those = observed.iter().filter(|(_, found)| found.instance == instance.id);
    those.max_by_key(|(_, found)| {
        let current = found.fingerprint.as_ref() == Some(&instance.fingerprint);
        (current, found.task == Some(Task::Running), found.task.is_some())
    })
}

/// The actions that lead from what is observed to what is wanted, in order. What runs is not taken
/// away for a version that may not start yet; one that is not well is made anew, if it is to be
/// started again at all.
pub fn plan(
    wanted: &[Instance],
    observed: &BTreeMap<String, Observed>,
    history: &BTreeMap<String, History>,
    may_start: &dyn Fn(&Instance) -> bool,
    is_unwell: &dyn Fn(&Instance) -> bool,
    now: Duration,
) -> Vec<Action> {
    let ids: BTreeSet<&str> = wanted.iter().map(|instance| instance.id.as_str()).collect();
    let unwanted = observed.iter().filter(|(_, found)| !ids.contains(found.instance.as_str()));
    let mut actions: Vec<Action> = unwanted.map(|(name, _)| Action::Remove(name.clone())).collect();
    for instance in wanted {
        let id = instance.id.clone();
        let chosen = container_of(observed, instance);
        let others = observed.iter().filter(|(name, found)| {
            found.instance == id && chosen.is_none_or(|(chosen, _)| chosen != *name)
        });
        actions.extend(others.map(|(name, _)| Action::Remove(name.clone())));
        let found = chosen.map(|(_, found)| found.clone()).unwrap_or_default();
        let current = found.fingerprint.as_ref() == Some(&instance.fingerprint);
        let runs = found.task == Some(Task::Running);
        let is_well = instance.service.policy.restart == Restart::No || !is_unwell(instance);
        if current && (runs && is_well || is_over(&instance.service, found.task)) {
            continue;
        }
        let changed = found.fingerprint.is_some() && !current;
        let due = changed || history.get(&id).copied().unwrap_or_default().due_at() <= now;
        if !due || !may_start(instance) {
            continue;
        }
        actions.extend(chosen.map(|(name, _)| Action::Remove(name.clone())));
        actions.push(Action::Create(id));
    }
    actions
}

impl Service {
    /// Changes whenever anything declared does.
    pub fn fingerprint(&self) -> String {
        use sha2::{Digest, Sha256};
        let text = serde_json::to_string(self).expect("a service is plain data");
        Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Slot;
    use abi::hostplan::CorePlan;

    fn service(restart: &str) -> Service {
        let cores = CorePlan::from_kernel("0-1", "").unwrap();
        let text = format!("services:\n  a:\n    image: x\n    restart: \"{restart}\"\n");
        crate::compose::parse(&text, &cores).unwrap().remove(0)
    }

    fn planned(
        service: &Service,
        found: Option<Observed>,
        history: History,
        now_ms: u64,
    ) -> Vec<Action> {
        let observed = found.map(|found| ("a-1".to_string(), found)).into_iter().collect();
        let history = [("a".to_string(), history)].into();
        let now = Duration::from_millis(now_ms);
        plan(&[instance(service)], &observed, &history, &|_| true, &|_| false, now)
    }

    fn instance(service: &Service) -> Instance {
        Instance::new(service, Slot::Blue, true)
    }

    fn found(service: &Service, task: Option<Task>) -> Option<Observed> {
        let fingerprint = Some(service.fingerprint());
        let ending = Ending::of(service, None);
        Some(Observed {
            instance: "a".into(),
            fingerprint,
            ending,
            task,
            snapshot: true,
            oom_kills: 0,
        })
    }

    fn old() -> Observed {
        let (fingerprint, task) = (Some("old".into()), Some(Task::Running));
        let ending = Ending { signal: 2, grace: Duration::from_millis(1500) };
        Observed { instance: "a".into(), fingerprint, ending, task, snapshot: true, oom_kills: 0 }
    }

    fn anew() -> Vec<Action> {
        vec![Action::Remove("a-1".into()), Action::Create("a".into())]
    }

    #[test]
    fn every_half_state_leads_to_a_running_container() {
        let service = service("always");
        let fresh = History::default();
        assert_eq!(planned(&service, None, fresh, 0), [Action::Create("a".into())]);
        assert_eq!(planned(&service, found(&service, Some(Task::Running)), fresh, 0), []);
        for task in [None, Some(Task::Created), Some(Task::Stopped(0)), Some(Task::Stopped(137))] {
            assert_eq!(planned(&service, found(&service, task), fresh, 0), anew(), "{task:?}");
        }
        let orphan = Observed { instance: "a".into(), snapshot: true, ..Observed::default() };
        assert_eq!(planned(&service, Some(orphan), fresh, 0), anew());
    }

    #[test]
    fn a_container_ends_as_it_was_declared_when_it_was_made() {
        let service = service("always");
        let same = found(&service, None).unwrap();
        let mut later = service.clone();
        later.policy.stop_signal = Some(10);
        // Of the same container, what is declared now; of another version's, its own.
        let now = Ending { signal: 10, ..Ending::of(&service, None) };
        assert_eq!(ending(&[instance(&later)], &same), now);
        assert_eq!(ending(&[instance(&later)], &old()), old().ending);
        assert_eq!(ending(&[], &same), same.ending);
        assert_eq!(Ending::read(&old().ending.label()), Some(old().ending));
        assert!(["", "15", "x 1", "15 x"].iter().all(|label| Ending::read(label).is_none()));
    }

    #[test]
    fn an_earlier_version_is_somebody_else() {
        let service = service("always");
        let wanted = [instance(&service)];
        let running = found(&service, Some(Task::Running)).unwrap();
        let named = |found: Observed| BTreeMap::from([("a-1".to_string(), found)]);
        assert!(!has_others(&wanted, &BTreeMap::new()) && !has_others(&wanted, &named(running)));
        // Of the same name; and one without a container.
        assert!(has_others(&wanted, &named(old())));
        assert!(has_others(
            &wanted,
            &named(found(&service, None).map(|it| Observed { fingerprint: None, ..it }).unwrap())
        ));
        assert!(has_others(&[], &named(found(&service, None).unwrap())));
    }

    #[test]
    fn a_changed_service_is_made_anew_and_an_undeclared_one_removed() {
        let service = service("always");
        let old = old();
        assert_eq!(planned(&service, Some(old.clone()), History::default(), 0), anew());
        let observed = [("b-1".to_string(), old)].into();
        let actions = plan(&[], &observed, &BTreeMap::new(), &|_| true, &|_| false, Duration::ZERO);
        assert_eq!(actions, [Action::Remove("b-1".into())]);
    }

    #[test]
    fn of_two_containers_of_an_instance_the_one_that_runs_stays() {
        let service = service("always");
        let all = [
            ("a-1".to_string(), found(&service, None).unwrap()),
            ("a-2".to_string(), found(&service, Some(Task::Running)).unwrap()),
            ("a-3".to_string(), old()),
        ];
        let wanted = [instance(&service)];
        let history = BTreeMap::new();
        let actions = plan(&wanted, &all.into(), &history, &|_| true, &|_| false, Duration::ZERO);
        assert_eq!(actions, [Action::Remove("a-1".into()), Action::Remove("a-3".into())]);
    }

    #[test]
    fn one_that_is_not_well_is_made_anew() {
        let planned = |restart: &str| {
            let service = service(restart);
            let observed = [("a-1".to_string(), found(&service, Some(Task::Running)).unwrap())];
            let history = BTreeMap::new();
            plan(
                &[instance(&service)],
                &observed.into(),
                &history,
                &|_| true,
                &|_| true,
                Duration::ZERO,
            )
        };
        assert_eq!(planned("always"), anew());
        assert_eq!(planned("no"), []);
    }

    #[test]
    fn what_runs_stays_until_what_is_next_may_start() {
        let service = service("always");
        let old = old();
        let observed = [("a-1".to_string(), old)].into();
        let planned = |may_start: &dyn Fn(&Instance) -> bool| {
            let wanted = [instance(&service)];
            plan(&wanted, &observed, &BTreeMap::new(), may_start, &|_| false, Duration::ZERO)
        };
        assert_eq!(planned(&|_| false), []);
        assert_eq!(planned(&|instance| instance.service.image == "x"), anew());
    }

    #[test]
    fn restart_policies_hold() {
        for (policy, task, ends) in [
            ("no", 1, true),
            ("on-failure", 0, true),
            ("on-failure", 1, false),
            ("always", 0, false),
        ] {
            let service = service(policy);
            let actions = planned(
                &service,
                found(&service, Some(Task::Stopped(task))),
                History::default(),
                0,
            );
            assert_eq!(actions.is_empty(), ends, "{policy} after status {task}");
        }
    }

    #[test]
    fn a_container_that_keeps_dying_is_started_more_and_more_rarely() {
        let service = service("always");
        let mut history = History::default();
        let mut starts = Vec::new();
        for now_ms in (0..40_000).step_by(50) {
            if !planned(&service, found(&service, None), history, now_ms).is_empty() {
                history.note_start(Duration::from_millis(now_ms), true);
                starts.push(now_ms);
            }
        }
        assert_eq!(starts[..6], [0, 100, 300, 700, 1500, 3100]);
        assert!(starts.len() < 12, "{starts:?}");
        let failures = history.failures;
        history.note_start(Duration::from_secs(60), false);
        assert_eq!(history.failures, failures);
        history.note_start(Duration::from_secs(100), true);
        assert_eq!(history.failures, 0);
    }
}
