//! Identity of what answers a probe: refuses probes that something else than the version on trial
//! could answer, the version before, which runs beside it, or a program of the host.

use crate::compose::schema::RawService;
use crate::compose::{NetworkMode, Order, RuntimePolicy, probe};

/// Key, value and remedy of a refusal.
type Fault = (&'static str, String, String);

/// First probe of a service that something else could answer.
pub fn fault(raw: &RawService, policy: &RuntimePolicy) -> Option<Fault> {
    let probe = policy.health.as_ref().map(|health| &health.probe);
    let is_port = probe.is_some_and(|probe| !matches!(probe, probe::Probe::File { .. }));
    if is_port && raw.network_mode == Some(NetworkMode::None) {
        let remedy = "x-quietcore: {file: PATH, max_age: 30s}: a container without a network listens at no port of this host";
        return Some(("healthcheck", "network_mode: none".into(), remedy.into()));
    }
    if policy.order != Order::StartFirst {
        return None;
    }
    let ports = raw.own.as_ref().map(|own| &own.ports);
    let shared = |key: &'static str, port: u16| {
        let has_two = ports.is_some_and(|ports| ports.contains_key(&port));
        let remedy = format!(
            "with order: start-first two versions run side by side, and the one before could answer; give each its own with x-quietcore: {{ports: {{{port}: OTHER}}}}"
        );
        (!has_two).then(|| (key, format!("port {port}"), remedy))
    };
    let of_health = match probe {
        Some(
            probe::Probe::Http { port, .. }
            | probe::Probe::Tcp { port }
            | probe::Probe::Metrics { port, .. },
        ) => shared("healthcheck", *port),
        Some(probe::Probe::File { path, .. }) => {
            let remedy = "with order: start-first the version before could write it; probe a port of x-quietcore.ports, or use order: stop-first";
            Some(("healthcheck", path.clone(), remedy.into()))
        }
        None => None,
    };
    let metrics = policy.canary.as_ref().and_then(|canary| canary.metrics.as_ref());
    of_health.or_else(|| shared("x-quietcore.canary.metrics", metrics?.0))
}
