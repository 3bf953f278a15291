//! A strategy of one's own: it keeps one buy order a few ticks behind the best bid, and follows it.

use abi::field::{Price, Side};
use engine::strategies::Strategies;
use engine_core::market::InstrumentId;
use engine_core::strategy::{Actions, Intent, Strategy, View};

/// Keys of the `[strategy]` table besides the name.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeggedSettings {
    shares: u32,
    behind_ticks: u32,
}

/// Strategy that keeps one buy order `behind_ticks` ticks below the best bid.
pub struct Pegged {
    settings: PeggedSettings,
}

impl Pegged {
    fn new(settings: PeggedSettings, _instruments: usize) -> Self {
        Self { settings }
    }
}

impl Strategy for Pegged {
    fn on_bbo(&mut self, view: &View<'_>, instrument: InstrumentId, actions: &mut Actions) {
        let Some(bid) = view.bbo(instrument).bid else { return };
        let price = Price(bid.price.0.saturating_sub(self.settings.behind_ticks * 100));
        let shares = self.settings.shares;
        match view.orders(instrument).next() {
            None => {
                actions.push(Intent::Enter { instrument, side: Side::Buy, price, shares });
            }
            Some(order) if order.state.is_working() && order.price != price => {
                actions.push(Intent::Replace { user_ref: order.user_ref, price, shares });
            }
            Some(_) => {}
        }
    }
}

/// Registers the crate's strategies under their names in the configuration; Quietcore's build
/// expects this function.
pub fn strategies(strategies: Strategies) -> Strategies {
    strategies.with("pegged", Pegged::new)
}
