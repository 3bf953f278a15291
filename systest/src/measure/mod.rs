//! Measurements that stories and benches share.

/// Bars and names of figures.
pub mod bars;
/// Answers of the agent while it has much to do.
pub mod busy_agent;
/// Compose projects as qctl and docker-compose have them.
pub mod compose_comparison;
/// Generated compose files, compared with what Docker Compose says they mean.
pub mod compose_generated;
/// Tries of workers that somebody took over.
pub mod hostile_tries;
/// Workers that somebody took over.
pub mod hostile_worker;
/// Kills of the agent, containerd and the tailer at random moments.
pub mod kill_storm;
/// Load on the housekeeping cores.
pub mod load;
/// Deviations of a tuned host, one at a time.
pub mod mistune;
/// Interrupts and context switches on hot cores.
pub mod noise;
/// Power cuts at random moments.
pub mod power_cuts;
