//! Settings of the core, given at construction. Values hold what their constructors checked.

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
    /// A symbol that is restricted but not traded.
    #[error("book.restricted: {0} is not among book.symbols; remove it or correct it")]
    NotTraded(Symbol),
    /// A number outside its range.
    #[error("{key} = {value}: must be {range}")]
    Range {
        /// Key of the setting.
        key: &'static str,
        /// Value that was given.
        value: u64,
        /// Range of allowed values.
        range: &'static str,
    },
    /// A text that the exchange's field can't carry.
    #[error("{key} = {value:?}: at most {max} printable ASCII characters")]
    Text {
        /// Key of the setting.
        key: &'static str,
        /// Value that was given; a password is not shown.
        value: String,
        /// The field's length.
        max: usize,
    },
}

/// Pre-trade limits. Checked before an order or a replacement leaves; the last two stop trading
/// instead. Money is in whole units of the currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RiskLimits {
    /// Shares of one order, 1 to 999,999.
    pub order_shares_max: u32,
    /// Shares of an order are a multiple of this, 1 to 10,000; 1 allows odd lots.
    pub lot_shares: u32,
    /// Price times shares of one order.
    pub order_notional_max: u64,
    /// Distance of a price from the middle of the touch, in 1/10,000 of it.
    pub price_collar_bps: u32,
    /// Net shares of one instrument, working orders counted as filled.
    pub position_shares_max: u32,
    /// Orders that can still trade, over all instruments.
    pub orders_open_max: u32,
    /// Value of all positions, long and short added up, and of all working orders.
    pub gross_notional_max: u64,
    /// Value of the long positions less that of the short ones, with the order filled.
    pub net_notional_max: u64,
    /// Messages to the exchange in any second; a burst may use up one second's worth. Was called
    /// `orders_per_second_max`.
    #[serde(alias = "orders_per_second_max")]
    pub messages_per_second_max: u32,
    /// The same new order (instrument, side, price, shares) may be repeated after so many
    /// nanoseconds.
    pub duplicate_window_ns: u64,
    /// Silence of the feed after which nothing is sent but cancels.
    pub feed_age_max_ns: u64,
    /// Refusals by the exchange in a row after which trading stops.
    pub rejects_in_a_row_max: u32,
    /// Loss at which trading stops, positions valued at the price at which they could be closed.
    pub loss_max: u64,
}

impl RiskLimits {
    /// Words of [`Self::to_words`].
    pub const WORDS: usize = abi::control::LIMIT_NAMES.len();

    /// The limits as words, for the control page and the journal, in the order of the fields.
    pub fn to_words(&self) -> [u64; Self::WORDS] {
        [
            self.order_shares_max.into(),
            self.lot_shares.into(),
            self.order_notional_max,
            self.price_collar_bps.into(),
            self.position_shares_max.into(),
            self.orders_open_max.into(),
            self.gross_notional_max,
            self.net_notional_max,
            self.messages_per_second_max.into(),
            self.duplicate_window_ns,
            self.feed_age_max_ns,
            self.rejects_in_a_row_max.into(),
            self.loss_max,
        ]
    }

    /// The inverse of [`Self::to_words`].
    ///
    /// # Errors
    /// [`SettingsError::Range`] names the first limit that is out of its range.
    pub fn from_words(words: &[u64; Self::WORDS]) -> Result<Self, SettingsError> {
        let narrow = |at: usize| u32::try_from(words[at]).unwrap_or(u32::MAX);
        let limits = Self {
            order_shares_max: narrow(0),
            lot_shares: narrow(1),
            order_notional_max: words[2],
            price_collar_bps: narrow(3),
            position_shares_max: narrow(4),
            orders_open_max: narrow(5),
            gross_notional_max: words[6],
            net_notional_max: words[7],
            messages_per_second_max: narrow(8),
            duplicate_window_ns: words[9],
            feed_age_max_ns: words[10],
            rejects_in_a_row_max: narrow(11),
            loss_max: words[12],
        };
        limits.check()?;
        Ok(limits)
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`SettingsError::Range`] names the first limit that is out of its range.
    pub fn check(&self) -> Result<(), SettingsError> {
        const MONEY_MAX: u64 = 1 << 40;
        const HOUR_NS: u64 = 3_600_000_000_000;
        let open_max = limits::OWN_ORDERS_MAX as u64;
        let rate_max = u64::from(limits::ORDER_RATE_MAX);
        let ranges: [(u64, u64, &'static str); Self::WORDS] = [
            (1, 999_999, "1 to 999999"),
            (1, 10_000, "1 to 10000"),
            (1, MONEY_MAX, "1 to 2^40"),
            (1, 9_999, "1 to 9999"),
            (1, 1 << 30, "1 to 2^30"),
            (1, open_max, "1 to 4096"),
            (1, MONEY_MAX, "1 to 2^40"),
            (1, MONEY_MAX, "1 to 2^40"),
            (1, rate_max, "1 to 1000000"),
            (0, HOUR_NS, "0 to 3600000000000 (an hour)"),
            (1_000_000, HOUR_NS, "1000000 (a millisecond) to 3600000000000 (an hour)"),
            (1, 1_000_000, "1 to 1000000"),
            (1, MONEY_MAX, "1 to 2^40"),
        ];
        let named = abi::control::LIMIT_NAMES.into_iter().zip(ranges);
        for (value, (key, (min, max, text))) in self.to_words().into_iter().zip(named) {
            range(key, value, min, max, text)?;
        }
        Ok(())
    }
}

/// Capacity of the books. Their memory is 64 to 128 bytes for each order and, for each instrument,
/// 33 KiB and 56 bytes for each level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BookLimits {
    /// Orders in all books.
    pub orders_max: usize,
    /// Prices on one side of one book.
    pub levels_max: usize,
}

/// Credentials for a SoupBinTCP login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// SoupBinTCP username, at most 6 characters.
    pub username: Alpha<6>,
    /// SoupBinTCP password, at most 10 characters.
    pub password: Alpha<10>,
}

impl Login {
    /// Takes credentials as people write them.
    ///
    /// # Errors
    /// [`SettingsError::Text`] if a field can't carry one. The password is not repeated.
    pub fn new(username: &str, password: &str) -> Result<Self, SettingsError> {
        Self::named(["orders.username", "orders.password"], username, password)
    }

    /// The same for other keys.
    ///
    /// # Errors
    /// As [`Self::new`], with the keys' names.
    pub fn named(
        keys: [&'static str; 2],
        username: &str,
        password: &str,
    ) -> Result<Self, SettingsError> {
        let too_long =
            |key, value: &str, max| SettingsError::Text { key, value: value.into(), max };
        let username = Alpha::new(username).ok_or_else(|| too_long(keys[0], username, 6))?;
        let password = Alpha::new(password).ok_or_else(|| too_long(keys[1], "(not shown)", 10))?;
        Ok(Self { username, password })
    }
}

/// The way back when too much was missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// Credentials for the GLIMPSE server.
    pub login: Login,
    /// A gap in which nothing moved for so long is too old for the request server.
    pub gap_age_max_ns: u64,
    /// A gap of so many messages is not requested to its end.
    pub gap_messages_max: u64,
}

/// Everything the core is told. Holding one proves that each value is in its range.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(crate) instruments: Vec<Symbol>,
    pub(crate) risk: RiskLimits,
    pub(crate) restricted: Vec<bool>,
    pub(crate) login: Login,
    pub(crate) feed_session: Option<Session>,
    pub(crate) book: BookLimits,
    pub(crate) snapshot: Option<SnapshotSettings>,
    pub(crate) gap_wait_ns: u64,
    pub(crate) request_retry_ns: u64,
}

/// Wait for the other line before a gap is requested: longer than the skew of two lines of one
/// exchange, shorter than a person notices.
const GAP_WAIT_NS: u64 = 2_000_000;
/// Ask again when the request server did not answer: many round trips within one site.
const REQUEST_RETRY_NS: u64 = 50_000_000;

impl Settings {
    /// Checks and keeps the settings. `restricted` instruments are watched and not traded;
    /// `feed_session` `None` takes the first session heard.
    ///
    /// # Errors
    /// [`SettingsError`] names the key and its range.
    pub fn new(
        instruments: Vec<Symbol>,
        risk: RiskLimits,
        restricted: &[Symbol],
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
        risk.check()?;
        if let Some(other) = restricted.iter().find(|symbol| !instruments.contains(symbol)) {
            return Err(SettingsError::NotTraded(*other));
        }
        let restricted = instruments.iter().map(|symbol| restricted.contains(symbol)).collect();
        let orders_max = limits::BOOK_ORDERS_MAX as u64;
        range("book.orders_max", book.orders_max as u64, 1_024, orders_max, "1024 to 268435456")?;
        let levels_max = limits::LEVELS_MAX as u64;
        range("book.levels_max", book.levels_max as u64, 16, levels_max, "16 to 65536")?;
        Ok(Self {
            instruments,
            risk,
            restricted,
            login,
            feed_session,
            book,
            snapshot: None,
            gap_wait_ns: GAP_WAIT_NS,
            request_retry_ns: REQUEST_RETRY_NS,
        })
    }

    /// Has the core take a snapshot when it has missed too much.
    ///
    /// # Errors
    /// [`SettingsError`] names the key and its range.
    pub fn with_snapshot(mut self, snapshot: SnapshotSettings) -> Result<Self, SettingsError> {
        let (age, messages) = (snapshot.gap_age_max_ns / 1_000_000, snapshot.gap_messages_max);
        range("feed.snapshot.gap_age_max_ms", age, 100, 3_600_000, "100 to 3600000")?;
        range("feed.snapshot.gap_messages_max", messages, 1_000, 1 << 40, "1000 to 2^40")?;
        self.snapshot = Some(snapshot);
        Ok(self)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_named_in_their_order() {
        let words: [u64; RiskLimits::WORDS] = std::array::from_fn(|at| 1_000_000 + at as u64);
        let text = abi::control::LIMIT_NAMES.iter().zip(words);
        let text: String = text.map(|(name, word)| format!("{name} = {word}\n")).collect();
        let limits: RiskLimits = toml::from_str(&text).unwrap();
        assert_eq!(limits.to_words(), words);
        assert!(matches!(
            RiskLimits::from_words(&words),
            Err(SettingsError::Range { key: "order_shares_max", .. })
        ));
    }
}
