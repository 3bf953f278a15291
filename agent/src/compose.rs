//! The compose file: what is accepted, and what is refused where. Strict: a key that is not supported is
//! an error with its line, never ignored. Source: the Compose Specification.

use crate::limits::{COMPOSE_LEN_MAX, SERVICES_MAX};
use abi::hostplan::{CPUS_MAX, CorePlan, CpuSet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// Why a compose file is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ComposeError {
    /// It is not YAML of the supported schema; the text has line and column.
    #[error("{0}")]
    Schema(String),
    /// A value that can't be.
    #[error("services.{service}.{key}: {value:?}: {remedy}")]
    Value {
        /// The service.
        service: String,
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What to write instead.
        remedy: String,
    },
    /// Too large.
    #[error("{what}: {found}, at most {max}")]
    Limit {
        /// What.
        what: &'static str,
        /// What was found.
        found: u64,
        /// What can be.
        max: u64,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Option<String>,
    services: BTreeMap<String, RawService>,
}

/// One word or a list of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Environment {
    Map(BTreeMap<String, Option<Scalar>>),
    List(Vec<String>),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Text(value) => value.clone(),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    image: String,
    command: Option<Words>,
    entrypoint: Option<Words>,
    environment: Option<Environment>,
    user: Option<String>,
    working_dir: Option<String>,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    cap_drop: Vec<String>,
    #[serde(default)]
    volumes: Vec<String>,
    tmpfs: Option<Words>,
    network_mode: Option<NetworkMode>,
    cpuset: Option<Scalar>,
    cpus: Option<Scalar>,
    mem_limit: Option<Scalar>,
    pids_limit: Option<i64>,
    restart: Option<Restart>,
    stop_signal: Option<String>,
}

/// Which network a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// The host's. The default here: a container on a trading host that needs a network needs this one.
    Host,
    /// None but its own loopback.
    None,
}

/// When a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum Restart {
    /// Never.
    #[serde(rename = "no")]
    No,
    /// Always.
    #[serde(rename = "always", alias = "unless-stopped")]
    Always,
    /// If it failed.
    #[serde(rename = "on-failure")]
    OnFailure,
}

/// A directory of the host inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bind {
    /// On the host.
    pub source: String,
    /// In the container.
    pub target: String,
    /// Whether it can't be written to.
    pub read_only: bool,
}

/// A service as declared. Holding one proves that its values are in their ranges and that it asks for
/// housekeeping cores only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Its name: letters, digits, `-`, `_`.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Instead of the image's entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Arguments.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// User and group number.
    pub user: (u32, u32),
    /// Where it starts.
    pub working_dir: String,
    /// Whether its root can't be written to.
    pub read_only: bool,
    /// Whether it has no capability at all; else those of Docker's default that need no root on the host.
    pub drop_capabilities: bool,
    /// Directories of the host.
    pub binds: Vec<Bind>,
    /// Directories in memory.
    pub tmpfs: Vec<String>,
    /// Its network.
    pub network: NetworkMode,
    /// CPUs it may use.
    pub cpuset: String,
    /// Thousandths of a CPU that it may use in all.
    pub cpu_millis: Option<u64>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<i64>,
    /// When it is started again.
    pub restart: Restart,
    /// The signal that asks it to end.
    pub stop_signal: u32,
}

/// Directories of the host that containers may see.
const BIND_ROOTS: [&str; 3] = ["/run/quietcore/", VOLUMES, "/usr/share/quietcore/"];

/// The same, to read only: the engine's journal and the copies of it.
const READ_ROOTS: [&str; 2] = ["/var/lib/quietcore/journal/", "/var/lib/quietcore/agent/journal/"];

/// Where containers keep what is theirs.
pub const VOLUMES: &str = "/var/lib/quietcore/volumes/";

/// Reads a compose file for a host with these cores.
///
/// # Errors
/// [`ComposeError`] names line or key, and the remedy.
pub fn parse(text: &str, cores: &CorePlan) -> Result<Vec<Service>, ComposeError> {
    let len = text.len() as u64;
    if len > COMPOSE_LEN_MAX {
        return Err(ComposeError::Limit {
            what: "bytes of the file",
            found: len,
            max: COMPOSE_LEN_MAX,
        });
    }
    let file: File =
        serde_yaml_ng::from_str(text).map_err(|error| ComposeError::Schema(error.to_string()))?;
    let _ = file.name;
    let (found, max) = (file.services.len() as u64, SERVICES_MAX as u64);
    if found > max {
        return Err(ComposeError::Limit { what: "services", found, max });
    }
    file.services
        .into_iter()
        .map(|(name, raw)| Checker { name: &name, cores }.check(&raw))
        .collect()
}

struct Checker<'a> {
    name: &'a str,
    cores: &'a CorePlan,
}

impl Checker<'_> {
    fn refuse(
        &self,
        key: &'static str,
        value: impl ToString,
        remedy: impl ToString,
    ) -> ComposeError {
        let (service, value, remedy) = (self.name.into(), value.to_string(), remedy.to_string());
        ComposeError::Value { service, key, value, remedy }
    }

    fn check(&self, raw: &RawService) -> Result<Service, ComposeError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > 63 || !self.name.chars().all(plain) {
            return Err(self.refuse("(name)", self.name, "1 to 63 letters, digits, - or _"));
        }
        let drop_capabilities = match raw.cap_drop.as_slice() {
            [] => false,
            [all] if all == "ALL" => true,
            other => {
                return Err(self.refuse("cap_drop", other.join(","), "[ALL], or leave it out"));
            }
        };
        Ok(Service {
            name: self.name.into(),
            image: raw.image.clone(),
            entrypoint: raw
                .entrypoint
                .as_ref()
                .map(|words| self.words("entrypoint", words))
                .transpose()?,
            command: raw
                .command
                .as_ref()
                .map(|words| self.words("command", words))
                .transpose()?
                .unwrap_or_default(),
            environment: self.environment(raw)?,
            user: self.user(raw)?,
            working_dir: raw.working_dir.clone().unwrap_or_else(|| "/".into()),
            read_only: raw.read_only,
            drop_capabilities,
            binds: raw.volumes.iter().map(|volume| self.bind(volume)).collect::<Result<_, _>>()?,
            tmpfs: match &raw.tmpfs {
                None => Vec::new(),
                Some(Words::One(path)) => vec![path.clone()],
                Some(Words::Many(paths)) => paths.clone(),
            },
            network: raw.network_mode.unwrap_or(NetworkMode::Host),
            cpuset: self.cpuset(raw)?,
            cpu_millis: raw.cpus.as_ref().map(|cpus| self.cpu_millis(&cpus.text())).transpose()?,
            memory_bytes: raw
                .mem_limit
                .as_ref()
                .map(|limit| self.bytes("mem_limit", &limit.text()))
                .transpose()?,
            pids: raw.pids_limit.filter(|limit| *limit > 0),
            restart: raw.restart.unwrap_or(Restart::No),
            stop_signal: self.signal(raw.stop_signal.as_deref().unwrap_or("SIGTERM"))?,
        })
    }

    /// A string is split at spaces; quotes would need a shell, and there is none.
    fn words(&self, key: &'static str, words: &Words) -> Result<Vec<String>, ComposeError> {
        match words {
            Words::Many(words) => Ok(words.clone()),
            Words::One(line) if line.contains(['"', '\'', '\\', '$']) => {
                Err(self.refuse(key, line, "write a list of words: nothing here reads quotes"))
            }
            Words::One(line) => Ok(line.split_whitespace().map(Into::into).collect()),
        }
    }

    fn environment(&self, raw: &RawService) -> Result<Vec<String>, ComposeError> {
        let remedy = "give it a value: the agent has no environment to take it from";
        match &raw.environment {
            None => Ok(Vec::new()),
            Some(Environment::List(list)) => match list.iter().find(|entry| !entry.contains('=')) {
                Some(entry) => Err(self.refuse("environment", entry, remedy)),
                None => Ok(list.clone()),
            },
            Some(Environment::Map(map)) => map
                .iter()
                .map(|(name, value)| match value {
                    Some(value) => Ok(format!("{name}={}", value.text())),
                    None => Err(self.refuse("environment", name, remedy)),
                })
                .collect(),
        }
    }

    fn user(&self, raw: &RawService) -> Result<(u32, u32), ComposeError> {
        let Some(text) = &raw.user else { return Ok((65534, 65534)) };
        let (user, group) = text.split_once(':').unwrap_or((text, text));
        match (user.parse(), group.parse()) {
            (Ok(user), Ok(group)) => Ok((user, group)),
            _ => Err(self.refuse("user", text, "numbers, as in \"1000:1000\"")),
        }
    }

    fn bind(&self, volume: &str) -> Result<Bind, ComposeError> {
        let parts: Vec<&str> = volume.split(':').collect();
        let (source, target, mode) = match parts[..] {
            [source, target] => (source, target, "rw"),
            [source, target, mode @ ("ro" | "rw")] => (source, target, mode),
            _ => return Err(self.refuse("volumes", volume, "SOURCE:TARGET or SOURCE:TARGET:ro")),
        };
        let under =
            |roots: &[&str]| roots.iter().any(|root| format!("{source}/").starts_with(root));
        let inside = under(&BIND_ROOTS) || mode == "ro" && under(&READ_ROOTS);
        if !inside || source.contains("..") || !target.starts_with('/') {
            let (any, read) = (BIND_ROOTS.join(", "), READ_ROOTS.join(", "));
            let remedy = format!("a directory under one of {any}, or with :ro {read}");
            return Err(self.refuse("volumes", volume, remedy));
        }
        Ok(Bind { source: source.into(), target: target.into(), read_only: mode == "ro" })
    }

    fn cpuset(&self, raw: &RawService) -> Result<String, ComposeError> {
        let housekeeping = self.cores.housekeeping();
        let Some(list) = &raw.cpuset else { return Ok(housekeeping.to_string()) };
        let text = list.text();
        let asked = CpuSet::parse(&text, CPUS_MAX - 1)
            .map_err(|error| self.refuse("cpuset", &text, error))?;
        let outside = asked.difference(housekeeping);
        if asked.is_empty() || !outside.is_empty() {
            let hot = if outside.intersection(self.cores.hot()).is_empty() {
                "not on this host"
            } else {
                "hot, for the engine only"
            };
            let remedy = format!("CPU {outside} is {hot}; housekeeping CPUs are {housekeeping}");
            return Err(self.refuse("cpuset", &text, remedy));
        }
        Ok(asked.to_string())
    }

    fn cpu_millis(&self, text: &str) -> Result<u64, ComposeError> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = format!("{part:0<3}");
        let millis = match (
            whole.parse::<u64>(),
            digits.get(..3).and_then(|digits| digits.parse::<u64>().ok()),
        ) {
            (Ok(whole), Some(part)) if whole < 10_000 => whole * 1000 + part,
            _ => 0,
        };
        if millis == 0 {
            Err(self.refuse("cpus", text, "a number of CPUs, as in 0.5"))
        } else {
            Ok(millis)
        }
    }

    fn bytes(&self, key: &'static str, text: &str) -> Result<u64, ComposeError> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" => 10,
            "m" | "mb" => 20,
            "g" | "gb" => 30,
            _ => 64,
        };
        let bytes = number
            .parse::<u64>()
            .ok()
            .filter(|n| shift < 64 && *n <= u64::MAX >> (shift + 1))
            .map(|n| n << shift);
        bytes
            .filter(|bytes| *bytes >= 1 << 20)
            .ok_or_else(|| self.refuse(key, text, "at least 1m, as in 512m or 2g"))
    }

    fn signal(&self, text: &str) -> Result<u32, ComposeError> {
        let name = if text.starts_with("SIG") { text.to_string() } else { format!("SIG{text}") };
        let signal: Result<nix::sys::signal::Signal, _> = name.parse();
        signal
            .map(|signal| signal as u32)
            .map_err(|_| self.refuse("stop_signal", text, "a signal's name, as in SIGTERM"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores() -> CorePlan {
        CorePlan::from_kernel("0-3", "2-3").unwrap()
    }

    fn service(lines: &str) -> Result<Service, ComposeError> {
        let text = format!("services:\n  a:\n    image: x\n{lines}");
        parse(&text, &cores()).map(|mut services| services.remove(0))
    }

    #[test]
    fn a_hot_core_is_refused_by_name() {
        let error = service("    cpuset: \"1-2\"\n").unwrap_err().to_string();
        assert_eq!(
            error,
            "services.a.cpuset: \"1-2\": CPU 2 is hot, for the engine only; housekeeping CPUs are 0-1"
        );
        assert!(service("    cpuset: 7\n").unwrap_err().to_string().contains("not on this host"));
        assert_eq!(service("    cpuset: 1\n").unwrap().cpuset, "1");
        assert_eq!(service("").unwrap().cpuset, "0-1");
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line() {
        let error = service("    privileged: true\n").unwrap_err().to_string();
        assert!(error.contains("privileged") && error.contains("line 4"), "{error}");
    }

    #[test]
    fn the_files_that_are_shipped_and_shown_are_accepted() {
        let guide = include_str!("../../docs/dropcopy.md");
        let shown = guide.split("```").find_map(|part| part.strip_prefix("yaml\n"));
        for text in [
            include_str!("../../containers/compose/demo.yaml"),
            include_str!("../../containers/compose/production.yaml"),
            shown.expect("the guide shows a file"),
        ] {
            assert!(!parse(text, &cores()).unwrap().is_empty());
        }
    }

    #[test]
    fn values_are_read_with_their_units() {
        let read =
            service("    mem_limit: 512m\n    cpus: 0.25\n    user: \"5:6\"\n    command: a b\n")
                .unwrap();
        assert_eq!(
            (read.memory_bytes, read.cpu_millis, read.user),
            (Some(512 << 20), Some(250), (5, 6))
        );
        assert_eq!(read.command, ["a", "b"]);
        for bad in [
            "mem_limit: 5x",
            "mem_limit: 10",
            "cpus: 0",
            "cpus: -1",
            "user: root",
            "volumes: [\"/etc:/etc\"]",
            "volumes: [\"/run/quietcore/../x:/y\"]",
            "volumes: [\"/var/lib/quietcore/journal:/y\"]",
            "stop_signal: SIGNONE",
            "command: \"a 'b c'\"",
        ] {
            assert!(service(&format!("    {bad}\n")).is_err(), "{bad}");
        }
    }
}
