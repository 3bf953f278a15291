//! Volumes of other hosts: mounted before the containers that use them are made, unmounted once
//! nobody does.

use crate::reconcile::Agent;
use crate::reconcile::tasks::Work;
use agent_core::compose::remote_volumes::{REMOTE_VOLUMES, Remote};
use agent_core::instance::Instance;
use agent_core::limits::REMOTE_PAUSE;
use agent_core::plan;
use agent_core::protocol::types::Level;
use agent_host::volume_mounts;
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const ABOUT: &str = "volume ";

/// Remote volumes of this host and their mount state.
#[derive(Debug, Default)]
pub struct VolumeMounts {
    /// Volume IDs that are mounted.
    mounted: BTreeSet<String>,
    /// Volume IDs that were requested, mounted or not.
    known: BTreeSet<String>,
    /// Errors of failed requests, and the time of the next attempt, by volume ID.
    postponed: BTreeMap<String, (String, Duration)>,
}

impl VolumeMounts {
    /// Whether all that an instance has of other hosts is mounted.
    pub fn has_all(&self, instance: &Instance) -> bool {
        volumes(instance).all(|(id, _)| self.mounted.contains(&id))
    }
}

/// Iterates over the remote volumes of an instance, with their IDs.
fn volumes(instance: &Instance) -> impl Iterator<Item = (String, &Remote)> {
    instance.service.binds.iter().filter_map(|bind| {
        Some((bind.source.strip_prefix(REMOTE_VOLUMES)?.to_owned(), bind.remote.as_ref()?))
    })
}

impl Agent {
    pub(super) fn mount_volumes(&mut self) -> Result<()> {
        let wanted: BTreeMap<String, Remote> =
            self.table.wanted.iter().flat_map(volumes).map(|(id, it)| (id, it.clone())).collect();
        let before = std::mem::replace(&mut self.remote.mounted, volume_mounts::mounted()?);
        self.remote.known = volume_mounts::known()?;
        for id in self.remote.mounted.difference(&before).filter(|id| wanted.contains_key(*id)) {
            let text = format!("{} is mounted", wanted[id].what);
            self.log.record(Level::Info, &format!("{ABOUT}{id}"), &text);
        }
        for (id, remote) in &wanted {
            self.ask_volume(id, Some(remote.clone()));
        }
        // A disk goes with its session, whoever still uses it.
        if !plan::has_others(&self.table.wanted, &self.table.observed)
            && !self.tasks.has_any(|work| matches!(work, Work::Volume(_)))
        {
            let left = self.remote.mounted.union(&self.remote.known);
            let gone: Vec<String> = left.filter(|id| !wanted.contains_key(*id)).cloned().collect();
            // One after the other: the last of them ends the sessions.
            if let Some(id) = gone.iter().find(|id| !self.is_postponed(id)) {
                self.ask_volume(id, None);
            }
        }
        self.say_volumes(&wanted);
        Ok(())
    }

    /// Has it mounted or unmounted, unless that is so, under way or postponed.
    fn ask_volume(&mut self, id: &str, remote: Option<Remote>) {
        let work = Work::Volume(id.to_owned());
        let is_so = remote.is_some() && self.remote.mounted.contains(id);
        if is_so || self.is_postponed(id) || self.tasks.has(&work) {
            return;
        }
        let id = id.to_owned();
        let request = async move {
            let done = volume_mounts::request(&id, remote).await;
            (id, done)
        };
        self.start(vec![work], request, |agent, (id, done)| {
            match done {
                Ok(()) => drop(agent.remote.postponed.remove(&id)),
                Err(error) => {
                    let again = agent.now() + REMOTE_PAUSE;
                    agent.remote.postponed.insert(id, (format!("{error:#}"), again));
                }
            }
            agent.link.wake.notify_one();
        });
    }

    fn is_postponed(&self, id: &str) -> bool {
        self.remote.postponed.get(id).is_some_and(|(_, again)| self.now() < *again)
    }

    fn say_volumes(&mut self, wanted: &BTreeMap<String, Remote>) {
        let VolumeMounts { mounted, known, postponed, .. } = &mut self.remote;
        let is_open = |id: &str| match wanted.contains_key(id) {
            true => !mounted.contains(id),
            false => mounted.contains(id) || known.contains(id),
        };
        self.problems.forget(|about| about.strip_prefix(ABOUT).is_some_and(|id| !is_open(id)));
        postponed.retain(|id, _| is_open(id));
        for (id, (why, _)) in postponed.clone() {
            self.problems.set(&format!("{ABOUT}{id}"), Some(why));
        }
        for id in wanted.keys().filter(|id| !self.remote.mounted.contains(*id)) {
            let about = format!("{ABOUT}{id}");
            if !self.problems.has(&about) {
                self.problems.set_transient(about, "is being mounted".into());
            }
        }
    }
}
