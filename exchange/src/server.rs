//! Sockets and the clock around the rest: two multicast lines, the request server, the order-entry
//! port. One task owns everything; connections are tasks that only move bytes.

use crate::faults::{FaultRates, Faults};
use crate::limits::{ACCOUNT_MESSAGES_MAX, CONNECTION_CHUNKS_MAX, CONNECTIONS_MAX};
use crate::market::{DayTime, Event, Market};
use crate::order_entry::{Account, Answers};
use crate::publisher::Publisher;
use crate::snapshot_server::{self, Books};
use crate::soup_account::SequencedLog;
use abi::itch::Message;
use abi::mold::{Request, Session};
use abi::ouch::inbound::Message as Inbound;
use abi::soup::{HEARTBEAT_INTERVAL_NS, LoginRejectReason, Packet, SILENCE_MAX_NS};
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;

/// Where the exchange is reached, and how badly.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Multicast groups and ports of lines A and B.
    pub lines: [SocketAddrV4; 2],
    /// The interface that the lines leave by.
    pub interface: Ipv4Addr,
    /// Where re-requests are answered.
    pub request: SocketAddrV4,
    /// Where orders are taken.
    pub orders: SocketAddrV4,
    /// Username and password of each account.
    pub logins: Vec<(String, String)>,
    /// Faults of the lines.
    pub faults: FaultRates,
    /// Disconnect order entry about this often; `None` for never.
    pub disconnect_every: Option<Duration>,
    /// Seed of the lines' faults; line B uses `seed + 1`.
    pub seed: u64,
    /// Where snapshots are given, if they are.
    pub snapshots: Option<SocketAddrV4>,
    /// Messages that the request server remembers; `None` for all.
    pub request_window: Option<usize>,
    /// Start the market only when an account has logged in, so that a whole recording is traded.
    pub wait_for_login: bool,
}

enum FromClient {
    Connected(u64, mpsc::Sender<Vec<u8>>),
    Bytes(u64, Vec<u8>),
    Gone(u64),
}

struct Connection {
    to_client: mpsc::Sender<Vec<u8>>,
    stream: Vec<u8>,
    /// The account that is logged in.
    account: Option<usize>,
    heard: Instant,
    sent: Instant,
}

/// One account's port.
struct Port {
    account: Account,
    log: SequencedLog,
}

/// The running exchange.
pub struct Server {
    settings: ServerSettings,
    market: Box<dyn Market>,
    publisher: Publisher,
    books: Books,
    ports: Vec<Port>,
    connections: HashMap<u64, Connection>,
    faults: [Faults; 2],
    line_socket: UdpSocket,
    opened: Option<Instant>,
    published_at: Instant,
}

/// Nanoseconds since midnight, UTC.
fn day_time() -> DayTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_nanos() % (86_400 * 1_000_000_000)) as u64
}

/// A session name that no earlier run had: seconds of the epoch.
fn session_name() -> Session {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Session::decimal_right(since.as_secs()).expect("ten digits last until the year 2286")
}

fn line_socket(interface: Ipv4Addr) -> Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.set_multicast_if_v4(&interface).with_context(|| format!("interface {interface}"))?;
    socket.set_multicast_loop_v4(true)?;
    socket.bind(&SocketAddrV4::new(interface, 0).into())?;
    socket.set_nonblocking(true)?;
    Ok(UdpSocket::from_std(socket.into())?)
}

/// Runs the exchange until a signal ends it or its session is full.
///
/// # Errors
/// A socket that can't be had, with its address.
pub async fn run(settings: ServerSettings, market: Box<dyn Market>) -> Result<()> {
    let request_socket = UdpSocket::bind(settings.request)
        .await
        .with_context(|| format!("request server on {}", settings.request))?;
    let listener = TcpListener::bind(settings.orders)
        .await
        .with_context(|| format!("order entry on {}", settings.orders))?;
    let session = session_name();
    let seed = settings.seed;
    let mut publisher = Publisher::new(session);
    publisher.forget_before(settings.request_window.unwrap_or(usize::MAX));
    let (to_server, wanted) = mpsc::channel(16);
    if let Some(address) = settings.snapshots {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("snapshots on {address}"))?;
        tokio::spawn(snapshot_server::serve(listener, settings.logins.clone(), to_server.clone()));
    }
    let mut server = Server {
        line_socket: line_socket(settings.interface).context("multicast lines")?,
        publisher,
        books: Books::default(),
        ports: settings
            .logins
            .iter()
            .map(|_| Port { account: Account::new(), log: SequencedLog::new(session) })
            .collect(),
        connections: HashMap::new(),
        faults: [Faults::new(settings.faults, seed), Faults::new(settings.faults, seed + 1)],
        opened: None,
        published_at: Instant::now(),
        market,
        settings,
    };
    println!(
        "exchange: session {session}, lines {} and {}, requests {}, orders {}",
        server.settings.lines[0],
        server.settings.lines[1],
        server.settings.request,
        server.settings.orders
    );
    server.serve(request_socket, listener, wanted).await
}

impl Server {
    async fn serve(
        &mut self,
        requests: UdpSocket,
        listener: TcpListener,
        mut snapshots: mpsc::Receiver<snapshot_server::Wanted>,
    ) -> Result<()> {
        let (from_clients, mut clients) = mpsc::channel(1024);
        let mut interrupt =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut housekeeping = tokio::time::interval(Duration::from_millis(250));
        let mut disconnect = tokio::time::interval(
            self.settings.disconnect_every.unwrap_or(Duration::from_secs(1 << 30)),
        );
        disconnect.tick().await;
        let mut next_id = 0;
        let mut buffer = [0; 2048];
        if !self.settings.wait_for_login {
            self.open().await;
        }
        let has_room = |port: &Port| port.log.count() < ACCOUNT_MESSAGES_MAX;
        while !self.publisher.is_full() && self.ports.iter().all(has_room) {
            let due = self.next_due();
            tokio::select! {
                _ = sleep_until(due) => self.step().await,
                received = requests.recv_from(&mut buffer) => {
                    if let Ok((len, from)) = received {
                        self.answer_request(&requests, &buffer[..len], from).await;
                    }
                }
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted && self.connections.len() < CONNECTIONS_MAX {
                        next_id += 1;
                        tokio::spawn(carry(next_id, stream, from_clients.clone()));
                    }
                }
                Some(event) = clients.recv() => self.on_client(event).await,
                Some(wanted) = snapshots.recv() => {
                    let next = self.publisher.count() as u64 + 1;
                    // A client that is gone wants nothing any more.
                    let _ = wanted.send(self.books.stream(self.publisher.session(), next));
                }
                _ = housekeeping.tick() => self.keep_alive().await,
                _ = disconnect.tick() => self.drop_connections(),
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
            }
        }
        self.end().await;
        Ok(())
    }

    fn next_due(&self) -> Option<Instant> {
        Some(self.opened? + Duration::from_nanos(self.market.next_at()?))
    }

    async fn open(&mut self) {
        self.opened = Some(Instant::now());
        let mut events = Vec::new();
        self.market.open(day_time(), &mut events);
        self.deliver(&events, None).await;
    }

    /// Lets everything happen that is due, so that a late timer does not slow the market down, but
    /// publishes after each moment: what happened at different times goes out in different
    /// datagrams.
    async fn step(&mut self) {
        for _ in 0..100 {
            let Some(due) = self.next_due().filter(|due| *due <= Instant::now()) else { return };
            let mut events = Vec::new();
            while self.next_due() == Some(due) && !self.publisher.is_full() {
                self.market.step(day_time(), &mut events);
            }
            self.deliver(&events, None).await;
        }
    }

    /// Publishes events and tells every account of its fills, but the one that has answered them
    /// itself.
    async fn deliver(&mut self, events: &[Event], answered: Option<usize>) {
        let now = day_time();
        for event in events {
            let mut bytes = Vec::new();
            match event {
                Event::Feed(message) => message.encode_to(&mut bytes),
                Event::Recorded(recorded) => bytes.clone_from(recorded),
                Event::Fill { .. } => {
                    for index in (0..self.ports.len()).filter(|index| Some(*index) != answered) {
                        let answer = self.ports[index].account.on_event(event, now);
                        self.send_answers(index, answer.into_iter().collect());
                    }
                }
            }
            if !bytes.is_empty() {
                if self.settings.snapshots.is_some()
                    && let Ok(message) = Message::decode(&bytes)
                {
                    self.books.apply(&message);
                }
                self.publisher.push(&bytes);
            }
        }
        for datagram in self.publisher.take_new() {
            self.publish(&datagram).await;
        }
    }

    async fn publish(&mut self, datagram: &[u8]) {
        self.published_at = Instant::now();
        for (line, faults) in self.settings.lines.iter().zip(&mut self.faults) {
            for copy in faults.pass(datagram) {
                // A datagram that the kernel refuses is a lost one; the request server has it.
                let _ = self.line_socket.send_to(&copy, *line).await;
            }
        }
    }

    async fn answer_request(&self, socket: &UdpSocket, bytes: &[u8], from: std::net::SocketAddr) {
        let Ok(request) = Request::decode(bytes) else { return };
        for datagram in self.publisher.replay(&request) {
            let _ = socket.send_to(&datagram, from).await;
        }
    }

    fn send_answers(&mut self, account: usize, answers: Answers) {
        let mut bytes = Vec::new();
        for answer in answers {
            let mut message = Vec::new();
            answer.encode_with(&[], &mut message);
            bytes.extend(self.ports[account].log.push(&message));
        }
        for id in self.logged_in(account) {
            self.send(id, bytes.clone());
        }
    }

    fn logged_in(&self, account: usize) -> Vec<u64> {
        let connections = self.connections.iter();
        connections.filter(|(_, c)| c.account == Some(account)).map(|(id, _)| *id).collect()
    }

    /// Sends to one client; one that does not read is disconnected.
    fn send(&mut self, id: u64, bytes: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(&id).filter(|_| !bytes.is_empty()) else {
            return;
        };
        connection.sent = Instant::now();
        if connection.to_client.try_send(bytes).is_err() {
            self.connections.remove(&id);
        }
    }

    async fn on_client(&mut self, event: FromClient) {
        match event {
            FromClient::Connected(id, to_client) => {
                let now = Instant::now();
                let connection = Connection {
                    to_client,
                    stream: Vec::new(),
                    account: None,
                    heard: now,
                    sent: now,
                };
                self.connections.insert(id, connection);
            }
            FromClient::Gone(id) => self.on_gone(id).await,
            FromClient::Bytes(id, bytes) => {
                let Some(connection) = self.connections.get_mut(&id) else { return };
                connection.heard = Instant::now();
                connection.stream.extend_from_slice(&bytes);
                self.read_packets(id).await;
            }
        }
    }

    async fn on_gone(&mut self, id: u64) {
        let connection = self.connections.remove(&id);
        if let Some(account) = connection.and_then(|connection| connection.account) {
            let (mut events, port) = (Vec::new(), &mut self.ports[account]);
            let answers = port.account.on_disconnect(&mut *self.market, day_time(), &mut events);
            self.send_answers(account, answers);
            self.deliver(&events, Some(account)).await;
        }
    }

    async fn read_packets(&mut self, id: u64) {
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            let stream = std::mem::take(&mut connection.stream);
            let account = connection.account;
            let (packet, len) = match Packet::decode(&stream) {
                Ok(Some(found)) => found,
                Ok(None) => {
                    connection.stream = stream;
                    return;
                }
                Err(error) => {
                    println!("exchange: client {id} disconnected: {error}");
                    return self.on_gone(id).await;
                }
            };
            match (packet, account) {
                (Packet::LoginRequest(request), None) => self.log_in(id, &request).await,
                (Packet::Unsequenced(message), Some(account)) => {
                    self.on_order(account, message).await;
                }
                (Packet::ClientHeartbeat | Packet::Debug(_), _) => {}
                (Packet::LogoutRequest, _) => return self.on_gone(id).await,
                _ => {
                    println!(
                        "exchange: client {id} disconnected: a packet that a client may not send now"
                    );
                    return self.on_gone(id).await;
                }
            }
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.stream = stream[len..].to_vec();
            }
        }
    }

    async fn log_in(&mut self, id: u64, request: &abi::soup::LoginRequest) {
        let login = (request.username.text(), request.password.text());
        let account = self.settings.logins.iter().position(|known| *known == login);
        let account = account.ok_or(LoginRejectReason::NotAuthorized);
        match account.and_then(|index| self.ports[index].log.login(request).map(|_| index)) {
            Ok(account) => {
                // What ends with the old connection is history that the new one is told.
                for other in self.logged_in(account) {
                    self.on_gone(other).await;
                }
                let bytes = self.ports[account].log.login(request).expect("it was accepted");
                self.send(id, bytes);
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.account = Some(account);
                }
                if self.opened.is_none() {
                    self.open().await;
                }
            }
            Err(reason) => {
                let mut bytes = Vec::new();
                Packet::LoginRejected(reason).encode_to(&mut bytes);
                self.send(id, bytes);
                self.connections.remove(&id);
            }
        }
    }

    async fn on_order(&mut self, account: usize, message: &[u8]) {
        let Ok((message, _)) = Inbound::decode(message) else {
            println!("exchange: a message that is not OUCH 5.0 was ignored");
            return;
        };
        let (mut events, port) = (Vec::new(), &mut self.ports[account]);
        let answers = port.account.on_message(&message, &mut *self.market, day_time(), &mut events);
        self.send_answers(account, answers);
        self.deliver(&events, Some(account)).await;
    }

    async fn keep_alive(&mut self) {
        let interval = Duration::from_nanos(HEARTBEAT_INTERVAL_NS);
        if self.published_at.elapsed() >= interval {
            let heartbeat = self.publisher.heartbeat();
            self.publish(&heartbeat).await;
        }
        let mut heartbeat = Vec::new();
        Packet::ServerHeartbeat.encode_to(&mut heartbeat);
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            let connection = &self.connections[&id];
            if connection.heard.elapsed() > Duration::from_nanos(SILENCE_MAX_NS) {
                self.on_gone(id).await;
            } else if connection.account.is_some() && connection.sent.elapsed() >= interval {
                self.send(id, heartbeat.clone());
            }
        }
    }

    fn drop_connections(&mut self) {
        // The carrying task sees its channel closed, closes the socket and reports it gone.
        for connection in self.connections.values_mut() {
            connection.to_client = mpsc::channel(1).0;
        }
    }

    async fn end(&mut self) {
        let end = self.publisher.end_of_session();
        for _ in 0..3 {
            self.publish(&end).await;
        }
        let mut bytes = Vec::new();
        Packet::EndOfSession.encode_to(&mut bytes);
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        ids.into_iter().for_each(|id| self.send(id, bytes.clone()));
        tokio::time::sleep(Duration::from_millis(50)).await;
        println!(
            "exchange: session over after {} market-data and {} order-entry messages",
            self.publisher.count(),
            self.ports.iter().map(|port| port.log.count()).sum::<usize>()
        );
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Carries bytes between one socket and the owner of everything.
async fn carry(id: u64, stream: TcpStream, owner: mpsc::Sender<FromClient>) {
    let (to_client, mut outgoing) = mpsc::channel::<Vec<u8>>(CONNECTION_CHUNKS_MAX);
    let _ = stream.set_nodelay(true);
    let (mut read, mut write) = stream.into_split();
    if owner.send(FromClient::Connected(id, to_client)).await.is_err() {
        return;
    }
    let mut buffer = vec![0; 64 * 1024];
    loop {
        tokio::select! {
            received = read.read(&mut buffer) => match received {
                Ok(len) if len > 0 => {
                    if owner.send(FromClient::Bytes(id, buffer[..len].to_vec())).await.is_err() {
                        break;
                    }
                }
                _ => break,
            },
            bytes = outgoing.recv() => match bytes {
                Some(bytes) if write.write_all(&bytes).await.is_ok() => {}
                _ => break,
            },
        }
    }
    let _ = owner.send(FromClient::Gone(id)).await;
}
