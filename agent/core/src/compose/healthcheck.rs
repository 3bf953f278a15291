//! Health checks of services by HTTP or TCP on the host's loopback, or by the age of a file. No
//! program is run in the container: that would cost a new process on the housekeeping cores for
//! each probe, and reach into the container's cgroup. Commands in `test` that mean one of these
//! probes (curl, wget, nc -z) are understood.

use crate::compose::health_command::{self, Understood};
use crate::compose::loopback_url::http_parts;
use crate::compose::probe::Probe;
use crate::compose::scalar::Scalar;
use crate::compose::schema::{RawHealth, RawOwn, Words};
use crate::compose::units;
use std::time::Duration;

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
    /// Time between two probes until the first that passes; without one a quarter of a second.
    pub start_interval: Option<Duration>,
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
    let (probe, limit) = match (written, raw) {
        (_, Some(raw)) if raw.disable => return Ok(None),
        (Some(probe), _) => (probe, None),
        (None, None) => return Ok(None),
        (None, Some(raw)) => match raw.test.as_ref().map(of_test).transpose()? {
            Some(Some(understood)) => understood,
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
        )?
        .min(limit.unwrap_or(Duration::MAX)),
        retries: raw.and_then(|raw| raw.retries).unwrap_or(3).max(1),
        start_interval: raw
            .and_then(|raw| raw.start_interval.as_ref())
            .map(|text| {
                let default = Duration::ZERO;
                time("healthcheck.start_interval", Some(text), default, second / 10)
            })
            .transpose()?,
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
        (Some(url), None, None, None) => {
            let (port, path) = http_parts(url)?;
            Ok(Some(Probe::Http { port, path, any_status: false }))
        }
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

/// Probe of `healthcheck.test`, with the time that the command gives; `None` for `NONE`.
fn of_test(test: &Words) -> Result<Option<Understood>, (&'static str, String, String)> {
    let (said, shown) = match test {
        Words::One(line) => (health_command::of_line(line), line.clone()),
        Words::Many(words) => {
            let shown = words.join(" ");
            match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["NONE"] => return Ok(None),
                ["CMD", ref rest @ ..] => (health_command::of_words(rest), shown),
                ["CMD-SHELL", line] => (health_command::of_line(line), shown),
                _ => (Err("CMD, CMD-SHELL or NONE comes first".into()), shown),
            }
        }
    };
    said.map(Some).map_err(|why| ("healthcheck.test", shown, format!("{why}; {REMEDY}")))
}
