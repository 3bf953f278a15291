//! The local socket: one line of JSON in, one line out. Root asks for itself; the network's side of
//! the agent passes on what others ask, and the agent verifies who they are and decides.

use crate::audit_log::AuditLog;
use crate::pcap_client::capture;
use crate::request_verifier::{RequestVerifier, UNSIGNED};
use crate::risk_limits as limits;
use abi::control::{ControlPage, Orders};
use abi::shards::shard_pages;
use agent_core::limits::{
    API_CALLS_MAX, API_REQUEST, AUDIT_REFUSALS, CALL_LEN_MAX, EVENT_TEXT_MAX,
};
use agent_core::protocol::{Request, Response, Role};
use agent_host::api_config::Identity;
use agent_host::engine_pages;
use agent_host::files::cut;
use agent_host::terminal::type_into;
use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tracing::warn;

/// A request for the agent's main loop, with the way back.
pub type PendingRequest = (Request, oneshot::Sender<Response>);

/// State shared by every connection to the agent's socket.
#[derive(Debug, Clone)]
pub struct SocketContext {
    /// The engine's pages.
    pub pages: PathBuf,
    /// Terminals of containers.
    pub terminals: PathBuf,
    /// The main loop.
    pub to_agent: mpsc::Sender<PendingRequest>,
    /// Audit log of state-changing requests.
    pub audit: AuditLog,
    /// The user of the network's side, if there is one: it is no root, and asks for others.
    pub network: Option<u32>,
    /// Verifier of what that user passes on.
    pub verifier: RequestVerifier,
    /// Whose refusals were written down a moment ago.
    pub refused: Arc<Mutex<BTreeMap<String, Instant>>>,
}

/// Takes requests until the agent ends, on a thread of its own: the kill switch waits for nothing
/// that the main loop does, be it a signature, a compose file or a disk that hangs. What comes back
/// is why it could not go on.
pub fn start(path: PathBuf, context: SocketContext) -> oneshot::Receiver<io::Error> {
    let (give, failed) = oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let ended = runtime.and_then(|runtime| runtime.block_on(serve(&path, context)));
        let _ = give.send(ended.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()));
    });
    failed
}

async fn serve(path: &Path, context: SocketContext) -> io::Result<()> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    if let Some(network) = context.network {
        chown(path, None, Some(network))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    }
    let network_calls = Arc::new(Semaphore::new(API_CALLS_MAX));
    loop {
        let (stream, _) = listener.accept().await?;
        let for_others = Some(stream.peer_cred()?.uid()) == context.network;
        let room = for_others.then(|| network_calls.clone().try_acquire_owned()).transpose();
        // The network's side takes no room from root.
        let Ok(room) = room else { continue };
        tokio::spawn(answer(stream, for_others, room, context.clone()));
    }
}

/// Only who may open the socket is here: root, and the network's side.
async fn answer(
    stream: UnixStream,
    for_others: bool,
    mut room: Option<OwnedSemaphorePermit>,
    context: SocketContext,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = String::new();
        let mut bounded = (&mut read).take(CALL_LEN_MAX);
        let reading = bounded.read_line(&mut line);
        let len = match for_others {
            true => timeout(API_REQUEST, reading).await??,
            false => reading.await?,
        };
        if len == 0 {
            return Ok(());
        }
        // While it waits for the main loop, which may hang, others are heard: a kill above all.
        drop(room.take());
        let root = || Identity { who: "root".into(), role: Role::Admin };
        let unread = |error: serde_json::Error| {
            Response::Error(cut(&format!("request: {error}"), EVENT_TEXT_MAX))
        };
        let admitted = match for_others {
            true => serde_json::from_str(&line).map_err(unread).and_then(|call| {
                let refused = |error: anyhow::Error| Response::Forbidden(format!("{error:#}"));
                context.verifier.admit(call).map_err(refused)
            }),
            false => serde_json::from_str(&line).map_err(unread).map(|request| (root(), request)),
        };
        drop(line);
        let response = match admitted {
            Ok((identity, request)) if for_others => {
                timeout(API_REQUEST, context.answer(identity, request)).await?
            }
            Ok((identity, request)) => context.answer(identity, request).await,
            Err(refused) => refused,
        };
        let mut text = serde_json::to_string(&response)?;
        drop(response);
        text.push('\n');
        match for_others {
            // One request a connection, for which there was room.
            true => return timeout(API_REQUEST, write.write_all(text.as_bytes())).await?,
            false => write.write_all(text.as_bytes()).await?,
        }
    }
}

impl SocketContext {
    async fn answer(&self, identity: Identity, request: Request) -> Response {
        let Identity { who, role } = identity;
        let (is_change, shown) = (request.is_change(), request.for_audit());
        if role < request.role() {
            let (is, wanted) = (name(role), name(request.role()));
            let why = match role {
                Role::Reader if who == UNSIGNED => format!(
                    "this is for {wanted}, who has to sign it: qctl does, and qctl api for scripts"
                ),
                _ => format!("{who} is {is}, and this is for {wanted}"),
            };
            if self.is_to_be_told(&who) {
                self.write_down(&who, shown, Some(&why)).await;
            }
            return Response::Forbidden(why);
        }
        // No change without its record; but what stops trading waits for no disk.
        let stops_trading = matches!(request, Request::Control { kill, drain } if kill || drain);
        if is_change && !stops_trading {
            let audit = self.audit.clone();
            let reserved = tokio::task::spawn_blocking(move || audit.reserve()).await;
            if let Err(error) = reserved.expect("it does not panic") {
                return Response::Error(format!(
                    "nothing is changed: the audit log takes no record ({error}); make room below /var"
                ));
            }
        }
        let response = self.handle(request).await;
        if is_change {
            self.write_down(&who, shown, response.error()).await;
        }
        response
    }

    /// On disk, which may hang; the next kill does not wait for that.
    async fn write_down(&self, who: &str, shown: serde_json::Value, refused: Option<&str>) {
        let (audit, who) = (self.audit.clone(), who.to_owned());
        let refused = refused.map(ToOwned::to_owned);
        let write = move || audit.write(&who, shown, refused.as_deref());
        if let Err(error) = tokio::task::spawn_blocking(write).await.expect("it does not panic") {
            warn!("audit: {error}");
        }
    }

    /// Returns true if the caller had no refusal in the last [`AUDIT_REFUSALS`], so that refused
    /// requests can't fill the audit log.
    fn is_to_be_told(&self, who: &str) -> bool {
        let mut refused = self.refused.lock().expect("nobody panics with it");
        let now = Instant::now();
        refused.retain(|_, told| now.duration_since(*told) < AUDIT_REFUSALS);
        refused.insert(who.to_owned(), now).is_none()
    }

    async fn handle(&self, request: Request) -> Response {
        match request {
            // The kill switch waits for nothing, least of all for a containerd that hangs.
            Request::Control { kill, drain } => {
                let told = tell_engines(&self.pages, kill, drain);
                if kill || drain {
                    self.verifier.forget_challenges();
                }
                told
            }
            Request::Challenge {} => match self.verifier.challenge() {
                Ok(challenge) => Response::Challenge(challenge),
                Err(error) => Response::Error(format!("{error:#}")),
            },
            Request::Limits { shard, changes } => {
                match engine_pages::pages_of(&self.pages, shard.as_deref()) {
                    Ok(pages) => limits::change(&pages, &changes).await,
                    Err(why) => Response::Error(why),
                }
            }
            Request::Audit { count } => {
                let audit = self.audit.clone();
                let read = tokio::task::spawn_blocking(move || audit.last(count));
                Response::Audit(read.await.expect("it does not panic"))
            }
            Request::Type { name, keys } => {
                let typed = STANDARD.decode(&keys).context("keys: no base64");
                match typed.and_then(|keys| type_into(&self.terminals, &name, &keys)) {
                    Ok(()) => Response::Done,
                    Err(error) => Response::Error(format!("{error:#}")),
                }
            }
            Request::Capture(wanted) => match capture(&self.pages, &wanted).await {
                Ok(taken) => Response::Captured(STANDARD.encode(taken)),
                Err(error) => Response::Error(format!("{error:#}")),
            },
            other => ask(other, &self.to_agent).await,
        }
    }
}

fn name(role: Role) -> &'static str {
    match role {
        Role::Reader => "a reader",
        Role::Operator => "an operator",
        Role::Admin => "an admin",
    }
}

/// Tells every shard. Kill and drain add up; neither lifts the other. Only asking for neither
/// clears both.
fn tell_engines(pages: &Path, kill: bool, drain: bool) -> Response {
    let all = shard_pages(pages);
    if all.is_empty() {
        let root = pages.display();
        return Response::Error(format!("{root}: the engine has not run since the boot"));
    }
    let mut failed = None;
    for (shard, directory) in all {
        let page = match ControlPage::open_existing(&directory.join("control")) {
            Ok(page) => page,
            // The others are told all the same.
            Err(error) => {
                failed = Some(Response::Error(error.to_string()));
                continue;
            }
        };
        let now = page.orders();
        let resume = !kill && !drain;
        let orders = Orders {
            kill: !resume && (kill || now.kill),
            drain: !resume && (drain || now.drain),
            ..now
        };
        page.set(orders);
        warn!(shard, kill = orders.kill, drain = orders.drain, "engine control changed");
    }
    failed.unwrap_or(Response::Done)
}

async fn ask(request: Request, to_agent: &mpsc::Sender<PendingRequest>) -> Response {
    let (back, answer) = oneshot::channel();
    let stopping = || Response::Error("the agent is stopping".into());
    match to_agent.send((request, back)).await {
        Ok(()) => answer.await.unwrap_or_else(|_| stopping()),
        Err(_) => stopping(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};

    /// The way to a main loop that nobody runs: this thread does not even have a runtime.
    #[test]
    fn the_kill_switch_is_pulled_while_the_main_loop_hangs() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("it");
        let (pages, path) = (directory.join("pages"), directory.join("agent.sock"));
        std::fs::create_dir_all(&pages).unwrap();
        let control = ControlPage::open(&pages.join("control")).unwrap();
        abi::counters::CountersPage::create(&pages.join("counters")).unwrap();
        let (to_agent, _hangs) = mpsc::channel(1);
        let audit = AuditLog::at(&directory.join("audit.jsonl"));
        let (terminals, refused) = (directory.join("terminals"), Default::default());
        let (network, verifier) = (None, RequestVerifier::new("/".into()));
        let context =
            SocketContext { pages, terminals, to_agent, audit, network, verifier, refused };
        let _failed = start(path.clone(), context);
        let connected = std::iter::repeat_with(|| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            std::os::unix::net::UnixStream::connect(&path)
        });
        let socket = connected.take(1000).find_map(Result::ok).unwrap();
        let kill = Request::Control { kill: true, drain: false };
        writeln!(&socket, "{}", serde_json::to_string(&kill).unwrap()).unwrap();
        let mut answer = String::new();
        BufReader::new(&socket).read_line(&mut answer).unwrap();
        assert_eq!(serde_json::from_str::<Response>(&answer).unwrap(), Response::Done);
        assert!(control.orders().kill);
    }

    #[test]
    fn nothing_is_changed_that_can_not_be_recorded_but_trading_stops() {
        let temporary = tempfile::tempdir().unwrap();
        let (pages, path) = (temporary.path().join("pages"), temporary.path().join("agent.sock"));
        std::fs::create_dir_all(&pages).unwrap();
        let control = ControlPage::open(&pages.join("control")).unwrap();
        abi::counters::CountersPage::create(&pages.join("counters")).unwrap();
        let (to_agent, mut requests) = mpsc::channel(1);
        // No file can be made there.
        let audit = AuditLog::at(&temporary.path().join("missing/audit.jsonl"));
        let (terminals, refused) = (temporary.path().join("terminals"), Default::default());
        let (network, verifier) = (None, RequestVerifier::new("/".into()));
        let context =
            SocketContext { pages, terminals, to_agent, audit, network, verifier, refused };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let answer = |request| {
                context.answer(Identity { who: "root".into(), role: Role::Admin }, request)
            };
            let said = answer(Request::RemoveSecret { name: "a".into() }).await;
            assert!(said.error().unwrap().contains("nothing is changed"), "{said:?}");
            let resume = Request::Control { kill: false, drain: false };
            assert!(answer(resume).await.error().is_some());
            assert!(requests.try_recv().is_err(), "the main loop was asked");
            let kill = Request::Control { kill: true, drain: false };
            assert_eq!(answer(kill).await, Response::Done);
        });
        assert!(control.orders().kill);
        assert!(!path.exists());
    }
}
