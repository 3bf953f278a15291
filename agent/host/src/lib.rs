//! Files and devices of a host that several programs of the agent share: credentials, the image
//! store, journals, update state, units of systemd. No network crate is in its dependency tree.
#![forbid(unsafe_code)]

/// Configuration of the network API (credential `quietcore.api`).
pub mod api_config;
/// Directories of other users, in which root follows no link.
pub mod beneath;
/// Output files of containers and their names.
pub mod container_output;
/// Credentials of systemd, and the host configuration (`quietcore.host`) put where daemons read it.
pub mod credentials;
/// Encryption of the data partition.
pub mod data_partition;
/// Files between the agent and the worker that follows a desired state.
pub mod desired_exchange;
/// The engine's shared-memory pages, of one shard or several.
pub mod engine_pages;
/// Event log of a host, a bounded file of JSON lines.
pub mod events;
/// Atomic, durable writes and bounded reads of files.
pub mod files;
/// Writing of a disk image to a disk, verified and resumable.
pub mod flash;
/// Isolated cpuset partition (cgroup v2) on the hot cores.
pub mod hot_partition;
/// Container images on disk: archives, the OCI store, and which images are wanted.
pub mod images;
/// systemd's journal: native protocol, and the last position of a stream.
pub mod journal;
/// `journalctl` command lines for container logs.
pub mod journalctl;
/// Bounded files of JSON lines.
pub mod jsonlines;
/// Calls of `systemctl`.
pub mod systemd;
/// Named pipes of the terminals of ephemeral debug containers.
pub mod terminal;
/// State of operating-system updates: requests, progress, history and trusted keys.
pub mod update;
/// Files between the agent and the Vault worker.
pub mod vault_exchange;
/// Requests to mount and unmount remote volumes.
pub mod volume_mounts;
/// Values that the agent and its workers hand over in files.
pub mod worker_file;
