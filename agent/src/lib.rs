//! The agent: containers on the housekeeping cores, the isolated partition, status for people. Planners
//! are pure; containerd, cgroups and sockets are thin rims. Nothing here can build an order.
#![forbid(unsafe_code)]

/// The agent over the network.
pub mod api;
/// Configuration of the API.
pub mod api_config;
/// Copies of the engine's journal.
pub mod archive;
/// Who changed what.
pub mod audit;
/// Packets of an interface.
pub mod capture;
/// The compose file: what is accepted, and what is refused where.
pub mod compose;
/// The rim to containerd.
pub mod containerd;
/// What a group of hosts is to run, signed.
pub mod desired;
/// Files between the agent and who follows a desired state.
pub mod desired_exchange;
/// Digests.
pub mod digest;
/// The engine's pages, of one or of several shards.
pub mod engines;
/// What happened.
pub mod events;
/// Files that are whole after a power cut.
pub mod files;
/// A disk image onto a disk.
pub mod flash;
/// The journal to Loki and Elasticsearch.
pub mod forward;
/// Whether containers are well.
pub mod health;
/// A host's configuration, put where it is read.
pub mod hostconfig;
/// The isolated cpuset partition on the hot cores.
pub mod hotpartition;
/// Images from registries and from media.
pub mod images;
/// The first program of containers.
pub mod init;
/// Services in their slots.
pub mod instance;
/// What a core was interrupted by.
pub mod interference;
/// journalctl for containers.
pub mod journalctl;
/// Values as lines of JSON in bounded files.
pub mod jsonlines;
/// Every limit with its reason.
pub mod limits;
/// OCI images as archives.
pub mod ociarchive;
/// Containers' output to the journal.
pub mod output;
/// The client of the packet capture unit.
pub mod pcap_client;
/// What is to be done so that what runs is what is declared.
pub mod plan;
/// What the agent is asked, and what it answers.
pub mod protocol;
/// The command line of operators.
pub mod qctl;
/// Volumes of other hosts.
pub mod remote;
/// Name servers, from DHCP to `/etc/resolv.conf`.
pub mod resolver;
/// The engine's risk limits.
pub mod risklimits;
/// Versions of services.
pub mod rollout;
/// The agent's main loop.
pub mod run;
/// A service as an OCI runtime specification.
pub mod runtimespec;
/// Encryption of the data partition.
pub mod sealed;
/// Secrets, sealed on disk and opened in memory.
pub mod secrets;
/// The local socket.
pub mod server;
/// What the agent knows, for people and programs.
pub mod status;
/// What is left of containers.
pub mod strays;
/// Images for what is declared.
pub mod supply;
/// What is asked of systemd.
mod systemd;
/// Terminals of containers that are thrown away.
pub mod terminal;
/// Whether the host is tuned as it is to be.
pub mod tune;
/// Updates of the operating system.
pub mod update;
/// Progress of an update.
pub mod update_progress;
/// Secrets from HashiCorp Vault.
pub mod vault;
/// Files between the agent and the Vault worker.
pub mod vault_exchange;
/// Status as a page for a terminal.
pub mod view;
/// Mounts of remote volumes.
pub mod volume_mounts;
/// Directories that containers keep what is theirs in.
pub mod volumes;
/// Web servers that this host asks.
pub mod web;
/// Checks of URLs.
pub mod web_url;
