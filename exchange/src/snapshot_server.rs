//! The snapshot server (GLIMPSE 5.0): the state of all books as messages, made from what was
//! published.

use abi::field::Alpha;
use abi::glimpse::EndOfSnapshot;
use abi::itch::{AddOrder, Message};
use abi::mold::Session;
use abi::soup::{LoginAccepted, LoginRejectReason, Packet};
use std::collections::{BTreeMap, HashMap};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

/// Everything that is in force.
#[derive(Default)]
pub struct Books {
    /// The last word of each kind about each instrument, directory first.
    statuses: BTreeMap<(u8, u16, u8), Message>,
    /// Resting orders in the order of their priority.
    resting: BTreeMap<u64, AddOrder>,
    places: HashMap<u64, u64>,
    entered: u64,
}

impl Books {
    /// Takes a message that was published.
    pub fn apply(&mut self, message: &Message) {
        match message {
            Message::StockDirectory(m) => self.keep((0, m.stock_locate, 0), message),
            Message::TradingAction(m) => self.keep((1, m.stock_locate, 0), message),
            Message::RegSho(m) => self.keep((2, m.stock_locate, 0), message),
            Message::LuldAuctionCollar(m) => self.keep((3, m.stock_locate, 0), message),
            Message::OperationalHalt(m) => self.keep((4, m.stock_locate, m.market_code), message),
            Message::AddOrder(m) => self.enter(*m),
            Message::AddOrderMpid(m) => self.enter(AddOrder {
                stock_locate: m.stock_locate,
                tracking_number: m.tracking_number,
                timestamp: m.timestamp,
                order_ref: m.order_ref,
                side: m.side,
                shares: m.shares,
                stock: m.stock,
                price: m.price,
            }),
            Message::OrderExecuted(m) => self.take(m.order_ref, m.executed_shares),
            Message::OrderExecutedWithPrice(m) => self.take(m.order_ref, m.executed_shares),
            Message::OrderCancel(m) => self.take(m.order_ref, m.cancelled_shares),
            Message::OrderDelete(m) => self.take(m.order_ref, u32::MAX),
            Message::OrderReplace(m) => {
                let old =
                    self.places.get(&m.order_ref).and_then(|at| self.resting.get(at)).copied();
                self.take(m.order_ref, u32::MAX);
                if let Some(old) = old {
                    let (order_ref, shares, price) = (m.new_order_ref, m.shares, m.price);
                    self.enter(AddOrder { order_ref, shares, price, ..old });
                }
            }
            _ => {}
        }
    }

    fn keep(&mut self, key: (u8, u16, u8), message: &Message) {
        self.statuses.insert(key, *message);
    }

    fn enter(&mut self, order: AddOrder) {
        self.entered += 1;
        self.places.insert(order.order_ref, self.entered);
        self.resting.insert(self.entered, order);
    }

    fn take(&mut self, order_ref: u64, shares: u32) {
        let Some(place) = self.places.get(&order_ref).copied() else { return };
        let Some(order) = self.resting.get_mut(&place) else { return };
        order.shares = order.shares.saturating_sub(shares);
        if order.shares == 0 {
            self.resting.remove(&place);
            self.places.remove(&order_ref);
        }
    }

    /// The messages of a snapshot; `next` is the number of the first that is not in it.
    pub fn messages(&self, next: u64) -> Vec<Vec<u8>> {
        let orders = self.resting.values().map(|order| Message::AddOrder(*order));
        let mut messages: Vec<Vec<u8>> = self
            .statuses
            .values()
            .copied()
            .chain(orders)
            .map(|message| {
                let mut bytes = Vec::new();
                message.encode_to(&mut bytes);
                bytes
            })
            .collect();
        let sequence = Alpha::decimal_right(next).expect("20 digits hold any u64");
        messages.push(EndOfSnapshot { sequence }.to_bytes().to_vec());
        messages
    }

    /// Encodes the snapshot for a logged-in client: login acceptance, sequenced messages, end of
    /// session.
    pub fn stream(&self, session: Session, next: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let sequence = Alpha::decimal_right(1).expect("one digit");
        Packet::LoginAccepted(LoginAccepted { session, sequence }).encode_to(&mut out);
        for message in self.messages(next) {
            Packet::Sequenced(&message).encode_to(&mut out);
        }
        Packet::EndOfSession.encode_to(&mut out);
        out
    }
}

/// Asks the owner of the books for the bytes of a snapshot.
pub type Wanted = oneshot::Sender<Vec<u8>>;

/// Takes connections until the owner is gone.
pub async fn serve(
    listener: TcpListener,
    logins: Vec<(String, String)>,
    owner: mpsc::Sender<Wanted>,
) {
    while !owner.is_closed() {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, logins.clone(), owner.clone()));
        }
    }
}

/// One client: its login, the snapshot, the end. A client that goes away is none any more.
async fn answer(mut stream: TcpStream, logins: Vec<(String, String)>, owner: mpsc::Sender<Wanted>) {
    let mut bytes = Vec::new();
    let request = loop {
        match Packet::decode(&bytes) {
            Ok(Some((Packet::LoginRequest(request), _))) => break request,
            Ok(None) => {}
            _ => return,
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(len) if len > 0) {
            return;
        }
    };
    let mut out = Vec::new();
    if logins.contains(&(request.username.text(), request.password.text())) {
        let (wanted, snapshot) = oneshot::channel();
        if owner.send(wanted).await.is_err() {
            return;
        }
        out = snapshot.await.unwrap_or_default();
    } else {
        Packet::LoginRejected(LoginRejectReason::NotAuthorized).encode_to(&mut out);
    }
    if stream.write_all(&out).await.is_ok() {
        // What the client has sent stays unread no longer than it stays connected.
        let _ = stream.shutdown().await;
        while matches!(stream.read(&mut [0; 256]).await, Ok(len) if len > 0) {}
    }
}
