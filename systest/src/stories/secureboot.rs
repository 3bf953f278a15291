//! Secure Boot with our own keys: what is signed boots, and nothing else does.

use super::{Verdict, boot};
use crate::checkout::ImageFiles;
use crate::vm::{Machine, Vm};
use anyhow::{Result, ensure};
use std::time::Duration;

/// The word that addons of the stories put on the kernel's command line.
const WORD: &str = "quietcore.story=addon";

/// Commands that put an addon beside the UKI, signed by the key in `directory`.
fn addon(directory: &str) -> String {
    format!(
        "ukify build --cmdline={WORD} --output=/tmp/word.efi 2> /dev/null; \
         osslsigncode sign -certs {directory}/db.crt -key {directory}/db.key -h sha256 -in /tmp/word.efi -out /tmp/word.addon.efi; \
         uki=$(mdir -b $esp ::/EFI/Linux/ | tr -d '\\r'); mmd $esp $uki.extra.d; mcopy $esp /tmp/word.addon.efi $uki.extra.d/"
    )
}

/// Another key with the same name.
const STRANGER: &str = "mkdir /tmp/stranger; openssl req -x509 -newkey rsa:2048 -sha256 -nodes -days 9 \
    -subj '/CN=Quietcore development db/' -keyout /tmp/stranger/db.key -out /tmp/stranger/db.crt 2> /dev/null; ";

fn secure(esp: Option<String>) -> Machine {
    Machine { secure_boot: true, esp, ..Machine::default() }
}

/// Boots to the shell with an addon; the kernel's command line, and what the kernel says of its lockdown.
fn boot_with_addon(image: &ImageFiles, commands: String) -> Result<(String, String)> {
    let mut booted = boot(image, &secure(Some(commands)))?;
    let limit = Duration::from_secs(60);
    let state =
        "od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let state = booted.shell.check(state, limit)?;
    ensure!(state.trim() == "1", "the firmware says SecureBoot = {}", state.trim());
    let cmdline = booted.shell.check("cat /proc/cmdline", limit)?;
    Ok((cmdline, booted.shell.check("cat /sys/kernel/security/lockdown", limit)?))
}

/// The story: with our keys in the firmware, the image as it is built boots, with an addon of ours.
pub fn signed_boots(image: &ImageFiles) -> Result<Verdict> {
    let (cmdline, lockdown) = boot_with_addon(image, addon("/keys"))?;
    ensure!(lockdown.contains("[integrity]"), "the kernel's lockdown is {lockdown}");
    ensure!(cmdline.contains(WORD), "our own addon was left out: {cmdline}");
    Ok(Verdict::Proved(
        "Secure Boot with our keys: loader, UKI and an addon of ours boot, the kernel locks down (integrity)"
            .into(),
    ))
}

/// The story: what is not signed by us is refused. Its control is [`signed_boots`].
pub fn unsigned_is_refused(image: &ImageFiles) -> Result<Verdict> {
    let put = "mcopy -o $esp /tmp/uki.efi $(mdir -b $esp ::/EFI/Linux/ | tr -d '\\r')";
    for (what, make) in [
        ("an unsigned UKI", "cp /image/uki.unsigned.efi /tmp/uki.efi"),
        (
            "a UKI with a changed command line",
            "LC_ALL=C sed s/nohz_full=2-N/nohz_full=3-N/ /image/uki.efi > /tmp/uki.efi; \
             ! cmp -s /image/uki.efi /tmp/uki.efi",
        ),
        (
            "a UKI signed by a stranger",
            "osslsigncode sign -certs /tmp/stranger/db.crt -key /tmp/stranger/db.key -h sha256 \
             -in /image/uki.unsigned.efi -out /tmp/uki.efi",
        ),
    ] {
        let mut vm = Vm::start(image, &secure(Some(format!("{STRANGER}{make}; {put}"))))?;
        vm.wait_for("Access denied", Duration::from_secs(120))?;
        let console = vm.console();
        ensure!(!console.contains("Linux version"), "{what} was booted:\n{console}");
    }
    let (cmdline, _) = boot_with_addon(image, format!("{STRANGER}{}", addon("/tmp/stranger")))?;
    ensure!(!cmdline.contains(WORD), "a stranger's addon was applied: {cmdline}");
    Ok(Verdict::Proved(
        "an unsigned UKI, one with a changed command line and one signed by a stranger are refused by the \
         firmware, and a stranger's addon is left out"
            .into(),
    ))
}
