//! Bars of figures, and the names of what a guest measures.

use anyhow::{Context, Result};

/// Bars of figures: name, `at most` or `at least`, limit.
pub const BARS: &[(&str, &str, f64)] = &[
    ("ci_seconds_cold", "at most", 2700.0),
    ("ready_cpu_seconds", "at most", 60.0),
    ("story_start_cpu_seconds", "at most", 5.0),
    ("ready_seconds", "at most", 60.0),
    ("initrd_bytes", "at most", 2_000_000.0),
    ("uki_bytes", "at most", 16_000_000.0),
    ("root_bytes", "at most", 75_000_000.0),
    ("netboot_bytes", "at most", 120_000_000.0),
    ("processes_at_rest", "at most", 25.0),
    ("ram_at_rest_bytes", "at most", 250_000_000.0),
    // Somewhat above what was measured, 81: the boot does not grow unseen, and a busy machine has
    // some that end later.
    ("units_started", "at most", 86.0),
    // 439 to 453 were seen: a slower machine polls more often until it is ready.
    ("processes_forked_to_ready", "at most", 550.0),
    ("bytes_read_to_ready", "at most", 66_000_000.0),
    ("hot_core_timer_irqs_per_10s", "at most", 10.0),
    ("hot_core_foreign_switches_per_10s", "at most", 0.0),
    ("hot_core_timer_irqs_per_10s_control", "at least", 1000.0),
    ("mistunings_named", "at least", 30.0),
    ("false_alarms", "at most", 0.0),
    ("kernel_modules", "at most", 0.0),
    ("parse_instructions_per_message", "at most", 25.0),
    ("book_instructions_per_message", "at most", 80.0),
    ("tick_to_order_instructions", "at most", 1000.0),
    ("risk_instructions_per_order", "at most", 120.0),
    ("allocations_after_warmup", "at most", 0.0),
    ("page_faults_after_warmup", "at most", 0.0),
    ("voluntary_switches_after_warmup", "at most", 0.0),
    ("syscalls_per_tick_to_order", "at most", 1.15),
    ("syscalls_per_burst_of_32", "at most", 5.0),
    ("syscalls_idle_per_second", "at most", 0.0),
    ("syscalls_per_tick_to_order_sqpoll", "at most", 1.15),
    ("syscalls_per_burst_of_32_sqpoll", "at most", 5.0),
    ("syscalls_idle_per_second_sqpoll", "at most", 0.0),
    ("uring_over_epoll_p50", "at most", 0.60),
    ("uring_over_rawspin_p50", "at most", 1.25),
    ("journal_on_over_off_p50", "at most", 1.05),
    ("agent_resident_bytes", "at most", 30_000_000.0),
    ("agent_idle_cpu_percent", "at most", 0.5),
    ("apply_to_canary_seconds", "at most", 3.0),
    ("verdict_to_version_before_seconds", "at most", 1.0),
    ("compose_generated", "at least", 10_000.0),
    ("compose_different", "at most", 0.0),
    ("status_answer_ms_max", "at most", 1000.0),
    ("hostile_worker_succeeded", "at most", 0.0),
    ("hostile_worker_tries", "at least", 100.0),
    ("kills", "at least", 1000.0),
    ("converged_seconds_p99", "at most", 2.0),
    ("rollouts_with_pulls", "at least", 100.0),
    ("hot_core_foreign_switches", "at most", 0.0),
    ("power_cuts", "at least", 10.0),
    ("lines_written", "at least", 10_000_000.0),
    ("lines_lost", "at most", 0.0),
    ("lines_doubled", "at most", 0.0),
];

/// Figures that a ready guest is asked for: name, and the shell command that prints it.
pub const GUEST_FIGURES: &[(&str, &str)] = &[
    ("processes_forked_to_ready", "awk '/^processes/ {print $2}' /proc/stat"),
    ("bytes_read_to_ready", "awk '{print $3 * 512}' /sys/block/vda/stat"),
    ("units_started", "systemctl list-units --state=active --no-legend --plain | wc -l"),
    (
        "processes_at_rest",
        "ls -d /proc/[0-9]*/exe | while read -r exe; do readlink $exe; done | grep -vc -e bash -e readlink",
    ),
    (
        "ram_at_rest_bytes",
        "awk '/MemTotal/ {t=$2} /MemAvailable/ {a=$2} END {print (t-a)*1024}' /proc/meminfo",
    ),
];

/// Whether a figure that has a bar meets it.
pub fn is_met(name: &str, value: f64) -> Option<bool> {
    let (_, sense, bar) = BARS.iter().find(|(bar, ..)| *bar == name)?;
    Some(if *sense == "at most" { value <= *bar } else { value >= *bar })
}

/// Seconds from the kernel's start until the host was ready, as its console says.
pub fn ready_seconds(console: &str) -> Result<f64> {
    let said = console.split("quietcore: ready, ").nth(1).and_then(|rest| rest.split(' ').next());
    said.and_then(|text| text.parse().ok()).context("the guest's time to ready")
}
