//! Tools for finding a fault on a host: ephemeral debug containers, and packet capture on an
//! interface.

use crate::harness::booted::{Booted, Verdict};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(60);

/// The exporter's program, in its image.
const PROGRAM: &str = "/quietcore-exporter";

/// Proves that debug containers keep the service's limits and end in time, and that packets are
/// captured.
pub fn somebody_looks_for_a_fault(booted: &mut Booted) -> Result<Verdict> {
    let shell = &mut booted.shell;
    let help = shell.check(&format!("qctl debug --of exporter -- {PROGRAM} --help"), ANSWER)?;
    ensure!(help.contains("--pages"), "the exporter's help: {help}");
    let image = "image=$(sed -n 's/ *image: \\(.*exporter.*\\)/\\1/p' /etc/quietcore/compose.yaml)";
    let wrong = format!("{image}; qctl debug --image $image -- {PROGRAM} --nonsense");
    let wrong = shell.run(&wrong, ANSWER)?;
    ensure!(
        wrong.code == 1 && wrong.text.contains("ended with 2") && wrong.text.contains("nonsense"),
        "a program that fails: {wrong:?}"
    );
    // One that goes on, in the exporter's place: on housekeeping cores, with its limits, until
    // somebody loses patience.
    let long = format!(
        "set -m; qctl debug --of exporter --time 10m -- {PROGRAM} --pages /pages --listen 127.0.0.1:9466 > /run/debug.txt 2>&1 & qctl=$!
        until grep -q 'metrics on' /run/debug.txt; do sleep 0.1; done
        name=$(sed -n 's/^\\(debug[^:]*\\):.*/\\1/p' /run/debug.txt)
        cd /sys/fs/cgroup/quietcore-containers/$name*
        cat cpuset.cpus memory.max pids.max; kill -INT $qctl; wait; cat /run/debug.txt; qctl get containers | grep -c debug || true"
    );
    let long = shell.check(&long, ANSWER)?;
    ensure!(
        long.starts_with("0-1\n33554432\n16\n") && long.contains("thrown away, after SIGINT"),
        "one that goes on: {long}"
    );
    ensure!(long.ends_with("\n0\n"), "it is still there: {long}");
    let refused = shell.run("qctl debug --image nobody/has:this", ANSWER)?;
    ensure!(
        refused.code == 1 && refused.text.contains("nobody/has"),
        "an image that this host may not have: {refused:?}"
    );
    // One whose time is over: its container goes beside the agent's answers.
    let over = format!(
        "qctl debug --of exporter --time 1s -- {PROGRAM} --pages /pages --listen 127.0.0.1:9467; qctl get containers | grep -c debug; for _ in $(seq 100); do left=$(ls -d /sys/fs/cgroup/quietcore-containers/debug* 2>/dev/null | wc -l); [ $left != 0 ] || break; sleep 0.2; done; echo $left"
    );
    let over = shell.run(&over, ANSWER)?;
    ensure!(
        over.text.contains("its time is over") && over.text.ends_with("\n0\n0\n"),
        "one whose time is over: {over:?}"
    );
    let unmade = shell.run("qctl debug --of exporter -- /no-such-program", ANSWER)?;
    ensure!(
        unmade.code == 1 && unmade.text.contains("no-such-program"),
        "one that can't be made: {unmade:?}"
    );
    let trading = shell.run("qctl pcap lo --seconds 2 --write /run/a.pcap", ANSWER)?;
    ensure!(
        trading.code == 1 && trading.text.contains("the engine trades"),
        "packets of a trading engine: {trading:?}"
    );
    let packets = shell.check(
        "qctl pcap lo tcp port 9464 --seconds 5 --trading --write /run/a.pcap &
        while [ -d /proc/$! ]; do [ -s /run/a.pcap ] && break; exec 3<>/dev/tcp/127.0.0.1/9464; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3 > /dev/null; sleep 0.2; done
        wait; head -c 4 /run/a.pcap | od -An -tx1; grep -c quietcore_engine_up /run/a.pcap; stat -c %s /run/a.pcap",
        ANSWER,
    )?;
    let mut lines = packets.lines().rev();
    let (size, found) = (lines.next().context("a size")?, lines.next().context("a count")?);
    ensure!(packets.contains("d4 c3 b2 a1") && found != "0", "no packets of ours: {packets}");
    let filter = shell.run("qctl pcap lo no such filter --trading --write /run/b.pcap", ANSWER)?;
    ensure!(filter.code == 1 && !filter.text.is_empty(), "a filter that is none: {filter:?}");
    Ok(Verdict::Proved(format!(
        "a container of one's own ran in the exporter's place and with its image, on housekeeping cores with the exporter's limits, said how it ended and was gone when its time was over; {size} bytes of packets were taken down, and refused while the engine trades and nobody wants that"
    )))
}
