//! Updates: a good release is taken and proves itself, a broken one falls back by itself and is not
//! tried again, a stranger's is refused.

use crate::harness::booted::{Booted, READY_LIMIT, Verdict, ready_machine, ready_with};
use crate::harness::checkout::{ImageFiles, root};
use crate::harness::http;
use crate::harness::releases::{Broken, Signed, broken, build, describe, version_after};
use crate::harness::vm::Machine;
use abi::release::Version;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A version that falls back has three boots, each as long as it takes to fail.
const FALLBACK_LIMIT: Duration = Duration::from_secs(1200);

/// Fetching and writing under TCG.
const UPDATE_LIMIT: Duration = Duration::from_secs(300);

/// Files to be laid over the root of a release that is as good as the others, and not the same.
fn another(directory: &Path) -> Result<()> {
    let share = directory.join("usr/share/quietcore");
    std::fs::create_dir_all(&share)?;
    Ok(std::fs::write(share.join("another"), "another root\n")?)
}

/// A configuration that no host of the stories can hold: the engine's preflight refuses it.
fn too_large(directory: &Path) -> Result<()> {
    let demo = std::fs::read_to_string(root().join("engine/config/demo.toml"))?;
    let config = demo.replace("orders_max = 262144", "orders_max = 40000000");
    ensure!(config != demo, "the demonstration's configuration has no such line");
    let etc = directory.join("etc/quietcore");
    std::fs::create_dir_all(&etc)?;
    Ok(std::fs::write(etc.join("engine.toml"), config)?)
}

struct Host {
    booted: Booted,
    port: u16,
}

impl Host {
    fn url(&self, release: &Path) -> Result<String> {
        let name = release.file_name().context("a release has a directory")?.to_string_lossy();
        Ok(format!("http://10.0.2.2:{}/{name}", self.port))
    }

    /// Takes a release up to the next boot.
    fn stage(&mut self, release: &Path) -> Result<()> {
        let command = format!("qctl update {}", self.url(release)?);
        let said = self.booted.shell.check(&command, UPDATE_LIMIT)?;
        ensure!(said.contains("qctl reboot starts it"), "qctl update said: {said}");
        Ok(())
    }

    /// Takes a release, while somebody else asks for it too: who comes second is told so.
    fn stage_for_two(&mut self, release: &Path) -> Result<()> {
        let ask = format!("qctl update {}", self.url(release)?);
        let both = format!("{ask} > /run/first 2>&1 & sleep 1; {ask}; wait; cat /run/first");
        let said = self.booted.shell.run(&both, UPDATE_LIMIT)?.text;
        let are_told = said.contains("is under way") && said.contains("qctl reboot starts it");
        ensure!(are_told, "two who asked for an update were told: {said}");
        Ok(())
    }

    /// A release must not be taken; returns why it was not.
    fn refused(&mut self, release: &Path) -> Result<String> {
        let command = format!("qctl update {}", self.url(release)?);
        let output = self.booted.shell.run(&command, UPDATE_LIMIT)?;
        ensure!(output.code == 1, "{command} ended with {}: {}", output.code, output.text);
        Ok(output.text)
    }

    /// Restarts, and waits until the host trades, healthy and not on trial, with this version.
    fn restart(&mut self, expected: Version, limit: Duration) -> Result<u32> {
        // The shell may end before it answers.
        let _ = self.booted.shell.run("qctl reboot --holding", Duration::from_secs(60));
        let (deadline, mut boots) = (self.booted.vm.clock.deadline(limit), 0);
        while !deadline.is_over() {
            let left = deadline.left();
            self.booted.shell.await_boot(&mut self.booted.vm, left)?;
            boots += 1;
            let settled = self.booted.shell.wait_status("it has proved itself", left, |status| {
                status["ready"] == true && status["update"]["on_trial"] == false
            });
            match settled {
                Ok(status) if status["version"] == expected.to_string() => return Ok(boots),
                Ok(status) => bail!("it runs {} instead of {expected}", status["version"]),
                // It restarted: one of the boots that fail.
                Err(_) if self.booted.shell.has_booted() => {}
                Err(error) => return Err(error),
            }
        }
        bail!("{expected} does not run after {}", deadline.name())
    }

    /// A release that breaks at its boot: after its tries the host is back on `good` by itself, and
    /// does not take it again.
    fn falls_back(&mut self, bad: &Bad, good: Version) -> Result<()> {
        self.stage(&bad.release)?;
        let (version, tries) = (bad.version, bad.tries);
        let fewer = format!(
            "set -e; mkdir -p /run/esp; mount /dev/disk/by-partlabel/esp /run/esp; cd /run/esp/EFI/Linux; ls *+3-0.efi; test {tries} = 3 || mv quietcore_{version}+3-0.efi quietcore_{version}+{tries}-0.efi; cd /; umount /run/esp"
        );
        self.booted.shell.check(&fewer, Duration::from_secs(60))?;
        let before = self.booted.vm.console().len();
        self.restart(good, FALLBACK_LIMIT)?;
        let console = self.booted.vm.console();
        let seen = console[before..].matches(bad.words).count();
        ensure!(seen >= tries, "the console says {:?} {seen} times, not {tries}", bad.words);
        let status = self.booted.shell.status()?;
        let failed = status["update"]["failed"].as_array().context("failed versions")?;
        ensure!(failed.contains(&version.to_string().into()), "failed here: {failed:?}");
        let why = self.refused(&bad.release)?;
        ensure!(why.contains("was tried on this host and failed"), "refused, but: {why}");
        Ok(())
    }
}

/// A release that breaks at its boot.
struct Bad {
    release: PathBuf,
    version: Version,
    /// Boots that it gets.
    tries: usize,
    /// Text on the console at each of its boots.
    words: &'static str,
}

/// Proves that a good update is blessed and a broken one falls back.
pub fn updates_prove_themselves_or_fall_back(image: &ImageFiles) -> Result<Verdict> {
    let versions = (1..=5).map(version_after).collect::<Result<Vec<_>>>()?;
    let [good, bad_root, bad_preflight, bad_initrd, other] = versions[..] else {
        bail!("five versions")
    };
    let scratch = root().join("target/releases/extra");
    let _ = std::fs::remove_dir_all(&scratch);
    too_large(&scratch.join("preflight"))?;
    another(&scratch.join("other"))?;
    let good_release = build(good, None)?;
    // What is broken is good otherwise: nothing else can make it fall back.
    let whole = build(other, Some(&scratch.join("other")))?;
    let bads = [
        // All three boots once; to the others one is left from the start, to save time.
        Bad {
            release: broken(image, &whole, bad_root, Broken::Root)?,
            version: bad_root,
            tries: 3,
            words: "is corrupted",
        },
        Bad {
            release: build(bad_preflight, Some(&scratch.join("preflight")))?,
            version: bad_preflight,
            tries: 1,
            words: "this version is not healthy",
        },
        Bad {
            release: broken(image, &whole, bad_initrd, Broken::Initrd)?,
            version: bad_initrd,
            tries: 1,
            words: "the root is not there after",
        },
    ];
    let port = http::serve(root().join("target/releases"))?;
    let machine = Machine { reboots: true, ..ready_machine()? };
    let mut host = Host { booted: ready_with(image, &machine)?, port };
    // A compose file that names images of this version, which the next one does not bring.
    let apply = "qctl apply /etc/quietcore/compose.yaml";
    host.booted.shell.check(apply, Duration::from_secs(60))?;
    refuse_strangers(image, &mut host, &good_release)?;
    host.stage_for_two(&good_release)?;
    // It runs with the next version, and not before.
    stage(&mut host, 17, 16)?;
    host.restart(good, READY_LIMIT)?;
    ensure!(limit(&mut host)? == 17, "what was staged before the boot does not run");
    let timer = "systemctl is-active quietcore-fallback.timer";
    let timer = host.booted.shell.run(timer, Duration::from_secs(60))?.text;
    ensure!(timer.trim() == "active", "nothing ends a boot on trial that hangs: {timer}");
    let entries = "mkdir -p /run/esp; mount -o ro /dev/disk/by-partlabel/esp /run/esp; ls /run/esp/EFI/Linux; umount /run/esp";
    let list = host.booted.shell.check(entries, Duration::from_secs(60))?;
    ensure!(list.contains(&format!("quietcore_{good}.efi")), "it is not blessed: {list}");
    let mut seconds = Vec::new();
    for bad in &bads {
        let start = Instant::now();
        let fell = host.falls_back(bad, good);
        fell.with_context(|| bad.release.display().to_string())?;
        seconds.push(start.elapsed().as_secs());
    }
    ensure!(limit(&mut host)? == 17, "what was staged once is not what runs");
    Ok(Verdict::Proved(format!(
        "{good} was fetched, written, booted and proved itself, with the compose file that was staged for its boot; a wrong root, a failing preflight and a hanging initrd each fell back to it ({seconds:?} s; the first after three boots) and are not tried again; a changed release, a stranger's signature, another profile, the same and a lower version are refused"
    )))
}

/// Stages a file with another limit of the exporter's processes than it has.
fn stage(host: &mut Host, pids: u32, now: u32) -> Result<()> {
    let script = format!(
        "sed 's/^    pids_limit: 16$/    pids_limit: {pids}/' /etc/quietcore/compose.yaml > /run/staged.yaml; qctl apply --staged /run/staged.yaml; sleep 3"
    );
    let said = host.booted.shell.check(&script, Duration::from_secs(60))?;
    ensure!(said.contains("staged: the next boot") && limit(host)? == now, "{said}");
    Ok(())
}

/// The exporter's limit of processes.
fn limit(host: &mut Host) -> Result<u32> {
    let file = "cat /sys/fs/cgroup/quietcore-containers/exporter-*/pids.max";
    Ok(host.booted.shell.check(file, Duration::from_secs(60))?.trim().parse()?)
}

/// Releases that are not for this host.
fn refuse_strangers(image: &ImageFiles, host: &mut Host, good: &Path) -> Result<()> {
    let directory = root().join("target/releases/refused");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory)?;
    let text = std::fs::read_to_string(good.join("release.json"))?;
    std::fs::write(
        directory.join("release.json"),
        text.replace("\"format\": 1", "\"format\":  1"),
    )?;
    std::fs::copy(good.join("release.json.sig"), directory.join("release.json.sig"))?;
    let mut refuse = |words: &str| -> Result<()> {
        let why = host.refused(&directory)?;
        ensure!(why.contains(words), "refused, but not because {words}: {why}");
        Ok(())
    };
    refuse("not signed")?;
    let made = image
        .in_tools(&[(&directory, "/release")])
        .args(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "/release/stranger.key"])
        .status()?;
    ensure!(made.success(), "make a stranger's key");
    let own = Signed { variant: "debug", key: "/keys/release.key" };
    let stranger = Signed { key: "/release/stranger.key", ..own };
    let production = Signed { variant: "production", ..own };
    let (running, newer) = (version_after(0)?, version_after(9)?);
    let lower: Version = "0.0.1".parse()?;
    for (version, signed, words) in [
        (newer, stranger, "not signed"),
        (newer, production, "profile production"),
        (running, own, "is not newer"),
        (lower, own, "is not newer"),
    ] {
        for name in ["efi", "root-x86-64.", "root-x86-64-verity."] {
            let end = if name == "efi" { String::new() } else { format!("{}.raw", "0".repeat(32)) };
            std::fs::write(directory.join(format!("quietcore_{version}.{name}{end}")), "x")?;
        }
        describe(image, &directory, version, signed)?;
        refuse(words)?;
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "key") {
                std::fs::remove_file(path)?;
            }
        }
    }
    Ok(std::fs::remove_dir_all(&directory)?)
}
