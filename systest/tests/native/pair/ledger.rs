//! The exchange's own record of an account's session: the judge of what the engine says.

use abi::field::{Alpha, Side};
use abi::mold::Session;
use abi::ouch::UserRefNum;
use abi::ouch::outbound::Message as Outbound;
use abi::soup::{LoginRequest, Packet};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Account's session as the exchange reports it: orders, position, executions.
#[derive(Debug, Default)]
pub struct Ledger {
    pub sides: BTreeMap<UserRefNum, Side>,
    pub open: BTreeMap<UserRefNum, u32>,
    pub position: i64,
    pub executions: u64,
    /// Orders that were cancelled because their connection was lost.
    pub disconnected: u64,
    /// Messages so far.
    messages: u64,
    /// The numbers of those that a back office is told of, and what they are.
    pub reportable: BTreeMap<u64, String>,
    pub reused: Vec<UserRefNum>,
}

impl Ledger {
    /// Logs in as the account, after the engine, and reads the whole session from its first
    /// message.
    pub fn read(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("reach the exchange");
        let text = |text| Alpha::new(text).expect("fits the field");
        let request = LoginRequest {
            username: Alpha::new("quiet").expect("fits the field"),
            password: text("core"),
            requested_session: Session::BLANK,
            requested_sequence: Alpha::decimal_right(1).expect("one digit"),
        };
        let mut bytes = Vec::new();
        Packet::LoginRequest(request).encode_to(&mut bytes);
        stream.write_all(&bytes).expect("log in");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
        let (mut ledger, mut heard) = (Self::default(), Vec::new());
        loop {
            let mut part = [0; 1 << 16];
            let len = stream.read(&mut part).expect("the exchange answers");
            assert!(len > 0, "the exchange closed the connection");
            heard.extend_from_slice(&part[..len]);
            while let Some((packet, len)) = Packet::decode(&heard).expect("SoupBinTCP") {
                match packet {
                    Packet::Sequenced(message) => {
                        ledger.take(&Outbound::decode(message).expect("OUCH").0);
                    }
                    // Nothing is left to send.
                    Packet::ServerHeartbeat => return ledger,
                    _ => {}
                }
                heard.drain(..len);
            }
        }
    }

    fn enter(&mut self, user_ref: UserRefNum, side: Side, open: u32) {
        if self.sides.insert(user_ref, side).is_some() {
            self.reused.push(user_ref);
        }
        self.open.insert(user_ref, open);
    }

    fn take_off(&mut self, user_ref: UserRefNum, shares: u32) {
        let open = self.open.get_mut(&user_ref).expect("the exchange speaks of its own orders");
        *open -= shares;
    }

    fn take(&mut self, message: &Outbound) {
        let told =
            !matches!(message, Outbound::AccountQueryResponse(_) | Outbound::MassCancelResponse(_));
        self.messages += 1;
        if told {
            self.reportable.insert(self.messages, format!("{message:?}"));
        }
        match message {
            Outbound::Accepted(m) => self.enter(m.user_ref_num, m.side.book_side(), m.quantity),
            Outbound::Replaced(m) => {
                self.open.insert(m.orig_user_ref_num, 0);
                self.enter(m.user_ref_num, m.side.book_side(), m.quantity);
            }
            Outbound::Executed(m) => {
                let side = self.sides[&m.user_ref_num];
                self.position += i64::from(m.quantity) * if side == Side::Buy { 1 } else { -1 };
                self.executions += 1;
                self.take_off(m.user_ref_num, m.quantity);
            }
            Outbound::Canceled(m) => {
                self.disconnected += u64::from(m.reason == b'S');
                self.take_off(m.user_ref_num, m.quantity);
            }
            _ => {}
        }
    }
}
