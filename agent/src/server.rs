//! The local socket: one line of JSON in, one line out. Only root reaches it.

use crate::engines;
use crate::events::Event;
use crate::limits::REQUEST_LEN_MAX;
use crate::risklimits as limits;
use crate::status::Status;
use crate::supply::ImageLine;
use abi::control::{ControlPage, Orders};
use abi::shards::shard_pages;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

/// Where the agent listens.
pub const SOCKET: &str = "/run/quietcore/agent/agent.sock";

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Everything that the agent knows.
    Status {},
    /// Run what this compose file declares from now on.
    Apply {
        /// The file's text.
        compose: String,
        /// Only say what would be another than now.
        #[serde(default)]
        dry_run: bool,
    },
    /// Put the image of an archive into containerd.
    LoadImage {
        /// The archive, an OCI image layout in a tar file.
        archive: PathBuf,
    },
    /// What happened.
    Events {
        /// Only what has a higher number.
        after: u64,
        /// The last so many.
        count: usize,
    },
    /// What images there are.
    Images {},
    /// Take an image away.
    RemoveImage {
        /// Its name.
        name: String,
    },
    /// Tell the engine.
    Control {
        /// Cancel everything and send nothing more.
        kill: bool,
        /// Cancel what works and open nothing new.
        drain: bool,
    },
    /// Fetch a release of the operating system and write it to the other slot.
    Update {
        /// The release's directory: `http://` or `https://`.
        url: String,
    },
    /// Restart the host.
    Reboot {
        /// Although the engine holds a position.
        holding: bool,
    },
    /// Put other risk limits in force, or none to see them.
    Limits {
        /// Of which shard; may be left out if there is one engine.
        #[serde(default)]
        shard: Option<String>,
        /// Names of `abi::control::LIMIT_NAMES` and their new values.
        changes: BTreeMap<String, u64>,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// The answer to [`Request::Status`].
    Status(Box<Status>),
    /// The answer to [`Request::Limits`]: all that are in force.
    Limits(Vec<(String, u64)>),
    /// The answer to [`Request::LoadImage`]: the image's name.
    Loaded(String),
    /// The answer to [`Request::Apply`]: a line for each service.
    Changes(Vec<String>),
    /// The answer to [`Request::Events`], oldest first.
    Events(Vec<Event>),
    /// The answer to [`Request::Images`].
    Images(Vec<ImageLine>),
    /// It was done.
    Done,
    /// It was not done, and why.
    Error(String),
}

/// What the agent's main loop is asked: all but what the socket answers by itself.
#[derive(Debug)]
pub enum Question {
    /// See [`Request::Status`].
    Status,
    /// See [`Request::Apply`].
    Apply {
        /// See there.
        compose: String,
        /// See there.
        dry_run: bool,
    },
    /// See [`Request::LoadImage`].
    LoadImage(PathBuf),
    /// See [`Request::Events`].
    Events {
        /// See there.
        after: u64,
        /// See there.
        count: usize,
    },
    /// See [`Request::Images`].
    Images,
    /// See [`Request::RemoveImage`].
    RemoveImage(String),
    /// See [`Request::Update`].
    Update(String),
    /// See [`Request::Reboot`].
    Reboot {
        /// Although the engine holds a position.
        holding: bool,
    },
}

/// A question with the way back.
pub type Asked = (Question, oneshot::Sender<Response>);

/// Takes requests until the agent ends.
///
/// # Errors
/// The socket can't be made.
pub async fn serve(path: &Path, pages: PathBuf, to_agent: mpsc::Sender<Asked>) -> io::Result<()> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(answer(stream, pages.clone(), to_agent.clone()));
    }
}

async fn answer(
    stream: UnixStream,
    pages: PathBuf,
    to_agent: mpsc::Sender<Asked>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(REQUEST_LEN_MAX)).lines();
    while let Some(line) = lines.next_line().await? {
        let response = match serde_json::from_str(&line) {
            // The kill switch waits for nothing, least of all for a containerd that hangs.
            Ok(Request::Control { kill, drain }) => tell_engines(&pages, kill, drain),
            Ok(Request::Limits { shard, changes }) => {
                match engines::pages_of(&pages, shard.as_deref()) {
                    Ok(pages) => limits::change(&pages, &changes).await,
                    Err(why) => Response::Error(why),
                }
            }
            Ok(Request::Status {}) => ask(Question::Status, &to_agent).await,
            Ok(Request::Apply { compose, dry_run }) => {
                ask(Question::Apply { compose, dry_run }, &to_agent).await
            }
            Ok(Request::LoadImage { archive }) => {
                ask(Question::LoadImage(archive), &to_agent).await
            }
            Ok(Request::Events { after, count }) => {
                ask(Question::Events { after, count }, &to_agent).await
            }
            Ok(Request::Images {}) => ask(Question::Images, &to_agent).await,
            Ok(Request::RemoveImage { name }) => ask(Question::RemoveImage(name), &to_agent).await,
            Ok(Request::Update { url }) => ask(Question::Update(url), &to_agent).await,
            Ok(Request::Reboot { holding }) => ask(Question::Reboot { holding }, &to_agent).await,
            Err(error) => Response::Error(format!("request: {error}")),
        };
        let mut text = serde_json::to_string(&response)?;
        text.push('\n');
        write.write_all(text.as_bytes()).await?;
    }
    Ok(())
}

/// Tells every shard. Kill and drain add up; neither lifts the other. Only asking for neither clears both.
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

async fn ask(question: Question, to_agent: &mpsc::Sender<Asked>) -> Response {
    let (back, answer) = oneshot::channel();
    let stopping = || Response::Error("the agent is stopping".into());
    match to_agent.send((question, back)).await {
        Ok(()) => answer.await.unwrap_or_else(|_| stopping()),
        Err(_) => stopping(),
    }
}
