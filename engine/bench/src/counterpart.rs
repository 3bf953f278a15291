//! The engine's counterpart in a measurement: one feed line, one order-entry port, one instrument,
//! and as little as possible in between.

use crate::path::{answer_to, delete, directory_of, quote, trading_of};
use abi::control::ControlPage;
use abi::counters::{Counter, CountersPage, State};
use abi::field::{Alpha, Side};
use abi::itch::Message;
use abi::mold::{PacketBuilder, Session};
use abi::soup::{LoginAccepted, Packet};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};
use std::collections::HashMap;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const BID: u32 = 1_000_000;
const ASK: u32 = 1_000_500;
const CENT: u32 = 100;

/// Counts of system calls, page faults and voluntary context switches of the engine so far.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub syscalls: u64,
    pub faults: u64,
    pub switches: u64,
}

/// An engine under measurement and what it talks to.
pub struct Counterpart {
    child: Child,
    directory: PathBuf,
    page: CountersPage,
    feed: UdpSocket,
    line: SocketAddrV4,
    orders: TcpStream,
    stream: Vec<u8>,
    sides: HashMap<u32, Side>,
    sequence: u64,
    order_ref: u64,
    better: Option<u64>,
    _requests: UdpSocket,
}

impl Drop for Counterpart {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn config(
    line: SocketAddrV4,
    requests: u16,
    orders: u16,
    directory: &Path,
    sqpoll: bool,
) -> String {
    let sqpoll = if sqpoll { ", sqpoll_cpu = 0" } else { "" };
    let (group, port, directory) = (line.ip(), line.port(), directory.display());
    format!(
        r#"version = 1
host = {{ contract = "report", cpu = 1{sqpoll} }}
feed = {{ line_a = "{group}:{port}", line_b = "{group}:{}", interface = "127.0.0.1", request_server = "127.0.0.1:{requests}" }}
orders = {{ server = "127.0.0.1:{orders}", username = "quiet", password = "core" }}
book = {{ symbols = ["AAPL"], orders_max = 65536 }}
strategy = {{ name = "maker", quote_shares = 100, inventory_shares_max = 1000, requote_interval_ns = 0 }}
journal = {{ directory = "{directory}/journal", segments = 2, segment_mib = 64, durability = "async" }}
pages = {{ directory = "{directory}/pages" }}
[risk]
order_shares_max = 1000
lot_shares = 1
order_notional_max = 1000000
price_collar_bps = 500
position_shares_max = 5000
orders_open_max = 64
gross_notional_max = 1000000000
net_notional_max = 1000000000
messages_per_second_max = 1000000
duplicate_window_ns = 0
feed_age_max_ns = 60000000000
rejects_in_a_row_max = 5
loss_max = 1000000000
"#,
        port + 1
    )
}

impl Counterpart {
    /// Starts an engine and waits for its connection.
    pub fn start(engine: &Path, backend: &str, journal: bool, sqpoll: bool) -> Result<Self> {
        let directory =
            std::env::temp_dir().join(format!("quietcore-engine-bench-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(directory.join("pages"))?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let requests = UdpSocket::bind("127.0.0.1:0")?;
        let free = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let line = SocketAddrV4::new(Ipv4Addr::new(239, 192, 99, 1), free.min(u16::MAX - 1));
        let (requests_port, orders_port) =
            (requests.local_addr()?.port(), listener.local_addr()?.port());
        let text = config(line, requests_port, orders_port, &directory, sqpoll);
        let path = directory.join("engine.toml");
        std::fs::write(&path, text)?;
        let control = ControlPage::open(&directory.join("pages/control"))?;
        drop(control);
        let mut command = Command::new(engine);
        command.arg("--config").arg(&path).args(["--backend", backend]);
        if !journal {
            command.arg("--no-journal");
        }
        let child = command.stderr(Stdio::null()).spawn().context("start the engine")?;
        let (orders, _) = listener.accept().context("the engine's connection")?;
        orders.set_nodelay(true)?;
        orders.set_nonblocking(true)?;
        let feed = socket()?;
        let page = CountersPage::open(&directory.join("pages/counters"))?;
        let (stream, sides) = (Vec::new(), HashMap::new());
        let (sequence, order_ref, better) = (1, 0, None);
        Ok(Self {
            child,
            directory,
            page,
            feed,
            line,
            orders,
            stream,
            sides,
            sequence,
            order_ref,
            better,
            _requests: requests,
        })
    }

    /// One of the engine's counters, as of the last 10 ms.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.page.get(counter)
    }

    /// Returns the counts so far. Sleeps 25 ms first, because the engine's page is a timer tick
    /// old.
    pub fn usage(&self) -> Result<Usage> {
        std::thread::sleep(Duration::from_millis(25));
        let process = Path::new("/proc").join(self.child.id().to_string());
        let stat = std::fs::read_to_string(process.join("stat"))?;
        let after_name = stat.rsplit_once(')').context("stat of the engine")?.1;
        let faults = |at: usize| after_name.split_whitespace().nth(at).and_then(|n| n.parse().ok());
        // proc(5): minflt and majflt are the 10th and 12th fields, the 8th and 10th after the name.
        let faults = faults(7).unwrap_or(0) + faults(9).unwrap_or(0u64);
        let status = std::fs::read_to_string(process.join("status"))?;
        let switches =
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let switches = switches.context("switches of the engine")?.trim().parse()?;
        Ok(Usage { syscalls: self.page.get(Counter::Syscalls), faults, switches })
    }

    fn publish(&mut self, messages: &[Message]) -> Result<()> {
        let packet = self.packet(messages)?;
        self.feed.send_to(&packet, self.line)?;
        Ok(())
    }

    fn packet(&mut self, messages: &[Message]) -> Result<Vec<u8>> {
        let session = Session::new("BENCH").context("a session's name")?;
        let mut packet = PacketBuilder::new(session, self.sequence);
        for message in messages {
            let mut bytes = Vec::new();
            message.encode_to(&mut bytes);
            packet.push(&bytes);
            self.sequence += 1;
        }
        Ok(packet.finish())
    }

    fn add(&mut self, side: Side, price: u32) -> Message {
        self.order_ref += 1;
        quote(self.order_ref, side, price)
    }

    /// Brings the engine to where it trades, with both its quotes in the market.
    pub fn open(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let bid = self.add(Side::Buy, BID);
        let ask = self.add(Side::Sell, ASK);
        let mut told = false;
        while self.sides.len() < 2 {
            if Instant::now() > deadline {
                bail!("the engine did not start to trade: {:?}", self.page.state());
            }
            self.read()?;
            self.answer()?;
            if !told && self.page.state() == Some(State::Recovering) {
                // The lines are joined before the connection is made: nothing is lost.
                self.publish(&[directory_of(), trading_of(), bid, ask])?;
                told = true;
            }
        }
        Ok(())
    }

    /// Moves the best bid by a cent and waits for the order that follows; returns when it came.
    pub fn tick_to_order(&mut self) -> Result<Instant> {
        let tick = self.next_tick();
        self.publish(&[tick])?;
        self.await_order()
    }

    fn next_tick(&mut self) -> Message {
        match self.better.take() {
            Some(order_ref) => delete(order_ref),
            None => {
                let add = self.add(Side::Buy, BID + CENT);
                self.better = Some(self.order_ref);
                add
            }
        }
    }

    fn await_order(&mut self) -> Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        while !self.read()? {
            if Instant::now() > deadline {
                bail!("no order came: {:?}", self.page.state());
            }
        }
        let arrived = Instant::now();
        self.answer()?;
        Ok(arrived)
    }

    /// Ticks far from the touch, each a datagram of its own, and one that moves it.
    pub fn burst(&mut self, ticks: u32) -> Result<()> {
        let far: Vec<Message> =
            (1..ticks).map(|tick| self.add(Side::Buy, BID - 5_000 - tick * CENT)).collect();
        let resting = self.order_ref;
        let last = self.next_tick();
        let mut packets = Vec::new();
        for message in far.into_iter().chain([last]) {
            packets.push(self.packet(&[message])?);
        }
        // One system call, so that they arrive as a switch would deliver them: without a break.
        let slices: Vec<_> = packets.iter().map(|packet| [IoSlice::new(packet)]).collect();
        let mut headers = MultiHeaders::preallocate(slices.len(), None);
        let to = vec![Some(SockaddrIn::from(self.line)); slices.len()];
        let sent =
            sendmmsg(self.feed.as_raw_fd(), &mut headers, &slices, &to, [], MsgFlags::empty())?;
        ensure!(sent.count() == packets.len(), "the kernel took only some of a burst");
        self.await_order()?;
        let first = resting + 2 - u64::from(ticks);
        let gone: Vec<_> = (first..=resting).map(delete).collect();
        gone.chunks(20).try_for_each(|part| self.publish(part))
    }

    /// Takes what has come from the engine; `true` if it is a whole packet or more.
    fn read(&mut self) -> Result<bool> {
        let mut part = [0; 4096];
        match self.orders.read(&mut part) {
            Ok(0) => bail!("the engine closed the connection"),
            Ok(len) => self.stream.extend_from_slice(&part[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        while let Ok(Some((Packet::ClientHeartbeat, len))) = Packet::decode(&self.stream) {
            self.stream.drain(..len);
        }
        Ok(matches!(Packet::decode(&self.stream), Ok(Some((Packet::Unsequenced(_), _)))))
    }

    /// Answers everything that has come.
    fn answer(&mut self) -> Result<()> {
        let (mut answers, mut at) = (Vec::new(), 0);
        while let Some((packet, len)) = Packet::decode(&self.stream[at..])? {
            at += len;
            match packet {
                Packet::LoginRequest(_) => {
                    let sequence = Alpha::decimal_right(1).context("one digit")?;
                    let session = Session::new("BENCH").context("a session's name")?;
                    Packet::LoginAccepted(LoginAccepted { session, sequence })
                        .encode_to(&mut answers);
                }
                Packet::Unsequenced(message) => {
                    answer_to(message, &mut self.sides, &mut answers);
                }
                _ => {}
            }
        }
        self.stream.drain(..at);
        if !answers.is_empty() {
            self.orders.set_nonblocking(false)?;
            self.orders.write_all(&answers)?;
            self.orders.set_nonblocking(true)?;
        }
        Ok(())
    }
}

/// A socket that sends multicast over loopback.
fn socket() -> Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST)?;
    socket.set_multicast_loop_v4(true)?;
    Ok(socket.into())
}
