//! `qctl cpu map`: which core is whose.

use crate::client::Client;
use crate::output::{self, Output};
use crate::table::Column::{Number, Text};
use crate::table::table;
use abi::hostplan::CpuSet;
use agent_core::status::Status;
use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;

#[derive(Debug, Subcommand)]
pub enum Cpu {
    /// Each core: what it is for, who may run there, what interrupted it since the boot.
    Map {
        /// Format of the output.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Line {
    cpu: u32,
    role: &'static str,
    users: Vec<String>,
    timer: u64,
    ipi: u64,
    device: u64,
}

/// Prints the core map: role, interrupts and users of each core.
pub fn map(client: &mut Client, output: Output) -> Result<()> {
    let lines = lines(&client.status()?);
    if output != output::Output::Table {
        return output.print(&lines);
    }
    let columns = [
        Number("CORE"),
        Text("ROLE"),
        Number("TIMER"),
        Number("IPI"),
        Number("DEVICE"),
        Text("USERS"),
    ];
    let rows = lines.into_iter().map(|Line { cpu, role, users, timer, ipi, device }| {
        let [timer, ipi, device] = [timer, ipi, device].map(|count| count.to_string());
        vec![cpu.to_string(), role.into(), timer, ipi, device, users.join(", ")]
    });
    print!("{}", table(&columns, rows));
    Ok(())
}

fn lines(status: &Status) -> Vec<Line> {
    let engines = |cpu: u32| {
        let of = status.engines.iter().filter(move |engine| engine.cpu == Some(cpu));
        of.map(|engine| format!("engine {}", engine.shard).trim_end().to_owned())
    };
    let containers = |cpu: u32| {
        let runs = status.containers.iter().filter(move |container| {
            let set = CpuSet::parse(&container.cpuset, cpu);
            container.state == "running" && set.is_ok_and(|set| set.contains(cpu))
        });
        runs.map(|container| container.name.clone())
    };
    let line = |core: &agent_core::status::Core| {
        let users: Vec<String> = engines(core.cpu).chain(containers(core.cpu)).collect();
        Line {
            cpu: core.cpu,
            role: match (core.hot, users.is_empty()) {
                (true, true) => "hot, journal",
                (true, false) => "hot, engine",
                (false, _) => "housekeeping",
            },
            users,
            timer: core.counts.timer,
            ipi: core.counts.ipi,
            device: core.counts.device,
        }
    };
    status.cores.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::status::{Container, Core, Engine};

    #[test]
    fn each_core_has_those_who_may_run_there() {
        let core = |cpu, hot| Core { cpu, hot, ..Core::default() };
        let container = |name: &str, cpuset: &str, state: &str| Container {
            name: name.into(),
            cpuset: cpuset.into(),
            state: state.into(),
            ..Container::default()
        };
        let status = Status {
            cores: vec![core(0, false), core(1, false), core(2, true), core(3, true)],
            engines: vec![Engine { cpu: Some(2), ..Engine::default() }],
            containers: vec![
                container("a", "0-1", "running"),
                container("b", "1", "running"),
                container("c", "0", "stopped (0)"),
            ],
            ..Status::default()
        };
        let lines = lines(&status);
        let users: Vec<String> = lines.iter().map(|line| line.users.join(" ")).collect();
        assert_eq!(users, ["a", "a b", "engine", ""]);
        let roles: Vec<&str> = lines.iter().map(|line| line.role).collect();
        assert_eq!(roles, ["housekeeping", "housekeeping", "hot, engine", "hot, journal"]);
    }
}
