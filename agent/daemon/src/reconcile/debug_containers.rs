//! Containers that are thrown away: somebody looks around with tools of his own, on housekeeping
//! cores, for a while.

use crate::reconcile::Agent;
use crate::reconcile::apply::check_host;
use agent_core::compose::{self, RuntimePolicy};
use agent_core::instance::{DEBUG, Instance, Slot};
use agent_core::limits::{DEBUG_MEMORY, DEBUG_PIDS, DEBUG_SECONDS_MAX, DEBUGS_MAX};
use agent_core::plan::{Task, container_of};
use agent_core::protocol::types::{Level, Size};
use agent_host::terminal::{self, Pipes};
use anyhow::{Context, Result, anyhow, ensure};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tracing::warn;

/// One of them. An agent that starts anew knows it no more, and takes it away.
#[derive(Debug)]
pub struct DebugContainer {
    pub instance: Instance,
    until: Duration,
    /// Size of the terminal that its container is still to be told.
    resized: Option<Size>,
    _pipes: Option<Pipes>,
}

impl Agent {
    /// Starts one from a compose file with one service; returns its name. All that is refused to
    /// others is refused to it.
    pub(super) fn begin_debug(
        &mut self,
        compose: &str,
        seconds: u64,
        size: Option<Size>,
    ) -> Result<String> {
        ensure!((1..=DEBUG_SECONDS_MAX).contains(&seconds), "seconds: 1 to {DEBUG_SECONDS_MAX}");
        ensure!(
            self.debug_containers.len() < DEBUGS_MAX,
            "there are {DEBUGS_MAX} already; qctl debug --end NAME ends one"
        );
        let mut services = compose::parse(compose, &self.cores)?;
        let one = services.pop().filter(|_| services.is_empty());
        let mut service = one.context("a compose file with one service is expected")?;
        self.check_image(&service.image)?;
        check_host(std::slice::from_ref(&service))?;
        // No name of a service has a point. In the journal it is another one each time.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let names = (now..).map(|number| format!("{DEBUG}{number}"));
        let mut names = names.filter(|name| !self.debug_containers.contains_key(name));
        let name = names.next().context("a number that is free")?;
        let RuntimePolicy { stop_signal, stop_grace, .. } = service.policy;
        service.policy = RuntimePolicy { stop_signal, stop_grace, ..RuntimePolicy::default() };
        service.name.clone_from(&name);
        service.ports.clear();
        service.memory_min_bytes = None;
        service.memory_bytes.get_or_insert(DEBUG_MEMORY);
        service.pids.get_or_insert(DEBUG_PIDS);
        // Nobody relies on it.
        let mut instance = Instance::new(&service, Slot::Blue, false);
        let terminals = terminal::directory(&self.paths.socket);
        let terminal =
            size.map(|size| terminal::terminal_of(&terminals, &name, size)).transpose()?;
        let pipes = terminal.clone().map(Pipes::make).transpose()?;
        instance.terminal = terminal;
        let until = self.now() + Duration::from_secs(seconds);
        self.debug_containers
            .insert(name.clone(), DebugContainer { instance, until, resized: None, _pipes: pipes });
        let text = format!("{}, for {seconds} s at most, asked for by hand", service.image);
        self.log.record(Level::Info, &format!("container {name}"), &text);
        self.change_throwaways();
        Ok(name)
    }

    /// Somebody looks at the terminal of one, in this size.
    pub(super) fn show_terminal(
        &mut self,
        name: &str,
        size: Option<Size>,
        then: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        let there = self.debug_containers.get_mut(name);
        match there.filter(|there| there.instance.terminal.is_some()) {
            None => then(Err(anyhow!("there is no {name} with a terminal"))),
            Some(there) => {
                there.resized = size.or(there.resized);
                self.resize_terminal(name, then);
            }
        }
    }

    /// Tells the container of a terminal its size, if somebody asked for another one and the
    /// container was seen.
    fn resize_terminal(&mut self, name: &str, then: impl FnOnce(Result<()>) + Send + 'static) {
        let Some(there) = self.debug_containers.get_mut(name) else { return then(Ok(())) };
        let found = container_of(&self.table.observed, &there.instance);
        let found = found.filter(|(_, it)| it.task == Some(Task::Running));
        match (found, self.link.client.clone()) {
            (Some((container, _)), Some(client)) => {
                let (container, size) = (container.clone(), there.resized.take());
                let resize = async move {
                    match size {
                        Some(size) => client.resize(&container, size).await,
                        None => Ok(()),
                    }
                };
                self.start(Vec::new(), resize, |_, done| then(done.map_err(Into::into)));
            }
            // The next time that it is observed.
            _ => then(Ok(())),
        }
    }

    /// Tells terminals their size that were resized before their containers were seen.
    pub(super) fn resize_terminals(&mut self) {
        let resized = self.debug_containers.iter().filter(|(_, it)| it.resized.is_some());
        let names: Vec<String> = resized.map(|(name, _)| name.clone()).collect();
        for name in names {
            let log = name.clone();
            self.resize_terminal(&name, move |done| {
                if let Err(error) = done {
                    warn!("{log}: {error:#}");
                }
            });
        }
    }

    /// Throws one away.
    pub(super) fn end_debug(&mut self, name: &str) -> Result<()> {
        let there = self.debug_containers.remove(name);
        there.with_context(|| format!("there is no {name}; qctl status shows those that run"))?;
        self.change_throwaways();
        Ok(())
    }

    /// Throws away those whose time is over.
    pub(super) fn end_debugs(&mut self) {
        let (now, before) = (self.now(), self.debug_containers.len());
        self.debug_containers.retain(|_, throwaway| now < throwaway.until);
        if self.debug_containers.len() < before {
            self.change_throwaways();
        }
    }

    fn change_throwaways(&mut self) {
        self.table.wanted = self.instances();
        self.image_manager.changed();
        self.link.wake.notify_one();
    }
}
