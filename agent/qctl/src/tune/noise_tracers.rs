//! The kernel's own judges of noise, where a kernel has them: the tracers osnoise, timerlat and
//! hwlat, on the hot cores while no engine runs there. Each is told by writing to tracefs, as rtla
//! does, in an instance of our own. Source: the kernel's Documentation/trace/osnoise-tracer.rst,
//! timerlat-tracer.rst and hwlat_detector.rst.

use crate::tune::Line;
use abi::hostplan::CpuSet;
use agent_host::systemd::systemctl_blocking;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Where tracefs is.
pub const TRACEFS: &str = "/sys/kernel/tracing";

/// The cgroup that engines run in.
const ENGINES: &str = "/sys/fs/cgroup/hot.slice";

/// Noise of one source that a hot core may have in a second: a tick that is left.
const EVENTS_PER_SECOND: u64 = 1;

/// The name of what stands in the engine's place while osnoise looks, and of the core's own idle
/// thread: no noise.
const OWN_THREADS: [&str; 2] = ["qctl", "swapper/"];

/// osnoise's events, and what they are called here.
const EVENTS: [(&str, &str); 4] = [
    ("irq_noise", "interrupt"),
    ("softirq_noise", "softirq"),
    ("thread_noise", "thread"),
    ("nmi_noise", "NMI"),
];

/// Gaps that the hardware makes are told from this length on, in microseconds.
const HARDWARE_GAP_US: &str = "10";

/// Time for a tracer to start, or for spinning programs to end, on a core.
const SETTLE: Duration = Duration::from_millis(300);

/// A program that spins ends by itself after this, whatever becomes of who started it.
const SPIN_MAX: Duration = Duration::from_secs(60);

/// Findings of the noise tracers osnoise, timerlat and hwlat.
#[derive(Debug, Default)]
pub struct NoiseReport {
    /// One line for each core and source.
    pub lines: Vec<Line>,
    /// Why there are none, or fewer.
    pub not_judged: Vec<String>,
}

/// The CPU and the message of a line of `trace`.
fn message(line: &str) -> Option<(u32, &str)> {
    if line.starts_with('#') {
        return None;
    }
    let (_, rest) = line.split_once('[')?;
    let (cpu, rest) = rest.split_once(']')?;
    Some((cpu.parse().ok()?, rest.split_once(": ")?.1.trim()))
}

/// Counts noise events by core, kind and name, from lines such as `irq_noise: local_timer:236 start
/// ...`.
fn read_osnoise(trace: &str) -> BTreeMap<(u32, String), u64> {
    let mut noise = BTreeMap::new();
    for (cpu, text) in trace.lines().filter_map(message) {
        let event = EVENTS.iter().find_map(|(event, kind)| {
            let source = text.strip_prefix(event)?.strip_prefix(": ")?.split(" start ").next()?;
            // Its number, of the vector or of the process, says nothing more.
            let name = source.rsplit_once(':').map_or(source, |(name, _)| name).trim();
            Some(format!("{kind} {name}"))
        });
        if let Some(source) = event {
            *noise.entry((cpu, source)).or_default() += 1;
        }
    }
    noise
}

/// Whether this is what the judge itself brings.
fn is_own(source: &str) -> bool {
    let thread = source.strip_prefix("thread ");
    thread.is_some_and(|name| OWN_THREADS.iter().any(|own| name.starts_with(own)))
}

/// The longest of `#N context irq timer_latency NS ns` and of `context thread`, for each core.
fn read_timerlat(trace: &str) -> BTreeMap<(u32, &str), u64> {
    let mut longest = BTreeMap::new();
    for (cpu, text) in trace.lines().filter_map(message) {
        let words: Vec<&str> = text.split_whitespace().collect();
        if let [_, "context", context, "timer_latency", ns, "ns"] = words[..]
            && let Ok(ns) = ns.parse::<u64>()
        {
            let most: &mut u64 = longest.entry((cpu, context)).or_default();
            *most = ns.max(*most);
        }
    }
    longest
}

/// The gaps in `#N inner/outer(us): IN/OUT`: how many, and the longest in microseconds.
fn read_hwlat(trace: &str) -> (usize, u64) {
    let gaps = trace.lines().filter_map(message).filter_map(|(_, text)| {
        let (_, rest) = text.split_once("inner/outer(us):")?;
        let both = rest.split_whitespace().next()?;
        both.split('/').filter_map(|us| us.parse::<u64>().ok()).max()
    });
    let gaps: Vec<u64> = gaps.collect();
    (gaps.len(), gaps.into_iter().max().unwrap_or(0))
}

/// Kind of machine, which decides how far its measured times count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    /// Bare metal, without a hypervisor.
    Bare,
    /// Its hypervisor takes time that looks like the hardware's.
    Virtual,
    /// Times say nothing.
    Emulated,
}

impl Machine {
    fn detect() -> Self {
        let output = Command::new("systemd-detect-virt").arg("--vm").output();
        match output.map(|output| output.stdout).unwrap_or_default().trim_ascii() {
            b"none" => Self::Bare,
            b"qemu" => Self::Emulated,
            _ => Self::Virtual,
        }
    }
}

/// One tracer in an instance of ours, which is removed in the end.
struct Tracer(PathBuf);

impl Tracer {
    fn new(tracefs: &Path) -> Result<Self> {
        let directory = tracefs.join("instances/quietcore-noise-tracers");
        // One that was killed left it.
        let _ = std::fs::remove_dir(&directory);
        std::fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        Ok(Self(directory))
    }

    fn trace(&self) -> Result<String> {
        let path = self.0.join("trace");
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Traces for so long.
    fn run(&self, name: &str, time: Duration) -> Result<String> {
        write(&self.0.join("current_tracer"), name)?;
        std::thread::sleep(time);
        let trace = self.trace();
        self.end()?;
        trace
    }

    fn end(&self) -> Result<()> {
        write(&self.0.join("current_tracer"), "nop")?;
        write(&self.0.join("trace"), "")
    }

    /// Runs osnoise for `time` on hot cores on which programs spin, and returns their noise; fails
    /// if it does not see the programs end. osnoise's own workload, a kernel thread, is off: RCU
    /// would ask it for ticks that a program is not asked for.
    fn osnoise(&self, hot: &CpuSet, time: Duration) -> Result<Vec<Line>> {
        let options = Path::new(TRACEFS).join("osnoise/options");
        write(&Path::new(TRACEFS).join("osnoise/cpus"), &hot.to_string())?;
        write(&options, "NO_OSNOISE_WORKLOAD")?;
        let spinners = Spinners::start(hot)?;
        for (event, _) in EVENTS {
            write(&self.0.join("events/osnoise").join(event).join("enable"), "1")?;
        }
        write(&self.0.join("current_tracer"), "osnoise")?;
        std::thread::sleep(SETTLE);
        write(&self.0.join("trace"), "")?;
        let start = Instant::now();
        std::thread::sleep(time);
        let trace = self.trace()?;
        let seconds = start.elapsed().as_secs().max(1);
        // Their end is seen, or nothing would have been.
        drop(spinners);
        std::thread::sleep(SETTLE);
        let ended = read_osnoise(&self.trace()?);
        write(&self.0.join("events/osnoise/enable"), "0")?;
        self.end()?;
        write(&options, "OSNOISE_WORKLOAD")?;
        let is_seen = |cpu: u32| ended.keys().any(|(at, source)| *at == cpu && is_own(source));
        let unseen: Vec<String> =
            hot.iter().filter(|cpu| !is_seen(*cpu)).map(|cpu| cpu.to_string()).collect();
        ensure!(unseen.is_empty(), "osnoise sees nothing of CPU {}", unseen.join(","));
        Ok(noise_lines(hot, &read_osnoise(&trace), seconds))
    }
}

/// A program on each hot core that does nothing for as long as this is held: in the engine's slice,
/// which alone may be there.
struct Spinners(Vec<String>);

impl Spinners {
    fn start(hot: &CpuSet) -> Result<Self> {
        // The agent's file by its other name: as the agent it has no such words.
        let program = std::env::current_exe().context("this program")?.with_file_name("qctl");
        let mut units = Self(Vec::new());
        for cpu in hot.iter() {
            let unit = format!("quietcore-spin-{cpu}.service");
            let started = Command::new("systemd-run")
                .args(["--quiet", "--collect", "--slice=hot-engine.slice", "--property=Type=exec"])
                .arg(format!("--unit={unit}"))
                .arg(format!("--property=CPUAffinity={cpu}"))
                .arg(format!("--property=RuntimeMaxSec={}", SPIN_MAX.as_secs()))
                .arg(&program)
                .args(["tune", "spin"])
                .output()
                .context("start systemd-run")?;
            let said = String::from_utf8_lossy(&started.stderr);
            ensure!(started.status.success(), "start a program on CPU {cpu}: {}", said.trim());
            units.0.push(unit);
        }
        Ok(units)
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        // They end by themselves after a while.
        let units = self.0.iter().map(String::as_str);
        let _ = systemctl_blocking(&["stop"].into_iter().chain(units).collect::<Vec<_>>());
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = write(&self.0.join("current_tracer"), "nop");
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {text:?} to {}", path.display()))
}

/// Whether a process runs in the cgroup or below it.
fn is_populated(cgroup: &Path) -> bool {
    let events = std::fs::read_to_string(cgroup.join("cgroup.events"));
    events.is_ok_and(|text| text.lines().any(|line| line == "populated 1"))
}

/// Has each judge that this kernel has look at the hot cores for so long.
///
/// # Errors
/// tracefs refuses what it should take.
pub fn measure(hot: &CpuSet, time: Duration) -> Result<NoiseReport> {
    let tracefs = Path::new(TRACEFS);
    let mut judgement = NoiseReport::default();
    let available = std::fs::read_to_string(tracefs.join("available_tracers"));
    let available = available.with_context(|| format!("read {TRACEFS}/available_tracers"))?;
    let has = |name: &str| available.split_whitespace().any(|word| word == name);
    let mut missing = ["osnoise", "timerlat", "hwlat"].into_iter().filter(|name| !has(name));
    if let Some(name) = missing.next() {
        judgement
            .not_judged
            .push(format!("this kernel has no tracer {name}; one made with KERNEL=quietcore has"));
        return Ok(judgement);
    }
    if hot.is_empty() {
        judgement.not_judged.push("this host has no hot cores".into());
        return Ok(judgement);
    }
    if is_populated(Path::new(ENGINES)) {
        judgement.not_judged.push(
            "the engine runs on the hot cores; they are judged at boot, before it starts, and after systemctl stop quietcore-engine".into(),
        );
        return Ok(judgement);
    }
    let machine = Machine::detect();
    let tracer = Tracer::new(tracefs)?;
    judgement.lines.extend(tracer.osnoise(hot, time)?);
    if machine == Machine::Emulated {
        judgement
            .not_judged
            .push("timerlat and hwlat: this machine is emulated, its times say nothing".into());
        return Ok(judgement);
    }
    let trace = tracer.run("timerlat", time)?;
    for ((cpu, context), ns) in read_timerlat(&trace) {
        let at = format!("CPU {cpu}, timer to {context}");
        judgement.lines.push(report(at, format!("{ns} ns at most"), "how late a timer is served"));
    }
    write(&tracefs.join("tracing_thresh"), HARDWARE_GAP_US)?;
    let trace = tracer.run("hwlat", time);
    write(&tracefs.join("tracing_thresh"), "0")?;
    let (gaps, longest) = read_hwlat(&trace?);
    let found = format!("{gaps} gaps from {HARDWARE_GAP_US} us on, the longest {longest} us");
    let why = match machine {
        Machine::Bare => "time that firmware takes (SMIs); its settings mend it",
        _ => "time that firmware or the hypervisor takes",
    };
    judgement.lines.push(report("hardware".into(), found, why));
    Ok(judgement)
}

fn report(at: String, found: String, why: &str) -> Line {
    let expected = "reported".into();
    Line { name: "noise".into(), at, expected, found, is_met: true, why: why.into() }
}

fn noise_lines(hot: &CpuSet, noise: &BTreeMap<(u32, String), u64>, seconds: u64) -> Vec<Line> {
    let mut lines = Vec::new();
    for cpu in hot.iter() {
        let here = noise.iter().filter(|((at, source), _)| *at == cpu && !is_own(source));
        let mut all = 0;
        for ((_, source), found) in here {
            let is_thread = source.starts_with("thread ");
            let most = if is_thread { 0 } else { EVENTS_PER_SECOND * seconds };
            let why = match is_thread {
                true => "a task that the hot cores are not for",
                false => "time that is taken from whoever runs there",
            };
            all += found;
            lines.push(Line {
                name: "noise".into(),
                at: format!("CPU {cpu}, {source}"),
                expected: format!("at most {most} in {seconds} s"),
                found: found.to_string(),
                is_met: *found <= most,
                why: why.into(),
            });
        }
        let found = format!("{all} times in {seconds} s");
        lines.push(report(format!("CPU {cpu}, in all"), found, "what a program saw on this core"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_read_by_source_and_only_what_is_not_the_judges_own_counts() {
        let trace = "# tracer: osnoise\n#                      CPU#     TIMESTAMP   IN US\n\
            qctl-961      [003] d.h.    81.737532: irq_noise: local_timer:236 start 5789.857529929 duration 1845 ns\n\
            qctl-961      [003] d.h.    81.837532: irq_noise: local_timer:236 start 5789.957529929 duration 1845 ns\n\
            qctl-961      [003] ....    81.747532: thread_noise: migration/1:54 start 5789.858408906 duration 43 ns\n\
            qctl-961      [003] ..s.    81.757532: softirq_noise:   NET_RX:3 start 5789.858408906 duration 43 ns\n\
            <idle>-0      [002] ....    81.759532: thread_noise:     qctl:962 start 5789.858408906 duration 43 ns\n\
            qctl-962      [002] ....    81.760532: thread_noise: swapper/2:0 start 5789.858408906 duration 43 ns\n";
        let noise = read_osnoise(trace);
        let hot = CpuSet::parse("2-3", 7).unwrap();
        let lines = noise_lines(&hot, &noise, 1);
        let bad: Vec<_> = lines.iter().filter(|line| !line.is_met).map(|line| &*line.at).collect();
        assert_eq!(bad, ["CPU 3, interrupt local_timer", "CPU 3, thread migration/1"]);
        let all: Vec<_> = lines.iter().filter(|line| line.at.ends_with("in all")).collect();
        assert_eq!((&*all[0].found, &*all[1].found), ("0 times in 1 s", "4 times in 1 s"));
        let bad = noise_lines(&hot, &noise, 2).iter().filter(|line| !line.is_met).count();
        assert_eq!(bad, 1);
    }

    #[test]
    fn latencies_and_gaps_are_the_longest() {
        let trace = "<idle>-0     [000] d.h1    54.029328: #1     context    irq timer_latency       932 ns\n\
            <...>-867    [000] ....    54.029339: #1     context thread timer_latency     11700 ns\n\
            <idle>-0     [000] dNh1    55.029346: #2     context    irq timer_latency      2833 ns\n";
        let longest = read_timerlat(trace);
        assert_eq!((longest[&(0, "irq")], longest[&(0, "thread")]), (2833, 11700));
        let trace = "<...>-1729  [001] d...   678.473449: #1     inner/outer(us):   11/12    ts:1581527483.343962693 count:6\n\
            <...>-1729  [002] d...   679.473449: #2     inner/outer(us):   16/9    ts:1581527484.889008771 count:1\n";
        assert_eq!(read_hwlat(trace), (2, 16));
        assert_eq!(read_hwlat("# tracer: hwlat\n"), (0, 0));
    }
}
