//! Workers: one module per unit that touches the network or hostile input. None is root but the
//! tailer, which has neither capabilities nor a network, for the files that root owns. Each hands
//! files or answers to the agent, which trusts none of it.
#![forbid(unsafe_code)]

/// Network API: HTTP and JSON behind mutual TLS.
pub mod api;
/// Download of operating-system releases.
pub mod fetch;
/// Download of the desired state from a web server or registry.
pub mod follow;
/// Forwarding of the journal to Loki and Elasticsearch.
pub mod forward;
/// HTTP client with this host's CA certificates.
pub mod http_client;
/// Packet capture with tcpdump.
pub mod pcap;
/// Health probes of ports.
pub mod probe;
/// Download of container images from registries.
pub mod pull;
/// Tailing of container output into the journal.
pub mod tail;
/// Reads secrets from HashiCorp Vault.
pub mod vault;
