//! Which accelerator really works here. `/dev/kvm` may exist and be broken (nested virtualisation), so a
//! guest of one sector is run: it writes to QEMU's exit device, and nothing else counts as working.

use crate::checkout::ImageFiles;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Stdio;

/// How guests are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// By the CPU.
    Kvm,
    /// By emulation, all virtual CPUs on one thread: with a thread each, a busy machine panics now and then
    /// in early boot. The engine's spin loop pauses, and QEMU gives each pause's turn to another CPU.
    Tcg,
}

impl Accel {
    /// QEMU's options.
    pub fn options(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host,+invtsc"],
            Self::Tcg => ["-accel", "tcg,thread=single", "-cpu", "max"],
        }
    }

    /// Its name, as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG (emulation)",
        }
    }
}

/// The exit code that the guest's 0x31 makes.
const GUEST_RAN: i32 = 0x31 << 1 | 1;

/// mov dx, 0x501; mov al, 0x31; out dx, al; hlt
const GUEST: [u8; 7] = [0xba, 0x01, 0x05, 0xb0, 0x31, 0xee, 0xf4];

/// Takes the accelerator that `ACCEL=` asks for, or the best that works; says which and why.
///
/// # Errors
/// `ACCEL=` names none, or KVM is demanded and does not work.
pub fn choose(image: &ImageFiles, directory: &Path) -> Result<(Accel, String)> {
    let works = |accel| runs_a_guest(image, directory, accel);
    match std::env::var("ACCEL").as_deref() {
        Ok("tcg") => Ok((Accel::Tcg, "ACCEL=tcg".into())),
        Ok("kvm") if works(Accel::Kvm)? => Ok((Accel::Kvm, "ACCEL=kvm".into())),
        Ok("kvm") => {
            bail!("ACCEL=kvm: no guest runs under KVM here; leave ACCEL= out for emulation")
        }
        Ok("") | Err(_) => match (Path::new("/dev/kvm").exists(), works(Accel::Kvm)?) {
            (_, true) => Ok((Accel::Kvm, "a test guest ran".into())),
            (true, false) => {
                Ok((Accel::Tcg, "/dev/kvm is there, but a test guest did not run".into()))
            }
            (false, false) => Ok((Accel::Tcg, "there is no /dev/kvm".into())),
        },
        Ok(other) => bail!("ACCEL={other}: write kvm or tcg"),
    }
}

fn runs_a_guest(image: &ImageFiles, directory: &Path, accel: Accel) -> Result<bool> {
    if accel == Accel::Kvm && !Path::new("/dev/kvm").exists() {
        return Ok(false);
    }
    let mut sector = [0u8; 512];
    sector[..GUEST.len()].copy_from_slice(&GUEST);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(directory.join("probe.img"), sector)?;
    let status = image
        .in_tools(&[(directory, "/vm")])
        .args(["timeout", "10", "qemu-system-x86_64"])
        .args(&accel.options()[..2])
        .args(["-machine", "pc", "-m", "16", "-display", "none", "-nodefaults", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0x501,iosize=2"])
        .args(["-drive", "file=/vm/probe.img,format=raw,if=ide"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    Ok(status.code() == Some(GUEST_RAN))
}
