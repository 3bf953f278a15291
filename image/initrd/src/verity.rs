//! dm-verity: the root hash of the command line, the superblock of the hash partition, the table
//! that joins them. Source: the kernel's `Documentation/admin-guide/device-mapper/verity.rst` and
//! cryptsetup's on-disk format, version 1.

use crate::gpt;
use crate::signature::DESCRIPTION;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A SHA-256 root hash. Holding one proves that it has 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootHash([u8; 32]);

impl RootHash {
    /// Takes it from the kernel command line.
    pub fn from_cmdline(cmdline: &str) -> Result<Self, String> {
        let word = cmdline.split_ascii_whitespace().find_map(|word| word.strip_prefix("roothash="));
        let text = word.ok_or("the command line has no roothash=")?;
        Self::parse(text).ok_or_else(|| format!("roothash={text}: not 64 hexadecimal digits"))
    }

    fn parse(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// The GUIDs of the data and of the hash partition, as they stand on disk.
    pub fn partition_guids(&self) -> (gpt::DiskGuid, gpt::DiskGuid) {
        let half = |from: usize| gpt::disk_order(std::array::from_fn(|index| self.0[from + index]));
        (half(0), half(16))
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Superblock of the dm-verity hash partition (version 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    hash_type: u32,
    algorithm: String,
    data_block_len: u32,
    hash_block_len: u32,
    data_blocks: u64,
    salt: Vec<u8>,
}

const SUPERBLOCK_LEN: usize = 512;

/// Reads the superblock at the start of the hash partition.
pub fn read_superblock(hash: &Path) -> Result<Superblock, String> {
    let mut bytes = [0; SUPERBLOCK_LEN];
    let read = File::open(hash).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| format!("read {}: {error}", hash.display()))?;
    Superblock::decode(&bytes)
        .ok_or_else(|| format!("{}: not a dm-verity superblock of version 1", hash.display()))
}

impl Superblock {
    fn decode(bytes: &[u8; SUPERBLOCK_LEN]) -> Option<Self> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if &bytes[..8] != b"verity\0\0" || word(8) != 1 {
            return None;
        }
        let name = &bytes[32..64];
        let end = name.iter().position(|byte| *byte == 0)?;
        let algorithm = std::str::from_utf8(&name[..end]).ok()?.to_owned();
        let salt_len = usize::from(u16::from_le_bytes([bytes[80], bytes[81]]));
        let salt = bytes.get(88..88 + salt_len).filter(|_| salt_len <= 256)?.to_vec();
        let plain = !algorithm.is_empty()
            && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let valid = plain && word(64) >= 512 && word(68) >= 512;
        valid.then_some(Self {
            hash_type: word(12),
            algorithm,
            data_block_len: word(64),
            hash_block_len: word(68),
            data_blocks: u64::from(word(72)) | u64::from(word(76)) << 32,
            salt,
        })
    }

    /// The device-mapper table. A corrupt block panics the kernel: a host that goes on with an I/O
    /// error in its root limps, one that restarts is tried again or falls back. `signed`: the
    /// kernel has to find a signature of the root hash that it believes.
    pub fn table(
        &self,
        data: &Path,
        hash: &Path,
        root_hash: &RootHash,
        signed: bool,
    ) -> crate::devicemapper::Table {
        let salt: String = match self.salt.is_empty() {
            true => "-".into(),
            false => self.salt.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        let Self { hash_type, algorithm, data_block_len, hash_block_len, data_blocks, .. } = self;
        let (data, hash) = (data.display(), hash.display());
        let options = match signed {
            false => "1 panic_on_corruption".to_owned(),
            true => format!("3 panic_on_corruption root_hash_sig_key_desc {DESCRIPTION}"),
        };
        // The tree starts one hash block in, behind the superblock.
        let parameters = format!(
            "{hash_type} {data} {hash} {data_block_len} {hash_block_len} {data_blocks} 1 {algorithm} {root_hash} {salt} {options}"
        );
        let sectors = data_blocks * u64::from(*data_block_len) / 512;
        crate::devicemapper::Table { target: "verity", sectors, parameters }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_hash_names_its_partitions() {
        let text = "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210";
        let hash = RootHash::from_cmdline(&format!("quiet roothash={text} ro")).unwrap();
        assert_eq!(hash.to_string(), text);
        let (data, tree) = hash.partition_guids();
        assert_eq!(data[..4], [0x33, 0x22, 0x11, 0x00]);
        assert_eq!(tree[8..], [0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10]);
        for bad in [
            "quiet",
            "roothash=12",
            "roothash=zz112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210",
        ] {
            assert!(RootHash::from_cmdline(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_superblock_becomes_a_table() {
        let mut bytes = [0; SUPERBLOCK_LEN];
        bytes[..8].copy_from_slice(b"verity\0\0");
        bytes[8] = 1;
        bytes[12] = 1;
        bytes[32..38].copy_from_slice(b"sha256");
        bytes[65] = 0x10;
        bytes[69] = 0x10;
        bytes[72] = 3;
        bytes[80] = 2;
        bytes[88..90].copy_from_slice(&[0xab, 0xcd]);
        let superblock = Superblock::decode(&bytes).unwrap();
        let table = |signed| {
            let (a, b) = (Path::new("/dev/a"), Path::new("/dev/b"));
            superblock.table(a, b, &RootHash([0; 32]), signed)
        };
        let signed = table(true).parameters;
        assert!(signed.ends_with(" 3 panic_on_corruption root_hash_sig_key_desc quietcore-root"));
        let table = table(false);
        assert_eq!(table.sectors, 24);
        let zeroes = "0".repeat(64);
        assert_eq!(
            table.parameters,
            format!("1 /dev/a /dev/b 4096 4096 3 1 sha256 {zeroes} abcd 1 panic_on_corruption")
        );
        bytes[8] = 2;
        assert_eq!(Superblock::decode(&bytes), None);
    }
}
