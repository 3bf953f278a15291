//! Exposure of our units, judged by `systemd-analyze security`, with their shared sandbox.

use crate::harness::booted::Verdict;
use crate::harness::checkout::ImageFiles;
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// The most exposure that a unit of ours may have, in tenths, as `systemd-analyze security` counts
/// it.
const EXPOSURE_MAX: &str = "20";

/// Units that are privileged by what they are for; docs/operating.md has the reasons.
const PRIVILEGED: [&str; 3] =
    ["containerd.service", "quietcore-iscsid.service", "debug-console.service"];

/// Puts units and their drop-ins where systemd looks for them, as image/stages/files does.
fn lay_out_units(root: &Path) -> Result<Vec<String>> {
    let system = root.join("usr/lib/systemd/system");
    std::fs::create_dir_all(&system)?;
    let mut names = Vec::new();
    for layer in ["base", "demo", "debug"] {
        let layer = crate::harness::checkout::root().join("systemd").join(layer);
        for directory in std::fs::read_dir(&layer)?.flatten() {
            let name = directory.file_name().into_string().unwrap_or_default();
            let is_drop_in = name.ends_with(".service.d");
            if name != "system" && !is_drop_in {
                continue;
            }
            let to = if is_drop_in { system.join(&name) } else { system.clone() };
            std::fs::create_dir_all(&to)?;
            for file in std::fs::read_dir(directory.path())?.flatten() {
                std::fs::copy(file.path(), to.join(file.file_name()))?;
                let file = file.file_name().into_string().unwrap_or_default();
                let is_unit = file.ends_with(".service") && file != "emergency.service";
                names.extend(is_unit.then_some(file));
            }
        }
    }
    names.sort();
    Ok(names)
}

/// The story: every unit that we ship, judged by systemd.
pub fn units_are_hardened(image: &ImageFiles) -> Result<Verdict> {
    let root = std::env::temp_dir().join("units");
    let names = lay_out_units(&root)?;
    let judge = |unit: &str| -> Result<(bool, String)> {
        let output = image
            .in_tools(&[(&root, "/tree")])
            .args(["env", "SYSTEMD_COLORS=0", "systemd-analyze", "security", "--no-pager"])
            .args(["--offline=true", "--root=/tree", "--threshold"])
            .args([EXPOSURE_MAX, unit])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let overall = text.lines().find(|line| line.contains("Overall exposure level"));
        Ok((output.status.success(), overall.context("systemd-analyze said nothing")?.to_owned()))
    };
    let mut proved = Vec::new();
    for name in &names {
        let (hardened, overall) = judge(name)?;
        if PRIVILEGED.contains(&name.as_str()) {
            // The control: the judge does not let everything pass.
            ensure!(!hardened, "{name} needs no exception: {overall}");
        } else {
            ensure!(hardened, "{overall}; at most 2.0 is allowed");
            let level = overall.split(": ").nth(1).unwrap_or_default();
            let level = level.split(' ').next().unwrap_or_default();
            proved.push(format!("{} {level}", name.trim_end_matches(".service")));
        }
    }
    // The control: without the sandbox that they share, they are exposed.
    std::fs::remove_dir_all(root.join("usr/lib/systemd/system/quietcore-.service.d"))?;
    ensure!(!judge("quietcore-forward.service")?.0, "the shared sandbox makes no difference");
    Ok(Verdict::Proved(format!("exposure of our units, at most 2.0: {}", proved.join(", "))))
}
