//! What the core is told at construction. Values hold what their constructors checked.

use crate::limits;
use abi::field::{Alpha, Symbol};
use abi::mold::Session;
use serde::Deserialize;
use thiserror::Error;

/// A setting that the core can't work with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// No instrument, or too many.
    #[error("instruments: {0} given, 1 to {max} can be traded by one hot thread", max = limits::INSTRUMENTS_MAX)]
    InstrumentCount(usize),
    /// The same symbol twice.
    #[error("instruments: {0} stands there twice")]
    InstrumentTwice(Symbol),
    /// A number outside its range.
    #[error("{key} = {value}: must be {range}")]
    Range {
        /// The key.
        key: &'static str,
        /// What was given.
        value: u64,
        /// What can be.
        range: &'static str,
    },
    /// A text that the exchange's field can't carry.
    #[error("{key} = {value:?}: at most {max} printable ASCII characters")]
    Text {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// The field's length.
        max: usize,
    },
}

/// Pre-trade limits. Every one is checked before every order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RiskLimits {
    /// Shares of one order, 1 to 999,999.
    pub order_shares_max: u32,
    /// Price times shares of one order, in whole units of the currency.
    pub order_notional_max: u64,
    /// Distance of a price from the middle of the touch, in 1/10,000 of it.
    pub price_collar_bps: u32,
    /// Net shares of one instrument, working orders counted as filled.
    pub position_shares_max: u32,
    /// Orders that can still trade, over all instruments.
    pub orders_open_max: u32,
    /// Messages to the exchange in one second; a burst may use up one second's worth.
    pub orders_per_second_max: u32,
}

/// What the books may hold. Their memory is 36 to 40 bytes for each order and, for each instrument, 64 KiB
/// and 56 bytes for each level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BookLimits {
    /// Orders in all books.
    pub orders_max: usize,
    /// Prices on one side of one book.
    pub levels_max: usize,
}

/// Who logs in where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// SoupBinTCP username.
    pub username: Alpha<6>,
    /// SoupBinTCP password.
    pub password: Alpha<10>,
}

impl Login {
    /// Takes credentials as people write them.
    ///
    /// # Errors
    /// [`SettingsError::Text`] if a field can't carry one. The password is not repeated.
    pub fn new(username: &str, password: &str) -> Result<Self, SettingsError> {
        let too_long =
            |key, value: &str, max| SettingsError::Text { key, value: value.into(), max };
        let username =
            Alpha::new(username).ok_or_else(|| too_long("orders.username", username, 6))?;
        let password =
            Alpha::new(password).ok_or_else(|| too_long("orders.password", "(not shown)", 10))?;
        Ok(Self { username, password })
    }
}

/// Everything the core is told. Holding one proves that each value is in its range.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(crate) instruments: Vec<Symbol>,
    pub(crate) risk: RiskLimits,
    pub(crate) login: Login,
    pub(crate) feed_session: Option<Session>,
    pub(crate) book: BookLimits,
    pub(crate) gap_wait_ns: u64,
    pub(crate) request_retry_ns: u64,
}

/// Wait for the other line before a gap is requested: longer than the skew of two lines of one
/// exchange, shorter than a person notices.
const GAP_WAIT_NS: u64 = 2_000_000;
/// Ask again when the request server did not answer: many round trips within one site.
const REQUEST_RETRY_NS: u64 = 50_000_000;

impl Settings {
    /// Checks and keeps the settings. `feed_session` `None` takes the first session heard.
    ///
    /// # Errors
    /// [`SettingsError`] names the key and its range.
    pub fn new(
        instruments: Vec<Symbol>,
        risk: RiskLimits,
        login: Login,
        feed_session: Option<Session>,
        book: BookLimits,
    ) -> Result<Self, SettingsError> {
        if !(1..=limits::INSTRUMENTS_MAX).contains(&instruments.len()) {
            return Err(SettingsError::InstrumentCount(instruments.len()));
        }
        let mut sorted = instruments.clone();
        sorted.sort();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(SettingsError::InstrumentTwice(twice[0]));
        }
        check_risk(&risk)?;
        let orders_max = limits::BOOK_ORDERS_MAX as u64;
        range("book.orders_max", book.orders_max as u64, 1_024, orders_max, "1024 to 268435456")?;
        let levels_max = limits::LEVELS_MAX as u64;
        range("book.levels_max", book.levels_max as u64, 16, levels_max, "16 to 65536")?;
        Ok(Self {
            instruments,
            risk,
            login,
            feed_session,
            book,
            gap_wait_ns: GAP_WAIT_NS,
            request_retry_ns: REQUEST_RETRY_NS,
        })
    }
}

fn range(
    key: &'static str,
    value: u64,
    min: u64,
    max: u64,
    range: &'static str,
) -> Result<(), SettingsError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(SettingsError::Range { key, value, range })
    }
}

fn check_risk(risk: &RiskLimits) -> Result<(), SettingsError> {
    range("risk.order_shares_max", risk.order_shares_max.into(), 1, 999_999, "1 to 999999")?;
    range("risk.order_notional_max", risk.order_notional_max, 1, 1 << 40, "1 to 2^40")?;
    range("risk.price_collar_bps", risk.price_collar_bps.into(), 1, 10_000, "1 to 10000")?;
    range("risk.position_shares_max", risk.position_shares_max.into(), 1, 1 << 30, "1 to 2^30")?;
    let open_max = limits::OWN_ORDERS_MAX as u64;
    range("risk.orders_open_max", risk.orders_open_max.into(), 1, open_max, "1 to 4096")?;
    let rate_max = limits::ORDER_RATE_MAX.into();
    range(
        "risk.orders_per_second_max",
        risk.orders_per_second_max.into(),
        1,
        rate_max,
        "1 to 1000000",
    )
}
