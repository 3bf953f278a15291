//! Somebody sits at the terminal of a container of his own: on this machine, with the image's
//! containerd, and over the network ([`crate::stories::fleet::api`]).

use crate::harness::booted::Verdict;
use crate::harness::checkout::ImageFiles;
use crate::harness::guest_clock::limit_under_load;
use crate::harness::native_host::{IMAGE, Rig};
use crate::harness::pty::Pty;
use anyhow::{Result, ensure};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A container's start, or what a key does, in a guest under TCG beside another machine.
const ANSWER: Duration = Duration::from_secs(90);

/// Arguments of qctl for a terminal at the test program, in the place of a service.
const WORDS: [&str; 7] = ["debug", "-it", "--of", "lines", "--", "/lines", "terminal"];

/// Sits at it, in all ways that a terminal has; `qctl` is how it is begun.
///
/// # Errors
/// It is no terminal.
pub fn sit(qctl: &Command) -> Result<()> {
    let mut pty = Pty::start(qctl, 31, 101)?;
    pty.wait_for("all terminals: true\r\n", ANSWER)?;
    type_until(&mut pty, "hello\r", "heard hello\r\n")?;
    type_until(&mut pty, "size\r", "size (31, 101)\r\n")?;
    pty.resize(42, 142)?;
    type_until(&mut pty, "size\r", "size (42, 142)\r\n")?;
    // It goes to the program, which is a container's first and does not end of it.
    pty.keys("\x03")?;
    type_until(&mut pty, "still\r", "heard still\r\n")?;
    pty.keys("end 3\r")?;
    pty.wait_for("ended with 3", ANSWER)?;
    let status = pty.end(ANSWER)?;
    ensure!(status.code() == Some(1), "qctl: {status}");
    ensure!(pty.is_plain()?, "the terminal is not as it was");
    Ok(())
}

/// Keys go to the program once qctl knows that it runs; a new size is told a moment later.
fn type_until(pty: &mut Pty, keys: &str, answer: &str) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < limit_under_load(ANSWER) {
        pty.keys(keys)?;
        if pty.shows(answer, Duration::from_secs(2)) {
            return Ok(());
        }
    }
    pty.wait_for(answer, Duration::ZERO)
}

/// Proves that `qctl debug -it` gives a container's program a terminal.
pub fn somebody_sits_at_a_container(image: &ImageFiles) -> Result<Verdict> {
    let service = format!(
        "services:\n  lines:\n    image: {IMAGE}\n    command: [fail]\n    ulimits: {{nofile: 1024}}\n    restart: \"no\"\n"
    );
    let rig = Rig::start(image, &service)?;
    sit(&rig.command_line(&WORDS))?;
    let output = rig.command_line(&WORDS).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("no terminal; leave -t out"), "{said}");
    let left = std::fs::read_dir(rig.file("terminals"))?.count();
    let programs = rig.processes()?.values().filter(|line| line.contains("/lines")).count();
    ensure!((left, programs) == (0, 0), "left: {left} pipes, {programs} programs");
    let audit = rig.qctl(&["audit"])?;
    ensure!(audit.contains("\"terminal\":{") && !audit.contains("keys"), "{audit}");
    Ok(Verdict::Proved(
        "a container's program had a terminal of the size that qctl's has, also when that changed; keys reached it, ^C too; \
         qctl ended as it did, and left its own terminal as it was, and nothing behind"
            .into(),
    ))
}
