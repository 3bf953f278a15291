//! Instruments over several hot threads: a configuration with `[[shard]]` tables stands for one
//! plain configuration a shard. Each runs as a process of its own, with its own ring, sockets,
//! order-entry session, journal and pages: on the path nothing is shared, and a shard that crashes
//! takes no other with it.

use crate::config::ConfigError;
use abi::control::{ControlPage, Orders};
use abi::hostplan::{CorePlan, CpuSet};
use abi::shards::shard_pages;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::path::Path;
use toml::{Table, Value};

/// Shards of one configuration: hot cores of the largest hosts in use.
const SHARDS_MAX: usize = 64;

/// One `[[shard]]` table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// 1 to 16 of a-z, 0-9 and -: names the directories of its journal and pages.
    name: String,
    symbols: Vec<String>,
    username: String,
    password: String,
    /// Its own order-entry port, if it is another than that of `[orders]`.
    server: Option<SocketAddrV4>,
    /// Its hot CPU; left out, one of those that are left.
    cpu: Option<u32>,
    /// The hot CPU of the kernel's thread that makes its system calls, if there is to be one.
    sqpoll_cpu: Option<u32>,
}

/// One shard as a configuration that an engine without shards could run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Name of the shard.
    pub name: String,
    /// The configuration's text.
    pub text: String,
}

/// The shards of a configuration, none if it is a plain one. `cores` decides the CPUs, where the
/// kernel has hot ones.
///
/// # Errors
/// [`ConfigError`] names what does not fit together. The plain configurations are checked by their
/// reader.
pub fn split(text: &str, path: &Path, cores: &CorePlan) -> Result<Vec<Shard>, ConfigError> {
    // What is no TOML at all is told by the reader of plain configurations.
    let Ok(mut table) = text.parse::<Table>() else { return Ok(Vec::new()) };
    let Some(shards) = table.remove("shard") else { return Ok(Vec::new()) };
    let key =
        |key, value: String, remedy| ConfigError::Key { path: path.into(), key, value, remedy };
    let schema = |message: String| ConfigError::Schema { path: path.into(), message };
    let entries: Vec<Entry> = shards
        .try_into()
        .map_err(|error: toml::de::Error| schema(format!("[[shard]]: {}", error.message())))?;
    if !(1..=SHARDS_MAX).contains(&entries.len()) {
        return Err(key("shard", entries.len().to_string(), "give 1 to 64 tables"));
    }
    let has = |table: &Table, path: [&str; 2]| {
        table.get(path[0]).and_then(|inner| inner.get(path[1])).is_some()
    };
    for path in [
        ["book", "symbols"],
        ["orders", "username"],
        ["orders", "password"],
        ["host", "cpu"],
        ["host", "sqpoll_cpu"],
    ] {
        if has(&table, path) {
            let found = path.join(".");
            return Err(key("shard", found, "stands in each [[shard]] instead; remove it here"));
        }
    }
    let (mut names, mut symbols) = (BTreeSet::new(), BTreeSet::new());
    for entry in &entries {
        let letters =
            entry.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !letters || !(1..=16).contains(&entry.name.len()) || !names.insert(entry.name.clone()) {
            let remedy = "1 to 16 of a-z, 0-9 and -, each name once";
            return Err(key("shard.name", entry.name.clone(), remedy));
        }
        if let Some(twice) = entry.symbols.iter().find(|symbol| !symbols.insert((*symbol).clone()))
        {
            return Err(key(
                "shard.symbols",
                twice.clone(),
                "belongs to one shard; remove it once",
            ));
        }
    }
    let restricted = table.get("book").and_then(|book| book.get("restricted"));
    let restricted = restricted.and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(other) =
        restricted.iter().find(|s| !s.as_str().is_some_and(|s| symbols.contains(s)))
    {
        let remedy = "is in no shard; remove it or correct it";
        return Err(key("book.restricted", other.to_string(), remedy));
    }
    let cpus = choose_cpus(&entries, cores.hot());
    let spare: Vec<Value> = cores
        .hot()
        .iter()
        .filter(|cpu| !cpus.contains(&Some(*cpu)))
        .filter(|cpu| !entries.iter().any(|entry| entry.sqpoll_cpu == Some(*cpu)))
        .map(|cpu| Value::Integer(cpu.into()))
        .collect();
    let plain = |(entry, cpu): (&Entry, Option<u32>)| Shard {
        name: entry.name.clone(),
        text: plain_text(table.clone(), entry, cpu, &spare, &restricted),
    };
    Ok(entries.iter().zip(cpus).map(plain).collect())
}

/// The hot CPUs in their order, but for those that a shard asks for itself.
fn choose_cpus(entries: &[Entry], hot: &CpuSet) -> Vec<Option<u32>> {
    let asked: BTreeSet<u32> =
        entries.iter().flat_map(|entry| [entry.cpu, entry.sqpoll_cpu]).flatten().collect();
    let mut left = hot.iter().filter(|cpu| !asked.contains(cpu));
    entries.iter().map(|entry| entry.cpu.or_else(|| left.next())).collect()
}

fn plain_text(
    mut table: Table,
    entry: &Entry,
    cpu: Option<u32>,
    spare: &[Value],
    restricted: &[Value],
) -> String {
    let strings = |texts: &[String]| texts.iter().cloned().map(Value::String).collect();
    let own =
        |value: &&Value| value.as_str().is_some_and(|s| entry.symbols.iter().any(|own| own == s));
    set(&mut table, "book", "symbols", Value::Array(strings(&entry.symbols)));
    let restricted = restricted.iter().filter(own).cloned().collect();
    set(&mut table, "book", "restricted", Value::Array(restricted));
    set(&mut table, "orders", "username", Value::String(entry.username.clone()));
    set(&mut table, "orders", "password", Value::String(entry.password.clone()));
    if let Some(server) = entry.server {
        set(&mut table, "orders", "server", Value::String(server.to_string()));
    }
    if let Some(cpu) = cpu {
        set(&mut table, "host", "cpu", Value::Integer(cpu.into()));
        set(&mut table, "host", "journal_cpus", Value::Array(spare.to_vec()));
    }
    if let Some(cpu) = entry.sqpoll_cpu {
        set(&mut table, "host", "sqpoll_cpu", Value::Integer(cpu.into()));
    }
    for section in ["journal", "pages"] {
        let directory = table.get(section).and_then(|inner| inner.get("directory"));
        if let Some(directory) = directory.and_then(Value::as_str) {
            let own = format!("{directory}/{}", entry.name);
            set(&mut table, section, "directory", Value::String(own));
        }
    }
    toml::to_string(&table).expect("a table that was read can be written")
}

/// Sets a key of a section that is there; a missing one is for the reader to tell.
fn set(table: &mut Table, section: &str, key: &str, value: Value) {
    if let Some(inner) = table.get_mut(section).and_then(Value::as_table_mut) {
        inner.insert(key.into(), value);
    }
}

/// Prepares the pages' directory for these shards, or for none, after a configuration with others:
/// pages that no process will write any more go, but a kill switch that was on stays on.
///
/// # Errors
/// What the file system says.
pub fn prepare_pages(root: &Path, names: &[&str]) -> std::io::Result<()> {
    std::fs::create_dir_all(root)?;
    let killed = |directory: &Path| {
        ControlPage::open_existing(&directory.join("control")).is_ok_and(|page| page.orders().kill)
    };
    let wanted: Vec<_> = match names {
        [] => vec![root.to_path_buf()],
        names => names.iter().map(|name| root.join(name)).collect(),
    };
    let outdated: Vec<_> = shard_pages(root)
        .into_iter()
        .map(|(_, directory)| directory)
        .filter(|directory| !wanted.contains(directory))
        .collect();
    let kill = outdated.iter().any(|directory| killed(directory));
    for directory in &wanted {
        std::fs::create_dir_all(directory)?;
        let page = ControlPage::open(&directory.join("control")).map_err(std::io::Error::other)?;
        if kill {
            page.set(Orders { kill: true, ..page.orders() });
        }
    }
    for directory in outdated {
        for file in ["control", "counters"] {
            match std::fs::remove_file(directory.join(file)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
