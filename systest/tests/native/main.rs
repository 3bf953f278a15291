//! Tests of the real programs as processes, without a VM: engine, exchange, drop copy. One binary,
//! so that tests that wait on a clock (a killed engine starts anew two hundred times) run beside
//! those that compute; each test has ports of its own.

mod dropcopy;
mod kills;
mod loopback;
mod pair;
mod shards;
mod strategy;
mod syscalls;
