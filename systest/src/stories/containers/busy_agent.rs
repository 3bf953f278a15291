//! The agent answers within a second whatever it has to do. On this machine, with the image's
//! containerd; `FILES=400000` unpacks a layer of as many files, as `make bench AREA=agent` does.

use crate::harness::booted::Verdict;
use crate::harness::checkout::ImageFiles;
use crate::harness::guest_clock::limit_under_load;
use crate::measure::busy_agent::answers;
use anyhow::{Result, ensure};
use std::time::Duration;

const FILES: usize = 40_000;

/// Bar of the slowest answer.
const ANSWER: Duration = Duration::from_secs(1);

/// Proves that the status is answered within a second while images are unpacked, containers that
/// ignore SIGTERM are stopped and the disk is full.
pub fn agent_answers_whatever_it_does(image: &ImageFiles) -> Result<Verdict> {
    let files = std::env::var("FILES").ok().and_then(|text| text.parse().ok()).unwrap_or(FILES);
    let answers = answers(image, files)?;
    let (count, slowest) = (answers.count, answers.slowest);
    ensure!(slowest <= limit_under_load(ANSWER), "an answer of {count} took {slowest:?}");
    ensure!(count >= 20, "only {count} answers");
    Ok(Verdict::Proved(format!(
        "{count} answers within {} s each while a layer of {files} files was unpacked, six containers that ignore SIGTERM were stopped side by side and the disk was full, where nothing was changed without a record",
        ANSWER.as_secs()
    )))
}
