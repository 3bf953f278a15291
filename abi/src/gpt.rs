//! Where the root is on a disk image: the entries of a GUID partition table (UEFI 2.10, 5.3.3), as
//! our images have it, with blocks of 512 bytes and 128 entries from block 2 on.

use core::ops::Range;

/// Where the entries begin, in bytes.
pub const ENTRIES_AT: u64 = 1024;
/// Bytes of one entry.
pub const ENTRY_LEN: usize = 128;
/// Bytes of all.
pub const ENTRIES_LEN: usize = 128 * ENTRY_LEN;

/// The type of a root partition for x86-64 as on disk (4f68bce3-e8cd-4db1-96e7-fbcaf984b709).
pub const ROOT_TYPE: [u8; 16] = [
    0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09,
];

/// The bytes of the first root partition, if the entries have one.
pub fn root(entries: &[u8]) -> Option<Range<u64>> {
    let entry = entries.chunks_exact(ENTRY_LEN).find(|entry| entry[..16] == ROOT_TYPE)?;
    let block = |at: usize| Some(u64::from_le_bytes(entry[at..at + 8].try_into().ok()?));
    Some(block(32)?.checked_mul(512)?..block(40)?.checked_add(1)?.checked_mul(512)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_root_is_found_and_nonsense_is_none() {
        let mut entries = vec![0; ENTRIES_LEN];
        assert_eq!(root(&entries), None);
        for (entry, first) in entries.chunks_mut(ENTRY_LEN).skip(2).take(2).zip([100_u64, 900]) {
            entry[..16].copy_from_slice(&ROOT_TYPE);
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&(first + 9).to_le_bytes());
        }
        assert_eq!(root(&entries), Some(51_200..56_320));
        entries[2 * ENTRY_LEN + 32..][..16].fill(0xff);
        assert_eq!(root(&entries), None, "no such disk is so large");
        assert_eq!(root(&[]), None);
    }
}
