//! Stories of the image: contents, integrity, configuration, encryption.

/// Contents of the image, and a flipped byte in it.
pub mod contents;
/// A damaged data partition.
pub mod damaged_data;
/// Host configuration by credentials.
pub mod host_config;
/// Kernel settings, judged by kernel-hardening-checker.
pub mod kernel_hardening;
/// Our own kernel.
pub mod own_kernel;
/// Data sealed by a TPM.
pub mod sealed;
/// Secure Boot with our own keys.
pub mod secure_boot;
/// Exposure of our units, judged by systemd.
pub mod unit_hardening;
