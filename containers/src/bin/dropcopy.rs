//! `quietcore-dropcopy`: reads the engine's journal, serves one FIX 4.4 counterparty.

use abi::journal::files::{Follower, Found};
use abi::journal::session_stream::{SessionEvent, Stream};
use anyhow::{Context, Result, ensure};
use clap::Parser;
use containers::dropcopy::fix::{Fields, Framed, MESSAGE_LEN_MAX, decode};
use containers::dropcopy::reports::Reports;
use containers::dropcopy::session::{Fate, Names, Session};
use containers::dropcopy::store::Store;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Between two looks at the journal: the engine writes it about as often.
const INTERVAL: Duration = Duration::from_millis(100);

/// A counterparty that takes no bytes for so long is disconnected.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Serve every answer of the exchange to a back office, as FIX 4.4 Execution Reports. Plain TCP:
/// keep it to the back office's own network.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The engine's journal.
    #[arg(long)]
    journal: PathBuf,
    /// Where the agent keeps copies of it, for what the journal has overwritten.
    #[arg(long)]
    archive: Option<PathBuf>,
    /// A directory for what was sent.
    #[arg(long)]
    state: PathBuf,
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// SenderCompID of the drop copy.
    #[arg(long, default_value = "QUIETCORE", value_parser = comp_id)]
    sender: String,
    /// The counterparty's SenderCompID.
    #[arg(long, value_parser = comp_id)]
    target: String,
}

fn comp_id(text: &str) -> Result<String> {
    let good = (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(good && !text.contains('='), "1 to 32 printable ASCII characters without = or space");
    Ok(text.to_owned())
}

/// Nanoseconds since the epoch.
fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// The journal as reports.
struct Source {
    follower: Follower,
    stream: Stream,
    reports: Reports,
    failed: bool,
}

impl Source {
    fn poll(&mut self, mut publish: impl FnMut(&Fields)) {
        let Self { follower, stream, reports, failed } = self;
        let polled = follower.poll(|found| match found {
            Found::Record(record) => stream.take(&record, |heard| {
                if let SessionEvent::Message(session, number, bytes) = heard
                    && let Some(report) =
                        reports.on_message(session, number, bytes, record.time_ns)
                {
                    publish(&report);
                }
            }),
            Found::Gap(last) => {
                eprintln!(
                    "dropcopy: records after {last} were overwritten before they were read; what is \
                     missing comes when the engine logs on again. Give --archive, or more segments"
                );
                stream.lose_step();
            }
        });
        match polled {
            Ok(()) => *failed = false,
            Err(error) if !*failed => {
                *failed = true;
                eprintln!("dropcopy: read the journal: {error}");
            }
            Err(_) => {}
        }
    }
}

struct Server {
    source: Source,
    session: Session,
}

impl Server {
    fn new(arguments: &Arguments) -> Result<Self> {
        std::fs::create_dir_all(&arguments.state)
            .with_context(|| format!("make {}", arguments.state.display()))?;
        let name = format!("{}-{}.qcf", arguments.sender, arguments.target).replace('/', "_");
        let store = Store::open(&arguments.state.join(name)).context("open the store")?;
        let mut reports = Reports::default();
        let restored = store.for_each(|report| {
            Fields::parse(&report.text).iter().for_each(|fields| reports.restore(fields));
            Ok(())
        });
        restored.context("read the store")?;
        let directories = [Some(&arguments.journal), arguments.archive.as_ref()];
        let follower = Follower::new(directories.into_iter().flatten().cloned().collect());
        let names = Names { sender: arguments.sender.clone(), target: arguments.target.clone() };
        let source = Source { follower, stream: Stream::default(), reports, failed: false };
        Ok(Self { source, session: Session::new(names, store) })
    }

    /// New records become reports, on disk; then time passes for the session.
    fn poll(&mut self) -> io::Result<(Vec<u8>, Fate)> {
        let (Self { source, session }, now) = (self, now_ns());
        source.poll(|report| session.publish(report, now));
        let fate = session.tick(now);
        Ok((session.take_output()?, fate))
    }

    async fn serve(mut self, listener: TcpListener) -> Result<()> {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((stream, from)) = accepted else { continue };
                    println!("dropcopy: connection from {from}");
                    let stopped = self.talk(stream, &mut interval, &mut terminate).await?;
                    println!("dropcopy: connection from {from} is over");
                    if stopped {
                        return Ok(());
                    }
                }
                _ = interval.tick() => drop(self.poll().context("write the store")?),
                _ = terminate.recv() => return Ok(()),
            }
        }
    }

    /// Speaks with one counterparty until its connection ends; `true` if a signal asked for the
    /// end. One that comes meanwhile waits. Only the store's failures are errors.
    async fn talk(
        &mut self,
        mut stream: TcpStream,
        interval: &mut tokio::time::Interval,
        terminate: &mut tokio::signal::unix::Signal,
    ) -> Result<bool> {
        let mut heard = Vec::with_capacity(2 * MESSAGE_LEN_MAX);
        let mut stopping = false;
        self.session.connected(now_ns());
        loop {
            let (bytes, fate) = tokio::select! {
                read = stream.read_buf(&mut heard) => match read {
                    Ok(len) if len > 0 => self.read(&mut heard).context("store")?,
                    _ => (Vec::new(), Fate::Close),
                },
                _ = interval.tick() => self.poll().context("write the store")?,
                () = std::future::ready(()), if self.session.is_sending() => {
                    self.session.send_on(now_ns()).context("read the store")?;
                    (self.session.take_output().context("write the store")?, Fate::Keep)
                }
                _ = terminate.recv(), if !stopping => {
                    stopping = true;
                    let fate = self.session.leave(now_ns());
                    (self.session.take_output().context("write the store")?, fate)
                }
            };
            let sent = tokio::time::timeout(SEND_TIMEOUT, stream.write_all(&bytes)).await;
            if fate == Fate::Close || !matches!(sent, Ok(Ok(()))) {
                self.session.lost();
                let _ = stream.shutdown().await;
                return Ok(stopping);
            }
        }
    }

    fn read(&mut self, heard: &mut Vec<u8>) -> io::Result<(Vec<u8>, Fate)> {
        let (mut at, mut fate) = (0, Fate::Keep);
        while fate == Fate::Keep {
            match decode(&heard[at..]) {
                Framed::Incomplete => break,
                Framed::Garbled(len) => at += len,
                Framed::Lost => fate = Fate::Close,
                Framed::Message(message, len) => {
                    at += len;
                    fate = self.session.on_message(&message, now_ns())?;
                }
            }
        }
        heard.drain(..at);
        Ok((self.session.take_output()?, fate))
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let server = Server::new(&arguments)?;
    let listener = TcpListener::bind(arguments.listen).await;
    let listener = listener.with_context(|| format!("listen on {}", arguments.listen))?;
    println!(
        "dropcopy: FIX 4.4 on {}, {} to {}",
        arguments.listen, arguments.sender, arguments.target
    );
    server.serve(listener).await
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.map_err(anyhow::Error::from);
    match served.and_then(|runtime| runtime.block_on(run(Arguments::parse()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quietcore-dropcopy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
