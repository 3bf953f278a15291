//! A container's program for tests, static, made by rustc alone: tries to get onto a CPU that is
//! not its own, or to make the kernel work there, in every way that it knows. A line for each:
//! `NAME refused WHY`, or `NAME REACHED`. On a host it would change that host, so it runs as the
//! first process of a PID namespace alone.
//!
//! intrude CPU

use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::io::{Error, Write};

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn sched_getaffinity(pid: c_int, size: usize, mask: *mut u64) -> c_int;
    fn mknod(path: *const c_char, mode: u32, device: u64) -> c_int;
}

/// Numbers of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl).
const MMAP: c_long = 9;
const SETPRIORITY: c_long = 141;
const SCHED_SETSCHEDULER: c_long = 144;
const SCHED_SETAFFINITY: c_long = 203;
const UNSHARE: c_long = 272;
const SCHED_SETATTR: c_long = 314;
const IO_URING_SETUP: c_long = 425;
const PERF_EVENT_OPEN: c_long = 298;

/// Calls that a container has no use for, with arguments that would do no harm if they were let
/// through.
const CALLS: [(&str, c_long, [c_long; 5]); 27] = [
    ("io_uring_enter", 426, [-1, 0, 0, 0, 0]),
    ("io_uring_register", 427, [-1, 0, 0, 0, 0]),
    ("bpf", 321, [0, 0, 0, 0, 0]),
    ("kexec_load", 246, [0, 0, 0, 0, 0]),
    ("kexec_file_load", 320, [-1, -1, 0, 0, 0]),
    ("init_module", 175, [0, 0, 0, 0, 0]),
    ("finit_module", 313, [-1, 0, 0, 0, 0]),
    ("delete_module", 176, [0, 0, 0, 0, 0]),
    ("mount", 165, [0, 0, 0, 0, 0]),
    ("fsopen", 430, [0, 0, 0, 0, 0]),
    ("move_mount", 429, [-1, 0, -1, 0, 0]),
    ("open_tree", 428, [-1, 0, 0, 0, 0]),
    ("mount_setattr", 442, [-1, 0, 0, 0, 0]),
    ("pivot_root", 155, [0, 0, 0, 0, 0]),
    ("swapon", 167, [0, 0, 0, 0, 0]),
    ("reboot", 169, [0, 0, 0, 0, 0]),
    ("settimeofday", 164, [0, 0, 0, 0, 0]),
    ("adjtimex", 159, [0, 0, 0, 0, 0]),
    ("ptrace", 101, [16, 1, 0, 0, 0]),
    ("process_vm_writev", 311, [1, 0, 0, 0, 0]),
    ("setns", 308, [-1, 0, 0, 0, 0]),
    ("userfaultfd", 323, [0, 0, 0, 0, 0]),
    ("open_by_handle_at", 304, [-1, 0, 0, 0, 0]),
    ("keyctl", 250, [0, 0, 0, 0, 0]),
    ("iopl", 172, [3, 0, 0, 0, 0]),
    ("ioperm", 173, [0, 1, 1, 0, 0]),
    ("syslog", 103, [4, 0, 0, 0, 0]),
];

/// Files that say where the kernel works, and devices that reach behind it.
const FILES: [(&str, &str); 26] = [
    ("/sys/fs/cgroup/cpuset.cpus", "0-3"),
    ("/sys/fs/cgroup/cgroup.procs", "0"),
    ("/sys/fs/cgroup/cgroup.subtree_control", "+cpuset"),
    ("/sys/fs/cgroup/cpuset.cpus.partition", "root"),
    ("/proc/irq/default_smp_affinity", "f"),
    ("/proc/irq/1/smp_affinity", "f"),
    ("/proc/sys/kernel/sched_rt_runtime_us", "-1"),
    ("/proc/sys/kernel/watchdog_cpumask", "0-3"),
    ("/proc/sys/kernel/nmi_watchdog", "1"),
    ("/proc/sys/kernel/core_pattern", "|/intrude"),
    ("/proc/sys/kernel/modprobe", "/intrude"),
    ("/proc/sys/kernel/hotplug", "/intrude"),
    ("/proc/sys/vm/stat_interval", "1"),
    ("/proc/sys/vm/drop_caches", "1"),
    ("/proc/sys/net/core/flow_limit_cpu_bitmap", "f"),
    ("/proc/sysrq-trigger", "h"),
    ("/sys/devices/virtual/workqueue/cpumask", "f"),
    ("/sys/devices/virtual/workqueue/writeback/cpumask", "f"),
    ("/sys/devices/system/cpu/cpu1/online", "0"),
    ("/sys/devices/system/cpu/cpu3/online", "0"),
    ("/sys/class/net/lo/queues/rx-0/rps_cpus", "f"),
    ("/sys/kernel/mm/ksm/run", "1"),
    ("/dev/mem", "x"),
    ("/dev/kmsg", "x"),
    ("/dev/vda", ""),
    ("/dev/cpu/2/msr", ""),
];

fn tell(name: &str, refused: Result<(), String>) {
    match refused {
        Ok(()) => println!("{name} REACHED"),
        Err(why) => println!("{name} refused {why}"),
    }
}

fn called(result: c_long) -> Result<(), String> {
    if result < 0 { Err(Error::last_os_error().to_string()) } else { Ok(()) }
}

/// That it is not permitted is a refusal; that an argument is bad says that it would have been done
/// with a good one.
fn permitted(result: c_long) -> Result<(), String> {
    let error = Error::last_os_error();
    match result < 0 && error.raw_os_error() == Some(1) {
        true => Err(error.to_string()),
        false => Ok(()),
    }
}

/// Whether this process may run on the CPU; no number of successful calls counts but this.
fn is_on(cpu: usize) -> Result<(), String> {
    let mut mask = [0u64; 16];
    // SAFETY: the mask is as large as is said, and the kernel writes no further.
    let len = unsafe { sched_getaffinity(0, size_of_val(&mask), mask.as_mut_ptr()) };
    called(len.into())?;
    match mask[cpu / 64] >> (cpu % 64) & 1 {
        1 => Ok(()),
        _ => Err(format!("stays on {:#x}", mask[0])),
    }
}

fn affinities(cpu: usize) {
    for (name, mask) in [("affinity-one", 1u64 << cpu), ("affinity-two", 3 << cpu), ("affinity-all", u64::MAX)] {
        for target in [0, 1] {
            // SAFETY: the mask lives until the call is over, and is as large as is said.
            unsafe { syscall(SCHED_SETAFFINITY, target as c_long, 8usize, &raw const mask) };
            tell(&format!("{name}-of-{target}"), is_on(cpu));
        }
    }
}

fn classes() {
    for (name, policy) in [("fifo", 1), ("round-robin", 2)] {
        let priority: c_int = 99;
        // SAFETY: the parameter is one number, which lives until the call is over.
        tell(name, called(unsafe { syscall(SCHED_SETSCHEDULER, 0 as c_long, policy as c_long, &raw const priority) }));
    }
    // struct sched_attr: size, policy SCHED_DEADLINE, flags, nice, priority, runtime, deadline,
    // period.
    let mut attributes = [0u64; 7];
    attributes[0] = 56 | 6 << 32;
    attributes[4..].copy_from_slice(&[1_000_000, 10_000_000, 10_000_000]);
    // SAFETY: the structure is as large as its first field says.
    tell("deadline", called(unsafe { syscall(SCHED_SETATTR, 0 as c_long, attributes.as_ptr(), 0 as c_long) }));
    // SAFETY: numbers only.
    tell("nice", called(unsafe { syscall(SETPRIORITY, 0 as c_long, 0 as c_long, -20 as c_long) }));
}

fn rings(cpu: usize) {
    // struct io_uring_params: sq_entries, cq_entries, flags, sq_thread_cpu, ...
    for (name, flags) in [("ring", 0u32), ("ring-with-thread", 2), ("ring-with-thread-there", 2 | 4)] {
        let mut parameters = [0u32; 30];
        (parameters[2], parameters[3]) = (flags, cpu as u32);
        // SAFETY: the structure is as large as the kernel's, and lives until the call is over.
        tell(name, called(unsafe { syscall(IO_URING_SETUP, 4 as c_long, parameters.as_mut_ptr()) }));
    }
}

fn counters(cpu: usize) {
    // struct perf_event_attr: type PERF_TYPE_SOFTWARE, size, config PERF_COUNT_SW_CPU_CLOCK.
    let mut attributes = [0u64; 16];
    attributes[0] = 1 | 64 << 32;
    for (name, at) in [("counter-there", cpu as c_long), ("counter-anywhere", -1)] {
        // SAFETY: the structure is larger than what its size says, and lives until the call is
        // over.
        tell(name, called(unsafe { syscall(PERF_EVENT_OPEN, attributes.as_ptr(), 0 as c_long, at, -1 as c_long, 0 as c_long) }));
    }
}

/// New namespaces harm nobody by themselves: what counts is what one can do in them.
fn namespaces(cpu: usize) {
    for (name, flags) in [("cgroup-namespace", 0x0200_0000), ("mount-namespace", 0x0002_0000), ("user-namespace", 0x1000_0000)] {
        // SAFETY: a number only.
        unsafe { syscall(UNSHARE, flags as c_long) };
        let made = std::fs::create_dir("/sys/fs/cgroup/intruder").map_err(|error| error.to_string());
        tell(&format!("{name}-and-cgroup"), made);
        let mask = 1u64 << cpu;
        // SAFETY: the mask lives until the call is over, and is as large as is said.
        unsafe { syscall(SCHED_SETAFFINITY, 0 as c_long, 8usize, &raw const mask) };
        tell(&format!("{name}-and-affinity"), is_on(cpu));
    }
}

/// Huge pages are the engine's, and whoever maps one has it.
fn huge_page() {
    let (access, flags) = (1 | 2, 0x02 | 0x20 | 0x4_0000);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let mapped = unsafe { syscall(MMAP, 0 as c_long, 2usize << 20, access as c_long, flags as c_long, -1 as c_long, 0 as c_long) };
    tell("huge-page", called(mapped));
}

fn devices() {
    // Memory, and the first disk.
    for (name, mode, device) in [("make-mem", 0o020_600, 1 << 8 | 1), ("make-disk", 0o060_600, 254 << 8)] {
        let path = CString::new(format!("/tmp/{name}")).expect("no zero in it");
        // SAFETY: the path ends with a zero.
        let made = called(unsafe { mknod(path.as_ptr(), mode, device) }.into());
        tell(name, made.and_then(|()| write(&format!("/tmp/{name}"), "")));
    }
}

fn write(path: &str, text: &str) -> Result<(), String> {
    let opened = std::fs::OpenOptions::new().write(true).open(path);
    opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| error.to_string())
}

fn main() {
    assert_eq!(std::process::id(), 1, "this takes CPUs away from the host it runs on: start it in a container");
    let cpu = std::env::args().nth(1).and_then(|cpu| cpu.parse().ok()).expect("a CPU's number");
    affinities(cpu);
    classes();
    rings(cpu);
    counters(cpu);
    for (name, number, [a, b, c, d, e]) in CALLS {
        // SAFETY: every pointer among the arguments is null, which the kernel refuses.
        tell(name, permitted(unsafe { syscall(number, a, b, c, d, e, std::ptr::null::<c_void>()) }));
    }
    for (path, text) in FILES {
        tell(path, write(path, text));
    }
    devices();
    huge_page();
    namespaces(cpu);
    println!("intrude: no more ways");
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}
