//! The io_uring ring of the hot thread and the buffers that the kernel picks for what it receives.
//! One issuer, completions run only when this thread asks for them (`DEFER_TASKRUN`).
#![allow(
    unsafe_code,
    reason = "submission entries name memory; the buffer ring is shared with the kernel"
)]

use crate::arena::{Arena, Region};
use crate::limits::{BUFFER_LEN, BUFFERS, COMPLETIONS, RING_ENTRIES};
use io_uring::types::{BufRingEntry, Fixed};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU16, Ordering};

/// The buffer group of all receives.
const GROUP: u16 = 0;

/// What a completion is about: the kind in the top byte, a number below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Token {
    /// A datagram or bytes from a socket slot.
    Receive = 1,
    /// Bytes to the exchange.
    Send = 2,
    /// A re-request.
    Request = 3,
    /// A connection attempt.
    Connect = 4,
    /// A journal batch.
    Journal = 5,
    /// A signal is waiting.
    Signal = 6,
}

impl Token {
    fn pack(self, number: u32) -> u64 {
        (self as u64) << 56 | u64::from(number)
    }

    fn unpack(data: u64) -> Option<(Self, u32)> {
        let token = match data >> 56 {
            1 => Self::Receive,
            2 => Self::Send,
            3 => Self::Request,
            4 => Self::Connect,
            5 => Self::Journal,
            6 => Self::Signal,
            _ => return None,
        };
        Some((token, data as u32))
    }
}

/// A finished operation.
#[derive(Debug, Clone, Copy)]
pub struct Completion {
    /// What kind.
    pub token: Token,
    /// Which one.
    pub number: u32,
    /// Bytes, or minus an errno.
    pub result: i32,
    /// The receive buffer that holds the bytes. Give it back with [`Ring::recycle`].
    pub buffer: Option<u16>,
    /// Whether the operation goes on (multishot).
    pub more: bool,
}

/// The ring.
pub struct Ring {
    io: IoUring,
    buffer_ring: Region,
    buffers: Region,
    tail: u16,
    /// `io_uring_enter` calls.
    pub enters: u64,
}

impl Ring {
    /// Sets up the ring for the calling thread, which stays the only one to use it.
    ///
    /// # Errors
    /// The step that the kernel refused.
    pub fn new(arena: &mut Arena, file_slots: u32) -> io::Result<Self> {
        let io = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(COMPLETIONS)
            .build(RING_ENTRIES)?;
        io.submitter().register_files_sparse(file_slots)?;
        let entry = size_of::<BufRingEntry>();
        let buffer_ring = arena.take(usize::from(BUFFERS) * entry);
        let buffers = arena.take(usize::from(BUFFERS) * BUFFER_LEN);
        // SAFETY: the region is page-aligned, holds BUFFERS entries, is used for nothing else and
        // outlives the ring, because the arena is never unmapped.
        unsafe {
            io.submitter().register_buf_ring_with_flags(
                buffer_ring.address(0) as u64,
                BUFFERS,
                GROUP,
                0,
            )
        }?;
        let mut ring = Self { io, buffer_ring, buffers, tail: 0, enters: 0 };
        (0..BUFFERS).for_each(|id| ring.provide(id));
        ring.publish_buffers();
        Ok(ring)
    }

    /// Keeps the workers that write the journal on these CPUs. By default they would share the hot
    /// thread's own core.
    ///
    /// # Errors
    /// The errno: `EINVAL` if the cpuset has none of them.
    pub fn keep_workers_on(&self, cpus: impl Iterator<Item = u32>) -> io::Result<()> {
        let mut set = nix::sched::CpuSet::new();
        for cpu in cpus {
            set.set(cpu as usize).map_err(io::Error::from)?;
        }
        // SAFETY: cpu_set_t is plain bits, of which CpuSet is a transparent wrapper with the same size.
        let raw: libc::cpu_set_t = unsafe { std::mem::transmute(set) };
        self.io.submitter().register_iowq_aff(&raw)?;
        // One worker writes in order and is enough: batches are few.
        self.io.submitter().register_iowq_max_workers(&mut [2, 2])
    }

    /// Puts a file into a slot; `-1` empties it.
    ///
    /// # Errors
    /// The errno of the registration.
    pub fn set_file(&self, slot: u32, fd: RawFd) -> io::Result<()> {
        self.io.submitter().register_files_update(slot, &[fd]).map(|_| ())
    }

    fn provide(&mut self, id: u16) {
        let at = usize::from(self.tail & (BUFFERS - 1));
        let address = self.buffers.address(usize::from(id) * BUFFER_LEN) as u64;
        let offset = at * size_of::<BufRingEntry>();
        let entry: *mut BufRingEntry = self.buffer_ring.address(offset).cast();
        // SAFETY: the address is that of entry `at`, below BUFFERS, in a region of BUFFERS entries; the
        // kernel reads entries only up to the tail that `publish_buffers` stores later.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(BUFFER_LEN as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish_buffers(&self) {
        let entries: *const BufRingEntry = self.buffer_ring.address(0).cast();
        // SAFETY: `entries` points at the registered ring, whose first entry holds the tail.
        let tail = unsafe { BufRingEntry::tail(entries) };
        // SAFETY: the tail is a 16-bit word inside the region, shared with the kernel, which only
        // reads it; an atomic store with release order is how the interface is specified.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// The bytes of a receive, until its buffer is recycled.
    #[inline]
    pub fn received(&self, id: u16, len: usize) -> &[u8] {
        self.buffers.bytes(usize::from(id) * BUFFER_LEN, len.min(BUFFER_LEN))
    }

    /// Gives a receive buffer back to the kernel.
    #[inline]
    pub fn recycle(&mut self, id: u16) {
        self.provide(id);
        self.publish_buffers();
    }

    /// Starts receiving from a socket slot, again and again, until a completion says otherwise.
    pub fn receive(&mut self, slot: u32) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(Fixed(slot), GROUP).build();
        self.push(entry, Token::Receive, slot)
    }

    /// Sends `len` bytes of a region that the caller leaves alone until the completion.
    pub fn send(
        &mut self,
        slot: u32,
        region: &Region,
        at: usize,
        len: usize,
        token: Token,
    ) -> io::Result<()> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry =
            opcode::Send::new(Fixed(slot), region.address(at), len as u32).flags(flags).build();
        self.push(entry, token, slot)
    }

    /// Writes `len` bytes of a region to a file slot at `offset`, durably.
    pub fn write(
        &mut self,
        slot: u32,
        region: &Region,
        at: usize,
        len: usize,
        offset: u64,
        number: u32,
    ) -> io::Result<()> {
        // A file system does not take a write that changes a time stamp without blocking: an attempt on
        // this thread would only cost time before the write goes to a worker.
        let flags = squeue::Flags::ASYNC;
        let entry = opcode::Write::new(Fixed(slot), region.address(at), len as u32)
            .offset(offset)
            .build()
            .flags(flags);
        self.push(entry, Token::Journal, number)
    }

    /// Connects a socket slot. `address` lives until the completion: its owner keeps it in place.
    pub fn connect(&mut self, slot: u32, address: &'static libc::sockaddr_in) -> io::Result<()> {
        let pointer = std::ptr::from_ref(address).cast();
        let entry =
            opcode::Connect::new(Fixed(slot), pointer, size_of::<libc::sockaddr_in>() as u32)
                .build();
        self.push(entry, Token::Connect, slot)
    }

    /// Completes once the file in a slot can be read.
    pub fn await_readable(&mut self, slot: u32, token: Token) -> io::Result<()> {
        let entry = opcode::PollAdd::new(Fixed(slot), libc::POLLIN as u32).build();
        self.push(entry, token, slot)
    }

    fn push(&mut self, entry: squeue::Entry, token: Token, number: u32) -> io::Result<()> {
        let entry = entry.user_data(token.pack(number));
        if self.io.submission().is_full() {
            self.enter()?;
        }
        // SAFETY: the memory that the entry names lies in a region of the arena or is 'static, and
        // its owner leaves it alone until the completion; regions are never unmapped.
        unsafe { self.io.submission().push(&entry) }.map_err(io::Error::other)
    }

    /// Whether the kernel has completions that it runs only when asked, or entries wait to be submitted.
    #[inline]
    pub fn wants_enter(&mut self) -> bool {
        let queue = self.io.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Submits what waits and runs what completed. Does not wait.
    ///
    /// # Errors
    /// The errno of `io_uring_enter`, but for those that a later call gets past.
    pub fn enter(&mut self) -> io::Result<()> {
        self.enters += 1;
        let waiting = self.io.submission().len() as u32;
        // SAFETY: the entries were checked when they were pushed; there is no argument.
        let entered = unsafe {
            self.io.submitter().enter::<()>(waiting, 0, EnterFlags::GETEVENTS.bits(), None)
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The next completion, if there is one.
    #[inline]
    pub fn next_completion(&mut self) -> Option<Completion> {
        let entry = self.io.completion().next()?;
        let (token, number) = Token::unpack(entry.user_data())?;
        Some(Completion {
            token,
            number,
            result: entry.result(),
            buffer: cqueue::buffer_select(entry.flags()),
            more: cqueue::more(entry.flags()),
        })
    }
}
