//! Probes as the agent makes them: a file's age itself, ports through the probe worker, since the
//! agent reaches no network, not even the loopback.

use agent_core::compose::probe::Probe;
use agent_core::health::{PROBE_SOCKET, ProbeAnswer, ProbeResult, Subject};
use agent_core::limits::PROBE_ANSWER_MAX;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Probes a subject once, within its timeout.
pub async fn probe(subject: Subject, ages: FileAges) -> ProbeResult {
    let Subject { name, fingerprint, health } = subject;
    let asked = async {
        match &health.probe {
            Probe::File { path, max_age } => ages.probe(path, *max_age),
            port => ask(Path::new(PROBE_SOCKET), port).await,
        }
    };
    let looked = tokio::time::timeout(health.timeout, asked).await;
    let wrong = match looked {
        Ok(Ok(())) => None,
        Ok(Err(wrong)) => Some(wrong),
        Err(_) => Some(format!("no answer for {} ms", health.timeout.as_millis())),
    };
    ProbeResult { name, fingerprint, wrong }
}

/// Has the probe worker at a socket probe a port.
async fn ask(socket: &Path, probe: &Probe) -> Result<(), String> {
    let said = |error: std::io::Error| format!("quietcore-probe.service: {error}");
    let mut stream = UnixStream::connect(socket).await.map_err(said)?;
    let question = serde_json::to_string(probe).map_err(|error| error.to_string())? + "\n";
    stream.write_all(question.as_bytes()).await.map_err(said)?;
    let mut text = Vec::new();
    stream.take(PROBE_ANSWER_MAX).read_to_end(&mut text).await.map_err(said)?;
    let answer: ProbeAnswer = serde_json::from_slice(&text)
        .map_err(|error| format!("quietcore-probe.service: {error}"))?;
    answer.wrong.map_or(Ok(()), Err)
}

/// Ages of files that probes look at, by a clock that does not step: a file's time is compared with
/// the host's clock only when it is first seen.
#[derive(Debug, Clone, Default)]
pub struct FileAges(Arc<Mutex<HashMap<String, Seen>>>);

/// Time of a file, and when it was that old by the monotonic clock.
#[derive(Debug, Clone, Copy)]
struct Seen {
    written: SystemTime,
    /// Instant of the write; none while it can't be told.
    at: Option<Instant>,
    looked: Instant,
}

impl FileAges {
    /// Fails if a file was last written longer than `max_age` ago, or if that can't be told.
    fn probe(&self, path: &str, max_age: Duration) -> Result<(), String> {
        let written = std::fs::metadata(path).and_then(|file| file.modified());
        let written = written.map_err(|error| format!("{path}: {error}"))?;
        let age = self.age(path, written, SystemTime::now(), Instant::now());
        match age {
            Some(age) if age <= max_age => Ok(()),
            Some(age) => Err(format!("{path}: written {} s ago", age.as_secs())),
            None => Err(format!(
                "{path}: its time is in the future, so that its age can't be told until it is written again"
            )),
        }
    }

    fn age(
        &self,
        path: &str,
        written: SystemTime,
        wall: SystemTime,
        now: Instant,
    ) -> Option<Duration> {
        let mut all = self.0.lock().expect("nobody panics with the ages");
        let before = all.get(path).copied();
        let at = match before {
            Some(seen) if seen.written == written => seen.at,
            // It was written between two looks, whatever the clock says.
            Some(seen) => {
                let since = now.saturating_duration_since(seen.looked);
                let age = wall.duration_since(written).unwrap_or_default().min(since);
                now.checked_sub(age)
            }
            None => wall.duration_since(written).ok().and_then(|age| now.checked_sub(age)),
        };
        all.insert(path.to_owned(), Seen { written, at, looked: now });
        // Since before the host's boot: longer than any limit.
        let unknown = if written > wall { None } else { Some(Duration::MAX) };
        at.map_or(unknown, |at| Some(now.saturating_duration_since(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_judged_by_its_age() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("it");
        std::fs::write(&path, "").unwrap();
        let ages = FileAges::default();
        let probe = |max_age| ages.probe(&path.display().to_string(), max_age);
        probe(Duration::from_secs(60)).unwrap();
        assert!(probe(Duration::ZERO).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(probe(Duration::from_secs(60)).is_err());
    }

    #[test]
    fn a_clock_that_steps_makes_no_file_fresh_or_old() {
        let (ages, second) = (FileAges::default(), Duration::from_secs(1));
        let (start, wall) = (Instant::now(), SystemTime::now());
        let hour = second * 3600;
        // First seen with a time of the future: not known, until it is written again.
        let age = |written, wall, after: u32| ages.age("a", written, wall, start + second * after);
        assert_eq!(age(wall + hour, wall, 0), None);
        assert_eq!(age(wall + hour, wall + second, 1), None);
        assert!(age(wall + second * 2, wall + second * 2, 2).unwrap() <= second);
        // The clock goes back by an hour, and the program hangs: it ages all the same.
        let written = wall + second * 2;
        assert_eq!(age(written, wall - hour, 12), Some(second * 10));
        // The clock goes forth by an hour: no older for that.
        assert_eq!(age(written, wall + hour, 13), Some(second * 11));
        // Written again, by whatever clock.
        assert!(age(wall - hour, wall + hour, 14).unwrap() <= second);
        assert!(age(wall + hour * 2, wall + hour, 15).unwrap() <= second);
        // First seen as old as the clock says.
        assert_eq!(ages.age("b", wall - second, wall, start + hour), Some(second));
    }

    #[tokio::test]
    async fn the_worker_answers_or_is_missing() {
        let temporary = tempfile::tempdir().unwrap();
        let socket = temporary.path().join("it");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let probe = Probe::Tcp { port: 1 };
        let answers = ["{\"wrong\":null}", "{\"wrong\":\"port 1: no\"}", "nonsense"];
        let served = tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut question = [0; 256];
                assert!(stream.read(&mut question).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        ask(&socket, &probe).await.unwrap();
        assert_eq!(ask(&socket, &probe).await.unwrap_err(), "port 1: no");
        assert!(ask(&socket, &probe).await.unwrap_err().contains("quietcore-probe.service"));
        served.await.unwrap();
        std::fs::remove_file(&socket).unwrap();
        assert!(ask(&socket, &probe).await.unwrap_err().contains("quietcore-probe.service"));
    }
}
