//! The API: qctl on this machine asks the guest over the network, in the role that its certificate says.

use super::loaded::FETCH;
use super::{Booted, Verdict, terminal};
use crate::checkout::program;
use crate::http;
use crate::rig::{IMAGE, pack};
use anyhow::{Context, Result, ensure};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(60);
/// A compose file that is taken back, under TCG beside another machine.
const BACK: Duration = Duration::from_secs(120);

/// The file with the host's certificate, in the machine's directory.
pub const API_FILE: &str = "api.toml";

/// An authority with the certificates that it gave, and the hosts that qctl knows by them.
pub struct Desk {
    directory: PathBuf,
    /// The port of this machine behind which the guest listens.
    pub port: u16,
}

impl Desk {
    /// Makes an authority, a host's certificate, and one for a reader, an operator and an admin.
    ///
    /// # Errors
    /// qctl refuses.
    pub fn new() -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let name = format!("quietcore-desk-{}-{port}", std::process::id());
        let desk = Self { directory: std::env::temp_dir().join(name), port };
        std::fs::create_dir_all(&desk.directory)?;
        desk.must(&["ca", "new", "ca"])?;
        desk.certify("ca", "vm")?;
        for (name, role) in [("rita", "reader"), ("oscar", "operator"), ("adam", "admin")] {
            desk.add("ca", name, role)?;
        }
        Ok(desk)
    }

    fn certify(&self, ca: &str, name: &str) -> Result<String> {
        self.must(&["ca", "host", ca, name, "--address", "127.0.0.1"])
    }

    fn add(&self, ca: &str, name: &str, role: &str) -> Result<()> {
        self.must(&["ca", "client", ca, name, "--role", role])?;
        let (url, identity) =
            (format!("https://127.0.0.1:{}", self.port), format!("{ca}/{name}.pem"));
        let authority = format!("{ca}/ca.pem");
        self.must(&["hosts", "add", name, &url, "--authority", &authority, "--identity", &identity])
            .map(drop)
    }

    /// What the guest is given.
    ///
    /// # Errors
    /// It is not there.
    pub fn credential(&self) -> Result<String> {
        let path = self.file("ca/vm.api");
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// qctl with these arguments, which knows the hosts.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut qctl = Command::new(program("qctl"));
        qctl.args(arguments).current_dir(&self.directory);
        qctl.env("QCTL_HOSTS", self.file("hosts.toml"));
        qctl
    }

    /// qctl's exit code and everything that it said.
    fn qctl(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let output = self.command(arguments).output().context("start qctl")?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    fn must(&self, arguments: &[&str]) -> Result<String> {
        let (done, said) = self.qctl(arguments)?;
        ensure!(done, "qctl {}: {said}", arguments.join(" "));
        Ok(said)
    }

    fn refused(&self, arguments: &[&str], why: &str) -> Result<()> {
        let (done, said) = self.qctl(arguments)?;
        ensure!(!done && said.contains(why), "qctl {}: {said}", arguments.join(" "));
        Ok(())
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

const PID: &str = "systemctl show -p MainPID --value quietcore-api";

/// The story.
pub fn hosts_are_asked_over_the_network(booted: &mut Booted) -> Result<Verdict> {
    let desk = booted.desk.take().context("no desk")?;
    let status = desk.must(&["--on", "rita", "status", "-o", "json"])?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    ensure!(status["ready"] == true, "{status}");
    desk.must(&["--on", "rita", "ready", "--timeout", "5"])?;
    let logs = desk.must(&["--on", "rita", "logs", "exchange", "-n", "3"])?;
    ensure!(logs.lines().count() > 0, "no line of the exchange");
    let compose = booted.shell.check("cat /etc/quietcore/compose.yaml", ANSWER)?;
    std::fs::write(desk.file("same.yaml"), &compose)?;
    let quiet = compose.replace("restart: always", "restart: on-failure");
    std::fs::write(desk.file("quiet.yaml"), quiet)?;
    desk.refused(
        &["--on", "rita", "apply", "same.yaml"],
        "rita is a reader, and this is for an operator",
    )?;
    desk.refused(&["--on", "oscar", "secret", "rm", "x"], "this is for an admin")?;
    desk.must(&["--on", "oscar", "apply", "--dry-run", "quiet.yaml"])?;
    let diff = desk.must(&["--on", "oscar", "diff", "quiet.yaml"])?;
    ensure!(diff.contains("+    restart: on-failure"), "{diff}");
    // Applied on trial, and taken back, since nobody keeps it.
    desk.must(&["--on", "oscar", "apply", "--try", "5s", "quiet.yaml"])?;
    let back = "until qctl events | grep -q 'nobody kept it'; do sleep 0.5; done; qctl diff /etc/quietcore/compose.yaml";
    let back = booted.shell.check(back, BACK)?;
    ensure!(!back.contains("restart"), "it was not taken back: {back}");
    desk.refused(&["--on", "oscar", "keep"], "nothing is applied on trial")?;
    let kill = desk.must(&["--on", "oscar", "kill"])?;
    booted.shell.wait_status("trading stops", ANSWER, |status| status["ready"] == false)?;
    desk.must(&["--on", "oscar", "resume"])?;
    booted.shell.wait_status("it trades again", BACK, |status| status["ready"] == true)?;
    let audit = desk.must(&["--on", "adam", "audit"])?;
    for line in [
        "rita         {\"compose\":\"sha256:",
        "REFUSED: rita is a reader",
        "oscar        {\"drain\":false,\"kill\":true,",
    ] {
        ensure!(audit.contains(line), "{line} is not in {audit}{kill}");
    }
    sit_at_a_terminal(booted, &desk)?;
    rotate(booted, &desk)?;
    Ok(Verdict::Proved(
        "a reader looked and was refused what changes the host, an operator applied a file that was taken back since \
         nobody kept it, stopped trading, and sat at a container's terminal; the audit log has all of it by name; another authority's certificates were \
         in force with the next connection of the same process"
            .into(),
    ))
}

/// An operator sits at a container that is thrown away; a reader does not.
fn sit_at_a_terminal(booted: &mut Booted, desk: &Desk) -> Result<()> {
    pack("lines", "test/lines", &desk.file("lines.tar"))?;
    let web = http::serve(desk.directory.clone())?;
    let load = format!(
        "web={web}\n{FETCH}fetch lines.tar > /run/lines.tar; qctl image load /run/lines.tar; rm /run/lines.tar"
    );
    booted.shell.check(&load, ANSWER)?;
    let program = ["--image", IMAGE, "--", "/lines", "terminal"];
    terminal::sit(&desk.command(&[&["--on", "oscar", "debug", "-it"], &program[..]].concat()))?;
    let reader = [&["--on", "rita", "debug"], &program[..]].concat();
    desk.refused(&reader, "this is for an operator")?;
    booted.shell.check("qctl image rm test/lines:1", ANSWER).map(drop)
}

/// Other certificates, without a restart; who had the old ones is a stranger.
fn rotate(booted: &mut Booted, desk: &Desk) -> Result<()> {
    let before = booted.shell.check(PID, ANSWER)?;
    desk.must(&["ca", "new", "next"])?;
    desk.certify("next", "vm")?;
    desk.add("next", "nora", "admin")?;
    let path = desk.file("next/vm.api");
    let bad = desk.file("bad.api");
    std::fs::write(&bad, "version = 1\n")?;
    desk.refused(
        &["--on", "adam", "secret", "set", "quietcore.api", shown(&bad)],
        "missing field",
    )?;
    desk.must(&["--on", "adam", "secret", "set", "quietcore.api", shown(&path)])?;
    desk.must(&["--on", "nora", "status"])?;
    desk.refused(&["--on", "adam", "status"], "certificate")?;
    let after = booted.shell.check(PID, ANSWER)?;
    ensure!(before == after, "the API was process {before} and is {after}");
    let sealed = booted.shell.check(
        "qctl secret ls; cat /var/lib/quietcore/agent/secrets/quietcore.api.sealed | base64 -d | grep -c 'PRIVATE KEY' || true; qctl secret rm quietcore.api",
        ANSWER,
    )?;
    ensure!(sealed == "quietcore.api\n0\n", "secrets: {sealed}");
    Ok(())
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
