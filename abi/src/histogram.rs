//! The buckets of a histogram of times: eight linear steps for each power of two.

/// Buckets, up to 2^34 ns.
pub const BUCKETS: usize = 256;

/// The bucket of a time: eight linear steps per power of two.
pub fn bucket_of(nanos: u64) -> usize {
    if nanos < 8 {
        return nanos as usize;
    }
    let exponent = nanos.ilog2() as usize;
    ((exponent - 2) * 8 + ((nanos >> (exponent - 3)) & 7) as usize).min(BUCKETS - 1)
}

/// The least time that falls into a bucket.
pub fn bucket_floor(bucket: usize) -> u64 {
    if bucket < 8 {
        return bucket as u64;
    }
    let exponent = bucket / 8 + 2;
    (8 + bucket as u64 % 8) << (exponent - 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous() {
        for nanos in (0..100_000).chain([1 << 33, u64::MAX]) {
            let bucket = bucket_of(nanos);
            assert!(bucket_floor(bucket) <= nanos);
            assert!(bucket == BUCKETS - 1 || nanos < bucket_floor(bucket + 1), "{nanos}");
        }
    }
}
