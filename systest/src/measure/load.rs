//! Load on the housekeeping cores (pulls, rollouts, disk, network) and what it costs the hot ones.

use crate::harness::booted::{Booted, ready};
use crate::harness::checkout::{ImageFiles, program};
use crate::harness::http;
use crate::harness::registry::{Registry, give_policy};
use crate::measure::noise::counted_switch;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Timer interrupts on a hot core in ten seconds, at most, besides the one that follows each of
/// [`SERVER`]'s.
pub const TIMER_MAX: u64 = 2;

/// Kernel function whose interrupts of a hot core are excused. The deadline server for fair tasks
/// sends one a second: its timer runs on a housekeeping core, kicks the hot core so that it ticks,
/// and has it reschedule (`dl_task_timer`, kernel 6.12); only debugfs has a switch for it, which
/// lockdown keeps shut. The kernel kicks a core without a tick for timers of its own too: the ticks
/// that follow are counted.
pub const SERVER: &str = "dl_task_timer";

pub const KICK: &str = "irq_work_queue_on";

/// Least timer interrupts in ten seconds on a core without the isolation words; with fewer the
/// check proves nothing.
pub const TIMER_CONTROL_MIN: u64 = 1000;

/// The work, by name, as loops of bash. `$web` is the web server; each round leaves a line in
/// `/run/rounds-NAME`.
pub const WORK: &[(&str, &str)] = &[
    (
        "pull",
        r#"set -- IMAGES
while image=$1; shift; set -- "$@" "$image"; do
    printf '  pulled:\n    image: %s\n    command: [--pages, /pages, --listen, "127.0.0.1:9470"]\n    volumes: ["/run/quietcore/engine:/pages:ro"]\n' "$image" |
        cat /etc/quietcore/compose.yaml - > /run/load.yaml
    qctl apply /run/load.yaml || exit 1
    until qctl status | grep '^pulled  *running' | grep -q "${image#*@}"; do sleep 0.2; done
    echo
done"#,
    ),
    (
        "disk",
        "i=0; while :; do dd if=/dev/zero of=/var/load/fill-$((i % 40)) bs=1M count=FILL conv=fsync 2> /dev/null && echo; i=$((i + 1)); done",
    ),
    ("network", "while :; do fetch large > /dev/null && echo; done"),
];

/// Images that the guest pulls one after the other, over and over: what is not declared any more is
/// not kept.
pub const IMAGES: usize = 4;

/// Bytes that make each another one, and do not shrink.
pub const PADDING: usize = 1 << 20;

/// MiB that are written to the disk in one round.
pub const FILL_MIB: u64 = 16;

pub const LIMIT: Duration = Duration::from_secs(120);

/// One rollout with its pull, on an emulated machine.
pub const ROLLOUT_LIMIT: Duration = Duration::from_secs(30);

/// A web client: the body of what the server answers.
pub const FETCH: &str = r#"fetch() {
    exec 3<> /dev/tcp/10.0.2.2/$web || return
    printf 'GET /%s HTTP/1.0\r\nConnection: close\r\n\r\n' "$1" >&3
    while IFS= read -r line <&3 && [ "$line" != $'\r' ]; do case $line in Content-Length:*) len=${line//[!0-9]/} ;; esac; done
    head -c "$len" <&3
    exec 3>&-
}
"#;

/// A loop on each hot core, and nothing else: the engine is stopped. `$web` and `fetch` come first.
pub const BUSY: &str = r#"
systemctl stop quietcore-engine
fetch spin > /var/load/spin; chmod 755 /var/load/spin
for cpu in 2 3; do
    systemd-run --quiet --unit=busy-$cpu --slice=hot-engine.slice --property=CPUAffinity=$cpu /var/load/spin
done
"#;

/// A program of two instructions, `pause` and a jump to it. Without the first, which is how a loop
/// that waits is written, QEMU's one thread would stay with each loop for a tenth of a second.
pub fn spin() -> Vec<u8> {
    const LOAD: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    const CODE: [u8; 4] = [0xf3, 0x90, 0xeb, 0xfc];
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let (halves, words, long) = (u16::to_le_bytes, u32::to_le_bytes, u64::to_le_bytes);
    // An executable for x86-64; where it starts, where its one program header is (elf(5),
    // Elf64_Ehdr).
    file.extend([halves(2), halves(62)].concat());
    file.extend(words(1));
    file.extend([long(LOAD + HEADERS), long(64), long(0)].concat());
    file.extend(words(0));
    file.extend([64, 56, 1, 0, 0, 0].map(halves).concat());
    // The whole file is loaded, to be read and executed (Elf64_Phdr).
    let len = HEADERS + CODE.len() as u64;
    file.extend([words(1), words(5)].concat());
    file.extend([long(0), long(LOAD), long(LOAD), long(len), long(len), long(0x1000)].concat());
    file.extend(CODE);
    file
}

/// A while, counted; what a core sends itself is its own. `$work` has the names of the work, all of
/// which must have gone round once, and go on to the end.
pub const MEASURE: &str = r#"
set -e
cd /sys/kernel/tracing
echo 0 > tracing_on; echo > trace; echo 16384 > buffer_size_kb
echo 1 > events/sched/sched_switch/enable
echo c > tracing_cpumask; echo 1 > tracing_on
mkdir instances/ipi; cd instances/ipi/events/ipi
echo 'cpu >= 2' > ipi_send_cpu/filter; echo 'cpumask & CPUS{2-3}' > ipi_send_cpumask/filter
echo 1 > ipi_send_cpu/enable; echo 1 > ipi_send_cpumask/enable
cd /sys/kernel/tracing
for name in $work; do until [ -s /run/rounds-$name ]; do sleep 1; done; done
seconds() { cut -d ' ' -f 1 /proc/uptime; }
from=$(seconds); echo > trace; echo > instances/ipi/trace; cat /proc/interrupts > /run/interrupts-before
WHILE
to=$(seconds); cat /proc/interrupts > /run/interrupts-after; echo 0 > tracing_on; echo 0 > instances/ipi/tracing_on; for name in $work; do systemctl is-active --quiet load-$name; done
echo 0 > events/sched/sched_switch/enable; echo f > tracing_cpumask
cat /run/interrupts-before; echo after; cat /run/interrupts-after; echo switches
sed -n 's/.*\[00\([23]\)\].*sched_switch.*next_comm=\(.*\) next_pid=.*/\1 \2/p' trace | sort | uniq -c
echo senders
sed -n 's/.*\[\([0-9]*\)\] .*ipi_send_cpu: cpu=\([0-9]*\) callsite=\([a-z_0-9]*\).*/\1 \2 \3/p; s/.*ipi_send_cpumask: .*callsite=\([a-z_0-9]*\).*/0 2 \1/p' instances/ipi/trace | awk '$1 + 0 != $2 { print $2, $3 }' | sort | uniq -c
rmdir instances/ipi
echo $from $to; echo rounds; for name in $work; do wc -l < /run/rounds-$name; done
"#;

/// The while of the story.
pub const TEN_SECONDS: &str = "sleep 10";

/// Counts of one measurement: interrupts, their senders, foreign context switches, rounds of work.
#[derive(Debug, Default)]
pub struct Count {
    /// Interrupts that CPUs 2 and 3 took, by their name in `/proc/interrupts`.
    pub interrupts: [BTreeMap<String, u64>; 2],
    /// Interrupts sent by other cores, by target CPU and the kernel's sending function.
    pub senders: BTreeMap<(usize, String), u64>,
    /// Length of the measurement in seconds, by the guest's clock.
    pub seconds: f64,
    /// Context switches there to anything but the loops.
    pub foreign: BTreeMap<String, u64>,
    /// Rounds that each work has made, in the order of [`WORK`]; all were at it to the end.
    pub rounds: Vec<u64>,
}

impl Count {
    pub fn timer(&self) -> u64 {
        let of = |cpu: &BTreeMap<String, u64>| cpu.get("LOC").copied().unwrap_or(0);
        self.interrupts.iter().map(of).max().unwrap_or(0)
    }

    pub fn sent(&self, cpu: usize, sender: &str) -> u64 {
        self.senders.get(&(cpu, sender.to_owned())).copied().unwrap_or(0)
    }

    /// Lists the counts above their limits, in words. Our own kernel has no deadline server and
    /// sends no such kicks, so none are excused there.
    pub fn findings(&self, is_own_kernel: bool) -> Vec<String> {
        let mut found = Vec::new();
        let excused: &[&str] = if is_own_kernel { &[] } else { &[SERVER, KICK] };
        let sent = |cpu, by: &str| if excused.contains(&by) { self.sent(cpu, by) } else { 0 };
        for (cpu, interrupts) in (2..).zip(&self.interrupts) {
            // At most one a second begun.
            let by_server = sent(cpu, SERVER).min(self.seconds.ceil() as u64);
            for (name, count) in interrupts {
                let is_device = name.bytes().all(|byte| byte.is_ascii_digit());
                let most = match name.as_str() {
                    "LOC" => TIMER_MAX + by_server,
                    "RES" => by_server,
                    "CAL" => sent(cpu, KICK),
                    _ if is_device => 0,
                    "TLB" => 0,
                    _ => continue,
                };
                if *count > most {
                    found.push(format!("CPU {cpu} took {count} interrupts {name}, at most {most}"));
                }
            }
        }
        let senders =
            self.senders.iter().filter(|((_, name), _)| !excused.contains(&name.as_str()));
        found.extend(
            senders
                .map(|((cpu, name), count)| format!("{count} interrupts of CPU {cpu} by {name}")),
        );
        let foreign = self.foreign.iter();
        found.extend(foreign.map(|(name, count)| format!("{count} switches to {name}")));
        found
    }
}

pub fn interrupts(text: &str) -> BTreeMap<String, Vec<u64>> {
    let lines = text.lines().filter_map(|line| line.trim().split_once(':'));
    let counts = |rest: &str| rest.split_whitespace().map_while(|word| word.parse().ok()).collect();
    lines.map(|(name, rest)| (name.to_owned(), counts(rest))).collect()
}

pub fn read(text: &str) -> Result<Count> {
    let (before, rest) = text.split_once("after\n").context("no interrupts before")?;
    let (after, rest) = rest.split_once("switches\n").context("no interrupts after")?;
    let (switches, rest) = rest.split_once("senders\n").context("no switches")?;
    let (senders, rounds) = rest.split_once("rounds\n").context("no senders")?;
    let (before, after) = (interrupts(before), interrupts(after));
    let mut count = Count::default();
    for (name, after) in &after {
        let before = before.get(name);
        for (cpu, map) in (2..).zip(&mut count.interrupts) {
            let was = before.and_then(|before| before.get(cpu)).copied().unwrap_or(0);
            let grown = after.get(cpu).copied().unwrap_or(0).saturating_sub(was);
            if grown > 0 {
                map.insert(name.clone(), grown);
            }
        }
    }
    ensure!(after.get("LOC").is_some_and(|cpus| cpus.len() >= 4), "no LOC line with 4 CPUs");
    for line in switches.lines() {
        let Some((number, cpu, name)) = counted_switch(line) else { continue };
        if name != "spin" && !name.starts_with("swapper") {
            count.foreign.insert(format!("{name} on CPU {cpu}"), number.parse()?);
        }
    }
    for line in senders.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [number, cpu, name] => {
                count.senders.insert((cpu.parse()?, name.to_owned()), number.parse()?);
            }
            [from, to] => count.seconds = to.parse::<f64>()? - from.parse::<f64>()?,
            _ => bail!("a line of senders: {line}"),
        }
    }
    ensure!(count.seconds >= 10.0, "the guest's clock counted {} s", count.seconds);
    count.rounds = rounds.lines().map(str::parse).collect::<Result<_, _>>().context("rounds")?;
    Ok(count)
}

/// A large file and a program for the guest to fetch, in a directory that is removed in the end.
pub struct Web(PathBuf);

impl Web {
    fn new() -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("quietcore-load-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let web = Self(directory);
        std::fs::write(web.0.join("large"), vec![0; 16 << 20])?;
        std::fs::write(web.0.join("spin"), spin())?;
        Ok(web)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Starts this much of [`WORK`], and a loop on each hot core. The server's files are there until
/// [`Web`] is dropped.
pub fn start(booted: &mut Booted, work: &[(&str, &str)], images: &[String]) -> Result<Web> {
    let web = Web::new()?;
    let port = http::serve(web.0.clone())?;
    booted.shell.check("mkdir -p /var/load", LIMIT)?;
    for (name, work) in work {
        let work = work.replace("IMAGES", &images.join(" "));
        let work = work.replace("FILL", &FILL_MIB.to_string());
        let file = format!("cat > /run/load-{name} <<'END'\nweb={port}\n{FETCH}{work}\nEND\n");
        let start = format!(
            "{file}touch /run/rounds-{name}; systemd-run --quiet --unit=load-{name} --property=StandardOutput=append:/run/rounds-{name} bash /run/load-{name}"
        );
        booted.shell.check(&start, LIMIT).with_context(|| format!("start the work {name}"))?;
    }
    let busy = format!("web={port}\n{FETCH}{BUSY}");
    booted.shell.check(&busy, LIMIT).context("start the loops")?;
    Ok(web)
}

pub fn count(
    booted: &mut Booted,
    work: &[(&str, &str)],
    time: &str,
    limit: Duration,
) -> Result<Count> {
    let names: Vec<&str> = work.iter().map(|(name, _)| *name).collect();
    let measure = format!("work='{}'\n{}", names.join(" "), MEASURE.replace("WHILE", time));
    read(&booted.shell.check(&measure, limit).context("count")?)
}

/// A registry that the host may ask, with images to pull one after the other.
pub fn give_images(booted: &mut Booted) -> Result<(Registry, Vec<String>)> {
    let registry = Registry::start(&booted.image)?;
    let at = format!("10.0.2.2:{}", registry.port);
    let exporter = program("quietcore-exporter");
    let mut images = Vec::new();
    for _ in 0..IMAGES {
        let digest = registry.push("load/image", &exporter, PADDING)?;
        images.push(format!("{at}/load/image@{digest}"));
    }
    give_policy(booted, &registry.policy("unsigned = true")?)?;
    Ok((registry, images))
}

/// Context switches away from a loop on each hot core while so many versions of a service were
/// rolled out, each with a pull and what it leaves collected.
///
/// # Errors
/// The guest does not get there.
pub fn rollouts(image: &ImageFiles, wanted: u64) -> Result<u64> {
    let mut booted = ready(image)?;
    let (_registry, images) = give_images(&mut booted)?;
    let pull = &WORK[..1];
    let _web = start(&mut booted, pull, &images)?;
    let time = format!(
        "done=/run/rounds-pull; end=$(($(wc -l < $done) + {wanted})); until [ $(wc -l < $done) -ge $end ]; do sleep 1; done"
    );
    let limit = ROLLOUT_LIMIT * u32::try_from(wanted)?;
    let count = count(&mut booted, pull, &time, limit)?;
    Ok(count.foreign.values().sum())
}

/// The control, on a host that was booted without the isolation words.
///
/// # Errors
/// The check can't tell this host from a quiet one.
pub fn control(booted: &mut Booted) -> Result<u64> {
    let _web = start(booted, &[], &[])?;
    let count = count(booted, &[], TEN_SECONDS, LIMIT)?;
    let timer = count.timer();
    ensure!(
        timer >= TIMER_CONTROL_MIN && !count.findings(false).is_empty(),
        "without isolation a busy core took {timer} timer interrupts; the check tells nothing"
    );
    Ok(timer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_is_a_program_that_does_not_end() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("quietcore-spin-{}", std::process::id()));
        std::fs::write(&path, spin()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut child = std::process::Command::new(&path).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_the_kernel_counted_is_read() {
        let text = "           CPU0 CPU1 CPU2 CPU3\n 24: 5 6 0 0 PCI-MSI virtio0\nLOC: 9 9 7 1 Local timer interrupts\nRES: 1 1 0 0 x\nafter\n\
                    CPU0 CPU1 CPU2 CPU3\n 24: 50 60 1 0 PCI-MSI virtio0\nLOC: 900 900 19 2 Local\nRES: 5 5 1 2 x\nMCP: 1 1 1 1 x\nswitches\n\
                    \x20     7 2 spin\n      1 3 kworker/3:1 x\nsenders\n   1 2 dl_task_timer\n   2 3 smp_call\n100.5 110.5\nrounds\n3\n1\n7\n";
        let count = read(text).unwrap();
        assert_eq!((count.timer(), count.rounds.as_slice()), (12, &[3, 1, 7][..]));
        let wanted = [
            "CPU 2 took 1 interrupts 24",
            "CPU 2 took 12 interrupts LOC",
            "CPU 3 took 2 interrupts RES",
            "2 interrupts of CPU 3 by smp_call",
            "1 switches to kworker/3:1 x on CPU 3",
        ];
        let found = count.findings(false);
        assert_eq!(found.len(), wanted.len(), "{found:?}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(found.starts_with(wanted), "{found}");
        }
    }
}
