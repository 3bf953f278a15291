//! Requests to the agent, the role that each needs, and responses: lines of JSON on the local
//! socket, or over the network behind HTTP and TLS.

/// Values that requests and responses carry.
pub mod types;

use crate::desired::Step;
use crate::limits::{AUDIT_REQUEST_MAX, AUDIT_TEXT_MAX};
use crate::protocol::types::{Event, ImageLine, Record, Size, Wanted};
use crate::status::Status;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where the agent listens.
pub const SOCKET: &str = "/run/quietcore/agent/agent.sock";

/// Role of a client, in ascending order: each includes the rights of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads state and logs; changes nothing.
    Reader,
    /// Decides what containers run and whether the engine trades.
    Operator,
    /// Everything: the operating system, secrets, files of the host.
    Admin,
}

/// Operator's command on a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RolloutStep {
    /// The trial goes on until somebody says more.
    Pause,
    /// The trial is judged again.
    Resume,
    /// The version on trial takes over now.
    Promote,
    /// The version before comes back.
    Undo,
}

/// Request to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Everything that the agent knows.
    Status {},
    /// Run what this compose file declares from now on.
    Apply {
        /// The file's text.
        compose: String,
        /// Only say what would be another than now.
        #[serde(default)]
        dry_run: bool,
        /// Take it back after so many seconds if nobody keeps it.
        #[serde(default, rename = "try")]
        try_seconds: Option<u64>,
        /// Only from the next boot on.
        #[serde(default)]
        staged: bool,
    },
    /// Start a container that is thrown away.
    Debug {
        /// A compose file with one service.
        compose: String,
        /// Seconds that it may run: 1 to 3600.
        seconds: u64,
        /// With a terminal of this size, instead of a place in the journal.
        #[serde(default)]
        terminal: Option<Size>,
    },
    /// Look at its terminal, which is seen in this size from now on.
    Terminal {
        /// Name of the debug container.
        name: String,
        /// As it is, without one.
        #[serde(default)]
        size: Option<Size>,
    },
    /// Type into its terminal.
    Type {
        /// Name of the debug container.
        name: String,
        /// Bytes, in base64.
        keys: String,
    },
    /// Take down packets of an interface.
    Capture(Wanted),
    /// Throw it away.
    EndDebug {
        /// Name of the debug container.
        name: String,
    },
    /// Keep the compose file that was applied on trial.
    Keep {},
    /// Take a signed desired state that somebody brought.
    Deliver {
        /// Envelope in DSSE's JSON.
        envelope: String,
    },
    /// Say what becomes of the desired state.
    Desired {
        /// Command: hold, resume or sync.
        step: Step,
    },
    /// Return the declared compose file.
    Declared {},
    /// Put the image of an archive into containerd.
    LoadImage {
        /// The archive, an OCI image layout in a tar file.
        archive: PathBuf,
    },
    /// Return events, oldest first.
    Events {
        /// Only what has a higher number.
        after: u64,
        /// The last so many.
        count: usize,
    },
    /// Return records of the audit log, oldest first.
    Audit {
        /// The last so many.
        count: usize,
    },
    /// List the images of this host.
    Images {},
    /// Take an image away.
    RemoveImage {
        /// Name of the image.
        name: String,
    },
    /// Say what becomes of a service's version.
    Rollout {
        /// Name of the service.
        name: String,
        /// Command: pause, resume, promote or undo.
        step: RolloutStep,
    },
    /// Return a challenge: what signed requests of the next minute have in them.
    Challenge {},
    /// The names of secrets.
    Secrets {},
    /// Keep a secret, and give it to the containers that use it.
    SetSecret {
        /// Name of the secret.
        name: String,
        /// Secret's bytes, in base64.
        secret: String,
    },
    /// Forget a secret that no container uses.
    RemoveSecret {
        /// Name of the secret.
        name: String,
    },
    /// Tell the engine.
    Control {
        /// Cancel everything and send nothing more.
        kill: bool,
        /// Cancel what works and open nothing new.
        drain: bool,
    },
    /// Fetch a release of the operating system and write it to the other slot.
    Update {
        /// The release's directory: `http://` or `https://`.
        url: String,
    },
    /// Restart the host.
    Reboot {
        /// Although the engine holds a position.
        holding: bool,
    },
    /// Put other risk limits in force, or none to see them.
    Limits {
        /// Of which shard; may be left out if there is one engine.
        #[serde(default)]
        shard: Option<String>,
        /// Names of `abi::control::LIMIT_NAMES` and their new values.
        changes: BTreeMap<String, u64>,
    },
}

impl Request {
    /// Returns the lowest role that may make the request.
    pub fn role(&self) -> Role {
        match self {
            Self::Status {}
            | Self::Declared {}
            | Self::Events { .. }
            | Self::Images {}
            | Self::Challenge {}
            | Self::Secrets {} => Role::Reader,
            Self::Limits { changes, .. } if changes.is_empty() => Role::Reader,
            Self::Apply { .. }
            | Self::Keep {}
            | Self::Debug { .. }
            | Self::EndDebug { .. }
            | Self::Terminal { .. }
            | Self::Type { .. }
            | Self::Deliver { .. }
            | Self::Desired { .. }
            | Self::Rollout { .. }
            | Self::RemoveImage { .. }
            | Self::Control { .. }
            | Self::Limits { .. } => Role::Operator,
            Self::LoadImage { .. }
            | Self::Audit { .. }
            | Self::SetSecret { .. }
            | Self::RemoveSecret { .. }
            | Self::Capture(_)
            | Self::Update { .. }
            | Self::Reboot { .. } => Role::Admin,
        }
    }

    /// Whether it may change something: that is written down. Of a terminal, that it began.
    pub fn is_change(&self) -> bool {
        let is_part = matches!(self, Self::Terminal { .. } | Self::Type { .. });
        self.role() > Role::Reader && !is_part && !matches!(self, Self::Audit { .. })
    }

    /// Returns the request for the audit log: without secrets and keys typed, compose files and
    /// envelopes as SHA-256, long texts cut.
    pub fn for_audit(&self) -> serde_json::Value {
        use sha2::{Digest, Sha256};
        let digest = |text: &str| format!("sha256:{:x}", Sha256::digest(text));
        let shown = match self.clone() {
            Self::SetSecret { name, .. } => {
                Self::SetSecret { name, secret: "not written down".into() }
            }
            Self::Deliver { envelope } => Self::Deliver { envelope: digest(&envelope) },
            Self::Apply { compose, dry_run, try_seconds, staged } => {
                Self::Apply { compose: digest(&compose), dry_run, try_seconds, staged }
            }
            Self::Debug { compose, seconds, terminal } => {
                Self::Debug { compose: digest(&compose), seconds, terminal }
            }
            Self::Type { name, .. } => Self::Type { name, keys: "not written down".into() },
            other => other,
        };
        let mut shown = serde_json::json!(shown);
        cut(&mut shown);
        match shown.to_string() {
            long if long.len() > AUDIT_REQUEST_MAX => {
                serde_json::json!({ "method": shown["method"], "request": digest(&long) })
            }
            _ => shown,
        }
    }
}

/// Texts as long as a line: who asks chooses how long they are, and the log is bounded.
fn cut(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) if text.len() > AUDIT_TEXT_MAX => {
            *text = text.chars().take(AUDIT_TEXT_MAX).collect::<String>() + "...";
        }
        serde_json::Value::Object(all) => all.values_mut().for_each(cut),
        _ => {}
    }
}

/// Response of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// The answer to [`Request::Status`].
    Status(Box<Status>),
    /// The answer to [`Request::Declared`].
    Declared(String),
    /// The answer to [`Request::Limits`]: all that are in force.
    Limits(Vec<(String, u64)>),
    /// The answer to [`Request::LoadImage`]: the image's name.
    Loaded(String),
    /// The answer to [`Request::Capture`]: a pcap file in base64.
    Captured(String),
    /// The answer to [`Request::Debug`]: the container's name.
    Started(String),
    /// The answer to [`Request::Apply`]: a line for each service.
    Changes(Vec<String>),
    /// The answer to [`Request::Events`], oldest first.
    Events(Vec<Event>),
    /// The answer to [`Request::Audit`], oldest first.
    Audit(Vec<Record>),
    /// The answer to [`Request::Images`].
    Images(Vec<ImageLine>),
    /// The answer to [`Request::Challenge`].
    Challenge(String),
    /// The answer to [`Request::Secrets`].
    Secrets(Vec<String>),
    /// Request was carried out.
    Done,
    /// Role is too low for the request.
    Forbidden(String),
    /// Request failed or was refused, with the reason.
    Error(String),
}

impl Response {
    /// The error that it is, if it is one.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Forbidden(why) | Self::Error(why) => Some(why),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_a_host_is_not_for_readers_and_is_written_down_without_secrets() {
        let read = |text: &str| serde_json::from_str::<Request>(text).unwrap();
        let status = read(r#"{"method":"status"}"#);
        assert!(status.role() == Role::Reader && !status.is_change());
        let secret = read(r#"{"method":"set-secret","name":"a","secret":"c3dvcmRmaXNo"}"#);
        assert!(secret.role() == Role::Admin && secret.is_change());
        assert!(!secret.for_audit().to_string().contains("c3dvcmRmaXNo"));
        let apply = read(r#"{"method":"apply","compose":"services: {}","try":60}"#);
        assert!(
            apply.role() == Role::Operator && apply.for_audit().to_string().contains("sha256:")
        );
        assert!(serde_json::from_str::<Request>(r#"{"method":"status","more":1}"#).is_err());
        let long = Request::RemoveImage { name: "x".repeat(5000) };
        assert!(long.for_audit().to_string().len() < 300);
        let changes = (0..100_000).map(|number| (number.to_string(), 1)).collect();
        let many = Request::Limits { shard: None, changes }.for_audit();
        assert!(many["method"] == "limits" && many.to_string().len() < 300, "{many}");
    }
}
