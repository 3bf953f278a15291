//! A host with Secure Boot and a TPM: what we signed boots and nothing else; its data is sealed,
//! opens by itself for a boot that we signed and for no other, and with the recovery key for
//! whoever has that.

use crate::harness::booted::{READY_LIMIT, Verdict, boot};
use crate::harness::checkout::{ImageFiles, keys};
use crate::harness::shell::Shell;
use crate::harness::vm::Machine;
use crate::stories::image::secure_boot;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// The image's own UKI, which firmware and kernel take since both signatures are ours, with a
/// signature over the same boot for the TPM by another key.
const STRANGER: &str = r#"cd /tmp
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out pcr.key 2> /dev/null
openssl pkey -in pcr.key -pubout -out pcr.pub
for part in linux osrel cmdline initrd uname; do objcopy --dump-section .$part=$part /image/uki.efi copy.efi; done
for text in osrel cmdline uname; do tr -d '\0' < $text > $text.text; done
ukify build --linux=linux --initrd=initrd --cmdline=@cmdline.text --os-release=@osrel.text \
    --uname="$(cat uname.text)" --output=same.efi > /dev/null
sections=
for part in linux osrel cmdline initrd uname sbat; do
    objcopy --dump-section .$part=$part same.efi copy.efi
    sections="$sections --$part=$part"
done
/usr/lib/systemd/systemd-measure sign $sections --bank=sha256 --phase=: --private-key=pcr.key --public-key=pcr.pub > pcrsig
ukify build --stub=same.efi --sbat="$(tr -d '\0' < sbat)" --section=.pcrsig:@pcrsig --output=strange.efi > /dev/null
rm -f /stranger/uki.efi
osslsigncode sign -certs /keys/db.crt -key /keys/db.key -h sha256 -in strange.efi -out /stranger/uki.efi
"#;

fn stranger(image: &ImageFiles) -> Result<PathBuf> {
    let directory = crate::harness::checkout::root().join("target/stranger");
    std::fs::create_dir_all(&directory)?;
    let status = image
        .in_tools(&[(&image.directory, "/image"), (&directory, "/stranger"), (&keys(), "/keys")])
        .args(["sh", "-euc", STRANGER])
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "make a UKI that a stranger has signed for the TPM");
    Ok(directory.join("uki.efi"))
}

/// The recovery key on a console: eight groups of eight letters of systemd's alphabet.
fn recovery_key(console: &str) -> Option<String> {
    let words = console.split(|c: char| !c.is_ascii_lowercase() && c != '-');
    // What makes it bold ends with a letter.
    let mut keys = words.filter_map(|word| word.len().checked_sub(71).map(|at| &word[at..]));
    let is_key = |word: &&str| {
        let groups: Vec<&str> = word.split('-').collect();
        groups.len() == 8 && groups.iter().all(|group| group.len() == 8)
    };
    keys.find(is_key).map(str::to_owned)
}

/// Proves that the data partition is sealed, and opens by itself only for a boot that we signed.
pub fn data_is_sealed(image: &ImageFiles) -> Result<Verdict> {
    let esp = Some(secure_boot::addons());
    let machine =
        Machine { secure_boot: true, tpm: true, reboots: true, esp, ..Machine::default() };
    let mut booted = boot(image, &machine)?;
    secure_boot::ensure_only_what_is_signed(&mut booted.shell)?;
    booted.shell.wait_status("it trades", READY_LIMIT, |status| status["ready"] == true)?;
    let mounted = booted.shell.check("grep ' /var ' /proc/mounts", LIMIT)?;
    ensure!(mounted.starts_with("/dev/mapper/var "), "/var is not sealed: {mounted}");
    ensure!(booted.shell.status()?["sealed"] == true, "the status does not say so");
    let slots = "systemd-cryptenroll /dev/disk/by-partlabel/quietcore-var";
    let slots = booted.shell.check(slots, LIMIT)?;
    ensure!(slots.contains("tpm2") && slots.contains("recovery"), "its keys: {slots}");
    let console = booted.vm.console();
    let key = recovery_key(&console).context("no recovery key on the console")?;
    let logged = format!("journalctl -b --no-pager | grep -c {} || true", &key[..17]);
    let logged = booted.shell.check(&logged, LIMIT)?;
    ensure!(logged.trim() == "0", "the recovery key is in the journal");
    booted.shell.check("sync", LIMIT)?;
    booted.vm.cut_power(image, &machine)?;
    let mut shell = Shell::connect(&mut booted.vm, READY_LIMIT).context("the next boot")?;
    let mounted = shell.check("grep ' /var ' /proc/mounts", LIMIT)?;
    ensure!(mounted.starts_with("/dev/mapper/var "), "it did not open by itself: {mounted}");
    booted.vm.wait_for("quietcore: ready", READY_LIMIT)?;
    let console = booted.vm.console();
    ensure!(!console.contains("Please enter"), "it asked for a key");
    ensure!(recovery_key(&console).is_none(), "the recovery key is shown again");
    let kernel = Some(stranger(image)?);
    let stranger = Machine { kernel, ..machine };
    booted.vm.cut_power(image, &stranger)?;
    booted.vm.wait_for("Please enter", READY_LIMIT).context("a boot that a stranger signed")?;
    let smbios = vec![format!(
        "cryptsetup.passphrase={}",
        crate::stories::image::host_config::base64(&key)?
    )];
    let recovering = Machine { smbios, ..stranger };
    booted.vm.cut_power(image, &recovering)?;
    // It has no hot cores, since QEMU hands it over without the ESP's addon, and so it does not
    // trade.
    let mut shell = Shell::connect(&mut booted.vm, READY_LIMIT).context("with the recovery key")?;
    let mounted = shell.check("grep ' /var ' /proc/mounts", LIMIT)?;
    ensure!(
        mounted.starts_with("/dev/mapper/var "),
        "the recovery key opens another /var: {mounted}"
    );
    Ok(Verdict::Proved(
        "Secure Boot with our keys: loader, UKI and an addon of ours boot, a stranger's addon is left out, the kernel locks down (integrity); with a TPM the data partition is made sealed and opens for the signed boot by itself; for a boot that a stranger signed it asks, and opens with the recovery key, which was shown once and is in no log"
            .into(),
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_recovery_key_is_found_among_terminal_sequences() {
        let key = "kejjvcdc-rehhidii-jhuntrdn-urtgkdcr-hiedbkru-udicbknc-urkukhll-vrunnufg";
        let console = format!("has been generated:\n\n    \u{1f510} \x1b[0;1;39m{key}\x1b[0m\n");
        assert_eq!(super::recovery_key(&console).as_deref(), Some(key));
        assert_eq!(super::recovery_key("well-known-words-with-many-small-parts-here"), None);
    }
}
