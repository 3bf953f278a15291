//! A read-only block device over a file, for a file system that mounts no files. Source:
//! `linux/loop.h`.
#![allow(unsafe_code, reason = "the loop interface is an ioctl")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const LOOP_SET_FD: i32 = 0x4c00;
const LOOP_CTL_GET_FREE: i32 = 0x4c82;

nix::ioctl_none_bad!(loop_ctl_get_free, LOOP_CTL_GET_FREE);
nix::ioctl_write_int_bad!(loop_set_fd, LOOP_SET_FD);

/// Makes the device. It is as read-only as the file was opened.
pub fn over(file: &Path) -> Result<PathBuf, String> {
    let open =
        |path: &Path| File::open(path).map_err(|error| format!("open {}: {error}", path.display()));
    let (backing, control) = (open(file)?, open(Path::new("/dev/loop-control"))?);
    // SAFETY: the call takes no argument, and the descriptor is open.
    let number = unsafe { loop_ctl_get_free(control.as_raw_fd()) };
    let number = number.map_err(|error| format!("no free loop device: {error}"))?;
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let device = open(&path)?;
    // SAFETY: both descriptors are open; the kernel takes its own reference to the file.
    let set = unsafe { loop_set_fd(device.as_raw_fd(), backing.as_raw_fd()) };
    set.map_err(|error| format!("{} over {}: {error}", path.display(), file.display()))?;
    Ok(path)
}
