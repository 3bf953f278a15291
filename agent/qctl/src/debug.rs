//! `qctl debug`: a container that is thrown away when its program ends, with an image of tools or
//! in a service's place, and at a terminal if one wants.

use crate::apply_args::duration;
use crate::client::{Client, unexpected};
use crate::hosts::{self, Target};
use crate::terminal::{self, Keys};
use agent_core::instance::DEBUG;
use agent_core::log_query::Query;
use agent_core::protocol::{Request, Response};
use agent_host::journalctl::journalctl;
use agent_host::terminal::{directory, screen};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_yaml_ng::{Mapping, Value};
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// Lines of a program that has ended are there within this.
const LAST_LINES: Duration = Duration::from_secs(2);
/// Time to wait for the last terminal output of an ended program; shorter than `LAST_LINES`, as it
/// does not pass the journal of systemd.
const LAST_SHOWN: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub struct Debug {
    /// Run this image.
    #[arg(long, required_unless_present_any = ["of", "end"])]
    image: Option<String>,
    /// Run in the place of this service: with its user, volumes, secrets, environment and limits,
    /// and its image unless
    /// --image names another.
    #[arg(long)]
    of: Option<String>,
    /// Sit at its terminal: keys go to the program, all of them, and what it shows is kept nowhere.
    #[arg(long, short = 't', visible_short_alias = 'i', overrides_with = "tty")]
    tty: bool,
    /// Time limit, as in 60s or 10m; at most an hour.
    #[arg(long, default_value = "10m", value_parser = duration)]
    time: Duration,
    /// Throw this one away instead of starting one.
    #[arg(long, conflicts_with_all = ["image", "of", "tty", "command"])]
    end: Option<String>,
    /// The program and its arguments; the image's own if left out.
    #[arg(last = true)]
    command: Vec<String>,
}

/// Starts one, shows what it writes, and ends with its status.
pub fn run(target: &Target, wanted: &Debug) -> Result<()> {
    let terminal = wanted.tty.then(terminal::size).transpose()?;
    let mut client = Client::connect(target)?;
    if let Some(name) = &wanted.end {
        return client.done(&Request::EndDebug { name: name.clone() });
    }
    let of = wanted.of.as_ref().map(|name| declared(&mut client, name)).transpose()?;
    let (of, mut file) = of.unwrap_or_default();
    let services = Mapping::from_iter([("debug".into(), service(of, wanted).into())]);
    file.insert("services".into(), services.into());
    let compose = serde_yaml_ng::to_string(&file)?;
    // Heard once there is something to end.
    let signals = Signals::block()?;
    let request = Request::Debug { compose, seconds: wanted.time.as_secs(), terminal };
    let Response::Started(name) = client.ask(&request)? else {
        return Err(unexpected("a container's name"));
    };
    eprintln!("{name}: on housekeeping cores, for {} s at most", wanted.time.as_secs());
    let ended = match wanted.tty {
        true => shown(target, &name),
        false => lines(target, &name),
    };
    let ended = ended.and_then(|pieces| follow(target, &mut client, &name, &signals, &pieces));
    // Its time may be over.
    let _ = client.done(&Request::EndDebug { name: name.clone() });
    match ended? {
        0 => Ok(()),
        status => bail!("{name}: ended with {status}"),
    }
}

/// Returns a declared service, and the declared compose file without its services.
fn declared(client: &mut Client, name: &str) -> Result<(Mapping, Mapping)> {
    let Response::Declared(declared) = client.ask(&Request::Declared {})? else {
        return Err(unexpected("what is declared"));
    };
    let mut declared: Value = serde_yaml_ng::from_str(&declared)?;
    declared.apply_merge()?;
    let Value::Mapping(mut file) = declared else { bail!("what is declared is no mapping") };
    let services = file.remove("services");
    let found = services.as_ref().and_then(|services| services.get(name)?.as_mapping());
    Ok((found.cloned().with_context(|| format!("there is no service {name}"))?, file))
}

/// The service that is run once, in the place of another one.
fn service(mut service: Mapping, wanted: &Debug) -> Mapping {
    // What is done with a service while it runs is not done with this; what it has, it has.
    for key in ["restart", "depends_on", "healthcheck", "container_name", "profiles"] {
        service.remove(key);
    }
    let parts =
        [("deploy", &["resources"][..]), ("x-quietcore", &["engine_pages", "hugepages"][..])];
    for (key, kept) in parts {
        if let Some(Value::Mapping(keys)) = service.get_mut(key) {
            keys.retain(|key, _| key.as_str().is_some_and(|key| kept.contains(&key)));
        }
    }
    if let Some(image) = &wanted.image {
        service.insert("image".into(), image.as_str().into());
    }
    if !wanted.command.is_empty() {
        let words = |words: &[String]| {
            Value::from(words.iter().map(|word| Value::from(word.as_str())).collect::<Vec<_>>())
        };
        service.insert("entrypoint".into(), words(&wanted.command[..1]));
        service.insert("command".into(), words(&wanted.command[1..]));
    }
    service
}

/// Shows what it writes until it has ended; its status.
fn follow(
    target: &Target,
    client: &mut Client,
    name: &str,
    signals: &Signals,
    from: &Pieces,
) -> Result<u32> {
    let (mut ended, mut said, mut keys) = (None, String::new(), None);
    loop {
        match signals.pending_signal()? {
            None => {}
            Some(Signal::SIGWINCH) if from.is_terminal => {
                let size = Some(terminal::size()?);
                client.done(&Request::Terminal { name: name.into(), size })?;
            }
            Some(Signal::SIGWINCH) => {}
            Some(signal) => bail!("{name}: thrown away, after {signal}"),
        }
        match from.pieces.recv_timeout(Duration::from_millis(100)) {
            Ok(bytes) => {
                if from.is_terminal && keys.is_none() {
                    keys = Some(Keys::start(target, name)?);
                }
                std::io::stdout().write_all(&bytes)?;
                std::io::stdout().flush()?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(100)),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some((status, at)) = ended {
            let at: Instant = at;
            if at.elapsed() > if from.is_terminal { LAST_SHOWN } else { LAST_LINES } {
                return Ok(status);
            }
            continue;
        }
        let status = client.status()?;
        let found = status.containers.iter().find(|container| container.name == name);
        let found = found.with_context(|| format!("{name}: its time is over"))?;
        let ended_with = found.state.strip_prefix("stopped (").and_then(|it| it.strip_suffix(')'));
        if let Some(status) = ended_with {
            // A reason may stand behind it.
            let status = status.split(',').next().unwrap_or_default();
            ended = Some((status.parse().context("its status")?, Instant::now()));
        }
        if from.is_terminal && keys.is_none() && found.state == "running" {
            keys = Some(Keys::start(target, name)?);
        }
        let about = |about: &str| status.problems.iter().find(|it| it.starts_with(about));
        let broken = [format!("container {name}: "), format!("secrets of {name}: ")];
        if let Some(why) = broken.iter().find_map(|it| about(it)) {
            bail!("{why}");
        }
        let image = about(&format!("image {}: ", found.image)).filter(|it| **it != said);
        if let Some(waits) = image {
            ensure!(is_on_its_way(waits), "{waits}");
            eprintln!("{waits}");
            said.clone_from(waits);
        }
    }
}

/// Whether what is said of an image is how far it is.
fn is_on_its_way(problem: &str) -> bool {
    [": is asked for", ": is being unpacked", " MiB"].iter().any(|end| problem.ends_with(end))
}

/// Signals read from a signalfd: SIGINT, SIGTERM and SIGHUP end this program, SIGWINCH means a new
/// terminal size.
struct Signals(SignalFd);

impl Signals {
    fn block() -> Result<Self> {
        let mut mask = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGWINCH]
            .into_iter()
            .for_each(|it| mask.add(it));
        mask.thread_block().context("block signals")?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        Ok(Self(signals.context("hear signals")?))
    }

    fn pending_signal(&self) -> Result<Option<Signal>> {
        let signal = self.0.read_signal().context("hear signals")?;
        Ok(signal.and_then(|signal| Signal::try_from(signal.ssi_signo as i32).ok()))
    }
}

/// Output of an ephemeral debug container, in pieces of up to 8 KiB as they arrive.
struct Pieces {
    pieces: Receiver<Vec<u8>>,
    is_terminal: bool,
    journalctl: Option<Child>,
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if let Some(child) = &mut self.journalctl {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Pieces {
    fn read(mut from: impl Read + Send + 'static, is_terminal: bool) -> Self {
        let (give, take) = sync_channel(16);
        std::thread::spawn(move || {
            let mut piece = [0; 8192];
            while let Ok(len @ 1..) = from.read(&mut piece) {
                if give.send(piece[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { pieces: take, is_terminal, journalctl: None }
    }
}

/// Lines of its output, from the journal.
fn lines(target: &Target, name: &str) -> Result<Pieces> {
    // Its name has the second in which it began.
    let since = name.strip_prefix(DEBUG).map(|second| format!("@{second}"));
    let query = Query { container: name.into(), lines: None, follow: true, since };
    query.check().map_err(anyhow::Error::msg)?;
    match target {
        hosts::Target::Host(_) => {
            stream(target, &format!("/v1/logs/{}?{}", query.container, query.encode()), false)
        }
        hosts::Target::Socket(_) => {
            let child = journalctl(&query).stdout(Stdio::piped()).spawn();
            let mut child = child.context("start journalctl")?;
            let output = child.stdout.take().context("its output")?;
            let mut pieces = Pieces::read(output, false);
            pieces.journalctl = Some(child);
            Ok(pieces)
        }
    }
}

/// Opens the terminal output of a container: a stream from another host, or the local pipe.
fn shown(target: &Target, name: &str) -> Result<Pieces> {
    match target {
        hosts::Target::Host(_) => stream(target, &format!("/v1/debug/{name}/terminal"), true),
        hosts::Target::Socket(socket) => {
            let path = screen(&directory(socket), name)?;
            let opened = std::fs::File::open(&path);
            Ok(Pieces::read(opened.with_context(|| path.display().to_string())?, true))
        }
    }
}

fn stream(target: &Target, path: &str, is_terminal: bool) -> Result<Pieces> {
    let stream = Client::connect(target)?.stream(path)?;
    Ok(Pieces::read(stream.context("another host has a stream")?, is_terminal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_services_place_are_its_limits_and_not_its_rollouts() {
        let of: Mapping = serde_yaml_ng::from_str(
            "{image: a, command: [x], restart: always, user: '1:1', deploy: {resources: {limits: {memory: 1m}}, update_config: {order: start-first}}, x-quietcore: {engine_pages: /p, http: y, canary: {time: 1s}}}",
        )
        .unwrap();
        let wanted = Debug {
            image: Some("tools".into()),
            of: None,
            tty: false,
            time: Duration::from_secs(1),
            end: None,
            command: vec!["ls".into(), "-l".into()],
        };
        let made = serde_yaml_ng::to_string(&service(of, &wanted)).unwrap();
        let expected: Mapping = serde_yaml_ng::from_str(
            "{image: tools, command: [-l], user: '1:1', deploy: {resources: {limits: {memory: 1m}}}, x-quietcore: {engine_pages: /p}, entrypoint: [ls]}",
        )
        .unwrap();
        let made: Mapping = serde_yaml_ng::from_str(&made).unwrap();
        assert_eq!(made, expected);
    }
}
