//! Files in which the agent and the two update units say how far an update is.

use crate::update::history::History;
use crate::update::{Request, UpdatePaths};
use crate::worker_file::WorkerFile;
use agent_core::limits::METADATA_LEN_MAX;
use agent_core::update_progress::{Progress, Stage, Update};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// File of the agent's or one unit's progress.
fn progress_file(path: &Path) -> WorkerFile<Progress> {
    WorkerFile::new(path, METADATA_LEN_MAX)
}

/// Writes progress for readers.
///
/// # Errors
/// File system errors, with the path.
pub fn write_progress(progress: &Progress, path: &Path) -> Result<()> {
    progress_file(path).write(progress)
}

/// Reads the most recent progress of the agent and the two units; the default if there is none.
pub fn read_progress(paths: &UpdatePaths) -> Progress {
    let read = |path: &PathBuf| {
        let file = progress_file(path);
        Some((file.written()?, file.read().ok()??))
    };
    let said = [&paths.asking, &paths.fetching, &paths.installing].map(read);
    let youngest = said.into_iter().flatten().max_by_key(|(at, _)| *at);
    youngest.map(|(_, progress)| progress).unwrap_or_default()
}

/// File of the agent's request to the update units.
pub fn request_file(paths: &UpdatePaths) -> WorkerFile<Request> {
    WorkerFile::new(&paths.request, METADATA_LEN_MAX)
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
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().to_path_buf();
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
    }
}
