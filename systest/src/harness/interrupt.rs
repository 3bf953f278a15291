//! Ctrl-C, noticed instead of obeyed, so that machines and their files are not left behind.

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// SIGINT and SIGTERM of this process.
pub struct Interrupt {
    signals: SignalFd,
    raised: AtomicBool,
}

impl Interrupt {
    /// Takes the signals over. Only threads that are started later do so too.
    ///
    /// # Errors
    /// The kernel gives no descriptor for them.
    pub fn catch() -> Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGINT);
        mask.add(Signal::SIGTERM);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { signals, raised: AtomicBool::new(false) })
    }

    /// Whether one of them came.
    pub fn is_raised(&self) -> bool {
        if matches!(self.signals.read_signal(), Ok(Some(_))) {
            self.raised.store(true, Ordering::Relaxed);
        }
        self.raised.load(Ordering::Relaxed)
    }
}
