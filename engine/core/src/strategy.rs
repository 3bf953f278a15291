//! Strategy interface: the view of the market and the intents. The same code runs live, in replay
//! and in backtest: it gets no clock, no socket and no file, only what stands here.

use crate::book::Bbo;
use crate::limits::INTENTS_MAX;
use crate::market::{InstrumentId, Market};
use crate::orders::{Orders, OwnOrder, Position};
use abi::field::{Price, Side};
use abi::ouch::UserRefNum;

/// View of books, orders and time that a strategy reads.
pub struct View<'a> {
    /// Books and trading states.
    pub market: &'a Market,
    /// Nanoseconds of `CLOCK_REALTIME` at the input that is being handled.
    pub now_ns: u64,
    pub(crate) orders: &'a Orders,
}

impl View<'_> {
    /// The best bid and offer of an instrument, our own orders included.
    #[inline]
    pub fn bbo(&self, id: InstrumentId) -> Bbo {
        self.market.bbo(id)
    }

    /// Our position in an instrument.
    #[inline]
    pub fn position(&self, id: InstrumentId) -> &Position {
        self.orders.position(id)
    }

    /// One of our orders, by number.
    pub fn order(&self, user_ref: UserRefNum) -> Option<&OwnOrder> {
        self.orders.get(user_ref)
    }

    /// Our orders in an instrument that can still trade.
    #[inline]
    pub fn orders(&self, id: InstrumentId) -> impl Iterator<Item = &OwnOrder> {
        self.orders.of(id)
    }
}

/// Intent of a strategy, before the risk checks. Risk may refuse it; the strategy gets no answer,
/// but sees its orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// A new limit order for the day.
    Enter {
        /// Instrument to trade.
        instrument: InstrumentId,
        /// Side of the order.
        side: Side,
        /// At what price.
        price: Price,
        /// Shares of the order.
        shares: u32,
    },
    /// Another price or open quantity for a live order.
    Replace {
        /// UserRefNum of the order to replace.
        user_ref: UserRefNum,
        /// Its new price.
        price: Price,
        /// Its new open shares.
        shares: u32,
    },
    /// The end of an order.
    Cancel {
        /// UserRefNum of the order to cancel.
        user_ref: UserRefNum,
    },
}

/// The intents of one call, at most [`INTENTS_MAX`].
pub struct Actions {
    intents: Vec<Intent>,
}

impl Actions {
    pub(crate) fn new() -> Self {
        Self { intents: Vec::with_capacity(INTENTS_MAX) }
    }

    /// Asks for `intent`; `false`, and nothing asked, if the call has asked for [`INTENTS_MAX`].
    pub fn push(&mut self, intent: Intent) -> bool {
        let room = self.intents.len() < INTENTS_MAX;
        if room {
            self.intents.push(intent);
        }
        room
    }

    pub(crate) fn take(&mut self, at: usize) -> Option<Intent> {
        self.intents.get(at).copied()
    }

    pub(crate) fn clear(&mut self) {
        self.intents.clear();
    }
}

/// One execution of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execution {
    /// The order's number.
    pub user_ref: UserRefNum,
    /// Instrument of the order.
    pub instrument: InstrumentId,
    /// The order's side.
    pub side: Side,
    /// Number of shares executed.
    pub shares: u32,
    /// At what price.
    pub price: Price,
}

/// A trading strategy: a deterministic function of what it is called with.
pub trait Strategy {
    /// Every best bid and offer in turn, also those that a later message of the same datagram
    /// changed again, and also while trading is stopped: for indicators. It may not act.
    fn on_quote(&mut self, _instrument: InstrumentId, _bbo: &Bbo) {}

    /// A datagram changed a best bid or offer, in price or shares; also called for every instrument
    /// when trading starts. Not called while the feed has a gap or trading is stopped.
    fn on_bbo(&mut self, view: &View<'_>, instrument: InstrumentId, actions: &mut Actions);

    /// One of our orders traded.
    fn on_execution(&mut self, view: &View<'_>, execution: &Execution, actions: &mut Actions) {
        self.on_bbo(view, execution.instrument, actions);
    }

    /// About every 10 ms while trading.
    fn on_timer(&mut self, _view: &View<'_>, _actions: &mut Actions) {}
}

impl<S: Strategy + ?Sized> Strategy for Box<S> {
    fn on_quote(&mut self, instrument: InstrumentId, bbo: &Bbo) {
        (**self).on_quote(instrument, bbo);
    }

    fn on_bbo(&mut self, view: &View<'_>, instrument: InstrumentId, actions: &mut Actions) {
        (**self).on_bbo(view, instrument, actions);
    }

    fn on_execution(&mut self, view: &View<'_>, execution: &Execution, actions: &mut Actions) {
        (**self).on_execution(view, execution, actions);
    }

    fn on_timer(&mut self, view: &View<'_>, actions: &mut Actions) {
        (**self).on_timer(view, actions);
    }
}
