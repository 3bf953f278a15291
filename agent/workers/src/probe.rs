//! Probe worker: health probes of ports on the loopback, for an agent that reaches no network.

/// Probes of TCP, HTTP and metrics.
pub mod probes;
/// Unix socket of the worker.
pub mod server;
