//! Files in which the agent and the two update units say how far an update is.

use crate::update::UpdatePaths;
use crate::update::history::History;
use agent_core::update_progress::{Progress, Stage, Update};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Writes progress for readers, atomically but not durably: it is about this boot only.
///
/// # Errors
/// File system errors, with the path.
pub fn write_progress(progress: &Progress, path: &Path) -> Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, serde_json::to_string(progress)?)
        .and_then(|()| std::fs::rename(&next, path))
        .with_context(|| format!("write {}", path.display()))
}

/// Reads the most recent progress of the agent and the two units; the default if there is none.
pub fn read_progress(paths: &UpdatePaths) -> Progress {
    let read = |path: &PathBuf| {
        let at = path.metadata().and_then(|metadata| metadata.modified()).ok()?;
        let progress: Progress = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
        Some((at, progress))
    };
    let said = [&paths.asking, &paths.fetching, &paths.installing].map(read);
    let youngest = said.into_iter().flatten().max_by_key(|(at, _)| *at);
    youngest.map(|(_, progress)| progress).unwrap_or_default()
}

/// Reads the update's part of the status. An unreadable history counts as empty here; the agent
/// logs it at its start.
pub fn read_update(paths: &UpdatePaths) -> Update {
    let history = History::read(&paths.history).unwrap_or_default();
    Update {
        on_trial: paths.is_on_trial(),
        progress: read_progress(paths),
        failed: history.failed().map(|version| version.to_string()).collect(),
    }
}

/// Writes the failure of a unit's work as progress, and returns the work's result.
///
/// # Errors
/// The work's own error, or that of writing it down.
pub fn report_failure(path: &Path, work: Result<()>) -> Result<()> {
    if let Err(error) = &work {
        let detail = format!("{error:#}");
        write_progress(&Progress { stage: Stage::Failed, version: None, detail }, path)?;
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_the_last_question_does_not_count() {
        let directory = std::env::temp_dir().join(format!("quietcore-said-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let [asking, fetching, installing] =
            ["asking", "fetching", "installing"].map(|name| directory.join(name));
        let paths = UpdatePaths { asking, fetching, installing, ..UpdatePaths::default() };
        let say = |path: &Path, stage, detail: &str, at: u64| {
            let progress = Progress { stage, version: None, detail: detail.into() };
            write_progress(&progress, path).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at);
            std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        };
        assert_eq!(read_progress(&paths).stage, Stage::None);
        say(&paths.installing, Stage::Failed, "an older release", 1);
        say(&paths.asking, Stage::Fetching, "another was asked for", 2);
        assert_eq!(read_progress(&paths).stage, Stage::Fetching);
        say(&paths.fetching, Stage::Fetched, "here it is", 3);
        assert_eq!(read_progress(&paths).detail, "here it is");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
