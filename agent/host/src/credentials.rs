//! Credentials that systemd passes to this process, and the early step that puts a host's
//! configuration (`quietcore.host`) where daemons read it: for systemd's below `/run/systemd`, for
//! the agent below `/run/quietcore/host`. What can't be used is refused whole, and the host asks
//! DHCP.

use crate::files::read_up_to;
use abi::hostconfig::{HOST_CONFIG_LEN_MAX, HostConfig};
use anyhow::{Context, Result, ensure};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of the credential with the host configuration.
pub const CREDENTIAL: &str = "quietcore.host";

/// A credential of this process, if it was given one.
pub fn credential(directory: &Path, name: &str) -> Option<PathBuf> {
    Some(directory.join(name)).filter(|path| path.exists())
}

/// Reads and parses a credential of this process; `None` if there is none.
///
/// # Errors
/// The file, and what is wrong with it.
pub fn read_credential<T>(
    directory: Option<&Path>,
    name: &str,
    len_max: u64,
    parse: impl Fn(&str) -> Result<T>,
) -> Result<Option<T>> {
    let Some(path) = directory.and_then(|own| credential(own, name)) else { return Ok(None) };
    read_file(&path, len_max, parse).map(Some)
}

/// Reads and parses a configuration file of at most `len_max` bytes of UTF-8.
///
/// # Errors
/// The file, and what is wrong with it.
pub fn read_file<T>(path: &Path, len_max: u64, parse: impl Fn(&str) -> Result<T>) -> Result<T> {
    let named = || path.display().to_string();
    let bytes = read_up_to(path, len_max)?;
    let text = String::from_utf8(bytes).context("no UTF-8 text").with_context(named)?;
    parse(&text).with_context(named)
}

/// Where things are put.
#[derive(Debug, Clone)]
pub struct HostPaths {
    /// Credentials that our init found on the ESP, encrypted.
    pub encrypted: PathBuf,
    /// The same, decrypted: where systemd looks for what a unit imports by name, after SMBIOS and
    /// fw_cfg. Root's own.
    pub decrypted: PathBuf,
    /// For systemd's daemons.
    pub systemd: PathBuf,
    /// For the agent and the update's units.
    pub host: PathBuf,
}

impl Default for HostPaths {
    fn default() -> Self {
        Self {
            encrypted: "/run/quietcore/esp".into(),
            decrypted: "/run/credstore".into(),
            systemd: "/run/systemd".into(),
            host: "/run/quietcore/host".into(),
        }
    }
}

impl HostPaths {
    /// The cores that the host is to have.
    pub fn plan(&self) -> PathBuf {
        self.host.join("host-plan.toml")
    }

    /// Returns the path of the public key that verifies releases for this host.
    pub fn release_key(&self) -> PathBuf {
        self.host.join("release.pub")
    }

    /// Words that the kernel must have been booted with.
    pub fn kernel_words(&self) -> PathBuf {
        self.host.join("kernel-words")
    }

    /// Where the installer installs.
    pub fn install(&self) -> PathBuf {
        self.host.join("install.toml")
    }

    /// Returns the path of the CA certificates for HTTPS servers.
    pub fn authorities(&self) -> PathBuf {
        self.host.join("authorities.pem")
    }
}

/// Reads and checks a file.
///
/// # Errors
/// One line: the file, what is wrong, the remedy.
pub fn read(path: &Path) -> Result<HostConfig> {
    let named = || path.display().to_string();
    let len = path.metadata().with_context(named)?.len();
    ensure!(len <= HOST_CONFIG_LEN_MAX as u64, "{}: {len} bytes, at most 65536", named());
    let text = std::fs::read_to_string(path).with_context(named)?;
    HostConfig::parse(&text).with_context(named)
}

/// Decrypts and authenticates what came from the ESP, for units to load. What can't be is named and
/// left.
///
/// # Errors
/// The directory for them can't be made.
pub fn take_from_esp(paths: &HostPaths) -> Result<Vec<String>> {
    let target = &paths.decrypted;
    std::fs::create_dir_all(target).with_context(|| format!("make {}", target.display()))?;
    std::fs::set_permissions(target, Permissions::from_mode(0o700))?;
    let entries = std::fs::read_dir(&paths.encrypted).into_iter().flatten().flatten();
    let mut refused = Vec::new();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let output = Command::new("systemd-creds")
            .args(["decrypt", &format!("--name={name}")])
            .arg(entry.path())
            .arg(target.join(&name))
            .output()
            .context("start systemd-creds")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let why =
                said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
            refused.push(format!("{name} from the ESP is not taken: {}", why.trim()));
        }
    }
    Ok(refused)
}

/// Applies the credential of this unit, if it was given one. Says what it did.
///
/// # Errors
/// The credential is no host configuration, or a file can't be written. Nothing is changed then.
pub fn apply(credentials: Option<&Path>, paths: &HostPaths) -> Result<String> {
    let own = credentials.and_then(|directory| credential(directory, CREDENTIAL));
    let path = own.or_else(|| credential(&paths.decrypted, CREDENTIAL));
    let Some(path) = path else { return Ok("no host configuration, network by DHCP".into()) };
    let config = read(&path)?;
    for (name, text) in config.files() {
        write(&paths.systemd.join(name), &text)?;
    }
    let trust = config.trust();
    for (path, text) in [
        (paths.plan(), config.plan_text()),
        (paths.release_key(), trust.release_key.clone()),
        (paths.authorities(), trust.authorities.clone()),
        (paths.kernel_words(), Some(config.kernel_words().join("\n"))),
        (paths.install(), config.install().map(toml::to_string).transpose()?),
    ] {
        if let Some(text) = text {
            write(&path, &text)?;
        }
    }
    if let Some(name) = config.hostname() {
        nix::unistd::sethostname(name).context("set the host's name")?;
    }
    Ok(config.summary())
}

/// Below `/run`, which no power cut outlives. Everybody may read it: nothing in it is secret.
fn write(path: &Path, text: &str) -> Result<()> {
    let named = || format!("write {}", path.display());
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(named)?;
    }
    std::fs::write(path, text).with_context(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_applied_whole_or_not_at_all() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("it");
        let (systemd, host) = (directory.join("systemd"), directory.join("host"));
        let (encrypted, decrypted) = (directory.join("encrypted"), directory.join("decrypted"));
        let paths = HostPaths { encrypted, decrypted, systemd, host };
        std::fs::create_dir_all(&directory).unwrap();
        let credential = directory.join(CREDENTIAL);
        let said = apply(Some(&directory), &paths).unwrap();
        assert_eq!(said, "no host configuration, network by DHCP");
        let text = "version = 1\n[cores]\nhot = \"2-N\"\n[[network]]\ninterface = \"eth0\"\n";
        std::fs::write(&credential, text).unwrap();
        let error = format!("{:#}", apply(Some(&directory), &paths).unwrap_err());
        assert!(error.contains("quietcore.host: network") && error.contains("dhcp"), "{error}");
        assert!(!paths.plan().exists() && !paths.systemd.exists());
        std::fs::write(&credential, format!("{text}dhcp = true\n")).unwrap();
        assert_eq!(
            apply(Some(&directory), &paths).unwrap(),
            "host without a name, 1 interfaces, hot cores 2-N"
        );
        assert!(paths.plan().exists() && !paths.release_key().exists());
        let network = paths.systemd.join("network/10-quietcore-00.network");
        assert!(std::fs::read_to_string(network).unwrap().contains("Name=eth0"));
    }
}
