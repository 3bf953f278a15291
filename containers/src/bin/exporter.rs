//! `quietcore-exporter`: serves the engine's counters page to Prometheus.

use abi::counters::{CountersPage, PAGE_WORDS};
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
    /// The engine's counters page.
    #[arg(long)]
    counters: PathBuf,
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
}

/// Nanoseconds of `CLOCK_MONOTONIC`, which containers share with the host.
fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// The page is opened for every request: an engine that restarts keeps the file, a missing one is said.
fn scrape(path: &Path) -> String {
    match CountersPage::open(path) {
        Ok(page) if page.is_alive(now_ns()) => containers::metrics::render(&page),
        _ => containers::metrics::render_down(),
    }
}

async fn serve(arguments: Arguments) -> Result<()> {
    let counters = Arc::new(arguments.counters);
    let metrics = move || {
        let text = scrape(&counters);
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    let router =
        Router::new().route("/metrics", get(metrics)).route("/healthz", get(async || "ok\n"));
    let listener = tokio::net::TcpListener::bind(arguments.listen).await;
    let listener = listener.with_context(|| format!("listen on {}", arguments.listen))?;
    println!(
        "exporter: a page of {} bytes, metrics on http://{}/metrics",
        PAGE_WORDS * 8,
        arguments.listen
    );
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
