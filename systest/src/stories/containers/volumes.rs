//! Volumes of other hosts: NFS, and a disk by iSCSI.

use crate::harness::booted::{Booted, Verdict};
use crate::harness::storage::{Storage, TARGET};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(60);
/// Two mounts, a session and a container, under TCG beside another machine.
const RUNS: Duration = Duration::from_secs(120);

/// Both volumes in a service's hands.
fn compose(storage: &Storage, address: &str) -> String {
    let (nfs, iscsi) = (storage.nfs, storage.iscsi);
    format!(
        "  stored:
    image: $image
    command: [\"--pages\", \"/pages\", \"--listen\", \"127.0.0.1:9471\"]
    user: \"0:0\"
    x-quietcore: {{engine_pages: /pages}}
    volumes: [\"days:/days\", {{type: volume, source: ticks, target: /ticks}}]
volumes:
  days: {{driver: local, driver_opts: {{type: nfs, o: \"addr={address},port={nfs},soft,timeo=50,retrans=1\", device: \":/days\"}}}}
  ticks: {{driver_opts: {{type: ext4, o: noatime, device: \"/dev/disk/by-path/ip-10.0.2.2:{iscsi}-iscsi-{TARGET}-lun-1\"}}}}
"
    )
}

fn apply(booted: &mut Booted, storage: &Storage, address: &str) -> Result<(i32, String)> {
    let service = compose(storage, address);
    let script = format!(
        "image=$(sed -n 's/ *image: \\(.*exporter.*\\)/\\1/p' /etc/quietcore/compose.yaml); cp /etc/quietcore/compose.yaml /run/stored.yaml; cat >> /run/stored.yaml <<END\n{service}END\nqctl apply /run/stored.yaml"
    );
    let output = booted.shell.run(&script, ANSWER)?;
    Ok((output.code, output.text))
}

fn wait_stored(booted: &mut Booted) -> Result<()> {
    let runs = |status: &Value| {
        let mut containers = status["containers"].as_array().into_iter().flatten();
        let stored = containers.find(|container| container["name"] == "stored");
        stored.is_some_and(|it| it["state"] == "running") && status["ready"] == true
    };
    booted.shell.wait_status("what is stored elsewhere is used", RUNS, runs).map(drop)
}

/// The container's own view of its volumes.
const AT: &str =
    "at=/proc/$(cat /sys/fs/cgroup/quietcore-containers/stored*/cgroup.procs | head -n 1)/root";

/// Script that prints the recovery timeout of iSCSI sessions and the order of ends at shutdown: the
/// disk's mount before the initiator, both before the network.
const ORDER: &str = "cat /sys/class/iscsi_session/*/recovery_tmo
    mount=$(systemctl list-units --type=mount --plain --no-legend 'run-quietcore*ticks*' | cut -d ' ' -f 1)
    for unit in $mount quietcore-iscsid.service; do
        systemctl show -P After $unit | tr ' ' '\n' | grep -x -e network.target -e quietcore-iscsid.service
    done";

/// No mount, no session, no initiator.
const NOTHING: &str = "for i in $(seq 60); do
    left=\"$(grep -c /run/quietcore-volumes /proc/mounts) $(ls /sys/class/iscsi_session 2> /dev/null | wc -l) $(systemctl is-active quietcore-iscsid)\"
    [ \"$left\" = '0 0 inactive' ] && break; sleep 1
done; echo $left; [ $i -lt 60 ] || journalctl -b -q -n 20 -u 'quietcore-volume@*' -u quietcore-iscsid";

/// Proves that a service can use NFS and iSCSI volumes, mounted before it starts and unmounted
/// after it.
pub fn others_keep_what_containers_write(booted: &mut Booted) -> Result<Verdict> {
    let storage = Storage::start(&booted.image)?;
    let (code, text) = apply(booted, &storage, "storage.example")?;
    ensure!(code == 1 && text.contains("the server's address"), "a server by name: {text}");
    let (code, text) = apply(booted, &storage, "10.0.2.2")?;
    ensure!(code == 0, "volumes of others are refused: {text}");
    wait_stored(booted)?;
    let written = format!(
        "{AT}; for volume in days ticks; do echo kept > $at/$volume/word; done; sync; grep -o ' /\\(days\\|ticks\\) .* - [^ ]*' ${{at%/root}}/mountinfo | sed 's/ /,/g'; qctl events -n 40 | grep -c 'is mounted'"
    );
    let written = booted.shell.check(&written, ANSWER)?;
    for wanted in ["nfs4", "ext4"] {
        let mut lines = written.lines();
        let line = lines.find(|line| line.ends_with(wanted)).unwrap_or_default();
        ensure!(
            line.contains("nosuid") && line.contains("nodev"),
            "{wanted} is not mounted as it is to be: {written}"
        );
    }
    ensure!(written.ends_with("2\n"), "events do not tell of two mounts: {written}");
    let order = booted.shell.check(ORDER, ANSWER)?;
    let mut order: Vec<&str> = order.split_whitespace().collect();
    order.sort_unstable();
    let wanted = ["120", "network.target", "network.target", "quietcore-iscsid.service"];
    ensure!(order == wanted, "a broken session, or the end of the host: {order:?}");
    booted.shell.check("qctl apply /etc/quietcore/compose.yaml", ANSWER)?;
    let left = booted.shell.check(NOTHING, RUNS)?;
    ensure!(left.trim() == "0 0 inactive", "mounts, sessions and initiator are left: {left}");
    // Both are there again, with what was written.
    apply(booted, &storage, "10.0.2.2")?;
    wait_stored(booted)?;
    let read = booted.shell.check(&format!("{AT}; cat $at/days/word $at/ticks/word"), ANSWER)?;
    ensure!(read == "kept\nkept\n", "what was written is not there again: {read}");
    // A server that is not there keeps nobody else from anything.
    apply(booted, &storage, "10.0.2.3")?;
    let status = crate::harness::booted::wait_problem(booted, "mount 10.0.2.3:/days", RUNS)?;
    let engines = status["engines"].as_array().cloned().unwrap_or_default();
    let trades = !engines.is_empty() && engines.iter().all(|it| it["state"] == "trading");
    ensure!(trades, "without a server nobody trades: {status}");
    booted.shell.check("qctl apply /etc/quietcore/compose.yaml", ANSWER)?;
    booted.shell.check(NOTHING, RUNS)?;
    Ok(Verdict::Proved(
        "a service has files by NFS (Ganesha) and a disk by iSCSI (tgt), mounted before it starts and unmounted after it; what it wrote is there again; a server that is gone is named".into(),
    ))
}
