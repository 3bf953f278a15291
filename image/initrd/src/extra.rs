//! Files that systemd-stub leaves in `/.extra`, kept for systemd, which never sees the initrd
//! (systemd-stub(7)).

use super::{Failure, failed};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Where quietcore-host.service finds them, decrypts and authenticates them. systemd itself is not
/// told of them: it would then ask neither SMBIOS nor fw_cfg (`import_credentials` in its
/// src/core/import-creds.c), and it hides its own directory of encrypted ones from every unit.
const CREDENTIALS: &str = "/run/quietcore/esp";

/// Those of this UKI, and those of all; the first one of a name counts.
const CREDENTIALS_FROM: [&str; 2] = ["/.extra/credentials", "/.extra/global_credentials"];

/// The signature over the state of the TPM that opens a sealed data partition, out of the UKI.
const SIGNATURE: &str = "tpm2-pcr-signature.json";

pub fn keep() -> Result<(), Failure> {
    keep_credentials()?;
    let (from, to) = (Path::new("/.extra").join(SIGNATURE), Path::new("/run/systemd"));
    if from.exists() {
        fs::create_dir_all(to).map_err(failed(format!("make {}", to.display())))?;
        fs::copy(&from, to.join(SIGNATURE)).map_err(failed(format!("copy {}", from.display())))?;
    }
    Ok(())
}

/// The parts of the disk image that a netboot UKI carries besides its root, for the installer.
pub fn keep_medium() -> Result<(), Failure> {
    let Ok(entries) = fs::read_dir("/medium") else { return Ok(()) };
    let target = Path::new("/run/quietcore/medium");
    fs::create_dir_all(target).map_err(failed(format!("make {}", target.display())))?;
    for entry in entries.filter_map(Result::ok) {
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        fs::copy(&from, &to).map_err(failed(format!("copy {}", from.display())))?;
        // Both would not fit twice into a small host's memory.
        let _ = fs::remove_file(from);
    }
    Ok(())
}

/// Whoever can write to the ESP could have put others there, for systemd's own units
/// (`tmpfiles.extra` and the like).
fn is_ours(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"quietcore.")
}

fn keep_credentials() -> Result<(), Failure> {
    let target = Path::new(CREDENTIALS);
    for directory in CREDENTIALS_FROM {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            let is_one = path.extension() == Some("cred".as_ref());
            let Some(name) = path.file_stem().filter(|name| is_one && is_ours(name)) else {
                continue;
            };
            fs::create_dir_all(target).map_err(failed(CREDENTIALS))?;
            if !target.join(name).exists() {
                fs::copy(&path, target.join(name)).map_err(failed(path.display()))?;
            }
        }
    }
    if target.exists() {
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(target, private).map_err(failed(CREDENTIALS))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_what_configures_a_host_is_kept() {
        let kept = |name: &str| super::is_ours(name.as_ref());
        assert!(kept("quietcore.host"));
        assert!(!kept("tmpfiles.extra") && !kept("sysctl.extra") && !kept("xquietcore.host"));
    }
}
