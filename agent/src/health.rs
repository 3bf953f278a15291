//! Health of containers: when to look, what came of it. Files are looked at here, ports are asked by a process of its own.

use crate::compose::health::{Health, Probe};
use crate::limits::{METRICS_LEN_MAX, PROBE_ANSWER_MAX, PROBE_STARTING};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Who asks ports.
pub mod prober;

/// What is known of one container's health.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    /// Of the service that was looked at: another version starts from nothing.
    fingerprint: String,
    /// When it was first seen to run.
    since: Duration,
    /// The next look.
    due: Duration,
    /// A look is under way.
    looking: bool,
    failures: u32,
    healthy: Option<bool>,
}

/// Health by name: of instances, and of what else is looked at.
#[derive(Debug, Default)]
pub struct Book {
    known: BTreeMap<String, Known>,
}

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// Its name in the book.
    pub name: String,
    /// The version: another one starts from nothing.
    pub fingerprint: String,
    /// How to look.
    pub health: Health,
}

/// What a look brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The subject.
    pub name: String,
    /// The version that was looked at.
    pub fingerprint: String,
    /// What is wrong; nothing if all is well.
    pub wrong: Option<String>,
}

impl Book {
    /// What the looks at a version say: nothing yet, well, or not.
    pub fn of(&self, name: &str, fingerprint: &str) -> Option<bool> {
        let known = self.known.get(name)?;
        known.healthy.filter(|_| known.fingerprint == fingerprint)
    }

    /// Those that are to be looked at now, of all that there are; they are noted as being looked at.
    pub fn due(&mut self, subjects: Vec<Subject>, now: Duration) -> Vec<Subject> {
        self.known.retain(|name, _| subjects.iter().any(|subject| subject.name == *name));
        let mut is_due = |subject: &Subject| {
            let known = self.known.entry(subject.name.clone()).or_default();
            if known.fingerprint != subject.fingerprint {
                let fingerprint = subject.fingerprint.clone();
                *known = Known { fingerprint, since: now, due: now, ..Known::default() };
            }
            let due = !known.looking && known.due <= now;
            known.looking |= due;
            due
        };
        subjects.into_iter().filter(|subject| is_due(subject)).collect()
    }

    /// It was started anew, whatever was known.
    pub fn forget(&mut self, name: &str) {
        self.known.remove(name);
    }

    /// Takes what a look brought; says whether its health is another one now.
    pub fn note(&mut self, look: &Look, health: &Health, now: Duration) -> bool {
        let Some(known) = self.known.get_mut(&look.name) else { return false };
        if known.fingerprint != look.fingerprint {
            return false;
        }
        known.looking = false;
        let before = known.healthy;
        if look.wrong.is_none() {
            (known.failures, known.healthy) = (0, Some(true));
        } else if known.healthy.is_some() || now >= known.since + health.start_period {
            known.failures += 1;
            if known.failures >= health.retries {
                known.healthy = Some(false);
            }
        }
        let starting = known.healthy.is_none();
        let pause = if starting { health.interval.min(PROBE_STARTING) } else { health.interval };
        known.due = now + pause;
        known.healthy != before
    }
}

/// Looks once.
pub async fn look(subject: Subject) -> Look {
    let Subject { name, fingerprint, health } = subject;
    let asked = async {
        match &health.probe {
            Probe::File { .. } => probe(&health.probe).await,
            port => prober::ask(Path::new(prober::SOCKET), port).await,
        }
    };
    let looked = tokio::time::timeout(health.timeout, asked).await;
    let wrong = match looked {
        Ok(Ok(())) => None,
        Ok(Err(wrong)) => Some(wrong),
        Err(_) => Some(format!("no answer for {} ms", health.timeout.as_millis())),
    };
    Look { name, fingerprint, wrong }
}

async fn connect(port: u16) -> Result<TcpStream, String> {
    let connected = TcpStream::connect(("127.0.0.1", port)).await;
    connected.map_err(|error| format!("port {port}: {error}"))
}

/// Asks a port by HTTP; at most so many bytes of what it answers, if that is well.
async fn get(port: u16, path: &str, len_max: u64) -> Result<String, String> {
    let mut stream = connect(port).await?;
    // 1.0: what comes is not in chunks, and the connection ends with it.
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let said = |error: std::io::Error| format!("port {port}: {error}");
    stream.write_all(request.as_bytes()).await.map_err(said)?;
    let mut answer = Vec::new();
    stream.take(len_max).read_to_end(&mut answer).await.map_err(said)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let line = answer.lines().next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    match status.and_then(|status| status.parse::<u16>().ok()) {
        Some(200..=399) => Ok(answer),
        _ => Err(format!("port {port}{path}: {line:?}")),
    }
}

async fn probe(probe: &Probe) -> Result<(), String> {
    match probe {
        Probe::Tcp { port } => connect(*port).await.map(drop),
        Probe::Http { port, path } => get(*port, path, PROBE_ANSWER_MAX).await.map(drop),
        Probe::Metrics { port, path, checks } => {
            let page = get(*port, path, METRICS_LEN_MAX).await?;
            let (_, metrics) = page.split_once("\r\n\r\n").unwrap_or_default();
            checks.iter().try_for_each(|check| check.judge(metrics))
        }
        Probe::File { path, max_age } => {
            let written = std::fs::metadata(path).and_then(|file| file.modified());
            let written = written.map_err(|error| format!("{path}: {error}"))?;
            let age = SystemTime::now().duration_since(written).unwrap_or_default();
            match age <= *max_age {
                true => Ok(()),
                false => Err(format!("{path}: written {} s ago", age.as_secs())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::Service;
    use abi::hostplan::CorePlan;

    fn service(lines: &str) -> Service {
        let cores = CorePlan::from_kernel("0-1", "").unwrap();
        let text = format!("services:\n  a:\n    image: x\n{lines}");
        crate::compose::parse(&text, &cores).unwrap().remove(0)
    }

    #[test]
    fn failures_count_in_a_row_and_after_the_start() {
        let service = service(
            "    x-quietcore: {tcp: 1}\n    healthcheck: {interval: 10s, retries: 2, start_period: 5s}\n",
        );
        let health = service.conduct.health.clone().unwrap();
        let second = Duration::from_secs(1);
        let mut book = Book::default();
        let look = |book: &mut Book, now: u32, wrong: Option<&str>| {
            let (name, fingerprint) = ("a".to_owned(), service.fingerprint());
            let subject = Subject { name, fingerprint, health: health.clone() };
            let due = book.due(vec![subject], second * now);
            let (name, fingerprint) = ("a".to_owned(), service.fingerprint());
            let look = Look { name, fingerprint, wrong: wrong.map(Into::into) };
            let changed = book.note(&look, &health, second * now);
            (due.len(), book.of("a", &service.fingerprint()), changed)
        };
        assert_eq!(look(&mut book, 0, Some("x")), (1, None, false));
        // Until it has been well once it is looked at each second.
        assert_eq!(look(&mut book, 1, Some("x")), (1, None, false));
        assert_eq!(look(&mut book, 2, None), (1, Some(true), true));
        assert_eq!(look(&mut book, 11, Some("x")), (0, Some(true), false));
        assert_eq!(look(&mut book, 21, Some("x")), (1, Some(false), true));
        assert_eq!(look(&mut book, 31, None), (1, Some(true), true));
        // Another version is not known yet.
        book.forget("a");
        assert_eq!(book.of("a", &service.fingerprint()), None);
        // In the start nothing counts.
        for now in 0..5 {
            assert_eq!(look(&mut book, now, Some("x")).1, None);
        }
        look(&mut book, 5, Some("x"));
        assert_eq!(look(&mut book, 6, Some("x")).1, Some(false));
    }

    #[test]
    fn looks_ask_ports_and_files() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            tokio::spawn(async move {
                for answer in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 503 No\r\n\r\n", ""] {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut request = [0; 256];
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
            let http = Probe::Http { port, path: "/metrics".into() };
            // Through the process that asks, as the agent does it.
            let socket = std::env::temp_dir().join(format!("quietcore-p-{}", std::process::id()));
            let path = socket.clone();
            tokio::spawn(async move { prober::serve(&path).await });
            while !socket.exists() {
                tokio::task::yield_now().await;
            }
            prober::ask(&socket, &http).await.unwrap();
            assert!(prober::ask(&socket, &http).await.unwrap_err().contains("503"));
            std::fs::remove_file(&socket).unwrap();
            assert!(probe(&http).await.is_err());
            assert!(probe(&Probe::Tcp { port }).await.is_err());
        });
        let path = std::env::temp_dir().join(format!("quietcore-age-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let file = |max_age| Probe::File { path: path.display().to_string(), max_age };
        runtime.block_on(probe(&file(Duration::from_secs(60)))).unwrap();
        assert!(runtime.block_on(probe(&file(Duration::ZERO))).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(runtime.block_on(probe(&file(Duration::from_secs(60)))).is_err());
    }
}
