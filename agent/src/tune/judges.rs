//! The kernel's own judges of noise, where a kernel has them: the tracers osnoise, timerlat and hwlat, on the hot cores
//! while no engine runs there. Each is told by writing to tracefs, as rtla does, in an instance of our own. Source: the
//! kernel's Documentation/trace/osnoise-tracer.rst, timerlat-tracer.rst and hwlat_detector.rst.

use super::Line;
use abi::hostplan::CpuSet;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Where tracefs is.
pub const TRACEFS: &str = "/sys/kernel/tracing";

/// The cgroup that engines run in.
const ENGINES: &str = "/sys/fs/cgroup/hot.slice";

/// Interrupts that a hot core may take in a second: the tick that is left runs once.
const INTERRUPTS_PER_SECOND: u64 = 1;

/// Gaps that the hardware makes are told from this length on, in microseconds.
const HARDWARE_GAP_US: &str = "10";

/// How late a judge's first word may be: its threads start on cores that may have something else to do still.
const LATE_MAX: Duration = Duration::from_secs(10);

/// What judges found.
#[derive(Debug, Default)]
pub struct Judgement {
    /// One line for each core and source.
    pub lines: Vec<Line>,
    /// Why there are none, or fewer.
    pub not_judged: Vec<String>,
}

/// Noise of one core, by source, as osnoise counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Noise {
    /// Periods of a second.
    seconds: u64,
    hardware: u64,
    nmi: u64,
    interrupts: u64,
    softirqs: u64,
    threads: u64,
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

/// `RUNTIME NOISE PERCENT MAXIMUM HW NMI IRQ SOFTIRQ THREAD` in each line; periods add up.
fn read_osnoise(trace: &str) -> BTreeMap<u32, Noise> {
    let mut cores: BTreeMap<u32, Noise> = BTreeMap::new();
    for (cpu, text) in trace.lines().filter_map(message) {
        let counts: Vec<u64> =
            text.split_whitespace().skip(4).map_while(|word| word.parse().ok()).collect();
        if let [hardware, nmi, interrupts, softirqs, threads] = counts[..] {
            let core = cores.entry(cpu).or_default();
            core.seconds += 1;
            core.hardware += hardware;
            core.nmi += nmi;
            core.interrupts += interrupts;
            core.softirqs += softirqs;
            core.threads += threads;
        }
    }
    cores
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

/// How much the machine's times are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    /// No hypervisor.
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
        let directory = tracefs.join("instances/quietcore-judges");
        // One that was killed left it.
        let _ = std::fs::remove_dir(&directory);
        std::fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        Ok(Self(directory))
    }

    /// Traces for so long, and then until the trace is `enough`, but not longer than [`LATE_MAX`] more.
    fn run(&self, name: &str, time: Duration, enough: impl Fn(&str) -> bool) -> Result<String> {
        let path = self.0.join("trace");
        let read = || std::fs::read_to_string(&path).with_context(|| path.display().to_string());
        write(&self.0.join("current_tracer"), name)?;
        std::thread::sleep(time);
        let late = Instant::now();
        while !enough(&read()?) && late.elapsed() < LATE_MAX {
            std::thread::sleep(Duration::from_millis(100));
        }
        write(&self.0.join("tracing_on"), "0")?;
        let trace = read();
        write(&self.0.join("current_tracer"), "nop")?;
        write(&path, "")?;
        write(&self.0.join("tracing_on"), "1")?;
        trace
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
pub fn judge(hot: &CpuSet, time: Duration) -> Result<Judgement> {
    let tracefs = Path::new(TRACEFS);
    let mut judgement = Judgement::default();
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
    write(&tracefs.join("osnoise/cpus"), &hot.to_string())?;
    // A period of a second is told of at its end.
    let told = |trace: &str| read_osnoise(trace).len() == hot.len();
    let noise = read_osnoise(&tracer.run("osnoise", time, told)?);
    for cpu in hot.iter() {
        match noise.get(&cpu) {
            Some(noise) => judgement.lines.extend(noise_lines(cpu, *noise, machine)),
            None => judgement.not_judged.push(format!("osnoise said nothing of CPU {cpu}")),
        }
    }
    if machine == Machine::Emulated {
        judgement
            .not_judged
            .push("timerlat and hwlat: this machine is emulated, its times say nothing".into());
        return Ok(judgement);
    }
    let trace = tracer.run("timerlat", time, |_| true)?;
    for ((cpu, context), ns) in read_timerlat(&trace) {
        let at = format!("CPU {cpu}, timer to {context}");
        judgement.lines.push(report(at, format!("{ns} ns at most"), "how late a timer is served"));
    }
    write(&tracefs.join("tracing_thresh"), HARDWARE_GAP_US)?;
    let trace = tracer.run("hwlat", time, |_| true);
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

fn noise_lines(cpu: u32, noise: Noise, machine: Machine) -> Vec<Line> {
    let seconds = noise.seconds;
    let most = INTERRUPTS_PER_SECOND * seconds;
    let judged = [
        ("interrupts", noise.interrupts, most, "an interrupt, its handler's caches included"),
        ("softirqs", noise.softirqs, most, "work that an interrupt left"),
        ("threads", noise.threads, 0, "a task that the hot cores are not for"),
    ];
    let mut lines: Vec<Line> = judged
        .into_iter()
        .map(|(source, found, most, why)| Line {
            name: "noise".into(),
            at: format!("CPU {cpu}, {source}"),
            expected: format!("at most {most} in {seconds} s"),
            found: found.to_string(),
            is_met: found <= most,
            why: why.into(),
        })
        .collect();
    let why = "non-maskable interrupts, of watchdogs and counters";
    lines.push(report(format!("CPU {cpu}, NMIs"), noise.nmi.to_string(), why));
    if machine != Machine::Emulated {
        let why = "gaps that nobody of the kernel made";
        lines.push(report(format!("CPU {cpu}, hardware"), noise.hardware.to_string(), why));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_read_by_source_and_periods_add_up() {
        // From Documentation/trace/osnoise-tracer.rst.
        let trace = "# tracer: osnoise\n#                      CPU#     TIMESTAMP   IN US\n\
            <...>-859     [000] ....    81.637220: 1000000        190  99.98100       9     18      0   1007     18      1\n\
            <...>-860     [001] ....    81.638154: 1000000        656  99.93440      74     23      0   1006     16      3\n\
            <...>-859     [000] ....    82.638193: 1000000       5675  99.43250     202      6      0   1013     25     21\n";
        let cores = read_osnoise(trace);
        assert_eq!(
            cores[&0],
            Noise { seconds: 2, hardware: 24, nmi: 0, interrupts: 2020, softirqs: 43, threads: 22 }
        );
        assert_eq!((cores.len(), cores[&1].threads), (2, 3));
        let lines = noise_lines(1, cores[&1], Machine::Emulated);
        let bad: Vec<_> = lines.iter().filter(|line| !line.is_met).map(|line| &*line.at).collect();
        assert_eq!(bad, ["CPU 1, interrupts", "CPU 1, softirqs", "CPU 1, threads"]);
        let quiet =
            noise_lines(2, Noise { seconds: 2, interrupts: 2, ..Noise::default() }, Machine::Bare);
        assert!(quiet.iter().all(|line| line.is_met) && quiet.len() == 5, "{quiet:?}");
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
