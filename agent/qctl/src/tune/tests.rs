//! A host of files that is as the plan says, and each of its values broken in turn.

use crate::tune::*;
use std::fs;

const CORES: &str = "version = 1\n[cores]\nhot = \"2-N\"\n";

fn tuning() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernel-config/tuning.toml");
    fs::read_to_string(path).unwrap()
}

fn plan() -> Plan {
    Plan::new(&tuning(), CORES, "0-3").unwrap()
}

/// Files of a tuned host: path, text that meets the plan, text that breaks it.
const HOST: &[(&str, &str, &str)] = &[
    ("sys/devices/system/cpu/nohz_full", "2-3", "3"),
    (
        "proc/cmdline",
        "rcu_nocbs=2-N isolcpus=managed_irq,2-N tsc=reliable",
        "rcu_nocbs=2-3 isolcpus=domain,2-N",
    ),
    ("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2", "0,2"),
    ("sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "2-3", "1,3"),
    ("proc/irq/default_smp_affinity", "3", "f"),
    ("proc/irq/24/effective_affinity_list", "0", "2"),
    ("proc/irq/25/effective_affinity_list", "", "1-2"),
    ("sys/devices/virtual/workqueue/cpumask", "00000000,00000003", "00000000,00000007"),
    ("sys/class/net/eth0/queues/rx-0/rps_cpus", "0", "4"),
    ("sys/devices/system/machinecheck/machinecheck2/check_interval", "0", "12c"),
    ("proc/sys/kernel/timer_migration", "1", "0"),
    ("proc/meminfo", "SwapTotal:             0 kB", "SwapTotal:       1048572 kB"),
    (
        "sys/fs/cgroup/hot.slice/hot-engine.slice/cpuset.cpus.partition",
        "isolated",
        "isolated invalid (Cpu list in cpuset.cpus not exclusive)",
    ),
    ("sys/fs/cgroup/hot.slice/hot-engine.slice/cpuset.cpus.effective", "2-3", "2"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc", "hpet"),
    ("proc/sys/kernel/watchdog", "0", "1"),
    ("proc/sys/vm/nr_hugepages", "8", "3"),
    (
        "sys/kernel/mm/transparent_hugepage/enabled",
        "always madvise [never]",
        "[always] madvise never",
    ),
    ("proc/sys/kernel/numa_balancing", "0", "1"),
    ("proc/sys/vm/stat_interval", "60", "1"),
    ("proc/sys/vm/dirty_background_ratio", "2", "10"),
    ("proc/sys/vm/dirty_ratio", "10", "20"),
    ("sys/kernel/mm/ksm/run", "0", "1"),
    ("proc/sys/net/core/rmem_max", "8388608", "212992"),
    ("proc/sys/net/core/netdev_max_backlog", "16384", "1000"),
    ("proc/sys/net/core/somaxconn", "4096", "128"),
    ("proc/sys/kernel/io_uring_disabled", "0", "2"),
    ("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "performance", "powersave"),
    ("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "performance", "schedutil"),
];

fn host() -> (tempfile::TempDir, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().to_path_buf();
    for (path, good, _) in HOST {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{good}\n")).unwrap();
    }
    (temporary, root)
}

fn broken(lines: &[Line]) -> Vec<&str> {
    lines.iter().filter(|line| !line.is_met).map(|line| line.at.as_str()).collect()
}

#[test]
fn a_tuned_host_has_no_finding_and_each_deviation_is_named() {
    let (plan, (_temporary, root)) = (plan(), host());
    let lines = plan.compare(&root);
    assert_eq!(broken(&lines), Vec::<&str>::new());
    assert!(lines.len() >= HOST.len(), "{} values", lines.len());
    for (path, good, bad) in HOST {
        fs::write(root.join(path), bad).unwrap();
        let lines = plan.compare(&root);
        let at = format!("/{path}");
        let found = broken(&lines);
        assert!(!found.is_empty() && found.iter().all(|found| *found == at), "{at}: {found:?}");
        fs::write(root.join(path), good).unwrap();
    }
}

#[test]
fn a_missing_file_is_a_finding_but_for_optional_ones() {
    let (plan, (_temporary, root)) = (plan(), host());
    fs::remove_dir_all(root.join("sys/devices/system/cpu/cpu2/cpufreq")).unwrap();
    fs::remove_file(root.join("sys/kernel/mm/ksm/run")).unwrap();
    assert_eq!(broken(&plan.compare(&root)), Vec::<&str>::new());
    fs::remove_file(root.join("proc/sys/vm/stat_interval")).unwrap();
    let lines = plan.compare(&root);
    assert_eq!(broken(&lines), ["/proc/sys/vm/stat_interval"]);
    let line = lines.iter().find(|line| !line.is_met).unwrap();
    assert!(line.found.contains("No such file"), "{}", line.found);
}

#[test]
fn a_hosts_own_words_are_compared_too() {
    let (mut plan, (_temporary, root)) = (plan(), host());
    plan.add_words(["tsc=reliable", "idle=poll"].into_iter());
    let lines = plan.compare(&root);
    let missing: Vec<_> = lines.iter().filter(|line| !line.is_met).collect();
    assert_eq!((missing.len(), missing[0].expected.as_str()), (1, "idle=poll"));
}

#[test]
fn a_disks_queue_for_a_hot_core_is_passed_over_and_a_cards_is_not() {
    let (plan, (_temporary, root)) = (plan(), host());
    for (number, name) in [(30, "virtio2-req.2"), (31, "eth0-rx-0")] {
        let directory = root.join(format!("proc/irq/{number}"));
        fs::create_dir_all(directory.join(name)).unwrap();
        fs::write(directory.join("effective_affinity_list"), "2\n").unwrap();
    }
    assert_eq!(broken(&plan.compare(&root)), ["/proc/irq/31/effective_affinity_list"]);
}

#[test]
fn tasks_stay_off_the_hot_cores_and_are_not_realtime() {
    let (plan, set) = (plan(), |list: &str| parse_list(list).unwrap());
    let judge = |cgroup, list, realtime| plan.check_task(cgroup, &set(list), realtime).is_none();
    assert!(judge("/system.slice/containerd.service", "0-1", false));
    assert!(!judge("/system.slice/containerd.service", "0-3", false));
    assert!(!judge("/kubepods/x", "2", false));
    assert!(!judge("/system.slice/x.service", "0", true));
    assert!(judge("/hot.slice/hot-engine.slice/quietcore-engine.service", "2-3", true));
    assert!(!judge("/hot.slice/hot-engine.slice/stray", "2-3", false));
    assert!(!judge("/hot.slicex/y", "2", false));
}

#[test]
fn a_list_of_values_that_can_not_be_read_is_refused() {
    let refused = |text: &str| format!("{:#}", Plan::new(text, CORES, "0-3").err().unwrap());
    assert!(refused(&tuning().replace("version = 1", "version = 2")).contains("version 2"));
    assert!(refused(&tuning().replacen("equals", "equal", 1)).contains("equal"));
    assert!(refused(&tuning().replacen("cpus = \"hot\"\n", "", 1)).contains("tick: 0 expect"));
    let many = tuning().replacen("cpus = \"hot\"\n", "cpus = \"hot\"\nequals = \"x\"\n", 1);
    assert!(refused(&many).contains("tick: 2 expectations"));
    assert!(Plan::new(&tuning(), CORES, "0-1").is_err(), "too few CPUs");
}
