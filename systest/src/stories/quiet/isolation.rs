//! No container reaches a hot core: a program that tries it in every way that it knows, in a
//! container that has everything that one can be given; and files that ask for more than that.

use crate::harness::booted::{Booted, Verdict};
use crate::harness::http;
use crate::harness::native_host::pack;
use crate::measure::load::FETCH;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(120);

/// Keys that a compose file may not have, each with a part of the refusal.
const KEYS: [(&str, &str); 26] = [
    ("cpuset: \"2\"", "is hot"),
    ("cpuset: \"1-2\"", "is hot"),
    ("cpuset: \"0-3\"", "is hot"),
    ("cpuset: \"3,0\"", "is hot"),
    ("cap_add: [SYS_NICE]", "one of CHOWN"),
    ("cap_add: [SYS_ADMIN]", "one of CHOWN"),
    ("cap_add: [CAP_SYS_RAWIO]", "one of CHOWN"),
    ("cap_add: [PERFMON]", "one of CHOWN"),
    ("cap_add: [ALL]", "one of CHOWN"),
    ("ulimits: {rtprio: 99}", "one of core"),
    ("ulimits: {nice: 40}", "one of core"),
    ("security_opt: [\"seccomp:unconfined\"]", "always on"),
    ("security_opt: [\"apparmor:unconfined\"]", "always on"),
    ("sysctls: {kernel.sched_rt_runtime_us: -1}", "net.*"),
    ("volumes: [\"/sys/fs/cgroup:/c\"]", "a directory under"),
    ("volumes: [\"/proc:/p\"]", "a directory under"),
    ("volumes: [\"/run/containerd:/c\"]", "a directory under"),
    ("volumes: [\"/run/quietcore/agent:/c\"]", "a directory under"),
    ("volumes: [\"/run/quietcore/../containerd:/c\"]", "a directory under"),
    ("privileged: true", "privileged"),
    ("devices: [\"/dev/mem\"]", "devices"),
    ("pid: host", "pid"),
    ("cgroup_parent: hot.slice", "cgroup_parent"),
    ("cgroup: host", "cgroup"),
    ("runtime: other", "runtime"),
    ("cpu_rt_runtime: 950000", "cpu_rt_runtime"),
];

/// A container with all that one can have; it tries CPU 2, or, as the control, one of its own. The
/// control may have a huge page, and writes to the disk as fast as it is told.
fn service(cpu: u32) -> String {
    let more = match cpu {
        1 => {
            "    x-quietcore: {hugepages: {2MB: 2m}}\n    blkio_config: {device_write_bps: [{path: /dev/vda, rate: 1mb}]}\n"
        }
        _ => "",
    };
    format!(
        "  intrude{cpu}:\n    image: test/intrude:1\n    command: [\"{cpu}\"]\n    user: \"0:0\"\n    cap_add: [IPC_LOCK, NET_RAW, SETFCAP, SYS_CHROOT]\n    ulimits: {{memlock: 1073741824, nproc: 65536}}\n    stop_signal: SIGKILL\n    tmpfs: /tmp\n    restart: \"no\"\n{more}"
    )
}

fn refuse(booted: &mut Booted) -> Result<()> {
    let mut script = String::from("cd /run\n");
    for (index, (key, _)) in KEYS.iter().enumerate() {
        script += &format!(
            "printf 'services:\\n  a:\\n    image: quietcore/exporter:1\\n    %s\\n' '{key}' > key.yaml; qctl apply --dry-run key.yaml > key.out 2>&1 && echo '{index} taken' || echo \"{index} $(< key.out)\"\n"
        );
    }
    let said = booted.shell.check(&script, ANSWER)?;
    for (line, (index, (key, why))) in said.lines().zip(KEYS.iter().enumerate()) {
        ensure!(
            line.starts_with(&format!("{index} qctl: ")) && line.contains(why),
            "{key}: {line}"
        );
    }
    ensure!(said.lines().count() == KEYS.len(), "{} answers: {said}", said.lines().count());
    Ok(())
}

/// Proves that a container with all that one can be given reaches no hot core.
pub fn no_container_reaches_a_hot_core(booted: &mut Booted) -> Result<Verdict> {
    refuse(booted)?;
    let directory = std::env::temp_dir().join(format!("quietcore-intrude-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let archive = directory.join("intrude.tar");
    let packed = pack("intrude", "test/intrude", &archive);
    let web = packed.and_then(|()| http::serve(directory.clone()))?;
    let begin = format!(
        "web={web}\n{FETCH}fetch intrude.tar > /run/intrude.tar; qctl image load /run/intrude.tar; rm /run/intrude.tar
cp /etc/quietcore/compose.yaml /run/intrude.yaml; cat >> /run/intrude.yaml <<'END'\n{}{}END
qctl apply /run/intrude.yaml
for cpu in 1 2; do until qctl logs intrude$cpu | grep -q 'no more ways'; do sleep 0.5; done; done",
        service(1),
        service(2)
    );
    booted.shell.check(&begin, ANSWER).context("run the intruders")?;
    let tried = booted.shell.check("qctl logs -n 1000 intrude2", ANSWER)?;
    let reached: Vec<&str> = tried.lines().filter(|line| line.ends_with(" REACHED")).collect();
    ensure!(reached.is_empty(), "a container got through: {}", reached.join(", "));
    let ways = tried.lines().filter(|line| line.contains(" refused ")).count();
    ensure!(ways >= 50, "only {ways} ways were tried: {tried}");
    // The control: it notices a CPU that it has.
    let own = booted.shell.check("qctl logs -n 1000 intrude1", ANSWER)?;
    for noticed in ["affinity-one-of-0 REACHED", "huge-page REACHED"] {
        ensure!(own.contains(noticed), "{noticed} is not noticed: {own}");
    }
    let disk =
        booted.shell.check("cat /sys/fs/cgroup/quietcore-containers/intrude1-*/io.max", ANSWER)?;
    ensure!(disk.contains(" wbps=1048576 "), "io.max: {disk}");
    let stands = "cat /sys/fs/cgroup/hot.slice/hot-engine.slice/cpuset.cpus.{partition,effective}
for pid in $(cat /sys/fs/cgroup/quietcore-containers/*/cgroup.procs); do for task in /proc/$pid/task/*; do sed -n 's/^Cpus_allowed_list:\\t//p' $task/status; done; done | sort -u
qctl apply /etc/quietcore/compose.yaml > /dev/null; qctl image rm test/intrude:1";
    let stands = booted.shell.check(stands, ANSWER)?;
    let lists = stands.strip_prefix("isolated\n2-3\n");
    // The control keeps itself to CPU 1.
    ensure!(lists == Some("0-1\n1\n"), "after it: {stands:?}");
    std::fs::remove_dir_all(directory)?;
    booted.shell.wait_status("ready again", ANSWER, |status| status["ready"] == true)?;
    Ok(Verdict::Proved(format!(
        "{} keys of a compose file are refused with the reason; a container with everything that one can have tried {ways} ways to a hot core, and all were refused; the partition stands, and every thread of a container keeps to CPUs 0-1",
        KEYS.len()
    )))
}
