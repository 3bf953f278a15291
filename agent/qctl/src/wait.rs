//! `qctl apply --wait`: what was applied, until it runs and has proved itself, or was taken back.

use crate::client::Client;
use agent_core::status::{Container, Status};
use anyhow::{Result, bail};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Width of a progress bar, in characters.
const BAR: u64 = 24;

/// Waits, and says how far it is.
///
/// # Errors
/// A version is taken back, or the time is over.
pub fn wait(client: &mut Client, limit: Duration) -> Result<()> {
    let (start, mut line) = (Instant::now(), Line::default());
    loop {
        let status = client.status()?;
        let waits = match outlook(&status) {
            Outlook::Settled => {
                line.end();
                println!("all containers run and have proved themselves");
                return Ok(());
            }
            Outlook::Failed(why) => {
                line.end();
                bail!("{why}");
            }
            Outlook::Waits(waits) => waits,
        };
        if start.elapsed() >= limit {
            line.end();
            bail!("not within {} s: {waits}; it goes on without me", limit.as_secs());
        }
        line.say(&waits);
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Returns the containers or images that are waited for, or why a version was taken back; `None` if
/// settled.
pub fn unsettled(status: &Status) -> Option<String> {
    match outlook(status) {
        Outlook::Settled => None,
        Outlook::Waits(what) | Outlook::Failed(what) => Some(what),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outlook {
    Settled,
    /// Containers or images that are waited for.
    Waits(String),
    Failed(String),
}

fn outlook(status: &Status) -> Outlook {
    let taken_back =
        |it: &&Container| it.rollout.as_ref().is_some_and(|it| it.starts_with("taken back"));
    if let Some(it) = status.containers.iter().find(taken_back) {
        let why = it.rollout.as_deref().unwrap_or_default();
        return Outlook::Failed(format!("{}: {why}; qctl events and qctl logs say more", it.name));
    }
    if let Some(it) = status.containers.iter().find(|it| it.state.starts_with("failed (")) {
        return Outlook::Failed(format!(
            "{}: {}; qctl logs {} says more",
            it.name, it.state, it.name
        ));
    }
    let waits: Vec<String> = status
        .containers
        .iter()
        .filter(|it| !it.up || it.rollout.is_some())
        .map(|it| {
            let said = it.health.as_ref().filter(|_| it.state == "running").unwrap_or(&it.state);
            let rollout = it.rollout.as_ref().map_or(String::new(), |said| format!(", {said}"));
            format!("{} {said}{rollout}", it.name)
        })
        .collect();
    let images = status.problems.iter().filter_map(|problem| problem.strip_prefix("image "));
    let images: Vec<String> =
        images.map(|image| bar(image).unwrap_or_else(|| image.into())).collect();
    match (images.is_empty(), waits.is_empty()) {
        (true, true) => Outlook::Settled,
        (true, false) => Outlook::Waits(waits.join("; ")),
        // Who has no image waits for nothing else.
        (false, _) => Outlook::Waits(images.join("; ")),
    }
}

/// `NAME: 12 of 40 MiB`, with a bar.
fn bar(image: &str) -> Option<String> {
    let (name, far) = image.rsplit_once(": ")?;
    let (done, of) = far.strip_suffix(" MiB")?.split_once(" of ")?;
    let (done, of): (u64, u64) = (done.parse().ok()?, of.parse().ok()?);
    let full = (BAR * done.min(of) / of.max(1)) as usize;
    let (full, empty) = ("#".repeat(full), "-".repeat(BAR as usize - full));
    Some(format!("{name} [{full}{empty}] {far}"))
}

/// One line that changes, on a terminal; elsewhere a line each time that something is another.
#[derive(Debug, Default)]
struct Line(String);

impl Line {
    fn say(&mut self, text: &str) {
        if self.0 == text {
            return;
        }
        text.clone_into(&mut self.0);
        let mut out = std::io::stderr();
        let _ = match out.is_terminal() {
            true => write!(out, "\r{text}\x1b[K"),
            false => writeln!(out, "{text}"),
        };
    }

    fn end(&self) {
        if !self.0.is_empty() && std::io::stderr().is_terminal() {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &str, up: bool, rollout: Option<&str>) -> Status {
        let own = |text: &str| text.to_owned();
        let container = Container {
            name: "a".into(),
            state: state.into(),
            up,
            rollout: rollout.map(own),
            ..Container::default()
        };
        Status { containers: vec![container], ..Status::default() }
    }

    #[test]
    fn what_was_applied_settles_waits_or_fails() {
        assert_eq!(outlook(&status("running", true, None)), Outlook::Settled);
        assert_eq!(outlook(&status("stopped (0)", true, None)), Outlook::Settled);
        let waits = |state, up, rollout| match outlook(&status(state, up, rollout)) {
            Outlook::Waits(what) => what,
            other => panic!("{other:?}"),
        };
        // Between two starts of one that keeps dying.
        assert_eq!(waits("stopped (1)", false, None), "a stopped (1)");
        assert_eq!(waits("absent", false, Some("on trial")), "a absent, on trial");
        assert_eq!(waits("running", true, Some("on trial")), "a running, on trial");
        let failed = outlook(&status("running", true, Some("taken back: it ended with 4")));
        assert!(matches!(failed, Outlook::Failed(why) if why.contains("ended with 4")));
        let mut fetching = status("absent", false, None);
        fetching.problems = vec!["image r:5000/a@sha256:0: 10 of 40 MiB".into()];
        let Outlook::Waits(said) = outlook(&fetching) else { panic!("it waits for its image") };
        assert_eq!(
            said,
            format!("r:5000/a@sha256:0 [{}{}] 10 of 40 MiB", "#".repeat(6), "-".repeat(18))
        );
    }
}
