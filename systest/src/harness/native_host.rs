//! The agent with the real containerd, runc and journald of the image on this machine, without a
//! guest: in mount and PID namespaces, so that it can be killed a thousand times in the time that
//! one boot takes.

use crate::harness::checkout::{ImageFiles, program, root};
use crate::harness::guest_clock::limit_under_load;
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Script that starts journald, containerd, tailer and agent, and restarts each that ends.
const SCRIPT: &str = r"
mkdir -p /run/systemd/journal /var/log/journal /run/containerd
# What it has goes to the disk from the start.
touch /run/systemd/journal/flushed
mount -t tmpfs tmpfs /dev/shm 2>/dev/null || true
# Directories of the workers, with the users that they have on a host (systemd/base/sysusers.d).
install -d /run/quietcore
for worker in fetch:901 pull:902 desired:905 vault:906 pcap:907 probe:61184; do
    install -d -o ${worker#*:} -g ${worker#*:} /run/quietcore/${worker%:*}
done
for part in . blobs blobs/sha256 partial names; do install -d -o 902 -g 902 /rig/store/$part; done
install -d -o 903 -g 903 -m 0500 /run/api
install -d -m 0700 /run/private
[ ! -d /rig/credentials ] || export CREDENTIALS_DIRECTORY=/rig/credentials
keep() { while :; do $* >> /rig/${1##*/}.log 2>&1; sleep 0.05; done; }
export PATH=/programs:$PATH
keep /usr/lib/systemd/systemd-journald &
until [ -S /run/systemd/journal/socket ]; do sleep 0.05; done
keep containerd --config /rig/containerd.toml &
install -d -o 908 -g 908 /rig/tail
chown 0:908 /rig/logs && chmod 0750 /rig/logs
journal=$(stat -c %g /var/log/journal)
keep setpriv --reuid=908 --regid=908 --groups=$journal -- quietcore-agent tail --logs /rig/logs --positions /rig/tail &
keep quietcore-agent run --compose /rig/compose.yaml --state /rig/state --images /rig/archives --store /rig/store \
    --logs /rig/logs --positions /rig/tail --pages /rig/pages --socket /rig/agent.sock --host-plan /rig/host-plan.toml \
    --journal /rig/journal --private /run/private --api /run/api --ports /rig/ports &
wait
";

const CONTAINERD: &str = "version = 2\nroot = \"/var/lib/containerd\"\nstate = \"/run/containerd\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"/run/containerd/containerd.sock\"\n";

/// The name of the test image.
pub const IMAGE: &str = "test/lines:1";

/// A host on this machine.
pub struct Rig {
    directory: PathBuf,
    base: PathBuf,
    init: Child,
    /// Held while it runs: containers' cgroups are this machine's, and each agent ends what it does
    /// not know in them.
    _alone: Flock<File>,
}

/// File that whoever runs one holds a lock on.
const LOCK: &str = "/run/quietcore-rig.lock";

/// Processes that a test can kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    Agent,
    Containerd,
    Shim,
    Tailer,
}

impl Victim {
    pub const ALL: [Self; 4] = [Self::Agent, Self::Containerd, Self::Shim, Self::Tailer];

    fn is(self, command: &str) -> bool {
        match self {
            Self::Agent => command.starts_with("quietcore-agent run"),
            Self::Containerd => command.starts_with("containerd --config"),
            Self::Shim => command.contains("containerd-shim"),
            Self::Tailer => command.starts_with("quietcore-agent tail"),
        }
    }
}

impl Rig {
    /// Starts one; it runs what `compose` declares.
    ///
    /// # Errors
    /// There is no image, rustc does not compile the test program, or the agent does not answer.
    pub fn start(image: &ImageFiles, compose: &str) -> Result<Self> {
        Self::start_with(image, compose, &[])
    }

    /// Starts one whose agent has credentials, by their names.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        image: &ImageFiles,
        compose: &str,
        credentials: &[(&str, String)],
    ) -> Result<Self> {
        let base =
            std::fs::read_to_string(image.directory.join("base")).context("the base tree")?;
        let base = PathBuf::from(base.trim()).join("base");
        let file = File::create(LOCK).with_context(|| format!("make {LOCK}"))?;
        let alone = Flock::lock(file, FlockArg::LockExclusive);
        let alone = alone.map_err(|(_, error)| error).with_context(|| format!("lock {LOCK}"))?;
        remove_cgroups();
        let directory = std::env::temp_dir().join(format!("quietcore-rig-{}", std::process::id()));
        for name in
            ["logs", "state", "archives", "store", "pages", "journal", "var", "log", "programs"]
        {
            std::fs::create_dir_all(directory.join(name))?;
        }
        let write = |name: &str, text: &str| std::fs::write(directory.join(name), text);
        write("compose.yaml", compose)?;
        if !credentials.is_empty() {
            let made = directory.join("credentials");
            std::fs::DirBuilder::new().mode(0o700).create(made)?;
        }
        for (name, text) in credentials {
            write(&format!("credentials/{name}"), text)?;
        }
        write("containerd.toml", CONTAINERD)?;
        // A file system that containerd can lay over another; the journal keeps everything that is
        // counted.
        write(
            "journald.conf",
            "[Journal]\nStorage=persistent\nSystemMaxUse=16G\nSystemMaxFiles=1000\nRateLimitIntervalSec=0\nSyncIntervalSec=1s\n",
        )?;
        std::fs::copy(root().join("image/files/host-plan.toml"), directory.join("host-plan.toml"))?;
        std::fs::copy(program("quietcore-agent"), directory.join("programs/quietcore-agent"))?;
        let (name, _) = IMAGE.split_once(':').context("a name and a version")?;
        pack("lines", name, &directory.join("archives/lines.tar"))?;
        let init = Command::new(root().join("image/in-tools"))
            .arg(&base)
            .arg("-b").arg(format!("{}:/rig", directory.display()))
            .arg("-b").arg(format!("{}:/programs", directory.join("programs").display()))
            .arg("-b").arg(format!("{}:/var/lib/containerd", directory.join("var").display()))
            .arg("-b").arg(format!("{}:/var/log/journal", directory.join("log").display()))
            .arg("--")
            .args(["bash", "-c", &format!("mkdir -p /etc/systemd/journald.conf.d; cp /rig/journald.conf /etc/systemd/journald.conf.d/90-rig.conf; {SCRIPT}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.join("init.log"))?)
            .process_group(0)
            .spawn()
            .context("start the namespaces")?;
        let mut rig = Self { directory, base, init, _alone: alone };
        rig.wait("the agent answers", Duration::from_secs(60), |_| true)?;
        Ok(rig)
    }

    /// A file of it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// qctl with these arguments, for it.
    pub fn command_line(&self, arguments: &[&str]) -> Command {
        let mut qctl = Command::new(program("qctl"));
        qctl.arg("--socket").arg(self.file("agent.sock")).args(arguments);
        qctl
    }

    /// qctl, on it.
    ///
    /// # Errors
    /// It says no.
    pub fn qctl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command_line(arguments).output().context("start qctl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "qctl {}: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Declares something else.
    ///
    /// # Errors
    /// The agent does not answer, or refuses it.
    pub fn apply(&self, compose: &str) -> Result<()> {
        let path = self.file("apply.yaml");
        std::fs::write(&path, compose)?;
        self.qctl(&["apply", path.to_str().context("a plain path")?]).map(drop)
    }

    /// Returns the agent's status, as `qctl status -o json` prints it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Value> {
        serde_json::from_str(&self.qctl(&["status", "-o", "json"])?).context("qctl's JSON")
    }

    /// Waits until the status is as wanted; how long that took.
    ///
    /// # Errors
    /// It is not within the limit.
    pub fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let status = self.status();
            if status.as_ref().is_ok_and(&wanted) {
                return Ok(start.elapsed());
            }
            if start.elapsed() > limit_under_load(limit) {
                let last = status.map_or_else(|error| format!("{error:#}"), |it| it.to_string());
                bail!("not within {} s: {what}; {last}; {}", limit.as_secs(), self.said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The last words of everybody.
    pub fn said(&self) -> String {
        let end = |name: &str| {
            let text = std::fs::read(self.file(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(12)..].join("\n"))
        };
        ["init.log", "containerd.log", "quietcore-agent.log"].map(end).concat()
    }

    /// Returns containerd's tasks and containers, and the directories of its shims.
    pub fn state(&self) -> String {
        let script = "ctr -n quietcore tasks ls; ctr -n quietcore containers ls; ls /run/containerd/io.containerd.runtime.v2.task/quietcore";
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--target={}", self.agent_pid().unwrap_or(0)));
        let output = inside.args(["--mount", "--pid", "--", "sh", "-c", script]).output();
        output.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }

    /// Processes of the rig, with their command lines.
    ///
    /// # Errors
    /// /proc can't be read.
    pub fn processes(&self) -> Result<BTreeMap<i32, String>> {
        let mut found = BTreeMap::new();
        let own = std::fs::read_link("/proc/self/ns/mnt")?;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            // Containers have namespaces of their own, below that of the rig: what counts is who is
            // above.
            let is_below = self.is_below(pid);
            if !is_below
                || std::fs::read_link(entry.path().join("ns/mnt")).is_ok_and(|it| it == own)
            {
                continue;
            }
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if !line.is_empty() {
                found.insert(pid, line.trim().to_owned());
            }
        }
        Ok(found)
    }

    fn is_below(&self, mut pid: i32) -> bool {
        let init = self.init.id() as i32;
        while pid > 1 {
            if pid == init {
                return true;
            }
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
            pid = parent.and_then(|parent| parent.parse().ok()).unwrap_or(0);
        }
        false
    }

    /// The stems of the files that containers' output goes to.
    ///
    /// # Errors
    /// They can't be listed.
    pub fn outputs(&self) -> Result<Vec<String>> {
        let names = std::fs::read_dir(self.file("logs"))?.flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned())).collect())
    }

    /// Kills one; of several, the one that `choice` picks. Says whether there was one.
    ///
    /// # Errors
    /// /proc can't be read.
    pub fn kill(&self, victim: Victim, choice: usize) -> Result<bool> {
        let all = self.processes()?;
        let pids: Vec<i32> =
            all.iter().filter(|(_, line)| victim.is(line)).map(|(pid, _)| *pid).collect();
        if pids.is_empty() {
            return Ok(false);
        }
        let _ = kill(Pid::from_raw(pids[choice % pids.len()]), Signal::SIGKILL);
        Ok(true)
    }

    /// The agent's process.
    ///
    /// # Errors
    /// It does not run.
    pub fn agent_pid(&self) -> Result<i32> {
        let all = self.processes()?;
        let agent = all.into_iter().find(|(_, line)| Victim::Agent.is(line));
        Ok(agent.context("the agent does not run")?.0)
    }

    /// A script in the mount namespace of the agent.
    ///
    /// # Errors
    /// The agent does not run.
    pub fn inside(&self, script: &str) -> Result<Command> {
        let target = format!("--target={}", self.agent_pid()?);
        let mut inside = Command::new("nsenter");
        inside.args([&target, "--mount", "--", "bash", "-ec", script]);
        Ok(inside)
    }

    /// A command in the base root, with the rig's files.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new(root().join("image/in-tools"));
        command
            .arg(&self.base)
            .arg("-b")
            .arg(format!("{}:/rig", self.directory.display()))
            .args(["--", "bash", "-ec", script]);
        command
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The first process of the PID namespace takes all others with it.
        let _ = kill(Pid::from_raw(-(self.init.id() as i32)), Signal::SIGKILL);
        let _ = self.init.wait();
        std::thread::sleep(Duration::from_millis(200));
        let _ = std::fs::remove_dir_all(&self.directory);
        remove_cgroups();
    }
}

/// Takes away what containers leave in this machine's cgroups: one that was made while a CPU was
/// offline never gets it back.
fn remove_cgroups() {
    let subdirectories = |path: &Path| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    for hierarchy in subdirectories(Path::new("/sys/fs/cgroup")) {
        let ours = hierarchy.join("quietcore-containers");
        // Those that are in use stay.
        for path in subdirectories(&ours).iter().chain([&ours]) {
            let _ = std::fs::remove_dir(path);
        }
    }
}

/// Compiles a program of `systest/assets`, static.
///
/// # Errors
/// rustc refuses.
pub fn compile(source: &str, to: &Path) -> Result<()> {
    let output = Command::new("rustc")
        .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-o"])
        .arg(to)
        .arg(root().join("systest/assets").join(format!("{source}.rs")))
        .output()
        .context("start rustc")?;
    ensure!(output.status.success(), "rustc: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Compiles a program of `systest/assets`, static, and packs it as an image of that name, version
/// 1, into an archive.
///
/// # Errors
/// rustc or the packer refuses.
pub fn pack(source: &str, name: &str, archive: &Path) -> Result<()> {
    let compiled = archive.with_file_name(source);
    compile(source, &compiled)?;
    let output = Command::new(program("quietcore-oci"))
        .args(["--name", name, "--version", "1", "--program"])
        .arg(&compiled)
        .arg("--output")
        .arg(archive)
        .output()
        .context("start quietcore-oci")?;
    std::fs::remove_file(&compiled)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
