//! A compose file as it is written: the keys that are supported, and no others. Source: the Compose
//! Specification, "Services top-level elements" and "Compose Deploy Specification".

use crate::compose::scalar::{self, Scalar};
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
    /// Mapping of names to values.
    Map(BTreeMap<String, Option<Scalar>>),
    /// List of `NAME=value` texts.
    List(Vec<String>),
}

/// One number for both limits, or one for each.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub enum Ulimit {
    /// Soft and hard; -1 is no limit.
    Both(#[serde(deserialize_with = "scalar::number")] i64),
    /// Separate soft and hard limits.
    Each {
        /// Soft limit, in force for each process.
        #[serde(deserialize_with = "scalar::number")]
        soft: i64,
        /// Hard limit, up to which a process may raise its soft limit.
        #[serde(deserialize_with = "scalar::number")]
        hard: i64,
    },
}

/// Names, or names with conditions.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum RawDepends {
    /// List of services to start first.
    List(Vec<String>),
    /// Each in its own state first.
    Map(BTreeMap<String, RawDepend>),
}

/// A condition on another service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDepend {
    /// Condition that the other service must meet.
    pub condition: crate::compose::Condition,
}

/// Key `healthcheck` of a service.
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
    #[serde(default, deserialize_with = "scalar::option")]
    pub retries: Option<u32>,
    /// In which failures do not count.
    pub start_period: Option<Scalar>,
    /// Time between two probes until the first that passes.
    pub start_interval: Option<Scalar>,
    /// None at all.
    #[serde(default, deserialize_with = "scalar::boolean")]
    pub disable: bool,
}

/// Key `deploy` of a service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDeploy {
    /// Limits and reservations.
    pub resources: Option<RawResources>,
    /// Update of a running service: order, trial and failure action.
    pub update_config: Option<RawUpdate>,
    /// Rollback settings; only `order` as in `update_config` and `parallelism: 1` are accepted.
    pub rollback_config: Option<RawUpdate>,
    /// Replica count; only 1 is accepted.
    #[serde(default, deserialize_with = "scalar::option")]
    pub replicas: Option<u64>,
}

/// Key `deploy.resources`: limits and reservations.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawResources {
    /// Limits: the most that the service may use.
    pub limits: Option<RawAmount>,
    /// Reservations: the least that the service gets.
    pub reservations: Option<RawAmount>,
}

/// An amount of CPUs, memory and processes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAmount {
    /// CPUs, as in "0.5".
    pub cpus: Option<Scalar>,
    /// Memory in bytes, as in `512m`.
    pub memory: Option<Scalar>,
    /// Processes and threads.
    #[serde(default, deserialize_with = "scalar::option")]
    pub pids: Option<i64>,
}

/// Key `deploy.update_config`, and `deploy.rollback_config`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawUpdate {
    /// Action on a new version that fails its trial.
    pub failure_action: Option<crate::compose::FailureAction>,
    /// Duration of the trial, as in `30s`.
    pub monitor: Option<Scalar>,
    /// `stop-first` or `start-first`.
    pub order: Option<crate::compose::Order>,
    /// One at a time.
    #[serde(default, deserialize_with = "scalar::option")]
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
    /// Healthy means that this file, under the roots of volumes, was written not longer ago than
    /// `max_age`.
    pub file: Option<String>,
    /// Maximum age of `file`, as in `30s`.
    pub max_age: Option<Scalar>,
    /// Ports that the file names, and which a version uses in their place while it runs in the
    /// second slot.
    #[serde(default)]
    pub ports: BTreeMap<u16, u16>,
    /// Canary rules for a version that runs beside the one before.
    pub canary: Option<RawCanary>,
    /// The signal that says that a secret is another one now; without it the container is made
    /// anew.
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

/// Key `blkio_config` of a service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawDisks {
    /// Bytes a second.
    pub device_read_bps: Vec<RawDiskLimit>,
    /// Bytes a second that may be written, by disk.
    pub device_write_bps: Vec<RawDiskLimit>,
    /// Requests a second.
    pub device_read_iops: Vec<RawDiskLimit>,
    /// Write requests a second, by disk.
    pub device_write_iops: Vec<RawDiskLimit>,
}

/// One disk's limit.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDiskLimit {
    pub path: String,
    pub rate: Scalar,
}

/// Key `x-quietcore.canary` of a service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCanary {
    /// Duration of the trial before promotion: 1s to 24h, 60s by default.
    pub bake: Option<Scalar>,
    /// Between two looks.
    pub interval: Option<Scalar>,
    /// `auto` or `manual`.
    pub promote: Option<String>,
    /// URL of its metrics: `http://127.0.0.1:PORT/PATH`.
    pub metrics: Option<String>,
    /// Checks of metrics, as in `NAME{label="value"} <= 5`.
    #[serde(default)]
    pub checks: Vec<String>,
}

/// A secret or a configuration of the file, by its name or with what is special about it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum RawGrant {
    /// By its name.
    Name(String),
    /// Long form: name with target, owner and mode.
    Long(RawGrantLong),
}

/// Long form of a [`RawGrant`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawGrantLong {
    /// Name of the secret or configuration at the file's top level.
    pub source: String,
    /// Where it is in the container.
    pub target: Option<String>,
    /// Whose it is there.
    pub uid: Option<Scalar>,
    /// Group that owns the file in the container.
    pub gid: Option<Scalar>,
    /// Access, in octal digits.
    pub mode: Option<Scalar>,
    /// Content of the configuration from the file's top level, put in by
    /// [`crate::compose::top_level::put_in`].
    pub content: Option<String>,
}

/// A directory of the host: `SOURCE:TARGET[:ro]`, or with names.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum RawVolume {
    /// In one word.
    Short(String),
    /// Long form: a mapping with named keys.
    Long(RawVolumeLong),
}

/// Long form of a [`RawVolume`].
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
    #[serde(default, deserialize_with = "scalar::boolean")]
    pub read_only: bool,
    /// Driver of the volume from the file's top level, put in by
    /// [`crate::compose::top_level::put_in`].
    pub driver: Option<RawDriver>,
}

/// A named volume, at the file's top.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawDriver {
    /// Driver name; only `local` is accepted.
    pub driver: Option<String>,
    /// For one on another host.
    pub driver_opts: BTreeMap<String, String>,
}

/// Service as written in the compose file.
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
    #[serde(default, deserialize_with = "scalar::boolean")]
    pub read_only: bool,
    #[serde(default, deserialize_with = "scalar::boolean")]
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
    #[serde(default, deserialize_with = "scalar::option")]
    pub cpu_shares: Option<u64>,
    pub mem_limit: Option<Scalar>,
    pub mem_reservation: Option<Scalar>,
    pub memswap_limit: Option<Scalar>,
    #[serde(default, deserialize_with = "scalar::option")]
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
