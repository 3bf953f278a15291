//! The journal forwarded by the real process, which is killed meanwhile, to a stand-in for
//! Elasticsearch that is away at first; a stand-in for journalctl has the entries.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const ENTRIES: usize = 5_000;

/// Entries after a cursor, then nothing more, as `journalctl --follow` has it.
const JOURNALCTL: &str = r#"#!/bin/bash
from=0
for word; do case $word in --after-cursor=*) from=${word##*=} ;; esac; done
awk -v from="$from" -v count=5000 'BEGIN { for (i = from + 1; i <= count; i++)
    printf "{\"__CURSOR\":\"%d\",\"__SEQNUM\":\"%d\",\"__SEQNUM_ID\":\"a\",\"__REALTIME_TIMESTAMP\":\"1700000000000000\",\"MESSAGE\":\"line %d\",\"_SYSTEMD_UNIT\":\"a.service\"}\n", i, i, i }'
while kill -0 $PPID 2> /dev/null; do sleep 0.1; done
"#;

/// Documents by name, how often one was sent again, and answers that are still to be no.
#[derive(Default)]
struct Index {
    documents: BTreeMap<String, String>,
    again: usize,
    refusals: usize,
}

fn answer(stream: TcpStream, index: &Mutex<Index>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|len| *len > 0)?;
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut index = index.lock().unwrap();
    let (status, text) = if index.refusals > 0 {
        index.refusals -= 1;
        ("503 Service Unavailable", String::new())
    } else {
        let body = String::from_utf8(body).ok()?;
        let lines: Vec<&str> = body.lines().collect();
        let mut items = Vec::new();
        for pair in lines.chunks(2) {
            let action: serde_json::Value = serde_json::from_str(pair[0]).ok()?;
            let id = action["create"]["_id"].as_str()?.to_owned();
            let is_new = index.documents.insert(id, pair[1].to_owned()).is_none();
            index.again += usize::from(!is_new);
            items.push(
                serde_json::json!({ "create": { "status": if is_new { 201 } else { 409 } } }),
            );
        }
        ("200 OK", serde_json::json!({ "items": items }).to_string())
    };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
    (&stream).write_all((head + &text).as_bytes()).ok()
}

fn start(root: &Path) -> Child {
    let path = format!("{}:{}", root.display(), std::env::var("PATH").unwrap());
    Command::new(env!("CARGO_BIN_EXE_quietcore-agent"))
        .args(["forward", "--positions"])
        .arg(root)
        .env("PATH", path)
        .env("CREDENTIALS_DIRECTORY", root)
        .spawn()
        .unwrap()
}

#[test]
fn every_entry_is_there_once_though_the_target_was_away_and_the_process_killed() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().to_path_buf();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let index = Arc::new(Mutex::new(Index { refusals: 1, ..Index::default() }));
    let serving = index.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, &serving);
        }
    });
    std::fs::write(root.join("journalctl"), JOURNALCTL).unwrap();
    std::fs::set_permissions(root.join("journalctl"), PermissionsExt::from_mode(0o755)).unwrap();
    let config = format!(
        "version = 1\n[[target]]\nname = \"archive\"\nkind = \"elasticsearch\"\nurl = \"http://127.0.0.1:{port}\"\ntoken = \"t\"\n"
    );
    std::fs::write(root.join("quietcore.logs"), config).unwrap();
    let count = || index.lock().unwrap().documents.len();
    let wait = |wanted: usize| {
        let begin = Instant::now();
        while count() < wanted {
            assert!(begin.elapsed() < Duration::from_secs(60), "{} of {wanted}", count());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let mut forwarder = start(&root);
    wait(1);
    // In the middle of it.
    forwarder.kill().unwrap();
    forwarder.wait().unwrap();
    let mut forwarder = start(&root);
    wait(ENTRIES);
    let place = root.join("archive.cursor");
    let begin = Instant::now();
    while std::fs::read_to_string(&place).unwrap_or_default() != format!("{ENTRIES}\n") {
        assert!(begin.elapsed() < Duration::from_secs(10), "its place is not kept");
        std::thread::sleep(Duration::from_millis(5));
    }
    forwarder.kill().unwrap();
    forwarder.wait().unwrap();
    let index = index.lock().unwrap();
    assert_eq!(index.documents.len(), ENTRIES);
    let lines: std::collections::BTreeSet<&String> = index.documents.values().collect();
    assert_eq!(lines.len(), ENTRIES, "one document stands for two entries");
}
