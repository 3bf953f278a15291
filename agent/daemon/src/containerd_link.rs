//! Connection to containerd: made, watched, and made again after a while once it was lost.

use crate::containerd::Containerd;
use agent_core::limits::CONTAINERD_RETRY;
use anyhow::Result;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Client of containerd, as long as there is one, and the tasks that wake the main loop.
pub struct ContainerdLink {
    socket: PathBuf,
    /// Client; none while containerd does not answer.
    pub client: Option<Containerd>,
    /// Wakes the main loop before its next second.
    pub wake: Arc<Notify>,
    retrying: Option<JoinHandle<()>>,
    watching: Option<JoinHandle<()>>,
}

impl ContainerdLink {
    /// Link that has not been connected yet.
    pub fn new(socket: PathBuf) -> Self {
        let wake = Arc::new(Notify::new());
        Self { socket, client: None, wake, retrying: None, watching: None }
    }

    /// Connects, takes over images that an earlier agent left and that `may_run` allows by name and
    /// digest, and watches events from now on.
    ///
    /// # Errors
    /// containerd does not answer, or refuses.
    pub async fn connect(&mut self, may_run: impl Fn(&str, &str) -> bool) -> Result<Containerd> {
        let mut client = Containerd::connect(&self.socket).await?;
        client.adopt(may_run).await?;
        let (watcher, wake) = (client.watcher(), self.wake.clone());
        let watching = tokio::spawn(async move {
            watcher.watch(|| wake.notify_one()).await;
            // That containerd went away is something that happened, too.
            wake.notify_one();
        });
        if let Some(before) = self.watching.replace(watching) {
            before.abort();
        }
        Ok(client)
    }

    /// Gives the client up and wakes the main loop after a while; one such timer is enough.
    pub fn lose(&mut self) {
        self.client = None;
        if self.retrying.as_ref().is_some_and(|retry| !retry.is_finished()) {
            return;
        }
        let wake = self.wake.clone();
        self.retrying = Some(tokio::spawn(async move {
            tokio::time::sleep(CONTAINERD_RETRY).await;
            wake.notify_one();
        }));
    }
}
