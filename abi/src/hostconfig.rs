//! Host configuration: name, networks, cores, clock servers, release key and CA certificates. Comes
//! as the systemd credential `quietcore.host`. Reads no file; takes texts.
//!
//! ```toml
//! version = 1
//! hostname = "ny4-01"
//!
//! [cores]
//! hot = "2-N"                       # what the kernel must have been booted with
//!
//! [[network]]                       # interfaces that are not named here ask DHCP
//! mac = "52:54:00:12:34:56"         # or interface = "eth0"
//! addresses = ["10.0.0.5/24"]       # or dhcp = true
//! gateway = "10.0.0.1"
//! dns = ["10.0.0.53"]
//! mtu = 9000
//!
//! [time]
//! servers = ["10.0.0.1"]
//!
//! [trust]
//! release_key = """-----BEGIN PUBLIC KEY-----
//! ..."""                            # who signs releases for this host, instead of the image's key
//! authorities = """..."""           # PEM: who vouches for HTTPS servers, besides Debian's list
//!
//! [kernel]                          # by an addon that `qctl tune addon` makes of this file
//! words = ["idle=poll"]
//!
//! [install]                         # by a netboot UKI
//! disk = "/dev/disk/by-id/nvme-1"   # or "ask", at the console
//! wipe = false                      # although there are partitions on it, once
//! token = "1"                       # another one is another order, and wipes again
//! ```

#[cfg(test)]
mod tests;

use crate::hostplan::{CorePlan, CpuSet, HostPlan, PlanError};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::net::IpAddr;
use thiserror::Error;

/// Bytes of a configuration: a credential of systemd's has at most 1 MiB, and two certificates fit
/// in this.
pub const HOST_CONFIG_LEN_MAX: usize = 64 << 10;

/// Interfaces that a configuration can name: a trading host has two or three cards.
const NETWORKS_MAX: usize = 32;

/// Why a host configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HostConfigError {
    /// Text that is not TOML of the schema.
    #[error("line {line}: {message}")]
    Schema {
        /// Line of the error, from 1.
        line: usize,
        /// Message of the TOML parser.
        message: String,
    },
    /// Version other than 1.
    #[error("version = {0}: this program reads version 1")]
    Version(u32),
    /// A value that can't be what its key asks for.
    #[error("{key} = {value:?}: {remedy}")]
    Value {
        /// Key with the refused value.
        key: &'static str,
        /// Value that was given.
        value: String,
        /// Value to write instead.
        remedy: &'static str,
    },
    /// The cores' plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    hostname: Option<String>,
    cores: Option<Cores>,
    #[serde(default)]
    network: Vec<Network>,
    #[serde(default)]
    time: Time,
    #[serde(default)]
    trust: Trust,
    #[serde(default)]
    kernel: Kernel,
    install: Option<Install>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cores {
    hot: String,
}

/// Network interface: match, addresses, gateway, DNS servers and MTU.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    interface: Option<String>,
    mac: Option<String>,
    #[serde(default)]
    dhcp: bool,
    #[serde(default)]
    addresses: Vec<String>,
    gateway: Option<IpAddr>,
    #[serde(default)]
    dns: Vec<IpAddr>,
    mtu: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Time {
    #[serde(default)]
    servers: Vec<String>,
}

/// Whom the host trusts, besides what the image says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// The Ed25519 public key of who signs releases, in PEM, instead of the image's.
    pub release_key: Option<String>,
    /// Certificates in PEM of who vouches for HTTPS servers.
    pub authorities: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kernel {
    #[serde(default)]
    words: Vec<String>,
}

/// Words of the kernel's command line that no host has of its own: what verifies the root, what
/// closes the kernel, and what this program writes itself.
const WORDS_REFUSED: [&str; 12] = [
    "nohz_full",
    "rcu_nocbs",
    "irqaffinity",
    "isolcpus",
    "roothash",
    "root",
    "init",
    "rdinit",
    "lockdown",
    "module.sig_enforce",
    "proc_mem.force_override",
    "bdev_allow_write_mounted",
];

impl Kernel {
    fn check(&self) -> Result<(), HostConfigError> {
        for word in &self.words {
            let key = word.split('=').next().unwrap_or_default();
            // An addon's words are UTF-16 for systemd-stub, and split at blanks.
            let is_word = !key.is_empty() && word.len() <= 256;
            if !is_word || !word.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') {
                return value(
                    "kernel.words",
                    word,
                    "words of the command line, one each, 256 bytes",
                );
            }
            if WORDS_REFUSED.contains(&key) || key.starts_with("systemd.") {
                return value("kernel.words", word, "the image's own; hot cores stand in [cores]");
            }
        }
        Ok(())
    }
}

/// Where a netboot UKI installs itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// A device below `/dev`, best by `/dev/disk/by-id`, or `ask`.
    pub disk: String,
    /// Although there are partitions on it: once for each token.
    #[serde(default)]
    pub wipe: bool,
    /// Order that this is: what it has installed, it does not wipe again.
    #[serde(default)]
    pub token: String,
}

impl Install {
    /// # Errors
    /// The disk is none.
    pub fn check(&self) -> Result<(), HostConfigError> {
        let is_device = self.disk.starts_with("/dev/") && !self.disk.contains("..");
        if !is_device && self.disk != "ask" {
            return value("install.disk", &self.disk, "a device below /dev/, or ask");
        }
        // Names that the kernel gives are another disk's at the next boot.
        if self.wipe && is_device && !self.disk.starts_with("/dev/disk/by-id/") {
            return value("install.disk", &self.disk, "with wipe, a name below /dev/disk/by-id/");
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.token.len() > 64 || !self.token.bytes().all(is_plain) {
            return value("install.token", &self.token, "at most 64 letters, digits and -_.");
        }
        Ok(())
    }
}

/// A host's configuration. Holding one proves that every value can be what its key asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig(File);

fn value<T>(key: &'static str, value: &str, remedy: &'static str) -> Result<T, HostConfigError> {
    Err(HostConfigError::Value { key, value: value.into(), remedy })
}

/// A name of hosts and servers: letters, digits, hyphens, and between them points (RFC 1123,
/// section 2.1).
fn is_name(text: &str, max: usize) -> bool {
    let label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        !label.is_empty() && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= max && text.split('.').all(label)
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let hex = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    parts.len() == 6 && parts.iter().all(hex)
}

/// An address with the length of its network's prefix.
fn is_address(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let (Ok(address), Ok(length)) = (address.parse::<IpAddr>(), length.parse::<u8>()) else {
        return false;
    };
    length <= if address.is_ipv4() { 32 } else { 128 }
}

fn is_pem(text: &str, label: &str) -> bool {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    text.contains(&begin) && text.matches(&begin).count() == text.matches(&end).count()
}

impl Network {
    fn check(&self) -> Result<(), HostConfigError> {
        let named = match (&self.interface, &self.mac) {
            (Some(name), None) => name,
            (None, Some(mac)) => mac,
            _ => return value("network", "", "give each one an interface or a mac, not both"),
        };
        let interface = self.interface.as_ref();
        // IFNAMSIZ, less the end.
        let is_interface = |name: &String| name.len() <= 15 && is_name(name, 15);
        if interface.is_some_and(|name| !is_interface(name)) {
            return value("network.interface", named, "1 to 15 letters, digits, points or hyphens");
        }
        if self.mac.as_ref().is_some_and(|mac| !is_mac(mac)) {
            return value("network.mac", named, "six pairs of hexadecimal digits with colons");
        }
        if let Some(bad) = self.addresses.iter().find(|address| !is_address(address)) {
            return value("network.addresses", bad, "write ADDRESS/LENGTH, as 10.0.0.5/24");
        }
        if self.dhcp != self.addresses.is_empty() {
            return value("network", named, "give it addresses or dhcp = true, one of both");
        }
        if self.dhcp && self.gateway.is_some() {
            return value("network.gateway", named, "DHCP says it; leave it out");
        }
        // 68 is IPv4's least (RFC 791), 9216 what switches of trading networks pass.
        if self.mtu.is_some_and(|mtu| !(68..=9_216).contains(&mtu)) {
            let mtu = self.mtu.unwrap_or_default().to_string();
            return value("network.mtu", &mtu, "68 to 9216");
        }
        Ok(())
    }

    /// As systemd.network(5) has it.
    fn to_networkd(&self) -> String {
        let mut text = String::from("[Match]\n");
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "{key}={value}");
        };
        self.interface.iter().for_each(|name| line("Name", name));
        self.mac.iter().for_each(|mac| line("PermanentMACAddress", mac));
        if let Some(mtu) = self.mtu {
            line("\n[Link]\nMTUBytes", &mtu);
        }
        line("\n[Network]\nDHCP", &if self.dhcp { "yes" } else { "no" });
        self.addresses.iter().for_each(|address| line("Address", address));
        self.gateway.iter().for_each(|gateway| line("Gateway", gateway));
        self.dns.iter().for_each(|server| line("DNS", server));
        line("\n[IPv6AcceptRA]\nUseRedirect", &"no");
        text
    }
}

impl HostConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// [`HostConfigError`] names the line or the key, and the remedy.
    pub fn parse(text: &str) -> Result<Self, HostConfigError> {
        if text.len() > HOST_CONFIG_LEN_MAX {
            return value("file", &format!("{} bytes", text.len()), "at most 65536");
        }
        let schema = |error: toml::de::Error| {
            let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
            let message = error.message().replace('\n', " ");
            HostConfigError::Schema { line: before.matches('\n').count() + 1, message }
        };
        let file: File = toml::from_str(text).map_err(schema)?;
        if file.version != 1 {
            return Err(HostConfigError::Version(file.version));
        }
        let config = Self(file);
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), HostConfigError> {
        let file = &self.0;
        // HOST_NAME_MAX of Linux.
        if let Some(bad) = file.hostname.as_ref().filter(|name| !is_name(name, 64)) {
            return value("hostname", bad, "letters, digits, hyphens and points, at most 64");
        }
        if let Some(plan) = self.plan_text() {
            HostPlan::parse(&plan)?;
        }
        if file.network.len() > NETWORKS_MAX {
            return value("network", &file.network.len().to_string(), "at most 32");
        }
        file.network.iter().try_for_each(Network::check)?;
        let is_server = |name: &str| name.parse::<IpAddr>().is_ok() || is_name(name, 253);
        if let Some(bad) = file.time.servers.iter().find(|server| !is_server(server)) {
            return value("time.servers", bad, "addresses or names");
        }
        let short = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        if let Some(bad) = file.trust.release_key.as_ref().filter(|k| !is_pem(k, "PUBLIC KEY")) {
            return value("trust.release_key", &short(bad), "an Ed25519 public key in PEM");
        }
        if let Some(bad) = file.trust.authorities.as_ref().filter(|a| !is_pem(a, "CERTIFICATE")) {
            return value("trust.authorities", &short(bad), "certificates in PEM");
        }
        file.kernel.check()?;
        file.install.iter().try_for_each(Install::check)
    }

    /// The host's name, if it is given one.
    pub fn hostname(&self) -> Option<&str> {
        self.0.hostname.as_deref()
    }

    /// Whom the host trusts.
    pub fn trust(&self) -> &Trust {
        &self.0.trust
    }

    /// The cores' part as a text that [`HostPlan::parse`] reads.
    pub fn plan_text(&self) -> Option<String> {
        let cores = self.0.cores.as_ref()?;
        Some(format!("version = 1\n[cores]\nhot = {:?}\n", cores.hot))
    }

    /// Whether the cores' part suits a host with so many CPUs.
    ///
    /// # Errors
    /// [`PlanError`] says why not.
    pub fn check_cpus(&self, cpus: u32) -> Result<Option<CorePlan>, PlanError> {
        let Some(plan) = self.plan_text() else { return Ok(None) };
        let online: CpuSet = (0..cpus).collect();
        HostPlan::parse(&plan)?.resolve(&online).map(Some)
    }

    /// Words that this host's kernel has besides the image's own.
    pub fn kernel_words(&self) -> &[String] {
        &self.0.kernel.words
    }

    /// Where to install, if the host is told.
    pub fn install(&self) -> Option<&Install> {
        self.0.install.as_ref()
    }

    /// The files that systemd's daemons read, below `/run/systemd`.
    pub fn files(&self) -> Vec<(String, String)> {
        let network = |(number, network): (usize, &Network)| {
            (format!("network/10-quietcore-{number:02}.network"), network.to_networkd())
        };
        let mut files: Vec<_> = self.0.network.iter().enumerate().map(network).collect();
        if !self.0.time.servers.is_empty() {
            let text = format!("[Time]\nNTP={}\n", self.0.time.servers.join(" "));
            files.push(("timesyncd.conf.d/10-quietcore.conf".into(), text));
        }
        files
    }

    /// Returns a summary of the configuration in one line.
    pub fn summary(&self) -> String {
        let file = &self.0;
        let name = file.hostname.as_deref().unwrap_or("without a name");
        let mut parts = vec![format!("host {name}")];
        parts.push(match file.network.len() {
            0 => "network by DHCP".into(),
            count => format!("{count} interfaces"),
        });
        parts.extend(file.cores.iter().map(|cores| format!("hot cores {}", cores.hot)));
        if !file.time.servers.is_empty() {
            parts.push(format!("time from {}", file.time.servers.join(" ")));
        }
        if file.trust.release_key.is_some() {
            parts.push("a release key of its own".into());
        }
        if file.trust.authorities.is_some() {
            parts.push("authorities of its own".into());
        }
        if !file.kernel.words.is_empty() {
            parts.push(format!("kernel words {}", file.kernel.words.join(" ")));
        }
        parts.extend(file.install.iter().map(|install| format!("installed on {}", install.disk)));
        parts.join(", ")
    }
}
