//! Machine interface of the hot loop: receive, send, connect, write, the clock. The loop is the
//! same over io_uring, over the baselines that it is measured against, and over a simulated
//! machine.

use crate::arena::Region;
use std::io;

/// Line A of the feed.
pub const SLOT_LINE_A: u32 = 0;
/// Line B of the feed.
pub const SLOT_LINE_B: u32 = 1;
/// The request server.
pub const SLOT_REQUESTS: u32 = 2;
/// The order-entry connection.
pub const SLOT_ORDERS: u32 = 3;
/// The connection to the snapshot server.
pub const SLOT_SNAPSHOT: u32 = 4;
/// Slots of sockets.
pub const SLOTS: usize = 5;

/// Whether a slot is a stream, connected when it is needed.
pub fn is_stream(slot: u32) -> bool {
    matches!(slot, SLOT_ORDERS | SLOT_SNAPSHOT)
}

/// Operation that a completion is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Token {
    /// A datagram or bytes from a socket slot.
    Receive = 1,
    /// Bytes to a stream.
    Send = 2,
    /// Gap request to the request server.
    Request = 3,
    /// A connection attempt.
    Connect = 4,
    /// A journal batch.
    Journal = 5,
    /// A signal is waiting.
    Signal = 6,
}

/// A finished operation.
#[derive(Debug, Clone, Copy)]
pub struct Completion {
    /// Operation that has finished.
    pub token: Token,
    /// Number of the socket slot or of the journal batch.
    pub number: u32,
    /// Bytes, or minus an errno.
    pub result: i32,
    /// The receive buffer that holds the bytes. Give it back with [`Port::recycle`].
    pub buffer: Option<u16>,
    /// Whether the operation goes on (multishot).
    pub more: bool,
}

/// The machine under the hot loop. Operations complete in any order, but for those of one socket,
/// and bytes that an operation names are left alone until it has.
pub trait Port {
    /// Nanoseconds since the epoch at the start, carried on steadily.
    fn now_ns(&self) -> u64;
    /// Nanoseconds of the clock of the shared pages.
    fn monotonic_ns(&self) -> u64;
    /// Whether somebody has set the wall clock since the last call.
    fn take_clock_step(&mut self) -> bool;

    /// The frequency of the time-stamp counter in kHz and its error in parts per billion, where
    /// there is one to be measured.
    fn tsc(&self) -> Option<(u64, i64)> {
        None
    }

    /// Starts receiving from a slot, again and again, until a completion says otherwise.
    ///
    /// # Errors
    /// What the machine says.
    fn receive(&mut self, slot: u32) -> io::Result<()>;
    /// The bytes of a receive, until its buffer is recycled.
    fn received(&self, buffer: u16, len: usize) -> &[u8];
    /// When the kernel or the network card took the datagram in a buffer: nanoseconds since the
    /// epoch.
    fn received_at(&self, _buffer: u16) -> Option<u64> {
        None
    }
    /// Gives a receive buffer back.
    fn recycle(&mut self, buffer: u16);
    /// Sends the first `len` bytes of a region.
    ///
    /// # Errors
    /// What the machine says.
    fn send(&mut self, slot: u32, region: &Region, len: usize, token: Token) -> io::Result<()>;

    /// Starts to connect a stream.
    ///
    /// # Errors
    /// There is no socket to be had.
    fn connect(&mut self, slot: u32) -> io::Result<()>;
    /// Ends a stream's connection; what is under way on it completes soon.
    fn disconnect(&mut self, slot: u32);
    /// Lets go of a stream's socket, on which nothing is under way any more.
    fn close(&mut self, slot: u32);

    /// Writes `len` bytes of a region to journal file `place` at `offset`, durably.
    ///
    /// # Errors
    /// What the machine says.
    fn write(
        &mut self,
        place: u32,
        region: &Region,
        at: usize,
        len: usize,
        offset: u64,
        number: u32,
    ) -> io::Result<()>;

    /// Takes the signals that came; `true` if all of them were the kill switch. Another signal can
    /// come.
    ///
    /// # Errors
    /// What the machine says.
    fn take_kill(&mut self) -> io::Result<bool>;

    /// Whether [`Self::enter`] has anything to do.
    fn wants_enter(&mut self) -> bool;
    /// Has the machine do what was asked for and say what completed. Does not wait for long.
    ///
    /// # Errors
    /// Only what no later call gets past.
    fn enter(&mut self) -> io::Result<()>;
    /// The next completion, if there is one.
    fn next_completion(&mut self) -> Option<Completion>;
    /// System calls made.
    fn syscalls(&self) -> u64;
}
