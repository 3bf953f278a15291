//! Secure Boot with our own keys: what is signed boots, and nothing else does.

use crate::harness::booted::Verdict;
use crate::harness::checkout::ImageFiles;
use crate::harness::shell::Shell;
use crate::harness::vm::{Machine, Vm};
use anyhow::{Result, ensure};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// Words that addons put on the kernel's command line: one that we signed, one that a stranger
/// signed.
const OWN_WORD: &str = "quietcore.story=own";
const STRANGE_WORD: &str = "quietcore.story=strange";

/// Commands that put an addon with this word into the UKI's directory of addons, signed by the key
/// in `directory`.
fn addon(word: &str, directory: &str) -> String {
    format!(
        "ukify build --cmdline={word} --output=/tmp/{word}.efi 2> /dev/null; \
         osslsigncode sign -certs {directory}/db.crt -key {directory}/db.key -h sha256 -in /tmp/{word}.efi -out /tmp/{word}.addon.efi; \
         mcopy $esp /tmp/{word}.addon.efi $uki.extra.d/"
    )
}

/// Another key with the same name.
const STRANGER: &str = "mkdir /tmp/stranger; openssl req -x509 -newkey rsa:2048 -sha256 -nodes -days 9 \
    -subj '/CN=Quietcore development db/' -keyout /tmp/stranger/db.key -out /tmp/stranger/db.crt 2> /dev/null; ";

/// A UKI that we signed, in which a stranger signed the root hash.
const ROOTED: &str = "cd /tmp; for part in linux initrd cmdline osrel uname; do objcopy --dump-section .$part=$part /image/uki.unsigned.efi copy.efi; done; \
    for text in cmdline osrel uname; do tr -d '\\0' < $text > $text.text; done; \
    sed 's/.*roothash=\\([0-9a-f]*\\).*/\\1/' cmdline.text | tr -d '\\n' > hash; \
    openssl smime -sign -nocerts -noattr -binary -in hash -signer stranger/db.crt -inkey stranger/db.key -outform der -out roothash.p7s; \
    echo roothash.p7s | cpio --quiet -o -H newc > signature.cpio; \
    ukify build --linux=linux --initrd=initrd --initrd=signature.cpio --cmdline=@cmdline.text --os-release=@osrel.text --uname=$(cat uname.text) --output=rooted.efi > /dev/null; \
    osslsigncode sign -certs /keys/db.crt -key /keys/db.key -h sha256 -in rooted.efi -out uki.efi > /dev/null";

fn secure(esp: Option<String>) -> Machine {
    Machine { secure_boot: true, esp, ..Machine::default() }
}

/// Commands that put two addons beside the UKI: ours and a stranger's.
pub fn addons() -> String {
    let (own, strange) = (addon(OWN_WORD, "/keys"), addon(STRANGE_WORD, "/tmp/stranger"));
    let make = "uki=$(mdir -b $esp ::/EFI/Linux/ | tr -d '\\r'); mmd $esp $uki.extra.d";
    format!("{STRANGER}{make}; {own}; {strange}")
}

/// A host that Secure Boot started with [`addons`]: what our keys signed counts, and nothing else.
///
/// # Errors
/// It is otherwise.
pub fn ensure_only_what_is_signed(shell: &mut Shell) -> Result<()> {
    let state =
        "od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let state = shell.check(state, LIMIT)?;
    ensure!(state.trim() == "1", "the firmware says SecureBoot = {}", state.trim());
    let table = shell.check("dmsetup table root", LIMIT)?;
    ensure!(
        table.contains("root_hash_sig_key_desc"),
        "the root hash's signature was not asked for: {table}"
    );
    let lockdown = shell.check("cat /sys/kernel/security/lockdown", LIMIT)?;
    ensure!(lockdown.contains("[integrity]"), "the kernel's lockdown is {lockdown}");
    let cmdline = shell.check("cat /proc/cmdline", LIMIT)?;
    ensure!(cmdline.contains(OWN_WORD), "our own addon was left out: {cmdline}");
    ensure!(!cmdline.contains(STRANGE_WORD), "a stranger's addon was applied: {cmdline}");
    Ok(())
}

/// The story: what is not signed by us is refused. Its control is [`ensure_only_what_is_signed`],
/// with the keys that these machines have.
pub fn unsigned_is_refused(image: &ImageFiles) -> Result<Verdict> {
    let put = "mcopy -o $esp /tmp/uki.efi $(mdir -b $esp ::/EFI/Linux/ | tr -d '\\r')";
    for (what, make) in [
        ("an unsigned UKI", "cp /image/uki.unsigned.efi /tmp/uki.efi"),
        (
            "a UKI with a changed command line",
            "LC_ALL=C sed s/lockdown=integrity/lockdown=intEgrity/ /image/uki.efi > /tmp/uki.efi; \
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
    let mut vm = Vm::start(image, &secure(Some(format!("{STRANGER}{ROOTED}; {put}"))))?;
    vm.wait_for("quietcore-init: ", Duration::from_secs(120))?;
    let console = vm.console();
    let refused = console.contains("rebooting") && !console.contains("quietcore: ready");
    ensure!(refused, "a root hash that a stranger signed was taken:\n{console}");
    Ok(Verdict::Proved(
        "an unsigned UKI, one with a changed command line and one signed by a stranger are refused by the \
         firmware, a root hash that a stranger signed by the kernel"
            .into(),
    ))
}
