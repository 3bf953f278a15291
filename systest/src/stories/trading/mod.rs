//! Stories of a trading session.

/// Kill switch, and a recording traded state for state.
pub mod session;
