//! Keeps the engine's journal: its ring overwrites the oldest file, so every file that the engine
//! has left behind is copied away first, and the oldest copies go when there are too many. Reads
//! the journal, never writes to it.

use abi::journal::Header;
use abi::journal::files::{read_header, segments};
use agent_host::beneath::Beneath;
use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::{info, warn};

/// Between two looks: the engine fills a file in minutes.
const INTERVAL: Duration = Duration::from_secs(2);
/// Copies may take this part of their file system, as one over it.
const SHARE: u64 = 5;

/// The name of a segment's copy.
fn copy_name(header: Header) -> String {
    format!("{:012}-{:020}.qcj", header.segment, header.run)
}

/// Returns the journal segments to be copied, in order: all without a copy, except the newest.
fn to_copy(journal: &[Header], copies: &BTreeMap<Header, u64>) -> Vec<Header> {
    let newest = journal.iter().max();
    let wanted = |name: &&Header| Some(*name) != newest && !copies.contains_key(name);
    let mut names: Vec<_> = journal.iter().filter(wanted).copied().collect();
    names.sort_unstable();
    names
}

/// The oldest copies that go, so that those left have no more than `bytes_max` bytes.
fn to_remove(copies: &BTreeMap<Header, u64>, bytes_max: u64) -> Vec<Header> {
    let mut bytes: u64 = copies.values().sum();
    let mut gone = Vec::new();
    for (name, len) in copies {
        if bytes <= bytes_max {
            break;
        }
        bytes -= len;
        gone.push(*name);
    }
    gone
}

/// Keeps the journal for ever. What goes wrong is said once, until it goes right.
pub async fn keep(journal: PathBuf, archive: PathBuf) {
    let mut failed = false;
    loop {
        let paths = (journal.clone(), archive.clone());
        let round = tokio::task::spawn_blocking(move || keep_all(&paths.0, &paths.1)).await;
        match round.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(()) => failed = false,
            Err(error) if !failed => {
                failed = true;
                warn!("keep {} in {}: {error}", journal.display(), archive.display());
            }
            Err(_) => {}
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The journal itself, and that of each shard in a directory of its own.
fn keep_all(journal: &Path, archive: &Path) -> io::Result<()> {
    let root = match Beneath::open(journal) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        root => root?,
    };
    let names = root.names(Path::new(""))?;
    let is_shard = |name: &&String| root.names(Path::new(name)).is_ok();
    let shards: Vec<&String> = names.iter().filter(is_shard).collect();
    let share = SHARE * (1 + shards.len() as u64);
    keep_once(&root, Path::new(""), archive, share)?;
    for shard in shards {
        keep_once(&root, Path::new(shard), &archive.join(shard), share)?;
    }
    Ok(())
}

/// The segments in a directory of the engine's, which is not root's: neither links nor pipes.
fn segments_beneath(root: &Beneath, directory: &Path) -> io::Result<BTreeMap<Header, PathBuf>> {
    let mut found = BTreeMap::new();
    for name in root.names(directory)?.iter().filter(|name| name.ends_with(".qcj")) {
        let path = directory.join(name);
        if let Some(header) = root.read(&path).and_then(|mut file| read_header(&mut file))? {
            found.insert(header, path);
        }
    }
    Ok(found)
}

/// Copies may take one part of `share` of their file system.
fn keep_once(root: &Beneath, journal: &Path, archive: &Path, share: u64) -> io::Result<()> {
    let found = segments_beneath(root, journal)?;
    if found.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(archive)?;
    let mut copies = copies(archive)?;
    let names: Vec<Header> = found.keys().copied().collect();
    for name in to_copy(&names, &copies) {
        if let Some(len) = copy(root.read(&found[&name])?, name, archive)? {
            copies.insert(name, len);
            info!(segment = name.segment, bytes = len, "journal segment kept");
        } else {
            warn!(segment = name.segment, "journal segment overwritten before it was copied");
        }
    }
    let file_system = nix::sys::statvfs::statvfs(archive)?;
    let bytes_max = file_system.blocks() * file_system.fragment_size() / share;
    for name in to_remove(&copies, bytes_max) {
        std::fs::remove_file(archive.join(copy_name(name)))?;
        info!(segment = name.segment, "oldest journal copy removed: its part of the disk is full");
    }
    Ok(())
}

/// The copies with their lengths.
fn copies(archive: &Path) -> io::Result<BTreeMap<Header, u64>> {
    let found = segments(archive)?.into_iter();
    found.map(|(header, path)| Ok((header, path.metadata()?.len()))).collect()
}

/// Copies a segment under another name first, so that there is never half a copy; `None` if the
/// engine has begun to overwrite it meanwhile.
fn copy(mut from: File, name: Header, archive: &Path) -> io::Result<Option<u64>> {
    let partial = archive.join("copying.partial");
    let mut to = File::create(&partial)?;
    from.seek(SeekFrom::Start(0))?;
    let len = io::copy(&mut from, &mut to)?;
    // Who may read the journal may read its copies.
    let source = from.metadata()?;
    to.set_permissions(Permissions::from_mode(source.mode() & 0o660))?;
    fchown(&to, None, Some(source.gid()))?;
    to.sync_all()?;
    if read_header(&mut from)? != Some(name) {
        std::fs::remove_file(&partial)?;
        return Ok(None);
    }
    std::fs::rename(&partial, archive.join(copy_name(name)))?;
    Ok(Some(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(segment: u64, run: u64) -> Header {
        Header { segment, run }
    }

    #[test]
    fn all_but_the_newest_is_copied_once() {
        let journal = [name(5, 9), name(3, 7), name(4, 9), name(6, 9)];
        let copies = BTreeMap::from([(name(3, 7), 10)]);
        assert_eq!(to_copy(&journal, &copies), [name(4, 9), name(5, 9)]);
        assert_eq!(to_copy(&[name(1, 1)], &BTreeMap::new()), []);
    }

    #[test]
    fn the_oldest_go_first() {
        let copies = BTreeMap::from([(name(1, 1), 10), (name(2, 1), 10), (name(3, 1), 10)]);
        assert_eq!(to_remove(&copies, 30), []);
        assert_eq!(to_remove(&copies, 19), [name(1, 1), name(2, 1)]);
    }

    #[test]
    fn a_round_copies_what_the_engine_left_behind() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("it");
        let (journal, archive) = (root.join("journal"), root.join("archive"));
        keep_all(&journal, &archive).unwrap();
        std::fs::create_dir_all(&journal).unwrap();
        let write = |place: u64, segment: u64| {
            let mut bytes = Header { segment, run: 5 }.encode().to_vec();
            bytes.resize(8192, segment as u8);
            std::fs::write(journal.join(format!("{place:08}.qcj")), bytes).unwrap();
        };
        write(0, 0);
        write(1, 1);
        keep_all(&journal, &archive).unwrap();
        // The ring comes round: segment 2 is where segment 0 was.
        write(0, 2);
        keep_all(&journal, &archive).unwrap();
        let kept = copies(&archive).unwrap();
        assert_eq!(kept.keys().copied().collect::<Vec<_>>(), [name(0, 5), name(1, 5)]);
        std::fs::create_dir_all(journal.join("shard")).unwrap();
        std::fs::copy(journal.join("00000001.qcj"), journal.join("shard/0.qcj")).unwrap();
        std::fs::copy(journal.join("00000000.qcj"), journal.join("shard/1.qcj")).unwrap();
        keep_all(&journal, &archive).unwrap();
        assert_eq!(copies(&archive.join("shard")).unwrap().len(), 1);
        let first = std::fs::read(archive.join(copy_name(name(0, 5)))).unwrap();
        assert_eq!((first.len(), first[8191]), (8192, 0));
        // A link to what only root may read, with a segment's own beginning, is not copied.
        let secret = root.join("secret");
        std::fs::rename(journal.join("00000000.qcj"), &secret).unwrap();
        std::os::unix::fs::symlink(&secret, journal.join("00000000.qcj")).unwrap();
        write(1, 3);
        assert!(keep_all(&journal, &archive).is_err());
        assert!(!copies(&archive).unwrap().contains_key(&name(2, 5)));
    }
}
