//! Health checks of services by HTTP or TCP on the host's loopback, or by the age of a file. No
//! program is run in the container: that would cost a new process on the housekeeping cores for
//! each probe, and reach into the container's cgroup. Commands in `test` that mean one of these
//! probes (curl, wget, nc -z) are understood.

use crate::compose::loopback_url::http_parts;
use crate::compose::metric_check::Check;
use crate::compose::schema::{RawHealth, RawOwn, Scalar, Words};
use crate::compose::units;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Probe of a health check or canary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Probe {
    /// Answers 2xx or 3xx.
    Http {
        /// On the loopback.
        port: u16,
        /// From the slash on.
        path: String,
    },
    /// Takes a connection.
    Tcp {
        /// On the loopback.
        port: u16,
    },
    /// Answers with metrics that are as they must be.
    Metrics {
        /// On the loopback.
        port: u16,
        /// From the slash on.
        path: String,
        /// Checks that the metrics must pass.
        checks: Vec<Check>,
    },
    /// Was written not longer ago than this.
    File {
        /// On the host.
        path: String,
        /// Maximum age of the file's last write.
        max_age: Duration,
    },
}

/// A health check.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// Probe that is run at each interval.
    pub probe: Probe,
    /// Between two looks.
    pub interval: Duration,
    /// Of one look.
    pub timeout: Duration,
    /// Failures in a row that count.
    pub retries: u32,
    /// In which failures do not count.
    pub start_period: Duration,
}

/// Remedy for a `healthcheck.test` that is not understood.
const REMEDY: &str = "no program is run for it; write x-quietcore: {http: URL}, {tcp: PORT} or {file: PATH, max_age: 30s}, or a test of curl, wget or nc -z";

/// The check of a service, if it has one.
///
/// # Errors
/// The key and what is wrong with it: key, value, remedy.
pub fn read(
    raw: Option<&RawHealth>,
    own: Option<&RawOwn>,
) -> Result<Option<Health>, (&'static str, String, String)> {
    let written = match own {
        Some(own) => own_probe(own)?,
        None => None,
    };
    let probe = match (written, raw) {
        (_, Some(raw)) if raw.disable => return Ok(None),
        (Some(probe), _) => probe,
        (None, None) => return Ok(None),
        (None, Some(raw)) => match raw.test.as_ref().map(of_test).transpose()? {
            Some(Some(probe)) => probe,
            _ => return Ok(None),
        },
    };
    let time = |key, given: Option<&Scalar>, default, min: Duration| match given {
        None => Ok(default),
        Some(text) => units::duration(&text.text())
            .filter(|duration| (min..=Duration::from_secs(3600)).contains(duration))
            .ok_or_else(|| (key, text.text(), "a duration, as in 30s, up to 1h".to_owned())),
    };
    let second = Duration::from_secs(1);
    Ok(Some(Health {
        probe,
        interval: time(
            "healthcheck.interval",
            raw.and_then(|r| r.interval.as_ref()),
            second * 30,
            second,
        )?,
        timeout: time(
            "healthcheck.timeout",
            raw.and_then(|r| r.timeout.as_ref()),
            second * 30,
            second / 10,
        )?,
        retries: raw.and_then(|raw| raw.retries).unwrap_or(3).max(1),
        start_period: time(
            "healthcheck.start_period",
            raw.and_then(|r| r.start_period.as_ref()),
            Duration::ZERO,
            Duration::ZERO,
        )?,
    }))
}

fn own_probe(own: &RawOwn) -> Result<Option<Probe>, (&'static str, String, String)> {
    let many = "one of http, tcp and file".to_owned();
    match (&own.http, own.tcp, &own.file, &own.max_age) {
        (None, None, None, None) => Ok(None),
        (Some(url), None, None, None) => http(url).map(Some),
        (None, Some(port), None, None) => Ok(Some(Probe::Tcp { port })),
        (None, None, Some(path), Some(age)) => {
            let max_age = units::duration(&age.text());
            let max_age = max_age.ok_or_else(|| {
                ("x-quietcore.max_age", age.text(), "a duration, as in 30s".to_owned())
            })?;
            let inside = crate::compose::BIND_ROOTS.iter().any(|root| path.starts_with(root));
            if !inside || path.contains("..") {
                let remedy =
                    format!("a file under one of {}", crate::compose::BIND_ROOTS.join(", "));
                return Err(("x-quietcore.file", path.clone(), remedy));
            }
            Ok(Some(Probe::File { path: path.clone(), max_age }))
        }
        (None, None, Some(path), None) => {
            Err(("x-quietcore.file", path.clone(), "give max_age too".into()))
        }
        _ => Err(("x-quietcore", "several probes".into(), many)),
    }
}

fn http(url: &str) -> Result<Probe, (&'static str, String, String)> {
    http_parts(url).map(|(port, path)| Probe::Http { port, path })
}

/// `None` for a service that is not to be looked at.
fn of_test(test: &Words) -> Result<Option<Probe>, (&'static str, String, String)> {
    let words: Vec<&str> = match test {
        Words::One(line) => line.split_whitespace().collect(),
        Words::Many(words) => match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["NONE"] => return Ok(None),
            ["CMD", ref rest @ ..] => rest.to_vec(),
            ["CMD-SHELL", line] => line.split_whitespace().collect(),
            _ => Vec::new(),
        },
    };
    let refused = || ("healthcheck.test", words.join(" "), REMEDY.to_owned());
    // What shells add so that any failure is 1.
    let words: Vec<&str> = match words[..] {
        [ref before @ .., "||", "exit", "1"] => before.to_vec(),
        _ => words.clone(),
    };
    let program = words.first().map(|path| path.rsplit('/').next().unwrap_or(path));
    match (program, &words[..]) {
        (Some("curl" | "wget"), [_, rest @ ..]) => {
            let mut urls =
                rest.iter().filter(|word| !word.starts_with('-') && word.contains("://"));
            match (urls.next(), urls.next()) {
                (Some(url), None) => http(url).map(Some),
                _ => Err(refused()),
            }
        }
        (Some("nc"), [_, "-z", "127.0.0.1" | "localhost", port]) => {
            port.parse().map(|port| Some(Probe::Tcp { port })).map_err(|_| refused())
        }
        _ => Err(refused()),
    }
}
