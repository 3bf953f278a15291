//! A service as an OCI runtime specification. containerd's native API adds nothing of its own, so
//! that everything a container may do stands here: no default seccomp profile, no default masked
//! path.

use crate::compose::disks::DiskLimit;
use crate::compose::{NetworkMode, Service, units};
use crate::image_user::User;
use crate::instance::Instance;
use oci_spec::image::ImageConfiguration;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The cgroup above all containers.
pub const CGROUP: &str = "/quietcore-containers";

/// System calls that no container gets, whatever its capabilities. io_uring is among them because
/// its SQPOLL thread is not bound by a cpuset and could run on a hot core; the rest reach the
/// kernel itself.
const DENIED: &[&str] = &[
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "bpf",
    "perf_event_open",
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "create_module",
    "mount",
    "umount2",
    "pivot_root",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsmount",
    "fsconfig",
    "fspick",
    "mount_setattr",
    "swapon",
    "swapoff",
    "reboot",
    "settimeofday",
    "clock_settime",
    "adjtimex",
    "clock_adjtime",
    "keyctl",
    "add_key",
    "request_key",
    "ptrace",
    "process_vm_writev",
    "userfaultfd",
    "open_by_handle_at",
    "setns",
];

/// Paths of /proc and /sys that say or do too much; Docker's list.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// User of a service as text: the file's, else the image's (`USER`).
pub fn user<'a>(service: &'a Service, image: &'a ImageConfiguration) -> Option<&'a str> {
    let of_image = || image.config().as_ref()?.user().as_deref();
    service.user.as_deref().or_else(of_image).filter(|user| !user.is_empty())
}

/// The specification of the container of that name, made from an image, with what is brought into
/// it, for a user.
pub fn spec(
    name: &str,
    instance: &Instance,
    brought: &[Delivered],
    facts: &Facts,
    image: &ImageConfiguration,
    user: &User,
) -> Value {
    let service = &instance.service;
    let capabilities = &service.capabilities;
    let rlimits = service.rlimits.iter();
    let rlimits: Vec<Value> = rlimits
        .map(|limit| json!({ "type": limit.name, "soft": limit.soft, "hard": limit.hard }))
        .collect();
    let mut namespaces = vec!["pid", "ipc", "uts", "mount", "cgroup"];
    if service.network == NetworkMode::None {
        namespaces.push("network");
    }
    let namespaces: Vec<Value> =
        namespaces.into_iter().map(|kind| json!({ "type": kind })).collect();
    let terminal = instance.terminal.as_ref().map(|terminal| terminal.size);
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "terminal": terminal.is_some(),
            "consoleSize": terminal.map(|it| json!({ "height": it.rows, "width": it.columns })),
            "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
            "args": arguments(service, image),
            "env": environment(instance, image),
            "cwd": working_directory(service, image),
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": rlimits,
            "noNewPrivileges": true,
            "oomScoreAdj": 500,
        },
        "root": { "path": "rootfs", "readonly": service.read_only },
        "hostname": service.hostname,
        "mounts": mounts(service, brought),
        "linux": {
            "resources": resources(service, facts),
            "sysctl": service.sysctls,
            "cgroupsPath": format!("{CGROUP}/{name}"),
            "namespaces": namespaces,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{ "names": DENIED, "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }],
            },
        },
    })
}

/// The agent's own file, where it is on the host and in a container that asks for `init`.
const INIT: (&str, &str) = ("/usr/bin/quietcore-agent", "/dev/quietcore-init");

fn arguments(service: &Service, image: &ImageConfiguration) -> Vec<String> {
    let config = image.config().as_ref();
    let from_image = || config.and_then(|config| config.entrypoint().clone()).unwrap_or_default();
    let mut arguments: Vec<String> = match service.init {
        true => [INIT.1, "init", "--"].map(Into::into).into(),
        false => Vec::new(),
    };
    arguments.extend(service.entrypoint.clone().unwrap_or_else(from_image));
    let of_image = || config.and_then(|config| config.cmd().clone()).unwrap_or_default();
    // Another entrypoint has no use for the arguments of the image's own, as with Docker.
    arguments.extend(match (&service.command, &service.entrypoint) {
        (Some(command), _) => command.clone(),
        (None, Some(_)) => Vec::new(),
        (None, None) => of_image(),
    });
    arguments
}

/// Signal that the image asks to be stopped with (`STOPSIGNAL`).
pub fn stop_signal(image: &ImageConfiguration) -> Option<u32> {
    units::signal(image.config().as_ref()?.stop_signal().as_ref()?)
}

fn working_directory(service: &Service, image: &ImageConfiguration) -> String {
    let of_image = || image.config().as_ref()?.working_dir().clone();
    let directory = service.working_dir.clone().or_else(of_image);
    directory.filter(|path| !path.is_empty()).unwrap_or_else(|| "/".into())
}

/// `PATH` of a container whose image and file name none: Docker's own.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn environment(instance: &Instance, image: &ImageConfiguration) -> Vec<String> {
    let config = image.config().as_ref();
    let of_image = config.and_then(|config| config.env().clone()).unwrap_or_default();
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let mut environment: Vec<String> = Vec::new();
    // The last word counts, in the place of the first: programs read the first of two.
    for variable in of_image.iter().chain(&instance.service.environment) {
        match environment.iter_mut().find(|it| name(it) == name(variable)) {
            Some(before) => before.clone_from(variable),
            None => environment.push(variable.clone()),
        }
    }
    if !environment.iter().any(|it| it.starts_with("PATH=")) {
        environment.push(PATH.into());
    }
    if instance.terminal.is_some() && !environment.iter().any(|it| it.starts_with("TERM=")) {
        // What every terminal understands.
        environment.push("TERM=xterm".into());
    }
    environment
}

fn mounts(service: &Service, brought: &[Delivered]) -> Vec<Value> {
    let special = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let shm = format!("size={}", service.shm_bytes);
    let mut mounts = vec![
        special("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        special("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=64k"]),
        special(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        ),
        special("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
        special("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        special(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
    ];
    // What lies below one of them comes after it.
    for tmpfs in &service.tmpfs {
        let (mode, size) = (format!("mode={}", tmpfs.mode), format!("size={}", tmpfs.bytes));
        let id = |name: &str, id: Option<u32>| id.map(|id| format!("{name}={id}"));
        let ids = [id("uid", tmpfs.uid), id("gid", tmpfs.gid)];
        let mut options = vec!["nosuid", "nodev", &mode, &size];
        options.push(if tmpfs.read_only { "ro" } else { "rw" });
        options.push(if tmpfs.exec { "exec" } else { "noexec" });
        options.extend(ids.iter().flatten().map(String::as_str));
        mounts.push(special(&tmpfs.target, "tmpfs", "tmpfs", &options));
    }
    for HostMount { source, target, options } in host_mounts(service, brought) {
        mounts.push(special(&target, "bind", &source, options));
    }
    if service.network == NetworkMode::Host {
        // The host's namespace has the host's sysfs; it can only be bound, not mounted anew.
        mounts[4] = special("/sys", "bind", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]);
    }
    mounts
}

/// File or directory of the host in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostMount {
    /// Its path on the host.
    pub source: String,
    /// Its path in the container.
    pub target: String,
    options: &'static [&'static str],
}

/// Directory of the host with files of containers' `/etc`: `resolv.conf`, which the agent keeps
/// current for all, and below it those of each instance.
pub const ETC: &str = "/run/quietcore/etc";

/// Path of the file of name servers in a container.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Returns true if a service brings its own file at a path of its container, or a directory above
/// it.
pub fn brings(service: &Service, path: &str) -> bool {
    let is_at = |target: &str| Path::new(path).starts_with(target);
    service.binds.iter().any(|bind| is_at(&bind.target))
        || service.tmpfs.iter().any(|tmpfs| is_at(&tmpfs.target))
        || service.configs.iter().any(|config| is_at(&config.target))
}

/// Mounts of a container that come from the host, in order.
pub fn host_mounts(service: &Service, brought: &[Delivered]) -> Vec<HostMount> {
    const WRITE: &[&str] = &["rbind", "rw", "nosuid", "nodev", "rprivate"];
    const READ: &[&str] = &["rbind", "ro", "nosuid", "nodev", "rprivate"];
    const BROUGHT: &[&str] = &["rbind", "ro", "nosuid", "nodev", "noexec", "rprivate"];
    let mount = |source: &str, target: &str, options| {
        let (source, target) = (source.to_owned(), target.to_owned());
        HostMount { source, target, options }
    };
    let mut mounts = Vec::new();
    if !brings(service, RESOLV_CONF) {
        mounts.push(mount(&format!("{ETC}/resolv.conf"), RESOLV_CONF, BROUGHT));
    }
    for bind in &service.binds {
        let options = if bind.read_only { READ } else { WRITE };
        mounts.push(mount(&bind.source, &bind.target, options));
    }
    if service.init {
        mounts.push(mount(INIT.0, INIT.1, READ));
    }
    for (source, target) in brought {
        mounts.push(mount(&source.to_string_lossy(), target, BROUGHT));
    }
    mounts
}

/// `io.latency`, a line for each disk.
fn latency(facts: &Facts) -> Option<String> {
    let lines = facts.disks.iter().filter_map(|(major, minor, limit)| {
        Some(format!("{major}:{minor} target={}", limit.latency_micros?))
    });
    Some(lines.collect::<Vec<_>>().join("\n")).filter(|lines| !lines.is_empty())
}

/// Limits. Every container has a cpuset: the housekeeping cores or fewer.
fn resources(service: &Service, facts: &Facts) -> Value {
    let mut resources = json!({
        "cpu": { "cpus": service.cpuset },
        "devices": [{ "allow": false, "access": "rwm" }],
    });
    if let Some(millis) = service.cpu_millis {
        resources["cpu"]["quota"] = json!(millis * 100);
        resources["cpu"]["period"] = json!(100_000);
    }
    if let Some(bytes) = service.memory_bytes {
        // There is no swap on a host (kernel-config/tuning.toml), and our own kernel knows of none:
        // a limit of it would be a file that is not there.
        resources["memory"] = json!({ "limit": bytes });
    }
    if let Some(pids) = service.pids {
        resources["pids"] = json!({ "limit": pids });
    }
    // cgroup v2's own files: what the specification calls a reservation of memory is memory.low,
    // which only asks.
    let weight = service.cpu_weight.map(|weight| ("cpu.weight", weight));
    let memory = service.memory_min_bytes.map(|bytes| ("memory.min", bytes));
    let files = weight.into_iter().chain(memory).map(|(file, value)| (file, value.to_string()));
    let latency = latency(facts).map(|lines| ("io.latency", lines));
    let unified: serde_json::Map<String, Value> =
        files.chain(latency).map(|(file, value)| (file.to_owned(), json!(value))).collect();
    // The engine's are everybody's otherwise: who maps one first has it.
    let limits = facts.huge_pages.iter().map(|size| {
        let bytes = service.huge_pages.get(size).copied().unwrap_or(0);
        json!({ "pageSize": size, "limit": bytes })
    });
    resources["hugepageLimits"] = limits.collect();
    if !facts.disks.is_empty() {
        let throttle = |rate: fn(&DiskLimit) -> Option<u64>| -> Value {
            let limits = facts.disks.iter().filter_map(|(major, minor, limit)| {
                Some(json!({ "major": major, "minor": minor, "rate": rate(limit)? }))
            });
            limits.collect()
        };
        resources["blockIO"] = json!({
            "throttleReadBpsDevice": throttle(|limit| limit.read_bytes),
            "throttleWriteBpsDevice": throttle(|limit| limit.write_bytes),
            "throttleReadIOPSDevice": throttle(|limit| limit.reads),
            "throttleWriteIOPSDevice": throttle(|limit| limit.writes),
        });
    }
    resources["unified"] = Value::Object(unified);
    resources
}

/// Facts of the host that a specification needs: sizes of huge pages, numbers of disks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Sizes of huge pages, as cgroup files are named.
    pub huge_pages: Vec<String>,
    /// Limits of disks, with their major and minor numbers.
    pub disks: Vec<(u32, u32, DiskLimit)>,
}

/// A file or directory to be bound into a container, read-only: where it is, and where it is to be.
pub type Delivered = (PathBuf, String);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_user::NOBODY;
    use crate::instance::Slot;
    use abi::hostplan::CorePlan;

    fn spec_of(keys: &str, config: &str) -> Value {
        let cores = CorePlan::from_kernel("0-1", "").unwrap();
        let text = format!("services: {{a: {{image: x, {keys}}}}}");
        let service = crate::compose::parse(&text, &cores).unwrap().remove(0);
        let image = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
        );
        let image = ImageConfiguration::from_reader(image.as_bytes()).unwrap();
        let instance = Instance::new(&service, Slot::Blue, true);
        spec("a-1", &instance, &[], &Facts::default(), &image, &NOBODY)
    }

    #[test]
    fn what_the_image_says_counts_where_the_file_says_nothing() {
        let image = r#"{"Entrypoint":["/entry.sh"],"Cmd":["serve","--port","80"],"WorkingDir":"/app","Env":["PATH=/opt/bin","MODE=image"],"StopSignal":"SIGINT"}"#;
        let arguments = |keys: &str| spec_of(keys, image)["process"]["args"].clone();
        assert_eq!(arguments(""), json!(["/entry.sh", "serve", "--port", "80"]));
        assert_eq!(arguments("entrypoint: [/bin/tool, --once]"), json!(["/bin/tool", "--once"]));
        assert_eq!(arguments("command: []"), json!(["/entry.sh"]));
        assert_eq!(arguments("command: [help]"), json!(["/entry.sh", "help"]));
        assert_eq!(arguments("entrypoint: [/t], command: [b]"), json!(["/t", "b"]));
        let process = spec_of("environment: {MODE: file, NEW: a}", image)["process"].clone();
        assert_eq!(process["env"], json!(["PATH=/opt/bin", "MODE=file", "NEW=a"]));
        assert_eq!(process["cwd"], "/app");
        assert_eq!(spec_of("working_dir: /srv", image)["process"]["cwd"], "/srv");
        let bare = spec_of("", "{}")["process"].clone();
        assert_eq!((&bare["cwd"], &bare["env"]), (&json!("/"), &json!([PATH])));
    }

    #[test]
    fn every_container_has_name_servers_unless_it_brings_its_own() {
        let targets = |keys: &str| -> Vec<String> {
            let mounts = spec_of(keys, "{}")["mounts"].clone();
            let all = mounts.as_array().unwrap().iter();
            let all = all.map(|mount| mount["destination"].as_str().unwrap().to_owned());
            all.filter(|target| target.starts_with("/etc")).collect()
        };
        assert_eq!(targets(""), ["/etc/resolv.conf"]);
        let volume = "/var/lib/quietcore/volumes/a";
        let own = format!("volumes: [\"{volume}:/etc/resolv.conf:ro\"]");
        assert_eq!(targets(&own), ["/etc/resolv.conf"]);
        assert_eq!(targets(&format!("volumes: [\"{volume}:/etc\"]")), ["/etc"]);
        assert_eq!(targets("tmpfs: [\"/etc\"]"), ["/etc"]);
    }

    #[test]
    fn a_tmpfs_has_the_flags_of_its_line_and_dockers_without() {
        let options = |line: &str| -> String {
            let mounts = spec_of(&format!("tmpfs: [{line:?}]"), "{}")["mounts"].clone();
            let mut all = mounts.as_array().unwrap().iter();
            let tmpfs = all.find(|mount| mount["destination"] == "/t").unwrap();
            let options = tmpfs["options"].as_array().unwrap().iter();
            options.map(|it| it.as_str().unwrap()).collect::<Vec<_>>().join(",")
        };
        assert_eq!(options("/t"), "nosuid,nodev,mode=1777,size=67108864,rw,noexec");
        let flags = "/t:rw,noexec,nosuid,nodev,size=1m,mode=700,uid=1000,gid=5";
        assert_eq!(options(flags), "nosuid,nodev,mode=700,size=1048576,rw,noexec,uid=1000,gid=5");
        assert_eq!(options("/t:ro,exec"), "nosuid,nodev,mode=1777,size=67108864,ro,exec");
    }

    #[test]
    fn an_image_is_stopped_by_its_own_signal() {
        let signal = |text: &str| {
            let image = format!(
                r#"{{"architecture":"amd64","os":"linux","config":{{"StopSignal":"{text}"}},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
            );
            stop_signal(&ImageConfiguration::from_reader(image.as_bytes()).unwrap())
        };
        assert_eq!((signal("SIGINT"), signal("QUIT"), signal("10")), (Some(2), Some(3), Some(10)));
        assert_eq!((signal("SIGNONE"), signal("")), (None, None));
    }
}
