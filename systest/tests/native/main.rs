//! What needs the real programs as processes, and no VM: engine, exchange, drop copy. One binary, so that what waits on a
//! clock (a killed engine starts anew two hundred times) runs beside what works; each test has ports of its own.

mod dropcopy;
mod kills;
mod loopback;
mod pair;
mod shards;
mod strategy;
mod syscalls;
