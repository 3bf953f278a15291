//! The rim around the core: the io_uring ring, sockets, journal files, telemetry page, preflight
//! and configuration. No trading decision is made here.

/// HotBuffers that the kernel reads and writes: huge pages, mapped and touched before the start.
pub mod arena;
/// epoll and a spin over receives, to measure against.
pub mod baseline;
/// The configuration file.
pub mod config;
/// Host interface of the rim: CPU affinity, locked memory, signals, clocks, and the test for
/// emulation.
pub mod host_cpu;
/// The hot thread: one loop.
pub mod hot;
/// Journal files: a ring of preallocated segments.
pub mod journal;
/// Every limit of the rim with its reason.
pub mod limits;
/// Sockets of the engine: multicast lines, request server, streams.
pub mod net;
/// Machine interface of the hot loop.
pub mod port;
/// The checks before the start, each with its remedy.
pub mod preflight;
/// The program: command line, checks, start.
pub mod program;
/// Recovery from the journal of earlier runs.
pub mod recovery;
/// A journal read back through the core.
pub mod replay;
/// The times of a journal's orders as one page.
pub mod report;
/// The io_uring ring and its provided buffers.
pub mod ring;
/// Instruments over several hot threads.
pub mod shards;
/// The strategies that a program can trade with.
pub mod strategies;
/// A stream: connect, receive, send, try again.
pub mod stream;
/// The parent of a configuration's shards.
pub mod supervisor;
