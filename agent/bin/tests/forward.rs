//! The journal forwarded by the real process, which is killed meanwhile, to stand-ins for
//! Elasticsearch, which is away at first, and for Loki, which refuses whole batches for one entry;
//! a stand-in for journalctl has the entries.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const ENTRIES: usize = 5_000;
/// An entry that the stand-in for Loki refuses, with all that comes with it.
const BAD: &str = "line 2345";

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

/// Head, in lower case, and body of a request.
fn read_request(stream: &TcpStream) -> Option<(String, String)> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut head, mut length) = (String::new(), 0);
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
        head += &lower;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).ok()?))
}

fn answer(stream: &TcpStream, index: &Mutex<Index>) -> Option<()> {
    let (_, body) = read_request(stream)?;
    let mut index = index.lock().unwrap();
    let (status, text) = if index.refusals > 0 {
        index.refusals -= 1;
        ("503 Service Unavailable", String::new())
    } else {
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
    (&*stream).write_all((head + &text).as_bytes()).ok()
}

/// Takes a batch for Loki, unless the bad entry is in it or it is for another tenant.
fn answer_loki(stream: &TcpStream, lines: &Mutex<Vec<String>>) -> Option<()> {
    let (head, body) = read_request(stream)?;
    let batch: serde_json::Value = serde_json::from_str(&body).ok()?;
    let streams = batch["streams"].as_array()?.iter();
    let values = streams.flat_map(|stream| stream["values"].as_array().into_iter().flatten());
    let texts: Vec<String> =
        values.filter_map(|value| Some(value[1].as_str()?.to_owned())).collect();
    let status = if !head.contains("x-scope-orgid: desk-7\r\n") {
        "401 Unauthorized"
    } else if texts.iter().any(|text| text == BAD) {
        "400 Bad Request"
    } else {
        lines.lock().unwrap().extend(texts);
        "204 No Content"
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    (&*stream).write_all(head.as_bytes()).ok()
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

/// Serves each connection; returns the port.
fn listen(answer: impl Fn(&TcpStream) -> Option<()> + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(&stream);
        }
    });
    port
}

/// Writes the stand-in for journalctl, and the configuration with this target.
fn prepare(root: &Path, target: &str) {
    std::fs::write(root.join("journalctl"), JOURNALCTL).unwrap();
    std::fs::set_permissions(root.join("journalctl"), PermissionsExt::from_mode(0o755)).unwrap();
    let config = format!("version = 1\n[[target]]\nname = \"archive\"\n{target}\n");
    std::fs::write(root.join("quietcore.logs"), config).unwrap();
}

#[test]
fn one_bad_entry_takes_no_other_with_it_and_the_tenant_is_named() {
    let temporary = tempfile::tempdir().unwrap();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let serving = lines.clone();
    let port = listen(move |stream| answer_loki(stream, &serving));
    let target = format!("kind = \"loki\"\nurl = \"http://127.0.0.1:{port}\"\ntenant = \"desk-7\"");
    prepare(temporary.path(), &target);
    let mut forwarder = start(temporary.path());
    let begin = Instant::now();
    while lines.lock().unwrap().len() < ENTRIES - 1 {
        assert!(begin.elapsed() < Duration::from_secs(60), "{}", lines.lock().unwrap().len());
        std::thread::sleep(Duration::from_millis(5));
    }
    forwarder.kill().unwrap();
    forwarder.wait().unwrap();
    let lines = lines.lock().unwrap();
    let taken: std::collections::BTreeSet<&String> = lines.iter().collect();
    assert_eq!((lines.len(), taken.len()), (ENTRIES - 1, ENTRIES - 1));
    assert!(!taken.contains(&BAD.to_owned()));
}

#[test]
fn every_entry_is_there_once_though_the_target_was_away_and_the_process_killed() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().to_path_buf();
    let index = Arc::new(Mutex::new(Index { refusals: 1, ..Index::default() }));
    let serving = index.clone();
    let port = listen(move |stream| answer(stream, &serving));
    let url = format!("http://127.0.0.1:{port}");
    prepare(&root, &format!("kind = \"elasticsearch\"\nurl = \"{url}\"\ntoken = \"t\""));
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
