//! QEMU's machine protocol: one command after the other, with its answer (docs/interop/qmp-spec.rst
//! of QEMU 10.0).

use crate::harness::vm::Vm;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Connection to QEMU's machine protocol (QMP).
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects, and leaves the negotiation behind.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn connect(vm: &mut Vm) -> Result<Self> {
        let mut qmp = Self { stream: BufReader::new(vm.connect("qmp.sock")?) };
        qmp.read()?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).context("QEMU's answer")? == 0 {
            bail!("QEMU ended");
        }
        serde_json::from_str(&line).context("QEMU's answer")
    }

    /// Executes a command; returns what it returns.
    ///
    /// # Errors
    /// QEMU refuses it, or is gone.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{line}").with_context(|| command.to_owned())?;
        loop {
            let answer = self.read().with_context(|| command.to_owned())?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU, {command}: {}", error["desc"]);
            }
            if let Some(returned) = answer.get("return") {
                return Ok(returned.clone());
            }
        }
    }

    /// Repeats a command until a member of its answer is one of these; returns which.
    ///
    /// # Errors
    /// QEMU refuses it, or is gone.
    pub fn wait(&mut self, command: &str, member: &str, wanted: &[&str]) -> Result<String> {
        loop {
            let answer = self.execute(command, json!({}))?;
            let found = answer[member].as_str().unwrap_or_default();
            if wanted.contains(&found) {
                return Ok(found.to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
