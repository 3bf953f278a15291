//! The other reference strategy: a taker on book imbalance. An example of the trait, not a source
//! of profit: it pays the spread twice, and the imbalance it trades on is often gone when its order
//! arrives.
//!
//! When the shares at the best bid are `imbalance_pct` per cent or more of those at the touch, it
//! buys at the best offer; the mirror image sells. It holds one position an instrument, and leaves
//! it after `hold_ns`, or when the imbalance has turned, at the opposite touch. What of an order
//! does not trade within `patience_ns` is cancelled.

use crate::book::Bbo;
use crate::market::InstrumentId;
use crate::strategy::{Actions, Intent, Strategy, View};
use abi::field::Side;
use serde::Deserialize;

/// Settings of the taker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakerSettings {
    /// Shares of each order, and of the position.
    pub shares: u32,
    /// Per cent of the shares at the touch that one side must have: 51 to 99 make sense.
    pub imbalance_pct: u32,
    /// Longest time that a position is held, in nanoseconds.
    pub hold_ns: u64,
    /// Time after which an order's rest is cancelled, in nanoseconds.
    pub patience_ns: u64,
}

/// Strategy that takes on book imbalance.
pub struct Taker {
    settings: TakerSettings,
    /// When each instrument's last order was sent.
    acted_ns: Vec<u64>,
}

impl Taker {
    /// A taker for so many instruments.
    pub fn new(settings: TakerSettings, instruments: usize) -> Self {
        Self { settings, acted_ns: vec![0; instruments] }
    }

    /// The side that the book leans to, if it leans enough.
    fn lean(&self, bbo: &Bbo) -> Option<Side> {
        let (bid, ask) = (u64::from(bbo.bid?.shares), u64::from(bbo.ask?.shares));
        let enough = u64::from(self.settings.imbalance_pct) * (bid + ask);
        if bid * 100 >= enough {
            Some(Side::Buy)
        } else if ask * 100 >= enough {
            Some(Side::Sell)
        } else {
            None
        }
    }

    /// Returns the side and shares to order in an instrument without a waiting order of ours;
    /// `None` for no order.
    fn wanted(&self, view: &View<'_>, id: InstrumentId, bbo: &Bbo) -> Option<(Side, u32)> {
        let held = view.position(id).shares;
        let lean = self.lean(bbo);
        let waited = view.now_ns.saturating_sub(self.acted_ns[usize::from(id.0)]);
        let out = if held > 0 { Side::Sell } else { Side::Buy };
        if held == 0 {
            return lean.map(|side| (side, self.settings.shares));
        }
        let over = waited >= self.settings.hold_ns || lean == Some(out);
        over.then_some((out, u32::try_from(held.unsigned_abs()).unwrap_or(u32::MAX)))
    }
}

impl Strategy for Taker {
    fn on_bbo(&mut self, view: &View<'_>, id: InstrumentId, actions: &mut Actions) {
        let acted = self.acted_ns[usize::from(id.0)];
        if !view.may_act {
            return;
        }
        if let Some(order) = view.orders(id).next() {
            let late = view.now_ns.saturating_sub(acted) >= self.settings.patience_ns;
            if late && order.state.is_working() {
                actions.push(Intent::Cancel { user_ref: order.user_ref });
            }
            return;
        }
        let bbo = view.bbo(id);
        let Some((side, shares)) = self.wanted(view, id, &bbo) else { return };
        let touch = if side == Side::Buy { bbo.ask } else { bbo.bid };
        if let Some(touch) = touch.filter(|_| !bbo.is_crossed()) {
            let price = touch.price;
            if actions.push(Intent::Enter { instrument: id, side, price, shares }) {
                self.acted_ns[usize::from(id.0)] = view.now_ns;
            }
        }
    }

    fn on_timer(&mut self, view: &View<'_>, actions: &mut Actions) {
        for instrument in view.market.instruments() {
            self.on_bbo(view, instrument, actions);
        }
    }
}
