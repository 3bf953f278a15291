//! All books, fed by ITCH 5.0: orders by reference, levels by price, trading state by instrument.

use crate::book::{Bbo, Book};
use crate::limits::LEVELS_MAX;
use crate::order_table::{NONE, OrderTable, Resting};
use abi::field::{Price, Side, Symbol};
use abi::itch::Message;
use thiserror::Error;

/// An instrument's place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstrumentId(pub u16);

/// Why a book message could not be applied. The book is as it was before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BookError {
    /// The order is not in the book.
    #[error("order {0} is not in the book")]
    UnknownOrder(u64),
    /// The reference is in use.
    #[error("order {0} is in the book already")]
    DuplicateOrder(u64),
    /// The order has fewer shares than the message takes, or would have none.
    #[error("order {0}: the shares do not add up")]
    Shares(u64),
    /// `engine.book_orders_max` orders are in the books.
    #[error("the order table is full; raise engine.book_orders_max")]
    TableFull,
    /// One side has [`LEVELS_MAX`] prices.
    #[error("a book's side has {LEVELS_MAX} prices; no more are kept")]
    LevelsFull,
}

/// What a message changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing that the books show.
    None,
    /// The book of an instrument; its best bid and offer may be as before.
    Book(InstrumentId),
    /// Whether an instrument trades.
    Status(InstrumentId),
    /// Market hours started (system event `Q`).
    MarketOpened,
    /// Market hours ended (system event `M`).
    MarketClosed,
}

/// Everything that the feed says about the configured instruments.
pub struct Market {
    symbols: Vec<Symbol>,
    books: Vec<Book>,
    trading: Vec<bool>,
    by_locate: Box<[Option<InstrumentId>]>,
    orders: OrderTable,
}

impl Market {
    /// Empty books for `symbols`, with room for `orders_max` orders in all.
    pub fn new(symbols: &[Symbol], orders_max: usize) -> Self {
        Self {
            symbols: symbols.to_vec(),
            books: symbols.iter().map(|_| Book::new(LEVELS_MAX)).collect(),
            trading: vec![false; symbols.len()],
            by_locate: vec![None; 1 << 16].into_boxed_slice(),
            orders: OrderTable::new(orders_max),
        }
    }

    /// The configured instruments.
    pub fn instruments(&self) -> impl Iterator<Item = InstrumentId> + use<> {
        (0..self.symbols.len() as u16).map(InstrumentId)
    }

    /// An instrument's symbol.
    pub fn symbol(&self, id: InstrumentId) -> Symbol {
        self.symbols[usize::from(id.0)]
    }

    /// An instrument's book.
    pub fn book(&self, id: InstrumentId) -> &Book {
        &self.books[usize::from(id.0)]
    }

    /// An instrument's best bid and offer.
    #[inline]
    pub fn bbo(&self, id: InstrumentId) -> Bbo {
        self.book(id).bbo()
    }

    /// Whether the exchange says that the instrument trades.
    pub fn is_trading(&self, id: InstrumentId) -> bool {
        self.trading[usize::from(id.0)]
    }

    /// Orders in all books.
    pub fn orders_count(&self) -> usize {
        self.orders.len()
    }

    /// The instrument of a symbol.
    pub fn find(&self, symbol: Symbol) -> Option<InstrumentId> {
        self.symbols.iter().position(|s| *s == symbol).map(|at| InstrumentId(at as u16))
    }

    /// Applies one message. Messages about other instruments change nothing.
    ///
    /// # Errors
    /// [`BookError`]; the books are then as they were.
    #[inline]
    pub fn apply(&mut self, message: &Message) -> Result<Change, BookError> {
        match message {
            Message::AddOrder(m) => {
                self.add(m.stock_locate, m.order_ref, m.side, m.shares, m.price)
            }
            Message::AddOrderMpid(m) => {
                self.add(m.stock_locate, m.order_ref, m.side, m.shares, m.price)
            }
            Message::OrderExecuted(m) => self.take(m.stock_locate, m.order_ref, m.executed_shares),
            Message::OrderExecutedWithPrice(m) => {
                self.take(m.stock_locate, m.order_ref, m.executed_shares)
            }
            Message::OrderCancel(m) => self.take(m.stock_locate, m.order_ref, m.cancelled_shares),
            Message::OrderDelete(m) => self.delete(m.stock_locate, m.order_ref),
            Message::OrderReplace(m) => {
                self.replace(m.stock_locate, m.order_ref, m.new_order_ref, m.shares, m.price)
            }
            Message::StockDirectory(m) => {
                self.by_locate[usize::from(m.stock_locate)] = self.find(m.stock);
                Ok(Change::None)
            }
            Message::TradingAction(m) => {
                let Some(id) = self.find(m.stock) else { return Ok(Change::None) };
                self.trading[usize::from(id.0)] = m.trading_state == b'T';
                Ok(Change::Status(id))
            }
            Message::SystemEvent(m) => Ok(match m.event_code {
                b'Q' => Change::MarketOpened,
                b'M' => Change::MarketClosed,
                _ => Change::None,
            }),
            _ => Ok(Change::None),
        }
    }

    #[inline(always)]
    fn located(&self, locate: u16) -> Option<InstrumentId> {
        self.by_locate[usize::from(locate)]
    }

    fn add(
        &mut self,
        locate: u16,
        order_ref: u64,
        side: Side,
        shares: u32,
        price: Price,
    ) -> Result<Change, BookError> {
        let Some(id) = self.located(locate) else { return Ok(Change::None) };
        if self.orders.find(order_ref).is_some() {
            return Err(BookError::DuplicateOrder(order_ref));
        }
        if self.orders.is_full() {
            return Err(BookError::TableFull);
        }
        if shares == 0 {
            return Err(BookError::Shares(order_ref));
        }
        let book = &mut self.books[usize::from(id.0)];
        let level = book.level_for(side, price).map_err(|_| BookError::LevelsFull)?;
        if book.shares_of(level).checked_add(shares).is_none() {
            return Err(BookError::Shares(order_ref));
        }
        let resting = Resting {
            order_ref,
            shares,
            level,
            previous: NONE,
            next: NONE,
            instrument: id.0,
            side,
        };
        let handle = self.orders.insert(resting);
        book.enqueue(&mut self.orders, handle);
        Ok(Change::Book(id))
    }

    fn take(&mut self, locate: u16, order_ref: u64, shares: u32) -> Result<Change, BookError> {
        let Some(id) = self.located(locate) else { return Ok(Change::None) };
        let handle = self.orders.find(order_ref).ok_or(BookError::UnknownOrder(order_ref))?;
        let order = *self.orders.get(handle);
        if shares > order.shares {
            return Err(BookError::Shares(order_ref));
        }
        let book = &mut self.books[usize::from(order.instrument)];
        if shares == order.shares {
            book.dequeue(&mut self.orders, handle);
            self.orders.remove(handle);
        } else {
            book.reduce(&mut self.orders, handle, shares);
        }
        Ok(Change::Book(id))
    }

    fn delete(&mut self, locate: u16, order_ref: u64) -> Result<Change, BookError> {
        let Some(id) = self.located(locate) else { return Ok(Change::None) };
        let handle = self.orders.find(order_ref).ok_or(BookError::UnknownOrder(order_ref))?;
        let instrument = usize::from(self.orders.get(handle).instrument);
        self.books[instrument].dequeue(&mut self.orders, handle);
        self.orders.remove(handle);
        Ok(Change::Book(id))
    }

    fn replace(
        &mut self,
        locate: u16,
        order_ref: u64,
        new_ref: u64,
        shares: u32,
        price: Price,
    ) -> Result<Change, BookError> {
        let Some(id) = self.located(locate) else { return Ok(Change::None) };
        let handle = self.orders.find(order_ref).ok_or(BookError::UnknownOrder(order_ref))?;
        if new_ref != order_ref && self.orders.find(new_ref).is_some() {
            return Err(BookError::DuplicateOrder(new_ref));
        }
        let old = *self.orders.get(handle);
        let book = &mut self.books[usize::from(old.instrument)];
        let old_price = book.price_of(old.level);
        book.dequeue(&mut self.orders, handle);
        self.orders.remove(handle);
        self.add(locate, new_ref, old.side, shares, price).inspect_err(|_| {
            // The slot and the level just freed are there for the order to go back to, at the end
            // of its queue: a replace that can't be applied has lost its priority anyway.
            let restored = self.add(locate, order_ref, old.side, old.shares, old_price);
            debug_assert_eq!(restored, Ok(Change::Book(id)));
        })
    }
}
