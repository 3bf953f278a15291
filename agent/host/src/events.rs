//! Event log of this host, oldest first: a bounded file of JSON lines, kept over restarts. The
//! journal of systemd has the same texts with more context; `qctl events` shows this file.

use crate::files::cut;
use crate::jsonlines::JsonLines;
use agent_core::limits::{EVENT_TEXT_MAX, EVENTS_LEN_MAX, EVENTS_SHOWN_MAX};
use agent_core::protocol::types::{Event, Level};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::{error, info, warn};

/// The log. Clones write to the same one.
#[derive(Debug, Clone)]
pub struct EventLog(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    lines: JsonLines,
    next: u64,
}

impl EventLog {
    /// Goes on with a file, or starts one.
    pub fn at(path: &Path) -> Self {
        let lines = JsonLines::at(path, EVENTS_LEN_MAX);
        let next = lines.read::<Event>().last().map_or(1, |event| event.number + 1);
        Self(Arc::new(Mutex::new(Inner { lines, next })))
    }

    /// Something happened. That it can't be written is in the journal, and keeps nobody from
    /// working.
    pub fn record(&self, level: Level, about: &str, text: &str) {
        match level {
            Level::Info => info!("{about}: {text}"),
            Level::Warning => warn!("{about}: {text}"),
            Level::Error => error!("{about}: {text}"),
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut inner = self.0.lock().expect("nobody panics with the log");
        let (about, text) = (cut(about, EVENT_TEXT_MAX), cut(text, EVENT_TEXT_MAX));
        let event = Event { number: inner.next, time, level, about, text };
        inner.next += 1;
        if let Err(error) = inner.lines.append(&event, false) {
            warn!("{}: {error}", inner.lines.path().display());
        }
    }

    /// The last events with a higher number than `after`, at most so many, oldest first.
    pub fn after(&self, after: u64, count: usize) -> Vec<Event> {
        let lines = self.0.lock().expect("nobody panics with the log").lines.clone();
        lines.last(count.min(EVENTS_SHOWN_MAX), |event: &Event| event.number > after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_over_restarts_and_the_file_is_bounded() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().to_path_buf();
        let path = root.join("events.jsonl");
        let log = EventLog::at(&path);
        log.record(Level::Info, "compose", "applied");
        log.record(Level::Error, "container a", "ended");
        let log = EventLog::at(&path);
        log.record(Level::Info, "container a", "started");
        let numbers = |events: Vec<Event>| events.iter().map(|e| e.number).collect::<Vec<_>>();
        assert_eq!(numbers(log.after(0, 10)), [1, 2, 3]);
        assert_eq!(numbers(log.after(1, 1)), [3]);
        let long = "x".repeat(1000);
        (0..3000).for_each(|_| log.record(Level::Info, "a", &long));
        let bytes: u64 =
            [&path, &path.with_extension("old")].iter().map(|p| p.metadata().unwrap().len()).sum();
        assert!(bytes < 2 * EVENTS_LEN_MAX + 2000, "{bytes}");
        assert_eq!(log.after(0, 5).last().unwrap().number, 3003);
    }
}
