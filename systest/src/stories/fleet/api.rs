//! The API: qctl on this machine asks the guest over the network, in the role that its certificate
//! says.

use crate::harness::booted::{Booted, Verdict};
use crate::harness::http;
use crate::harness::native_host::{IMAGE, pack};
use crate::harness::operator::{API, AUTHORITY, Workstation};
use crate::measure::load::FETCH;
use crate::stories::containers::terminal;
use anyhow::{Result, ensure};
use std::path::Path;
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(60);
/// A compose file that is taken back, under TCG beside another machine.
const BACK: Duration = Duration::from_secs(120);

/// The operator's workstation: a reader, an operator and an admin of the guest.
///
/// # Errors
/// qctl refuses.
fn desk(port: u16) -> Result<Workstation> {
    let name = format!("quietcore-desk-{port}");
    let workstation = Workstation::new(&std::env::temp_dir().join(name), port)?;
    for (name, role) in [("rita", "reader"), ("oscar", "operator"), ("adam", "admin")] {
        workstation.add(AUTHORITY, name, role)?;
    }
    Ok(workstation)
}

/// # Errors
/// It is done, or refused for another reason.
fn refused(workstation: &Workstation, arguments: &[&str], why: &str) -> Result<()> {
    let (done, said) = workstation.qctl(arguments)?;
    ensure!(!done && said.contains(why), "qctl {}: {said}", arguments.join(" "));
    Ok(())
}

const PID: &str = "systemctl show -p MainPID --value quietcore-api";

/// Proves that qctl reaches a host over the network, in the role of its certificate only.
pub fn hosts_are_asked_over_the_network(booted: &mut Booted) -> Result<Verdict> {
    let workstation = desk(booted.api)?;
    crate::harness::booted::give_credential(
        booted,
        API,
        &workstation.credential()?,
        "quietcore-agent",
    )?;
    booted.shell.check("qctl ready --timeout 60", ANSWER)?;
    workstation.wait(&["--on", "rita", "status"], &booted.vm.clock.deadline(BACK))?;
    let status = workstation.must(&["--on", "rita", "status", "-o", "json"])?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    ensure!(status["ready"] == true, "{status}");
    workstation.must(&["--on", "rita", "ready", "--timeout", "5"])?;
    let logs = workstation.must(&["--on", "rita", "logs", "exchange", "-n", "3"])?;
    ensure!(logs.lines().count() > 0, "no line of the exchange");
    let compose = booted.shell.check("cat /etc/quietcore/compose.yaml", ANSWER)?;
    std::fs::write(workstation.file("same.yaml"), &compose)?;
    let quiet = compose.replace("restart: always", "restart: on-failure");
    std::fs::write(workstation.file("quiet.yaml"), quiet)?;
    refused(
        &workstation,
        &["--on", "rita", "apply", "same.yaml"],
        "rita is a reader, and this is for an operator",
    )?;
    refused(&workstation, &["--on", "oscar", "secret", "rm", "x"], "this is for an admin")?;
    workstation.must(&["--on", "oscar", "apply", "--dry-run", "quiet.yaml"])?;
    let diff = workstation.must(&["--on", "oscar", "diff", "quiet.yaml"])?;
    ensure!(diff.contains("+    restart: on-failure"), "{diff}");
    // Applied on trial, and taken back, since nobody keeps it.
    workstation.must(&["--on", "oscar", "apply", "--try", "5s", "quiet.yaml"])?;
    let back = "until qctl events | grep -q 'nobody kept it'; do sleep 0.5; done; qctl diff /etc/quietcore/compose.yaml";
    let back = booted.shell.check(back, BACK)?;
    ensure!(!back.contains("restart"), "it was not taken back: {back}");
    refused(&workstation, &["--on", "oscar", "keep"], "nothing is applied on trial")?;
    let kill = workstation.must(&["--on", "oscar", "kill"])?;
    booted.shell.wait_status("trading stops", ANSWER, |status| status["ready"] == false)?;
    workstation.must(&["--on", "oscar", "resume"])?;
    booted.shell.wait_status("it trades again", BACK, |status| status["ready"] == true)?;
    let audit = workstation.must(&["--on", "adam", "audit"])?;
    for line in [
        "rita         {\"compose\":\"sha256:",
        "REFUSED: rita is a reader",
        "oscar        {\"drain\":false,\"kill\":true,",
    ] {
        ensure!(audit.contains(line), "{line} is not in {audit}{kill}");
    }
    sit_at_a_terminal(booted, &workstation)?;
    rotate(booted, &workstation)?;
    Ok(Verdict::Proved(
        "a reader looked and was refused what changes the host, an operator applied a file that was taken back since \
         nobody kept it, stopped trading, and sat at a container's terminal; the audit log has all of it by name; another authority's certificates were \
         in force with the next connection of the same process"
            .into(),
    ))
}

/// An operator sits at a container that is thrown away; a reader does not.
fn sit_at_a_terminal(booted: &mut Booted, workstation: &Workstation) -> Result<()> {
    pack("lines", "test/lines", &workstation.file("lines.tar"))?;
    let web = http::serve(workstation.directory.clone())?;
    let load = format!(
        "web={web}\n{FETCH}fetch lines.tar > /run/lines.tar; qctl image load /run/lines.tar; rm /run/lines.tar"
    );
    booted.shell.check(&load, ANSWER)?;
    let program = ["--image", IMAGE, "--", "/lines", "terminal"];
    terminal::sit(
        &workstation.command(&[&["--on", "oscar", "debug", "-it"], &program[..]].concat()),
    )?;
    let reader = [&["--on", "rita", "debug"], &program[..]].concat();
    refused(workstation, &reader, "this is for an operator")?;
    run_out_of_memory(booted, workstation)?;
    booted.shell.check("qctl apply /etc/quietcore/compose.yaml", ANSWER)?;
    booted.shell.check("qctl image rm test/lines:1", ANSWER).map(drop)
}

/// A one-shot that takes more memory than it may have; who waits is told why it failed.
fn run_out_of_memory(booted: &mut Booted, workstation: &Workstation) -> Result<()> {
    let file = workstation.file("hungry.yaml");
    let service = format!(
        "services:\n  hungry: {{image: {IMAGE}, command: [hungry], restart: \"no\", mem_limit: 16m}}\n"
    );
    std::fs::write(&file, service)?;
    workstation.must(&["--on", "oscar", "apply", shown(&file)])?;
    booted.shell.wait_status("the hungry one is named", ANSWER, |status| {
        status["containers"][0]["state"] == "failed (137, out of memory)"
    })?;
    // Who waits for it is told.
    refused(workstation, &["--on", "oscar", "apply", "--wait", shown(&file)], "out of memory")?;
    let events = workstation.must(&["--on", "rita", "events"])?;
    ensure!(events.contains("out of memory: the kernel killed 1 of its processes"), "{events}");
    Ok(())
}

/// Other certificates, without a restart; who had the old ones is a stranger.
fn rotate(booted: &mut Booted, workstation: &Workstation) -> Result<()> {
    let before = booted.shell.check(PID, ANSWER)?;
    workstation.must(&["ca", "new", "next"])?;
    workstation.certify("next", "vm")?;
    workstation.add("next", "nora", "admin")?;
    let path = workstation.file("next/vm.api");
    let bad = workstation.file("bad.api");
    std::fs::write(&bad, "version = 1\n")?;
    refused(
        workstation,
        &["--on", "adam", "secret", "set", "quietcore.api", shown(&bad)],
        "missing field",
    )?;
    workstation.must(&["--on", "adam", "secret", "set", "quietcore.api", shown(&path)])?;
    workstation.must(&["--on", "nora", "status"])?;
    refused(workstation, &["--on", "adam", "status"], "certificate")?;
    let after = booted.shell.check(PID, ANSWER)?;
    ensure!(before == after, "the API was process {before} and is {after}");
    let sealed = booted.shell.check(
        "qctl secret ls; cat /var/lib/quietcore/agent/secrets/quietcore.api.sealed | base64 -d | grep -c 'PRIVATE KEY' || true",
        ANSWER,
    )?;
    ensure!(sealed == "quietcore.api\n0\n", "secrets: {sealed}");
    Ok(())
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
