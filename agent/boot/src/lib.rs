//! Programs of a boot or of one act, each started by a unit of its own: install an update, install
//! a disk, mount a volume, be a container's init.
#![forbid(unsafe_code)]

/// Init of containers: starts a program, forwards signals, reaps processes.
pub mod container_init;
/// Installation of a netboot image to a disk.
pub mod install_disk;
/// Installation of a fetched release in the other slot.
pub mod install_update;
/// Mounts and unmounts of remote volumes (NFS, iSCSI).
pub mod mount_volume;
