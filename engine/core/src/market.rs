//! All books, fed by ITCH 5.0: orders by reference, levels by price, status by instrument.

use crate::book::{self, Bbo, Place, Quote, Refused, ladder_of, side_of};
use crate::ladder::{Ladder, Touched};
use crate::order_table::{Entry, OrderTable};
use crate::trading_status::Status;
use abi::field::{Price, Side, Symbol};
use abi::itch::{
    AddOrder, AddOrderMpid, CrossTrade, LuldAuctionCollar, Message, OperationalHalt, OrderCancel,
    OrderDelete, OrderExecuted, OrderExecutedWithPrice, OrderReplace, RegSho, StockDirectory,
    SystemEvent, Trade, TradingAction,
};
use abi::wire::WireError;
use thiserror::Error;

/// An instrument's place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstrumentId(pub u16);

/// Why a message could not be applied. The books are as they were before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BookError {
    /// Message that is not ITCH 5.0; `Message::decode` gives the reason.
    #[error("not an ITCH 5.0 message")]
    Malformed,
    /// The order is not in the book.
    #[error("the order is not in the book")]
    UnknownOrder,
    /// The reference is in use.
    #[error("the order is in the book already")]
    DuplicateOrder,
    /// The order has fewer shares than the message takes, or would have none, or its level more
    /// than 2^32 − 1.
    #[error("the shares do not add up")]
    Shares,
    /// The message names another instrument than the order's.
    #[error("the order is another instrument's")]
    Instrument,
    /// `book.orders_max` orders are in the books.
    #[error("the order table is full; raise book.orders_max")]
    TableFull,
    /// One side of one book has `book.levels_max` prices beyond those near the touch.
    #[error("a book's side has no level left; raise book.levels_max")]
    LevelsFull,
}

impl From<Refused> for BookError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::LevelsFull => Self::LevelsFull,
            Refused::TableFull => Self::TableFull,
            Refused::Duplicate => Self::DuplicateOrder,
            Refused::Shares => Self::Shares,
        }
    }
}

/// Change that a message made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing, or a book.
    None,
    /// The status of an instrument.
    Status(InstrumentId),
    /// Market hours started (system event `Q`).
    MarketOpened,
    /// Market hours ended (system event `M`).
    MarketClosed,
}

fn place_of(id: InstrumentId) -> Place {
    id.0 + 1
}

#[inline(always)]
fn instrument_at(place: Place) -> InstrumentId {
    InstrumentId(place - 1)
}

/// Result of applying a message off the fast path.
enum Applied {
    Book(InstrumentId, Touched),
    Change(Change),
}

/// Everything that the feed says about the configured instruments.
pub struct Market {
    symbols: Vec<Symbol>,
    by_symbol: Vec<(Symbol, InstrumentId)>,
    ladders: Box<[Ladder]>,
    orders: OrderTable,
    statuses: Vec<Status>,
    /// By the locate code's bytes as they stand in a message; 0 for another instrument.
    by_locate: Box<[Place; 1 << 16]>,
}

/// The fields of a message, or out with [`BookError::Malformed`].
macro_rules! read {
    ($message:ident, $bytes:expr; $($field:ident),+) => {{
        let Some(m) = $message::raw($bytes) else { return Err(BookError::Malformed) };
        let ($(Some($field),)+) = ($(m.$field(),)+) else { return Err(BookError::Malformed) };
        ($($field),+)
    }};
}

impl Market {
    /// Empty books for `symbols`, with room for `orders_max` orders in all and `levels_max` prices
    /// on each side of each book.
    pub fn new(symbols: &[Symbol], orders_max: usize, levels_max: usize) -> Self {
        let ids = (0..symbols.len() as u16).map(InstrumentId);
        let mut by_symbol: Vec<_> = symbols.iter().copied().zip(ids).collect();
        by_symbol.sort_unstable();
        let by_locate = vec![0; 1 << 16].into_boxed_slice();
        Self {
            symbols: symbols.to_vec(),
            by_symbol,
            ladders: (0..(symbols.len() as u32 + 1) * 2)
                .map(|ladder| Ladder::new(side_of(ladder), levels_max))
                .collect(),
            orders: OrderTable::new(orders_max),
            statuses: vec![Status::default(); symbols.len()],
            by_locate: by_locate.try_into().expect("as many as there are locate codes"),
        }
    }

    /// Forgets all that the feed has said, locate codes included: a snapshot says it again.
    pub(crate) fn clear(&mut self) {
        self.ladders.iter_mut().for_each(Ladder::clear);
        self.orders.clear();
        self.statuses.fill(Status::default());
        self.by_locate.fill(0);
    }

    /// The configured instruments.
    pub fn instruments(&self) -> impl Iterator<Item = InstrumentId> + use<> {
        (0..self.symbols.len() as u16).map(InstrumentId)
    }

    /// An instrument's symbol.
    pub fn symbol(&self, id: InstrumentId) -> Symbol {
        self.symbols[usize::from(id.0)]
    }

    /// The levels of one side of a book, best first.
    pub fn depth(&self, id: InstrumentId, side: Side) -> impl Iterator<Item = Quote> + '_ {
        self.ladders[ladder_of(place_of(id), side) as usize].iter().map(Quote::from)
    }

    /// An instrument's best bid and offer.
    #[inline(always)]
    pub fn bbo(&self, id: InstrumentId) -> Bbo {
        book::bbo(&self.ladders, place_of(id))
    }

    /// An instrument's status.
    #[inline(always)]
    pub fn status(&self, id: InstrumentId) -> &Status {
        &self.statuses[usize::from(id.0)]
    }

    /// Orders in all books.
    pub fn orders_count(&self) -> usize {
        self.orders.len()
    }

    /// The instrument of a symbol.
    pub fn find(&self, symbol: Symbol) -> Option<InstrumentId> {
        let at = self.by_symbol.binary_search_by_key(&symbol, |(symbol, _)| *symbol).ok()?;
        Some(self.by_symbol[at].1)
    }

    /// The orders that rest at one price, first in the queue first: reference and shares.
    pub fn queue(
        &self,
        id: InstrumentId,
        side: Side,
        price: Price,
    ) -> impl Iterator<Item = (u64, u32)> + '_ {
        let mut levels = self.ladders[ladder_of(place_of(id), side) as usize].iter();
        let level = levels.find(move |level| level.price == price);
        let first = level.and_then(|level| self.orders.at(level.head));
        std::iter::successors(first, |order| self.orders.at(order.next))
            .map(|order| (order.order_ref, order.shares))
    }

    /// The instrument, side, price and open shares of a resting order.
    pub fn resting(&self, order_ref: u64) -> Option<(InstrumentId, Side, Quote)> {
        let order = self.orders.at(self.orders.find(order_ref)?)?;
        let price = self.ladders[order.ladder as usize].get(order.level).price;
        let quote = Quote { price, shares: order.shares };
        Some((instrument_at((order.ladder / 2) as Place), side_of(order.ladder), quote))
    }

    /// Applies one whole message. Messages about other instruments change nothing. `on_touch` is
    /// called if the best level of a side changed; its price and shares may be as before.
    ///
    /// # Errors
    /// [`BookError`]; the books are then as they were.
    #[inline(always)]
    pub fn apply(
        &mut self,
        bytes: &[u8],
        on_touch: impl FnOnce(&Self, InstrumentId),
    ) -> Result<Change, BookError> {
        match bytes.first() {
            Some(&AddOrder::KIND) => {
                let (locate, order_ref, side, shares, price) =
                    read!(AddOrder, bytes; stock_locate, order_ref, side, shares, price);
                let Some(place) = self.located(locate) else { return Ok(Change::None) };
                let (ladders, orders) = (&mut self.ladders, &mut self.orders);
                let ladder = ladder_of(place, side);
                match book::enqueue_plain(ladders, orders, order_ref, ladder, shares, price) {
                    Some(true) => on_touch(self, instrument_at(place)),
                    Some(false) => {}
                    None => return self.apply_rest(bytes, on_touch),
                }
            }
            Some(&OrderDelete::KIND) => {
                let (locate, order_ref) = read!(OrderDelete, bytes; stock_locate, order_ref);
                let Some(place) = self.located(locate) else { return Ok(Change::None) };
                match book::dequeue_plain(&mut self.ladders, &mut self.orders, place, order_ref) {
                    Some(true) => on_touch(self, instrument_at(place)),
                    Some(false) => {}
                    None => return self.apply_rest(bytes, on_touch),
                }
            }
            Some(&OrderExecuted::KIND) => {
                let (locate, order_ref, shares) =
                    read!(OrderExecuted, bytes; stock_locate, order_ref, executed_shares);
                let Some(place) = self.located(locate) else { return Ok(Change::None) };
                let (ladders, orders) = (&mut self.ladders, &mut self.orders);
                match book::reduce_plain(ladders, orders, place, order_ref, shares) {
                    Some(true) => on_touch(self, instrument_at(place)),
                    Some(false) => {}
                    None => return self.apply_rest(bytes, on_touch),
                }
            }
            Some(&Trade::KIND) if bytes.len() == Trade::LEN => {}
            _ => return self.apply_rest(bytes, on_touch),
        }
        Ok(Change::None)
    }

    #[inline(never)]
    fn apply_rest(
        &mut self,
        bytes: &[u8],
        on_touch: impl FnOnce(&Self, InstrumentId),
    ) -> Result<Change, BookError> {
        match self.apply_other(bytes)? {
            Applied::Book(id, true) => on_touch(self, id),
            Applied::Book(_, false) => {}
            Applied::Change(change) => return Ok(change),
        }
        Ok(Change::None)
    }

    /// The messages of which there are few, and the unusual cases of the others.
    fn apply_other(&mut self, bytes: &[u8]) -> Result<Applied, BookError> {
        match bytes.first() {
            Some(&AddOrder::KIND) => {
                let (locate, order_ref, side, shares, price) =
                    read!(AddOrder, bytes; stock_locate, order_ref, side, shares, price);
                self.add(locate, order_ref, side, shares, price)
            }
            Some(&OrderDelete::KIND) => {
                let (locate, order_ref) = read!(OrderDelete, bytes; stock_locate, order_ref);
                self.take(locate, order_ref, None)
            }
            Some(&OrderExecuted::KIND) => {
                let (locate, order_ref, shares) =
                    read!(OrderExecuted, bytes; stock_locate, order_ref, executed_shares);
                self.take(locate, order_ref, Some(shares))
            }
            Some(&OrderCancel::KIND) => {
                let (locate, order_ref, shares) =
                    read!(OrderCancel, bytes; stock_locate, order_ref, cancelled_shares);
                self.take(locate, order_ref, Some(shares))
            }
            Some(&OrderReplace::KIND) => {
                let m = whole(OrderReplace::decode(bytes), bytes, OrderReplace::LEN)?;
                self.replace(&m)
            }
            Some(&AddOrderMpid::KIND) => {
                let (locate, order_ref, side, shares, price) =
                    read!(AddOrderMpid, bytes; stock_locate, order_ref, side, shares, price);
                self.add(locate, order_ref, side, shares, price)
            }
            Some(&OrderExecutedWithPrice::KIND) => {
                let (locate, order_ref, shares) =
                    read!(OrderExecutedWithPrice, bytes; stock_locate, order_ref, executed_shares);
                self.take(locate, order_ref, Some(shares))
            }
            _ => self.apply_status(bytes).map(Applied::Change),
        }
    }

    /// The messages that no book shows.
    fn apply_status(&mut self, bytes: &[u8]) -> Result<Change, BookError> {
        match bytes.first() {
            Some(&TradingAction::KIND) => {
                let m = whole(TradingAction::decode(bytes), bytes, TradingAction::LEN)?;
                Ok(self.change_status(m.stock_locate, |status| status.on_action(&m)))
            }
            Some(&OperationalHalt::KIND) => {
                let m = whole(OperationalHalt::decode(bytes), bytes, OperationalHalt::LEN)?;
                Ok(self.change_status(m.stock_locate, |status| status.on_operational_halt(&m)))
            }
            Some(&RegSho::KIND) => {
                let m = whole(RegSho::decode(bytes), bytes, RegSho::LEN)?;
                Ok(self.change_status(m.stock_locate, |status| status.on_reg_sho(&m)))
            }
            Some(&LuldAuctionCollar::KIND) => {
                let m = whole(LuldAuctionCollar::decode(bytes), bytes, LuldAuctionCollar::LEN)?;
                Ok(self.change_status(m.stock_locate, |status| status.on_collar(&m)))
            }
            Some(&CrossTrade::KIND) => {
                let m = whole(CrossTrade::decode(bytes), bytes, CrossTrade::LEN)?;
                Ok(self.change_status(m.stock_locate, |status| status.on_cross(&m)))
            }
            Some(&StockDirectory::KIND) => {
                let m = whole(StockDirectory::decode(bytes), bytes, StockDirectory::LEN)?;
                let id = self.find(m.stock);
                self.by_locate[usize::from(m.stock_locate.swap_bytes())] = id.map_or(0, place_of);
                Ok(self.change_status(m.stock_locate, |s| s.round_lot = m.round_lot_size))
            }
            Some(&SystemEvent::KIND) => Ok(match read!(SystemEvent, bytes; event_code) {
                b'Q' => Change::MarketOpened,
                b'M' => Change::MarketClosed,
                _ => Change::None,
            }),
            _ => Message::decode(bytes).map(|_| Change::None).map_err(|_| BookError::Malformed),
        }
    }

    /// Says that a message which could not be applied belonged into a book: the book of the
    /// instrument that it names, or every book if its length makes that uncertain. Returns how many
    /// books were sound before.
    pub fn mark_unsound(&mut self, bytes: &[u8], error: BookError) -> usize {
        let kinds = [
            AddOrder::KIND,
            AddOrderMpid::KIND,
            OrderDelete::KIND,
            OrderExecuted::KIND,
            OrderExecutedWithPrice::KIND,
            OrderCancel::KIND,
            OrderReplace::KIND,
        ];
        let of_a_book = bytes.first().is_some_and(|kind| kinds.contains(kind));
        let locate = bytes.get(1..3).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
        let named = match error {
            BookError::Malformed if of_a_book => 0..self.statuses.len(),
            BookError::Malformed => 0..0,
            _ => self.located(locate).map_or(0..0, |place| {
                let at = usize::from(instrument_at(place).0);
                at..at + 1
            }),
        };
        let sound = self.statuses[named].iter_mut().filter(|status| !status.is_unsound());
        sound.map(Status::mark_unsound).count()
    }

    fn change_status(&mut self, locate: u16, change: impl FnOnce(&mut Status)) -> Change {
        let Some(place) = self.located(locate) else { return Change::None };
        let id = instrument_at(place);
        change(&mut self.statuses[usize::from(id.0)]);
        Change::Status(id)
    }

    #[inline(always)]
    fn located(&self, locate: u16) -> Option<Place> {
        let place = self.by_locate[usize::from(locate.swap_bytes())];
        (place != 0).then_some(place)
    }

    fn add(
        &mut self,
        locate: u16,
        order_ref: u64,
        side: Side,
        shares: u32,
        price: Price,
    ) -> Result<Applied, BookError> {
        let Some(place) = self.located(locate) else { return Ok(Applied::Change(Change::None)) };
        self.enter(&Entry { order_ref, ladder: ladder_of(place, side), shares, price })
    }

    fn enter(&mut self, entry: &Entry) -> Result<Applied, BookError> {
        let touched = book::enqueue(&mut self.ladders, &mut self.orders, entry)?;
        Ok(Applied::Book(instrument_at((entry.ladder / 2) as Place), touched))
    }

    /// Takes shares, or all of them, off an order wherever it lies.
    fn take(
        &mut self,
        locate: u16,
        order_ref: u64,
        shares: Option<u32>,
    ) -> Result<Applied, BookError> {
        let Some(place) = self.located(locate) else { return Ok(Applied::Change(Change::None)) };
        let handle = self.orders.find(order_ref).ok_or(BookError::UnknownOrder)?;
        let order = &self.orders.slots()[handle as usize];
        if order.ladder / 2 != u32::from(place) {
            return Err(BookError::Instrument);
        }
        let shares = shares.unwrap_or(order.shares);
        if shares > order.shares {
            return Err(BookError::Shares);
        }
        let touched = book::reduce(&mut self.ladders, &mut self.orders, handle, shares);
        Ok(Applied::Book(instrument_at(place), touched))
    }

    fn replace(&mut self, message: &OrderReplace) -> Result<Applied, BookError> {
        if self.located(message.stock_locate).is_none() {
            return Ok(Applied::Change(Change::None));
        }
        let (order_ref, new_ref) = (message.order_ref, message.new_order_ref);
        let handle = self.orders.find(order_ref).ok_or(BookError::UnknownOrder)?;
        if new_ref != order_ref && self.orders.find(new_ref).is_some() {
            return Err(BookError::DuplicateOrder);
        }
        let old = self.orders.slots()[handle as usize];
        let old_price = self.ladders[old.ladder as usize].get(old.level).price;
        let left = self.take(message.stock_locate, order_ref, None)?;
        let (ladder, shares, price) = (old.ladder, message.shares, message.price);
        match self.enter(&Entry { order_ref: new_ref, ladder, shares, price }) {
            Ok(Applied::Book(_, false)) => Ok(left),
            Ok(touched) => Ok(touched),
            Err(error) => {
                // The slot and the level just freed are there for the order to go back to, at the
                // end of its queue: a replace that can't be applied has lost its priority anyway.
                let entry = Entry { order_ref, ladder, shares: old.shares, price: old_price };
                let restored = self.enter(&entry);
                debug_assert!(restored.is_ok());
                Err(error)
            }
        }
    }
}

/// A decoded message, if the bytes are no more than it.
fn whole<M>(decoded: Result<M, WireError>, bytes: &[u8], len: usize) -> Result<M, BookError> {
    decoded.ok().filter(|_| bytes.len() == len).ok_or(BookError::Malformed)
}
