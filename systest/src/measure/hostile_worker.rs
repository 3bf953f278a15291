//! Workers that somebody took over: programs of ours run as each worker's user and try to make the
//! agent, which is root, act for them. On this machine, with the image's containerd and runc.

use crate::harness::checkout::{ImageFiles, program};
use crate::harness::native_host::{IMAGE, Rig, compile, pack};
use crate::measure::hostile_tries::{
    API, CALLS, CLEAN, FILES, ROOT_ACTS, ROOTS_OWN, UNSIGNED, USERS, User,
};
use crate::measure::kill_storm::CONVERGE_LIMIT;
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Memory that the agent's unit may have (systemd/base/system/quietcore-agent.service).
const MEMORY_MAX_KIB: u64 = 256 << 10;
/// Seconds of an answer that takes longer: the agent stands still.
const ANSWER: &str = "20";

/// Outcome of all tries.
#[derive(Debug, Default)]
pub struct Tries {
    /// Number of tries.
    pub count: u32,
    /// Tries that succeeded, each with what it did.
    pub succeeded: Vec<String>,
}

impl Tries {
    fn note(&mut self, name: &str, harm: Option<String>) {
        self.count += 1;
        self.succeeded.extend(harm.map(|harm| format!("{name}: {harm}")));
    }
}

/// State of the host that no worker may change.
#[derive(Debug, PartialEq, Eq)]
struct Canaries {
    /// Names, kinds, modes, owners and contents of root's files.
    files: String,
    /// Containers that run.
    containers: Vec<String>,
    /// Process of the agent.
    agent: i32,
}

fn checked(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Canaries {
    fn of(rig: &Rig) -> Result<Self> {
        // Logs grow, and versions are written anew.
        let script = r"cd /; changes='( -name events.jsonl -o -name audit.jsonl -o -name versions.json )'
            find etc prey run/api run/private rig/logs rig/state rig/credentials $changes -prune -o -printf '%p %y %m %U %G %l\n' | sort
            find etc prey rig/state $changes -prune -o -type f -print0 | sort -z | xargs -0 sha256sum";
        let files = checked(&rig.inside(&format!("set -f; {script}"))?.output()?)?;
        let status = rig.status()?;
        let containers = status["containers"].as_array().into_iter().flatten();
        let running = containers.filter(|it| it["state"] == "running");
        let mut containers: Vec<String> =
            running.filter_map(|it| it["name"].as_str().map(str::to_owned)).collect();
        containers.sort();
        Ok(Self { files, containers, agent: rig.agent_pid()? })
    }

    /// The first difference, in one line.
    fn difference(&self, after: &Self) -> Option<String> {
        if self.agent != after.agent {
            return Some("the agent ended".into());
        }
        if self.containers != after.containers {
            return Some(format!("{:?} run in place of {:?}", after.containers, self.containers));
        }
        let only_in = |one: &Self, other: &Self| {
            let other: Vec<&str> = other.files.lines().collect();
            one.files.lines().find(|line| !other.contains(line)).map(str::to_owned)
        };
        let changed = only_in(after, self).or_else(|| only_in(self, after));
        changed.map(|line| format!("root's files are others: {line}"))
    }
}

/// Environment and functions of the tries' scripts.
struct Scripts {
    prelude: String,
}

impl Scripts {
    /// Makes the attacker's program and image, and root's files that it is after.
    fn prepare(rig: &Rig) -> Result<Self> {
        compile("hostile", &rig.file("programs/hostile"))?;
        pack("lines", "test/loaded", &rig.file("hostile.tar"))?;
        let script = "mkdir /prey /rig/blobs; echo prey > /prey/file; chmod 600 /prey/file; ln -s quietcore-agent /programs/qctl
            cd /rig/blobs; tar --extract --file /rig/hostile.tar --strip-components=2 blobs/sha256
            tar --extract --to-stdout --file /rig/hostile.tar index.json";
        let index = checked(&rig.inside(script)?.output()?)?;
        let index: serde_json::Value = serde_json::from_str(&index).context("the image's index")?;
        let target = &index["manifests"][0];
        let digest = target["digest"].as_str().context("the image's digest")?;
        let media_type = target["mediaType"].as_str().context("its type")?;
        let names = std::fs::read_dir(rig.file("blobs"))?.flatten();
        let blobs: Vec<String> =
            names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        // Entries of the store are called after the digest of the image's name.
        let entry_of = |name: &str| -> Result<String> {
            let digest = Command::new("sh").args(["-c", "printf %s $0 | sha256sum", name]).output();
            Ok(checked(&digest?)?.chars().take(64).collect())
        };
        let prelude = format!(
            "export PATH=/programs:$PATH BLOBS='{}' MANIFEST={} LOADED={} CLAIMED={} LINES_ENTRY={} AGENT={}
forge() {{ printf '{{\"name\":\"{UNSIGNED}\",\"digest\":\"%s\",\"media_type\":\"{media_type}\",\"size\":%s,\"signatures\":[]}}' $1 $2; }}
entry() {{ printf '{{\"name\":\"'; head -c $1 /dev/zero | tr '\\0' x; printf '\",\"digest\":\"sha256:{}\",\"media_type\":\"x\",\"size\":1}}'; }}\n",
            blobs.join(" "),
            digest.trim_start_matches("sha256:"),
            entry_of("test/loaded:1")?,
            entry_of(UNSIGNED)?,
            entry_of(IMAGE)?,
            rig.agent_pid()?,
            "0".repeat(64)
        );
        Ok(Self { prelude })
    }

    /// Runs a script as a user; returns what it printed.
    fn run_as(&self, rig: &Rig, user: User, script: &str) -> Result<String> {
        let mut command = rig.inside(&format!(
            "exec setpriv --reuid={user} --regid={user} --clear-groups -- bash -c \"$SCRIPT\""
        ))?;
        command.env("SCRIPT", format!("{}{script}", self.prelude));
        let output = command.output().context("start nsenter")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same while root acts on what the worker leaves, if the script has a program that goes
    /// on; else before that. Returns what root's programs printed.
    fn run_and_act(&self, rig: &Rig, user: User, script: &str) -> Result<String> {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| self.run_as(rig, user, script));
            if !script.contains("hostile ") {
                worker.join().expect("it does not panic")?;
                return act(rig);
            }
            std::thread::sleep(Duration::from_millis(100));
            let acted = act(rig)?;
            worker.join().expect("it does not panic")?;
            Ok(acted)
        })
    }
}

/// Does what root does with workers' files; returns what its programs printed, and that one of
/// them stands still.
fn act(rig: &Rig) -> Result<String> {
    let mut script = "set +e; export PATH=/programs:$PATH\n".to_owned();
    for act in ROOT_ACTS {
        writeln!(
            script,
            "timeout {ANSWER} qctl --socket /rig/agent.sock {act} 2>&1; [ $? != 124 ] || echo STANDS STILL: {act}"
        )?;
    }
    // Two rounds of its loop.
    script.push_str("sleep 0.5\n");
    Ok(String::from_utf8_lossy(&rig.inside(&script)?.output()?.stdout).into_owned())
}

/// Peak of a process's memory since the last look, in KiB. Source: proc_pid_clear_refs(5).
fn peak_kib(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    peak.context("its memory")
}

/// A service that runs, and one of an image that nobody signed.
fn compose() -> String {
    let service = |name: &str, image: &str, port: u16| {
        format!(
            "  {name}:\n    image: {image}\n    command: [plain, \"20\", \"0\"]\n    ulimits: {{nofile: 1024}}\n    stop_signal: SIGKILL\n    restart: always\n    healthcheck: {{test: [CMD, nc, -z, localhost, \"{port}\"], interval: 1s, timeout: 1s, retries: 1000}}\n"
        )
    };
    format!("services:\n{}{}", service("steady", IMAGE, 9), service("claimed", UNSIGNED, 10))
}

/// Makes a key with openssl; returns the public one in PEM.
fn key(path: &std::path::Path, algorithm: &[&str]) -> Result<String> {
    let made =
        Command::new("openssl").arg("genpkey").args(algorithm).arg("-out").arg(path).output();
    checked(&made.context("start openssl")?)?;
    checked(&Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(path).output()?)
}

/// Policy of images: one registry, whose images are signed or need no signature.
fn policy(signers: &str) -> String {
    format!("version = 1\n[[registry]]\nname = \"registry.example\"\ntags = true\n{signers}")
}

/// Does all tries, each on its own, with what root does after it.
///
/// # Errors
/// The host does not start, or a control does not notice what was done to it.
pub fn tries(image: &ImageFiles) -> Result<Tries> {
    let keys = tempfile::tempdir()?;
    let at = |name: &str| keys.path().join(name);
    let own = key(&at("own"), &["-algorithm", "ed25519"])?;
    key(&at("stranger"), &["-algorithm", "ed25519"])?;
    let signer = key(&at("signer"), &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])?;
    let credentials = [
        ("quietcore.desired", format!("version = 1\nname = \"desk\"\nkeys = [{own:?}]\n")),
        ("quietcore.images", policy(&format!("signers = [{signer:?}]\n"))),
        ("quietcore.vault", VAULT_CONFIG.to_owned()),
        ("quietcore.api", api_config(keys.path())?),
    ];
    let mut rig = Rig::start_with(image, &compose(), &credentials)?;
    wait_for_steady(&mut rig)?;
    let scripts = Scripts::prepare(&rig)?;
    let mut sign =
        rig.command_line(&["desired", "sign", "--name", "desk", "--serial", "1", "--key"]);
    sign.arg(at("stranger")).arg("--output").arg(rig.file("stranger.json"));
    checked(&sign.arg(rig.file("compose.yaml")).output()?)?;
    act(&rig)?;
    let before = Canaries::of(&rig)?;
    peak_kib(before.agent)?;
    let mut tries = Tries::default();
    for (user, name, script) in FILES {
        let acted = scripts.run_and_act(&rig, *user, script)?;
        let start = Instant::now();
        let after = Canaries::of(&rig)?;
        let slow = start.elapsed() > Duration::from_secs(10);
        let still = acted.lines().find(|line| line.starts_with("STANDS STILL")).map(str::to_owned);
        let peak = peak_kib(after.agent)?;
        let others = [
            (acted.contains('\x1b'), "a terminal's orders are printed".to_owned()),
            (peak > MEMORY_MAX_KIB, format!("the agent took {peak} KiB")),
            (slow, "there was no status for seconds".to_owned()),
        ];
        let others = others.into_iter().find_map(|(is, what)| is.then_some(what));
        tries.note(&format!("{user} {name}"), before.difference(&after).or(still).or(others));
        rig.inside(CLEAN)?.output()?;
    }
    for call in CALLS {
        let script = format!("echo '{call}' | hostile call /rig/agent.sock");
        let answer = scripts.run_as(&rig, API, &script)?;
        let is_refused = ["{\"forbidden\":", "{\"error\":"].iter().any(|it| answer.starts_with(it));
        let harm = before.difference(&Canaries::of(&rig)?);
        let answered = (!is_refused).then(|| answer.trim().to_owned());
        tries.note(&format!("{API} {call}"), harm.or(answered));
    }
    for user in USERS {
        for script in ROOTS_OWN {
            let read = scripts.run_as(&rig, *user, script)?;
            let harm = before.difference(&Canaries::of(&rig)?);
            let read = (!read.trim().is_empty()).then(|| format!("it read {}", read.trim()));
            tries.note(&format!("{user} {script}"), harm.or(read));
        }
    }
    controls(&rig, &before)?;
    drop(rig);
    forged_entry_would_run(image)?;
    Ok(tries)
}

/// The configuration of a Vault that nobody asks here.
const VAULT_CONFIG: &str = "version = 1\nurl = \"https://127.0.0.1:1\"\nrole_id = \"r\"\nsecret_id = \"s\"\n[[secret]]\nname = \"wanted\"\nmount = \"kv\"\npath = \"p\"\nkey = \"k\"\n";

/// Configuration of an API, so that signatures are looked at.
fn api_config(directory: &std::path::Path) -> Result<String> {
    for arguments in [&["ca", "new", "ca"][..], &["ca", "host", "ca", "vm", "--address", "vm"]] {
        let output = Command::new(program("qctl")).args(arguments).current_dir(directory).output();
        checked(&output.context("start qctl")?)?;
    }
    std::fs::read_to_string(directory.join("ca/vm.api")).context("the API's configuration")
}

fn wait_for_steady(rig: &mut Rig) -> Result<()> {
    rig.wait("it runs", CONVERGE_LIMIT, |status| {
        status["containers"].to_string().contains("running")
    })
    .map(drop)
}

/// Control: what is done to root's files is noticed.
fn controls(rig: &Rig, before: &Canaries) -> Result<()> {
    for (undo, script) in [
        ("rm /prey/x", "touch /prey/x"),
        ("chmod 600 /prey/file", "chmod 644 /prey/file"),
        ("chown 0 /prey/file", "chown 902 /prey/file"),
        ("echo prey > /prey/file", "echo x > /prey/file"),
        ("rm /rig/state/x", "ln -s /etc /rig/state/x"),
    ] {
        checked(&rig.inside(script)?.output()?)?;
        let noticed = before.difference(&Canaries::of(rig)?);
        checked(&rig.inside(undo)?.output()?)?;
        ensure!(noticed.is_some(), "control: {script} is not noticed");
    }
    Ok(())
}

/// Control: where no signature is wanted, the forged entry is one that runs.
fn forged_entry_would_run(image: &ImageFiles) -> Result<()> {
    let unsigned = [("quietcore.images", policy("unsigned = true\n"))];
    let mut rig = Rig::start_with(image, &compose(), &unsigned)?;
    let scripts = Scripts::prepare(&rig)?;
    let (user, _, forge) = FILES
        .iter()
        .find(|it| it.1 == "an image that nobody signed")
        .context("the try of an unsigned image")?;
    scripts.run_as(&rig, *user, forge)?;
    rig.wait("control: the forged entry runs", CONVERGE_LIMIT, |status| {
        let mut containers = status["containers"].as_array().into_iter().flatten();
        containers.any(|it| it["name"] == "claimed" && it["state"] == "running")
    })
    .map(drop)
}
