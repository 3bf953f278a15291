//! OUCH answers become FIX Execution Reports (35=8). Knows the orders of one exchange session, by
//! what the exchange said about them.

use super::fix::{Fields, tag, utc_timestamp};
use abi::mold::Session;
use abi::ouch::outbound::{Accepted, Executed, Message, Replaced};
use abi::ouch::{OrderState, Side, UserRefNum};
use std::collections::{HashMap, HashSet};

/// An order, as far as reports need it. Prices are in 1/10,000.
#[derive(Debug, Clone, Default)]
struct Order {
    order_id: String,
    symbol: String,
    side: &'static str,
    quantity: u64,
    price: u64,
    executed: u64,
    open: u64,
    value: u64,
}

/// Values of `ExecType` (150), from which `OrdStatus` (39) follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exec {
    New,
    Canceled,
    Replaced,
    Rejected,
    Trade,
    TradeCancel,
    Restated,
}

impl Exec {
    fn code(self) -> &'static str {
        match self {
            Self::New => "0",
            Self::Canceled => "4",
            Self::Replaced => "5",
            Self::Rejected => "8",
            Self::Trade => "F",
            Self::TradeCancel => "H",
            Self::Restated => "D",
        }
    }
}

/// The orders of one session.
#[derive(Default)]
pub struct Reports {
    session: String,
    /// The message that is being reported.
    message: u64,
    /// Numbers of the messages that were reported.
    reported: HashSet<u64>,
    /// An order keeps its place through all replacements, under each of its numbers.
    places: HashMap<UserRefNum, usize>,
    orders: Vec<Order>,
    trades: HashMap<(UserRefNum, u64), (u64, u64)>,
}

/// A price as FIX writes it.
fn price(ticks: u64) -> String {
    format!("{}.{:04}", ticks / 10_000, ticks % 10_000)
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Buy => "1",
        Side::Sell => "2",
        Side::SellShort => "5",
        Side::SellShortExempt => "6",
    }
}

impl Reports {
    /// The report of a message, if it is one that a back office is told. `number` is the message's
    /// in its session; one that was seen before gives none, however often a restarted engine hears
    /// it.
    pub fn on_message(
        &mut self,
        session: Session,
        number: u64,
        bytes: &[u8],
        time_ns: u64,
    ) -> Option<Fields> {
        let session = session.text().trim().to_owned();
        if self.session != session {
            *self = Self { session, ..Self::default() };
        }
        if self.reported.contains(&number) {
            return None;
        }
        self.message = number;
        let (message, _) = Message::decode(bytes).ok()?;
        let report = self.report(&message, time_ns)?;
        self.reported.insert(number);
        Some(report)
    }

    fn order(&self, user_ref: UserRefNum) -> Option<&Order> {
        self.orders.get(*self.places.get(&user_ref)?)
    }

    fn order_mut(&mut self, user_ref: UserRefNum) -> Option<&mut Order> {
        self.orders.get_mut(*self.places.get(&user_ref)?)
    }

    /// Keeps what is known now of the order that was `original`, under `user_ref` too.
    fn put(&mut self, original: UserRefNum, user_ref: UserRefNum, order: Order) {
        let place = self.places.get(&original).copied().unwrap_or(self.orders.len());
        if place == self.orders.len() {
            self.orders.push(order);
        } else {
            self.orders[place] = order;
        }
        self.places.insert(user_ref, place);
    }

    fn report(&mut self, message: &Message, time_ns: u64) -> Option<Fields> {
        match message {
            Message::Accepted(m) => Some(self.on_accepted(m, time_ns)),
            Message::Replaced(m) => Some(self.on_replaced(m, time_ns)),
            Message::Executed(m) => self.on_executed(m, time_ns),
            Message::Canceled(m) => self.reduce(m.user_ref_num, m.quantity.into(), time_ns),
            Message::AiqCanceled(m) => {
                self.reduce(m.user_ref_num, m.decrement_shares.into(), time_ns)
            }
            Message::Modified(m) => {
                let order = self.order_mut(m.user_ref_num)?;
                order.open = m.quantity.into();
                order.quantity = order.executed + order.open;
                Some(self.start(m.user_ref_num, Exec::Restated, time_ns))
            }
            Message::Rejected(m) => {
                // A refused replacement is about no order of this number: the old one stands.
                let mut fields = self.start(m.user_ref_num, Exec::Rejected, time_ns);
                fields.add(tag::ORD_REJ_REASON, 99);
                fields.add(tag::TEXT, format!("OUCH 5.0 reject reason 0x{:02x}", m.reason));
                Some(fields)
            }
            Message::BrokenTrade(m) => {
                let trade = (m.user_ref_num, m.match_number);
                let (shares, ticks) = self.trades.remove(&trade)?;
                let order = self.order_mut(m.user_ref_num)?;
                order.executed -= shares;
                order.value -= shares * ticks;
                let mut fields = self.start(m.user_ref_num, Exec::TradeCancel, time_ns);
                fields.add(tag::LAST_QTY, shares).add(tag::LAST_PX, price(ticks));
                fields.add(tag::SECONDARY_EXEC_ID, m.match_number);
                Some(fields)
            }
            _ => None,
        }
    }

    fn on_accepted(&mut self, m: &Accepted, time_ns: u64) -> Fields {
        let quantity = m.quantity.into();
        let order = Order {
            order_id: m.order_ref.to_string(),
            symbol: m.symbol.text(),
            side: side(m.side),
            quantity,
            price: m.price.0,
            open: quantity,
            ..Order::default()
        };
        self.put(m.user_ref_num, m.user_ref_num, order);
        if m.order_state == OrderState::Dead {
            return self.reduce(m.user_ref_num, quantity, time_ns).unwrap_or_default();
        }
        self.start(m.user_ref_num, Exec::New, time_ns)
    }

    fn on_replaced(&mut self, m: &Replaced, time_ns: u64) -> Fields {
        let old = self.order(m.orig_user_ref_num).cloned().unwrap_or_default();
        let open = if m.order_state == OrderState::Dead { 0 } else { m.quantity.into() };
        let order = Order {
            order_id: m.order_ref.to_string(),
            symbol: m.symbol.text(),
            side: side(m.side),
            quantity: old.executed + u64::from(m.quantity),
            price: m.price.0,
            open,
            ..old
        };
        self.put(m.orig_user_ref_num, m.user_ref_num, order);
        let mut fields = self.start(m.user_ref_num, Exec::Replaced, time_ns);
        fields.add(tag::ORIG_CL_ORD_ID, m.orig_user_ref_num);
        fields
    }

    fn on_executed(&mut self, m: &Executed, time_ns: u64) -> Option<Fields> {
        let order = self.order_mut(m.user_ref_num)?;
        let (shares, ticks) = (u64::from(m.quantity), m.price.0);
        order.executed += shares;
        order.open = order.open.saturating_sub(shares);
        order.value += shares * ticks;
        self.trades.insert((m.user_ref_num, m.match_number), (shares, ticks));
        let mut fields = self.start(m.user_ref_num, Exec::Trade, time_ns);
        fields.add(tag::LAST_QTY, shares).add(tag::LAST_PX, price(ticks));
        let added = matches!(m.liquidity_flag, b'A' | b'F' | b'J' | b'k');
        fields.add(tag::LAST_LIQUIDITY_IND, if added { 1 } else { 2 });
        fields.add(tag::SECONDARY_EXEC_ID, m.match_number);
        Some(fields)
    }

    fn reduce(&mut self, user_ref: UserRefNum, shares: u64, time_ns: u64) -> Option<Fields> {
        let order = self.order_mut(user_ref)?;
        order.open = order.open.saturating_sub(shares);
        let kind = if order.open == 0 { Exec::Canceled } else { Exec::Restated };
        if kind == Exec::Restated {
            order.quantity = order.executed + order.open;
        }
        Some(self.start(user_ref, kind, time_ns))
    }

    /// The fields that every report has.
    fn start(&self, user_ref: UserRefNum, kind: Exec, time_ns: u64) -> Fields {
        let unknown = Order {
            order_id: "NONE".into(),
            symbol: "[N/A]".into(),
            side: "1",
            ..Order::default()
        };
        let order = self.order(user_ref).unwrap_or(&unknown);
        let status = match kind {
            Exec::Canceled => "4",
            Exec::Rejected => "8",
            _ if order.open == 0 && order.executed >= order.quantity => "2",
            _ if order.open == 0 => "4",
            _ if order.executed > 0 => "1",
            _ => "0",
        };
        // The mean of whole ticks, to a millionth of the currency.
        let mean = (order.value * 100).checked_div(order.executed).unwrap_or(0);
        let mut fields = Fields::new();
        fields.add(tag::ORDER_ID, &order.order_id).add(tag::CL_ORD_ID, user_ref);
        fields.add(tag::EXEC_ID, format!("{}-{}", self.session, self.message));
        fields.add(tag::EXEC_TYPE, kind.code()).add(tag::ORD_STATUS, status);
        fields.add(tag::SYMBOL, &order.symbol).add(tag::SIDE, order.side);
        fields.add(tag::ORDER_QTY, order.quantity).add(tag::ORD_TYPE, 2);
        fields.add(tag::PRICE, price(order.price));
        fields.add(tag::LEAVES_QTY, order.open).add(tag::CUM_QTY, order.executed);
        fields.add(tag::AVG_PX, format!("{}.{:06}", mean / 1_000_000, mean % 1_000_000));
        fields.add(tag::TRANSACT_TIME, utc_timestamp(time_ns));
        fields.add(tag::COPY_MSG_INDICATOR, "Y");
        if kind == Exec::Restated {
            // ExecRestatementReason: 5 is a partial decline of the quantity.
            fields.add(378, 5);
        }
        fields
    }

    /// Takes back what an earlier process reported, so that this one goes on from there.
    pub fn restore(&mut self, report: &Fields) {
        let Some((session, number)) = report.get(tag::EXEC_ID).and_then(|id| id.rsplit_once('-'))
        else {
            return;
        };
        if self.session != session {
            *self = Self { session: session.to_owned(), ..Self::default() };
        }
        self.reported.extend(number.parse::<u64>());
        let ticks = |tag| report.get(tag).map_or(0, parse_price);
        let number = |tag| report.number(tag).unwrap_or(0);
        let Some(user_ref) = report.number(tag::CL_ORD_ID).map(|id| id as UserRefNum) else {
            return;
        };
        let original = report.number(tag::ORIG_CL_ORD_ID).map_or(user_ref, |id| id as UserRefNum);
        let value = self.order(original).map_or(0, |order| order.value);
        let last = (number(tag::LAST_QTY), ticks(tag::LAST_PX));
        let trade = (user_ref, number(tag::SECONDARY_EXEC_ID));
        let value = match report.get(tag::EXEC_TYPE) {
            Some("8") => return,
            Some("F") => {
                self.trades.insert(trade, last);
                value + last.0 * last.1
            }
            Some("H") => {
                self.trades.remove(&trade);
                value.saturating_sub(last.0 * last.1)
            }
            _ => value,
        };
        let side = match report.get(tag::SIDE) {
            Some("2") => "2",
            Some("5") => "5",
            Some("6") => "6",
            _ => "1",
        };
        let order = Order {
            order_id: report.get(tag::ORDER_ID).unwrap_or_default().to_owned(),
            symbol: report.get(tag::SYMBOL).unwrap_or_default().to_owned(),
            side,
            quantity: number(tag::ORDER_QTY),
            price: ticks(tag::PRICE),
            executed: number(tag::CUM_QTY),
            open: number(tag::LEAVES_QTY),
            value,
        };
        self.put(original, user_ref, order);
    }
}

fn parse_price(text: &str) -> u64 {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    whole.parse().unwrap_or(0) * 10_000 + part.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests;
