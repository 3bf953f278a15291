//! One connection: TLS, who asks, and HTTP/1.1 until it ends. Everything has a time and a size.

use crate::api::{ApiPaths, metrics};
use agent_core::api_routes::{Ask, Refused, open_api, route};
use agent_core::limits::{
    API_ANSWER_MAX, API_HANDSHAKE, API_HANG_UP, API_HEADERS, API_REQUEST, API_SILENCE,
    API_STREAMS_MAX, EVENTS_SHOWN_MAX, FOLLOW_INTERVAL, REQUEST_LEN_MAX,
};
use agent_core::log_query::Query;
use agent_core::protocol::types::Event;
use agent_core::protocol::{Request, Response};
use agent_core::request_signature::{self, Call, SIGNATURE, SIGNATURE_INPUT, SignedRequest};
use agent_host::api_config::Identity;
use agent_host::journalctl::journalctl;
use agent_host::terminal::{directory, screen};
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use socket2::{SockRef, TcpKeepalive};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tracing::warn;
use webpki::EndEntityCert;

/// Client of a connection: who it is, and the certificates that say so.
#[derive(Debug)]
struct Asker {
    identity: Identity,
    /// DER in base64, the client's own first.
    certificates: Vec<String>,
}

impl Asker {
    fn of(chain: &[CertificateDer<'_>]) -> Result<Self> {
        let first = chain.first().context("no certificate")?;
        let own = EndEntityCert::try_from(first).context("read the certificate")?;
        let certificates = chain.iter().map(|certificate| STANDARD.encode(certificate)).collect();
        Ok(Self { identity: Identity::of(&own)?, certificates })
    }

    fn unsigned(&self, request: Request) -> Call {
        Call::Unsigned { who: self.identity.who.clone(), request }
    }
}

type Body = BoxBody<Bytes, std::io::Error>;
type Answer = hyper::Response<Body>;

/// Streams of lines and of terminals that are open: of lines, each has a process.
static STREAMS: Semaphore = Semaphore::const_new(API_STREAMS_MAX);
const STREAMS_FULL: &str = "there are too many streams of lines and terminals; end one";

/// Makes TLS of a connection.
///
/// # Errors
/// One line: no TLS, or no certificate of the authority.
pub async fn handshake(stream: TcpStream, tls: Arc<ServerConfig>) -> Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    // A peer that went to sleep would be followed for ever.
    let socket = SockRef::from(&stream);
    let alive = TcpKeepalive::new().with_time(API_SILENCE).with_interval(API_SILENCE / 3);
    socket.set_tcp_keepalive(&alive)?;
    socket.set_tcp_user_timeout(Some(API_SILENCE))?;
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let accepted = timeout(API_HANDSHAKE, acceptor.accept(stream).into_fallible()).await;
    match accepted.context("handshake")? {
        Ok(stream) => Ok(stream),
        Err((error, stream)) => {
            hang_up(stream).await;
            Err(error).context("handshake")
        }
    }
}

/// Serves it until it ends.
///
/// # Errors
/// HTTP that is none.
pub async fn connection(stream: TlsStream<TcpStream>, paths: &ApiPaths) -> Result<()> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let asker = Arc::new(Asker::of(certificates).map(Arc::new));
    let agent = Arc::new(paths.agent.clone());
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (asker, agent) = (asker.clone(), agent.clone());
        async move {
            let answered = match &*asker {
                Ok(asker) => answer(request, asker, &agent).await,
                Err(error) => Ok(text(403, &format!("{error:#}"))),
            };
            Ok::<_, Infallible>(answered.unwrap_or_else(|error| text(502, &format!("{error:#}"))))
        }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(API_HEADERS)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .context("HTTP")
}

/// Reads what still comes, so that who was refused hears why, instead of a reset that overtakes it.
async fn hang_up(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    let mut rest = (&mut stream).take(REQUEST_LEN_MAX);
    let _ = timeout(API_HANG_UP, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}

/// Reason to refuse a request that a browser sends for the page of another site; browsers say so in
/// headers that a page can't set (Fetch Metadata; RFC 6454, "The HTTP Origin Header Field"). Bodies
/// of the types that a page may send without a question are refused whoever sends them.
fn foreign(headers: &hyper::HeaderMap) -> Option<&'static str> {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let is_cross =
        header("sec-fetch-site").is_some_and(|it| !["same-origin", "none"].contains(&it));
    let host = header("host").unwrap_or_default();
    let is_own = |origin: &str| origin.strip_prefix("https://") == Some(host);
    if is_cross || header("origin").is_some_and(|origin| !is_own(origin)) {
        return Some("a page of another site asks; only this host's own may");
    }
    let kind = header("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    ["text/plain", "multipart/form-data"].contains(&kind.as_str()).then_some(
        "content type: send application/json, application/yaml or application/octet-stream",
    )
}

async fn answer(
    request: hyper::Request<Incoming>,
    asker: &Arc<Asker>,
    agent: &Path,
) -> Result<Answer> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let stream = header("accept").is_some_and(|accepted| accepted.contains("text/event-stream"));
    let last = header("last-event-id").and_then(|id| id.parse::<u64>().ok());
    let body = timeout(API_REQUEST, Limited::new(body, REQUEST_LEN_MAX as usize).collect());
    let body = match body.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            return Ok(text(413, &format!("a request has at most {REQUEST_LEN_MAX} bytes")));
        }
        Err(_) => return Ok(text(408, "the request did not come to its end in time")),
    };
    if let Some(why) = foreign(&head.headers) {
        return Ok(text(403, why));
    }
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    let asked = match route(head.method.as_str(), path, query, &body, stream) {
        Ok(asked) => asked,
        Err((status, why)) => return Ok(text(status, &why)),
    };
    let signed = match signed(&head, &body, asker) {
        Ok(signed) => signed,
        Err((status, why)) => return Ok(text(status, &why)),
    };
    let call = |request| signed.map_or_else(|| asker.unsigned(request), Call::Signed);
    match asked {
        Ask::OpenApi => Ok(json_answer(200, &open_api())),
        Ask::Agent(request) => Ok(plain(ask(agent, call(request)).await?)),
        Ask::Wrapped(request) => Ok(json_answer(200, &json!(ask(agent, call(request)).await?))),
        Ask::Health | Ask::Metrics => {
            let call = asker.unsigned(Request::Status {});
            let Response::Status(status) = ask(agent, call).await? else {
                bail!("the agent answered something else than a status");
            };
            Ok(match asked {
                Ask::Metrics => text(200, &metrics::page(&status)),
                _ if status.healthy => text(200, "healthy"),
                _ => text(503, &status.problems.join("\n")),
            })
        }
        Ask::Events(after) => Ok(follow_events(agent.into(), asker.clone(), last.unwrap_or(after))),
        Ask::Logs(query) => logs(&query, stream),
        Ask::Terminal(name) => {
            let call = call(Request::Terminal { name: name.clone(), size: None });
            terminal(agent, call, &name).await
        }
    }
}

/// A request's signature, if it has one, for the agent to verify.
fn signed(
    head: &hyper::http::request::Parts,
    body: &Bytes,
    asker: &Asker,
) -> Result<Option<SignedRequest>, Refused> {
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let Some(signature) = header(SIGNATURE) else { return Ok(None) };
    let (nonce, signature) =
        request_signature::parse(header(SIGNATURE_INPUT).unwrap_or_default(), signature)?;
    let authority = header("host").unwrap_or_default().to_ascii_lowercase();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    Ok(Some(SignedRequest {
        certificates: asker.certificates.clone(),
        method: head.method.as_str().into(),
        authority: authority.strip_suffix(":443").unwrap_or(&authority).into(),
        target: target.into(),
        body: STANDARD.encode(body),
        nonce,
        signature,
    }))
}

/// Has the agent answer.
async fn ask(agent: &Path, call: Call) -> Result<Response> {
    let named = || format!("ask the agent at {}", agent.display());
    let answered = async {
        let mut stream = UnixStream::connect(agent).await?;
        stream.write_all((serde_json::to_string(&call)? + "\n").as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(stream).take(API_ANSWER_MAX).read_line(&mut line).await?;
        Ok::<_, std::io::Error>(line)
    };
    let line = timeout(API_REQUEST, answered).await.with_context(named)?.with_context(named)?;
    serde_json::from_str(&line).with_context(named)
}

/// An answer without its name.
fn plain(response: Response) -> Answer {
    let value = match response {
        Response::Forbidden(why) => return text(403, &why),
        Response::Error(why) => return text(409, &why),
        Response::Declared(compose) => return text(200, &compose),
        Response::Done => json!({ "done": true }),
        other => match json!(other) {
            Value::Object(named) => named.into_iter().next().map_or(Value::Null, |(_, it)| it),
            it => it,
        },
    };
    json_answer(200, &value)
}

fn respond(status: u16, kind: &str, body: Body) -> Answer {
    hyper::Response::builder()
        .status(status)
        .header("content-type", kind)
        .body(body)
        .expect("statuses and types are constants")
}

fn text(status: u16, said: &str) -> Answer {
    let line = format!("{}\n", said.trim_end());
    respond(status, "text/plain; charset=utf-8", whole(line))
}

fn json_answer(status: u16, value: &Value) -> Answer {
    let line = format!("{value}\n");
    respond(status, "application/json", whole(line))
}

fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed()
}

/// A piece that is an error breaks the connection off: who reads is to know that there was more.
fn streamed(kind: &str, pieces: mpsc::Receiver<std::io::Result<Bytes>>) -> Answer {
    use tokio_stream::StreamExt;
    let frames = ReceiverStream::new(pieces).map(|piece| piece.map(Frame::data));
    respond(200, kind, BodyExt::boxed(StreamBody::new(frames)))
}

/// Events as they happen (HTML Standard, "Server-sent events").
fn follow_events(agent: PathBuf, asker: Arc<Asker>, mut after: u64) -> Answer {
    let (pieces, body) = mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let call = asker.unsigned(Request::Events { after, count: EVENTS_SHOWN_MAX });
            let Ok(Response::Events(events)) = ask(&agent, call).await else { return };
            // A comment tells that the connection lives, and finds out whether it does.
            let mut text = if events.is_empty() { ":\n\n".to_owned() } else { String::new() };
            for event in &events {
                text.push_str(&sse(event));
                after = event.number;
            }
            if pieces.send(Ok(Bytes::from(text))).await.is_err() {
                return;
            }
            tokio::time::sleep(FOLLOW_INTERVAL).await;
        }
    });
    streamed("text/event-stream", body)
}

fn sse(event: &Event) -> String {
    format!("id: {}\ndata: {}\n\n", event.number, json!(event))
}

/// Streams the terminal output of a container until the container is removed or the client
/// disconnects. The agent authorizes the client.
async fn terminal(agent: &Path, call: Call, name: &str) -> Result<Answer> {
    let Ok(room) = STREAMS.try_acquire() else { return Ok(text(503, STREAMS_FULL)) };
    match ask(agent, call).await? {
        Response::Done => {}
        refused => return Ok(plain(refused)),
    }
    let screen = screen(&directory(agent), name)?;
    let mut screen = pipe::OpenOptions::new().open_receiver(screen).context("its terminal")?;
    let (pieces, body) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut shown = [0; 8192];
        loop {
            let read = tokio::select! {
                read = screen.read(&mut shown) => read,
                () = pieces.closed() => break,
            };
            let Ok(len @ 1..) = read else { break };
            if pieces.send(Ok(Bytes::copy_from_slice(&shown[..len]))).await.is_err() {
                break;
            }
        }
        drop(room);
    });
    Ok(streamed("application/octet-stream", body))
}

/// A container's lines, as text or as events of one line each. journalctl ends with the connection.
fn logs(query: &Query, as_events: bool) -> Result<Answer> {
    let Ok(room) = STREAMS.try_acquire() else {
        return Ok(text(503, STREAMS_FULL));
    };
    let mut journalctl = tokio::process::Command::from(journalctl(query));
    journalctl
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = journalctl.spawn().context("start journalctl")?;
    let output = child.stdout.take().context("its output")?;
    let (pieces, body) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut lines = BufReader::new(output);
        loop {
            let mut line = Vec::new();
            let read = tokio::select! {
                read = lines.read_until(b'\n', &mut line) => read,
                () = pieces.closed() => return,
            };
            if read.is_err() || line.is_empty() {
                if let Err(why) = end_of(child).await {
                    warn!("lines for the API: {why}");
                    let _ = pieces.send(Err(why)).await;
                }
                break;
            }
            if as_events {
                line = [b"data: ", line.as_slice(), b"\n"].concat();
            }
            if pieces.send(Ok(Bytes::from(line))).await.is_err() {
                break;
            }
        }
        drop(room);
    });
    Ok(streamed(if as_events { "text/event-stream" } else { "text/plain; charset=utf-8" }, body))
}

/// Waits for a journalctl whose output was read to the end; the error has its status and standard
/// error.
async fn end_of(child: tokio::process::Child) -> std::io::Result<()> {
    let ended = child.wait_with_output().await?;
    let said = String::from_utf8_lossy(&ended.stderr);
    match ended.status.success() {
        true => Ok(()),
        false => Err(std::io::Error::other(format!("journalctl: {}: {said}", ended.status))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_status_that_they_mean() {
        assert_eq!(plain(Response::Done).status(), 200);
        assert_eq!(plain(Response::Error("no".into())).status(), 409);
        assert_eq!(plain(Response::Forbidden("no".into())).status(), 403);
    }
}
