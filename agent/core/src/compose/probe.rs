//! Probe of a container: what is asked, and what must be answered.

use crate::compose::metric_check::Check;
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
        /// Takes an answer of any status, as curl does without `-f`.
        #[serde(default)]
        any_status: bool,
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
