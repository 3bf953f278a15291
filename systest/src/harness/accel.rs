//! Choice of a QEMU accelerator that works on this machine. `/dev/kvm` may exist and be broken
//! (nested virtualisation: a guest of one boot sector runs, the firmware does not), so the firmware
//! is run under the very options that the image gets, and has to reach its boot manager.

use crate::harness::checkout::ImageFiles;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Accelerator that QEMU runs guests with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// By the CPU.
    Kvm,
    /// By emulation, all virtual CPUs on one thread: with a thread each, a busy machine panics now
    /// and then in early boot. The engine's spin loop pauses, and QEMU gives each pause's turn to
    /// another CPU.
    Tcg,
}

impl Accel {
    /// Returns QEMU's options for this accelerator.
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

/// The firmware needs two seconds under a working KVM.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// Text on the serial line once the firmware has reached its boot manager.
const BOOT_MANAGER: &str = "BdsDxe";

/// Error of QEMU where KVM fails; the guest then hangs, and QEMU does not end.
const GIVEN_UP: &str = "KVM internal error";

/// Accelerator that was chosen, and why: it holds for every machine of this process, and for the
/// stories that it starts.
static CHOSEN: Mutex<Option<(Accel, String)>> = Mutex::new(None);

/// Environment variables with the runner's choice of an accelerator, and its reason.
pub const CHOSEN_BEFORE: [&str; 2] = ["QUIETCORE_ACCEL", "QUIETCORE_ACCEL_WHY"];

/// Takes the accelerator that `ACCEL=` asks for, or the best that works; says which and why.
///
/// # Errors
/// `ACCEL=` names none, or KVM is demanded and does not work.
pub fn choose(image: &ImageFiles) -> Result<(Accel, String)> {
    let mut chosen = CHOSEN.lock().expect("no probe panics");
    if let Some(chosen) = &*chosen {
        return Ok(chosen.clone());
    }
    if let [Ok(name), Ok(why)] = CHOSEN_BEFORE.map(std::env::var)
        && let Some(accel) = [Accel::Kvm, Accel::Tcg].into_iter().find(|it| it.name() == name)
    {
        return Ok(chosen.insert((accel, why)).clone());
    }
    let name = format!("quietcore-probe-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory)?;
    let probed = probe(image, &directory);
    let _ = std::fs::remove_dir_all(&directory);
    Ok(chosen.insert(probed?).clone())
}

fn probe(image: &ImageFiles, directory: &Path) -> Result<(Accel, String)> {
    let works = |accel| runs_a_guest(image, directory, accel);
    match std::env::var("ACCEL").as_deref() {
        Ok("tcg") => Ok((Accel::Tcg, "ACCEL=tcg".into())),
        Ok("kvm") if works(Accel::Kvm)? => Ok((Accel::Kvm, "ACCEL=kvm".into())),
        Ok("kvm") => {
            bail!("ACCEL=kvm: no guest runs under KVM here; leave ACCEL= out for emulation")
        }
        Ok("") | Err(_) => match (Path::new("/dev/kvm").exists(), works(Accel::Kvm)?) {
            (_, true) => Ok((Accel::Kvm, "the firmware runs under it".into())),
            (true, false) => {
                Ok((Accel::Tcg, "/dev/kvm is there, but the firmware does not run under it".into()))
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
    let (log, errors) = (directory.join("probe.log"), directory.join("probe.errors"));
    let read =
        |file| String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned();
    let script = "cp /usr/share/OVMF/OVMF_VARS_4M.fd /tmp/vars.fd; exec qemu-system-x86_64 \"$@\" -machine q35 -smp 4 -m 256 \
        -display none -nodefaults -nic none -no-reboot -serial file:/vm/probe.log \
        -drive if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd \
        -drive if=pflash,format=raw,unit=1,file=/tmp/vars.fd";
    let mut qemu = image
        .in_tools(&[(directory, "/vm")])
        .args(["sh", "-euc", script, "probe"])
        .args(accel.options())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&errors)?)
        .spawn()?;
    let start = Instant::now();
    let mut works = false;
    while !works
        && start.elapsed() < PROBE_LIMIT
        && qemu.try_wait()?.is_none()
        && !read(&errors).contains(GIVEN_UP)
    {
        std::thread::sleep(Duration::from_millis(50));
        works = read(&log).contains(BOOT_MANAGER);
    }
    let _ = qemu.kill();
    qemu.wait()?;
    Ok(works)
}
