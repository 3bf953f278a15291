//! A stream: connect, receive, one send at a time, close, try again.
//! Moves bytes; what they say is the core's.

use crate::arena::Region;
use crate::limits::RECONNECT_INTERVAL_NS;
use crate::port::{Port, Token};
use std::io;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Down,
    Connecting,
    Up,
    Closing,
}

/// One connection, made again whenever it is lost.
pub struct Link {
    slot: u32,
    phase: Phase,
    retry_at: u64,
    pending: Vec<u8>,
    sending: Region,
    in_flight: Option<usize>,
    receiving: bool,
}

impl Link {
    /// The connection of a slot, which sends from `sending`.
    pub fn new(slot: u32, sending: Region) -> Self {
        Self {
            slot,
            phase: Phase::Down,
            retry_at: 0,
            pending: Vec::with_capacity(sending.len()),
            sending,
            in_flight: None,
            receiving: false,
        }
    }

    /// Gives the memory back. Nothing may be under way.
    pub fn into_memory(self) -> Region {
        self.sending
    }

    /// Starts a connection attempt if one is due. One that can't be made is tried again later.
    pub fn poll(&mut self, now: u64, port: &mut impl Port) {
        if self.phase == Phase::Down && now >= self.retry_at {
            self.retry_at = now + RECONNECT_INTERVAL_NS;
            if port.connect(self.slot).is_ok() {
                self.phase = Phase::Connecting;
            }
        }
    }

    /// The attempt ended. `true` if the connection stands.
    pub fn on_connected(
        &mut self,
        result: i32,
        now: u64,
        port: &mut impl Port,
    ) -> io::Result<bool> {
        if result < 0 {
            self.close(now, port);
            return Ok(false);
        }
        self.phase = Phase::Up;
        self.pending.clear();
        self.receive(port)?;
        Ok(true)
    }

    fn receive(&mut self, port: &mut impl Port) -> io::Result<()> {
        self.receiving = true;
        port.receive(self.slot)
    }

    /// Whether bytes that came now count.
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// A receive ended: out of buffers (go on) or end of the connection. `true` if it is lost.
    pub fn on_receive_ended(&mut self, result: i32, port: &mut impl Port) -> io::Result<bool> {
        self.receiving = false;
        if self.phase == Phase::Up && (result > 0 || result == -libc::ENOBUFS) {
            self.receive(port)?;
            return Ok(false);
        }
        let was_up = self.phase == Phase::Up;
        self.reset(port);
        Ok(was_up)
    }

    /// Keeps bytes for sending; `false` if too many wait.
    pub fn queue(&mut self, bytes: &[u8]) -> bool {
        let fits = self.pending.len() + bytes.len() <= self.sending.len();
        if fits {
            self.pending.extend_from_slice(bytes);
        }
        fits
    }

    /// Whether bytes wait that could be sent now.
    pub fn can_send(&self) -> bool {
        self.phase == Phase::Up && self.in_flight.is_none() && !self.pending.is_empty()
    }

    /// Sends what waits, if nothing is being sent; `true` if something is now.
    pub fn flush(&mut self, port: &mut impl Port) -> io::Result<bool> {
        if !self.can_send() {
            return Ok(false);
        }
        let len = self.pending.len();
        self.sending.bytes_mut(0, len).copy_from_slice(&self.pending);
        self.pending.clear();
        self.in_flight = Some(len);
        port.send(self.slot, &self.sending, len, Token::Send)?;
        Ok(true)
    }

    /// A send ended. `true` if the connection is lost with it.
    pub fn on_sent(&mut self, result: i32, port: &mut impl Port) -> bool {
        let whole = self.in_flight.take().is_some_and(|len| result == len as i32);
        let lost = !whole && self.phase == Phase::Up;
        if lost {
            self.reset(port);
        }
        lost
    }

    /// Ends the connection; [`Self::finish_closing`] closes it once the kernel lets go of it.
    pub fn reset(&mut self, port: &mut impl Port) {
        if self.phase == Phase::Up {
            port.disconnect(self.slot);
            self.phase = Phase::Closing;
        }
        self.pending.clear();
    }

    /// Closes a connection that is over and that the kernel has let go of.
    pub fn finish_closing(&mut self, now: u64, port: &mut impl Port) {
        if self.phase == Phase::Closing && !self.receiving && self.in_flight.is_none() {
            self.close(now, port);
        }
    }

    fn close(&mut self, now: u64, port: &mut impl Port) {
        port.close(self.slot);
        self.phase = Phase::Down;
        self.retry_at = now + RECONNECT_INTERVAL_NS;
    }
}
