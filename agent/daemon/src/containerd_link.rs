//! Connection to containerd: made, watched, and made again after a while once it was lost; and the
//! images that containers may be made of.

use crate::containerd::Containerd;
use agent_core::limits::CONTAINERD_RETRY;
use oci_spec::image::ImageConfiguration;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Client of containerd, as long as there is one, and the tasks that wake the main loop.
pub struct ContainerdLink {
    /// Path of containerd's socket.
    pub socket: PathBuf,
    /// Client; none while containerd does not answer.
    pub client: Option<Containerd>,
    /// Configurations of images that are in containerd and may run, by name.
    pub images: BTreeMap<String, Arc<ImageConfiguration>>,
    /// Wakes the main loop before its next second.
    pub wake: Arc<Notify>,
    retrying: Option<JoinHandle<()>>,
    watching: Option<JoinHandle<()>>,
}

impl ContainerdLink {
    /// Link that has not been connected yet.
    pub fn new(socket: PathBuf) -> Self {
        let (wake, images) = (Arc::new(Notify::new()), BTreeMap::new());
        Self { socket, client: None, images, wake, retrying: None, watching: None }
    }

    /// Takes a client that is connected, and watches containerd's events from now on.
    pub fn connected(&mut self, client: Containerd) {
        let (watcher, wake) = (client.clone(), self.wake.clone());
        let watching = tokio::spawn(async move {
            watcher.watch(|| wake.notify_one()).await;
            // That containerd went away is something that happened, too.
            wake.notify_one();
        });
        if let Some(before) = self.watching.replace(watching) {
            before.abort();
        }
        self.client = Some(client);
    }

    /// Returns true if a container can be made of the image.
    pub fn has_image(&self, name: &str) -> bool {
        self.images.contains_key(name)
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
