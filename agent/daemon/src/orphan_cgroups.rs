//! Orphan cgroups: containers' cgroups with processes that containerd does not know. If a shim is
//! killed while it starts a program, the program is left behind and containerd forgets it; the
//! cgroup has the container's name and is found by it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The names of containers that have cgroups.
pub fn names(cgroups: &Path) -> BTreeSet<String> {
    let of = |group: PathBuf| children(&group).filter_map(|path| name(&path));
    groups(cgroups).into_iter().flat_map(of).collect()
}

/// Ends what is in a container's cgroup and takes that away; how many processes there were. They
/// may need another moment until they are gone.
///
/// # Errors
/// The kernel's.
pub fn end(cgroups: &Path, name: &str) -> io::Result<usize> {
    let mut ended = 0;
    for group in groups(cgroups).into_iter().map(|group| group.join(name)) {
        if !group.is_dir() {
            continue;
        }
        let processes = fs::read_to_string(group.join("cgroup.procs"))?;
        let processes: Vec<i32> = processes.lines().filter_map(|line| line.parse().ok()).collect();
        ended = ended.max(processes.len());
        let all = group.join("cgroup.kill");
        if all.exists() {
            fs::write(all, "1")?;
        } else {
            // cgroup v1, on machines where the agent is tried out.
            for process in processes {
                let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
            }
        }
        // What still dies keeps it; somebody comes again.
        let _ = fs::remove_dir(group);
    }
    Ok(ended)
}

/// Above all containers' cgroups: one, or with cgroup v1 one in each hierarchy.
fn groups(cgroups: &Path) -> Vec<PathBuf> {
    let all = children(cgroups).chain([cgroups.to_owned()]);
    let ours = all.map(|path| path.join(agent_core::runtime_spec::CGROUP.trim_start_matches('/')));
    ours.filter(|path| path.is_dir()).collect()
}

fn children(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir())
}

fn name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files instead of a kernel's: what would be killed is in `cgroup.kill`, and a directory with
    /// files stays.
    #[test]
    fn what_is_in_a_cgroup_is_ended_whichever_version_it_has() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("it");
        for (group, file) in [
            ("quietcore-containers/a-1", Some("cgroup.kill")),
            ("pids/quietcore-containers/b-2", None),
            ("memory/quietcore-containers/b-2", None),
            ("system.slice/c", None),
        ] {
            let group = root.join(group);
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join("cgroup.procs"), "").unwrap();
            if let Some(file) = file {
                fs::write(group.join(file), "").unwrap();
            }
        }
        assert_eq!(names(&root), ["a-1", "b-2"].map(str::to_owned).into());
        fs::write(root.join("quietcore-containers/a-1/cgroup.procs"), "1\n2\n").unwrap();
        assert_eq!(end(&root, "a-1").unwrap(), 2);
        assert_eq!(
            fs::read_to_string(root.join("quietcore-containers/a-1/cgroup.kill")).unwrap(),
            "1"
        );
        assert_eq!(end(&root, "b-2").unwrap(), 0);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let procs = root.join("pids/quietcore-containers/b-2/cgroup.procs");
        fs::write(procs, format!("{}\n", child.id())).unwrap();
        assert_eq!(end(&root, "b-2").unwrap(), 1);
        assert!(!child.wait().unwrap().success());
    }
}
