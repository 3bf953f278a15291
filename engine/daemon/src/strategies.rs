//! The strategies that a program can trade with, by the name that the configuration calls them. A
//! quant's own crate adds to the reference ones; nothing here decides a trade.

use engine_core::maker::Maker;
use engine_core::strategy::Strategy;
use engine_core::taker::Taker;
use serde::de::DeserializeOwned;
use thiserror::Error;
use toml::Table;

/// A strategy of any kind.
pub type AnyStrategy = Box<dyn Strategy>;

/// Why no strategy could be made.
#[derive(Debug, Error)]
pub enum StrategyError {
    /// No strategy of that name.
    #[error("strategy.name = {name:?}: this program has {known}")]
    Unknown {
        /// Name that was asked for.
        name: String,
        /// Names of the known strategies.
        known: String,
    },
    /// Its settings are not what it asks for.
    #[error("[strategy] of {name:?}: {message}")]
    Settings {
        /// Name of the strategy.
        name: String,
        /// The key, and what is wrong with it.
        message: String,
    },
}

/// The `[strategy]` table of the configuration.
#[derive(Debug, Clone)]
pub struct StrategySettings {
    /// Name of the strategy: its key `name`.
    pub name: String,
    /// Everything else in it, for the strategy itself.
    pub settings: Table,
}

type Build = Box<dyn Fn(Table, usize) -> Result<AnyStrategy, String>>;

/// The strategies of a program.
pub struct Strategies {
    known: Vec<(&'static str, Build)>,
}

impl Strategies {
    /// The reference strategies: `maker` and `taker`.
    pub fn reference() -> Self {
        Self { known: Vec::new() }.with("maker", Maker::new).with("taker", Taker::new)
    }

    /// Adds a strategy that is built from its settings and the number of instruments. The settings
    /// are strict if their type denies unknown fields.
    #[must_use]
    pub fn with<T, S>(mut self, name: &'static str, build: fn(T, usize) -> S) -> Self
    where
        T: DeserializeOwned + 'static,
        S: Strategy + 'static,
    {
        let boxed = move |settings: Table, instruments| {
            let settings = settings.try_into().map_err(|error| error.message().to_string())?;
            Ok(Box::new(build(settings, instruments)) as AnyStrategy)
        };
        self.known.push((name, Box::new(boxed)));
        self
    }

    /// Makes the strategy that a configuration asks for.
    ///
    /// # Errors
    /// [`StrategyError`] names the strategy, and the key or what there is instead.
    pub fn make(
        &self,
        asked: &StrategySettings,
        instruments: usize,
    ) -> Result<AnyStrategy, StrategyError> {
        let name = &asked.name;
        let Some((_, build)) = self.known.iter().find(|(known, _)| known == name) else {
            let known: Vec<_> = self.known.iter().map(|(name, _)| *name).collect();
            return Err(StrategyError::Unknown { name: name.clone(), known: known.join(", ") });
        };
        build(asked.settings.clone(), instruments)
            .map_err(|message| StrategyError::Settings { name: name.clone(), message })
    }
}
