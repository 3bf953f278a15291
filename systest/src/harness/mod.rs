//! QEMU harness: machines, their consoles and networks, and the servers that guests reach. Knows no
//! story.

/// Accelerators of QEMU that really work here.
pub mod accel;
/// Guests with their shells, booted or resumed.
pub mod booted;
/// Paths of a checkout, and builds of its programs and images.
pub mod checkout;
/// Time limits that count only when the guest had a CPU.
pub mod guest_clock;
/// Web server for guests.
pub mod http;
/// Ctrl-C, noticed instead of obeyed.
pub mod interrupt;
/// Isolated network with a DHCP and TFTP server for guests.
pub mod lan;
/// Description of a virtual machine and its QEMU arguments.
pub mod machine;
/// Image archives with very many files.
pub mod many_files;
/// Agent, containerd and journald on this machine, without a guest.
pub mod native_host;
/// Certificates and a qctl that reaches a guest over the network.
pub mod operator;
/// Pseudo-terminals for programs under test.
pub mod pty;
/// QEMU's machine protocol (QMP).
pub mod qmp;
/// Container registry for guests.
pub mod registry;
/// Releases for guests, good and broken ones.
pub mod releases;
/// Shell in a guest, on a virtio console.
pub mod shell;
/// Snapshots of booted machines (mapped-ram migration).
pub mod snapshot;
/// NFS and iSCSI servers for guests.
pub mod storage;
/// Virtual machines: start, resume, power, console.
pub mod vm;
