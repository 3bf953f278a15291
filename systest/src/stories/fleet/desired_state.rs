//! Signed desired state from a web server, a registry and by hand, and forwarding of the journal of
//! systemd. Both are set up by credentials that a running host is given.

use crate::harness::booted::{Booted, CREDENTIALS, Verdict, give_credential};
use crate::harness::checkout::program;
use crate::harness::http;
use crate::harness::registry::{self, Registry};
use crate::measure::load::FETCH;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(60);
/// A look each five seconds and a container's start, under TCG beside another machine.
const SEEN: Duration = Duration::from_secs(120);

/// Units that read the desired-state credential.
const FOLLOWERS: &str = "quietcore-agent quietcore-follow";

/// The desk's end: keys, compose files, what is published.
struct Fixture {
    directory: PathBuf,
    base: String,
    key: String,
}

impl Fixture {
    /// A compose file with one service more, which listens at this port.
    fn compose(&self, port: u16) -> Result<PathBuf> {
        let image = self.base.lines().find_map(|line| {
            line.trim().strip_prefix("image: ").filter(|name| name.contains("exporter"))
        });
        let image = image.context("the image's compose file has no exporter")?;
        let service = format!(
            "  told:\n    image: {image}\n    command: [\"--pages\", \"/pages\", \"--listen\", \"127.0.0.1:{port}\"]\n    init: true\n    x-quietcore: {{engine_pages: /pages}}\n    restart: always\n"
        );
        let path = self.directory.join("compose.yaml");
        fs::write(&path, format!("{}{service}", self.base))?;
        Ok(path)
    }

    /// Signs and publishes it.
    fn publish(&self, serial: u64, compose: &std::path::Path, key: &str) -> Result<PathBuf> {
        let to = self.directory.join("web/desired.json");
        let signed = Command::new(program("qctl"))
            .args(["desired", "sign", "--name", "desk", "--serial", &serial.to_string(), "--key"])
            .arg(self.directory.join(format!("{key}.pem")))
            .arg("--output")
            .arg(&to)
            .arg(compose)
            .output()
            .context("start qctl")?;
        ensure!(signed.status.success(), "sign: {}", String::from_utf8_lossy(&signed.stderr));
        Ok(to)
    }

    /// Returns the desired-state credential for `url`, polled every 5 s.
    fn credential(&self, url: &str) -> String {
        format!(
            "version = 1\nname = \"desk\"\nurl = \"{url}\"\ninterval_seconds = 5\nkeys = ['''{}''']\n",
            self.key
        )
    }
}

fn wait(booted: &mut Booted, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    booted.shell.wait_status(what, SEEN, is)
}

fn wait_problem(booted: &mut Booted, text: &str) -> Result<()> {
    crate::harness::booted::wait_problem(booted, text, SEEN).map(drop)
}

fn has_told(status: &Value) -> bool {
    let containers = status["containers"].as_array().into_iter().flatten();
    containers.into_iter().any(|it| it["name"] == "told" && it["state"] == "running")
}

/// Waits until this serial is applied, its service runs, and the status has no problem.
fn wait_serial(booted: &mut Booted, serial: u64) -> Result<()> {
    let is = |status: &Value| {
        let quiet = status["problems"].as_array().is_some_and(Vec::is_empty);
        quiet
            && status["desired"]["serial"] == serial
            && has_told(status)
            && status["ready"] == true
    };
    wait(booted, &format!("serial {serial} runs"), is).map(drop)
}

/// Proves that a host follows signed desired state from a web server, a registry and by hand.
pub fn hosts_follow_what_is_signed(booted: &mut Booted) -> Result<Verdict> {
    let mut registry = Registry::start(&booted.image)?;
    registry::give_policy(booted, &registry::policy(&registry)?)?;
    let directory = registry.file("desk");
    fs::create_dir_all(directory.join("web"))?;
    let key = registry.signing_key("desk/state")?;
    registry.signing_key("desk/stranger")?;
    let base = booted.shell.check("cat /etc/quietcore/compose.yaml", ANSWER)?;
    let fixture = Fixture { directory, base, key };
    by_the_web(booted, &fixture)?;
    by_a_registry(booted, &fixture, &registry)?;
    by_hand(booted, &fixture, &mut registry)?;
    let without = format!(
        "systemctl stop quietcore-follow; rm -rf {CREDENTIALS}/quietcore.desired /var/lib/quietcore/agent/desired.json /run/quietcore/desired; systemctl restart quietcore-agent; qctl apply /etc/quietcore/compose.yaml"
    );
    booted.shell.check(&without, ANSWER)?;
    wait(booted, "ready without it", |status| status["ready"] == true && !has_told(status))?;
    Ok(Verdict::Proved(
        "a host ran what was signed for it, from a web server, a registry and by hand; a stranger's, an older one and one \
         that wants a hot core were named and not taken; it said what somebody had changed by hand, took it back when told, \
         held a newer one until it was let go, and ran on with nobody left to ask"
            .into(),
    ))
}

fn by_the_web(booted: &mut Booted, fixture: &Fixture) -> Result<()> {
    let port = http::serve(fixture.directory.join("web"))?;
    let url = format!("http://10.0.2.2:{port}/desired.json");
    give_credential(booted, "quietcore.desired", &fixture.credential(&url), FOLLOWERS)?;
    wait_problem(booted, &format!("desired state: {url}: http status: 404"))?;
    fixture.publish(2, &fixture.compose(9471)?, "state")?;
    wait_serial(booted, 2)?;
    let first =
        "cat /proc/$(head -n 1 /sys/fs/cgroup/quietcore-containers/told-*/cgroup.procs)/comm";
    let first = booted.shell.check(first, ANSWER)?;
    ensure!(first.trim() == "quietcore-init", "the container's first process is {first}");
    // Nothing of these is taken.
    fixture.publish(9, &fixture.compose(9472)?, "stranger")?;
    wait_problem(booted, "it is not signed by a key of this host's quietcore.desired")?;
    fixture.publish(1, &fixture.compose(9472)?, "state")?;
    wait_problem(booted, "serial 1 is older than 2, which is here")?;
    let hot = fixture.compose(9472)?;
    fs::write(&hot, fs::read_to_string(&hot)?.replace("cpuset: \"0-1\"", "cpuset: \"3\""))?;
    fixture.publish(3, &hot, "state")?;
    wait_problem(booted, "serial 3: ")?;
    let status = booted.shell.check("qctl desired status", ANSWER)?;
    ensure!(status.contains("applied   serial 2") && status.contains("3 is hot"), "{status}");
    // Somebody's hand.
    booted.shell.check("qctl apply /etc/quietcore/compose.yaml", ANSWER)?;
    wait_problem(booted, "drift from desired state: - told")?;
    booted.shell.check("qctl desired sync", ANSWER)?;
    wait(booted, "what was changed by hand is back", |status| {
        has_told(status) && status["desired"]["drift"].as_array().is_some_and(Vec::is_empty)
    })?;
    booted.shell.check("qctl desired hold", ANSWER)?;
    fixture.publish(4, &fixture.compose(9472)?, "state")?;
    wait(booted, "a held one waits", |status| {
        status["desired"]["waiting"] == 4 && status["desired"]["serial"] == 2
    })?;
    booted.shell.check("qctl desired resume", ANSWER)?;
    wait_serial(booted, 4)
}

fn by_a_registry(booted: &mut Booted, fixture: &Fixture, registry: &Registry) -> Result<()> {
    let envelope = fixture.publish(5, &fixture.compose(9473)?, "state")?;
    fs::copy(envelope, registry.file("desired.json"))?;
    let kind = "application/vnd.dsse.envelope.v1+json";
    registry.push_artefact("desk/desired", "production", kind, "desired.json")?;
    let url = format!("oci://10.0.2.2:{}/desk/desired:production", registry.port);
    give_credential(booted, "quietcore.desired", &fixture.credential(&url), FOLLOWERS)?;
    wait_serial(booted, 5).context("from a registry")
}

/// As from a stick; then an agent that starts with nobody to ask.
fn by_hand(booted: &mut Booted, fixture: &Fixture, registry: &mut Registry) -> Result<()> {
    registry.stop()?;
    fixture.publish(6, &fixture.compose(9474)?, "state")?;
    let web = http::serve(fixture.directory.join("web"))?;
    let bring = format!(
        "web={web}\n{FETCH}fetch desired.json > /run/stick.json; qctl desired deliver /run/stick.json; systemctl restart quietcore-agent quietcore-follow"
    );
    let said = booted.shell.check(&bring, ANSWER)?;
    ensure!(said.contains("applied   serial 6"), "{said}");
    // The server that is gone is named, and what it had last is no way back.
    wait_problem(booted, &format!("desired state: oci://10.0.2.2:{}/", registry.port))?;
    wait(booted, "what was brought runs, with nobody to ask", |status| {
        status["desired"]["serial"] == 6 && has_told(status) && status["ready"] == true
    })
    .map(drop)
}

/// A stand-in for Loki's push API: takes everything, and keeps it.
fn loki() -> Result<(u16, Arc<Mutex<String>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (port, taken) = (listener.local_addr()?.port(), Arc::new(Mutex::new(String::new())));
    let all = taken.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            let all = all.clone();
            std::thread::spawn(move || take(stream, &all));
        }
    });
    Ok((port, taken))
}

fn take(mut stream: TcpStream, all: &Mutex<String>) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut len = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            if let Some(number) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                len = number.trim().parse()?;
            }
        }
        let mut body = vec![0; len];
        reader.read_exact(&mut body)?;
        all.lock().expect("no reader panics").push_str(&String::from_utf8_lossy(&body));
        stream.write_all(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")?;
    }
}

/// Proves that the journal of systemd is forwarded to a Loki server, also after the forwarder was
/// killed.
pub fn journal_is_forwarded(booted: &mut Booted) -> Result<Verdict> {
    let (port, taken) = loki()?;
    let target = format!(
        "version = 1\n[[target]]\nname = \"desk\"\nkind = \"loki\"\nurl = \"http://10.0.2.2:{port}\"\n"
    );
    give_credential(booted, "quietcore.logs", &target, "quietcore-forward")?;
    let mark = format!("forwarded-{port}");
    booted.shell.check(&format!("echo {mark}-1 | systemd-cat"), ANSWER)?;
    let clock = booted.vm.clock.clone();
    let wait = |text: &str| {
        let deadline = clock.deadline(SEEN);
        while !taken.lock().expect("no reader panics").contains(text) {
            ensure!(!deadline.is_over(), "{text} was not forwarded");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    };
    wait(&format!("{mark}-1"))?;
    wait("\"service_name\":\"exchange\"").context("a container's lines")?;
    // It goes on where it was.
    booted.shell.check(
        &format!("systemctl kill --signal=KILL quietcore-forward; echo {mark}-2 | systemd-cat"),
        ANSWER,
    )?;
    wait(&format!("{mark}-2"))?;
    let doubled = taken.lock().expect("no reader panics").matches(&format!("{mark}-1\"")).count();
    ensure!(doubled <= 2, "a line came {doubled} times over one kill");
    Ok(Verdict::Proved(
        "the journal, containers' lines and the host's own, reached a stand-in of Loki's push API, and went on where it was \
         after its forwarder was killed"
            .into(),
    ))
}

/// The story: no registry of packages has a Vault to ask, but a server that is none, behind TLS
/// with an authority of its own, shows that it is asked and how it ends. What Vault answers is in
/// the agent's tests.
pub fn vault_is_asked(booted: &mut Booted) -> Result<Verdict> {
    let registry = Registry::start(&booted.image)?;
    let (port, file) = (registry.port, registry.file("authority/ca.crt"));
    let authority = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let config = |authority: &str| {
        format!(
            "version = 1\nurl = \"https://10.0.2.2:{port}\"\nauthority = \"\"\"{authority}\"\"\"\nrole_id = \"r\"\nsecret_id = \"s\"\ninterval_seconds = 5\n[[secret]]\nname = \"feed\"\npath = \"desk\"\nfield = \"password\""
        )
    };
    let units = "quietcore-agent quietcore-vault";
    give_credential(booted, "quietcore.vault", &config(""), units)?;
    wait_problem(booted, "certificate").context("one that nobody vouches for")?;
    give_credential(booted, "quietcore.vault", &config(&authority), units)?;
    wait_problem(booted, "log in by AppRole: status 404").context("one that is no Vault")?;
    let closed = "stat -c '%a %U' /run/quietcore/vault; systemctl stop quietcore-vault";
    let closed = booted.shell.check(closed, ANSWER)?;
    ensure!(closed == "700 quietcore-vault\n", "where secrets come in is {closed}");
    Ok(Verdict::Proved(
        "a process of its own asked who was named, over TLS: one that nobody vouches for is told nothing, what one that is no \
         Vault answers stands in the status"
            .into(),
    ))
}
