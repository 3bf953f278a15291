//! Hash-chained audit log of state-changing requests: JSON lines, each with the hash of the line
//! before, so that a changed or removed line is detected. Each hash goes to the journal of systemd
//! too: to remove the last lines unnoticed, that has to be changed as well.

use agent_core::limits::{AUDIT_LEN_MAX, EVENT_TEXT_MAX, EVENTS_SHOWN_MAX};
use agent_core::protocol::types::Record;
use agent_host::files::cut;
use agent_host::jsonlines::JsonLines;
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::info;

/// The log. Clones write to the same one.
#[derive(Debug, Clone)]
pub struct AuditLog(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    lines: JsonLines,
    number: u64,
    last: String,
}

impl AuditLog {
    /// Goes on with a file, or starts one.
    pub fn at(path: &Path) -> Self {
        let lines = JsonLines::at(path, AUDIT_LEN_MAX);
        let last = lines.read::<Record>().pop();
        let (number, last) = last.map_or((1, String::new()), |it| (it.number + 1, it.hash));
        Self(Arc::new(Mutex::new(Inner { lines, number, last })))
    }

    /// Reserves room for the record of a change that is about to be made.
    ///
    /// # Errors
    /// The disk is full or does not write.
    pub fn reserve(&self) -> std::io::Result<()> {
        self.0.lock().expect("nobody panics with the log").lines.reserve()
    }

    /// Writes a change down, on disk.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, who: &str, request: Value, refused: Option<&str>) -> std::io::Result<()> {
        let mut inner = self.0.lock().expect("nobody panics with the log");
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut record = Record {
            number: inner.number,
            time,
            who: who.into(),
            request,
            refused: refused.map(|why| cut(why, EVENT_TEXT_MAX)),
            before: inner.last.clone(),
            hash: String::new(),
        };
        record.hash = record.hashed();
        inner.lines.append(&record, true)?;
        info!("audit {} {}", record.number, record.hash);
        (inner.number, inner.last) = (record.number + 1, record.hash);
        Ok(())
    }

    /// The last records, at most so many, oldest first.
    pub fn last(&self, count: usize) -> Vec<Record> {
        let lines = self.0.lock().expect("nobody panics with the log").lines.clone();
        lines.last(count.min(EVENTS_SHOWN_MAX), |_| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::protocol::types::verify;
    use serde_json::json;

    #[test]
    fn a_record_that_is_changed_or_taken_out_is_noticed() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().to_path_buf();
        let path = root.join("audit.jsonl");
        for who in ["root", "ann", "bob"] {
            // Over restarts.
            AuditLog::at(&path).write(who, json!({ "method": "keep" }), None).unwrap();
        }
        // A power cut in the middle of a line.
        let mut text = std::fs::read(&path).unwrap();
        text.extend(b"{\"number\":4,");
        std::fs::write(&path, text).unwrap();
        let log = AuditLog::at(&path);
        log.write("eve", json!({ "method": "reboot" }), Some("eve is a reader")).unwrap();
        let all = log.last(10);
        assert_eq!(all.iter().map(|it| it.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(verify(&all), Ok(()));
        assert_eq!(verify(&all[2..]), Ok(()));
        let mut changed = all.clone();
        changed[1].who = "nobody".into();
        assert_eq!(verify(&changed), Err(2));
        changed[1].hash = changed[1].hashed();
        assert_eq!(verify(&changed), Err(3));
        let mut fewer = all;
        fewer.remove(2);
        assert_eq!(verify(&fewer), Err(4));
        // One that came between two files.
        std::fs::rename(&path, path.with_extension("old")).unwrap();
        let log = AuditLog::at(&path);
        log.write("root", json!({ "method": "keep" }), None).unwrap();
        assert_eq!(verify(&log.last(10)), Ok(()));
        assert_eq!(log.last(1)[0].number, 5);
    }
}
