//! Stories of containers: what runs, what comes back, what is rolled back.

/// Links that a container puts above another one's volume.
pub mod bind_race;
/// Versions that take over beside the one before, and secret rotation.
pub mod blue_green;
/// An agent that answers while it has much to do.
pub mod busy_agent;
/// Compose files, compared with what Docker Compose says they mean.
pub mod compose;
/// Ephemeral debug containers.
pub mod debug;
/// Workers that somebody took over.
pub mod hostile_worker;
/// Images from registries: signatures, resumed downloads, garbage collection.
pub mod images;
/// Agent, containerd and tailer killed at random moments.
pub mod kill_storm;
/// Power cuts during an apply.
pub mod power_cut;
/// Rollouts that promote or roll back.
pub mod rollout;
/// Containers that are killed, and one that asks for a hot core.
pub mod supervision;
/// Interactive terminals of debug containers.
pub mod terminal;
/// NFS and iSCSI volumes.
pub mod volumes;
