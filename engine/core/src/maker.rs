//! The reference strategy: a market maker that joins the touch on both sides. An example of the
//! trait, not a source of profit: it has no view of fair value and pays the spread when it is run
//! over.
//!
//! Per instrument it keeps at most one order a side, at the best price of that side, and moves it
//! when that price moves, at most every `requote_interval_ns`. Holding `inventory_shares_max` on
//! one side it stops adding to it; holding half of that, it offers one tick inside a wide spread to
//! get rid of it.

use crate::market::InstrumentId;
use crate::orders::OwnOrder;
use crate::strategy::{Actions, Intent, Strategy, View};
use abi::field::{Price, Side};
use serde::Deserialize;

/// A cent: the tick of US stocks from one dollar on (Reg NMS rule 612).
const TICK: u32 = 100;

/// Settings of the market maker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MakerSettings {
    /// Shares of each quote.
    pub quote_shares: u32,
    /// Net shares of an instrument at which it stops adding.
    pub inventory_shares_max: u32,
    /// The least time between two changes of one instrument's quotes.
    pub requote_interval_ns: u64,
}

/// The market maker.
pub struct Maker {
    settings: MakerSettings,
    last_change_ns: Vec<u64>,
}

impl Maker {
    /// A maker for so many instruments.
    pub fn new(settings: MakerSettings, instruments: usize) -> Self {
        Self { settings, last_change_ns: vec![0; instruments] }
    }

    /// Where a side should be quoted now; `None` for not at all. `held` is the position as that
    /// side would add to it.
    #[inline]
    fn target(&self, bid: Price, ask: Price, side: Side, held: i64) -> Option<Price> {
        let max = i64::from(self.settings.inventory_shares_max);
        if bid >= ask || held >= max {
            return None;
        }
        let improve = held <= -max / 2 && ask.0 - bid.0 > 2 * TICK;
        let step = if improve { TICK } else { 0 };
        Some(match side {
            Side::Buy => Price(bid.0 + step),
            Side::Sell => Price(ask.0 - step),
        })
    }

    fn quote(
        &self,
        target: Option<Price>,
        current: Option<&OwnOrder>,
        instrument: InstrumentId,
        side: Side,
    ) -> Option<Intent> {
        let shares = self.settings.quote_shares;
        match (target, current) {
            (Some(price), None) => Some(Intent::Enter { instrument, side, price, shares }),
            (_, Some(order)) if !order.state.is_working() => None,
            (Some(price), Some(order)) => {
                let user_ref = order.user_ref;
                let moved = order.price != price || order.open < shares / 2;
                moved.then_some(Intent::Replace { user_ref, price, shares })
            }
            (None, Some(order)) => Some(Intent::Cancel { user_ref: order.user_ref }),
            (None, None) => None,
        }
    }
}

impl Strategy for Maker {
    fn on_bbo(&mut self, view: &View<'_>, instrument: InstrumentId, actions: &mut Actions) {
        let last = &self.last_change_ns[usize::from(instrument.0)];
        if !view.may_act || view.now_ns.saturating_sub(*last) < self.settings.requote_interval_ns {
            return;
        }
        let mut asked = false;
        let bbo = view.bbo(instrument);
        let touch = bbo.bid.zip(bbo.ask).map(|(bid, ask)| (bid.price, ask.price));
        let held = view.position(instrument).shares;
        let mut current = [None; 2];
        view.orders(instrument)
            .for_each(|order| current[usize::from(order.side == Side::Sell)] = Some(order));
        for (side, current) in [Side::Buy, Side::Sell].into_iter().zip(current) {
            let held = if side == Side::Buy { held } else { -held };
            let target = touch.and_then(|(bid, ask)| self.target(bid, ask, side, held));
            if let Some(intent) = self.quote(target, current, instrument, side) {
                asked |= actions.push(intent);
            }
        }
        if asked {
            self.last_change_ns[usize::from(instrument.0)] = view.now_ns;
        }
    }

    fn on_timer(&mut self, view: &View<'_>, actions: &mut Actions) {
        for instrument in view.market.instruments() {
            self.on_bbo(view, instrument, actions);
        }
    }
}
