//! The GUID partition table, as far as finding a partition by its unique GUID needs it. Pure: bytes
//! in, numbers out. Source: UEFI Specification 2.10, section 5.3.
//!
//! ```text
//! LBA 1   0           12     16      24        72             80          84           88
//! or the  ┌──────────┬──────┬─┬─────┬─────────┬────────────┬───────────┬────────────┬──────────┐
//! last    │"EFI PART"│ size │CRC│ … │ own LBA │ entry LBA  │ count u32 │ size u32   │ entries' CRC
//! entry   0            16             32 …                                          little-endian
//!         │ type GUID  │ unique GUID  │ first and last LBA, flags, name
//! ```
//!
//! A power cut while a table is written leaves one of the two whole: a table whose checksums are
//! wrong is none, and the backup at the end of the disk counts.

use std::io::{self, Read, Seek, SeekFrom};

/// A partition's unique GUID as it stands on the disk: the first three fields little-endian.
pub type DiskGuid = [u8; 16];

const SIGNATURE: &[u8; 8] = b"EFI PART";
/// Linux shows at most this many partitions of a GPT.
const ENTRIES_MAX: u32 = 256;
/// An entry is 128 bytes times a power of two; nobody uses more than the first.
const ENTRY_LEN_MAX: u32 = 4096;

/// Bytes of a header that are in its checksum.
const HEADER_LEN: usize = 92;

/// The number (from 1) of the partition with this GUID; `None` if the disk has no whole GPT or no
/// such partition. Tries logical blocks of 512 and of 4,096 bytes, and of each the primary table,
/// then the backup.
pub fn find(disk: &mut (impl Read + Seek), guid: &DiskGuid) -> io::Result<Option<u32>> {
    let len = disk.seek(SeekFrom::End(0))?;
    for block_len in [512, 4096] {
        let last = (len / block_len).saturating_sub(1);
        for block in [1, last] {
            if let Some((entries, entry_len)) = entries(disk, block_len, block)? {
                return Ok(number_of(&entries, entry_len, guid));
            }
        }
    }
    Ok(None)
}

/// Reads the entries of the table whose header is in this block, and the bytes of one; nothing if
/// it is not whole.
fn entries(
    disk: &mut (impl Read + Seek),
    block_len: u64,
    block: u64,
) -> io::Result<Option<(Vec<u8>, usize)>> {
    let Some(header) = read(disk, block * block_len, HEADER_LEN)? else { return Ok(None) };
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let mut summed = header.clone();
    summed[16..20].fill(0);
    let is_whole = header.starts_with(SIGNATURE)
        && word(12) == HEADER_LEN as u32
        && word(16) == crc32(&summed)
        && long(24) == block;
    let (count, entry_len) = (word(80), word(84));
    if !is_whole || count > ENTRIES_MAX || !(128..=ENTRY_LEN_MAX).contains(&entry_len) {
        return Ok(None);
    }
    let Some(start) = long(72).checked_mul(block_len) else { return Ok(None) };
    let entries = read(disk, start, count as usize * entry_len as usize)?;
    Ok(entries.filter(|it| crc32(it) == word(88)).map(|it| (it, entry_len as usize)))
}

/// Reads so many bytes; nothing behind the disk's end.
fn read(disk: &mut (impl Read + Seek), at: u64, len: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; len];
    disk.seek(SeekFrom::Start(at))?;
    match disk.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        read => read.map(|()| Some(bytes)),
    }
}

fn number_of(entries: &[u8], entry_len: usize, guid: &DiskGuid) -> Option<u32> {
    let is_it = |entry: &[u8]| entry[..16] != [0; 16] && entry[16..32] == *guid;
    let at = entries.chunks_exact(entry_len).position(is_it)?;
    u32::try_from(at + 1).ok()
}

/// CRC-32 of ISO 3309, bit by bit: a table has 16 KiB, and no table of the code is as small.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    !crc
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

    /// A header in a block, with the block of its entries.
    fn header(block: u64, first: u64, entries: &[u8]) -> Vec<u8> {
        let mut header = vec![0; HEADER_LEN];
        header[..8].copy_from_slice(SIGNATURE);
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        header[24..32].copy_from_slice(&block.to_le_bytes());
        header[72..80].copy_from_slice(&first.to_le_bytes());
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32(entries).to_le_bytes());
        let crc = crc32(&header);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// Both tables, whose second partition has the GUID `[guid; 16]`.
    fn disk(block_len: usize, guid: u8) -> Vec<u8> {
        let blocks = 100;
        let mut disk = vec![0; block_len * blocks];
        let mut entries = vec![0; 128 * 128];
        entries[128] = 1;
        entries[128 + 16..128 + 32].fill(guid);
        let in_blocks = entries.len().div_ceil(block_len);
        for (block, first) in [(1, 2), (blocks - 1, blocks - 1 - in_blocks)] {
            let header = header(block as u64, first as u64, &entries);
            disk[block * block_len..][..header.len()].copy_from_slice(&header);
            disk[first * block_len..][..entries.len()].copy_from_slice(&entries);
        }
        disk
    }

    fn found(disk: &[u8], guid: u8) -> Option<u32> {
        find(&mut Cursor::new(disk), &[guid; 16]).unwrap()
    }

    #[test]
    fn checksums_are_those_of_the_specification() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_partition_is_found_by_its_guid_on_either_block_size() {
        for block_len in [512, 4096] {
            let disk = disk(block_len, 7);
            assert_eq!(found(&disk, 7), Some(2));
            assert_eq!(found(&disk, 8), None);
            assert_eq!(found(&disk, 0), None, "an unused entry is not a partition");
        }
    }

    #[test]
    fn a_torn_table_is_none_and_the_other_counts() {
        for block_len in [512, 4096] {
            let last = block_len * 99;
            let entries = [block_len * 2, last - (128 * 128_usize).div_ceil(block_len) * block_len];
            for (at, byte) in [(block_len + 24, 2), (block_len + 40, 9), (entries[0] + 300, 1)] {
                let mut torn = disk(block_len, 7);
                torn[at] ^= byte;
                assert_eq!(found(&torn, 7), Some(2), "the primary's byte {at}");
                torn[last + 88] ^= 1;
                assert_eq!(found(&torn, 7), None, "both");
            }
            // The entries are new and the header is old, as between two writes.
            let (old, mut torn) = (disk(block_len, 7), disk(block_len, 8));
            torn[block_len..][..92].copy_from_slice(&old[block_len..][..92]);
            assert_eq!(found(&torn, 8), Some(2), "the backup has the new one");
            let mut torn = disk(block_len, 8);
            torn[last..][..92].copy_from_slice(&old[last..][..92]);
            torn[entries[1]..][..256].copy_from_slice(&old[entries[1]..][..256]);
            assert_eq!(found(&torn, 8), Some(2), "the primary comes first");
        }
    }

    #[test]
    fn a_disk_without_gpt_or_a_cut_one_has_no_partitions() {
        assert_eq!(found(&[0; 8192], 7), None);
        assert_eq!(found(&[0; 10], 7), None);
        assert_eq!(found(&[], 7), None);
        assert_eq!(found(&disk(512, 7)[..1100], 7), None);
    }

    #[test]
    fn guids_are_mixed_endian() {
        let text: [u8; 16] = std::array::from_fn(|i| i as u8);
        assert_eq!(disk_order(text), [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]);
    }
}
