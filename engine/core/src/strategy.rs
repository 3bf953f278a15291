//! Strategy interface: the view of the market and the intents. The same code runs live, in replay
//! and in backtest: it gets no clock, no socket and no file, only what stands here.

use crate::book::Bbo;
use crate::limits::INTENTS_MAX;
use crate::market::{InstrumentId, Market};
use crate::orders::{Orders, OwnOrder, Position};
use abi::field::{Price, Side};
use abi::journal::Refused;
use abi::ouch::UserRefNum;

/// View of books, orders and time that a strategy reads.
pub struct View<'a> {
    /// Books and trading states.
    pub market: &'a Market,
    /// Nanoseconds of `CLOCK_REALTIME` at the input that is being handled.
    pub now_ns: u64,
    /// Whether what is asked for now is done: not while trading is stopped or the feed has a gap.
    pub may_act: bool,
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

/// Change of one order of ours that is no execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderUpdate {
    /// The order's number; after a replacement, the new one.
    pub user_ref: UserRefNum,
    /// Instrument of the order.
    pub instrument: InstrumentId,
    /// Side of the order.
    pub side: Side,
    /// Shares that can still trade; 0 if it is gone.
    pub open: u32,
    /// Change of the order.
    pub change: OrderChange,
}

/// Kind of an [`OrderUpdate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderChange {
    /// The exchange took it.
    Accepted,
    /// The exchange refused it.
    Rejected,
    /// Its replacement is in its place.
    Replaced,
    /// The exchange refused a replacement; the order is as it was.
    ReplaceRejected,
    /// Some of it, or all, was cancelled, by us or by the exchange.
    Cancelled,
    /// The exchange refused a cancel; the order is as it was.
    CancelRejected,
}

/// Intent of a strategy, before the risk checks. What risk refuses comes back by
/// [`Strategy::on_refused`].
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

    /// One of our orders traded. Called for every execution, also while the feed has a gap, while
    /// trading is stopped and for what a new process hears again of its session: what is asked for
    /// then is not done. Unless a strategy says otherwise it is as a change of the touch.
    fn on_execution(&mut self, view: &View<'_>, execution: &Execution, actions: &mut Actions) {
        self.on_bbo(view, execution.instrument, actions);
    }

    /// One of our orders changed, other than by an execution; also called while trading is stopped,
    /// as [`Self::on_execution`].
    fn on_order(&mut self, _view: &View<'_>, _update: &OrderUpdate, _actions: &mut Actions) {}

    /// Risk refused something that the last call asked for.
    fn on_refused(&mut self, _view: &View<'_>, _refused: &Refused) {}

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

    fn on_order(&mut self, view: &View<'_>, update: &OrderUpdate, actions: &mut Actions) {
        (**self).on_order(view, update, actions);
    }

    fn on_refused(&mut self, view: &View<'_>, refused: &Refused) {
        (**self).on_refused(view, refused);
    }

    fn on_timer(&mut self, view: &View<'_>, actions: &mut Actions) {
        (**self).on_timer(view, actions);
    }
}
