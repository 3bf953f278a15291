//! `quietcore-exporter`: serves the engine's counters page to Prometheus.

use abi::shards::alive_pages;
use anyhow::{Context, Result};
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use clap::Parser;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Serve the engine's counters at /metrics, and /healthz.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The directory of the engine's pages, or of its shards' directories.
    #[arg(long)]
    pages: PathBuf,
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
}

/// Nanoseconds of `CLOCK_MONOTONIC`, which containers share with the host.
fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// The pages are opened for every request: an engine that restarts keeps the file, a missing one is
/// said.
fn scrape(root: &Path) -> String {
    containers::metrics::render(&alive_pages(root, now_ns()))
}

async fn serve(arguments: Arguments) -> Result<()> {
    let pages = Arc::new(arguments.pages);
    let metrics = move || {
        let text = scrape(&pages);
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    let router =
        Router::new().route("/metrics", get(metrics)).route("/healthz", get(async || "ok\n"));
    let listener = tokio::net::TcpListener::bind(arguments.listen).await;
    let listener = listener.with_context(|| format!("listen on {}", arguments.listen))?;
    println!("exporter: metrics on http://{}/metrics", arguments.listen);
    let stop = async {
        if let Ok(mut terminate) =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        {
            terminate.recv().await;
        }
    };
    Ok(axum::serve(listener, router).with_graceful_shutdown(stop).await?)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(serve(arguments)))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quietcore-exporter: {error:#}");
            ExitCode::FAILURE
        }
    }
}
