//! A compose file as it is written: the keys that are supported, and no others. Source: the Compose Specification,
//! "Services top-level elements" and "Compose Deploy Specification".

use serde::Deserialize;
use std::collections::BTreeMap;

/// Keys of a service that hosts have no use for, and what to do instead.
pub const NEVER: &[(&str, &str)] = &[
    (
        "build",
        "images are built elsewhere; name one of a registry's, or one that qctl image load brought",
    ),
    ("cgroup_parent", HOSTS),
    ("container_name", "a container has its service's name; leave it out"),
    ("devices", HOSTS),
    ("dns", NETWORK),
    ("expose", PORTS),
    ("ipc", HOSTS),
    ("links", NETWORK),
    ("logging", "lines go to the journal, and on to where quietcore.logs says; leave it out"),
    ("networks", NETWORK),
    ("pid", HOSTS),
    ("ports", PORTS),
    ("privileged", HOSTS),
    ("runtime", HOSTS),
    ("scale", "a service is one container of this host; leave it out"),
    ("stdin_open", TERMINAL),
    ("tty", TERMINAL),
    ("userns_mode", HOSTS),
];
const HOSTS: &str = "no container gets the host; cap_add has what can be had";
const NETWORK: &str =
    "a container has the host's network, or none with network_mode: none; leave it out";
const PORTS: &str = "a container listens at the host's own ports; leave it out, or write x-quietcore.ports for two versions at once";
const TERMINAL: &str = "qctl debug -it sits at a container's terminal; leave it out";

/// One word or a list of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Words {
    /// To be split at spaces.
    One(String),
    /// As they are.
    Many(Vec<String>),
}

/// `NAME: value`, or `- NAME=value`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Pairs {
    /// A mapping.
    Map(BTreeMap<String, Option<Scalar>>),
    /// A list.
    List(Vec<String>),
}

/// What YAML reads as a number and people mean as text, and the other way round.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// true, false.
    Bool(bool),
    /// 5.
    Integer(i64),
    /// 0.5.
    Float(f64),
    /// Anything else.
    Text(String),
}

impl Scalar {
    /// As it was written.
    pub fn text(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Text(value) => value.clone(),
        }
    }
}

/// One number for both limits, or one for each.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub enum Ulimit {
    /// Soft and hard.
    Both(u64),
    /// Each.
    Each {
        /// What a process has.
        soft: u64,
        /// What it may raise it to.
        hard: u64,
    },
}

/// Names, or names with conditions.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum RawDepends {
    /// Started first.
    List(Vec<String>),
    /// Each in its own state first.
    Map(BTreeMap<String, RawDepend>),
}

/// A condition on another service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDepend {
    /// Which.
    pub condition: crate::compose::Condition,
}

/// `healthcheck`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawHealth {
    /// `NONE`, or a command of which the meaning is known.
    pub test: Option<Words>,
    /// Between two looks.
    pub interval: Option<Scalar>,
    /// Of one look.
    pub timeout: Option<Scalar>,
    /// Failures in a row that count.
    pub retries: Option<u32>,
    /// In which failures do not count.
    pub start_period: Option<Scalar>,
    /// None at all.
    #[serde(default)]
    pub disable: bool,
}

/// `deploy`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDeploy {
    /// Limits and reservations.
    pub resources: Option<RawResources>,
    /// How a changed service takes the place of what runs.
    pub update_config: Option<RawUpdate>,
    /// How what ran comes back.
    pub rollback_config: Option<RawUpdate>,
    /// One.
    pub replicas: Option<u64>,
}

/// `deploy.resources`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawResources {
    /// At most.
    pub limits: Option<RawAmount>,
    /// At least.
    pub reservations: Option<RawAmount>,
}

/// An amount of CPUs, memory and processes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAmount {
    /// CPUs, as in "0.5".
    pub cpus: Option<Scalar>,
    /// Bytes.
    pub memory: Option<Scalar>,
    /// Processes and threads.
    pub pids: Option<i64>,
}

/// `deploy.update_config`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawUpdate {
    /// What becomes of a version that does not prove itself.
    pub failure_action: Option<crate::compose::FailureAction>,
    /// How long it has for that.
    pub monitor: Option<Scalar>,
    /// `stop-first` or `start-first`.
    pub order: Option<crate::compose::Order>,
    /// One at a time.
    pub parallelism: Option<u64>,
}

/// `x-quietcore` of a service: what compose has no word for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawOwn {
    /// Healthy means that this URL answers 2xx or 3xx: http:// on this host's loopback.
    pub http: Option<String>,
    /// Healthy means that this port of this host's loopback takes a connection.
    pub tcp: Option<u16>,
    /// Healthy means that this file, under the roots of volumes, was written not longer ago than `max_age`.
    pub file: Option<String>,
    /// See `file`.
    pub max_age: Option<Scalar>,
    /// Ports that the file names, and which a version uses in their place while it runs in the second slot.
    #[serde(default)]
    pub ports: BTreeMap<u16, u16>,
    /// How a version that runs beside the one before is judged.
    pub canary: Option<RawCanary>,
    /// The signal that says that a secret is another one now; without it the container is made anew.
    pub secret_signal: Option<String>,
    /// Bytes of huge pages that it may have, by their size: `2MB`, `1GB`.
    #[serde(default)]
    pub hugepages: BTreeMap<String, Scalar>,
    /// Where it sees the engine's counters, to read only.
    pub engine_pages: Option<String>,
    /// Within which time disks are to answer it.
    #[serde(default)]
    pub io_latency: BTreeMap<String, String>,
}

/// `blkio_config`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawDisks {
    /// Bytes a second.
    pub device_read_bps: Vec<RawDiskLimit>,
    /// See `device_read_bps`.
    pub device_write_bps: Vec<RawDiskLimit>,
    /// Requests a second.
    pub device_read_iops: Vec<RawDiskLimit>,
    /// See `device_read_iops`.
    pub device_write_iops: Vec<RawDiskLimit>,
}

/// One disk's limit.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDiskLimit {
    pub path: String,
    pub rate: Scalar,
}

/// `x-quietcore.canary`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCanary {
    /// How long it has to hold.
    pub bake: Option<Scalar>,
    /// Between two looks.
    pub interval: Option<Scalar>,
    /// `auto` or `manual`.
    pub promote: Option<String>,
    /// `http://127.0.0.1:PORT/PATH`.
    pub metrics: Option<String>,
    /// What they must be.
    #[serde(default)]
    pub checks: Vec<String>,
}

/// A secret or a configuration of the file, by its name or with what is special about it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum RawGrant {
    /// By its name.
    Name(String),
    /// With more.
    Long(RawGrantLong),
}

/// See [`RawGrant`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawGrantLong {
    /// Its name.
    pub source: String,
    /// Where it is in the container.
    pub target: Option<String>,
    /// Whose it is there.
    pub uid: Option<Scalar>,
    /// See `uid`.
    pub gid: Option<Scalar>,
    /// Access, in octal digits.
    pub mode: Option<Scalar>,
    /// What the file's top says of it, put in by [`crate::compose::top_level::put_in`].
    pub content: Option<String>,
}

/// A directory of the host: `SOURCE:TARGET[:ro]`, or with names.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum RawVolume {
    /// In one word.
    Short(String),
    /// With more.
    Long(RawVolumeLong),
}

/// See [`RawVolume`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawVolumeLong {
    /// `bind` or `volume`; the source says as much.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Path, or name of a volume.
    pub source: String,
    /// Path in the container.
    pub target: String,
    /// Whether it can't be written to.
    #[serde(default)]
    pub read_only: bool,
    /// What the file's top says of it, put in by [`crate::compose::top_level::put_in`].
    pub driver: Option<RawDriver>,
}

/// A named volume, at the file's top.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawDriver {
    /// `local`.
    pub driver: Option<String>,
    /// For one on another host.
    pub driver_opts: BTreeMap<String, String>,
}

/// A service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawService {
    pub image: String,
    pub command: Option<Words>,
    pub entrypoint: Option<Words>,
    pub environment: Option<Pairs>,
    pub labels: Option<Pairs>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub hostname: Option<String>,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub init: bool,
    #[serde(default)]
    pub cap_drop: Vec<String>,
    #[serde(default)]
    pub cap_add: Vec<String>,
    #[serde(default)]
    pub security_opt: Vec<String>,
    #[serde(default)]
    pub ulimits: BTreeMap<String, Ulimit>,
    pub sysctls: Option<Pairs>,
    #[serde(default)]
    pub volumes: Vec<RawVolume>,
    pub tmpfs: Option<Words>,
    pub shm_size: Option<Scalar>,
    pub network_mode: Option<crate::compose::NetworkMode>,
    pub cpuset: Option<Scalar>,
    pub cpus: Option<Scalar>,
    pub cpu_shares: Option<u64>,
    pub mem_limit: Option<Scalar>,
    pub mem_reservation: Option<Scalar>,
    pub memswap_limit: Option<Scalar>,
    pub pids_limit: Option<i64>,
    pub blkio_config: Option<RawDisks>,
    pub pull_policy: Option<String>,
    pub restart: Option<crate::compose::Restart>,
    pub stop_signal: Option<String>,
    pub stop_grace_period: Option<Scalar>,
    pub depends_on: Option<RawDepends>,
    pub healthcheck: Option<RawHealth>,
    pub deploy: Option<RawDeploy>,
    #[serde(default)]
    pub secrets: Vec<RawGrant>,
    #[serde(default)]
    pub configs: Vec<RawGrant>,
    #[serde(rename = "x-quietcore")]
    pub own: Option<RawOwn>,
}
