//! Trading status of an instrument from the feed, beside its book: trading state, halts, Reg SHO,
//! LULD collars, crosses. Keeps the latest values; decides nothing but whether the instrument
//! trades.

use abi::field::Price;
use abi::itch::{CrossTrade, LuldAuctionCollar, OperationalHalt, RegSho, TradingAction};

/// The trading state of ITCH 5.0, 1.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TradingState {
    /// Halted across all US markets (`H`); also before the first word, and for a code that is not
    /// listed.
    #[default]
    Halted,
    /// Paused across all US markets (`P`): a LULD pause.
    Paused,
    /// Quotation only (`Q`): before a halt cross.
    QuotationOnly,
    /// Trading in progress (`T`).
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
    /// Number of extensions of the auction.
    pub extension: u32,
}

/// The last cross of an instrument (ITCH 5.0, 1.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cross {
    /// `O` opening, `C` closing, `H` halted or paused security, `I` intraday.
    pub kind: u8,
    /// The price at which it traded; 0 if nothing did.
    pub price: Price,
    /// Shares that the cross traded.
    pub shares: u64,
}

/// Obstacles to trading an instrument: one bit each, so that one comparison with zero tests all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Obstacles(u8);

impl Obstacles {
    /// Its state is not [`TradingState::Trading`].
    const STATE: u8 = 1;
    /// Nasdaq itself can't trade it (Operational Halt), whatever the state.
    const OPERATIONAL_HALT: u8 = 2;
    /// A message about it could not be applied: its book is not the exchange's.
    const UNSOUND: u8 = 4;

    fn set(&mut self, obstacle: u8, is_there: bool) {
        self.0 = if is_there { self.0 | obstacle } else { self.0 & !obstacle };
    }

    #[inline(always)]
    fn has(self, any_of: u8) -> bool {
        self.0 & any_of != 0
    }
}

impl Default for Obstacles {
    fn default() -> Self {
        Self(Self::STATE)
    }
}

/// An instrument's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// The trading state.
    state: TradingState,
    obstacles: Obstacles,
    /// Whether short sales are restricted.
    pub short_sale: ShortSale,
    /// The collars of the last LULD auction; forgotten when trading starts again.
    pub collar: Option<Collar>,
    /// The last cross.
    pub cross: Option<Cross>,
    /// Shares of a round lot, from the stock directory; 0 before it.
    pub round_lot: u32,
}

impl Status {
    /// The status of an instrument in a trading state of which nothing else is known.
    pub fn in_state(state: TradingState) -> Self {
        let mut status = Self::default();
        status.set_state(state);
        status
    }

    /// The trading state.
    pub fn state(&self) -> TradingState {
        self.state
    }

    /// Whether continuous trading is on.
    #[inline(always)]
    pub fn is_trading(&self) -> bool {
        !self.obstacles.has(Obstacles::STATE | Obstacles::OPERATIONAL_HALT)
    }

    /// Whether a message about the instrument could not be applied: its book is not the exchange's.
    pub fn is_unsound(&self) -> bool {
        self.obstacles.has(Obstacles::UNSOUND)
    }

    /// Whether continuous trading is on, and the book is the exchange's.
    #[inline(always)]
    pub fn may_be_traded(&self) -> bool {
        self.obstacles == Obstacles(0)
    }

    pub(crate) fn mark_unsound(&mut self) {
        self.obstacles.set(Obstacles::UNSOUND, true);
    }

    fn set_state(&mut self, state: TradingState) {
        self.state = state;
        self.obstacles.set(Obstacles::STATE, state != TradingState::Trading);
    }

    pub(crate) fn on_action(&mut self, message: &TradingAction) {
        self.set_state(match message.trading_state {
            b'T' => TradingState::Trading,
            b'Q' => TradingState::QuotationOnly,
            b'P' => TradingState::Paused,
            _ => TradingState::Halted,
        });
        if self.state == TradingState::Trading {
            self.collar = None;
        }
    }

    /// Another market centre's halt (`B` BX, `X` PSX) is not ours.
    pub(crate) fn on_operational_halt(&mut self, message: &OperationalHalt) {
        if message.market_code == b'Q' {
            self.obstacles.set(Obstacles::OPERATIONAL_HALT, message.halt_action != b'T');
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

#[cfg(test)]
mod tests {
    use super::*;
    use abi::field::{Symbol, Time48};

    #[test]
    fn collars_last_until_trading_starts_and_the_last_cross_is_kept() {
        let (stock_locate, tracking_number) = (1, 0);
        let (timestamp, stock) = (Time48::new(1).unwrap(), Symbol::new("AAPL").unwrap());
        let mut status = Status::in_state(TradingState::Paused);
        status.on_collar(&LuldAuctionCollar {
            stock_locate,
            tracking_number,
            timestamp,
            stock,
            reference_price: Price(1_000_000),
            upper_price: Price(1_050_000),
            lower_price: Price(950_000),
            extension: 2,
        });
        let collar = status.collar.unwrap();
        assert_eq!(
            (collar.lower, collar.reference, collar.upper, collar.extension),
            (Price(950_000), Price(1_000_000), Price(1_050_000), 2)
        );
        let cross = |cross_type, shares| CrossTrade {
            stock_locate,
            tracking_number,
            timestamp,
            shares,
            stock,
            cross_price: Price(1_001_000),
            match_number: 7,
            cross_type,
        };
        [cross(b'O', 500), cross(b'H', 90)].iter().for_each(|cross| status.on_cross(cross));
        assert_eq!(status.cross, Some(Cross { kind: b'H', price: Price(1_001_000), shares: 90 }));
        let action = |trading_state| TradingAction {
            stock_locate,
            tracking_number,
            timestamp,
            stock,
            trading_state,
            reserved: b' ',
            reason: abi::field::Alpha::BLANK,
        };
        status.on_action(&action(b'Q'));
        assert!(status.collar.is_some() && !status.is_trading());
        status.on_action(&action(b'T'));
        assert!(status.collar.is_none() && status.is_trading());
    }
}
