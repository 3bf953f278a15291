//! Directory of another user in which root acts: every path is opened beneath the directory part by
//! part, and no link is followed (`O_NOFOLLOW`), so that whoever owns it can't lead root elsewhere.
//! What is read is a regular file; what is written is a file made for it. `openat2(2)` would do so
//! in one call, but a unit with `RestrictSUIDSGID=` has none (systemd.exec(5)).

use nix::dir::Dir;
use nix::fcntl::{AT_FDCWD, OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::fchown;
use std::path::{Component, Path, PathBuf};

/// Directory, held open: what is at its path later makes no difference.
#[derive(Debug)]
pub struct Beneath {
    root: OwnedFd,
    path: PathBuf,
}

/// Directory and name of a relative path.
fn split(path: &Path) -> io::Result<(&Path, &Path)> {
    let name = path.file_name().ok_or_else(|| io::Error::other("a path without a name"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")), Path::new(name)))
}

impl Beneath {
    /// Opens a directory, which is no link itself.
    ///
    /// # Errors
    /// It is missing, no directory, or a link.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = openat(AT_FDCWD, path, flags, Mode::empty())?;
        Ok(Self { root, path: path.into() })
    }

    /// Path of the directory when it was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_at(&self, path: &Path, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
        let mut parts = Vec::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => parts.push(name),
                Component::CurDir => {}
                _ => return Err(io::Error::other("a path that leads out of its directory")),
            }
        }
        let last = parts.pop().unwrap_or(OsStr::new("."));
        let (way, common) =
            (OFlag::O_PATH | OFlag::O_DIRECTORY, OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
        let mut at = self.root.try_clone()?;
        for part in parts {
            at = openat(&at, part, way | common, Mode::empty())?;
        }
        Ok(openat(&at, last, flags | common, mode)?)
    }

    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open_at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
    }

    /// Opens a regular file for reading; a pipe that nobody writes to does not make this wait.
    ///
    /// # Errors
    /// It is missing, is no regular file, or a link is on the way.
    pub fn read(&self, path: &Path) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::from(self.open_at(path, flags, Mode::empty())?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("no regular file")),
        }
    }

    /// Makes a new file in place of whatever has the name now.
    ///
    /// # Errors
    /// File system errors; a link on the way; somebody makes another file at this moment.
    pub fn create(&self, path: &Path) -> io::Result<File> {
        match self.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        self.open_at(path, flags, Mode::from_bits_truncate(0o644)).map(File::from)
    }

    /// Removes a name that is no directory; a link goes itself.
    ///
    /// # Errors
    /// File system errors; a link on the way.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = split(path)?;
        Ok(unlinkat(&self.directory(parent)?, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Renames within the directory.
    ///
    /// # Errors
    /// File system errors; a link on the way to either name.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let ((from, old), (to, new)) = (split(from)?, split(to)?);
        Ok(renameat(&self.directory(from)?, old, &self.directory(to)?, new)?)
    }

    /// Names in a directory beneath, in no order, those that are no UTF-8 left out.
    ///
    /// # Errors
    /// It is missing, no directory, or a link is on the way.
    pub fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut directory = Dir::from_fd(self.directory(path)?)?;
        let mut names = Vec::new();
        for entry in directory.iter() {
            if let Ok(name) = entry?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Makes a directory and those above it that are missing.
    ///
    /// # Errors
    /// File system errors; a link or a file on the way.
    pub fn make_directories(&self, path: &Path) -> io::Result<()> {
        let mut made = PathBuf::new();
        for part in path.iter() {
            let parent = if made.as_os_str().is_empty() { Path::new(".") } else { made.as_path() };
            match mkdirat(&self.directory(parent)?, part, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
            made.push(part);
        }
        self.directory(path).map(drop)
    }

    /// Makes a directory for a user, with those above it that are missing; one that is there stays
    /// as it is.
    ///
    /// # Errors
    /// File system errors; a link or a file on the way.
    pub fn make_directory_for(&self, path: &Path, uid: u32, gid: u32) -> io::Result<()> {
        match self.directory(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            there => return there.map(drop),
        }
        let (parent, name) = split(path)?;
        if parent != Path::new(".") {
            self.make_directories(parent)?;
        }
        mkdirat(&self.directory(parent)?, name, Mode::from_bits_truncate(0o755))?;
        fchown(self.directory(path)?, Some(uid), Some(gid))
    }

    /// Opens whatever is at a path, to name it and no more.
    ///
    /// # Errors
    /// It is missing, or a link is on the way or at its end.
    pub fn place(&self, path: &Path) -> io::Result<OwnedFd> {
        let place = self.open_at(path, OFlag::O_PATH, Mode::empty())?;
        match File::from(place.try_clone()?).metadata()?.is_symlink() {
            true => Err(io::Error::other("a link")),
            false => Ok(place),
        }
    }

    /// Writes a directory's entries to disk.
    ///
    /// # Errors
    /// File system errors; a link on the way.
    pub fn sync(&self, path: &Path) -> io::Result<()> {
        File::from(self.directory(path)?).sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_leads_out_and_none_is_followed_within() {
        let temporary = tempfile::tempdir().unwrap();
        let (inside, outside) = (temporary.path().join("in"), temporary.path().join("out"));
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("victim"), "mine").unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        symlink(outside.join("victim"), inside.join("a/file")).unwrap();
        let beneath = Beneath::open(&inside).unwrap();
        let path = Path::new;
        for bad in ["link/victim", "a/file", "../out/victim", "/etc/passwd", "a/../../out/victim"] {
            assert!(beneath.read(path(bad)).is_err(), "{bad} is read");
        }
        for bad in ["link/x", "../out/x", "link/victim"] {
            assert!(beneath.create(path(bad)).is_err(), "{bad} is made");
            assert!(beneath.remove(path(bad)).is_err(), "{bad} is removed");
            assert!(beneath.rename(path(bad), path("a/b/x")).is_err(), "{bad} is moved");
        }
        assert!(beneath.names(path("link")).is_err());
        assert!(beneath.make_directories(path("link/x")).is_err());
        // In place of a link there is a file now, and what it led to is as it was.
        beneath.create(path("a/file")).unwrap().write_all(b"new").unwrap();
        assert_eq!(std::fs::read_to_string(outside.join("victim")).unwrap(), "mine");
        let mut text = String::new();
        beneath.read(path("a/file")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "new");
        beneath.make_directories(path("c/d")).unwrap();
        beneath.rename(path("a/file"), path("c/d/file")).unwrap();
        beneath.sync(path("c/d")).unwrap();
        assert_eq!(beneath.names(path("c/d")).unwrap(), ["file"]);
        nix::unistd::mkfifo(&inside.join("pipe"), Mode::S_IRWXU).unwrap();
        assert!(beneath.read(path("pipe")).is_err());
        assert!(Beneath::open(&inside.join("link")).is_err());
        // Another directory at the same path is another one.
        std::fs::rename(&inside, temporary.path().join("was")).unwrap();
        symlink(&outside, &inside).unwrap();
        assert_eq!(beneath.names(path("c/d")).unwrap(), ["file"]);
        std::fs::read_dir(&outside).unwrap().for_each(|entry| {
            assert_eq!(entry.unwrap().file_name(), "victim");
        });
    }
}
