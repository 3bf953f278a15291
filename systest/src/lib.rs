//! The QEMU harness and its stories, and `tidy`: the rules of the tree as tests. No product logic.
#![forbid(unsafe_code)]

/// Which accelerator really works here.
pub mod accel;
/// `make shell`: a terminal at a debug machine.
pub mod attach;
/// Figures: measured, written down, printed beside their bars.
pub mod bench;
/// The agent's figures: kills, lines, what it costs.
mod bench_agent;
/// The engine's figures: instructions, allocations, system calls, times side by side.
mod bench_engine;
/// A host's figures, on our own kernel.
mod bench_host;
/// Progress of a boot, for a person.
mod boot_progress;
/// A guest with its shell.
pub mod booted;
/// What a checkout is made of: paths, the image's parts.
pub mod checkout;
/// `make run`: a trading VM with a live view.
pub mod demo;
/// An operator's desk: certificates, and qctl that asks the guest.
pub mod desk;
/// Limits for guests, in time that their process could run.
pub mod guest_clock;
/// A web server for the guest.
pub mod http;
/// Ctrl-C, noticed instead of obeyed.
pub mod interrupt;
/// A network for guests alone.
pub mod lan;
/// A machine as it is described.
pub mod machine;
/// What is measured.
pub mod measure;
/// A program at a terminal.
pub mod pty;
/// QEMU's machine protocol.
pub mod qmp;
/// A registry of images.
pub mod registry;
/// Releases, good and broken.
pub mod releases;
/// The agent with containerd and journald, without a guest.
pub mod rig;
/// Stories, two at a time, and what they cost.
pub mod runner;
/// A shell in the guest.
pub mod shell;
/// Machines that are booted once, and gone on from.
pub mod snapshot;
/// Storage of others: NFS and iSCSI.
pub mod storage;
/// What is proved in a booted VM.
pub mod stories;
/// A story in a process of its own.
pub mod story_process;
/// A virtual machine.
pub mod vm;
