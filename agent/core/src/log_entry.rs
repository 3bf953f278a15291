//! An entry of the journal, and how each API wants it. Pure.

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Entry of systemd's journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the journal.
    pub cursor: String,
    /// Its number, in this sequence.
    pub sequence: u64,
    /// The sequence: another one after the journal was removed.
    pub sequence_of: String,
    /// Microseconds since 1970.
    pub time_us: u64,
    /// Message text (`MESSAGE`); empty if there is none.
    pub message: String,
    /// 0 to 7 (syslog(3)).
    pub priority: u8,
    /// This host's name.
    pub host: String,
    /// Source of the entry: a container, else a unit, else a program, else the transport.
    pub source: String,
    /// True for a piece of a line that goes on in the next entry.
    pub is_partial: bool,
    /// The container's image, by name and digest, and the number of its service's version.
    pub image: Option<[String; 3]>,
}

/// Result of sending a batch to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// All entries were accepted.
    All,
    /// Not so many of it, for what they are: they will not be taken later either.
    But(usize, String),
    /// Refused as a whole, for what is in it: parts of it may be taken.
    Refused(String),
    /// To be tried again.
    Later(String),
}

impl Entry {
    /// Reads a line of `journalctl --output=json`.
    pub fn read(line: &str) -> Option<Self> {
        let fields: Value = serde_json::from_str(line).ok()?;
        // What is no text comes as an array of bytes, what there is twice as an array of texts.
        let text = |name: &str| match &fields[name] {
            Value::String(text) => Some(text.clone()),
            Value::Array(all) if all.iter().all(Value::is_u64) => {
                let bytes: Vec<u8> =
                    all.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            Value::Array(all) => all.first().and_then(Value::as_str).map(Into::into),
            _ => None,
        };
        let source = ["CONTAINER_NAME", "_SYSTEMD_UNIT", "SYSLOG_IDENTIFIER", "_TRANSPORT"];
        let image = text("IMAGE_NAME").map(|name| {
            let more = |name| text(name).unwrap_or_default();
            [name, more("QUIETCORE_IMAGE_DIGEST"), more("QUIETCORE_GENERATION")]
        });
        Some(Self {
            cursor: text("__CURSOR")?,
            sequence: text("__SEQNUM").and_then(|number| number.parse().ok()).unwrap_or(0),
            sequence_of: text("__SEQNUM_ID").unwrap_or_default(),
            time_us: text("__REALTIME_TIMESTAMP")?.parse().ok()?,
            message: text("MESSAGE").unwrap_or_default(),
            priority: text("PRIORITY")
                .and_then(|it| it.parse().ok())
                .filter(|it| *it < 8)
                .unwrap_or(6),
            host: text("_HOSTNAME").unwrap_or_default(),
            source: source.iter().find_map(|name| text(name)).unwrap_or_default(),
            is_partial: text("CONTAINER_PARTIAL_MESSAGE").as_deref() == Some("true"),
            image,
        })
    }

    fn level(&self) -> &'static str {
        match self.priority {
            0..=2 => "critical",
            3 => "error",
            4 => "warning",
            5 | 6 => "info",
            _ => "debug",
        }
    }
}

/// Returns the number of entries lost between the last one and this, if any; none after a new
/// sequence.
pub fn missing(last: Option<&(String, u64)>, first: &Entry) -> Option<u64> {
    let (sequence_of, sequence) = last?;
    let gap = first.sequence.saturating_sub(sequence + 1);
    (*sequence_of == first.sequence_of && gap > 0).then_some(gap)
}

/// The sequence and the number in a cursor, as journald writes it (`s=...;i=HEX;...`).
pub fn of_cursor(cursor: &str) -> Option<(String, u64)> {
    let field = |name: &str| cursor.split(';').find_map(|part| part.trim().strip_prefix(name));
    Some((field("s=")?.to_owned(), u64::from_str_radix(field("i=")?, 16).ok()?))
}

/// For Loki: streams by host, source, level and, for pieces of long lines, `partial`, each with its
/// lines. Its clock is in nanoseconds,
/// and it takes what has the same time and text for the same line: the number within the
/// microsecond tells lines apart, and is the same again when they are sent again.
pub fn loki(batch: &[Entry]) -> String {
    let mut streams: BTreeMap<([&str; 3], bool), Vec<Value>> = BTreeMap::new();
    for entry in batch {
        let nanos = entry.time_us * 1000 + entry.sequence % 1000;
        let labels = [entry.host.as_str(), entry.source.as_str(), entry.level()];
        let key = (labels, entry.is_partial);
        streams.entry(key).or_default().push(json!([nanos.to_string(), entry.message]));
    }
    let streams: Vec<Value> = streams
        .into_iter()
        .map(|(([host, service, level], is_partial), values)| {
            let mut labels = json!({ "host": host, "service_name": service, "level": level });
            if is_partial {
                labels["partial"] = json!("true");
            }
            json!({ "stream": labels, "values": values })
        })
        .collect();
    json!({ "streams": streams }).to_string()
}

/// For Elasticsearch: a line that says where, and one with the document, by the names of the
/// Elastic Common Schema. The place in the journal is the document's name, so that one that is sent
/// again is refused as being there.
pub fn bulk(batch: &[Entry], index: &str) -> String {
    let mut text = String::new();
    for entry in batch {
        let id = format!("{:x}", Sha256::digest(&entry.cursor));
        let mut document = json!({
            "@timestamp": timestamp(entry.time_us),
            "message": entry.message,
            "log": { "level": entry.level() },
            "host": { "name": entry.host },
            "service": { "name": entry.source },
            "event": { "sequence": entry.sequence },
        });
        if entry.is_partial {
            // As Filebeat marks them.
            document["log"]["flags"] = json!(["partial"]);
        }
        if let Some([name, digest, generation]) = &entry.image {
            document["container"] = json!({ "name": entry.source, "image": { "name": name, "hash": { "all": [digest] } } });
            document["service"]["version"] = json!(generation);
        }
        text += &format!("{}\n{document}\n", json!({ "create": { "_index": index, "_id": id } }));
    }
    text
}

fn timestamp(time_us: u64) -> String {
    let (seconds, micros) = (time_us / 1_000_000, time_us % 1_000_000);
    let nanos = micros as i32 * 1000;
    prost_types::Timestamp { seconds: seconds as i64, nanos }.to_string()
}

/// Evaluates a target's answer by its status and, for Elasticsearch, by that of each entry.
pub fn taken(kind: Kind, status: u16, body: &str, count: usize) -> Taken {
    let said = format!("status {status}: {:.200}", body.trim());
    match status {
        200..=299 if kind == Kind::Elasticsearch => taken_of_bulk(body, count),
        200..=299 => Taken::All,
        _ if is_for_good(status.into()) => Taken::Refused(said),
        _ => Taken::Later(said),
    }
}

/// True if a refusal is final (400, 413): too old, too large or not understood. All others, such as
/// passwords, rights and rate limits, are tried again.
fn is_for_good(status: u64) -> bool {
    matches!(status, 400 | 413)
}

fn taken_of_bulk(body: &str, count: usize) -> Taken {
    let Ok(answer) = serde_json::from_str::<Value>(body) else {
        return Taken::Later(format!("an answer that is no JSON: {body:.100}"));
    };
    let items = answer["items"].as_array().map_or(&[][..], Vec::as_slice);
    if items.len() != count {
        return Taken::Later(format!("{} answers to {count} entries: {body:.100}", items.len()));
    }
    let (mut refused, mut why) = (0, String::new());
    for item in items.iter().map(|item| &item["create"]) {
        match item["status"].as_u64().unwrap_or(0) {
            // 409: it is there already.
            200..=299 | 409 => {}
            status if is_for_good(status) => {
                refused += 1;
                why = item["error"].to_string();
            }
            _ => return Taken::Later(item["error"].to_string()),
        }
    }
    if refused == 0 { Taken::All } else { Taken::But(refused, why) }
}

/// Kind of API that a target has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Loki's push API (`/loki/api/v1/push`).
    Loki,
    /// Elasticsearch's bulk API (`/_bulk`).
    Elasticsearch,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64) -> Entry {
        let line = json!({
            "__CURSOR": format!("s=1;i={sequence}"), "__SEQNUM": sequence.to_string(), "__SEQNUM_ID": "a",
            "__REALTIME_TIMESTAMP": "1700000000000123", "PRIORITY": "4", "MESSAGE": [104, 105, 255],
            "_HOSTNAME": "ny4-1", "CONTAINER_NAME": "web", "_SYSTEMD_UNIT": "quietcore-tail.service",
            "IMAGE_NAME": "x:1", "QUIETCORE_IMAGE_DIGEST": "sha256:0", "QUIETCORE_GENERATION": "3",
        });
        Entry::read(&line.to_string()).unwrap()
    }

    #[test]
    fn entries_are_one_each_wherever_they_go_however_often_they_are_sent() {
        let batch = [entry(7), entry(8)];
        assert_eq!(batch[0].message, "hi\u{fffd}");
        let sent: Value = serde_json::from_str(&loki(&batch)).unwrap();
        let stream = &sent["streams"][0];
        assert_eq!(stream["stream"]["service_name"], "web");
        assert_eq!(stream["stream"]["level"], "warning");
        assert_eq!(stream["values"][0][0], "1700000000000123007");
        assert_eq!(stream["values"][1][0], "1700000000000123008");
        let sent = bulk(&batch, "desk");
        let lines: Vec<Value> =
            sent.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 4);
        assert_ne!(lines[0]["create"]["_id"], lines[2]["create"]["_id"]);
        assert_eq!(lines[1]["@timestamp"], "2023-11-14T22:13:20.000123Z");
        assert_eq!(lines[1]["service"]["version"], "3");
        assert_eq!(bulk(&batch, "desk"), sent);
        let piece = [Entry { is_partial: true, ..batch[0].clone() }, batch[1].clone()];
        let sent: Value = serde_json::from_str(&loki(&piece)).unwrap();
        assert_eq!(sent["streams"][0]["stream"].get("partial"), None);
        assert_eq!(sent["streams"][1]["stream"]["partial"], "true");
        assert!(bulk(&piece, "desk").contains("\"flags\":[\"partial\"]"));
        assert_eq!(of_cursor("s=a;i=1f;b=c"), Some(("a".into(), 31)));
        assert_eq!(missing(Some(&("a".into(), 6)), &batch[0]), None);
        assert_eq!(missing(Some(&("a".into(), 3)), &batch[0]), Some(3));
        assert_eq!(missing(Some(&("b".into(), 3)), &batch[0]), None);
    }

    #[test]
    fn what_can_be_mended_is_tried_again_and_what_can_not_is_left_out() {
        assert_eq!(taken(Kind::Loki, 204, "", 5), Taken::All);
        assert!(matches!(taken(Kind::Loki, 429, "slow down", 5), Taken::Later(_)));
        assert!(matches!(taken(Kind::Loki, 401, "", 5), Taken::Later(_)));
        assert!(matches!(taken(Kind::Loki, 400, "entry too far behind", 5), Taken::Refused(_)));
        let answer = |statuses: &[u16]| {
            let items: Vec<Value> = statuses
                .iter()
                .map(|it| json!({ "create": { "status": it, "error": "e" } }))
                .collect();
            taken(Kind::Elasticsearch, 200, &json!({ "items": items }).to_string(), statuses.len())
        };
        assert_eq!(answer(&[201, 409]), Taken::All);
        assert_eq!(answer(&[201, 400]), Taken::But(1, "\"e\"".into()));
        assert!(matches!(answer(&[201, 429]), Taken::Later(_)));
        assert!(matches!(answer(&[201, 403]), Taken::Later(_)));
        assert!(matches!(taken(Kind::Elasticsearch, 200, "{}", 1), Taken::Later(_)));
        assert!(matches!(taken(Kind::Loki, 302, "log in", 1), Taken::Later(_)));
        assert!(matches!(taken(Kind::Elasticsearch, 200, "x", 1), Taken::Later(_)));
    }
}
