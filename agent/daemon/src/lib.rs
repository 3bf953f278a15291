//! The agent itself: reconciles containers through containerd, watches the hot cores, keeps secrets
//! and answers on a local socket. Root, and no network: no TLS, HTTP or registry crate is in its
//! dependency tree.
#![forbid(unsafe_code)]

/// Local socket: authenticates by peer credentials and forwards requests to the main loop.
pub mod agent_socket;
/// Hash-chained audit log of state-changing requests.
pub mod audit_log;
/// Sources of binds, proved before a program starts.
pub mod bind_sources;
/// Device numbers of disks and huge-page sizes from sysfs.
pub mod block_devices;
/// Client of the containerd API: containers, tasks, snapshots and events.
pub mod containerd;
/// Connection to containerd, kept up.
pub mod containerd_link;
/// Interrupts and context switches per core, from /proc and debugfs.
pub mod core_interference;
/// Growth of interrupts and context switches per core, for the status.
pub mod core_sampler;
/// ImageManager of images for declared services: shipped archives, store, or wanted of the pull
/// worker.
pub mod image_manager;
/// Copies of the engine's journal files.
pub mod journal_archive;
/// Processes that the kernel killed for want of memory.
pub mod memory_events;
/// Files of a container that say its own name.
pub mod name_files;
/// Kills processes in container cgroups that containerd no longer knows.
pub mod orphan_cgroups;
/// Client of the packet capture unit.
pub mod pcap_client;
/// Problems of the host, in the log and the status.
pub mod problems;
/// Main loop: applies requests, converges containers, reports the status.
pub mod reconcile;
/// Verification of requests that come over the network.
pub mod request_verifier;
/// `/etc/resolv.conf` of containers, from the name servers of networkd.
pub mod resolver;
/// Risk limits of the engine's control page.
pub mod risk_limits;
/// Secrets: sealed on disk by systemd-creds, opened in memory for containers.
pub mod secrets;
/// Requests to the update units, and reboots.
pub mod update_request;
/// Directories of named volumes.
pub mod volumes;
