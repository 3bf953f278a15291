//! Containers' output. The shim appends each container's standard output and error to files of its
//! own and never waits for a reader; `quietcore-tail.service` reads behind it, gives each line to
//! the journal once, and the space back to the file system. A container that is made anew gets new
//! files, so that a place in one names a line for good. Only the agent makes and removes files in
//! their directory: the shim opens them by their names, as root. The tailer reads what containers
//! write, is a user of its own, and notes its places in a directory of its own.

use crate::files::{read_up_to, write_whole};
use agent_core::limits::METADATA_LEN_MAX;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::{OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Standard output, or standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Standard output, file extension `out`.
    Out,
    /// Standard error, file extension `err`.
    Err,
}

impl Kind {
    /// Both kinds, standard output first.
    pub const ALL: [Self; 2] = [Self::Out, Self::Err];

    /// As it stands in names of files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Err => "err",
        }
    }
}

/// Whose output it is: `STEM.json` beside `STEM.out` and `STEM.err`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Name of the container.
    pub container: String,
    /// Name of the service.
    pub service: String,
    /// Name of the image.
    pub image: String,
    /// The digest of its image.
    pub digest: String,
    /// The number of the service's version.
    pub generation: u64,
    /// Whether it writes no more: what is read to the end can go.
    #[serde(default)]
    pub ended: bool,
}

/// The instance that a container of this name was made for: names of containers are stems of their
/// output.
pub fn instance_of(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(instance, _)| instance)
}

/// The files of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Their common stem.
    pub stem: String,
    directory: PathBuf,
}

impl Files {
    /// Those of a stem.
    pub fn of(directory: &Path, stem: &str) -> Self {
        Self { stem: stem.into(), directory: directory.into() }
    }

    /// New ones, whose stem no container had before.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub fn begin(directory: &Path, origin: &Origin) -> Result<Self> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let mut stem = format!("{}-{nanos:x}", origin.container);
        // A clock that was put back.
        while directory.join(format!("{stem}.json")).exists() {
            stem.push('x');
        }
        let files = Self::of(directory, &stem);
        // First: streams without it would stay for ever.
        files.write_origin(origin)?;
        // The tailer's group is the directory's.
        let group = directory.metadata().with_context(|| directory.display().to_string())?.gid();
        for kind in Kind::ALL {
            // The shim opens them, and makes none.
            let path = files.stream(kind);
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            made.and_then(|file| {
                fchown(&file, None, Some(group))?;
                file.set_permissions(Permissions::from_mode(0o660))
            })
            .with_context(|| format!("make {}", path.display()))?;
        }
        Ok(files)
    }

    fn write_origin(&self, origin: &Origin) -> Result<()> {
        write_whole(&self.origin(), &serde_json::to_string(origin)?)
    }

    /// Where a stream goes to.
    pub fn stream(&self, kind: Kind) -> PathBuf {
        self.directory.join(format!("{}.{}", self.stem, kind.name()))
    }

    /// Where it is written whose they are.
    pub fn origin(&self) -> PathBuf {
        self.directory.join(format!("{}.json", self.stem))
    }

    /// Removes them. The origin goes last: as long as it is there the rest is removed again.
    fn remove(&self) -> Result<()> {
        let [out, err] = Kind::ALL.map(|kind| self.stream(kind));
        // Places were here before the tailer had a directory of its own.
        let place = Places::path(&self.directory, &self.stem);
        for path in [out, err, place, self.origin()] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Log positions of a container: two numbers of bytes, and `done` once everything was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Places {
    /// Bytes of standard output and of standard error that the journal has.
    pub bytes: [u64; 2],
    /// True if the container has ended and all of its output was read.
    pub done: bool,
}

impl Places {
    /// Path of the file with a stem's, in the tailer's directory.
    pub fn path(positions: &Path, stem: &str) -> PathBuf {
        positions.join(format!("{stem}.place"))
    }

    /// Reads a stem's; none without a file, or with one that is no such.
    pub fn read(positions: &Path, stem: &str) -> Self {
        let text = read_up_to(&Self::path(positions, stem), METADATA_LEN_MAX);
        let text = text.ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        let mut words = text.split_whitespace();
        let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        let bytes = [number(), number()];
        Self { bytes, done: words.next() == Some("done") }
    }

    /// Replaces a stem's.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub fn write(&self, positions: &Path, stem: &str) -> Result<()> {
        let path = Self::path(positions, stem);
        let next = path.with_extension("next");
        let done = if self.done { " done" } else { "" };
        std::fs::write(&next, format!("{} {}{done}\n", self.bytes[0], self.bytes[1]))
            .and_then(|()| std::fs::rename(&next, &path))
            .with_context(|| format!("write {}", path.display()))
    }
}

/// The stems of all containers in a directory, in order.
///
/// # Errors
/// The directory can't be read.
pub fn stems(directory: &Path) -> Result<Vec<String>> {
    let named = || format!("read {}", directory.display());
    let entries = std::fs::read_dir(directory).with_context(named)?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut stems: Vec<String> =
        names.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned())).collect();
    stems.sort();
    Ok(stems)
}

/// Reads whose output it is; nothing if it is gone.
///
/// # Errors
/// It can't be understood.
pub fn read_origin(files: &Files) -> Result<Option<Origin>> {
    let path = files.origin();
    match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => {
            let read = read.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
            read.map(Some).with_context(|| path.display().to_string())
        }
    }
}

/// Says of every container that is not living that it writes no more, and removes the files of
/// those whose output the tailer has read to the end.
///
/// # Errors
/// What the file system says, with the path.
pub fn end_all_but(
    directory: &Path,
    positions: &Path,
    is_living: &dyn Fn(&str) -> bool,
) -> Result<()> {
    for stem in stems(directory)?.iter().filter(|stem| !is_living(stem)) {
        let files = Files::of(directory, stem);
        match read_origin(&files)? {
            Some(origin) if !origin.ended => {
                files.write_origin(&Origin { ended: true, ..origin })?;
            }
            Some(_) if Places::read(positions, stem).done => files.remove()?,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_goes_once_it_has_ended_and_was_read() {
        let temporary = tempfile::tempdir().unwrap();
        let (logs, positions) = (temporary.path().join("logs"), temporary.path().join("places"));
        std::fs::create_dir(&logs).unwrap();
        std::fs::create_dir(&positions).unwrap();
        let origin = Origin { container: "a".into(), ..Origin::default() };
        let files = Files::begin(&logs, &origin).unwrap();
        let mode = files.stream(Kind::Out).metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o660);
        let places = Places { bytes: [7, 0], done: true };
        places.write(&positions, &files.stem).unwrap();
        assert_eq!(Places::read(&positions, &files.stem), places);
        // Read to the end is none while it runs.
        end_all_but(&logs, &positions, &|_| true).unwrap();
        assert!(!read_origin(&files).unwrap().unwrap().ended);
        end_all_but(&logs, &positions, &|_| false).unwrap();
        assert!(read_origin(&files).unwrap().unwrap().ended);
        Places { done: false, ..places }.write(&positions, &files.stem).unwrap();
        end_all_but(&logs, &positions, &|_| false).unwrap();
        assert!(files.stream(Kind::Err).exists());
        // What the tailer's directory has is not believed further than that.
        let place = Places::path(&positions, &files.stem);
        std::fs::remove_file(&place).unwrap();
        std::os::unix::fs::symlink(files.origin(), &place).unwrap();
        end_all_but(&logs, &positions, &|_| false).unwrap();
        std::fs::remove_file(&place).unwrap();
        places.write(&positions, &files.stem).unwrap();
        end_all_but(&logs, &positions, &|_| false).unwrap();
        assert_eq!(stems(&logs).unwrap(), Vec::<String>::new());
        assert_eq!(std::fs::read_dir(&logs).unwrap().count(), 0);
    }
}
