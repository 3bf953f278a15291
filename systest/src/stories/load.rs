//! A loaded host: while the housekeeping cores are busy with containers, a disk and a network, a loop on each hot core
//! is left alone. Counted by the kernel, and its control boots without the words that make cores hot.

use super::{Booted, READY_LIMIT, Verdict, quiet};
use crate::checkout::ImageFiles;
use crate::shell::Shell;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::time::Duration;

/// Timer interrupts that a hot core may take in ten seconds: the clock's own upkeep on an emulated CPU.
pub const TIMER_MAX: u64 = 10;

/// What ten seconds brought to the worse of the hot cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noise {
    /// Local timer interrupts.
    pub timer: u64,
    /// Interrupts of devices.
    pub device: u64,
    /// Interrupts of other cores: reschedule, function call, TLB.
    pub from_cores: u64,
    /// Context switches to anything but the loop.
    pub foreign: u64,
    /// Context switches of the housekeeping cores meanwhile.
    pub housekeeping: u64,
}

/// A loop on CPUs 2 and 3 of the engine's slice, in the engine's place, and work for everything else.
const LOAD: &str = r#"
systemctl stop quietcore-engine
slice=/sys/fs/cgroup/hot.slice/hot-engine.slice
[ -d $slice ] || slice=/sys/fs/cgroup
mkdir -p $slice/loop
for cpu in 2 3; do
    (echo $BASHPID > $slice/loop/cgroup.procs; taskset -p -c $cpu $BASHPID > /dev/null; exec -a loop bash -c 'while :; do :; done') & loops="$loops $!"
done
(while :; do dd if=/dev/zero of=/var/fill bs=1M count=64 conv=fsync 2> /dev/null; done) & work="$!"
(while :; do echo x > /dev/udp/127.0.0.1/9; done) & work="$work $!"
(while :; do for file in /proc/[0-9]*/comm; do read -r name < $file && [ "$name" = quietcore-expor ] && kill -9 $(echo $file | cut -d / -f 3); done 2> /dev/null; sleep 1; done) & work="$work $!"
sleep 3
cd /sys/kernel/tracing
echo 0 > tracing_on; echo > trace; echo 16384 > buffer_size_kb
echo 1 > events/sched/sched_switch/enable
cat /proc/interrupts; echo ==
echo 1 > tracing_on; sleep 10; echo 0 > tracing_on
cat /proc/interrupts; echo ==
echo 0 > events/sched/sched_switch/enable
sed -n 's/.*\[0*\([0-9]*\)\].*sched_switch.*next_comm=\(.*\) next_pid=.*/\1 \2/p' trace | sort | uniq -c
kill -9 $loops $work 2> /dev/null; wait 2> /dev/null
rm -f /var/fill; rmdir $slice/loop
systemctl start quietcore-engine
"#;

/// The rows of `/proc/interrupts`: name, and a count for each CPU.
fn interrupts(text: &str) -> BTreeMap<&str, Vec<u64>> {
    let rows = text.lines().filter_map(|line| line.trim().split_once(':'));
    let counts = |rest: &str| rest.split_whitespace().map_while(|word| word.parse().ok()).collect();
    rows.map(|(name, rest)| (name, counts(rest))).collect()
}

/// Loads the host and counts.
///
/// # Errors
/// The guest does not answer as expected.
pub fn measure(shell: &mut Shell) -> Result<Noise> {
    let text = shell.check(LOAD, Duration::from_secs(180))?;
    let mut parts = text.split("==\n");
    let mut table = || parts.next().map(interrupts).context("the guest's interrupt counters");
    let (before, after) = (table()?, table()?);
    let trace = parts.next().context("the guest's trace")?;
    let mut cores = [Noise::default(), Noise::default()];
    for (core, cpu) in cores.iter_mut().zip([2, 3]) {
        for (name, counts) in &after {
            let now = counts.get(cpu).copied().unwrap_or(0);
            let then = before.get(name).and_then(|counts| counts.get(cpu)).copied().unwrap_or(0);
            match *name {
                "LOC" => core.timer += now - then,
                "RES" | "CAL" | "TLB" => core.from_cores += now - then,
                name if name.bytes().all(|byte| byte.is_ascii_digit()) => core.device += now - then,
                _ => {}
            }
        }
    }
    let mut housekeeping = 0;
    for line in trace.lines() {
        let mut words = line.trim().splitn(3, ' ');
        let (Some(count), Some(cpu), Some(name)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let count: u64 = count.parse().context("a count of the trace")?;
        match cpu.parse::<usize>().context("a CPU of the trace")? {
            cpu @ (2 | 3) if name != "bash" => cores[cpu - 2].foreign += count,
            0 | 1 => housekeeping += count,
            _ => {}
        }
    }
    let worst = |of: fn(&Noise) -> u64| cores.iter().map(of).max().unwrap_or(0);
    Ok(Noise {
        timer: worst(|core| core.timer),
        device: worst(|core| core.device),
        from_cores: worst(|core| core.from_cores),
        foreign: worst(|core| core.foreign),
        housekeeping,
    })
}

fn judge(noise: &Noise) -> Result<()> {
    ensure!(noise.housekeeping > 1000, "the host was not loaded: {noise:?}");
    let is_quiet = noise.timer <= TIMER_MAX && noise.device + noise.from_cores + noise.foreign == 0;
    ensure!(is_quiet, "a hot core was disturbed: {noise:?}; at most {TIMER_MAX} timer interrupts");
    Ok(())
}

/// The story.
pub fn loaded_host_leaves_hot_cores_alone(booted: &mut Booted) -> Result<Verdict> {
    let noise = measure(&mut booted.shell)?;
    judge(&noise)?;
    booted.shell.check("qctl ready --timeout 300", READY_LIMIT)?;
    Ok(Verdict::Proved(format!(
        "a loop on each hot core took at most {} timer interrupts in 10 s, none of a device or another core, and no \
         foreign context switch, beside {} context switches of containers, disk and network",
        noise.timer, noise.housekeeping
    )))
}

/// The same without the words that make cores hot; fails the same check.
///
/// # Errors
/// It is as quiet, or the guest does not answer.
pub fn control_noise(image: &ImageFiles) -> Result<Noise> {
    let mut booted = super::boot(image, &quiet::control())?;
    let ready = "until systemctl is-active quietcore-agent; do sleep 1; done";
    booted.shell.check(ready, READY_LIMIT)?;
    let noise = measure(&mut booted.shell)?;
    ensure!(judge(&noise).is_err(), "without hot cores it is as quiet: the check tells nothing");
    Ok(noise)
}
