//! The two ways of doing without io_uring, kept as honest baselines: epoll, and a spin over
//! non-blocking receives. The loop above is the same. Journal writes are synchronous, so they are
//! measured without a journal. Signals are not read: such an engine ends with its measurement, by
//! `SIGKILL`.

use crate::arena::Region;
use crate::host_cpu::{self, SteadyClock};
use crate::limits::BUFFER_LEN;
use crate::net;
use crate::port::{Completion, Port, SLOTS, Token, is_stream};
use crate::ring::{Handles, STREAMS, stream_of};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, Shutdown, SockaddrIn, connect, recv, send, shutdown};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

/// Kind of baseline: `epoll_wait` or a spin over receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Waits in `epoll_wait`, then receives once from each socket that is ready.
    Epoll,
    /// Tries to receive from every socket in turn, without a break.
    Spin,
}

/// Receive buffers: as many as completions of one turn can hold.
const BUFFERS: usize = 64;
/// The longest wait in `epoll_wait`: the timer's.
const WAIT_MS: u8 = 10;

/// Sockets without a ring.
pub struct Baseline {
    kind: Kind,
    handles: Handles,
    streams: [Option<OwnedFd>; STREAMS],
    epoll: Epoll,
    receiving: [bool; SLOTS],
    completions: VecDeque<Completion>,
    buffers: Vec<[u8; BUFFER_LEN]>,
    free: Vec<u16>,
    clock: SteadyClock,
    syscalls: u64,
}

impl Baseline {
    /// Sockets of the engine under one of the baselines.
    ///
    /// # Errors
    /// The errno of epoll.
    pub fn new(kind: Kind, handles: Handles) -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (slot, socket) in handles.sockets.iter().enumerate() {
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, slot as u64))?;
        }
        Ok(Self {
            kind,
            handles,
            streams: Default::default(),
            epoll,
            receiving: [false; SLOTS],
            completions: VecDeque::with_capacity(2 * BUFFERS),
            buffers: vec![[0; BUFFER_LEN]; BUFFERS],
            free: (0..BUFFERS as u16).collect(),
            clock: SteadyClock::new(),
            syscalls: 0,
        })
    }

    fn fd(&self, slot: u32) -> Option<RawFd> {
        match slot {
            slot if is_stream(slot) => {
                self.streams[stream_of(slot)].as_ref().map(AsRawFd::as_raw_fd)
            }
            _ => self.handles.sockets.get(slot as usize).map(AsRawFd::as_raw_fd),
        }
    }

    fn complete(&mut self, token: Token, number: u32, result: i32) {
        let (buffer, more) = (None, false);
        self.completions.push_back(Completion { token, number, result, buffer, more });
    }

    /// Receives once, if there is anything.
    fn try_receive(&mut self, slot: u32) {
        let (true, Some(fd)) = (self.receiving[slot as usize], self.fd(slot)) else { return };
        let Some(buffer) = self.free.pop() else { return };
        self.syscalls += 1;
        let place = &mut self.buffers[usize::from(buffer)];
        let (result, more) = match recv(fd, place, MsgFlags::MSG_DONTWAIT) {
            Ok(0) if is_stream(slot) => (0, false),
            Ok(len) => (len as i32, true),
            Err(Errno::EAGAIN) => return self.free.push(buffer),
            Err(errno) => (-(errno as i32), false),
        };
        self.receiving[slot as usize] = more;
        let (token, number, buffer) = (Token::Receive, slot, Some(buffer));
        self.completions.push_back(Completion { token, number, result, buffer, more });
    }
}

impl Port for Baseline {
    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn monotonic_ns(&self) -> u64 {
        host_cpu::monotonic_ns()
    }

    fn take_clock_step(&mut self) -> bool {
        self.clock.take_step()
    }

    fn receive(&mut self, slot: u32) -> io::Result<()> {
        self.receiving[slot as usize] = true;
        Ok(())
    }

    fn received(&self, buffer: u16, len: usize) -> &[u8] {
        &self.buffers[usize::from(buffer)][..len]
    }

    fn recycle(&mut self, buffer: u16) {
        self.free.push(buffer);
    }

    fn send(&mut self, slot: u32, region: &Region, len: usize, token: Token) -> io::Result<()> {
        self.syscalls += 1;
        let sent = self
            .fd(slot)
            .ok_or(Errno::ENOTCONN)
            .and_then(|fd| send(fd, region.bytes(0, len), MsgFlags::MSG_NOSIGNAL));
        self.complete(token, slot, sent.map_or_else(|errno| -(errno as i32), |len| len as i32));
        Ok(())
    }

    fn connect(&mut self, slot: u32) -> io::Result<()> {
        let server = self.handles.servers[stream_of(slot)].ok_or(io::ErrorKind::NotConnected)?;
        let socket = net::stream(server).map_err(io::Error::other)?;
        let address = SockaddrIn::from(server);
        let result = match connect(socket.as_raw_fd(), &address) {
            Ok(()) => 0,
            Err(errno) => -(errno as i32),
        };
        self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(slot)))?;
        self.streams[stream_of(slot)] = Some(socket);
        self.complete(Token::Connect, slot, result);
        Ok(())
    }

    fn disconnect(&mut self, slot: u32) {
        if let Some(socket) = &self.streams[stream_of(slot)] {
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
        }
    }

    fn close(&mut self, slot: u32) {
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
        self.syscalls += 1;
        let file = &self.handles.journal[place as usize];
        let written = file.write_all_at(region.bytes(at, len), offset);
        let errno = |error: io::Error| -error.raw_os_error().unwrap_or(libc::EIO);
        self.complete(Token::Journal, number, written.map_or_else(errno, |()| len as i32));
        Ok(())
    }

    fn take_kill(&mut self) -> io::Result<bool> {
        Ok(self.handles.signals.take_kill())
    }

    fn wants_enter(&mut self) -> bool {
        true
    }

    fn enter(&mut self) -> io::Result<()> {
        if !self.completions.is_empty() {
            return Ok(());
        }
        if self.kind == Kind::Spin {
            (0..SLOTS as u32).for_each(|slot| self.try_receive(slot));
            return Ok(());
        }
        let mut events = [EpollEvent::empty(); SLOTS];
        self.syscalls += 1;
        match self.epoll.wait(&mut events, EpollTimeout::from(WAIT_MS)) {
            Ok(count) => {
                for event in &events[..count] {
                    self.try_receive(event.data() as u32);
                }
                Ok(())
            }
            Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    fn syscalls(&self) -> u64 {
        self.syscalls
    }
}
