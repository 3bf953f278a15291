//! Processes of containers that the kernel killed for want of memory, as their cgroups count them.
//! Sources: Linux, `Documentation/admin-guide/cgroup-v2.rst`, "memory.events", and for machines
//! where the agent is tried out `cgroup-v1/memory.rst`, "memory.oom_control".

use std::fs;
use std::path::Path;

/// Number of processes of a container that the kernel killed for want of memory; 0 if the container
/// has no cgroup any more.
pub fn oom_kills(cgroups: &Path, name: &str) -> u64 {
    let group = agent_core::runtime_spec::CGROUP.trim_start_matches('/');
    let unified = cgroups.join(group).join(name).join("memory.events");
    let legacy = cgroups.join("memory").join(group).join(name).join("memory.oom_control");
    let text = fs::read_to_string(unified).or_else(|_| fs::read_to_string(legacy));
    count(&text.unwrap_or_default())
}

fn count(text: &str) -> u64 {
    let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    kills.and_then(|kills| kills.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_in_both_versions_of_cgroups() {
        let temporary = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = temporary.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let events = "low 0\nhigh 0\nmax 4\noom 1\noom_kill 2\noom_group_kill 0\n";
        write("quietcore-containers/a-1/memory.events", events);
        let control = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        write("memory/quietcore-containers/b-1/memory.oom_control", control);
        let kills = |name| oom_kills(temporary.path(), name);
        assert_eq!((kills("a-1"), kills("b-1"), kills("c-1")), (2, 3, 0));
    }
}
