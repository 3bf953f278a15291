//! The GUID partition table, as far as finding a partition by its unique GUID needs it. Pure: bytes
//! in, numbers out. Source: UEFI Specification 2.10, section 5.3.
//!
//! ```text
//! LBA 1   0           72             80          84           88
//!         ┌──────────┬───┬───────────┬───────────┬────────────┬──
//!         │"EFI PART"│ … │ entry LBA │ count u32 │ size u32   │ …      little-endian
//!         └──────────┴───┴───────────┴───────────┴────────────┴──
//! entry   0            16             32 …
//!         │ type GUID  │ unique GUID  │ first and last LBA, flags, name
//! ```

use std::io::{self, Read, Seek, SeekFrom};

/// A partition's unique GUID as it stands on the disk: the first three fields little-endian.
pub type DiskGuid = [u8; 16];

const SIGNATURE: &[u8; 8] = b"EFI PART";
/// Linux shows at most this many partitions of a GPT.
const ENTRIES_MAX: u32 = 256;
/// An entry is 128 bytes times a power of two; nobody uses more than the first.
const ENTRY_LEN_MAX: u32 = 4096;

/// The number (from 1) of the partition with this GUID; `None` if the disk has no GPT or no such
/// partition. Tries logical blocks of 512 and of 4,096 bytes.
pub fn find(disk: &mut (impl Read + Seek), guid: &DiskGuid) -> io::Result<Option<u32>> {
    for block_len in [512, 4096] {
        if let Some(number) = find_with(disk, guid, block_len)? {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

fn find_with(
    disk: &mut (impl Read + Seek),
    guid: &DiskGuid,
    block_len: u64,
) -> io::Result<Option<u32>> {
    let mut header = [0; 92];
    disk.seek(SeekFrom::Start(block_len))?;
    match disk.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    if &header[..8] != SIGNATURE {
        return Ok(None);
    }
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let first = u64::from(word(72)) | u64::from(word(76)) << 32;
    let (count, entry_len) = (word(80).min(ENTRIES_MAX), word(84));
    if !(128..=ENTRY_LEN_MAX).contains(&entry_len) {
        return Ok(None);
    }
    let Some(start) = first.checked_mul(block_len) else { return Ok(None) };
    disk.seek(SeekFrom::Start(start))?;
    let mut entry = vec![0; entry_len as usize];
    for number in 1..=count {
        if disk.read_exact(&mut entry).is_err() {
            return Ok(None);
        }
        if entry[..16] != [0; 16] && entry[16..32] == *guid {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// The on-disk form of a GUID given as its 16 bytes in text order.
pub fn disk_order(text_order: [u8; 16]) -> DiskGuid {
    let mut guid = text_order;
    guid[0..4].reverse();
    guid[4..6].reverse();
    guid[6..8].reverse();
    guid
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn disk(block_len: usize) -> Vec<u8> {
        let mut disk = vec![0; block_len * 40];
        let header = &mut disk[block_len..];
        header[..8].copy_from_slice(SIGNATURE);
        header[72] = 2;
        header[80] = 128;
        header[84] = 128;
        let second = block_len * 2 + 128;
        disk[second] = 1;
        disk[second + 16..second + 32].copy_from_slice(&[7; 16]);
        disk
    }

    #[test]
    fn a_partition_is_found_by_its_guid_on_either_block_size() {
        for block_len in [512, 4096] {
            let mut disk = Cursor::new(disk(block_len));
            assert_eq!(find(&mut disk, &[7; 16]).unwrap(), Some(2));
            assert_eq!(find(&mut disk, &[8; 16]).unwrap(), None);
            assert_eq!(
                find(&mut disk, &[0; 16]).unwrap(),
                None,
                "an unused entry is not a partition"
            );
        }
    }

    #[test]
    fn a_disk_without_gpt_or_a_cut_one_has_no_partitions() {
        assert_eq!(find(&mut Cursor::new(vec![0; 8192]), &[7; 16]).unwrap(), None);
        assert_eq!(find(&mut Cursor::new(vec![0; 10]), &[7; 16]).unwrap(), None);
        let cut = disk(512)[..1100].to_vec();
        assert_eq!(find(&mut Cursor::new(cut), &[7; 16]).unwrap(), None);
    }

    #[test]
    fn guids_are_mixed_endian() {
        let text: [u8; 16] = std::array::from_fn(|i| i as u8);
        assert_eq!(disk_order(text), [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]);
    }
}
