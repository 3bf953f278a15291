//! Containers as they are wanted and as they are: which instances are to run, what containerd
//! shows, what probes say, how often each was started. Answers questions, changes nothing outside.

use crate::compose::{Condition, Service};
use crate::health::HealthTable;
use crate::instance::Instance;
use crate::plan::{self, Ending, History, Observed, Task, container_of, is_over};
use crate::status::Container;
use std::collections::{BTreeMap, BTreeSet};

/// Wanted instances beside what is observed of them.
#[derive(Debug, Default)]
pub struct ContainerTable {
    /// Instances to run: those of declared services without failed versions, those on trial, and
    /// ephemeral debug containers.
    pub wanted: Vec<Instance>,
    /// Containers of containerd, by their name there.
    pub observed: BTreeMap<String, Observed>,
    /// Results of health probes.
    pub health: HealthTable,
    /// Starts of each instance, by its ID.
    pub history: BTreeMap<String, History>,
}

impl ContainerTable {
    /// Wanted instance with this ID.
    pub fn wanted_instance(&self, id: &str) -> Option<&Instance> {
        self.wanted.iter().find(|instance| instance.id == id)
    }

    /// Instance of a service that others rely on.
    pub fn serving(&self, service: &str) -> Option<&Instance> {
        self.wanted.iter().find(|it| it.service.name == service && it.serving)
    }

    /// State of the task of an instance, if its container is of the wanted version.
    pub fn task(&self, instance: &Instance) -> Option<Task> {
        let (_, observed) = container_of(&self.observed, instance)?;
        observed.task.filter(|_| observed.fingerprint.as_ref() == Some(&instance.fingerprint))
    }

    /// Signal and grace period with which a container is to be ended.
    pub fn ending(&self, name: &str) -> Ending {
        let found = self.observed.get(name);
        found.map_or_else(Ending::default, |found| plan::ending(&self.wanted, found))
    }

    /// Description of the removal of a container, with its exit status if it had ended.
    pub fn removal(&self, name: &str) -> String {
        match self.observed.get(name).and_then(|observed| observed.task) {
            Some(Task::Stopped(status)) => {
                let oom = self.observed.get(name).map_or(0, |observed| observed.oom_kills);
                format!("taken away; it had ended with {}", end(status, oom))
            }
            Some(Task::Running) => "taken away".into(),
            Some(Task::Created) | None => "taken away; it did not run".into(),
        }
    }

    /// True if every service that this one depends on is in the state that it asks for.
    pub fn has_dependencies(&self, service: &Service) -> bool {
        service.policy.depends_on.iter().all(|(name, condition)| {
            self.serving(name).is_some_and(|other| match condition {
                Condition::ServiceStarted => {
                    self.task(other).is_some_and(|task| task != Task::Created)
                }
                Condition::ServiceHealthy => {
                    self.health.of(&other.id, &other.fingerprint) == Some(true)
                }
                Condition::ServiceCompletedSuccessfully => {
                    self.task(other) == Some(Task::Stopped(0))
                }
            })
        })
    }

    /// Returns true if the kernel killed a process of an instance's container for want of memory.
    pub fn is_out_of_memory(&self, instance: &Instance) -> bool {
        let found = container_of(&self.observed, instance);
        found.is_some_and(|(_, observed)| observed.oom_kills > 0)
    }

    /// Exit status of an instance that failed and is not started again.
    pub fn failure(&self, instance: &Instance) -> Option<u32> {
        match self.task(instance) {
            // Whoever started a debug container is told its status.
            Some(Task::Stopped(status)) if status != 0 && !instance.is_debug() => {
                is_over(&instance.service, Some(Task::Stopped(status))).then_some(status)
            }
            _ => None,
        }
    }

    /// True if an instance runs as wanted and is healthy, or has done its work. A version on trial
    /// beside another counts as up: nothing waits for it.
    pub fn is_up(&self, instance: &Instance) -> bool {
        let task = self.task(instance);
        let healthy = self.health.of(&instance.id, &instance.fingerprint);
        let is_well = instance.service.policy.health.is_none() || healthy == Some(true);
        !instance.serving
            || task == Some(Task::Running) && is_well
            || task.is_some()
                && is_over(&instance.service, task)
                && self.failure(instance).is_none()
    }

    /// True if every wanted instance is up.
    pub fn all_up(&self) -> bool {
        self.wanted.iter().all(|instance| self.is_up(instance))
    }

    /// IDs of all instances that are wanted or observed.
    pub fn ids(&self) -> BTreeSet<String> {
        let observed = self.observed.values().map(|found| found.instance.clone());
        self.wanted.iter().map(|it| it.id.clone()).chain(observed).collect()
    }

    /// Status of an instance, with its rollout state and generation.
    pub fn status(
        &self,
        instance: &Instance,
        rollout: Option<String>,
        generation: u64,
    ) -> Container {
        let service = &instance.service;
        let found = container_of(&self.observed, instance);
        let task = found.and_then(|(_, observed)| observed.task);
        Container {
            name: instance.id.clone(),
            image: service.image.clone(),
            state: match task {
                Some(Task::Running) => "running".into(),
                Some(Task::Created) => "created".into(),
                Some(Task::Stopped(status)) => {
                    let how = if self.failure(instance).is_some() { "failed" } else { "stopped" };
                    let oom = found.map_or(0, |(_, observed)| observed.oom_kills);
                    format!("{how} ({})", end(status, oom))
                }
                None => "absent".into(),
            },
            up: self.is_up(instance),
            health: service.policy.health.as_ref().map(|_| {
                match self.health.of(&instance.id, &instance.fingerprint) {
                    None => "starting".into(),
                    Some(true) => "healthy".into(),
                    Some(false) => "unhealthy".into(),
                }
            }),
            rollout,
            restarts: self.history.get(&instance.id).map_or(0, |history| history.restarts),
            cpuset: service.cpuset.clone(),
            generation,
        }
    }
}

/// Exit status as text, with the reason if the kernel killed processes for want of memory.
fn end(status: u32, oom_kills: u64) -> String {
    format!("{status}{}", if oom_kills > 0 { ", out of memory" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::RolloutState;
    use abi::hostplan::CorePlan;

    const FILE: &str = "services:\n  db: {image: x}\n  app: {image: x, depends_on: [db]}\n";

    #[test]
    fn what_runs_decides_what_may_start_and_what_is_up() {
        let cores = CorePlan::from_kernel("0-1", "").unwrap();
        let services = crate::compose::parse(FILE, &cores).unwrap();
        let mut state = RolloutState::default();
        state.declare(&services);
        let wanted = state.instances(&services, &cores);
        let mut table = ContainerTable { wanted, ..ContainerTable::default() };
        let find = |table: &ContainerTable, id: &str| table.wanted_instance(id).unwrap().clone();
        let (db, app) = (find(&table, "db"), find(&table, "app"));
        assert!(table.has_dependencies(&db.service) && !table.has_dependencies(&app.service));
        assert_eq!(table.status(&db, None, 1).state, "absent");
        let run = |table: &mut ContainerTable, instance: &Instance, fingerprint: &str| {
            let observed = Observed {
                instance: instance.id.clone(),
                fingerprint: Some(fingerprint.to_owned()),
                task: Some(Task::Running),
                ..Observed::default()
            };
            table.observed.insert(format!("{}-1", instance.id), observed);
        };
        // Another version of it counts for nothing.
        run(&mut table, &db, "another");
        assert!(!table.has_dependencies(&app.service) && !table.is_up(&db));
        run(&mut table, &db, &db.fingerprint);
        assert!(table.has_dependencies(&app.service) && table.is_up(&db) && !table.all_up());
        run(&mut table, &app, &app.fingerprint);
        assert!(table.all_up());
        assert_eq!(table.status(&app, None, 7).generation, 7);
        assert_eq!(table.removal("db-1"), "taken away");
    }

    #[test]
    fn a_one_shot_is_up_when_it_has_done_its_work_and_not_when_it_failed() {
        let cores = CorePlan::from_kernel("0-1", "").unwrap();
        let file =
            "services:\n  job: {image: x, restart: \"no\"}\n  app: {image: x, restart: always}\n";
        let services = crate::compose::parse(file, &cores).unwrap();
        let mut state = RolloutState::default();
        state.declare(&services);
        let wanted = state.instances(&services, &cores);
        let mut table = ContainerTable { wanted, ..ContainerTable::default() };
        let mut shown = |id: &str, status: u32, oom_kills: u64| {
            let instance = table.wanted_instance(id).unwrap().clone();
            let observed = Observed {
                instance: id.into(),
                fingerprint: Some(instance.fingerprint.clone()),
                task: Some(Task::Stopped(status)),
                oom_kills,
                ..Observed::default()
            };
            table.observed.insert(format!("{id}-1"), observed);
            let shown = table.status(&instance, None, 1);
            (shown.up, shown.state, table.failure(&instance))
        };
        assert_eq!(shown("job", 0, 0), (true, "stopped (0)".into(), None));
        assert_eq!(shown("job", 4, 0), (false, "failed (4)".into(), Some(4)));
        assert_eq!(shown("job", 137, 0), (false, "failed (137)".into(), Some(137)));
        let out_of_memory = "failed (137, out of memory)".to_owned();
        assert_eq!(shown("job", 137, 1), (false, out_of_memory, Some(137)));
        // This one is started again.
        assert_eq!(shown("app", 4, 0), (false, "stopped (4)".into(), None));
    }
}
