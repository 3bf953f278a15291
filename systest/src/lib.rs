//! System tests in QEMU, in layers that import downward only: `harness` ← `measure` ← `stories` and
//! `bench`, then the runner and what people start. No product logic.
#![forbid(unsafe_code)]

/// `make shell`: a terminal in a debug machine.
pub mod attach;
/// Benches: figures measured, written down, printed beside their bars.
pub mod bench;
/// Progress of a boot, for a person.
mod boot_progress;
/// QEMU harness: machines, consoles, networks, and servers for guests.
pub mod harness;
/// Measurements that stories and benches share.
pub mod measure;
/// `make run`: a trading VM with a live view.
pub mod run_demo;
/// Runner of stories, two at a time, with their cost.
pub mod runner;
/// Stories: what is proved in a booted VM.
pub mod stories;
/// One story in a process of its own.
pub mod story_process;
