//! `qctl api`: a request of the HTTP API with the signature that it needs, for scripts.

use crate::client::Client;
use crate::terminal_text::printable;
use agent_core::limits::REQUEST_LEN_MAX;
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Api {
    /// GET, PUT, POST or DELETE.
    method: String,
    /// Path and query, as in /v1/compose?dry_run=true; GET /v1/openapi.json has them all.
    target: String,
    /// File with the body; - is standard input.
    file: Option<PathBuf>,
    /// Content type of the body.
    #[arg(long, default_value = "application/json")]
    content_type: String,
}

/// Sends it, and prints the answer.
///
/// # Errors
/// The file can't be read, or the host refuses.
pub fn send(client: &mut Client, wanted: &Api) -> Result<()> {
    ensure!(wanted.target.starts_with('/'), "{}: a path begins with /", wanted.target);
    let mut body = Vec::new();
    if let Some(path) = &wanted.file {
        let source: Box<dyn Read> = match path.to_str() {
            Some("-") => Box::new(std::io::stdin()),
            _ => Box::new(File::open(path).with_context(|| format!("open {}", path.display()))?),
        };
        source.take(REQUEST_LEN_MAX + 1).read_to_end(&mut body).context("read the body")?;
        let len = body.len() as u64;
        ensure!(len <= REQUEST_LEN_MAX, "the body: at most {REQUEST_LEN_MAX} bytes");
    }
    let method = wanted.method.to_ascii_uppercase();
    let answer = client.api(&method, &wanted.target, &wanted.content_type, &body)?;
    match std::io::stdout().is_terminal() {
        true => print!("{}", printable(&answer)),
        false => print!("{answer}"),
    }
    Ok(())
}
