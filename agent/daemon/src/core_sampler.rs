//! Interrupts and context switches of every core from one second to the next, as the status shows
//! them.

use crate::core_interference::{self, foreign_switches, switches_of};
use abi::hostplan::CpuSet;
use agent_core::protocol::types::CoreCounts;
use agent_core::status::{Core, Engine};
use std::collections::BTreeMap;

/// Counts of the last sample, and what they came to since the engines started.
#[derive(Debug, Default)]
pub struct CoreSampler {
    counts: BTreeMap<u32, CoreCounts>,
    engine_pids: Vec<u32>,
    engine_switches: BTreeMap<u32, u64>,
    cores: Vec<Core>,
}

impl CoreSampler {
    /// Cores as of the last sample, by number.
    pub fn cores(&self) -> &[Core] {
        &self.cores
    }

    /// Takes the counts of every core and what they grew by since the last sample.
    pub fn sample(&mut self, engines: &[Engine], hot: &CpuSet) {
        let counts = core_interference::sample();
        let pids: Vec<u32> = engines.iter().map(|engine| engine.pid).collect();
        let engine_cpus: Vec<u32> = engines.iter().filter_map(|engine| engine.cpu).collect();
        let mut own = BTreeMap::new();
        for (cpu, switches) in pids.iter().flat_map(|pid| switches_of(*pid as i32)) {
            *own.entry(cpu).or_default() += switches;
        }
        let same_engine = pids == self.engine_pids;
        let before: BTreeMap<u32, u64> =
            self.cores.drain(..).map(|core| (core.cpu, core.foreign_switches)).collect();
        for (cpu, now) in &counts {
            let was = self.counts.get(cpu).copied().unwrap_or(*now);
            let grown = |map: &BTreeMap<u32, u64>| map.get(cpu).copied().unwrap_or(0);
            let own_now = grown(&own).saturating_sub(grown(&self.engine_switches));
            let switches = now.switches.saturating_sub(was.switches);
            let foreign = foreign_switches(switches, own_now, engine_cpus.contains(cpu));
            let foreign = if same_engine { foreign } else { 0 };
            self.cores.push(Core {
                cpu: *cpu,
                hot: hot.contains(*cpu),
                counts: *now,
                foreign_switches: if same_engine { grown(&before) + foreign } else { 0 },
                timer_per_second: now.timer.saturating_sub(was.timer),
                foreign_per_second: foreign,
            });
        }
        self.counts = counts;
        self.engine_pids = pids;
        self.engine_switches = own;
    }
}
