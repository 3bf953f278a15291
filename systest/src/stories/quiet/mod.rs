//! Stories of the hot cores: isolation, noise, tuning.

/// Containers that try to reach the hot cores.
pub mod isolation;
/// Interrupts on idle hot cores, with a control without isolation.
pub mod quiet_cores;
/// Interrupts on hot cores while the housekeeping cores work.
pub mod quiet_under_load;
/// Tuning of a host, and cores of its own.
pub mod tune;
