//! What systemd-stub leaves beside us in `/.extra`, kept for systemd, which never sees the initrd (systemd-stub(7)).

use super::{Failure, failed};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Where systemd looks for credentials that it has to decrypt and authenticate before it uses them
/// (systemd.exec(5), `ImportCredential=`).
pub const CREDENTIALS: &str = "/run/credentials/@encrypted";

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

/// Whoever can write to the ESP could have put them there: nothing here believes them.
fn keep_credentials() -> Result<(), Failure> {
    let target = Path::new(CREDENTIALS);
    for directory in CREDENTIALS_FROM {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            let is_one = path.extension() == Some("cred".as_ref());
            let Some(name) = path.file_stem().filter(|_| is_one) else { continue };
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
