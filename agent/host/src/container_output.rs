//! Containers' output. The shim appends each container's standard output and error to files of its
//! own and never waits for a reader; `quietcore-tail.service` reads behind it, gives each line to
//! the journal once, and the space back to the file system. A container that is made anew gets new
//! files, so that a place in one names a line for good.

use crate::files::write_whole;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
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
        write_whole(&files.origin(), &serde_json::to_string(origin)?)?;
        for kind in Kind::ALL {
            // The shim opens them, and makes none.
            let path = files.stream(kind);
            std::fs::File::create(&path).with_context(|| format!("make {}", path.display()))?;
        }
        Ok(files)
    }

    /// Where a stream goes to.
    pub fn stream(&self, kind: Kind) -> PathBuf {
        self.directory.join(format!("{}.{}", self.stem, kind.name()))
    }

    /// Where it is written whose they are.
    pub fn origin(&self) -> PathBuf {
        self.directory.join(format!("{}.json", self.stem))
    }

    /// Returns the path of the file with the log positions read so far.
    pub fn place(&self) -> PathBuf {
        self.directory.join(format!("{}.place", self.stem))
    }
}

/// The stems of all containers in a directory, in order.
///
/// # Errors
/// It can't be read.
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
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => {
            let read = read.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
            read.map(Some).with_context(|| path.display().to_string())
        }
    }
}

/// Says of every container that is not living that it writes no more.
///
/// # Errors
/// What the file system says, with the path.
pub fn end_all_but(directory: &Path, is_living: &dyn Fn(&str) -> bool) -> Result<()> {
    for stem in stems(directory)?.iter().filter(|stem| !is_living(stem)) {
        let files = Files::of(directory, stem);
        if let Some(origin) = read_origin(&files)?.filter(|origin| !origin.ended) {
            let ended = Origin { ended: true, ..origin };
            write_whole(&files.origin(), &serde_json::to_string(&ended)?)?;
        }
    }
    Ok(())
}
