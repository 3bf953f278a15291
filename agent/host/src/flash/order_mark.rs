//! Mark of the order that installed a disk, in the boot code of its protective MBR, which nothing
//! uses and who changes a GPT leaves as it is (the gap before the first partition is discarded by
//! systemd-repart): what an order with `wipe` has installed, the same order does not erase at the
//! next boot from the network.

use crate::flash::Source;
use agent_core::digest;
use sha2::{Digest, Sha256};
use std::io;

/// Bytes of the mark; the boot code has 440 (UEFI 2.10, 5.2.3).
pub const MARK_LEN: usize = 128;
/// Offset of the mark on the disk.
pub const MARK_AT: u64 = 0;

/// Mark of an order to install on a disk; another token makes it another order.
pub fn mark_of(disk: &str, token: &str) -> [u8; MARK_LEN] {
    let hash = Sha256::digest(format!("quietcore installation\n{disk}\n{token}\n"));
    let text = format!("quietcore installed by order {}\n", digest::hex(&hash));
    let mut mark = [0; MARK_LEN];
    mark[..text.len()].copy_from_slice(text.as_bytes());
    mark
}

/// Image with the mark of an order in it.
pub struct Marked<S> {
    /// Image without a mark.
    pub image: S,
    /// Mark that goes onto the disk.
    pub mark: [u8; MARK_LEN],
}

impl<S: Source> Source for Marked<S> {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.image.read_at(bytes, offset)?;
        let marked = bytes.iter_mut().zip(self.mark.iter().skip(offset as usize));
        marked.for_each(|(byte, mark)| *byte = *mark);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Image(Vec<u8>);

    impl Source for Image {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
            bytes.copy_from_slice(&self.0[offset as usize..][..bytes.len()]);
            Ok(())
        }
    }

    #[test]
    fn the_mark_is_at_the_start_whatever_is_read_at_once() {
        let mark = mark_of("/dev/disk/by-id/x", "1");
        let plain = vec![7; (2 << 20) + 4096];
        let image = Marked { image: Image(plain.clone()), mark };
        let mut expected = plain;
        expected[..MARK_LEN].copy_from_slice(&mark);
        for step in [512, 700, 1 << 20] {
            let mut read = vec![0; expected.len()];
            for (number, part) in read.chunks_mut(step).enumerate() {
                image.read_at(part, (number * step) as u64).unwrap();
            }
            assert!(read == expected, "{step} bytes at once");
        }
    }

    #[test]
    fn another_disk_or_token_is_another_order() {
        let mark = mark_of("/dev/disk/by-id/x", "1");
        assert_eq!(mark, mark_of("/dev/disk/by-id/x", "1"));
        assert_ne!(mark, mark_of("/dev/disk/by-id/x", "2"));
        assert_ne!(mark, mark_of("/dev/disk/by-id/y", "1"));
    }
}
