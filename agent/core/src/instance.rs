//! A service in a slot. Most run in the first; a version that is to prove itself beside the one
//! before runs in the other, with ports of its own.

use crate::compose::healthcheck::Health;
use crate::compose::{Service, probe};
use crate::health::Subject;
use crate::protocol::types::Terminal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Where a version runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The one whose containers have the service's name.
    #[default]
    Blue,
    /// The one beside it.
    Green,
}

impl Slot {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    /// The container's name. Services' names have no dot.
    fn id(self, service: &str) -> String {
        match self {
            Self::Blue => service.to_owned(),
            Self::Green => format!("{service}.green"),
        }
    }
}

/// The service that a container belongs to.
pub fn service_of(id: &str) -> &str {
    id.strip_suffix(".green").unwrap_or(id)
}

/// A container that is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Container name: `NAME` or `NAME.green`.
    pub id: String,
    /// Slot in which it runs.
    pub slot: Slot,
    /// Whether it is the one that others rely on; the one beside it is on trial.
    pub serving: bool,
    /// Fingerprint of the service as declared: equal in both slots.
    pub fingerprint: String,
    /// Service with this slot's ports.
    pub service: Service,
    /// Its terminal, if somebody sits at one.
    pub terminal: Option<Terminal>,
}

/// Beginning of the IDs of ephemeral debug containers: no service has a point in its name.
pub const DEBUG: &str = "debug.";

impl Instance {
    /// True for the container of `qctl debug`, which belongs to no declared service.
    pub fn is_debug(&self) -> bool {
        self.id.starts_with(DEBUG)
    }

    /// A service in a slot.
    pub fn new(service: &Service, slot: Slot, serving: bool) -> Self {
        Self {
            id: slot.id(&service.name),
            slot,
            serving,
            fingerprint: service.fingerprint(),
            service: in_slot(service, slot),
            terminal: None,
        }
    }

    /// Returns the subjects to probe while it runs: its health check, and the metrics of a canary.
    pub fn subjects(&self) -> Vec<Subject> {
        let policy = &self.service.policy;
        let subject = |name: String, health: Health| Subject {
            name,
            fingerprint: self.fingerprint.clone(),
            health,
        };
        let health = policy.health.iter().map(|health| subject(self.id.clone(), health.clone()));
        let canary = policy.canary.as_ref().filter(|_| !self.serving);
        let metrics = canary.and_then(|canary| {
            let (port, path) = canary.metrics.clone()?;
            let probe = probe::Probe::Metrics { port, path, checks: canary.checks.clone() };
            let health = Health {
                probe,
                interval: canary.interval,
                timeout: canary.interval.max(Duration::from_secs(1)),
                retries: METRICS_RETRIES,
                // As long as its health check may fail.
                start_period: policy.health.as_ref().map_or(Duration::ZERO, |it| it.start_period),
                start_interval: None,
            };
            Some(subject(self.metrics_name(), health))
        });
        health.chain(metrics).collect()
    }

    /// Under which name its metrics are in the book of health.
    pub fn metrics_name(&self) -> String {
        format!("{} metrics", self.id)
    }

    /// A line for each port that another stands for: as the file has it, and where the service is
    /// now.
    pub fn ports(&self) -> String {
        let ports = self.service.ports.iter();
        let line = |(blue, green): (&u16, &u16)| match self.slot {
            Slot::Blue => format!("{blue} {blue}\n"),
            Slot::Green => format!("{blue} {green}\n"),
        };
        ports.map(line).collect()
    }
}

/// Looks at metrics in a row that fail before it counts: a single one may fall into a pause of the
/// machine.
const METRICS_RETRIES: u32 = 2;

fn in_slot(service: &Service, slot: Slot) -> Service {
    let mut service = service.clone();
    let ports = service.ports.clone();
    if slot == Slot::Blue || ports.is_empty() {
        return service;
    }
    let entrypoint = service.entrypoint.iter_mut().flatten();
    let command = service.command.iter_mut().flatten();
    for word in entrypoint.chain(command).chain(&mut service.environment) {
        *word = with_ports(word, &ports);
    }
    let other = |port: &mut u16| *port = ports.get(port).copied().unwrap_or(*port);
    let probe = service.policy.health.as_mut().map(|health| &mut health.probe);
    if let Some(probe::Probe::Http { port, .. } | probe::Probe::Tcp { port }) = probe {
        other(port);
    }
    let canary = service.policy.canary.as_mut();
    if let Some((port, _)) = canary.and_then(|canary| canary.metrics.as_mut()) {
        other(port);
    }
    service
}

/// A text in which each whole number that is one of the ports is the other one.
fn with_ports(text: &str, ports: &BTreeMap<u16, u16>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, number) = rest.split_at(at);
        let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        let (number, after) = number.split_at(end);
        let other = number.parse().ok().and_then(|port: u16| ports.get(&port));
        out.push_str(before);
        match other {
            Some(port) => out.push_str(&port.to_string()),
            None => out.push_str(number),
        }
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::hostplan::CorePlan;

    #[test]
    fn the_second_slot_has_ports_of_its_own_and_the_same_fingerprint() {
        let cores = CorePlan::from_kernel("0-1", "").unwrap();
        let text = "services:\n  a:\n    image: x\n    command: [\"--listen\", \"127.0.0.1:9470\", \"94701\", \"9470\"]\n    environment: {PORT: 9470}\n    x-quietcore:\n      http: http://127.0.0.1:9470/x\n      ports: {9470: 9480}\n      canary: {metrics: \"http://127.0.0.1:9470/m\", checks: [\"a < 1\"]}\n";
        let service = crate::compose::parse(text, &cores).unwrap().remove(0);
        let blue = Instance::new(&service, Slot::Blue, true);
        let green = Instance::new(&service, Slot::Green, false);
        assert_eq!((&*blue.id, &*green.id), ("a", "a.green"));
        assert_eq!(blue.fingerprint, green.fingerprint);
        let command = green.service.command.clone().unwrap();
        assert_eq!(command, ["--listen", "127.0.0.1:9480", "94701", "9480"]);
        assert_eq!(green.service.environment, ["PORT=9480"]);
        assert_eq!(blue.service.command.as_ref().unwrap()[1], "127.0.0.1:9470");
        assert_eq!((blue.ports().as_str(), green.ports().as_str()), ("9470 9470\n", "9470 9480\n"));
        // Only who is on trial is judged by metrics.
        assert_eq!(blue.subjects().len(), 1);
        let probes: Vec<_> = green.subjects().into_iter().map(|it| it.health.probe).collect();
        assert!(matches!(&probes[0], probe::Probe::Http { port: 9480, .. }));
        assert!(matches!(&probes[1], probe::Probe::Metrics { port: 9480, .. }));
    }
}
