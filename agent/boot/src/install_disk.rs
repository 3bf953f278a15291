//! The installer: a netboot UKI that was told a disk puts its own disk image there. Told by the
//! word `quietcore.install=DISK[,wipe[=TOKEN]]` of the kernel's command line (an addon, or SMBIOS),
//! or by `[install]` of the host's configuration; with `ask` instead of a disk it asks at the
//! console.

use abi::hostconfig::Install;
use agent_core::limits::{DISK_WAIT, INSTALLED_LEN_MIN};
use agent_host::flash::disk::{Disk, list};
use agent_host::flash::order_mark::{Marked, mark_of};
use agent_host::flash::source::Parts;
use agent_host::flash::{Progress, Source, write};
use agent_host::systemd::systemctl_blocking;
use agent_host::update::root_device;
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Instant;

/// Where our init puts the parts of the disk image that the netboot UKI carries.
pub const MEDIUM: &str = "/run/quietcore/medium";

/// The word of the command line.
const WORD: &str = "quietcore.install=";

/// Instead of a disk: ask at the console.
const ASK: &str = "ask";

/// Returns what to install and where, `None` if nothing. The last `quietcore.install=` word of the
/// command line takes precedence over the configuration.
///
/// # Errors
/// What was given is none.
pub fn order(cmdline: &str, configured: Option<&str>) -> Result<Option<Install>> {
    let mut words = cmdline.split_whitespace().filter_map(|word| word.strip_prefix(WORD));
    let Some(text) = words.next_back() else {
        return configured.map(|text| toml::from_str(text).context("install.toml")).transpose();
    };
    let (disk, wipe) = text.split_once(",wipe").map_or((text, None), |(disk, it)| (disk, Some(it)));
    let token = wipe.unwrap_or_default();
    let token = match token.strip_prefix('=') {
        Some(token) => token,
        None if token.is_empty() => "",
        None => bail!("{WORD}{text}: DISK, DISK,wipe or DISK,wipe=TOKEN is expected"),
    };
    let install = Install { disk: disk.into(), wipe: wipe.is_some(), token: token.into() };
    install.check().with_context(|| format!("{WORD}{text}"))?;
    Ok(Some(install))
}

/// Does what was ordered and restarts the host. If nothing was, the medium's memory is given back.
///
/// # Errors
/// One line for the console. The disk is as it was, or does not boot.
pub fn run(configured: &Path) -> Result<()> {
    let cmdline = std::fs::read_to_string("/proc/cmdline").context("read /proc/cmdline")?;
    let configured = std::fs::read_to_string(configured).ok();
    let Some(install) = order(&cmdline, configured.as_deref())? else {
        let _ = std::fs::remove_dir_all(MEDIUM);
        return Ok(());
    };
    let image = Parts::open(Path::new(MEDIUM), &root_device()?)?;
    let source = Marked { image, mark: mark_of(&install.disk, &install.token) };
    let needed = INSTALLED_LEN_MIN.max(source.size());
    let disk = if install.disk == ASK { ask(needed)? } else { named(&install, needed)? };
    println!("quietcore: installing on {}", disk.description());
    let (mut target, mut progress) = (disk.open()?, Progress::new(source.size()));
    write(&source, &mut target, |step, done| progress.tell(step, done))?;
    println!("quietcore: installed; the host restarts, let its firmware boot from the disk");
    systemctl_blocking(&["reboot"]).context("restart the host").map(drop)
}

/// A disk that was named; udev may not have seen it yet.
fn named(install: &Install, needed: u64) -> Result<Disk> {
    let (path, start) = (Path::new(&install.disk), Instant::now());
    while !path.exists() && start.elapsed() < DISK_WAIT {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let disk = Disk::find(path, needed)?;
    ensure!(
        !install.wipe || !disk.is_installed_by(&mark_of(&install.disk, &install.token))?,
        "{}; this order has installed it already: let the firmware boot from it, or give the order \
         another token",
        disk.description()
    );
    ensure!(
        install.wipe || disk.is_blank()?,
        "{}; it is kept: boot from it, or order the installation with wipe",
        disk.description()
    );
    Ok(disk)
}

/// Asks until a disk is named twice.
fn ask(needed: u64) -> Result<Disk> {
    let line = |question: &str| -> Result<String> {
        println!("quietcore: {question}");
        // Held open no longer than for the answer: others write to it.
        let console = File::open("/dev/console").context("the console")?;
        let mut answer = String::new();
        let len = BufReader::new(console).read_line(&mut answer).context("read the console")?;
        ensure!(len > 0, "nobody answers at the console");
        Ok(answer.trim().to_owned())
    };
    loop {
        let name = line(&format!("install on which disk? {}", list()))?;
        let disk = match Disk::find(Path::new(&name), needed) {
            Ok(disk) => disk,
            Err(error) => {
                println!("quietcore: {error:#}");
                continue;
            }
        };
        if line(&format!(
            "{}; all of it is lost: type its name again to install there",
            disk.description()
        ))? == name
        {
            return Ok(disk);
        }
        println!("quietcore: not the same name; nothing was written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_comes_from_the_command_line_or_the_configuration() {
        let given = |cmdline: &str, configured: Option<&str>| {
            let of = |order: Install| (order.disk, order.wipe.then_some(order.token));
            order(cmdline, configured).map(|order| order.map(of))
        };
        let by_id = "/dev/disk/by-id/nvme-x";
        let configured = Some("disk = \"/dev/disk/by-id/nvme-x\"\nwipe = true\n");
        assert_eq!(given("root=x quiet", None).unwrap(), None);
        let found = given("quiet", configured).unwrap();
        assert_eq!(found, Some((by_id.into(), Some(String::new()))));
        let found = given("quietcore.install=ask quietcore.install=/dev/vda", configured).unwrap();
        assert_eq!(found, Some(("/dev/vda".into(), None)));
        let found = given(&format!("quietcore.install={by_id},wipe=2"), None).unwrap();
        assert_eq!(found, Some((by_id.into(), Some("2".into()))));
        let wipe_of_any = "/dev/vda,wipe";
        let wiped = format!("{by_id},wiped");
        let spaced = format!("{by_id},wipe=a/b");
        for bad in ["vda", "", "/etc/passwd", "/dev/../etc/passwd", wipe_of_any, &wiped, &spaced] {
            let error = given(&format!("quietcore.install={bad}"), None).unwrap_err();
            assert!(format!("{error:#}").contains(bad.split(',').next().unwrap()), "{error:#}");
        }
    }
}
