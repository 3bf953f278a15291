//! The hosts that an operator knows: a file of his own, with where each is, who vouches for it, and
//! who he is there.

use crate::table::Column::Text;
use crate::table::table;
use agent_core::versioned;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Entry of the hosts file: address, certificates and labels of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// URL of the host's API, `https://HOST:PORT`.
    pub url: String,
    /// CA certificate of the host: a PEM file, relative to the hosts file if the path is not
    /// absolute.
    pub authority: PathBuf,
    /// Certificate and key of who asks: a PEM file.
    pub identity: PathBuf,
    /// Labels that `--select` matches, value by name.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hosts {
    version: u32,
    #[serde(default)]
    hosts: BTreeMap<String, Host>,
}

/// Where the file is, unless `QCTL_HOSTS` says another.
fn path() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("QCTL_HOSTS") {
        return Ok(path.into());
    }
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".config"));
    let config = config.or_else(home).context("neither QCTL_HOSTS nor HOME is set")?;
    Ok(config.join("quietcore/hosts.toml"))
}

fn read(path: &Path) -> Result<Hosts> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read {}; qctl hosts add makes it", path.display()))?;
    let mut hosts: Hosts = versioned::parse(&text).with_context(|| path.display().to_string())?;
    let directory = path.parent().unwrap_or(Path::new(""));
    for host in hosts.hosts.values_mut() {
        host.authority = directory.join(&host.authority);
        host.identity = directory.join(&host.identity);
    }
    Ok(hosts)
}

/// The hosts that are asked for: by name, or all that have each of the labels `NAME=VALUE`.
///
/// # Errors
/// The file can't be read, or has none such.
pub fn targets(names: &[String], selectors: &[String]) -> Result<Vec<(String, Target)>> {
    let path = path()?;
    let hosts = read(&path)?.hosts;
    if let Some(name) = names.iter().find(|name| !hosts.contains_key(*name)) {
        let known: Vec<&str> = hosts.keys().map(String::as_str).collect();
        bail!("{}: there is no host {name}; there are {}", path.display(), known.join(", "));
    }
    let labels: Vec<(&str, &str)> = selectors
        .iter()
        .map(|text| text.split_once('=').with_context(|| format!("--select {text}: NAME=VALUE")))
        .collect::<Result<_>>()?;
    let is_selected = |name: &String, host: &Host| {
        let has = |(name, value): &(&str, &str)| {
            host.labels.get(*name).is_some_and(|label| label == value)
        };
        names.contains(name) || !labels.is_empty() && labels.iter().all(has)
    };
    let selected: Vec<(String, Target)> = hosts
        .into_iter()
        .filter(|(name, host)| is_selected(name, host))
        .map(|(name, host)| (name, Target::Host(Box::new(host))))
        .collect();
    ensure!(!selected.is_empty(), "{}: no host has {}", path.display(), selectors.join(" and "));
    Ok(selected)
}

/// Writes a host down, or another one in its place.
///
/// # Errors
/// A file is not there, or the file of hosts can't be written.
pub fn add(name: &str, host: Host) -> Result<()> {
    ensure!(host.url.starts_with("https://"), "{}: https://HOST:PORT is expected", host.url);
    let absolute = |path: &Path| path.canonicalize().with_context(|| path.display().to_string());
    let (authority, identity) = (absolute(&host.authority)?, absolute(&host.identity)?);
    let path = path()?;
    let mut hosts =
        if path.exists() { read(&path)? } else { Hosts { version: 1, ..Hosts::default() } };
    hosts.hosts.insert(name.into(), Host { authority, identity, ..host });
    let directory = path.parent().context("the file is somewhere")?;
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    agent_host::files::write_whole(&path, &toml::to_string_pretty(&hosts)?)?;
    println!("{}: {name} is written down", path.display());
    Ok(())
}

/// Prints name, URL and labels of each host in the hosts file.
///
/// # Errors
/// The file can't be read.
pub fn list() -> Result<()> {
    let rows = read(&path()?)?.hosts.into_iter().map(|(name, host)| {
        let labels: Vec<String> =
            host.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        vec![name, host.url, labels.join(" ")]
    });
    print!("{}", table(&[Text("NAME"), Text("URL"), Text("LABELS")], rows));
    Ok(())
}

/// Where an agent is.
#[derive(Debug, Clone)]
pub enum Target {
    /// On this host.
    Socket(PathBuf),
    /// Another host, reached over HTTPS.
    Host(Box<Host>),
}
