//! A host's figures, on our own kernel: how quiet the hot cores are, whether a mis-tuned host is
//! noticed, and the kernel beside Debian's.

use crate::harness::booted::{READY_LIMIT, boot};
use crate::harness::checkout::ImageFiles;
use crate::harness::vm::Machine;
use crate::measure::bars::ready_seconds;
use crate::measure::mistune;
use crate::measure::noise::quiet_figures;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Boots in which nothing is out of tune, so that a finding is a false alarm.
const CLEAN_BOOTS: u32 = 20;

/// The kernel's own figures: file and modules in the base tree of an image.
fn kernel(image: &ImageFiles) -> Result<(u64, usize)> {
    let base = std::fs::read_to_string(image.directory.join("base")).context("the base tree")?;
    let modules = PathBuf::from(base.trim()).join("base/usr/lib/modules");
    let release =
        std::fs::read_dir(&modules)?.next().context("no kernel in the base tree")??.path();
    let len = release.join("vmlinuz").metadata().context("the kernel")?.len();
    Ok((len, modules_below(&release)?))
}

fn modules_below(directory: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            count += modules_below(&path)?;
        } else {
            count += usize::from(path.to_string_lossy().contains(".ko"));
        }
    }
    Ok(count)
}

/// Boots once: seconds to ready, as the guest says, and whether `qctl tune verify` found something.
fn boot_once(image: &ImageFiles) -> Result<(f64, bool)> {
    let mut booted = boot(image, &Machine::default())?;
    booted.vm.wait_for("quietcore: ready, ", READY_LIMIT)?;
    let verified = booted.shell.run("qctl tune verify --quiet", Duration::from_secs(60))?;
    Ok((ready_seconds(&booted.vm.console())?, verified.code != 0))
}

pub fn host() -> Result<Map<String, Value>> {
    let debian = ImageFiles::build_with("debug", None)?;
    let own = ImageFiles::build_with("debug", Some("quietcore"))?;
    let mut figures = Map::new();
    let seconds = std::fs::read_to_string(own.directory.join("kernel.seconds"))?;
    figures.insert("kernel_build_seconds".into(), json!(seconds.trim().parse::<u64>()?));
    for (name, image) in [("kernel", &own), ("debian_kernel", &debian)] {
        let (len, modules) = kernel(image)?;
        figures.insert(format!("{name}_bytes"), json!(len));
        figures.insert(format!("{name}_modules"), json!(modules));
        let (seconds, _) = boot_once(image)?;
        figures.insert(format!("{name}_ready_seconds"), json!(seconds));
    }
    let mut booted = boot(&own, &Machine::default())?;
    booted.shell.check("qctl ready --timeout 300", READY_LIMIT)?;
    quiet_figures(&own, &mut booted, &mut figures)?;
    let (seeded, missed) = mistune::mistune(&mut booted)?;
    missed.iter().for_each(|missed| println!("not named: {missed}"));
    figures.insert("mistunings_seeded".into(), json!(seeded));
    figures.insert("mistunings_named".into(), json!(seeded - missed.len()));
    drop(booted);
    figures.insert("clean_boots".into(), json!(CLEAN_BOOTS));
    figures.insert("false_alarms".into(), json!(false_alarms(&own)?));
    Ok(figures)
}

/// In how many of [`CLEAN_BOOTS`] something was found: an emulated machine takes one core, so that
/// there are two at once.
fn false_alarms(own: &ImageFiles) -> Result<u32> {
    let some = || -> Result<u32> {
        (0..CLEAN_BOOTS / 2).try_fold(0, |alarms, _| Ok(alarms + u32::from(boot_once(own)?.1)))
    };
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(some);
        (some(), other.join().expect("no boot panics"))
    });
    Ok(one? + other?)
}
