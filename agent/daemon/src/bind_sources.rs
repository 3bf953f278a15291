//! Sources of a container's binds: opened before the container is made, part by part and following
//! no link, and compared with what was mounted before its program starts. Whoever writes the
//! directory above a source can put a link there while the runtime resolves the path again.
//! Source: Linux, `Documentation/filesystems/proc.rst`, "/proc/<pid>/mountinfo" and "fdinfo".

use agent_host::beneath::Beneath;
use std::collections::BTreeSet;
use std::fs::{read_link, read_to_string};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// File systems that the runtime makes anew for a container.
const FRESH: [&str; 6] = ["proc", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"];

/// Place in a file system: its device and a path from its root.
type Place = (String, PathBuf);

/// Mount in a mount namespace, of the fields that count.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    id: String,
    /// Major and minor number.
    device: String,
    root: PathBuf,
    point: PathBuf,
    kind: String,
}

/// Sources of binds, held open: what they are can't change while a container is made.
#[derive(Debug, Default)]
pub struct BindSources(Vec<OwnedFd>);

impl BindSources {
    /// Opens sources by their absolute paths.
    ///
    /// # Errors
    /// A source is missing, or a link is on the way.
    pub fn open<'a>(paths: impl Iterator<Item = &'a Path>) -> io::Result<Self> {
        let root = Beneath::open(Path::new("/"))?;
        let open = |path: &Path| {
            let relative = path.strip_prefix("/").map_err(io::Error::other)?;
            root.place(relative).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })
        };
        paths.map(open).collect::<io::Result<_>>().map(Self)
    }

    /// Compares them with the mounts of a process whose program has not started.
    ///
    /// # Errors
    /// A mount that is none of them, or one of them is not mounted.
    pub fn check(&self, process: u32) -> io::Result<()> {
        let mounts = |process: &str| -> io::Result<Vec<Mount>> {
            Ok(parse(&read_to_string(format!("/proc/{process}/mountinfo"))?))
        };
        let (own, host) = (mounts("self")?, mounts("1")?);
        let places = self.0.iter().map(|file| place_of(file, &own));
        let places: Vec<(Place, PathBuf)> = places.collect::<io::Result<_>>()?;
        let devices = own.iter().chain(&host).map(|mount| mount.device.clone()).collect();
        compare(&mounts(&process.to_string())?, &places, &own, &devices).map_err(io::Error::other)
    }
}

/// Place of an open file, and its path now.
fn place_of(file: &OwnedFd, own: &[Mount]) -> io::Result<(Place, PathBuf)> {
    let number = file.as_raw_fd();
    let info = read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap_or_default();
    let path = read_link(format!("/proc/self/fd/{number}"))?;
    let mount = own.iter().find(|mount| mount.id == id.trim());
    let mount = mount.ok_or_else(|| io::Error::other("a source without a mount"))?;
    let below = path.strip_prefix(&mount.point).map_err(io::Error::other)?;
    Ok(((mount.device.clone(), join(&mount.root, below)), path))
}

/// A path below another, which ends without a slash if there is none.
fn join(root: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { root.into() } else { root.join(below) }
}

fn compare(
    found: &[Mount],
    places: &[(Place, PathBuf)],
    own: &[Mount],
    devices: &BTreeSet<String>,
) -> Result<(), String> {
    let place = |mount: &Mount| (mount.device.clone(), mount.root.clone());
    let mut wanted: Vec<Place> = places.iter().map(|(place, _)| place.clone()).collect();
    // A bind brings what is mounted below its source.
    let is_below = |mount: &&Mount| {
        places.iter().any(|(_, path)| mount.point != *path && mount.point.starts_with(path))
    };
    let below: BTreeSet<Place> = own.iter().filter(is_below).map(place).collect();
    for mount in found {
        let is_special = mount.point == Path::new("/") || mount.point.starts_with("/sys");
        let place = place(mount);
        if let Some(at) = wanted.iter().position(|it| *it == place) {
            wanted.swap_remove(at);
            continue;
        }
        let is_fresh = FRESH.contains(&mount.kind.as_str()) && !devices.contains(&mount.device);
        if !is_special && !is_fresh && !below.contains(&place) {
            return Err(format!(
                "{} in the container is {} of another place than what was checked; a link in a volume leads there",
                mount.point.display(),
                mount.root.display()
            ));
        }
    }
    match wanted.first() {
        None => Ok(()),
        Some((_, root)) => Err(format!("{} was checked and is not mounted", root.display())),
    }
}

fn parse(mountinfo: &str) -> Vec<Mount> {
    // 36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/x rw
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let fields: Vec<&str> = left.split(' ').collect();
        Some(Mount {
            id: (*fields.first()?).to_owned(),
            device: (*fields.get(2)?).to_owned(),
            root: unescape(fields.get(3)?),
            point: unescape(fields.get(4)?),
            kind: right.split(' ').next()?.to_owned(),
        })
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// A path as mountinfo escapes it: space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mounts of a host and of a container with a volume, as the kernel writes them.
    const HOST: &str = "22 1 8:2 / / ro - erofs /dev/dm-0 ro
30 22 8:5 / /var rw - ext4 /dev/dm-1 rw
31 22 0:21 / /run rw - tmpfs tmpfs rw
32 30 0:40 / /var/lib/quietcore/volumes/a/nfs rw - nfs4 10.0.0.1:/ rw
";
    const CONTAINER: &str = "50 49 0:60 / / rw - overlay overlay rw
51 50 0:61 / /proc rw - proc proc rw
52 50 0:62 / /dev rw - tmpfs tmpfs rw
53 50 0:24 / /sys ro - sysfs sysfs ro
54 50 8:5 /lib/quietcore/volumes/a /data rw - ext4 /dev/dm-1 rw
55 54 0:40 / /data/nfs rw - nfs4 10.0.0.1:/ rw
56 50 0:63 / /tmp rw - tmpfs tmpfs rw
57 51 0:61 /bus /proc/bus ro - proc proc rw
";

    fn check(container: &str) -> Result<(), String> {
        let own = parse(HOST);
        let place = ("8:5".to_owned(), PathBuf::from("/lib/quietcore/volumes/a"));
        let places = [(place, PathBuf::from("/var/lib/quietcore/volumes/a"))];
        let devices = own.iter().map(|mount| mount.device.clone()).collect();
        compare(&parse(container), &places, &own, &devices)
    }

    #[test]
    fn a_container_has_what_was_checked_and_nothing_else_of_the_host() {
        check(CONTAINER).unwrap();
        let volume = "8:5 /lib/quietcore/volumes/a /data";
        for (instead, wanted) in [
            // The host's configuration, its memory, another directory of the same disk.
            ("8:2 /etc /data", "/data in the container is /etc"),
            ("8:5 /lib/quietcore/agent /data", "/data in the container is /lib/quietcore/agent"),
            ("8:5 /lib/quietcore/volumes /data", "is /lib/quietcore/volumes"),
        ] {
            let error = check(&CONTAINER.replace(volume, instead)).unwrap_err();
            assert!(error.contains(wanted), "{instead}: {error}");
        }
        let run = CONTAINER.replace("0:63 / /tmp", "0:21 / /tmp");
        assert!(check(&run).unwrap_err().contains("/tmp in the container is /"));
        let without: String = CONTAINER
            .lines()
            .filter(|line| !line.contains("/data "))
            .map(|it| format!("{it}\n"))
            .collect();
        assert!(check(&without).unwrap_err().contains("is not mounted"));
    }

    #[test]
    fn sources_are_opened_without_links_and_found_in_this_process() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().canonicalize().unwrap();
        std::fs::create_dir(directory.join("a")).unwrap();
        std::os::unix::fs::symlink("/etc", directory.join("link")).unwrap();
        let open = |name: &str| BindSources::open([directory.join(name).as_path()].into_iter());
        assert!(open("link").is_err() && open("link/passwd").is_err() && open("none").is_err());
        let sources = open("a").unwrap();
        let own = parse(&read_to_string("/proc/self/mountinfo").unwrap());
        let ((_, root), path) = place_of(&sources.0[0], &own).unwrap();
        assert_eq!(path, directory.join("a"));
        assert!(root.ends_with("a"), "{root:?}");
        // This process has mounts of the host, and no container's.
        assert!(sources.check(std::process::id()).is_err());
        assert_eq!(unescape("/a\\040b\\134c"), PathBuf::from("/a b\\c"));
    }
}
