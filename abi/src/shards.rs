//! Where the pages of an engine lie: in one directory, or in one for each of its shards.

use crate::counters::CountersPage;
use std::path::{Path, PathBuf};

/// The directories of an engine's pages: the root's own, under the empty name, or one for each
/// shard, by name.
pub fn shard_pages(root: &Path) -> Vec<(String, PathBuf)> {
    let mut shards: Vec<_> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("control").exists())
        .filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path)))
        .collect();
    shards.sort();
    if root.join("control").exists() {
        shards.insert(0, (String::new(), root.to_path_buf()));
    }
    shards
}

/// The counters pages of the engines that run, by their shards' names; `now_ns` is of
/// `CLOCK_MONOTONIC`.
pub fn alive_pages(root: &Path, now_ns: u64) -> Vec<(String, CountersPage)> {
    let open = |(name, directory): (String, PathBuf)| {
        let page = CountersPage::open(&directory.join("counters")).ok()?;
        page.is_alive(now_ns).then_some((name, page))
    };
    shard_pages(root).into_iter().filter_map(open).collect()
}
