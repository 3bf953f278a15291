//! Stories of ways onto a host: installer, network boot, updates.

/// Installation to disk and flashing of sticks.
pub mod installer;
/// Network boot by UEFI HTTP and by iPXE.
pub mod netboot;
/// Operating-system updates and their rollback.
pub mod updates;
