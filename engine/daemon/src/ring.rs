//! The io_uring ring of the hot thread and the buffers that the kernel picks for what it receives.
//! One issuer. Completions run only when this thread asks for them (`DEFER_TASKRUN`), or on another
//! core by a thread of the kernel's that submits too (`SQPOLL`).
#![allow(
    unsafe_code,
    reason = "submission entries name memory; the buffer ring is shared with the kernel"
)]

use crate::arena::{Arena, Region};
use crate::host_cpu::{self, Signals, SteadyClock, Tsc};
use crate::limits::{BUFFER_LEN, BUFFERS, COMPLETIONS, RING_ENTRIES, SQPOLL_IDLE_MS};
use crate::net;
use crate::port::{Completion, Port, SLOT_ORDERS, SLOTS, Token, is_stream};
use io_uring::types::{BufRingEntry, Fixed, RecvMsgOut};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use nix::sys::socket::{Shutdown, SockaddrIn, shutdown};
use std::fs::File;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering};

/// The buffer group of all receives.
const GROUP: u16 = 0;

const SLOT_SIGNALS: u32 = SLOTS as u32;
const SLOT_JOURNAL: u32 = SLOT_SIGNALS + 1;

fn pack(token: Token, number: u32) -> u64 {
    (token as u64) << 56 | u64::from(number)
}

fn unpack(data: u64) -> Option<(Token, u32)> {
    let token = match data >> 56 {
        1 => Token::Receive,
        2 => Token::Send,
        3 => Token::Request,
        4 => Token::Connect,
        5 => Token::Journal,
        6 => Token::Signal,
        _ => return None,
    };
    Some((token, data as u32))
}

/// Room for one `SCM_TIMESTAMPING` message: cmsghdr, then three times of two 64-bit words (`struct
/// scm_timestamping`, Documentation/networking/timestamping.rst).
const CONTROL_LEN: usize = 16 + 3 * 16;

fn datagram_header() -> &'static libc::msghdr {
    // SAFETY: a msghdr of zeroes is one without name, vectors and control.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_controllen = CONTROL_LEN;
    Box::leak(Box::new(header))
}

/// A card whose clock is further from the kernel's runs by another time scale, or freely.
const CARD_ERROR_MAX_NS: u64 = 1_000_000;

/// The network card's time stamp if its clock follows the kernel's, or else the kernel's.
#[inline]
fn stamp_in(control: &[u8]) -> Option<u64> {
    let word = |at: usize| Some(u64::from_ne_bytes(*control.get(at..)?.first_chunk()?));
    let kind = word(8)?;
    let level_and_type = (libc::SOL_SOCKET as u64) | (libc::SCM_TIMESTAMPING as u64) << 32;
    let time = |at: usize| Some(word(at)? * 1_000_000_000 + word(at + 8)?);
    let (software, hardware) = (time(16)?, time(48)?);
    let stamp = if hardware.abs_diff(software) <= CARD_ERROR_MAX_NS { hardware } else { software };
    (kind == level_and_type && stamp > 0).then_some(stamp)
}

/// Slots that are streams: orders and snapshots.
pub const STREAMS: usize = SLOTS - SLOT_ORDERS as usize;

/// The place of a slot among the streams.
pub fn stream_of(slot: u32) -> usize {
    (slot - SLOT_ORDERS) as usize
}

/// Files that the ring works on.
pub struct Handles {
    /// Line A, line B, the request server.
    pub sockets: [OwnedFd; 3],
    /// Where orders go, and where snapshots come from.
    pub servers: [Option<SocketAddrV4>; STREAMS],
    /// The signals of the process.
    pub signals: Signals,
    /// The journal's files.
    pub journal: Vec<File>,
}

/// Port over io_uring: the ring with its buffers, sockets and files.
pub struct Ring {
    io: IoUring,
    buffer_ring: Region,
    buffers: Region,
    tail: u16,
    /// A thread of the kernel's submits and completes.
    is_polled: bool,
    /// Number of `io_uring_enter` calls.
    enters: u64,
    clock: SteadyClock,
    tsc: Option<Tsc>,
    /// Message header to receive datagrams with: no name, one control message.
    datagram: &'static libc::msghdr,
    /// For each buffer, where its bytes start and when they came.
    arrivals: Vec<(usize, Option<u64>)>,
    servers: [Option<(SocketAddrV4, &'static libc::sockaddr_in)>; STREAMS],
    streams: [Option<OwnedFd>; STREAMS],
    signals: Signals,
    /// Open as long as the ring, which is dropped before them.
    sockets: [OwnedFd; 3],
    journal_files: Vec<File>,
}

impl Ring {
    /// Sets up the ring for the calling thread, which stays the only one to use it. With
    /// `sqpoll_cpu`, a thread of the kernel's on that CPU makes its system calls.
    ///
    /// # Errors
    /// The step that the kernel refused.
    pub fn new(arena: &mut Arena, handles: Handles, sqpoll_cpu: Option<u32>) -> io::Result<Self> {
        let file_slots = SLOT_JOURNAL + handles.journal.len() as u32;
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_cqsize(COMPLETIONS);
        match sqpoll_cpu {
            Some(cpu) => builder.setup_sqpoll(SQPOLL_IDLE_MS).setup_sqpoll_cpu(cpu),
            None => builder.setup_defer_taskrun().setup_taskrun_flag(),
        };
        let io = builder.build(RING_ENTRIES).map_err(|error| match sqpoll_cpu {
            Some(cpu) => io::Error::other(format!("io_uring, host.sqpoll_cpu {cpu}: {error}")),
            None => io::Error::other(format!("io_uring: {error}")),
        })?;
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
        let servers = handles.servers.map(|server| {
            let address = *SockaddrIn::from(server?).as_ref();
            Some((server?, &*Box::leak(Box::new(address))))
        });
        let mut ring = Self {
            io,
            buffer_ring,
            buffers,
            tail: 0,
            is_polled: sqpoll_cpu.is_some(),
            enters: 0,
            clock: SteadyClock::new(),
            tsc: Tsc::calibrate(),
            datagram: datagram_header(),
            arrivals: vec![(0, None); usize::from(BUFFERS)],
            servers,
            streams: Default::default(),
            signals: handles.signals,
            sockets: handles.sockets,
            journal_files: handles.journal,
        };
        (0..BUFFERS).for_each(|id| ring.provide(id));
        ring.publish_buffers();
        for (slot, socket) in ring.sockets.iter().enumerate() {
            ring.set_file(slot as u32, socket.as_raw_fd())?;
        }
        ring.set_file(SLOT_SIGNALS, ring.signals.as_raw_fd())?;
        for (index, file) in ring.journal_files.iter().enumerate() {
            ring.set_file(SLOT_JOURNAL + index as u32, file.as_raw_fd())?;
        }
        ring.await_signal()?;
        Ok(ring)
    }

    /// Finds the datagram and its time stamp in what `RecvMsgMulti` left in a buffer; returns the
    /// datagram's length.
    #[inline]
    fn unwrap_datagram(&mut self, id: u16, len: usize) -> i32 {
        let bytes = self.buffers.bytes(usize::from(id) * BUFFER_LEN, len.min(BUFFER_LEN));
        let Ok(message) = RecvMsgOut::parse(bytes, self.datagram) else { return 0 };
        let payload = message.payload_data().len();
        self.arrivals[usize::from(id)] = (bytes.len() - payload, stamp_in(message.control_data()));
        payload as i32
    }

    /// Completes once a signal can be read.
    fn await_signal(&mut self) -> io::Result<()> {
        let entry = opcode::PollAdd::new(Fixed(SLOT_SIGNALS), libc::POLLIN as u32).build();
        self.push(entry, Token::Signal, SLOT_SIGNALS)
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
        // SAFETY: cpu_set_t is plain bits, of which CpuSet is a transparent wrapper with the same
        // size.
        let raw: libc::cpu_set_t = unsafe { std::mem::transmute(set) };
        self.io.submitter().register_iowq_aff(&raw)?;
        // One worker writes in order and is enough: batches are few.
        self.io.submitter().register_iowq_max_workers(&mut [2, 2])
    }

    /// Puts a file into a slot; `-1` empties it.
    fn set_file(&self, slot: u32, fd: RawFd) -> io::Result<()> {
        self.io.submitter().register_files_update(slot, &[fd]).map(|_| ())
    }

    fn provide(&mut self, id: u16) {
        let at = usize::from(self.tail & (BUFFERS - 1));
        let address = self.buffers.address(usize::from(id) * BUFFER_LEN) as u64;
        let offset = at * size_of::<BufRingEntry>();
        let entry: *mut BufRingEntry = self.buffer_ring.address(offset).cast();
        // SAFETY: the address is that of entry `at`, below BUFFERS, in a region of BUFFERS entries;
        // the kernel reads entries only up to the tail that `publish_buffers` stores later.
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

    fn push(&mut self, entry: squeue::Entry, token: Token, number: u32) -> io::Result<()> {
        let entry = entry.user_data(pack(token, number));
        while self.io.submission().is_full() {
            self.enter_with(EnterFlags::SQ_WAIT)?;
        }
        // SAFETY: the memory that the entry names lies in a region of the arena or is 'static, and
        // its owner leaves it alone until the completion; regions are never unmapped.
        unsafe { self.io.submission().push(&entry) }.map_err(io::Error::other)
    }
}

impl Ring {
    /// Submits and completes. A thread of the kernel's that does so by itself is woken, and waited
    /// for with `SQ_WAIT` only.
    fn enter_with(&mut self, flags: EnterFlags) -> io::Result<()> {
        self.enters += 1;
        let waiting = self.io.submission().len() as u32;
        let flags = EnterFlags::GETEVENTS
            | if self.is_polled { flags | EnterFlags::SQ_WAKEUP } else { EnterFlags::empty() };
        // SAFETY: the entries were checked when they were pushed; there is no argument.
        let entered = unsafe { self.io.submitter().enter::<()>(waiting, 0, flags.bits(), None) };
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
}

impl Port for Ring {
    #[inline]
    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn monotonic_ns(&self) -> u64 {
        host_cpu::monotonic_ns()
    }

    fn take_clock_step(&mut self) -> bool {
        self.clock.take_step()
    }

    fn tsc(&self) -> Option<(u64, i64)> {
        self.tsc.map(|tsc| (tsc.khz, tsc.error_ppb()))
    }

    fn receive(&mut self, slot: u32) -> io::Result<()> {
        let entry = match slot {
            slot if is_stream(slot) => opcode::RecvMulti::new(Fixed(slot), GROUP).build(),
            // A datagram comes behind its control messages, of which the time stamp is one.
            _ => opcode::RecvMsgMulti::new(Fixed(slot), std::ptr::from_ref(self.datagram), GROUP)
                .build(),
        };
        self.push(entry, Token::Receive, slot)
    }

    #[inline]
    fn received(&self, id: u16, len: usize) -> &[u8] {
        let (offset, _) = self.arrivals[usize::from(id)];
        self.buffers.bytes(usize::from(id) * BUFFER_LEN + offset, len.min(BUFFER_LEN - offset))
    }

    fn received_at(&self, id: u16) -> Option<u64> {
        self.arrivals[usize::from(id)].1
    }

    #[inline]
    fn recycle(&mut self, id: u16) {
        self.provide(id);
        self.publish_buffers();
    }

    fn send(&mut self, slot: u32, region: &Region, len: usize, token: Token) -> io::Result<()> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry =
            opcode::Send::new(Fixed(slot), region.address(0), len as u32).flags(flags).build();
        self.push(entry, token, slot)
    }

    fn connect(&mut self, slot: u32) -> io::Result<()> {
        let (server, address) = self.servers[stream_of(slot)].ok_or(io::ErrorKind::NotConnected)?;
        let socket = net::stream(server).map_err(io::Error::other)?;
        self.set_file(slot, socket.as_raw_fd())?;
        self.streams[stream_of(slot)] = Some(socket);
        let pointer = std::ptr::from_ref(address).cast();
        let len = size_of::<libc::sockaddr_in>() as u32;
        let entry = opcode::Connect::new(Fixed(slot), pointer, len).build();
        self.push(entry, Token::Connect, slot)
    }

    fn disconnect(&mut self, slot: u32) {
        if let Some(socket) = &self.streams[stream_of(slot)] {
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
        }
    }

    fn close(&mut self, slot: u32) {
        // An empty slot is what the next attempt replaces; a failure here shows up there.
        let _ = self.set_file(slot, -1);
        self.streams[stream_of(slot)] = None;
    }

    fn write(
        &mut self,
        place: u32,
        region: &Region,
        at: usize,
        len: usize,
        offset: u64,
        number: u32,
    ) -> io::Result<()> {
        // A file system does not take a write that changes a time stamp without blocking: an
        // attempt on this thread would only cost time before the write goes to a worker.
        let flags = squeue::Flags::ASYNC;
        let slot = Fixed(SLOT_JOURNAL + place);
        let entry = opcode::Write::new(slot, region.address(at), len as u32)
            .offset(offset)
            .build()
            .flags(flags);
        self.push(entry, Token::Journal, number)
    }

    fn take_kill(&mut self) -> io::Result<bool> {
        let kill = self.signals.take_kill();
        self.await_signal()?;
        Ok(kill)
    }

    #[inline]
    fn wants_enter(&mut self) -> bool {
        let queue = self.io.submission();
        if self.is_polled {
            !queue.is_empty() && queue.need_wakeup() || queue.cq_overflow()
        } else {
            !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
        }
    }

    fn enter(&mut self) -> io::Result<()> {
        self.enter_with(EnterFlags::empty())
    }

    #[inline]
    fn next_completion(&mut self) -> Option<Completion> {
        let entry = self.io.completion().next()?;
        let (token, number) = unpack(entry.user_data())?;
        let (buffer, mut result) = (cqueue::buffer_select(entry.flags()), entry.result());
        if let Some(id) = buffer {
            self.arrivals[usize::from(id)] = (0, None);
            if !is_stream(number) && result > 0 {
                result = self.unwrap_datagram(id, result as usize);
            }
        }
        let more = cqueue::more(entry.flags());
        Some(Completion { token, number, result, buffer, more })
    }

    fn syscalls(&self) -> u64 {
        self.enters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_believed_if_its_clock_follows_the_kernels() {
        let control = |kind: u64, software: u64, hardware: u64| {
            let split = |ns: u64| [ns / 1_000_000_000, ns % 1_000_000_000];
            let ([s, sn], [h, hn]) = (split(software), split(hardware));
            let words = [CONTROL_LEN as u64, kind, s, sn, 0, 0, h, hn];
            words.map(u64::to_ne_bytes).concat()
        };
        let stamps = libc::SOL_SOCKET as u64 | (libc::SCM_TIMESTAMPING as u64) << 32;
        let now = 1_700_000_000_123_456_789;
        assert_eq!(stamp_in(&control(stamps, now, now - 900)), Some(now - 900));
        assert_eq!(stamp_in(&control(stamps, now, 0)), Some(now), "no card stamps");
        assert_eq!(stamp_in(&control(stamps, now, now + 37_000_000_000)), Some(now), "TAI");
        assert_eq!(stamp_in(&control(stamps, now, 55_000)), Some(now), "since the card's start");
        assert_eq!(stamp_in(&control(1, now, 0)), None);
        assert_eq!(stamp_in(&[]), None);
    }
}
