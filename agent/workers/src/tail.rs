//! The process that reads containers' output: woken by whoever writes, it gives lines to the
//! journal and keeps its places. After a kill it asks the journal how far it had come, so that no
//! line is given twice.

/// Reader of one output file, from a log position on.
pub mod stream;

use crate::tail::stream::{Line, Stream};
use agent_core::limits::{OUTPUT_PAUSE, OUTPUT_RETRY};
use agent_host::container_output::{Files, Kind, Origin, Places, read_origin, stems};
use agent_host::journal::{self, Head, Journal};
use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use tracing::{info, warn};

/// One container's files, being read.
struct Followed {
    files: Files,
    streams: [(Kind, Stream); 2],
    kept: Places,
    /// The origin that the heads are of.
    origin: Origin,
    heads: [Head; 2],
}

/// Reads until it is ended.
///
/// # Errors
/// The directory can't be watched.
pub fn run(directory: &Path, positions: &Path, socket: &Path) -> Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let what = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
    inotify.add_watch(directory, what).with_context(|| format!("watch {}", directory.display()))?;
    let mut tailer = Tailer {
        directory: directory.into(),
        positions: positions.into(),
        socket: socket.into(),
        journal: None,
        followed: BTreeMap::new(),
        synced: false,
    };
    loop {
        // What is written while it reads wakes it again.
        let _ = inotify.read_events();
        match tailer.turn() {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => {
                warn!("output of containers: {error:#}");
                tailer.journal = None;
                std::thread::sleep(OUTPUT_RETRY);
                continue;
            }
        }
        let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::NONE);
        // Lines come in groups: one turn takes what comes within this.
        std::thread::sleep(OUTPUT_PAUSE);
    }
}

struct Tailer {
    directory: PathBuf,
    positions: PathBuf,
    socket: PathBuf,
    journal: Option<Journal>,
    followed: BTreeMap<String, Followed>,
    /// Whether the journal has taken what an earlier process sent.
    synced: bool,
}

impl Tailer {
    /// Reads what is there of every container, some of each; says whether there is more.
    fn turn(&mut self) -> Result<bool> {
        if self.journal.is_none() {
            self.journal = Some(Journal::connect(&self.socket)?);
        }
        let (mut more, mut failed) = (false, None);
        let stems = stems(&self.directory)?;
        self.followed.retain(|stem, _| stems.contains(stem));
        self.forget_all_but(&stems)?;
        for stem in stems {
            match self.read_one(&stem) {
                Ok(is_more) => more |= is_more,
                // One container's files are no reason to leave the others' unread.
                Err(error) => failed = failed.or(Some(error.context(stem))),
            }
        }
        failed.map_or(Ok(more), Err)
    }

    fn read_one(&mut self, stem: &str) -> Result<bool> {
        let files = Files::of(&self.directory, stem);
        let Some(origin) = read_origin(&files)? else { return Ok(false) };
        if !self.followed.contains_key(stem) {
            let followed = self.follow(files, origin.clone())?;
            self.followed.insert(stem.to_owned(), followed);
        }
        let journal = self.journal.as_mut().expect("connected for this turn");
        let followed = self.followed.get_mut(stem).expect("put in above");
        let read = followed.read(journal, origin.ended);
        let is_more = *read.as_ref().unwrap_or(&true);
        followed.keep(&self.positions, origin.ended && !is_more)?;
        read?;
        Ok(is_more)
    }

    /// Removes the places of files that the agent removed.
    fn forget_all_but(&self, stems: &[String]) -> Result<()> {
        let entries = std::fs::read_dir(&self.positions)
            .with_context(|| self.positions.display().to_string())?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let stem = path.file_stem().unwrap_or_default();
            if !stems.iter().any(|known| stem == known.as_str()) {
                std::fs::remove_file(&path)
                    .with_context(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// From where an earlier process was: what it noted, or what the journal has, if that is more.
    fn follow(&mut self, files: Files, origin: Origin) -> Result<Followed> {
        if !self.synced {
            journal::sync(&self.socket)?;
            self.synced = true;
        }
        // An earlier release noted them beside the files.
        let own = Places::path(&self.positions, &files.stem).exists();
        let positions = if own { &self.positions } else { &self.directory };
        let noted = Places::read(positions, &files.stem).bytes;
        let from = |kind: Kind, noted: u64| -> Result<u64> {
            let path = files.stream(kind);
            let is_unread = path.metadata().is_ok_and(|file| file.len() > noted);
            let given = if is_unread { journal::last_place(&files.stem, kind)? } else { None };
            Ok(noted.max(given.unwrap_or(0)))
        };
        let places = [from(Kind::Out, noted[0])?, from(Kind::Err, noted[1])?];
        let streams = [0, 1].map(|at| {
            let kind = Kind::ALL[at];
            (kind, Stream::new(&files.stream(kind), places[at]))
        });
        let heads = Kind::ALL.map(|kind| Head::new(&origin, &files.stem, kind));
        info!("follows {}", files.stem);
        Ok(Followed { files, streams, kept: Places::default(), origin, heads })
    }
}

impl Followed {
    fn read(&mut self, journal: &mut Journal, ended: bool) -> io::Result<bool> {
        let mut more = false;
        for ((kind, stream), head) in self.streams.iter_mut().zip(&self.heads) {
            more |= stream.read(ended, |Line { text, place, is_partial }| {
                journal.line(head, text, place, is_partial)
            })?;
            if stream.left_out > 0 {
                let (name, bytes) = (&self.origin.container, stream.left_out);
                let text = format!(
                    "{bytes} bytes of {name}'s output were left out: it writes faster than the journal takes it"
                );
                warn!("{text}");
                let head = Head::new(&self.origin, &self.files.stem, *kind);
                journal.line(&head, text.as_bytes(), stream.place, false)?;
                stream.left_out = 0;
            }
        }
        Ok(more)
    }

    fn keep(&mut self, positions: &Path, done: bool) -> Result<()> {
        let places = Places { bytes: [0, 1].map(|at| self.streams[at].1.place), done };
        if places != self.kept {
            places.write(positions, &self.files.stem)?;
            self.kept = places;
        }
        Ok(())
    }
}
