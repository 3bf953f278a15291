//! Problems of the host, by what they are about: each is logged once when it begins and when it
//! ends, and stands in the status in between.

use agent_core::limits::EVENT_TEXT_MAX;
use agent_core::protocol::types::Level;
use agent_host::events::EventLog;
use agent_host::files::cut;
use std::collections::BTreeMap;

/// Problems that the host has now.
#[derive(Debug)]
pub struct Problems {
    by_subject: BTreeMap<String, String>,
    log: EventLog,
}

impl Problems {
    /// No problems yet; changes are recorded in `log`.
    pub fn new(log: EventLog) -> Self {
        Self { by_subject: BTreeMap::new(), log }
    }

    /// Sets or ends the problem with a subject, and records it if that is a change.
    pub fn set(&mut self, about: &str, what: Option<String>) {
        let what = what.map(|text| cut(&text, EVENT_TEXT_MAX));
        let before = self.by_subject.get(about);
        if before != what.as_ref() {
            match &what {
                Some(text) => self.log.record(Level::Error, about, text),
                None => self.log.record(Level::Info, about, "is well again"),
            }
        }
        match what {
            Some(text) => self.by_subject.insert(about.into(), text),
            None => self.by_subject.remove(about),
        };
    }

    /// Sets a problem that is on its way to end by itself: nothing is recorded.
    pub fn set_transient(&mut self, about: String, what: String) {
        self.by_subject.insert(about, what);
    }

    /// Drops problems whose subject is no more; nothing is recorded.
    pub fn forget(&mut self, is_gone: impl Fn(&str) -> bool) {
        self.by_subject.retain(|about, _| !is_gone(about));
    }

    /// True while there is a problem with this subject.
    pub fn has(&self, about: &str) -> bool {
        self.by_subject.contains_key(about)
    }

    /// All problems, one line each, by subject.
    pub fn lines(&self) -> Vec<String> {
        self.by_subject.iter().map(|(about, what)| format!("{about}: {what}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_recorded_when_it_begins_and_ends() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("it");
        let log = EventLog::at(&path);
        let mut problems = Problems::new(log.clone());
        problems.set("x", None);
        for _ in 0..2 {
            problems.set("x", Some("broken".into()));
        }
        problems.set_transient("image y".into(), "1 of 2 MiB".into());
        assert_eq!(problems.lines(), ["image y: 1 of 2 MiB", "x: broken"]);
        problems.forget(|about| about.starts_with("image "));
        problems.set("x", None);
        assert!(!problems.has("x") && problems.lines().is_empty());
        let texts: Vec<String> = log.after(0, 10).into_iter().map(|event| event.text).collect();
        assert_eq!(texts, ["broken", "is well again"]);
    }
}
