//! The kernel of a booted host, judged by kernel-hardening-checker: what it finds and we keep
//! stands with its reason in `kernel-config/kernel-hardening.toml`, and nothing else is found. The
//! configurations of Debian's kernels are compared with what our own kernel's fragments ask for, in
//! the same way.

use crate::harness::booted::{Booted, Verdict};
use crate::harness::checkout::{ImageFiles, root};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);

/// `image/kernel-hardening` says so when its mirror has the checker no more.
const NOT_TO_BE_HAD: i32 = 3;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exemption {
    reason: String,
    /// Names of [`FLAVOURS`] that the exemption is for; empty for all.
    #[serde(default)]
    flavours: Vec<String>,
    names: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kept: Vec<Exemption>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    option_name: String,
    check_result_bool: bool,
}

/// Debian's kernels, and whether what our flavour `rt` adds is asked of them.
const FLAVOURS: [(&str, bool); 3] = [("cloud", false), ("generic", false), ("rt", true)];

/// The names in a file of `kernel-config`, for one of [`FLAVOURS`].
fn kept(file: &str, flavour: &str) -> Result<BTreeSet<String>> {
    let path = root().join("kernel-config").join(file);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let file: File = toml::from_str(&text).with_context(|| path.display().to_string())?;
    let mut names = BTreeSet::new();
    for kept in file.kept {
        ensure!(!kept.reason.is_empty(), "{:?} have no reason", kept.names);
        let known = |name: &String| FLAVOURS.iter().any(|(flavour, _)| flavour == name);
        ensure!(kept.flavours.iter().all(known), "{:?}: no such flavour", kept.flavours);
        if !kept.flavours.is_empty() && !kept.flavours.iter().any(|name| name == flavour) {
            continue;
        }
        for name in kept.names {
            ensure!(names.insert(name.clone()), "{name} is kept twice");
        }
    }
    Ok(names)
}

/// Checks that a flavour's findings are exactly those that a file of `kernel-config` keeps; returns
/// their number.
fn compare(found: &BTreeSet<String>, file: &str, flavour: &str) -> Result<usize> {
    let kept = kept(file, flavour)?;
    let difference = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
        one.difference(other).cloned().collect::<Vec<_>>().join(", ")
    };
    let (new, gone) = (difference(found, &kept), difference(&kept, found));
    ensure!(new.is_empty(), "{flavour}: found, and not in kernel-config/{file}: {new}");
    ensure!(gone.is_empty(), "{flavour}: in kernel-config/{file}, and not found any more: {gone}");
    Ok(kept.len())
}

fn failed(findings: &[Finding]) -> BTreeSet<String> {
    let failed = findings.iter().filter(|finding| !finding.check_result_bool);
    failed.map(|finding| finding.option_name.clone()).collect()
}

/// The lines of a kernel's configuration, by option.
fn options(text: &str) -> BTreeMap<&str, &str> {
    let lines = text.lines().filter(|line| line.starts_with("CONFIG_"));
    lines.filter_map(|line| line.split_once('=')).collect()
}

/// The lines of our fragments that a configuration does not have so. Where we build in, a module
/// will do.
fn not_as_ours(fragments: &str, config: &str) -> BTreeSet<String> {
    let theirs = options(config);
    let differs = |(option, wanted): &(&str, &str)| {
        let found = theirs.get(option).copied().unwrap_or("n");
        found != *wanted && !(*wanted == "y" && found == "m")
    };
    options(fragments).into_iter().filter(differs).map(|(option, _)| option.to_owned()).collect()
}

/// The fragments of our own kernel, one after the other, with or without the flavour's.
fn fragments(rt: bool) -> Result<String> {
    let entries = std::fs::read_dir(root().join("kernel-config/fragments"))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| rt || path.file_name().is_some_and(|name| name != "rt.config"));
    paths.sort();
    let texts = paths.iter().map(std::fs::read_to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(texts.concat())
}

/// Every setting as `sysctl -a` would print it: there is no such program on the image.
const SYSCTL: &str = r#"cd /proc/sys; find . -type f -readable | while read -r file; do
    name=${file#./}; if read -r value < "$file"; then echo "${name//\//.} = $value"; fi 2> /dev/null
done; true"#;

/// A module of the image without the signature behind it, compressed again, in base64. Behind the
/// signature stand its length, in the last four of twelve bytes, and a line (`struct
/// module_signature`, include/linux/module_signature.h).
const WITHOUT_SIGNATURE: &str = r#"cd /tmp
xz -dc /base/usr/lib/modules/*/kernel/drivers/net/dummy.ko.xz > dummy.ko
tail -c 28 dummy.ko | grep -q '^~Module signature appended~$'
length=$((0x$(tail -c 32 dummy.ko | head -c 4 | od -An -tx1 | tr -d ' ')))
truncate -s -$((28 + 12 + length)) dummy.ko
xz --check=crc32 -c dummy.ko | base64 -w0
"#;

/// Loads a module of Debian's, and tries to load it without its signature; what the kernel said to
/// that.
fn unsigned_module(image: &ImageFiles, booted: &mut Booted) -> Result<String> {
    let base = std::fs::read_to_string(image.directory.join("base"))?;
    let base = std::path::Path::new(base.trim()).join("base");
    let made =
        image.in_tools(&[(&base, "/base")]).args(["sh", "-euc", WITHOUT_SIGNATURE]).output()?;
    ensure!(made.status.success(), "take a module's signature off");
    let control = "insmod /usr/lib/modules/*/kernel/drivers/net/dummy.ko.xz && rmmod dummy";
    booted.shell.check(control, LIMIT).context("Debian's own module must load")?;
    let module = String::from_utf8(made.stdout)?;
    let try_it =
        format!("echo {module} | base64 -d > /run/dummy.ko.xz; insmod /run/dummy.ko.xz 2>&1");
    let tried = booted.shell.run(&try_it, LIMIT)?;
    let said = tried.text.trim().to_owned();
    ensure!(tried.code != 0, "a module without a signature was loaded");
    ensure!(said.contains("rejected") || said.contains("not permitted"), "refused, but: {said}");
    Ok(said)
}

/// Proves that the kernel passes kernel-hardening-checker, except for findings kept with a reason,
/// and refuses an unsigned module.
pub fn kernel_is_hardened(booted: &mut Booted) -> Result<Verdict> {
    let image = ImageFiles::find("debug")?;
    let directory = booted.vm.directory.join("hardening");
    std::fs::create_dir_all(&directory)?;
    let cmdline = booted.shell.check("cat /proc/cmdline", LIMIT)?;
    std::fs::write(directory.join("cmdline"), cmdline.trim())?;
    std::fs::write(directory.join("sysctl"), booted.shell.check(SYSCTL, LIMIT)?)?;
    let packages = std::fs::read_to_string(image.directory.join("packages"))?;
    let judged = Command::new(root().join("image/kernel-hardening"))
        .args([image.tools.as_os_str(), packages.trim().as_ref(), directory.as_os_str()])
        .output()
        .context("start image/kernel-hardening")?;
    let said = String::from_utf8_lossy(&judged.stderr).trim().to_string();
    if judged.status.code() == Some(NOT_TO_BE_HAD) {
        return Ok(Verdict::Skipped(said));
    }
    ensure!(judged.status.success(), "image/kernel-hardening: {said}");
    let findings: Vec<Finding> =
        serde_json::from_str(&std::fs::read_to_string(directory.join("result.json"))?)?;
    let kept = compare(&failed(&findings), "kernel-hardening.toml", "cloud")?;
    let mut debian = Vec::new();
    for (flavour, rt) in FLAVOURS {
        let config = std::fs::read_to_string(directory.join(format!("config-{flavour}")))?;
        let fragments = fragments(rt)?;
        let otherwise = compare(&not_as_ours(&fragments, &config), "debian.toml", flavour)?;
        debian.push(format!("{flavour} {otherwise} of {}", options(&fragments).len()));
    }
    let debian = debian.join(", ");
    let vulnerable = "grep -L -e '^Not affected' -e '^Mitigation' /sys/devices/system/cpu/vulnerabilities/* || true";
    let vulnerable = booted.shell.check(vulnerable, LIMIT)?;
    let refused = unsigned_module(&image, booted)?;
    let count = findings.len();
    Ok(Verdict::Proved(format!(
        "{count} checks, {kept} kept with a reason, no other finding; of our own kernel's options Debian's kernels have otherwise for a reason: {debian}; a module without its signature is refused ({refused}); not mitigated on this CPU: {}",
        if vulnerable.trim().is_empty() { "nothing" } else { vulnerable.trim() },
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kept_finding_has_a_reason_and_others_are_told() {
        let kept = kept("kernel-hardening.toml", "cloud").unwrap();
        let finding = |name: &str, ok| Finding { option_name: name.into(), check_result_bool: ok };
        let mut findings: Vec<_> = kept.iter().map(|name| finding(name, false)).collect();
        findings.push(finding("kernel.other", true));
        let compare =
            |findings: &[Finding]| compare(&failed(findings), "kernel-hardening.toml", "cloud");
        assert_eq!(compare(&findings).unwrap(), kept.len());
        findings.push(finding("kernel.new", false));
        let error = compare(&findings).unwrap_err().to_string();
        assert!(error.contains("kernel-hardening.toml: kernel.new"), "{error}");
        findings.retain(|finding| !["lockdown", "kernel.new"].contains(&&*finding.option_name));
        let error = compare(&findings).unwrap_err().to_string();
        assert!(error.contains("not found any more: lockdown"), "{error}");
    }

    #[test]
    fn an_option_that_a_kernel_has_otherwise_is_told() {
        let fragments = fragments(false).unwrap();
        assert!(options(&fragments).len() > 200);
        let whole: BTreeSet<String> = BTreeSet::new();
        assert_eq!(not_as_ours(&fragments, &fragments), whole);
        let config = fragments.replace("CONFIG_NO_HZ_FULL=y", "# CONFIG_NO_HZ_FULL is not set");
        let config = config.replace("CONFIG_VIRTIO_NET=y", "CONFIG_VIRTIO_NET=m");
        let missing: Vec<String> = not_as_ours(&fragments, &config).into_iter().collect();
        assert_eq!(missing, ["CONFIG_NO_HZ_FULL"]);
        for (flavour, _) in FLAVOURS {
            kept("debian.toml", flavour).unwrap();
        }
    }
}
