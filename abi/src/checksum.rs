//! CRC-32C, as RFC 3720 (appendix B.4) has it, by the processor's own instruction where there is
//! one. The journal takes it of every record, short ones mostly, for which a library's preparations
//! cost more than the sum itself.
#![allow(
    unsafe_code,
    reason = "a function compiled for SSE 4.2 may be called only where there is one"
)]

/// The checksum of `bytes`.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the detection above says that the processor has the instructions.
        return unsafe { by_processor(bytes) };
    }
    crc32c::crc32c(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn by_processor(bytes: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64};
    let (words, rest) = bytes.as_chunks::<8>();
    let mut crc = u64::from(u32::MAX);
    for word in words {
        crc = _mm_crc32_u64(crc, u64::from_le_bytes(*word));
    }
    let mut crc = crc as u32;
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        crc = _mm_crc32_u32(crc, u32::from_le_bytes(*word));
    }
    rest.iter().fold(crc, |crc, byte| _mm_crc32_u8(crc, *byte)) ^ u32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_librarys() {
        let bytes: Vec<u8> = (0..300u32).map(|at| ((at * 37) >> 3) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(crc32c(&bytes[..len]), crc32c::crc32c(&bytes[..len]), "{len} bytes");
        }
        // RFC 3720, B.4: 32 bytes of zeroes, of ones, and counting up.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&std::array::from_fn::<u8, 32, _>(|at| at as u8)), 0x46dd_794e);
    }
}
