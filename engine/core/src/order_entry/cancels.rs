//! Cancels: of one order, of all by one message, and again when the exchange did not do it.

use crate::counters::{Counter, Counters};
use crate::market::Market;
use crate::order_entry::{OrderEntry, put};
use crate::order_state::{Event, State};
use crate::orders::OwnOrder;
use abi::field::{Alpha, Symbol};
use abi::ouch::UserRefNum;
use abi::ouch::inbound::{CancelOrder, MassCancel};

/// From so many orders on, one message cancels all.
const MASS_CANCEL_MIN: usize = 2;

/// An order that a mass cancel has not ended by then is cancelled by a message of its own.
const MASS_CANCEL_WAIT_NS: u64 = 1_000_000_000;

impl OrderEntry {
    /// Cancels an order; one that is being replaced, under the number that it is to get: the
    /// exchange takes the replacement first.
    pub(super) fn cancel(&mut self, user_ref: UserRefNum, now: u64, counters: &mut Counters) {
        let Some(order) = self.orders.apply(user_ref, |_| Event::CancelSent) else { return };
        // A cancel only lowers risk: it goes out over budget too, but it uses budget up.
        self.risk.spend(now);
        let user_ref_num = order.replacement.map_or(user_ref, |replacement| replacement.user_ref);
        self.send(&CancelOrder { user_ref_num, quantity: 0 }.to_bytes());
        counters.count(Counter::CancelsSent);
    }

    /// Cancels every order that has no cancel on the way: several of them by one Mass Cancel of the
    /// port's firm in all symbols (OUCH 5.0, Mass Cancel Request).
    pub(crate) fn cancel_all(&mut self, now: u64, counters: &mut Counters) {
        if self.orders.cancellable_count() >= MASS_CANCEL_MIN
            && self.has_room(counters)
            && let Some(user_ref_num) = self.free_user_ref(counters)
        {
            let (firm, symbol) = (Alpha::BLANK, Symbol::BLANK);
            self.send(&MassCancel { user_ref_num, firm, symbol }.to_bytes());
            let mut slot = 0;
            while let Some(user_ref) = self.orders.find_from(&mut slot, OwnOrder::is_cancellable) {
                self.orders.apply(user_ref, |_| Event::CancelSent);
            }
            self.next_user_ref = user_ref_num + 1;
            self.mass_cancel_at = Some(now);
            self.risk.spend(now);
            counters.count(Counter::MassCancelsSent);
        }
        let mut slot = 0;
        while self.orders.cancellable_count() > 0 && self.has_room(counters) {
            let found = self.orders.find_from(&mut slot, OwnOrder::is_cancellable);
            let Some(user_ref) = found else { return };
            self.cancel(user_ref, now, counters);
        }
    }

    /// Cancels one by one what a mass cancel should have ended by now: a port that does not take it
    /// is no reason to stay in the market.
    pub(crate) fn confirm_mass_cancel(&mut self, now: u64, counters: &mut Counters) {
        let due = |at: u64| now.saturating_sub(at) >= MASS_CANCEL_WAIT_NS;
        if !self.mass_cancel_at.is_some_and(due) {
            return;
        }
        self.mass_cancel_at = None;
        let Self { orders, out, .. } = self;
        for order in orders.iter().filter(|order| order.state == State::PendingCancel) {
            let user_ref_num = order.replacement.map_or(order.user_ref, |new| new.user_ref);
            put(out, &CancelOrder { user_ref_num, quantity: 0 }.to_bytes());
            counters.count(Counter::CancelsSent);
        }
    }

    /// Cancels every order in an instrument whose book missed a message.
    pub(crate) fn cancel_unsound(&mut self, market: &Market, now: u64, counters: &mut Counters) {
        let wanted = |order: &OwnOrder| {
            order.is_cancellable() && market.status(order.instrument).is_unsound()
        };
        let mut slot = 0;
        while self.orders.cancellable_count() > 0 && self.has_room(counters) {
            let Some(user_ref) = self.orders.find_from(&mut slot, wanted) else { return };
            self.cancel(user_ref, now, counters);
        }
    }

    /// Lets orders whose cancel was refused be cancelled again.
    pub(crate) fn retry_cancels(&mut self) {
        let mut slot = 0;
        while let Some(user_ref) = self.orders.find_from(&mut slot, |order| order.cancel_refused) {
            self.orders.allow_cancel(user_ref);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::InstrumentId;
    use crate::settings::{BookLimits, Login, RiskLimits, Settings};
    use abi::field::{Price, Side};
    use abi::ouch::inbound::Message;
    use abi::soup::Packet;

    fn order_entry(orders: u32) -> OrderEntry {
        let words = [100, 1, 10_000, 500, 1_000, 64, 1 << 30, 1 << 30, 100, 0, 1 << 30, 10, 1_000];
        let risk = RiskLimits::from_words(&words).unwrap();
        let login = Login::new("user", "pass").unwrap();
        let book = BookLimits { orders_max: 1_024, levels_max: 16 };
        let symbols = vec![Symbol::new("AAPL").unwrap()];
        let mut order_entry =
            OrderEntry::new(&Settings::new(symbols, risk, &[], login, None, book).unwrap());
        for user_ref in 1..=orders {
            let price = Price(1_000_000);
            order_entry.orders.insert(OwnOrder::new(
                user_ref,
                InstrumentId(0),
                Side::Buy,
                price,
                10,
            ));
            order_entry.orders.apply(user_ref, |_| Event::Accepted);
        }
        order_entry.next_user_ref = orders + 1;
        order_entry
    }

    fn sent(order_entry: &mut OrderEntry) -> Vec<String> {
        let (bytes, mut at, mut found) = (std::mem::take(&mut order_entry.out), 0, Vec::new());
        while let Ok(Some((Packet::Unsequenced(message), len))) = Packet::decode(&bytes[at..]) {
            at += len;
            found.push(match Message::decode(message).unwrap().0 {
                Message::CancelOrder(m) => format!("cancel {}", m.user_ref_num),
                Message::MassCancel(m) => format!("mass cancel {}", m.user_ref_num),
                other => panic!("{other:?}"),
            });
        }
        found
    }

    #[test]
    fn several_orders_are_cancelled_by_one_message_and_one_by_its_own() {
        let mut counters = Counters::new();
        let mut one = order_entry(1);
        one.cancel_all(5, &mut counters);
        assert_eq!(sent(&mut one), ["cancel 1"]);
        let mut three = order_entry(3);
        three.cancel_all(5, &mut counters);
        assert_eq!(sent(&mut three), ["mass cancel 4"]);
        three.cancel_all(6, &mut counters);
        assert_eq!(sent(&mut three), Vec::<String>::new(), "all of them are pending");
        assert_eq!(three.user_ref_max(), 4);
    }

    #[test]
    fn a_port_that_ignores_it_is_sent_a_cancel_for_each() {
        let (mut counters, mut order_entry) = (Counters::new(), order_entry(3));
        order_entry.cancel_all(5, &mut counters);
        order_entry.orders.apply(2, |order| {
            order.open = 0;
            Event::CancelledAll
        });
        sent(&mut order_entry);
        order_entry.confirm_mass_cancel(5 + MASS_CANCEL_WAIT_NS - 1, &mut counters);
        assert_eq!(sent(&mut order_entry), Vec::<String>::new());
        order_entry.confirm_mass_cancel(5 + MASS_CANCEL_WAIT_NS, &mut counters);
        assert_eq!(sent(&mut order_entry), ["cancel 1", "cancel 3"]);
        order_entry.confirm_mass_cancel(5 + 9 * MASS_CANCEL_WAIT_NS, &mut counters);
        assert_eq!(sent(&mut order_entry), Vec::<String>::new());
    }
}
