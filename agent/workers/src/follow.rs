//! The process that looks at where the desired state is, and hands on what it finds. It reaches the
//! network and nothing else; what it brings is judged by the agent.

use crate::{http_client, pull};
use agent_core::desired::{Config, ENVELOPE_TYPE};
use agent_core::limits::{DESIRED_LEN_MAX, DESIRED_PAUSE_MAX, DESIRED_TIMEOUT};
use agent_host::desired_exchange::DesiredPaths;
use agent_host::files::write_whole_bytes;
use agent_host::images::policy::Policy;
use agent_host::worker_file::WorkerReport;
use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;
use tokio::time::timeout;
use tracing::{info, warn};

/// Looks until it is ended.
///
/// # Errors
/// Its own files can't be written.
pub async fn run(config: &Config, credentials: Option<&Path>, paths: &DesiredPaths) -> Result<()> {
    let Some(url) = &config.url else { return Ok(()) };
    let (mut last, mut pause) = (Vec::new(), config.interval);
    loop {
        let found = match url.strip_prefix("oci://") {
            Some(name) => match timeout(DESIRED_TIMEOUT, artefact(credentials, name)).await {
                Ok(found) => found,
                Err(_) => Err(anyhow!("no answer within {} s", DESIRED_TIMEOUT.as_secs())),
            },
            None => get(config, url),
        };
        // A registry says what it likes.
        let found = found.with_context(|| url.clone());
        let report = WorkerReport::of(&found);
        match (found, &report.error) {
            (Ok(envelope), _) => {
                if envelope != last {
                    write_whole_bytes(&paths.envelope, &envelope)?;
                    info!("something new from {url}");
                    last = envelope;
                }
                pause = config.interval;
            }
            (Err(_), error) => {
                warn!("{}", error.as_deref().unwrap_or_default());
                pause = (pause * 2).min(DESIRED_PAUSE_MAX.max(config.interval));
            }
        }
        paths.report_file().write(&report)?;
        tokio::time::sleep(pause).await;
    }
}

async fn artefact(credentials: Option<&Path>, name: &str) -> Result<Vec<u8>> {
    let policy = Policy::read(credentials)?;
    pull::artefact(&policy, name, ENVELOPE_TYPE, DESIRED_LEN_MAX).await
}

fn get(config: &Config, url: &str) -> Result<Vec<u8>> {
    let own = agent_host::credentials::HostPaths::default().authorities();
    let own = std::fs::read(own).unwrap_or_default();
    let client = http_client::client(&[&own, config.authority.as_bytes()]);
    let client = client.timeout_global(Some(DESIRED_TIMEOUT));
    let mut request = ureq::Agent::new_with_config(client.build()).get(url);
    if let Some((name, password)) = &config.login {
        let basic = STANDARD.encode(format!("{name}:{password}"));
        request = request.header("Authorization", format!("Basic {basic}"));
    }
    let mut answer = request.call()?;
    let envelope = answer.body_mut().with_config().limit(DESIRED_LEN_MAX).read_to_vec();
    let envelope = envelope.context("the answer")?;
    ensure!(!envelope.is_empty(), "the answer is empty");
    Ok(envelope)
}
