//! The whole engine as a process, side by side with itself over other back ends: a tick goes in by
//! UDP, the order comes out by TCP. A tick is sent at its intended time, or when the order before
//! it has come; times count from the intended one, so that what an order holds up is not left out.

use crate::counterpart::Counterpart;
use abi::counters::Counter;
use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two ticks: room for an order, its answer and the journal's write.
const INTERVAL: Duration = Duration::from_micros(400);
/// Ticks that are not counted: caches, page tables and the congestion window settle.
const WARM_UP: u32 = 200;
/// Ticks of a burst, of which the last causes an order.
const BURST: u32 = 32;

/// A way to run the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// Its name in the report.
    pub name: &'static str,
    backend: &'static str,
    journal: bool,
    sqpoll: bool,
}

const VARIANTS: [Variant; 4] = [
    Variant { name: "uring_journal", backend: "io-uring", journal: true, sqpoll: false },
    Variant { name: "uring", backend: "io-uring", journal: false, sqpoll: false },
    Variant { name: "epoll", backend: "epoll", journal: false, sqpoll: false },
    Variant { name: "rawspin", backend: "spin", journal: false, sqpoll: false },
];

/// With a thread of the kernel's for the system calls. It shares the generator's CPU here, so that
/// its times say nothing; its system calls are counted.
const POLLED: Variant =
    Variant { name: "uring_sqpoll", backend: "io-uring", journal: true, sqpoll: true };
/// Ticks of its run, each of which waits for turns of that CPU.
const POLLED_SAMPLES: u32 = 200;

/// Counts over the ticks of one run: system calls, page faults and voluntary context switches.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    ticks: u64,
    syscalls: u64,
    bursts: u64,
    burst_syscalls: u64,
    idle_syscalls: u64,
    page_faults: u64,
    voluntary_switches: u64,
}

/// Runs all variants in turn, `rounds` times, and prints `name value` lines.
///
/// # Errors
/// There is one CPU only, or an engine did not trade.
pub fn live(engine: &Path, rounds: u32, samples: u32) -> Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    ensure!(cpus >= 2, "side-by-side times need two CPUs: the engine spins on one of them");
    // What a build has left to write would hold up the journals.
    nix::unistd::sync();
    pin(0)?;
    let mut histograms = Vec::new();
    for _ in VARIANTS {
        histograms.push(Histogram::<u64>::new_with_bounds(100, 10_000_000_000, 3)?);
    }
    let mut counts = Counts::default();
    for round in 0..rounds {
        for at in 0..VARIANTS.len() {
            // Every variant comes first in turn, so that none always follows the same neighbour.
            let at = (at + round as usize) % VARIANTS.len();
            let variant = VARIANTS[at];
            let run = run(engine, variant, samples, &mut histograms[at])
                .with_context(|| format!("{} in round {round}", variant.name))?;
            if variant.name == "uring_journal" {
                counts.add(&run);
            }
        }
    }
    for (variant, histogram) in VARIANTS.iter().zip(&histograms) {
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            println!("{}_{name}_ns {}", variant.name, histogram.value_at_quantile(quantile));
        }
    }
    println!("echo_p50_ns {}", echo(samples)?);
    let p50 = |name: &str| {
        let at = VARIANTS.iter().position(|variant| variant.name == name);
        at.map_or(f64::NAN, |at| histograms[at].value_at_quantile(0.5) as f64)
    };
    println!("uring_over_epoll_p50 {:.3}", p50("uring") / p50("epoll"));
    println!("uring_over_rawspin_p50 {:.3}", p50("uring") / p50("rawspin"));
    println!("journal_on_over_off_p50 {:.3}", p50("uring_journal") / p50("uring"));
    counts.print_syscalls("", rounds);
    let mut unused = Histogram::<u64>::new_with_bounds(100, 10_000_000_000, 3)?;
    let polled = run(engine, POLLED, POLLED_SAMPLES, &mut unused).context(POLLED.name)?;
    polled.print_syscalls("_sqpoll", 1);
    println!("page_faults_after_warmup {}", counts.page_faults);
    println!("voluntary_switches_after_warmup {}", counts.voluntary_switches);
    Ok(())
}

impl Counts {
    fn print_syscalls(&self, suffix: &str, idle_seconds: u32) {
        let per = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        println!("syscalls_per_tick_to_order{suffix} {:.3}", per(self.syscalls, self.ticks));
        println!("syscalls_per_burst_of_32{suffix} {:.3}", per(self.burst_syscalls, self.bursts));
        let idle = per(self.idle_syscalls, idle_seconds.into());
        println!("syscalls_idle_per_second{suffix} {idle:.1}");
    }

    fn add(&mut self, other: &Self) {
        self.ticks += other.ticks;
        self.syscalls += other.syscalls;
        self.bursts += other.bursts;
        self.burst_syscalls += other.burst_syscalls;
        self.idle_syscalls += other.idle_syscalls;
        self.page_faults += other.page_faults;
        self.voluntary_switches += other.voluntary_switches;
    }
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("keep the generator on CPU 0")
}

/// One engine, from its start to its end.
fn run(
    engine: &Path,
    variant: Variant,
    samples: u32,
    histogram: &mut Histogram<u64>,
) -> Result<Counts> {
    let mut other = Counterpart::start(engine, variant.backend, variant.journal, variant.sqpoll)?;
    other.open()?;
    for _ in 0..WARM_UP {
        other.tick_to_order()?;
        wait_until(Instant::now() + INTERVAL);
    }
    let before = other.usage()?;
    let mut intended = Instant::now() + INTERVAL;
    for _ in 0..samples {
        wait_until(intended);
        let arrived = other.tick_to_order()?;
        histogram.saturating_record(arrived.duration_since(intended).as_nanos() as u64);
        intended += INTERVAL;
    }
    let after = other.usage()?;
    let mut counts = Counts { ticks: samples.into(), ..Counts::default() };
    counts.page_faults = after.faults - before.faults;
    counts.voluntary_switches = after.switches - before.switches;
    counts.syscalls = after.syscalls.saturating_sub(before.syscalls);
    counts.bursts = u64::from(samples / 20).max(1);
    for _ in 0..counts.bursts {
        other.burst(BURST)?;
        wait_until(Instant::now() + 4 * INTERVAL);
    }
    let burst = other.usage()?;
    counts.burst_syscalls = burst.syscalls.saturating_sub(after.syscalls);
    std::thread::sleep(Duration::from_secs(1));
    counts.idle_syscalls = other.usage()?.syscalls.saturating_sub(burst.syscalls);
    let unexpected = other.counter(Counter::FeedGaps) + other.counter(Counter::RiskRejected);
    ensure!(unexpected == 0, "the engine saw gaps or risk refused orders: {unexpected}");
    Ok(counts)
}

fn wait_until(at: Instant) {
    while Instant::now() < at {
        std::hint::spin_loop();
    }
}

/// Returns the median time in nanoseconds for UDP in and TCP out with only a thread in between that
/// receives and answers.
fn echo(samples: u32) -> Result<u64> {
    let (ticks, listener) = (UdpSocket::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    let (to, orders) = (ticks.local_addr()?, listener.local_addr()?);
    ticks.set_nonblocking(true)?;
    let answering = std::thread::spawn(move || -> Result<()> {
        pin(1)?;
        let mut order = TcpStream::connect(orders)?;
        order.set_nodelay(true)?;
        let mut datagram = [0; 2048];
        loop {
            match ticks.recv(&mut datagram) {
                Ok(0) => return Ok(()),
                Ok(len) => order.write_all(&datagram[..len.min(50)])?,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    });
    let (mut orders, _) = listener.accept()?;
    orders.set_nonblocking(true)?;
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    let mut histogram = Histogram::<u64>::new_with_bounds(100, 10_000_000_000, 3)?;
    let mut intended = Instant::now() + INTERVAL;
    for _ in 0..samples {
        wait_until(intended);
        sender.send_to(&[7; 58], to)?;
        let deadline = intended + Duration::from_secs(5);
        let mut bytes = [0; 64];
        while orders.read(&mut bytes).is_err() {
            if Instant::now() > deadline {
                bail!("the echo did not come");
            }
        }
        histogram.saturating_record(intended.elapsed().as_nanos() as u64);
        intended += INTERVAL;
    }
    sender.send_to(&[], to)?;
    answering.join().map_err(|_| anyhow::anyhow!("the echo thread panicked"))??;
    Ok(histogram.value_at_quantile(0.5))
}
