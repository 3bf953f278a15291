//! What is proved in a booted VM. Each story says in one line what it proved, or fails. Stories of one
//! group share a boot.

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
mod own;
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

use crate::checkout::ImageFiles;
use crate::desk::{API, API_FILE, Desk};
use crate::registry::Registry;
use crate::shell::Shell;
use crate::vm::{Machine, Vm};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::statvfs::statvfs;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A story's end.
pub enum Verdict {
    /// What it proved.
    Proved(String),
    /// Why it could not be told.
    Skipped(String),
}

/// What the stories of the shared boot work with.
pub struct Booted {
    /// What it was booted from.
    pub image: ImageFiles,
    /// The machine.
    pub vm: Vm,
    /// Its shell.
    pub shell: Shell,
    /// The registry that its policy names, if it has one.
    pub registry: Option<Registry>,
    /// Who asks it over the network, if it has an API.
    pub desk: Option<Desk>,
}

/// Time that a guest may take to be ready: five times what it takes on an idle machine under TCG.
pub const READY_LIMIT: Duration = Duration::from_secs(300);

type Shared = fn(&mut Booted) -> Result<Verdict>;
type Alone = fn(&ImageFiles) -> Result<Verdict>;

/// Stories that share one boot, in order.
const SHARED: &[(&str, Shared)] = &[
    ("ready", image::boots_to_ready),
    ("quiet-cores", quiet::hot_cores_are_quiet),
    ("hot-core-refused", containers::hot_core_is_refused),
    ("isolation", isolation::no_container_reaches_a_hot_core),
    ("container-comes-back", containers::killed_container_comes_back),
    ("debug", debug::somebody_looks_for_a_fault),
    ("kill-switch", trading::kill_switch_cancels_everything),
    ("recording", trading::recording_is_traded_state_for_state),
    ("images", images::images_are_fetched_and_judged),
    ("rollout", rollout::versions_prove_themselves_or_are_taken_back),
    ("beside", beside::versions_take_over_beside_the_one_before),
    ("api", api::hosts_are_asked_over_the_network),
    ("desired", desired::hosts_follow_what_is_signed),
    ("forwarded", desired::journal_is_forwarded),
    ("vault", desired::vault_is_asked),
    ("volumes", volumes::others_keep_what_containers_write),
    ("kernel-hardening", hardening::kernel_is_hardened),
    ("tuned", tune::host_is_tuned),
];

/// Stories with machines of their own: told two at a time, the shared machine counted, since an emulated machine takes one
/// core. The longest come first, so that none is left over at the end.
const BESIDE: &[(&str, Alone)] = &[
    ("updates", updates::updates_prove_themselves_or_fall_back),
    ("readme", readme::commands_work),
    ("reproducible", readme::builds_are_reproducible),
    ("network-boot", netboot::network_boots),
    ("installer", install::disk_is_installed),
    ("sealed", sealed::data_is_sealed),
    ("host-config", hostconfig::credentials_make_a_host),
    ("power-cut", powercut::what_was_applied_outlives_the_power),
    ("quiet-under-load", loaded::hot_cores_are_quiet_under_load),
    ("damaged-data", data::damaged_data_never_hangs_a_host),
    ("quiet-cores-control", quiet::without_isolation_they_are_not),
    ("secure-boot-strangers", secureboot::unsigned_is_refused),
    ("agent-killed", killed::nothing_is_lost_when_everybody_is_killed),
    ("terminal", terminal::somebody_sits_at_a_container),
    ("own-cores", tune::host_has_cores_of_its_own),
    ("netboot", image::boots_without_a_disk),
    ("secure-boot", secureboot::signed_boots),
    ("production", image::production_has_no_way_in),
    ("hardening", image::units_are_hardened),
    ("flipped-byte", image::flipped_byte_is_caught),
    ("flash", install::flash_writes_and_refuses),
    ("compose", compose::files_mean_what_docker_says),
];

/// Stories of our own kernel, which takes long to build: told by name, or with `KERNEL=` for all stories.
const OWN_KERNEL: &[(&str, Alone)] = &[("own-kernel", own::own_kernel_boots_from_a_stick)];

/// Stories that need the whole machine: times side by side, and an image that is put together anew.
const ALONE: &[(&str, Alone)] = &[("readme-figures", readme::figures_are_measured)];

/// What all stories need for temporary files, in bytes: two machines' disks, releases, and an image that is built anew with a
/// cache of its own.
const SPACE: u64 = 8 << 30;
/// With less no machine's disk can be written to, and each story would only wait until its time is over.
const SPACE_LEFT: u64 = 1 << 30;

/// How many machines there are at once.
const AT_ONCE: usize = 2;

/// Names of all stories.
pub fn names() -> Vec<&'static str> {
    let alone = BESIDE.iter().chain(OWN_KERNEL).chain(ALONE).map(|(name, _)| *name);
    SHARED.iter().map(|(name, _)| *name).chain(alone).collect()
}

/// Where chance begins: `SEED`, or the time.
fn seed() -> Result<u64> {
    Ok(match std::env::var("SEED") {
        Ok(seed) if !seed.is_empty() => seed.parse()?,
        _ => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    })
}

/// Waits until the status names this problem.
fn wait_problem(booted: &mut Booted, text: &str, limit: Duration) -> Result<serde_json::Value> {
    booted.shell.wait_status(text, limit, |status| {
        let problems = status["problems"].as_array().into_iter().flatten();
        problems.filter_map(|problem| problem.as_str()).any(|problem| problem.contains(text))
    })
}

/// Boots the debug image up to a shell.
///
/// # Errors
/// It does not get there.
pub fn boot(image: &ImageFiles, machine: &Machine) -> Result<Booted> {
    let mut vm = Vm::start(image, machine)?;
    let shell = Shell::connect(&mut vm, READY_LIMIT)?;
    Ok(Booted { image: image.clone(), vm, shell, registry: None, desk: None })
}

/// The quiet cores' figures, and their control's.
///
/// # Errors
/// A guest does not answer.
pub fn quiet_figures(
    image: &ImageFiles,
    booted: &mut Booted,
    figures: &mut serde_json::Map<String, serde_json::Value>,
) -> Result<()> {
    let noise = quiet::measure(&mut booted.shell)?;
    let (control, _) = quiet::control_noise(image)?;
    for (name, value) in [
        ("hot_core_timer_irqs_per_10s", noise.timer),
        ("hot_core_foreign_switches_per_10s", noise.foreign_count()),
        ("hot_core_timer_irqs_per_10s_control", control.timer),
        ("hot_core_foreign_switches_per_10s_control", control.foreign_count()),
    ] {
        figures.insert(name.into(), value.into());
    }
    Ok(())
}

#[derive(Default)]
struct Tally {
    passed: u32,
    skipped: u32,
    /// What is said of each that failed.
    failed: Vec<String>,
}

impl Tally {
    fn tell(&mut self, name: &str, start: Instant, verdict: &Result<Verdict>) {
        let seconds = start.elapsed().as_secs();
        match verdict {
            Ok(Verdict::Proved(what)) => {
                self.passed += 1;
                println!("story {name} ({seconds} s): {what}");
            }
            Ok(Verdict::Skipped(why)) => {
                self.skipped += 1;
                println!("story {name}: SKIPPED, {why}");
            }
            Err(error) => {
                let said = format!("story {name} ({seconds} s): FAILED: {error:#}");
                println!("{said}");
                self.failed.push(said);
            }
        }
    }
}

/// Runs the story of that name, or all.
///
/// # Errors
/// At least one failed.
pub fn run(only: Option<&str>) -> Result<()> {
    if let Some(name) = only
        && !names().contains(&name)
    {
        bail!("no story {name}; there are {}", names().join(", "));
    }
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    ensure_space(if only.is_none() { SPACE } else { SPACE_LEFT })?;
    let image = ImageFiles::build("debug")?;
    let tally = Mutex::new(Tally::default());
    run_beside(&image, &wanted, &tally);
    let mut tally = tally.into_inner().expect("no story panics");
    let own = OWN_KERNEL.iter().filter(|_| only.is_some() || own::is_own(&image));
    for (name, story) in own.chain(ALONE).filter(|(name, _)| wanted(name)) {
        let start = Instant::now();
        tally.tell(name, start, &story(&image));
    }
    let failed = tally.failed.len();
    println!("stories: {} passed, {failed} failed, {} skipped", tally.passed, tally.skipped);
    // Again at the end, where a reader of a long log looks first.
    tally.failed.iter().for_each(|said| println!("{said}"));
    if failed > 0 { bail!("{failed} stories failed") } else { Ok(()) }
}

/// # Errors
/// There is less room than that for temporary files.
fn ensure_space(bytes: u64) -> Result<()> {
    let directory = std::env::temp_dir();
    let stat = statvfs(&directory).with_context(|| directory.display().to_string())?;
    let free = stat.blocks_available() * stat.fragment_size();
    ensure!(
        free >= bytes,
        "{} has {} MiB left, {} are needed; make room there, or set TMPDIR to another directory",
        directory.display(),
        free >> 20,
        bytes >> 20
    );
    Ok(())
}

fn run_beside(image: &ImageFiles, wanted: &(dyn Fn(&str) -> bool + Sync), tally: &Mutex<Tally>) {
    let left: VecDeque<_> = BESIDE.iter().filter(|(name, _)| wanted(name)).collect();
    let left = Mutex::new(left);
    let next = || left.lock().expect("no story panics").pop_front();
    let tell = |name: &str, start: Instant, verdict: &Result<Verdict>| {
        tally.lock().expect("no story panics").tell(name, start, verdict);
    };
    let (next, tell) = (&next, &tell);
    std::thread::scope(|scope| {
        for turn in 0..AT_ONCE {
            scope.spawn(move || {
                if turn == 0 && SHARED.iter().any(|(name, _)| wanted(name)) {
                    run_shared(image, wanted, tell);
                }
                while let Some((name, story)) = next() {
                    let start = Instant::now();
                    tell(name, start, &ensure_space(SPACE_LEFT).and_then(|()| story(image)));
                }
            });
        }
    });
}

/// The machine that stories share: with a recording, a network, a registry and an API.
fn boot_shared(image: &ImageFiles) -> Result<Booted> {
    let (registry, desk) = (Registry::start(image)?, api::desk()?);
    let machine = Machine {
        capture: trading::capture(),
        network: true,
        api: Some(desk.port),
        files: vec![
            (images::POLICY_FILE, images::policy(&registry)?),
            (API_FILE, desk.credential()?),
        ],
        fw_cfg: vec![("quietcore.images", images::POLICY_FILE), (API, API_FILE)],
        ..Machine::default()
    };
    Ok(Booted { registry: Some(registry), desk: Some(desk), ..boot(image, &machine)? })
}

fn run_shared(
    image: &ImageFiles,
    wanted: &dyn Fn(&str) -> bool,
    tell: &dyn Fn(&str, Instant, &Result<Verdict>),
) {
    let start = Instant::now();
    let mut booted = match boot_shared(image) {
        Ok(booted) => booted,
        Err(error) => return tell("boot", start, &Err(error)),
    };
    println!("machine: {}, because {}", booted.vm.accel.name(), booted.vm.accel_reason);
    for (index, (name, story)) in SHARED.iter().enumerate() {
        let start = Instant::now();
        // Every later story needs a host that is ready.
        if wanted(name) || index == 0 {
            let verdict = story(&mut booted);
            let failed = verdict.is_err();
            tell(name, start, &verdict);
            if failed {
                show_guest(&mut booted.shell);
                if index == 0 {
                    return;
                }
                start_over(&mut booted.shell);
            }
        }
    }
}

/// What a story that failed had declared is not the next one's.
fn start_over(shell: &mut Shell) {
    let limit = Duration::from_secs(120);
    let ready = shell
        .check("qctl apply /etc/quietcore/compose.yaml", limit)
        .and_then(|_| shell.wait_status("ready again", limit, |status| status["ready"] == true));
    if let Err(error) = ready {
        println!("--- the guest does not start over: {error:#}");
    }
}

/// What the guest knows about a failure.
fn show_guest(shell: &mut Shell) {
    let script = "qctl status; qctl events -n 30; systemctl --failed --no-legend; qctl tune verify --quiet; journalctl -b -p warning --no-pager -n 20";
    match shell.run(script, Duration::from_secs(60)) {
        Ok(output) => println!("--- the guest says:\n{}---", output.text),
        Err(error) => println!("--- the guest does not answer: {error:#}"),
    }
}
