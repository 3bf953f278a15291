//! The engine's own hot loop on a simulated machine: network, disk and exchange in one process,
//! decided by a seed. The machine loses power; the verdict is whether anything was lost or
//! invented.

/// A strategy over a recorded day.
pub mod backtest;
/// Journal files that keep what was written, and on a power cut some of what was being written.
pub mod disk;
/// The exchange: market, matching, market data, order entry.
pub mod exchange;
/// The machine under the hot loop.
pub mod machine;
/// A run: lives, crashes, the verdict.
pub mod world;
