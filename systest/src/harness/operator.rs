//! An operator's desk: an authority with the certificates that it gave, and the guest as a host
//! that qctl knows by them.

use crate::harness::checkout::program;
use crate::harness::guest_clock::Deadline;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The file with the guest's certificate, in the machine's directory.
pub const API_FILE: &str = "api.toml";

/// The credential that it is.
pub const API: &str = "quietcore.api";

/// The directory of the desk's first authority.
pub const AUTHORITY: &str = "ca";

/// The desk. Dropping it removes its files.
pub struct Workstation {
    /// Directory of the workstation's files.
    pub directory: PathBuf,
    /// The port of this machine's loopback behind which the guest listens.
    pub port: u16,
}

impl Workstation {
    /// Makes an authority and the certificate of the guest whose API is behind this port.
    ///
    /// # Errors
    /// qctl refuses.
    pub fn new(directory: &Path, port: u16) -> Result<Self> {
        let desk = Self { directory: directory.to_owned(), port };
        std::fs::create_dir_all(directory)
            .with_context(|| format!("make {}", directory.display()))?;
        desk.must(&["ca", "new", AUTHORITY])?;
        desk.certify(AUTHORITY, "vm")?;
        Ok(desk)
    }

    /// A certificate for a host.
    ///
    /// # Errors
    /// qctl refuses.
    pub fn certify(&self, ca: &str, name: &str) -> Result<String> {
        self.must(&["ca", "host", ca, name, "--address", "127.0.0.1"])
    }

    /// A certificate for somebody, by whose name qctl then knows the guest.
    ///
    /// # Errors
    /// qctl refuses.
    pub fn add(&self, ca: &str, name: &str, role: &str) -> Result<()> {
        self.must(&["ca", "client", ca, name, "--role", role])?;
        let (url, identity) =
            (format!("https://127.0.0.1:{}", self.port), format!("{ca}/{name}.pem"));
        let authority = format!("{ca}/ca.pem");
        self.must(&["hosts", "add", name, &url, "--authority", &authority, "--identity", &identity])
            .map(drop)
    }

    /// Returns the credential [`API`] for the guest.
    ///
    /// # Errors
    /// It is not there.
    pub fn credential(&self) -> Result<String> {
        let path = self.file(AUTHORITY).join("vm.api");
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// A file of the desk.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The hosts that qctl knows here.
    pub fn hosts(&self) -> PathBuf {
        self.file("hosts.toml")
    }

    /// qctl with these arguments, which knows the hosts.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut qctl = Command::new(program("qctl"));
        qctl.args(arguments).current_dir(&self.directory);
        qctl.env("QCTL_HOSTS", self.hosts());
        qctl
    }

    /// Whether qctl succeeded, and everything that it said.
    ///
    /// # Errors
    /// It can't be started.
    pub fn qctl(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let output = self.command(arguments).output().context("start qctl")?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// Runs qctl, which must succeed, and returns its output, both streams.
    ///
    /// # Errors
    /// It fails.
    pub fn must(&self, arguments: &[&str]) -> Result<String> {
        let (done, said) = self.qctl(arguments)?;
        ensure!(done, "qctl {}: {said}", arguments.join(" "));
        Ok(said)
    }
}

impl Workstation {
    /// Repeats qctl with these arguments until it succeeds.
    ///
    /// # Errors
    /// It does not before the deadline.
    pub fn wait(&self, arguments: &[&str], deadline: &Deadline) -> Result<()> {
        while let (false, said) = self.qctl(arguments)? {
            ensure!(!deadline.is_over(), "qctl {}: {said}", arguments.join(" "));
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }
}

impl Drop for Workstation {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
