//! The order-entry connection over the ring: connect, receive, one send at a time, close, try again.
//! Moves bytes; what they say is the core's.

use crate::arena::{Arena, Region};
use crate::limits::{RECONNECT_INTERVAL_NS, SEND_BUFFER};
use crate::net::{self, NetError};
use crate::ring::{Ring, Token};
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Down,
    Connecting,
    Up,
    Closing,
}

/// One connection, made again whenever it is lost.
pub struct Link {
    server: SocketAddrV4,
    address: &'static libc::sockaddr_in,
    slot: u32,
    phase: Phase,
    socket: Option<OwnedFd>,
    retry_at: u64,
    pending: Vec<u8>,
    sending: Region,
    in_flight: Option<usize>,
    receiving: bool,
}

impl Link {
    /// A connection to `server` through a file slot of the ring.
    pub fn new(server: SocketAddrV4, slot: u32, arena: &mut Arena) -> Self {
        let address = *nix::sys::socket::SockaddrIn::from(server).as_ref();
        Self {
            server,
            address: Box::leak(Box::new(address)),
            slot,
            phase: Phase::Down,
            socket: None,
            retry_at: 0,
            pending: Vec::with_capacity(SEND_BUFFER),
            sending: arena.take(SEND_BUFFER),
            in_flight: None,
            receiving: false,
        }
    }

    /// Starts a connection attempt if one is due.
    ///
    /// # Errors
    /// [`NetError`] if no socket can be had; the next attempt is made later all the same.
    pub fn poll(&mut self, now: u64, ring: &mut Ring) -> Result<(), NetError> {
        if self.phase != Phase::Down || now < self.retry_at {
            return Ok(());
        }
        self.retry_at = now + RECONNECT_INTERVAL_NS;
        let socket = net::orders(self.server)?;
        let started = ring
            .set_file(self.slot, socket.as_raw_fd())
            .and_then(|()| ring.connect(self.slot, self.address));
        if started.is_ok() {
            self.socket = Some(socket);
            self.phase = Phase::Connecting;
        }
        Ok(())
    }

    /// The attempt ended. `true` if the connection stands.
    pub fn on_connected(&mut self, result: i32, now: u64, ring: &mut Ring) -> io::Result<bool> {
        if result < 0 {
            self.close(now, ring);
            return Ok(false);
        }
        self.phase = Phase::Up;
        self.pending.clear();
        self.receive(ring)?;
        Ok(true)
    }

    fn receive(&mut self, ring: &mut Ring) -> io::Result<()> {
        self.receiving = true;
        ring.receive(self.slot)
    }

    /// Whether bytes that came now count.
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// A receive ended: out of buffers (go on) or end of the connection. `true` if it is lost.
    pub fn on_receive_ended(&mut self, result: i32, ring: &mut Ring) -> io::Result<bool> {
        self.receiving = false;
        if self.phase == Phase::Up && (result > 0 || result == -libc::ENOBUFS) {
            self.receive(ring)?;
            return Ok(false);
        }
        let was_up = self.phase == Phase::Up;
        self.reset();
        Ok(was_up)
    }

    /// Keeps bytes for sending; `false` if too many wait.
    pub fn queue(&mut self, bytes: &[u8]) -> bool {
        let fits = self.pending.len() + bytes.len() <= SEND_BUFFER;
        if fits {
            self.pending.extend_from_slice(bytes);
        }
        fits
    }

    /// Whether bytes wait that could be sent now.
    pub fn can_send(&self) -> bool {
        self.phase == Phase::Up && self.in_flight.is_none() && !self.pending.is_empty()
    }

    /// Sends what waits, if nothing is being sent.
    pub fn flush(&mut self, ring: &mut Ring) -> io::Result<()> {
        if !self.can_send() {
            return Ok(());
        }
        let len = self.pending.len();
        self.sending.bytes_mut(0, len).copy_from_slice(&self.pending);
        self.pending.clear();
        self.in_flight = Some(len);
        ring.send(self.slot, &self.sending, 0, len, Token::Send)
    }

    /// A send ended. `true` if the connection is lost with it.
    pub fn on_sent(&mut self, result: i32) -> bool {
        let whole = self.in_flight.take().is_some_and(|len| result == len as i32);
        let lost = !whole && self.phase == Phase::Up;
        if lost {
            self.reset();
        }
        lost
    }

    /// Ends the connection; [`Self::finish_closing`] closes it once the kernel lets go of it.
    pub fn reset(&mut self) {
        if let (Phase::Up, Some(socket)) = (self.phase, &self.socket) {
            let _ =
                nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
            self.phase = Phase::Closing;
        }
        self.pending.clear();
    }

    /// Closes a connection that is over and that the kernel has let go of.
    pub fn finish_closing(&mut self, now: u64, ring: &mut Ring) {
        if self.phase == Phase::Closing && !self.receiving && self.in_flight.is_none() {
            self.close(now, ring);
        }
    }

    fn close(&mut self, now: u64, ring: &mut Ring) {
        // An empty slot is what the next attempt replaces; a failure here shows up there.
        let _ = ring.set_file(self.slot, -1);
        self.socket = None;
        self.phase = Phase::Down;
        self.retry_at = now + RECONNECT_INTERVAL_NS;
    }
}
