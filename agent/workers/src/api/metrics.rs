//! Agent status as metrics (Prometheus text exposition format, version 0.0.4). The exporter has the
//! engine's own.

use agent_core::status::Status;
use std::fmt::Write;

/// Renders the metrics page of an agent's status.
pub fn page(status: &Status) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, samples: Vec<(String, u64)>| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let plain = |value: bool| vec![(String::new(), u64::from(value))];
    metric(
        "quietcore_ready",
        "gauge",
        "1 if the engine trades and every container runs.",
        plain(status.ready),
    );
    metric(
        "quietcore_healthy",
        "gauge",
        "1 if the engine runs and every container does.",
        plain(status.healthy),
    );
    metric(
        "quietcore_partition",
        "gauge",
        "1 if the hot cores are an isolated partition.",
        plain(status.partition),
    );
    let problems = vec![(String::new(), status.problems.len() as u64)];
    metric("quietcore_problems", "gauge", "Things that are not as they are to be.", problems);
    let containers = || status.containers.iter();
    let name = |name: &str| format!("{{container=\"{name}\"}}");
    metric(
        "quietcore_container_running",
        "gauge",
        "1 if the container runs.",
        containers().map(|it| (name(&it.name), u64::from(it.state == "running"))).collect(),
    );
    metric(
        "quietcore_container_restarts_total",
        "counter",
        "How often it was started again since the agent started.",
        containers().map(|it| (name(&it.name), u64::from(it.restarts))).collect(),
    );
    metric(
        "quietcore_container_generation",
        "gauge",
        "The number of its service's version.",
        containers().map(|it| (name(&it.name), it.generation)).collect(),
    );
    let hot = || status.cores.iter().filter(|core| core.hot);
    let cpu = |cpu: u32| format!("{{cpu=\"{cpu}\"}}");
    metric(
        "quietcore_hot_core_timer_interrupts_total",
        "counter",
        "Timer interrupts of a hot core since the boot.",
        hot().map(|core| (cpu(core.cpu), core.counts.timer)).collect(),
    );
    metric(
        "quietcore_hot_core_foreign_switches_total",
        "counter",
        "Context switches to something else than the engine since it started.",
        hot().map(|core| (cpu(core.cpu), core.foreign_switches)).collect(),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::status::{Container, Core};

    #[test]
    fn each_metric_says_what_it_is() {
        let container =
            Container { name: "a.green".into(), state: "running".into(), ..Container::default() };
        let cores = vec![Core { cpu: 2, hot: true, foreign_switches: 5, ..Core::default() }];
        let status =
            Status { containers: vec![container], cores, healthy: true, ..Status::default() };
        let text = page(&status);
        for line in [
            "quietcore_healthy 1",
            "quietcore_container_running{container=\"a.green\"} 1",
            "quietcore_hot_core_foreign_switches_total{cpu=\"2\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        let names = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(names, text.lines().filter(|line| line.starts_with("# HELP")).count());
    }
}
