//! Images from a registry: what may be fetched, whose signature it needs, what becomes of it.

use crate::harness::booted::{Booted, Verdict};
use crate::harness::checkout::program;
use crate::harness::http;
use crate::harness::registry::{Registry, give_policy, policy};
use crate::measure::load::FETCH;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(60);
/// A megabyte through a registry, and a container of it, under TCG beside another machine.
const RUNS: Duration = Duration::from_secs(120);

/// Bytes of the image that is broken off on its way.
const LARGE: usize = 6 << 20;

/// containerd loses all that it has, and every container with it.
const LOSE: &str = r#"
systemctl stop quietcore-agent containerd
for shim in $(grep -l containerd-shim /proc/[0-9]*/comm | cut -d / -f 3); do kill -9 $shim; done
for pid in $(cat /sys/fs/cgroup/quietcore-containers/*/cgroup.procs); do kill -9 $pid; done
sleep 1
for at in $(grep -o '/run/containerd/[^ ]*' /proc/mounts); do umount $at; done
rm -rf /var/lib/containerd/* /run/containerd/*
[ -z "$(ls -A /var/lib/containerd)" ] || exit 1
systemctl start containerd quietcore-agent
"#;

fn exporter() -> PathBuf {
    program("quietcore-exporter")
}

/// The image's compose file and one service more, of this image.
fn apply(booted: &mut Booted, image: &str) -> Result<(i32, String)> {
    let service = format!(
        "  pulled:\n    image: {image}\n    command: [\"--pages\", \"/pages\", \"--listen\", \"127.0.0.1:9470\"]\n    read_only: true\n    volumes: [\"/run/quietcore/engine:/pages:ro\"]\n"
    );
    let script = format!(
        "cp /etc/quietcore/compose.yaml /run/pulled.yaml; cat >> /run/pulled.yaml <<'END'\n{service}END\nqctl apply /run/pulled.yaml"
    );
    let output = booted.shell.run(&script, ANSWER)?;
    Ok((output.code, output.text))
}

fn state(status: &serde_json::Value, name: &str) -> Option<String> {
    let containers = status["containers"].as_array()?;
    let container = containers.iter().find(|container| container["name"] == name)?;
    Some(container["state"].as_str()?.to_owned())
}

/// Waits until the status names this problem of the image.
fn wait_problem(booted: &mut Booted, text: &str) -> Result<()> {
    let status = crate::harness::booted::wait_problem(booted, text, RUNS)?;
    ensure!(
        state(&status, "exporter").as_deref() == Some("running"),
        "the others do not run on: {status}"
    );
    Ok(())
}

fn wait_running(booted: &mut Booted) -> Result<()> {
    booted.shell.wait_status("the pulled image runs", RUNS, |status| {
        state(status, "pulled").as_deref() == Some("running") && status["ready"] == true
    })?;
    Ok(())
}

/// Proves that images are pulled only from known registries, by digest, and run only if signed by a
/// known key.
pub fn images_are_fetched_and_judged(booted: &mut Booted) -> Result<Verdict> {
    let mut registry = Registry::start(&booted.image)?;
    give_policy(booted, &policy(&registry)?)?;
    let registry = &mut registry;
    let at = format!("10.0.2.2:{}", registry.port);
    let name = |digest: &str| format!("{at}/desk/exporter@{digest}");
    // Refused before anything is asked for.
    for (image, wanted) in [
        (format!("{at}/desk/exporter:1"), "write its digest"),
        ("elsewhere.example/a/b:1".into(), "elsewhere.example is not in quietcore.images"),
    ] {
        let (code, text) = apply(booted, &image)?;
        ensure!(code == 1 && text.contains(wanted), "{image}: {text}");
    }
    // Nobody signed it; then somebody else did.
    let unsigned = registry.push("desk/exporter", &exporter(), 1)?;
    ensure!(apply(booted, &name(&unsigned))?.0 == 0, "an image by digest is refused");
    wait_problem(booted, "nobody signed it")?;
    let strange = registry.push("desk/exporter", &exporter(), 2)?;
    registry.sign("desk/exporter", &strange, "stranger")?;
    ensure!(apply(booted, &name(&strange))?.0 == 0, "an image by digest is refused");
    wait_problem(booted, "none of its signatures is by a key that this host knows")?;
    // A signed one, with who fetches it killed on the way: it goes on where it was.
    let signed = registry.push("desk/exporter", &exporter(), LARGE)?;
    registry.sign("desk/exporter", &signed, "desk")?;
    ensure!(apply(booted, &name(&signed))?.0 == 0, "a signed image is refused");
    let kill = format!(
        "until [ -n \"$(find /var/lib/quietcore/images/partial -size +{}k)\" ]; do sleep 0.2; done; systemctl kill --signal=KILL quietcore-pull",
        LARGE / 4 / 1024
    );
    booted.shell.check(&kill, ANSWER).context("kill who fetches")?;
    wait_running(booted)?;
    ensure!(registry.log().contains("http.response.status=206"), "it was fetched from its start");
    // One from an archive.
    registry.pack(&exporter(), 3, "desk/loaded", "loaded.tar")?;
    let web = http::serve(registry.file(""))?;
    let load = format!(
        "web={web}\n{FETCH}fetch loaded.tar > /run/loaded.tar; qctl image load /run/loaded.tar; rm /run/loaded.tar; qctl image ls"
    );
    let said = booted.shell.check(&load, ANSWER)?;
    ensure!(said.contains("desk/loaded:1: loaded") && said.contains(" archive "), "loaded: {said}");
    // containerd's store is a cache, and the registry is needed no more.
    registry.stop()?;
    booted.shell.check(LOSE, ANSWER)?;
    wait_running(booted).context("after containerd lost everything, without the registry")?;
    // What was loaded stays until it is told to go.
    let refused = booted.shell.run("qctl image rm quietcore/exporter:1", ANSWER)?;
    ensure!(refused.code == 1, "an image that is not there is removed");
    booted.shell.check("qctl image rm desk/loaded:1", ANSWER)?;
    // What is not declared any more, nor was before, goes.
    for _ in 0..2 {
        booted.shell.check("qctl apply /etc/quietcore/compose.yaml", ANSWER)?;
        booted.shell.wait_status("ready again", RUNS, |status| status["ready"] == true)?;
    }
    let left = "until [ -z \"$(find /var/lib/quietcore/images -type f)\" ]; do sleep 0.5; done; qctl image ls";
    let left = booted.shell.check(left, ANSWER).context("the store is not empty")?;
    ensure!(!left.contains(&at), "still there: {left}");
    Ok(Verdict::Proved(
        "from a registry with a password and a private authority, zstd layers: a tag and a strange registry are refused at once, an image that nobody or a stranger signed is not run; a signed \
         one ran although its fetching was killed (it went on where it was) and its first mirror was dead, ran again after \
         containerd's store was removed with no registry there, and was collected when nothing declared it"
            .into(),
    ))
}
