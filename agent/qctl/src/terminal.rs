//! This side of a container's terminal: the one that qctl runs in.

use crate::client::Client;
use crate::hosts::Target;
use agent_core::protocol::Request;
use agent_core::protocol::types::Size;
use agent_host::terminal::KEYS_LEN_MAX;
use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{Read, stdin};

/// Returns rows and columns of the terminal at standard input.
///
/// # Errors
/// Standard input is none.
pub fn size() -> Result<Size> {
    let size = tcgetwinsize(stdin()).context("standard input is no terminal; leave -t out")?;
    Ok(Size { rows: size.ws_row, columns: size.ws_col })
}

/// Its keys go to a container, all of them, until this is dropped: then it is as it was.
#[derive(Debug)]
pub struct Keys(Termios);

impl Keys {
    /// From now on.
    ///
    /// # Errors
    /// Standard input is no terminal, or the agent is not reached.
    pub fn start(target: &Target, name: &str) -> Result<Self> {
        let (mut client, name) = (Client::connect(target)?, name.to_owned());
        let before = tcgetattr(stdin()).context("read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw).context("set the terminal")?;
        let keys = Self(before);
        std::thread::spawn(move || {
            let mut typed = [0; KEYS_LEN_MAX];
            while let Ok(len @ 1..) = stdin().read(&mut typed) {
                let keys = STANDARD.encode(&typed[..len]);
                // What keys come to while the program reads none is gone, as at every terminal.
                let _ = client.done(&Request::Type { name: name.clone(), keys });
            }
        });
        Ok(keys)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.0);
    }
}
