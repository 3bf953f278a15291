//! The initrd's only program: loads the listed modules, finds the root partition that `roothash=`
//! names, opens it with dm-verity, hands over to it. In a netboot UKI the root lies beside it,
//! under the UKI's signature. Reboots on any failure, so that boot counting can go on to the other
//! version; never waits for a person.

mod devicemapper;
mod extra;
mod gpt;
mod loopdevice;
mod partitions;
mod signature;
mod verity;

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::stat::Mode;
use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Time limit for the root's partitions to appear. A slower disk is taken as dead.
const ROOT_WAIT: Duration = Duration::from_secs(20);

/// Time limit for the whole way to the root: a disk or module that never answers causes a reboot,
/// not a wait for a person.
const DEADLINE: Duration = Duration::from_secs(45);

/// Time that a failure stays on the console before the reboot.
const FAILURE_SHOWN: Duration = Duration::from_secs(3);

/// The root of a netboot UKI.
const NETBOOT_ROOT: &str = "/root.erofs";

/// The program that the root is handed over to.
const INIT: &str = "/usr/lib/systemd/systemd";

/// One sentence on what failed and why.
type Failure = String;

fn main() {
    std::thread::spawn(|| {
        std::thread::sleep(DEADLINE);
        restart(&format!("the root is not there after {} s", DEADLINE.as_secs()));
    });
    let Err(failure) = hand_over();
    restart(&failure);
}

fn restart(failure: &str) -> ! {
    eprintln!("quietcore-init: {failure}; rebooting");
    std::thread::sleep(FAILURE_SHOWN);
    let _ = reboot(RebootMode::RB_AUTOBOOT);
    std::process::abort();
}

fn hand_over() -> Result<Infallible, Failure> {
    mount_kernel_file_systems()?;
    extra::keep()?;
    if Path::new(NETBOOT_ROOT).exists() {
        extra::keep_medium()?;
        load_modules()?;
        return switch_root(&loopdevice::over(Path::new(NETBOOT_ROOT))?);
    }
    let cmdline = fs::read_to_string("/proc/cmdline").map_err(failed("read /proc/cmdline"))?;
    let root_hash = verity::RootHash::from_cmdline(&cmdline)?;
    load_modules()?;
    let (data, hash) = partitions::wait_for(&root_hash, ROOT_WAIT)?;
    let signed = signature::give()?;
    let table = verity::read_superblock(&hash)?.table(&data, &hash, &root_hash, signed);
    let device = devicemapper::create("root", &table)?;
    switch_root(&device)
}

/// Turns an error into a [`Failure`] that says what was attempted.
fn failed<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Failure {
    move |error| format!("{what}: {error}")
}

fn mount_kernel_file_systems() -> Result<(), Failure> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    for (kind, target, flags) in [
        ("proc", "/proc", safe),
        ("sysfs", "/sys", safe),
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID),
        ("tmpfs", "/run", MsFlags::MS_NOSUID | MsFlags::MS_NODEV),
    ] {
        fs::create_dir_all(target).map_err(failed(format!("make {target}")))?;
        let data = (kind == "tmpfs").then_some("mode=0755");
        mount(Some(kind), target, Some(kind), flags, data)
            .map_err(failed(format!("mount {target}")))?;
    }
    Ok(())
}

/// Loads `/modules/*.ko` in the order of their names; the build numbers them by dependency. One
/// whose hardware is not there says ENODEV: a cipher for a CPU that can more than this one.
fn load_modules() -> Result<(), Failure> {
    let Ok(entries) = fs::read_dir("/modules") else { return Ok(()) };
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let file = fs::File::open(&path).map_err(failed(format!("open {}", path.display())))?;
        match nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty()) {
            Ok(()) | Err(nix::Error::EEXIST | nix::Error::ENODEV) => {}
            Err(error) => return Err(format!("load {}: {error}", path.display())),
        }
    }
    Ok(())
}

fn switch_root(device: &Path) -> Result<Infallible, Failure> {
    let sysroot = Path::new("/sysroot");
    fs::create_dir_all(sysroot).map_err(failed("make /sysroot"))?;
    mount(Some(device), sysroot, Some("erofs"), MsFlags::MS_RDONLY, None::<&str>)
        .map_err(failed("mount the root"))?;
    for name in ["dev", "proc", "sys", "run"] {
        let (from, to) = (Path::new("/").join(name), sysroot.join(name));
        mount(Some(&from), &to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(failed(format!("move /{name}")))?;
    }
    std::env::set_current_dir(sysroot).map_err(failed("enter /sysroot"))?;
    free_initrd();
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(failed("move the root"))?;
    nix::unistd::chroot(".").map_err(failed("chroot"))?;
    std::env::set_current_dir("/").map_err(failed("enter /"))?;
    let console = nix::fcntl::open("/dev/console", OFlag::O_RDWR, Mode::empty())
        .map_err(failed("open /dev/console"))?;
    nix::unistd::dup2_stdout(&console).map_err(failed("set up the console"))?;
    let init = CString::new(Path::new(INIT).as_os_str().as_bytes()).map_err(failed(INIT))?;
    nix::unistd::execv(&init, &[&init]).map_err(failed(format!("start {INIT}")))
}

/// Gives the initrd's memory back; what can't be removed stays.
fn free_initrd() {
    let _ = fs::remove_dir_all("/modules");
    let _ = fs::remove_file("/init");
    // The loop device keeps it.
    let _ = fs::remove_file(NETBOOT_ROOT);
}
