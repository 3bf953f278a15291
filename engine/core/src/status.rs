//! What the feed says about an instrument beside its book: trading state, halts, Reg SHO, LULD collars,
//! crosses. Keeps the last word; decides nothing but whether the instrument trades.

use abi::field::Price;
use abi::itch::{CrossTrade, LuldAuctionCollar, OperationalHalt, RegSho, TradingAction};

/// The trading state of ITCH 5.0, 1.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TradingState {
    /// Halted across all US markets (`H`); also before the first word, and for a code that is not listed.
    #[default]
    Halted,
    /// Paused across all US markets (`P`): a LULD pause.
    Paused,
    /// Quotation only (`Q`): before a halt cross.
    QuotationOnly,
    /// Trading (`T`).
    Trading,
}

/// The short-sale price-test restriction of Reg SHO rule 201 (ITCH 5.0, 1.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShortSale {
    /// No restriction (`0`).
    #[default]
    Free,
    /// In effect since today's drop of the price (`1`).
    RestrictedToday,
    /// Still in effect from an earlier day (`2`); also for a code that is not listed.
    StillRestricted,
}

/// The collars of a LULD reopening auction (ITCH 5.0, 1.2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collar {
    /// The price that the collars are set around.
    pub reference: Price,
    /// The highest price of the auction.
    pub upper: Price,
    /// The lowest price of the auction.
    pub lower: Price,
    /// How often the auction was extended.
    pub extension: u32,
}

/// The last cross of an instrument (ITCH 5.0, 1.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cross {
    /// `O` opening, `C` closing, `H` halted or paused security, `I` intraday.
    pub kind: u8,
    /// The price at which it traded; 0 if nothing did.
    pub price: Price,
    /// Shares.
    pub shares: u64,
}

/// An instrument's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// The trading state.
    pub state: TradingState,
    /// Nasdaq itself can't trade it (Operational Halt), whatever the state.
    pub operationally_halted: bool,
    /// Whether short sales are restricted.
    pub short_sale: ShortSale,
    /// The collars of the last LULD auction; forgotten when trading starts again.
    pub collar: Option<Collar>,
    /// The last cross.
    pub cross: Option<Cross>,
    /// Shares of a round lot, from the stock directory; 0 before it.
    pub round_lot: u32,
    /// Whether a message about the instrument could not be applied: its book is not the exchange's.
    pub is_unsound: bool,
}

impl Status {
    /// Whether continuous trading is on.
    #[inline(always)]
    pub fn is_trading(&self) -> bool {
        self.state == TradingState::Trading && !self.operationally_halted
    }

    pub(crate) fn on_action(&mut self, message: &TradingAction) {
        self.state = match message.trading_state {
            b'T' => TradingState::Trading,
            b'Q' => TradingState::QuotationOnly,
            b'P' => TradingState::Paused,
            _ => TradingState::Halted,
        };
        if self.state == TradingState::Trading {
            self.collar = None;
        }
    }

    /// Another market centre's halt (`B` BX, `X` PSX) is not ours.
    pub(crate) fn on_operational_halt(&mut self, message: &OperationalHalt) {
        if message.market_code == b'Q' {
            self.operationally_halted = message.halt_action != b'T';
        }
    }

    pub(crate) fn on_reg_sho(&mut self, message: &RegSho) {
        self.short_sale = match message.action {
            b'0' => ShortSale::Free,
            b'1' => ShortSale::RestrictedToday,
            _ => ShortSale::StillRestricted,
        };
    }

    pub(crate) fn on_collar(&mut self, message: &LuldAuctionCollar) {
        self.collar = Some(Collar {
            reference: message.reference_price,
            upper: message.upper_price,
            lower: message.lower_price,
            extension: message.extension,
        });
    }

    pub(crate) fn on_cross(&mut self, message: &CrossTrade) {
        let (kind, price, shares) = (message.cross_type, message.cross_price, message.shares);
        self.cross = Some(Cross { kind, price, shares });
    }
}
