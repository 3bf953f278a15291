//! The agent over the network: HTTP and JSON behind TLS with certificates on both sides. A process
//! of its own that reaches no containerd and no cgroup: it passes on what is asked, with signature
//! and certificate, and the agent verifies both and decides.

/// Connection of an API client: TLS, its identity, HTTP/1.1 requests and streams.
pub mod connection;
/// Agent status as Prometheus metrics.
pub mod metrics;
/// Its configuration, and certificates.
pub mod tls;

use crate::api::tls::server_config;
use agent_core::limits::{API_CONFIG_CHECK, API_CONNECTIONS_MAX, API_HANDSHAKES_MAX};
use agent_host::api_config::{self, Config};
use anyhow::{Context, Result};
use rustls::ServerConfig;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tracing::{info, warn};

/// Where everything is.
#[derive(Debug, Clone)]
pub struct ApiPaths {
    /// Configuration file of the API, from `qctl ca host`.
    pub config: PathBuf,
    /// The agent's socket.
    pub agent: PathBuf,
    /// A file of the image: the clock is never taken for earlier than it was made.
    pub image: PathBuf,
}

/// A configuration in force, and when its file was written.
struct Loaded {
    tls: Arc<ServerConfig>,
    written: Option<SystemTime>,
}

impl ApiPaths {
    fn written(&self) -> Option<SystemTime> {
        self.config.metadata().and_then(|file| file.modified()).ok()
    }

    fn load(&self) -> Result<(Config, Loaded)> {
        let written = self.written();
        let config = api_config::Config::read(&self.config)?;
        let tls = server_config(&config, &self.image)
            .with_context(|| self.config.display().to_string())?;
        Ok((config, Loaded { tls: Arc::new(tls), written }))
    }
}

/// Serves until it is ended. Another configuration is in force within a second; connections of the
/// one before end. One that
/// can't be read changes nothing. Only another address needs another start. Ends when the
/// configuration is taken away.
///
/// # Errors
/// The first configuration can't be read, or its address not be had.
pub async fn run(paths: ApiPaths) -> Result<()> {
    let (config, mut loaded) = paths.load()?;
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("listen at {}", config.listen))?;
    info!("listens at {}", config.listen);
    let paths = Arc::new(paths);
    let handshakes = Arc::new(Semaphore::new(API_HANDSHAKES_MAX));
    let room = Arc::new(Semaphore::new(API_CONNECTIONS_MAX));
    // Whoever came in with other certificates goes when they do.
    let (renewed, in_force) = watch::channel(());
    loop {
        // Connections that are held end with their authority, also when nobody else comes.
        let accepted = tokio::select! {
            accepted = listener.accept() => Some(accepted),
            () = tokio::time::sleep(API_CONFIG_CHECK) => None,
        };
        match paths.written() {
            None => return Ok(()),
            written if written == loaded.written => {}
            _ => match paths.load() {
                Ok((_, new)) => {
                    info!("certificates are read anew");
                    loaded = new;
                    let _ = renewed.send(());
                }
                Err(error) => warn!("{error:#}; the ones before stay in force"),
            },
        }
        let (stream, peer) = match accepted {
            None => continue,
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) => {
                warn!("accept: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        // Who comes when it is full waits no longer than it takes to say no.
        let Ok(handshake) = handshakes.clone().try_acquire_owned() else { continue };
        let (tls, paths, room) = (loaded.tls.clone(), paths.clone(), room.clone());
        let mut over = in_force.clone();
        over.mark_unchanged();
        tokio::spawn(async move {
            let served = async {
                let stream = connection::handshake(stream, tls).await?;
                drop(handshake);
                let _room = room.try_acquire().context("there are too many connections")?;
                connection::connection(stream, &paths).await
            };
            let ended = tokio::select! {
                ended = served => ended,
                _ = over.changed() => Ok(()),
            };
            if let Err(error) = ended {
                info!("{peer}: {error:#}");
            }
        });
    }
}
