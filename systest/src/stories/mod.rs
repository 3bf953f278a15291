//! Stories: proofs in a booted VM. Each returns one line on what it proved, or fails. Stories that
//! need a ready host resume a snapshot of one, each with a machine of its own.

/// Stories of containers: what runs, what comes back, what is rolled back.
mod containers;
/// Stories of hosts that are operated over the network.
mod fleet;
/// Stories of the image: contents, integrity, configuration, encryption.
mod image;
/// Stories of ways onto a host: installer, network boot, updates.
mod install;
/// Stories of the hot cores: isolation, noise, tuning.
mod quiet;
/// Stories of this repository: commands of the README, reproducible builds.
mod repo;
/// Stories of a trading session.
mod trading;

use crate::harness::booted::{Booted, Verdict};
use crate::harness::checkout::ImageFiles;
use anyhow::Result;

type OnReady = fn(&mut Booted) -> Result<Verdict>;
type OnOwn = fn(&ImageFiles) -> Result<Verdict>;

/// The machine that a story begins with.
#[derive(Clone, Copy)]
pub enum Start {
    /// One of its own, gone on from the snapshot of a host that is ready.
    Ready(OnReady),
    /// Machines that the story makes itself, or none.
    Own(OnOwn),
    /// The same, with nothing else on this machine: times side by side, and an image that is put
    /// together anew.
    Alone(OnOwn),
    /// Our own kernel, which takes long to build: told by name, or with `KERNEL=`.
    OwnKernel(OnOwn),
}

/// Story: a system test with a CPU budget.
pub struct Story {
    /// Name, as `make story NAME=` takes it.
    pub name: &'static str,
    /// CPU seconds that it may take, on a machine that boots in
    /// [`crate::runner::READY_CPU_SECONDS`]: twice what it took there beside another story.
    pub cpu_seconds_max: u32,
    /// Machine that the story begins with.
    pub start: Start,
}

const fn story(name: &'static str, cpu_seconds_max: u32, start: Start) -> Story {
    Story { name, cpu_seconds_max, start }
}

use Start::{Alone, Own, OwnKernel, Ready};

/// All stories. The longest come first, so that none is left over at the end.
pub const STORIES: &[Story] = &[
    story("updates", 940, Own(install::updates::updates_prove_themselves_or_fall_back)),
    story("readme", 800, Own(repo::readme_commands::commands_work)),
    story("reproducible", 1800, Own(repo::readme_commands::builds_are_reproducible)),
    story("network-boot", 530, Own(install::netboot::network_boots)),
    story("installer", 200, Own(install::installer::disk_is_installed)),
    story("secure-boot-sealed", 260, Own(image::sealed::data_is_sealed)),
    story("secure-boot-strangers", 40, Own(image::secure_boot::unsigned_is_refused)),
    story("host-config", 210, Own(image::host_config::credentials_make_a_host)),
    story("power-cut", 110, Ready(containers::power_cut::what_was_applied_outlives_the_power)),
    story("quiet-under-load", 60, Ready(quiet::quiet_under_load::hot_cores_are_quiet_under_load)),
    story("damaged-data", 170, Own(image::damaged_data::damaged_data_never_hangs_a_host)),
    story("quiet-cores-control", 150, Own(quiet::quiet_cores::without_isolation_they_are_not)),
    story(
        "agent-killed",
        50,
        Own(containers::kill_storm::nothing_is_lost_when_everybody_is_killed),
    ),
    story("own-cores", 80, Own(quiet::tune::host_has_cores_of_its_own)),
    story("netboot", 90, Own(image::contents::boots_without_a_disk)),
    story("images", 110, Ready(containers::images::images_are_fetched_and_judged)),
    story("desired", 110, Ready(fleet::desired_state::hosts_follow_what_is_signed)),
    story("rollout", 60, Ready(containers::rollout::versions_prove_themselves_or_are_taken_back)),
    story("beside", 80, Ready(containers::blue_green::versions_take_over_beside_the_one_before)),
    story("volumes", 120, Ready(containers::volumes::others_keep_what_containers_write)),
    story("tuned", 40, Ready(quiet::tune::host_is_tuned)),
    story("api", 40, Ready(fleet::api::hosts_are_asked_over_the_network)),
    story("recording", 110, Ready(trading::session::recording_is_traded_state_for_state)),
    story("busy-agent", 60, Own(containers::busy_agent::agent_answers_whatever_it_does)),
    story("debug", 60, Ready(containers::debug::somebody_looks_for_a_fault)),
    story("kernel-hardening", 20, Ready(image::kernel_hardening::kernel_is_hardened)),
    story("isolation", 40, Ready(quiet::isolation::no_container_reaches_a_hot_core)),
    story("kill-switch", 20, Ready(trading::session::kill_switch_cancels_everything)),
    story("container-comes-back", 30, Ready(containers::supervision::killed_container_comes_back)),
    story("quiet-cores", 20, Ready(quiet::quiet_cores::hot_cores_are_quiet)),
    story("vault", 30, Ready(fleet::desired_state::vault_is_asked)),
    story("forwarded", 20, Ready(fleet::desired_state::journal_is_forwarded)),
    story("hot-core-refused", 20, Ready(containers::supervision::hot_core_is_refused)),
    story("ready", 20, Ready(image::contents::boots_to_ready)),
    story("production", 20, Own(image::contents::production_has_no_way_in)),
    story("bind-race", 60, Own(containers::bind_race::links_lead_nowhere)),
    story("hostile-worker", 120, Own(containers::hostile_worker::no_worker_makes_root_act)),
    story("hardening", 20, Own(image::unit_hardening::units_are_hardened)),
    story("flipped-byte", 20, Own(image::contents::flipped_byte_is_caught)),
    story("flash", 20, Own(install::installer::flash_writes_and_refuses)),
    story("compose", 20, Own(containers::compose::files_mean_what_docker_says)),
    story("terminal", 20, Own(containers::terminal::somebody_sits_at_a_container)),
    story("own-kernel", 800, OwnKernel(image::own_kernel::own_kernel_boots_from_a_stick)),
    story("readme-figures", 550, Alone(repo::readme_commands::figures_are_measured)),
];
