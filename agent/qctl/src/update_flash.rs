//! The operating system: updates, and disks that it is written to.

use crate::client::Client;
use agent_core::limits::{INSTALLED_LEN_MIN, UPDATE_SILENCE_MAX};
use agent_core::protocol::Request;
use agent_core::status::Status;
use agent_core::update_progress::{Progress, Stage};
use agent_host::flash::disk::Disk;
use agent_host::flash::source::{ImageFile, check_sums};
use agent_host::flash::{self, Source};
use anyhow::{Context, Result, bail, ensure};
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

/// Writes an image to a disk, after asking.
pub fn flash_image(image: &Path, path: &Path, key: Option<&Path>, yes: bool) -> Result<()> {
    let source = ImageFile::open(image)?;
    let disk = Disk::find(path, INSTALLED_LEN_MIN.max(source.size()))?;
    eprintln!("{}", check_sums(image, key)?);
    eprintln!("{}", disk.description());
    if !yes {
        ensure!(
            std::io::stdin().is_terminal(),
            "nobody to ask; give --yes to write without asking"
        );
        eprint!("all of it is lost: type its name again to write to it: ");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        ensure!(Path::new(answer.trim()) == path, "not the same name; nothing was written");
    }
    let mut progress = flash::Progress::new(source.size());
    let written = flash::write(&source, &mut disk.open()?, |step, done| progress.tell(step, done))
        .with_context(|| path.display().to_string())?;
    println!(
        "{}: the image is on it, {} MiB were other ones before",
        path.display(),
        written >> 20
    );
    Ok(())
}

/// Asks for an update and shows how it goes, until it is staged or has failed.
pub fn update(client: &mut Client, url: &str) -> Result<()> {
    client.done(&Request::Update { url: url.into() })?;
    let (mut shown, mut last) = (Progress::default(), Instant::now());
    loop {
        let progress = client.status()?.update.progress;
        if progress != shown {
            let Progress { stage, version, detail } = &progress;
            let version = version.map_or(String::new(), |version| format!(" {version}"));
            match stage {
                Stage::Failed => {
                    bail!("update: {detail}; the next boot is as before")
                }
                Stage::Staged => {
                    println!("staged{version}: {detail}; qctl reboot starts it");
                    return Ok(());
                }
                _ => println!("{stage:?}{version}: {detail}"),
            }
            (shown, last) = (progress, Instant::now());
        }
        if last.elapsed() > UPDATE_SILENCE_MAX {
            bail!(
                "no progress for {} s; journalctl -u quietcore-fetch -u quietcore-install says why",
                UPDATE_SILENCE_MAX.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Prints the running version, the progress of the last update, and the versions that failed on
/// this host.
pub fn show_update(status: &Status) {
    let on_trial = if status.update.on_trial { ", on trial: it may still fall back" } else { "" };
    println!("running     {}{on_trial}", status.version);
    let Progress { stage, version, detail } = &status.update.progress;
    let version = version.map_or(String::new(), |version| format!("{version} "));
    println!("last update {version}{stage:?} {detail}");
    let failed = &status.update.failed;
    println!("failed here {}", if failed.is_empty() { "none".into() } else { failed.join(" ") });
}
