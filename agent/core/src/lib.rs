//! Decisions of the agent: what a compose file means, which containers to start, stop and roll
//! back, what a request and the status look like. Pure: bytes, state and a time come in, values go
//! out. No I/O, no clock, no tokio; `cargo test -p systest --test walls` holds it.
#![forbid(unsafe_code)]

/// Routes of the network API: paths and methods to requests and roles.
pub mod api_routes;
/// Compose files: schema, validation and meaning of every accepted key.
pub mod compose;
/// Wanted and observed containers, and what follows from both.
pub mod container_table;
/// Verification of cosign image signatures with known keys.
pub mod cosign;
/// Desired state of a group of hosts in a signed DSSE envelope (GitOps).
pub mod desired;
/// SHA-256 digests in hexadecimal.
pub mod digest;
/// Health of containers: schedule of probes and meaning of their results.
pub mod health;
/// Users of containers, by the files of their images.
pub mod image_user;
/// Instances of services: names, slots (blue/green) and ports.
pub mod instance;
/// Limits of the agent, each with its reason.
pub mod limits;
/// Journal entries and their forms for Loki and Elasticsearch.
pub mod log_entry;
/// Queries for container logs, as a URL query and back.
pub mod log_query;
/// Reconcile plan: actions that bring what runs to what is declared.
pub mod plan;
/// Requests and responses of the agent socket and the network API, with roles.
pub mod protocol;
/// Signatures of requests to the network API (RFC 9421).
pub mod request_signature;
/// Rollouts: generations, canary trials, promotion and rollback of services.
pub mod rollout;
/// OCI runtime specification of a service instance.
pub mod runtime_spec;
/// Status of a host, as JSON.
pub mod status;
/// Progress of an operating-system update.
pub mod update_progress;
/// Versioned TOML configurations.
pub mod versioned;
/// Syntax check of URLs of web servers.
pub mod web_url;
