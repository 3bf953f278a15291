//! A shell in the guest, on the debug profile's virtio console.

use crate::harness::guest_clock::GuestClock;
use crate::harness::vm::Vm;
use anyhow::{Context, Result, bail};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of a line that the guest's terminal takes.
const LINE_MAX: usize = 2000;

/// Time that a shell which is there may take for an answer.
const ANSWER: Duration = Duration::from_secs(60);

/// Line that the guest's unit writes before it starts the shell.
const BANNER: &str = "quietcore-shell: here";

/// A command's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Its output, both streams.
    pub text: String,
}

/// Shell in the guest, on a virtio console.
pub struct Shell {
    stream: UnixStream,
    pending: Vec<u8>,
    commands: u32,
    clock: GuestClock,
    /// Whether the other end is gone.
    is_closed: bool,
}

impl Shell {
    /// Connects and waits until the shell says that it is there. Nothing is written before: the
    /// firmware reads this console too, and takes what comes for keys that edit the kernel's
    /// command line.
    ///
    /// # Errors
    /// It does not within the limit.
    pub fn connect(vm: &mut Vm, limit: Duration) -> Result<Self> {
        let mut shell = Self::open(vm)?;
        shell.await_boot(vm, limit)?;
        Ok(shell)
    }

    fn open(vm: &mut Vm) -> Result<Self> {
        let stream = vm.connect("shell.sock")?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let clock = vm.clock.clone();
        Ok(Self { stream, pending: Vec::new(), commands: 0, clock, is_closed: false })
    }

    /// Connects to a guest that goes on from a snapshot: its shell waits already, and its clock
    /// stood still since then.
    ///
    /// # Errors
    /// It does not answer.
    pub fn resume(vm: &mut Vm) -> Result<Self> {
        let mut shell = Self::open(vm)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        shell.send(&format!("date --set=@{now} > /dev/null; echo hello-$((20 + 22))\n"))?;
        shell.read_until("hello-42", ANSWER).with_context(|| vm.console_end())?;
        Ok(shell)
    }

    /// Waits until the shell of the next boot is there.
    ///
    /// # Errors
    /// It is not within the limit.
    pub fn await_boot(&mut self, vm: &mut Vm, limit: Duration) -> Result<()> {
        let deadline = self.clock.deadline(limit);
        while self.read_until(BANNER, Duration::from_secs(1)).is_err() {
            if vm.has_ended() || self.is_closed {
                bail!("QEMU ended; the console:\n{}", vm.console_end());
            }
            if deadline.is_over() {
                bail!("no shell after {}; the console:\n{}", deadline.name(), vm.console_end());
            }
        }
        // systemd resets the terminal once more before the shell reads from it, and what came is
        // lost.
        while !deadline.is_over() {
            self.send("stty -echo; echo hello-$((20 + 22))\n")?;
            if self.read_until("hello-42", Duration::from_secs(2)).is_ok() {
                return Ok(());
            }
        }
        bail!("the shell does not answer; the console:\n{}", vm.console_end())
    }

    /// Whether the guest has started anew since it was last asked something.
    pub fn has_booted(&self) -> bool {
        String::from_utf8_lossy(&self.pending).contains(BANNER)
    }

    fn send(&mut self, text: &str) -> Result<()> {
        self.stream.write_all(text.as_bytes()).context("write to the guest")
    }

    /// Reads up to and with `marker`; returns what stood before it.
    fn read_until(&mut self, marker: &str, limit: Duration) -> Result<String> {
        let deadline = self.clock.deadline(limit);
        let mut buffer = [0; 65536];
        loop {
            let text = String::from_utf8_lossy(&self.pending).replace('\r', "");
            if let Some((before, after)) = text.split_once(marker) {
                let (before, after) = (before.to_string(), after.as_bytes().to_vec());
                self.pending = after;
                return Ok(before);
            }
            if marker != BANNER && text.contains(BANNER) {
                bail!("the guest has started anew");
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.is_closed = true;
                    bail!("the guest's console is gone")
                }
                Ok(len) => self.pending.extend_from_slice(&buffer[..len]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
            if deadline.is_over() {
                bail!("the guest did not answer within {}; so far: {text}", deadline.name());
            }
        }
    }

    /// Runs a script with bash.
    ///
    /// # Errors
    /// The guest does not answer within the limit.
    pub fn run(&mut self, script: &str, limit: Duration) -> Result<Output> {
        self.commands += 1;
        let name = format!("/run/command-{}", self.commands);
        for (index, piece) in script.as_bytes().chunks(LINE_MAX / 4).enumerate() {
            let redirect = if index == 0 { ">" } else { ">>" };
            let escaped: String = piece.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            self.send(&format!("printf '{escaped}' {redirect} {name}\n"))?;
        }
        let number = self.commands;
        self.send(&format!("bash {name} < /dev/null > {name}.out 2>&1; echo code=$?=; cat {name}.out; echo end-of-$(({number} + 0))-output\n"))?;
        let text = self.read_until(&format!("end-of-{number}-output"), limit)?;
        let (code, text) = text
            .split_once("code=")
            .and_then(|(_, rest)| rest.split_once("=\n"))
            .context("the guest's answer has no exit code")?;
        Ok(Output { code: code.parse()?, text: text.to_string() })
    }

    /// Runs a script that must succeed.
    ///
    /// # Errors
    /// It does not; the error has its output.
    pub fn check(&mut self, script: &str, limit: Duration) -> Result<String> {
        let output = self.run(script, limit)?;
        if output.code != 0 {
            bail!("in the guest, `{script}` ended with {}: {}", output.code, output.text);
        }
        Ok(output.text)
    }

    /// `qctl status` as JSON.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn status(&mut self) -> Result<serde_json::Value> {
        let text = self.check("qctl status -o json", Duration::from_secs(30))?;
        serde_json::from_str(&text).context("qctl's JSON")
    }

    /// Waits until the status is as wanted.
    ///
    /// # Errors
    /// It is not within the limit; the error has the last one.
    pub fn wait_status(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<serde_json::Value> {
        let deadline = self.clock.deadline(limit);
        loop {
            let status = self.status();
            match status {
                Ok(status) if wanted(&status) => return Ok(status),
                Err(error) if self.has_booted() => return Err(error),
                other if deadline.is_over() => {
                    let last = other.map_or_else(|error| format!("{error:#}"), |it| it.to_string());
                    bail!("not within {}: {what}; the last status: {last}", deadline.name())
                }
                _ => std::thread::sleep(Duration::from_millis(500)),
            }
        }
    }
}
