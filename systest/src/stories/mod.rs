//! What is proved in a booted VM. Each story says in one line what it proved, or fails. Those that want
//! a host which is ready go on from a snapshot of one, each with a machine of its own.

/// The API, from another machine.
mod api;
/// Versions beside the one before, and secrets.
mod beside;
/// Compose files, here and to Docker.
mod compose;
/// Containers: one that is killed, one that wants a hot core.
mod containers;
/// A damaged data partition.
mod data;
/// Somebody looks for a fault.
mod debug;
/// What a host is to run, signed, and its journal to others.
mod desired;
/// The kernel's settings, judged by a checker.
mod hardening;
/// A host's configuration, by credentials.
mod hostconfig;
/// The image: what is in it, and what happens when a byte of it changes.
mod image;
/// Images from a registry.
mod images;
/// The ways onto a disk.
mod install;
/// Containers and the hot cores.
mod isolation;
/// Agent, containerd and tailer are killed.
mod killed;
/// The hot cores stay quiet while the others work.
pub(crate) mod loaded;
/// The network, and what it boots.
mod netboot;
/// Our own kernel.
pub(crate) mod own;
/// The power goes.
pub(crate) mod powercut;
/// The hot cores are quiet, and without the isolation words they are not.
mod quiet;
/// The README's commands.
mod readme;
/// Versions of services.
mod rollout;
/// Data that a TPM seals.
mod sealed;
/// Secure Boot with our own keys.
mod secureboot;
/// Somebody sits at a container's terminal.
mod terminal;
/// The engine trades: background flow, a real recording, the kill switch.
mod trading;
/// A tuned host, and what makes it another one.
pub(crate) mod tune;
/// Updates of the operating system.
mod updates;
/// Volumes of other hosts.
mod volumes;

use crate::booted::{Booted, Verdict};
use crate::checkout::ImageFiles;

use anyhow::Result;

type OnReady = fn(&mut Booted) -> Result<Verdict>;
type OnOwn = fn(&ImageFiles) -> Result<Verdict>;

/// The machine that a story begins with.
#[derive(Clone, Copy)]
pub enum Start {
    /// One of its own, gone on from the snapshot of a host that is ready.
    Ready(OnReady),
    /// It makes its own machines, or needs none.
    Own(OnOwn),
    /// The same, with nothing else on this machine: times side by side, and an image that is put together anew.
    Alone(OnOwn),
    /// Our own kernel, which takes long to build: told by name, or with `KERNEL=`.
    OwnKernel(OnOwn),
}

/// A story.
pub struct Story {
    /// Its name.
    pub name: &'static str,
    /// CPU seconds that it may take, on a machine that boots in [`crate::runner::READY_CPU_SECONDS`]: twice what it took there
    /// beside another story.
    pub cpu_seconds_max: u32,
    /// How it begins.
    pub start: Start,
}

const fn story(name: &'static str, cpu_seconds_max: u32, start: Start) -> Story {
    Story { name, cpu_seconds_max, start }
}

use Start::{Alone, Own, OwnKernel, Ready};

/// All stories. The longest come first, so that none is left over at the end.
pub const STORIES: &[Story] = &[
    story("updates", 940, Own(updates::updates_prove_themselves_or_fall_back)),
    story("readme", 800, Own(readme::commands_work)),
    story("reproducible", 1800, Own(readme::builds_are_reproducible)),
    story("network-boot", 530, Own(netboot::network_boots)),
    story("installer", 200, Own(install::disk_is_installed)),
    story("secure-boot-sealed", 260, Own(sealed::data_is_sealed)),
    story("secure-boot-strangers", 40, Own(secureboot::unsigned_is_refused)),
    story("host-config", 210, Own(hostconfig::credentials_make_a_host)),
    story("power-cut", 110, Ready(powercut::what_was_applied_outlives_the_power)),
    story("quiet-under-load", 60, Ready(loaded::hot_cores_are_quiet_under_load)),
    story("damaged-data", 170, Own(data::damaged_data_never_hangs_a_host)),
    story("quiet-cores-control", 150, Own(quiet::without_isolation_they_are_not)),
    story("agent-killed", 50, Own(killed::nothing_is_lost_when_everybody_is_killed)),
    story("own-cores", 80, Own(tune::host_has_cores_of_its_own)),
    story("netboot", 90, Own(image::boots_without_a_disk)),
    story("images", 110, Ready(images::images_are_fetched_and_judged)),
    story("desired", 110, Ready(desired::hosts_follow_what_is_signed)),
    story("rollout", 60, Ready(rollout::versions_prove_themselves_or_are_taken_back)),
    story("beside", 80, Ready(beside::versions_take_over_beside_the_one_before)),
    story("volumes", 120, Ready(volumes::others_keep_what_containers_write)),
    story("tuned", 40, Ready(tune::host_is_tuned)),
    story("api", 40, Ready(api::hosts_are_asked_over_the_network)),
    story("recording", 110, Ready(trading::recording_is_traded_state_for_state)),
    story("debug", 60, Ready(debug::somebody_looks_for_a_fault)),
    story("kernel-hardening", 20, Ready(hardening::kernel_is_hardened)),
    story("isolation", 40, Ready(isolation::no_container_reaches_a_hot_core)),
    story("kill-switch", 20, Ready(trading::kill_switch_cancels_everything)),
    story("container-comes-back", 30, Ready(containers::killed_container_comes_back)),
    story("quiet-cores", 20, Ready(quiet::hot_cores_are_quiet)),
    story("vault", 30, Ready(desired::vault_is_asked)),
    story("forwarded", 20, Ready(desired::journal_is_forwarded)),
    story("hot-core-refused", 20, Ready(containers::hot_core_is_refused)),
    story("ready", 20, Ready(image::boots_to_ready)),
    story("production", 20, Own(image::production_has_no_way_in)),
    story("hardening", 20, Own(image::units_are_hardened)),
    story("flipped-byte", 20, Own(image::flipped_byte_is_caught)),
    story("flash", 20, Own(install::flash_writes_and_refuses)),
    story("compose", 20, Own(compose::files_mean_what_docker_says)),
    story("terminal", 20, Own(terminal::somebody_sits_at_a_container)),
    story("own-kernel", 800, OwnKernel(own::own_kernel_boots_from_a_stick)),
    story("readme-figures", 550, Alone(readme::figures_are_measured)),
];
