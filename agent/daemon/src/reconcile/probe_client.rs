//! Probes as the agent makes them: a file's age itself, ports through the probe worker, since the
//! agent reaches no network, not even the loopback.

use agent_core::compose::healthcheck::Probe;
use agent_core::health::{PROBE_SOCKET, ProbeAnswer, ProbeResult, Subject};
use agent_core::limits::PROBE_ANSWER_MAX;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Probes a subject once, within its timeout.
pub async fn probe(subject: Subject) -> ProbeResult {
    let Subject { name, fingerprint, health } = subject;
    let asked = async {
        match &health.probe {
            Probe::File { path, max_age } => probe_file(path, *max_age),
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

fn probe_file(path: &str, max_age: Duration) -> Result<(), String> {
    let written = std::fs::metadata(path).and_then(|file| file.modified());
    let written = written.map_err(|error| format!("{path}: {error}"))?;
    let age = SystemTime::now().duration_since(written).unwrap_or_default();
    match age <= max_age {
        true => Ok(()),
        false => Err(format!("{path}: written {} s ago", age.as_secs())),
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
        let probe = |max_age| probe_file(&path.display().to_string(), max_age);
        probe(Duration::from_secs(60)).unwrap();
        assert!(probe(Duration::ZERO).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(probe(Duration::from_secs(60)).is_err());
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
