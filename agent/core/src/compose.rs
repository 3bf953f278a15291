//! The compose file: what is accepted, and what is refused where. Strict: a key that is not
//! supported is an error with its line, never ignored. Source: the Compose Specification.

/// Size check of a YAML text with its aliases expanded.
pub mod alias_expansion;
/// Directories of the host.
pub mod binds;
/// Versions that run beside the one before.
pub mod canary;
/// Disk limits of a service: `blkio_config` and `x-quietcore.io_latency`.
pub mod disks;
/// Where what an error names stands.
pub mod error_lines;
/// Commands of health checks that are probes.
mod health_command;
/// Health checks: probes, intervals and retries.
pub mod healthcheck;
/// URLs of the loopback.
pub mod loopback_url;
/// Checks of metrics.
pub mod metric_check;
/// Plain scalars that readers of YAML differ about.
pub mod plain_scalars;
/// Probes of containers.
pub mod probe;
/// Probes that something else could answer.
mod probe_identity;
/// Volumes on other hosts.
pub mod remote_volumes;
/// Scalars, and numbers and booleans that are written as text.
pub mod scalar;
/// Keys of a compose file as serde types, and those that are refused.
pub mod schema;
#[cfg(test)]
mod tests;
/// Directories in memory.
pub mod tmpfs;
/// Keys beside `services`: volumes, configurations and secrets.
pub mod top_level;
/// Numbers with units.
pub mod units;
/// Values in their ranges.
pub mod validate;
/// Keys of a service below `x-quietcore`.
pub mod x_quietcore;

use crate::compose::canary::Canary;
use crate::compose::disks::DiskLimit;
use crate::compose::healthcheck::Health;
use crate::compose::remote_volumes::Remote;
use crate::compose::tmpfs::Tmpfs;
use crate::compose::top_level::{Config, Secret};
use crate::compose::validate::Checker;
use crate::limits::{COMPOSE_LEN_MAX, COMPOSE_SIZE_MAX, SERVICES_MAX};
use abi::hostplan::CorePlan;
use serde::{Deserialize, Serialize};
use serde_yaml_ng::{Mapping, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use thiserror::Error;

/// Why a compose file is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ComposeError {
    /// YAML that does not parse or does not fit the supported schema; the text has line and column.
    #[error("{0}")]
    Schema(String),
    /// A value that can't be.
    #[error("services.{service}.{key}: {value:?}: {remedy}")]
    Value {
        /// Name of the service.
        service: String,
        /// Key of the service, with dots between levels.
        key: &'static str,
        /// Value as it was given.
        value: String,
        /// Remedy: the form or values that are accepted.
        remedy: String,
    },
    /// Size or count above its limit.
    #[error("{what}: {found}, at most {max}")]
    Limit {
        /// Noun of the limit, as in `services`.
        what: &'static str,
        /// Size or count that was found.
        found: u64,
        /// Maximum that is allowed.
        max: u64,
    },
    /// One of the others, and where.
    #[error("line {line}: {error}")]
    At {
        /// The line of the text that was read, from 1 on.
        line: usize,
        /// Error at that line.
        error: Box<Self>,
    },
}

/// Refused value of a service: key, value, remedy.
type Refused = (&'static str, String, &'static str);

/// Network mode of a container (`network_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// The host's. The default here: a container on a trading host that needs a network needs this
    /// one.
    Host,
    /// None but its own loopback.
    None,
}

/// When a container that ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Restart {
    /// Never (`no`); the default.
    #[default]
    #[serde(rename = "no")]
    No,
    /// Always; `unless-stopped` is read as this.
    #[serde(rename = "always", alias = "unless-stopped")]
    Always,
    /// If it failed.
    #[serde(rename = "on-failure")]
    OnFailure,
}

/// Condition that another service must meet before a dependent one starts (`depends_on`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Container of the service has been started; the default.
    #[default]
    ServiceStarted,
    /// Healthy, by its health check.
    ServiceHealthy,
    /// Ended with 0.
    ServiceCompletedSuccessfully,
}

/// Whether a changed service's old container ends before the new one starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Old container ends before the new one starts; the default.
    #[default]
    StopFirst,
    /// Old container runs until the new one has proved itself.
    StartFirst,
}

/// Action on a new version that fails its trial (`failure_action`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureAction {
    /// The one before comes back. The default here.
    #[default]
    Rollback,
    /// Failed version keeps running.
    Continue,
}

/// A directory of the host inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bind {
    /// On the host.
    pub source: String,
    /// In the container.
    pub target: String,
    /// Whether it can't be written to.
    pub read_only: bool,
    /// Remote file system to mount at `source` first, if the volume is on another host.
    pub remote: Option<Remote>,
}

/// A limit of a process (setrlimit(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and the like.
    pub name: String,
    /// Soft limit, in force for each process.
    pub soft: u64,
    /// Hard limit, up to which a process may raise its soft limit.
    pub hard: u64,
}

/// Runtime policy of a service: restart, stop, health and rollout. A change of it makes no new
/// container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RuntimePolicy {
    /// When it is started again.
    pub restart: Restart,
    /// Signal that asks the container to end (`stop_signal`); without one the image's, else
    /// SIGTERM.
    pub stop_signal: Option<u32>,
    /// Time from the stop signal to the kill.
    pub stop_grace: Duration,
    /// Conditions that other services must meet before this one starts, by name.
    pub depends_on: BTreeMap<String, Condition>,
    /// Health check of the service, if it has one.
    pub health: Option<Health>,
    /// Action on a new version that fails its trial.
    pub failure_action: FailureAction,
    /// Trial time of a new version: to run without a health check, or at the least to become
    /// healthy with one.
    pub monitor: Duration,
    /// Order of a change: old container stopped first, or new one started first.
    pub order: Order,
    /// Canary rules for a new version that runs beside the old one.
    pub canary: Option<Canary>,
    /// The signal that says that a secret is another one now.
    pub secret_signal: Option<u32>,
}

/// A service as declared. Holding one proves that its values are in their ranges and that it asks
/// for housekeeping cores only.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Service {
    /// Its name: letters, digits, `-`, `_`.
    pub name: String,
    /// Image name, as in the compose file.
    pub image: String,
    /// Instead of the image's entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Whether another program comes before it, which takes leave of its children.
    pub init: bool,
    /// Arguments of the program (`command`), in place of the image's; an empty list takes them
    /// away.
    pub command: Option<Vec<String>>,
    /// Environment variables as `NAME=value`.
    pub environment: Vec<String>,
    /// User and, behind a colon, group of its program (`user`); without one the image's.
    pub user: Option<String>,
    /// Working directory (`working_dir`); without one the image's.
    pub working_dir: Option<String>,
    /// Hostname inside the container.
    pub hostname: String,
    /// Whether its root can't be written to.
    pub read_only: bool,
    /// Capabilities of its root.
    pub capabilities: Vec<String>,
    /// Limits of its processes.
    pub rlimits: Vec<Rlimit>,
    /// Settings of its own network.
    pub sysctls: BTreeMap<String, String>,
    /// Directories of the host.
    pub binds: Vec<Bind>,
    /// Directories in memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Bytes of `/dev/shm`.
    pub shm_bytes: u64,
    /// Ports that the file names, and which are used in their place in the second slot.
    pub ports: BTreeMap<u16, u16>,
    /// Secrets, below `/run/secrets`.
    pub secrets: Vec<Secret>,
    /// Texts of the compose file.
    pub configs: Vec<Config>,
    /// Network mode: the host's network or none.
    pub network: NetworkMode,
    /// CPUs it may use.
    pub cpuset: String,
    /// Thousandths of a CPU that it may use in all.
    pub cpu_millis: Option<u64>,
    /// Its share where CPUs are short: 1 to 10000, 100 without it.
    pub cpu_weight: Option<u64>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Bytes that are not taken from it while it uses them.
    pub memory_min_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<i64>,
    /// Disk limits, one for each disk.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskLimit>,
    /// Bytes of huge pages, by their size; none without it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub huge_pages: BTreeMap<String, u64>,
    /// Runtime policy: not part of the fingerprint.
    #[serde(skip)]
    pub policy: RuntimePolicy,
    /// YAML source of the service.
    #[serde(skip)]
    pub source: String,
}

/// Directories of the host that containers may see.
const BIND_ROOTS: [&str; 3] = ["/run/quietcore/", VOLUMES, "/usr/share/quietcore/"];

/// The same, to read only: the engine's journal and the copies of it.
const READ_ROOTS: [&str; 2] = ["/var/lib/quietcore/journal/", "/var/lib/quietcore/agent/journal/"];

/// Names directly below `/run/quietcore` of the host's own programs: sockets, credentials and files
/// that agent and workers exchange. No container gets them, in whatever way; `tidy` compares the
/// list with the units.
pub const OWN: [&str; 16] = [
    "agent",
    "blessed",
    "desired",
    "esp",
    "fetch",
    "host",
    "install",
    "medium",
    "pcap",
    "probe",
    "pull",
    "resolv.conf",
    "terminals",
    "update",
    "vault",
    "volumes",
];

/// Names there that containers may read: the engine's pages, whose control page has the risk limits
/// and the kill switch, the ports of services, the demonstration's recording.
pub const OWN_READABLE: [&str; 3] = ["engine", "ports", "demo"];

/// Widest right that a container may have to a path of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    None,
    Read,
    Write,
}

fn right_to(path: &str) -> Right {
    let under = |roots: &[&str]| roots.iter().any(|root| format!("{path}/").starts_with(root));
    let plain = path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    let own = path.strip_prefix("/run/quietcore").map(|rest| rest.trim_start_matches('/'));
    let own = own.map(|rest| rest.split('/').next().unwrap_or_default());
    match own {
        _ if !plain => Right::None,
        // All of it has the others too.
        Some("") => Right::None,
        Some(first) if OWN.contains(&first) => Right::None,
        Some(first) if OWN_READABLE.contains(&first) => Right::Read,
        _ if under(&BIND_ROOTS) => Right::Write,
        _ if under(&READ_ROOTS) => Right::Read,
        _ => Right::None,
    }
}

/// Returns true if a path of this host may be bound into a container. Asked for the path as it is
/// written, and once more for what it resolves to: links lead away.
pub fn is_bindable(path: &str, read_only: bool) -> bool {
    match right_to(path) {
        Right::Write => true,
        Right::Read => read_only,
        Right::None => false,
    }
}

/// Returns true if a path may be bound if only it is bound read-only.
pub fn is_readable(path: &str) -> bool {
    right_to(path) == Right::Read
}

/// Where containers keep what is theirs.
pub const VOLUMES: &str = "/var/lib/quietcore/volumes/";

/// Reads a compose file for a host with these cores.
///
/// # Errors
/// [`ComposeError`] names line or key, and the remedy.
pub fn parse(text: &str, cores: &CorePlan) -> Result<Vec<Service>, ComposeError> {
    parse_text(text, cores).map_err(|error| match error_lines::line_of(text, &error.to_string()) {
        Some(line) => ComposeError::At { line, error: error.into() },
        None => error,
    })
}

fn parse_text(text: &str, cores: &CorePlan) -> Result<Vec<Service>, ComposeError> {
    let limit = |what, found, max| match found > max {
        true => Err(ComposeError::Limit { what, found, max }),
        false => Ok(()),
    };
    limit("bytes of the file", text.len() as u64, COMPOSE_LEN_MAX)?;
    let schema = |error: serde_yaml_ng::Error| ComposeError::Schema(error.to_string());
    alias_expansion::check(text, COMPOSE_SIZE_MAX).map_err(schema)?;
    let mut file: Value = serde_yaml_ng::from_str(text).map_err(schema)?;
    let merged = file.apply_merge();
    merged.map_err(|error| ComposeError::Schema(format!("<<: {error}")))?;
    plain_scalars::check(text)?;
    let (services, top) = top_level(file)?;
    limit("services", services.len() as u64, SERVICES_MAX as u64)?;
    top_level::check_top(&top)?;
    let (mut read, mut left) = (Vec::new(), COMPOSE_SIZE_MAX);
    for (name, mut value) in services {
        top_level::put_in(&name, &mut value, &top, &mut left)?;
        read.push(parse_value(&name, value, cores)?);
    }
    read.sort_by(|a: &Service, b| a.name.cmp(&b.name));
    check_dependencies(&read)?;
    Ok(read)
}

/// Reads what [`Service::source`] has.
///
/// # Errors
/// [`ComposeError`]: it was accepted by a release that took more.
pub fn parse_one(name: &str, source: &str, cores: &CorePlan) -> Result<Service, ComposeError> {
    let value =
        serde_yaml_ng::from_str(source).map_err(|error| ComposeError::Schema(error.to_string()))?;
    parse_value(name, value, cores)
}

fn parse_value(name: &str, mut value: Value, cores: &CorePlan) -> Result<Service, ComposeError> {
    if let Value::Mapping(keys) = &mut value {
        // Extensions of others; ours is read.
        keys.retain(|key, _| {
            key.as_str().is_none_or(|k| !k.starts_with("x-") || k == "x-quietcore")
        });
    }
    let source = serde_yaml_ng::to_string(&value);
    let source = source.map_err(|error| ComposeError::Schema(error.to_string()))?;
    let raw = serde_yaml_ng::from_value(value).map_err(|error| refused(name, &error))?;
    Checker { name, cores }.check(&raw, source)
}

fn refused(name: &str, error: &serde_yaml_ng::Error) -> ComposeError {
    let said = error.to_string();
    let never =
        schema::NEVER.iter().find(|(key, _)| said.starts_with(&format!("unknown field `{key}`")));
    ComposeError::Schema(match never {
        Some((key, remedy)) => format!("services.{name}.{key}: not supported: {remedy}"),
        None => format!("services.{name}: {said}"),
    })
}

/// The services of a file, and what they use of its top, if the other keys say nothing that is not
/// supported.
fn top_level(file: Value) -> Result<(Vec<(String, Value)>, Mapping), ComposeError> {
    let refuse = |what: String| Err(ComposeError::Schema(what));
    let Value::Mapping(file) = file else { return refuse("a file has the key services".into()) };
    let (mut found, mut top) = (None, Mapping::new());
    for (key, value) in file {
        match key.as_str() {
            Some("services") => found = Some(value),
            Some("volumes" | "configs" | "secrets") => drop(top.insert(key, value)),
            Some("name" | "version") => {}
            Some(key) if key.starts_with("x-") => {}
            other => {
                let key = other.unwrap_or("?");
                let known = "name, services, volumes, configs and secrets";
                return refuse(format!("{key}: unknown key; there are {known}"));
            }
        }
    }
    let Some(Value::Mapping(services)) = found else {
        return refuse("services: a mapping of names to services is expected".into());
    };
    let named = |(key, value): (Value, Value)| Some((key.as_str()?.to_owned(), value));
    Ok((services.into_iter().filter_map(named).collect(), top))
}

/// Every service that another waits for is there, and none waits for itself.
fn check_dependencies(services: &[Service]) -> Result<(), ComposeError> {
    let refuse = |service: &Service, value: &str, remedy: String| ComposeError::Value {
        service: service.name.clone(),
        key: "depends_on",
        value: value.into(),
        remedy,
    };
    let find = |name: &str| services.iter().find(|service| service.name == name);
    for service in services {
        for (name, condition) in &service.policy.depends_on {
            let Some(other) = find(name) else {
                return Err(refuse(service, name, "there is no such service".into()));
            };
            if *condition == Condition::ServiceHealthy && other.policy.health.is_none() {
                return Err(refuse(service, name, format!("{name} has no healthcheck")));
            }
        }
        let (mut seen, mut next) = (BTreeSet::new(), vec![service]);
        while let Some(one) = next.pop() {
            for other in one.policy.depends_on.keys().filter_map(|name| find(name)) {
                if other.name == service.name {
                    return Err(refuse(service, &one.name, "it waits for itself".into()));
                }
                if seen.insert(&other.name) {
                    next.push(other);
                }
            }
        }
    }
    Ok(())
}
