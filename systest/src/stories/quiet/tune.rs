//! A booted host is tuned as the list says, and what is changed on it is named.

use crate::harness::booted::{Booted, READY_LIMIT, Verdict, boot};
use crate::harness::checkout::{ImageFiles, root};
use crate::harness::vm::Machine;
use crate::measure::mistune::{LIMIT, mistune, verify};
use anyhow::{Context, Result, ensure};
use std::process::Command;

/// Proves that a booted host is tuned, and that each seeded deviation is named.
pub fn host_is_tuned(booted: &mut Booted) -> Result<Verdict> {
    let (code, text) = verify(booted)?;
    ensure!(code == 0, "a host that was just booted is not tuned: {text}");
    let count = text.split_whitespace().find_map(|word| word.parse::<u32>().ok());
    let count = count.context("no count of values")?;
    ensure!(count >= 30, "only {count} values were compared");
    let (seeded, missed) = mistune(booted)?;
    ensure!(missed.is_empty(), "not named: {}", missed.join("; "));
    let (code, text) = verify(booted)?;
    ensure!(code == 0, "it is not as it was: {text}");
    Ok(Verdict::Proved(format!(
        "{count} values are as they are to be; {seeded} mis-tunings were each named, and nothing else was left of them"
    )))
}

/// A host with one core more for housekeeping, and a word that changes nothing.
const OWN: &str = "version = 1\n[cores]\nhot = \"3-N\"\n[kernel]\nwords = [\"audit=0\"]\n";

/// Image policy of the host: one registry, without signatures.
const POLICY: &str = "version = 1\n[[registry]]\nname = \"registry.example\"\nunsigned = true\n";

/// An image of that registry is admitted, one of another is not.
const ADMITTED: &str = r#"
for registry in registry.example other.example; do
    printf 'services:\n  a:\n    image: %s/a@sha256:%064d\n' $registry 0 > /run/a.yaml
    qctl apply --dry-run /run/a.yaml > /run/a.out 2>&1; echo $registry $?
done; grep -c 'other.example is not in quietcore.images' /run/a.out
"#;

/// Has udev set every card as this line of a .link file says, and verifies.
fn short_rings(booted: &mut Booted, line: &str) -> Result<(i32, String)> {
    let script = format!(
        "mkdir -p /run/systemd/network; printf '[Match]\nType=ether\n[Link]\n{line}\n' > /run/systemd/network/01-test.link
        udevadm control --reload
        udevadm trigger --action=add --subsystem-match=net --settle
        rm /run/systemd/network/01-test.link"
    );
    booted.shell.check(&script, LIMIT)?;
    verify(booted)
}

/// The story: with Secure Boot on.
pub fn host_has_cores_of_its_own(image: &ImageFiles) -> Result<Verdict> {
    let host = image.directory.join("own.toml");
    std::fs::write(&host, OWN)?;
    let output = Command::new(root().join("image/addon"))
        .arg(&host)
        .arg(image.directory.join("own.addon.efi"))
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success() && said.contains("irqaffinity=0-2"),
        "make the addon: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let machine = Machine {
        cpus: 5,
        secure_boot: true,
        network: true,
        esp: Some("mcopy -o $esp /image/own.addon.efi ::/loader/addons/cores.addon.efi".into()),
        files: vec![("host.toml", OWN.into()), ("images.toml", POLICY.into())],
        fw_cfg: vec![("quietcore.host", "host.toml"), ("quietcore.images", "images.toml")],
        ..Machine::default()
    };
    let mut booted = boot(image, &machine)?;
    booted.shell.check("qctl ready --timeout 300", READY_LIMIT)?;
    let hot = booted.shell.check("cat /sys/devices/system/cpu/nohz_full", LIMIT)?;
    ensure!(hot.trim() == "3-4", "CPUs {} are hot", hot.trim());
    let (code, text) = verify(&mut booted)?;
    ensure!(code == 0, "it is not tuned: {text}");
    let admitted = booted.shell.check(ADMITTED, LIMIT)?;
    let wanted = "registry.example 0\nother.example 1\n1\n";
    ensure!(admitted == wanted, "the policy that firmware gave it: {admitted}");
    // A card with a short queue is named, and one that was set right again is not.
    let (code, text) = short_rings(&mut booted, "RxBufferSize=64")?;
    ensure!(code == 1 && text.contains("! receive-ring: "), "the short queue is not named: {text}");
    let (code, text) = short_rings(&mut booted, "RxBufferSize=max")?;
    ensure!(code == 0, "the long queue is named: {text}");
    // The control: without its word it is not what its configuration says.
    let without =
        "sed s/audit=0// /proc/cmdline > /run/cmdline; mount --bind /run/cmdline /proc/cmdline";
    booted.shell.check(without, LIMIT)?;
    let (code, text) = verify(&mut booted)?;
    ensure!(code == 1 && text.contains("! host-word: "), "the missing word is not named: {text}");
    Ok(Verdict::Proved(
        "with an addon that qctl tune addon made, CPUs 3-4 of 5 are hot, tuned and traded on; without its own word the \
         host says so"
            .into(),
    ))
}
