//! Memory that the kernel reads and writes while an operation is under way: mapped once, touched,
//! locked, never given back. Regions are handed out once each, so that no two users share a byte.
#![allow(unsafe_code, reason = "mmap, and slices of memory that the kernel also sees")]

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use std::num::NonZeroUsize;
use std::ptr::NonNull;

/// A huge page of x86-64.
pub const HUGE_PAGE_LEN: usize = 2 << 20;

/// A mapped piece of memory, handed out front to back.
pub struct Arena {
    base: NonNull<u8>,
    len: usize,
    used: usize,
    /// Whether it lies in huge pages.
    pub huge: bool,
}

impl Arena {
    /// Maps `len` bytes, in huge pages if there are any free, and touches every page.
    ///
    /// # Errors
    /// The errno of mmap.
    pub fn new(len: usize) -> nix::Result<Self> {
        let len = len.next_multiple_of(HUGE_PAGE_LEN);
        let huge = MapFlags::MAP_HUGETLB;
        match Self::map(len, huge) {
            Ok(base) => Ok(Self { base, len, used: 0, huge: true }),
            Err(_) => {
                Ok(Self { base: Self::map(len, MapFlags::empty())?, len, used: 0, huge: false })
            }
        }
    }

    fn map(len: usize, extra: MapFlags) -> nix::Result<NonNull<u8>> {
        let length = NonZeroUsize::new(len).ok_or(nix::Error::EINVAL)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_POPULATE | extra;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice replaces no other.
        let base = unsafe { mmap_anonymous(None, length, protection, flags) }?;
        Ok(base.cast())
    }

    /// Hands out `len` bytes on a multiple of 4,096, for the rest of the process's life.
    ///
    /// # Panics
    /// If the arena is used up: its length is a sum over its users, checked at compile time.
    pub fn take(&mut self, len: usize) -> Region {
        let start = self.used.next_multiple_of(4096);
        assert!(start + len <= self.len, "the arena is too small for its users");
        self.used = start + len;
        // SAFETY: `start + len` lies inside the mapping, which is never unmapped.
        let base = unsafe { self.base.add(start) };
        Region { base, len }
    }
}

/// A part of the arena with one owner. The kernel may read or write the parts that its owner handed
/// to it; the owner looks at those only after the completion came.
pub struct Region {
    base: NonNull<u8>,
    len: usize,
}

impl Region {
    /// Bytes in the region.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the region is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of byte `at`, for the kernel.
    pub fn address(&self, at: usize) -> *mut u8 {
        assert!(at <= self.len, "address {at} of a region of {}", self.len);
        self.base.as_ptr().wrapping_add(at)
    }

    /// Reads `len` bytes from `at`.
    #[inline]
    pub fn bytes(&self, at: usize, len: usize) -> &[u8] {
        assert!(at + len <= self.len, "bytes {at}+{len} of a region of {}", self.len);
        // SAFETY: in bounds by the assertion; mapped for the process's life; `&self` keeps the only
        // owner from writing, and the owner reads no part that the kernel is writing.
        unsafe { std::slice::from_raw_parts(self.address(at), len) }
    }

    /// Writes to `len` bytes from `at`.
    #[inline]
    pub fn bytes_mut(&mut self, at: usize, len: usize) -> &mut [u8] {
        assert!(at + len <= self.len, "bytes {at}+{len} of a region of {}", self.len);
        // SAFETY: in bounds by the assertion; `&mut self` is the only owner, and the owner writes
        // no part that the kernel has.
        unsafe { std::slice::from_raw_parts_mut(self.address(at), len) }
    }
}
