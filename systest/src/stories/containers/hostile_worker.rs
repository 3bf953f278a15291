//! Whoever takes a worker over does not get root to act for him.

use crate::harness::booted::Verdict;
use crate::harness::checkout::ImageFiles;
use crate::measure::hostile_worker::tries;
use anyhow::{Result, ensure};

/// Fewer would not be all of them.
const TRIES: u32 = 100;

/// Proves that no worker's user makes the agent act for it.
pub fn no_worker_makes_root_act(image: &ImageFiles) -> Result<Verdict> {
    let tries = tries(image)?;
    ensure!(tries.succeeded.is_empty(), "{}", tries.succeeded.join("\n"));
    ensure!(tries.count >= TRIES, "only {} tries", tries.count);
    Ok(Verdict::Proved(format!(
        "{} tries of nine workers' users to make root act for them by links, pipes, endless and forged files, answers and requests: none did, and the agent answered on within its memory",
        tries.count
    )))
}
