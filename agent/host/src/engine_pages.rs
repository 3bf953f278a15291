//! The engine's pages: one directory, or one for each shard of the configuration.

use abi::counters::{EVENTS_KEPT, Word};
use abi::shards::{alive_pages, shard_pages};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tracing::info;

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of the engine's pages.
pub fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let now = now.expect("CLOCK_MONOTONIC is always there");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// The pages of one shard; without a name, those of the only one.
///
/// # Errors
/// What to ask for instead.
pub fn pages_of(root: &Path, shard: Option<&str>) -> Result<PathBuf, String> {
    let all = shard_pages(root);
    let names = || all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    match (shard, &all[..]) {
        (_, []) => Err(format!("{}: the engine has not run since the boot", root.display())),
        (None, [(_, only)]) => Ok(only.clone()),
        (None, _) => Err(format!("name one of the shards {} with --shard", names())),
        (Some(name), _) => {
            let found = all.iter().find(|(other, _)| other == name);
            let missing = || format!("{name}: no such shard; there are {}", names());
            found.map(|(_, directory)| directory.clone()).ok_or_else(missing)
        }
    }
}

/// Read positions in the engines' events, by shard: the process ID and the number of the next
/// event.
#[derive(Default)]
pub struct Events(BTreeMap<String, (u32, u64)>);

impl Events {
    /// The hot threads do not log; their events come to the journal here.
    pub fn report(&mut self, root: &Path) {
        for (name, page) in alive_pages(root, monotonic_ns()) {
            let pid = page.word(Word::Pid) as u32;
            let (source, next) = self.0.entry(name.clone()).or_default();
            if *source != pid {
                (*source, *next) = (pid, 0);
            }
            let raised = page.word(Word::Events);
            *next = (*next).max(raised.saturating_sub(EVENTS_KEPT as u64));
            let shown = if name.is_empty() { "engine".into() } else { format!("engine {name}") };
            while *next < raised {
                if let Some((event, value)) = page.event(*next) {
                    info!(target: "engine", event = ?event, value, shard = name, "{shown}: {event:?} ({value})");
                }
                *next += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::control::ControlPage;

    #[test]
    fn a_shard_is_named_if_there_are_several() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("it");
        std::fs::create_dir_all(root.join("b")).unwrap();
        assert!(pages_of(&root, None).unwrap_err().contains("has not run"));
        ControlPage::open(&root.join("b/control")).unwrap();
        assert_eq!(pages_of(&root, None), Ok(root.join("b")));
        std::fs::create_dir_all(root.join("a")).unwrap();
        ControlPage::open(&root.join("a/control")).unwrap();
        assert!(pages_of(&root, None).unwrap_err().contains("a, b"));
        assert_eq!(pages_of(&root, Some("a")), Ok(root.join("a")));
        assert!(pages_of(&root, Some("c")).unwrap_err().contains("there are a, b"));
    }
}
