//! A machine as it is described: devices, files, credentials, and QEMU's arguments for them.

use crate::harness::lan;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Configuration of a virtual machine: CPUs, memory, devices, files.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Number of virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// A UKI to boot instead of what the disk's ESP has.
    pub kernel: Option<PathBuf>,
    /// A recording for the demonstration exchange.
    pub capture: Option<PathBuf>,
    /// Change one byte of the disk at this offset.
    pub flip: Option<u64>,
    /// Firmware with Secure Boot on, and our keys enrolled.
    pub secure_boot: bool,
    /// No disk at all.
    pub diskless: bool,
    /// The disk is an empty one.
    pub empty_disk: bool,
    /// The disk is in a USB port.
    pub usb: bool,
    /// A stick in a USB port, which the firmware tries first.
    pub stick: Option<PathBuf>,
    /// A TPM 2.0 (swtpm), whose state stays in the machine's directory.
    pub tpm: bool,
    /// A network card, behind a router of QEMU's: the host's loopback is at 10.0.2.2.
    pub network: bool,
    /// A port of this machine's loopback behind which is the guest's API, at 9443. With `network`.
    pub api: Option<u16>,
    /// The namespace of a [`crate::harness::lan::Lan`], instead: the card is on it, and firmware
    /// boots from it after the disk.
    pub lan: Option<String>,
    /// A restart of the guest is one, instead of the machine's end.
    pub reboots: bool,
    /// Files in the machine's directory: name and content.
    pub files: Vec<(&'static str, String)>,
    /// Credentials for systemd by QEMU's fw_cfg: name, and the file in the machine's directory.
    pub fw_cfg: Vec<(&'static str, &'static str)>,
    /// Files that are credentials for systemd by their names, by fw_cfg too.
    pub credentials: Vec<PathBuf>,
    /// Credentials for systemd by SMBIOS, table 11: `NAME=BASE64`.
    pub smbios: Vec<String>,
    /// Commands that change the disk first: `$esp` is its ESP, for mtools; `/image`, `/keys` and,
    /// with systemd-repart's definitions, `/slots` are there.
    pub esp: Option<String>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            cpus: 4,
            memory_mib: 2048,
            kernel: None,
            capture: None,
            flip: None,
            secure_boot: false,
            diskless: false,
            empty_disk: false,
            usb: false,
            stick: None,
            tpm: false,
            network: false,
            api: None,
            lan: None,
            reboots: false,
            files: Vec::new(),
            fw_cfg: Vec::new(),
            credentials: Vec::new(),
            smbios: Vec::new(),
            esp: None,
        }
    }
}

/// Where systemd looks for credentials among fw_cfg's files.
const FW_CFG: &str = "opt/io.systemd.credentials/";
/// Longest name of such a file: QEMU's limit (docs/specs/fw_cfg.rst: 56 bytes with the NUL at its
/// end).
const FW_CFG_NAME_MAX: usize = 55;

/// The files in a directory, each a credential of its name.
///
/// # Errors
/// It can't be read, has none, or one with a name that no host heeds.
fn credentials(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = name_of(&path);
        let known = name.strip_prefix("quietcore.").is_some_and(|rest| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !rest.is_empty() && rest.bytes().all(fits)
        });
        let longest = FW_CFG_NAME_MAX - FW_CFG.len();
        ensure!(
            known && name.len() <= longest && path.is_file(),
            "{name:?} is no credential; files are named as in docs/operating.md, quietcore.NAME, with at most {longest} bytes"
        );
        files.push(path);
    }
    ensure!(!files.is_empty(), "there is no file in it");
    files.sort();
    Ok(files)
}

/// The last part of a path.
pub fn name_of(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

impl Machine {
    /// With `CPUS=`, `MEM=` and `CREDENTIALS=` of the environment.
    ///
    /// # Errors
    /// A value that is no number or too small for the image, a file that is no credential.
    pub fn from_environment() -> Result<Self> {
        let number = |name: &str, default: u32, min: u32| match std::env::var(name) {
            Ok(text) if !text.is_empty() => match text.parse() {
                Ok(number) if number >= min => Ok(number),
                _ => bail!("{name}={text}: write a number from {min} on"),
            },
            _ => Ok(default),
        };
        let given = std::env::var_os("CREDENTIALS").filter(|path| !path.is_empty());
        let given = given.map(PathBuf::from).map(|directory| {
            credentials(&directory).with_context(|| format!("CREDENTIALS={}", directory.display()))
        });
        Ok(Self {
            cpus: number("CPUS", 4, 3)?,
            memory_mib: number("MEM", 2048, 1024)?,
            credentials: given.transpose()?.unwrap_or_default(),
            ..Self::default()
        })
    }
}

/// QEMU's arguments for a machine; its files are in `/vm`.
pub fn arguments(machine: &Machine) -> Vec<String> {
    let (cpus, memory) = (machine.cpus, machine.memory_mib);
    let (machine_type, code) = if machine.secure_boot {
        // Only code in system-management mode may write the firmware's variables.
        let protected = "q35,smm=on -global driver=cfi.pflash01,property=secure,value=on";
        (protected, "OVMF_CODE_4M.secboot.fd")
    } else {
        ("q35", "OVMF_CODE_4M.fd")
    };
    let mut text = format!(
        "-machine {machine_type} -smp {cpus} -m {memory} -display none -monitor none \
         -uuid 6f1e7a52-0f5c-4c62-9d5b-0b7e2f6f2a11 -qmp unix:/vm/qmp.sock,server=on,wait=off \
         -drive if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/{code} \
         -drive if=pflash,format=raw,unit=1,file=/vm/vars.fd \
         -device virtio-rng-pci -chardev socket,id=serial,path=/vm/serial.sock,server=on,wait=off,logfile=/vm/serial.log,logappend=on -serial chardev:serial -device virtio-serial-pci \
         -chardev socket,id=shell,path=/vm/shell.sock,server=on,wait=off -device virtconsole,chardev=shell \
         -chardev socket,id=view,path=/vm/view.sock,server=on,wait=off \
         -device virtserialport,chardev=view,name=quietcore.view"
    );
    if !machine.diskless {
        let device = if machine.usb { "qemu-xhci -device usb-storage" } else { "virtio-blk-pci" };
        text += &format!(
            " -drive if=none,id=disk,file=/vm/disk.qcow2,cache=unsafe -device {device},drive=disk,bootindex=1"
        );
    }
    if machine.stick.is_some() {
        text += " -drive if=none,id=stick,file=/vm/stick.raw,format=raw,readonly=on -device qemu-xhci -device usb-storage,drive=stick,bootindex=0";
    }
    if machine.capture.is_some() {
        text += " -drive if=none,id=capture,file=/vm/capture.img,format=raw,readonly=on -device virtio-blk-pci,drive=capture,serial=qc-capture";
    }
    text += &match (machine.network, &machine.lan) {
        (_, Some(_)) => format!(
            " -netdev tap,id=lan,ifname={},script=no,downscript=no -device virtio-net-pci,netdev=lan,bootindex=2",
            lan::TAP
        ),
        (true, None) => {
            let api = machine.api.map(|port| format!(",hostfwd=tcp:127.0.0.1:{port}-:9443"));
            format!(" -nic user,model=virtio-net-pci{}", api.unwrap_or_default())
        }
        (false, None) => " -nic none".into(),
    };
    if !machine.reboots {
        text += " -no-reboot";
    }
    if machine.kernel.is_some() {
        text += " -kernel /vm/kernel.efi";
    }
    let given = machine.credentials.iter().map(|file| (name_of(file), name_of(file)));
    for (name, file) in machine.fw_cfg.iter().copied().chain(given) {
        text += &format!(" -fw_cfg name={FW_CFG}{name},file=/vm/{file}");
    }
    for value in &machine.smbios {
        text += &format!(" -smbios type=11,value=io.systemd.credential.binary:{value}");
    }
    text.split_whitespace().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::credentials;

    #[test]
    fn files_that_no_host_heeds_are_refused() {
        let directory = std::env::temp_dir().join(format!("credentials-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        assert!(credentials(&directory).is_err(), "an empty directory");
        let host = directory.join("quietcore.host");
        std::fs::write(&host, "version = 1\n").unwrap();
        assert_eq!(credentials(&directory).unwrap(), [host]);
        for name in ["host.toml", "quietcore.", "quietcore.a,b", "quietcore.with-too-long-a-name"] {
            std::fs::write(directory.join(name), "").unwrap();
            let error = credentials(&directory).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("at most 28 bytes"), "{error}");
            std::fs::remove_file(directory.join(name)).unwrap();
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
}
