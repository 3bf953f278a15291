//! Stories of hosts that are operated over the network.

/// The network API, asked from another machine.
pub mod api;
/// Signed desired state, log forwarding, Vault.
pub mod desired_state;
