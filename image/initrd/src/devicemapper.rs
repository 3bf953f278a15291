//! One read-only device-mapper device, made by ioctl. Source: `linux/dm-ioctl.h`, interface version
//! 4.
//!
//! ```text
//! 0         12         16          20            28       40  48    176    305    312
//! ┌─────────┬──────────┬───────────┬─────────────┬─…──────┬───┬─────┬──────┬──────┬──────────────
//! │ version │ data_size│ data_start│ target_count│ flags …│dev│name │ uuid │ pad  │ target spec …
//! └─────────┴──────────┴───────────┴─────────────┴─…──────┴───┴─────┴──────┴──────┴──────────────
//! ```
#![allow(unsafe_code, reason = "the device-mapper interface is an ioctl")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// A table with one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The target's name.
    pub target: &'static str,
    /// The device's length in sectors of 512 bytes.
    pub sectors: u64,
    /// The target's parameters.
    pub parameters: String,
}

const HEADER_LEN: usize = 312;
const BUFFER_LEN: usize = 4096;
const FLAGS_AT: usize = 28;
const DEV_AT: usize = 40;
const NAME_AT: usize = 48;
const READONLY: u32 = 1;
/// The length of `struct dm_target_spec`.
const SPEC_LEN: usize = 40;

/// `_IOWR(0xfd, number, struct dm_ioctl)`.
const fn request(number: u64) -> u64 {
    3 << 30 | (HEADER_LEN as u64) << 16 | 0xfd << 8 | number
}
const DEV_CREATE: u64 = request(3);
const DEV_SUSPEND: u64 = request(6);
const TABLE_LOAD: u64 = request(9);

/// The ioctl's argument. The alignment is that of the structure's 64-bit fields.
#[repr(align(8))]
struct Argument([u8; BUFFER_LEN]);

impl Argument {
    fn new(name: &str) -> Self {
        let mut bytes = [0; BUFFER_LEN];
        bytes[..12].copy_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes[12..16].copy_from_slice(&(BUFFER_LEN as u32).to_le_bytes());
        bytes[16..20].copy_from_slice(&(HEADER_LEN as u32).to_le_bytes());
        bytes[NAME_AT..NAME_AT + name.len()].copy_from_slice(name.as_bytes());
        Self(bytes)
    }

    fn with_table(mut self, table: &Table) -> Result<Self, String> {
        let parameters_at = HEADER_LEN + SPEC_LEN;
        let end = parameters_at + table.parameters.len();
        if end >= BUFFER_LEN {
            return Err("the device-mapper table is too long".into());
        }
        self.0[20..24].copy_from_slice(&1u32.to_le_bytes());
        self.0[FLAGS_AT..FLAGS_AT + 4].copy_from_slice(&READONLY.to_le_bytes());
        let spec = &mut self.0[HEADER_LEN..];
        spec[8..16].copy_from_slice(&table.sectors.to_le_bytes());
        spec[24..24 + table.target.len()].copy_from_slice(table.target.as_bytes());
        self.0[parameters_at..end].copy_from_slice(table.parameters.as_bytes());
        Ok(self)
    }

    fn call(&mut self, control: &File, request: u64, what: &str) -> Result<(), String> {
        // SAFETY: the kernel reads and writes at most `data_size` bytes of the argument, which is
        // the buffer's length, and keeps no pointer to it.
        let result = unsafe { libc::ioctl(control.as_raw_fd(), request as _, self.0.as_mut_ptr()) };
        match result {
            0.. => Ok(()),
            _ => Err(format!("device mapper: {what}: {}", std::io::Error::last_os_error())),
        }
    }
}

/// Makes the device and returns its node.
pub fn create(name: &str, table: &Table) -> Result<PathBuf, String> {
    let path = Path::new("/dev/mapper/control");
    let control = File::options().read(true).write(true).open(path);
    let control = control.map_err(|error| format!("open {}: {error}", path.display()))?;
    let mut created = Argument::new(name);
    created.call(&control, DEV_CREATE, "create the root device")?;
    Argument::new(name).with_table(table)?.call(
        &control,
        TABLE_LOAD,
        &format!("load \"{}\"", table.parameters),
    )?;
    Argument::new(name).call(&control, DEV_SUSPEND, "start the root device")?;
    let device = u64::from_le_bytes(std::array::from_fn(|index| created.0[DEV_AT + index]));
    // The kernel's huge encoding: the minor's low eight bits, then the major, then the rest.
    let minor = device & 0xff | device >> 12 & 0xfff00;
    Ok(PathBuf::from(format!("/dev/dm-{minor}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_of_the_header() {
        assert_eq!((DEV_CREATE, DEV_SUSPEND, TABLE_LOAD), (0xc138_fd03, 0xc138_fd06, 0xc138_fd09));
    }

    #[test]
    fn a_table_follows_the_header() {
        let table = Table { target: "verity", sectors: 8, parameters: "1 a b".into() };
        let argument = Argument::new("root").with_table(&table).unwrap();
        assert_eq!(&argument.0[NAME_AT..NAME_AT + 5], b"root\0");
        assert_eq!(&argument.0[HEADER_LEN + 24..HEADER_LEN + 31], b"verity\0");
        assert_eq!(&argument.0[HEADER_LEN + SPEC_LEN..][..6], b"1 a b\0");
        let long = Table { parameters: "x".repeat(BUFFER_LEN), ..table };
        assert!(Argument::new("root").with_table(&long).is_err());
    }
}
