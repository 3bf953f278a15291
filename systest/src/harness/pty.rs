//! A program at a terminal, with somebody who types.

use crate::harness::guest_clock::limit_under_load;
use anyhow::{Context, Result, ensure};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// Program at a pseudo-terminal.
pub struct Pty {
    master: File,
    /// Kept, so that what the program leaves behind can still be looked at.
    terminal: OwnedFd,
    program: Child,
    pieces: Receiver<Vec<u8>>,
    shown: String,
}

impl Pty {
    /// Starts a program at one of this size.
    ///
    /// # Errors
    /// There is no terminal, or no such program.
    pub fn start(program: &Command, rows: u16, columns: u16) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("open a terminal")?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let terminal = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        // Its session's terminal: it hears of another size.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(program.get_program()).args(program.get_args());
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(directory) = program.get_current_dir() {
            command.current_dir(directory);
        }
        command.stdin(terminal.try_clone()?);
        command.stdout(terminal.try_clone()?).stderr(terminal.try_clone()?);
        let master = File::from(master);
        let (give, pieces) = sync_channel(64);
        let mut from = master.try_clone()?;
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(len @ 1..) = from.read(&mut piece) {
                if give.send(piece[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        tcsetwinsize(&terminal, winsize(rows, columns))?;
        let program = command.spawn().context("start setsid")?;
        Ok(Self { master, terminal, program, pieces, shown: String::new() })
    }

    /// Writes keys to the terminal.
    ///
    /// # Errors
    /// The terminal's.
    pub fn keys(&mut self, keys: &str) -> Result<()> {
        self.master.write_all(keys.as_bytes()).context("type")
    }

    /// Pulls at the window.
    ///
    /// # Errors
    /// The terminal's.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        tcsetwinsize(&self.master, winsize(rows, columns)).context("resize")
    }

    /// Whether this comes within the limit; what came with it is not looked at again.
    pub fn shows(&mut self, text: &str, limit: Duration) -> bool {
        let start = Instant::now();
        loop {
            if let Some(at) = self.shown.find(text) {
                self.shown.drain(..at + text.len());
                return true;
            }
            let left = limit_under_load(limit).saturating_sub(start.elapsed());
            let Ok(piece) = self.pieces.recv_timeout(left) else { return false };
            self.shown += &String::from_utf8_lossy(&piece);
        }
    }

    /// Waits for this.
    ///
    /// # Errors
    /// It does not come.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let shows = self.shows(text, limit);
        ensure!(shows, "not shown within {} s: {text:?}, but {:?}", limit.as_secs(), self.shown);
        Ok(())
    }

    /// Waits for the program's end and returns its exit status.
    ///
    /// # Errors
    /// It does not within the limit.
    pub fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.program.try_wait()? {
                return Ok(status);
            }
            ensure!(start.elapsed() < limit_under_load(limit), "it does not end; {:?}", self.shown);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether lines are edited and echoed, as at every terminal that nobody changed.
    ///
    /// # Errors
    /// The terminal's.
    pub fn is_plain(&self) -> Result<bool> {
        let modes = tcgetattr(&self.terminal)?.local_modes;
        Ok(modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG))
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn winsize(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
