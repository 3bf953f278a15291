//! The auxiliary programs that run in containers, and the images that they are shipped in.
#![forbid(unsafe_code)]

/// A FIX 4.4 drop copy of the engine's orders for the back office.
pub mod dropcopy;
/// The counters page as Prometheus text.
pub mod metrics;
/// A static program as an OCI image: one layer with one file.
pub mod oci;
