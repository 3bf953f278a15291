//! Host interface of the rim: CPU affinity, locked memory, signals, clocks, and the test for
//! emulation.
#![allow(unsafe_code, reason = "mlockall and setting the timer slack have no safe form")]

use abi::hostplan::{self, CorePlan, PlanError};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

/// The split of cores that the kernel was booted with.
///
/// # Errors
/// [`PlanError`] if the kernel's lists can't be read.
pub fn core_plan() -> Result<CorePlan, PlanError> {
    let read = |name| {
        let path = Path::new("/sys/devices/system/cpu").join(name);
        std::fs::read_to_string(path).unwrap_or_default()
    };
    CorePlan::from_kernel(&read("online"), &read("nohz_full"))
}

/// Keeps the calling thread on one CPU.
///
/// # Errors
/// What the kernel said, and the CPUs that the thread may run on: the CPU is offline, or the cpuset
/// forbids it.
pub fn pin_to(cpu: u32) -> io::Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let mut set = CpuSet::new();
    let pinned = set.set(cpu as usize).and_then(|()| sched_setaffinity(this, &set));
    pinned.map_err(|errno| {
        let last = CpuSet::count() as u32;
        let allowed = (0..last).filter(|cpu| allowed.is_set(*cpu as usize).unwrap_or(false));
        let allowed: hostplan::CpuSet = allowed.collect();
        let remedy = "give another CPU, or put it online and into the cpuset";
        io::Error::other(format!("CPU {cpu}: {errno}; CPUs {allowed} are allowed: {remedy}"))
    })
}

/// The signals that the hot thread reads from its ring.
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals for this thread and makes them readable: `SIGTERM` and `SIGINT` end the
    /// engine, `SIGUSR1` is the kill switch.
    ///
    /// # Errors
    /// The errno of signalfd.
    pub fn new() -> nix::Result<Self> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        SignalFd::with_flags(&mask, flags).map(Self)
    }

    /// Takes the signals that came; `true` if all of them were the kill switch.
    pub fn take_kill(&mut self) -> bool {
        let mut kill = false;
        while let Ok(Some(signal)) = self.0.read_signal() {
            if signal.ssi_signo != Signal::SIGUSR1 as u32 {
                return false;
            }
            kill = true;
        }
        kill
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Locks all memory, present and future.
///
/// # Errors
/// The errno: `ENOMEM` or `EPERM` if `RLIMIT_MEMLOCK` is too low.
pub fn lock_memory() -> nix::Result<()> {
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
}

/// Keeps freed memory: malloc must neither return pages to the kernel nor map new ones for large
/// blocks, or a page fault waits on the hot path.
pub fn keep_memory() {
    // SAFETY: mallopt changes only the allocator's parameters, before any other thread exists.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, -1) };
    // SAFETY: as above.
    unsafe { libc::mallopt(libc::M_MMAP_MAX, 0) };
}

/// Nanoseconds of `CLOCK_REALTIME`, by the vDSO.
#[inline]
pub fn now_ns() -> u64 {
    time_of(ClockId::CLOCK_REALTIME)
}

/// `CLOCK_REALTIME` at the start, carried on by `CLOCK_MONOTONIC`: it never steps, so that no timer
/// stands still and no silence is imagined when somebody sets the clock.
#[derive(Debug, Clone, Copy)]
pub struct SteadyClock {
    offset: u64,
    /// Nanoseconds that `CLOCK_REALTIME` was ahead of `CLOCK_MONOTONIC` at the last check.
    seen_offset: u64,
}

/// `CLOCK_REALTIME` that moves by more against `CLOCK_MONOTONIC` was set, not disciplined.
const STEP_NS: u64 = 1_000_000_000;

impl SteadyClock {
    /// Starts from the present.
    pub fn new() -> Self {
        let offset = now_ns().saturating_sub(monotonic_ns());
        Self { offset, seen_offset: offset }
    }

    /// Whether somebody has set `CLOCK_REALTIME` since the last call.
    pub fn take_step(&mut self) -> bool {
        let offset = now_ns().saturating_sub(monotonic_ns());
        let step = offset.abs_diff(self.seen_offset) > STEP_NS;
        self.seen_offset = offset;
        step
    }

    /// Nanoseconds since the epoch.
    #[inline]
    pub fn now_ns(self) -> u64 {
        self.offset + monotonic_ns()
    }
}

impl Default for SteadyClock {
    fn default() -> Self {
        Self::new()
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline]
pub fn monotonic_ns() -> u64 {
    time_of(ClockId::CLOCK_MONOTONIC)
}

/// The processor's time-stamp counter against `CLOCK_MONOTONIC_RAW`, which nobody disciplines.
#[derive(Debug, Clone, Copy)]
pub struct Tsc {
    cycles: u64,
    raw_ns: u64,
    /// Thousands of cycles in a second.
    pub khz: u64,
}

/// Calibration time of the counter at the start, in nanoseconds: a clock read of 100 ns is then 5
/// ppm of it.
const TSC_WATCH_NS: u64 = 20_000_000;

/// A reading of the counter between two of the clock that are so close was not interrupted.
const TSC_APART_NS: u64 = 500;
/// Attempts at one.
const TSC_ATTEMPTS: u32 = 16;

impl Tsc {
    /// Watches the counter for a while. `None` on an emulated machine, whose counter is made up.
    pub fn calibrate() -> Option<Self> {
        if is_emulated() {
            return None;
        }
        let (cycles, raw_ns) = Self::read();
        let (mut now_cycles, mut now_ns) = Self::read();
        while now_ns - raw_ns < TSC_WATCH_NS {
            std::hint::spin_loop();
            (now_cycles, now_ns) = Self::read();
        }
        let per_second =
            (u128::from(now_cycles - cycles) * 1_000_000) / u128::from(now_ns - raw_ns);
        Some(Self { cycles, raw_ns, khz: u64::try_from(per_second).ok()? })
    }

    /// Both at one moment, or at the closest of some attempts: any may be interrupted in the
    /// middle.
    fn read() -> (u64, u64) {
        let mut best = (u64::MAX, 0, 0);
        for _ in 0..TSC_ATTEMPTS {
            let before = time_of(ClockId::CLOCK_MONOTONIC_RAW);
            // SAFETY: every x86-64 processor has the instruction, and Linux lets user space use it.
            let cycles = unsafe { core::arch::x86_64::_rdtsc() };
            let after = time_of(ClockId::CLOCK_MONOTONIC_RAW);
            best = best.min((after.saturating_sub(before), cycles, before.midpoint(after)));
            if best.0 <= TSC_APART_NS {
                break;
            }
        }
        (best.1, best.2)
    }

    /// Returns the lead of the counter's time over the clock's since the start, in parts per
    /// billion; negative if behind.
    pub fn error_ppb(&self) -> i64 {
        let (cycles, raw_ns) = Self::read();
        let passed = i128::from(raw_ns - self.raw_ns).max(1);
        let counted =
            i128::from(cycles.wrapping_sub(self.cycles)) * 1_000_000 / i128::from(self.khz.max(1));
        i64::try_from((counted - passed) * 1_000_000_000 / passed).unwrap_or(i64::MAX)
    }
}

fn time_of(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// Whether the machine is emulated in software (QEMU TCG), so that times say nothing about latency.
pub fn is_emulated() -> bool {
    let leaf = core::arch::x86_64::__cpuid(0x4000_0000);
    [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).concat() == b"TCGTCGTCGTCG"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_wall_clock_is_noticed_once_and_moves_nothing() {
        let mut clock = SteadyClock::new();
        assert!(!clock.take_step());
        let before = clock.now_ns();
        // Somebody has set the wall clock back by an hour.
        clock.seen_offset += 3_600_000_000_000;
        assert!(clock.take_step() && !clock.take_step());
        assert!(clock.now_ns().abs_diff(before) < STEP_NS);
    }
}
