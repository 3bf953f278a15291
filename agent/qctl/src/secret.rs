//! `qctl secret`: sets, lists and removes secrets.

use crate::client::{Client, unexpected};
use agent_core::protocol::{Request, Response};
use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use std::io::Read;
use std::path::PathBuf;
use std::sync::OnceLock;

#[derive(Debug, Subcommand)]
pub enum Secret {
    /// Keep a secret on the host, sealed, and give it to the containers that use it.
    Set {
        /// Name of the secret to set.
        name: String,
        /// A file with it; standard input if left out.
        file: Option<PathBuf>,
    },
    /// The names of secrets.
    Ls,
    /// Forget a secret that no container uses.
    Rm {
        /// Name of the secret to remove.
        name: String,
    },
}

/// Standard input, which is there once for all hosts.
pub fn given() -> Result<Vec<u8>> {
    static GIVEN: OnceLock<Vec<u8>> = OnceLock::new();
    if let Some(given) = GIVEN.get() {
        return Ok(given.clone());
    }
    let mut secret = Vec::new();
    std::io::stdin().read_to_end(&mut secret).context("read standard input")?;
    Ok(GIVEN.get_or_init(|| secret).clone())
}

pub fn secret(client: &mut Client, what: &Secret) -> Result<()> {
    match what {
        Secret::Set { name, file } => {
            let secret = match file {
                Some(path) => {
                    std::fs::read(path).with_context(|| format!("read {}", path.display()))?
                }
                None => given()?,
            };
            ensure!(!secret.is_empty(), "the secret is empty");
            let secret = STANDARD.encode(secret);
            client.done(&Request::SetSecret { name: name.clone(), secret })
        }
        Secret::Rm { name } => client.done(&Request::RemoveSecret { name: name.clone() }),
        Secret::Ls => {
            let Response::Secrets(names) = client.ask(&Request::Secrets {})? else {
                return Err(unexpected("names of secrets"));
            };
            names.iter().for_each(|name| println!("{name}"));
            Ok(())
        }
    }
}
