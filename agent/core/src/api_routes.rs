//! Routes of the network API: methods and paths to requests and roles, and their OpenAPI 3.1
//! description.

use crate::desired::Step;
use crate::log_query::{Query, pairs};
use crate::protocol::types::{Size, Wanted};
use crate::protocol::{Request, Role, RolloutStep};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Action that a route resolves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// The agent, and the answer as it is.
    Agent(Request),
    /// The agent, and the answer with its name: what qctl speaks.
    Wrapped(Request),
    /// Events as they happen, after this number.
    Events(u64),
    /// Lines of a container.
    Logs(Query),
    /// Terminal output of this debug container, as a stream.
    Terminal(String),
    /// 200 if the host is healthy.
    Health,
    /// Metrics in Prometheus's text format.
    Metrics,
    /// OpenAPI description of the API.
    OpenApi,
}

/// One path: method, path, role, what it is.
type Route = (&'static str, &'static str, Role, &'static str);

/// Routes of the API, each with its role and its summary for OpenAPI.
pub const ROUTES: &[Route] = &[
    ("GET", "/healthz", Role::Reader, "200 if the engine runs and every container does, else 503"),
    ("GET", "/metrics", Role::Reader, "The host in Prometheus's text format"),
    ("GET", "/v1/openapi.json", Role::Reader, "This description"),
    ("GET", "/v1/status", Role::Reader, "Everything that the agent knows"),
    (
        "GET",
        "/v1/events",
        Role::Reader,
        "Events after ?after=, the last ?count=; as text/event-stream, as they happen",
    ),
    ("GET", "/v1/logs/{name}", Role::Reader, "A container's lines: ?lines=, ?follow=true, ?since="),
    ("GET", "/v1/images", Role::Reader, "Images"),
    ("GET", "/v1/secrets", Role::Reader, "The names of secrets"),
    ("GET", "/v1/challenge", Role::Reader, "A challenge for the signatures of the next minute"),
    ("GET", "/v1/limits", Role::Reader, "The engine's risk limits, of ?shard="),
    ("GET", "/v1/compose", Role::Reader, "What is declared"),
    (
        "PUT",
        "/v1/compose",
        Role::Operator,
        "Declare: a compose file that stands for itself; ?dry_run=true, ?try=SECONDS, ?staged=true",
    ),
    ("POST", "/v1/compose/keep", Role::Operator, "Keep what was applied on trial"),
    (
        "POST",
        "/v1/debug",
        Role::Operator,
        "Start a container that is thrown away after ?seconds=: a compose file with one service; with a terminal of ?rows= and ?columns=",
    ),
    ("GET", "/v1/debug/{name}/terminal", Role::Operator, "What its terminal shows, as it comes"),
    ("POST", "/v1/debug/{name}/keys", Role::Operator, "Type into its terminal: at most 4096 bytes"),
    (
        "POST",
        "/v1/debug/{name}/size",
        Role::Operator,
        "Its terminal is seen with ?rows= and ?columns= from now on",
    ),
    ("DELETE", "/v1/debug/{name}", Role::Operator, "Throw it away now"),
    ("PUT", "/v1/desired", Role::Operator, "Bring a signed desired state: its envelope"),
    ("POST", "/v1/desired/{act}", Role::Operator, "hold, resume or sync the desired state"),
    (
        "POST",
        "/v1/rollouts/{name}/{step}",
        Role::Operator,
        "pause, resume, promote or undo a service's version",
    ),
    ("POST", "/v1/engine/{order}", Role::Operator, "kill, drain or resume"),
    ("PUT", "/v1/limits", Role::Operator, "Other risk limits: names and values"),
    ("DELETE", "/v1/images/{name}", Role::Operator, "Take an image away"),
    ("PUT", "/v1/secrets/{name}", Role::Admin, "Keep a secret: its bytes"),
    ("DELETE", "/v1/secrets/{name}", Role::Admin, "Forget a secret"),
    (
        "POST",
        "/v1/capture",
        Role::Admin,
        "Packets, as pcap in base64: of ?interface=, ?filter=, ?seconds=, ?packets=, ?trading=true",
    ),
    ("GET", "/v1/audit", Role::Admin, "Who changed what, the last ?count="),
    ("POST", "/v1/update", Role::Admin, "Fetch the release at ?url="),
    (
        "POST",
        "/v1/reboot",
        Role::Admin,
        "Restart the host; ?holding=true although the engine holds a position",
    ),
    (
        "POST",
        "/v1/ask",
        Role::Reader,
        "What qctl speaks: a request in, an answer out; the role is the request's",
    ),
];

/// Why there is no answer: a status, and one line.
pub type Refused = (u16, String);

/// Parts of an HTTP request: path segments, query and body.
struct Parts<'a> {
    segments: Vec<&'a str>,
    query: BTreeMap<String, String>,
    body: &'a [u8],
}

impl Parts<'_> {
    fn number(&self, name: &str, default: u64) -> Result<u64, Refused> {
        match self.query.get(name) {
            None => Ok(default),
            Some(text) => {
                text.parse().map_err(|_| (400, format!("{name}={text}: a number is expected")))
            }
        }
    }

    fn count(&self) -> Result<usize, Refused> {
        Ok(usize::try_from(self.number("count", 100)?).unwrap_or(usize::MAX))
    }

    /// Of a terminal.
    fn size(&self) -> Result<Option<Size>, Refused> {
        let number = |name: &str| -> Result<u16, Refused> {
            let number = self.number(name, 0)?;
            u16::try_from(number).map_err(|_| (400, format!("{name}={number}: at most 65535")))
        };
        let size = Size { rows: number("rows")?, columns: number("columns")? };
        Ok(Some(size).filter(|size| size.rows > 0 && size.columns > 0))
    }

    fn is(&self, name: &str) -> bool {
        self.query.get(name).is_some_and(|value| value == "true")
    }

    fn text(&self) -> Result<String, Refused> {
        let text = std::str::from_utf8(self.body).map(ToOwned::to_owned);
        text.map_err(|error| (400, format!("the body is no text: {error}")))
    }

    fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Refused> {
        serde_json::from_slice(self.body).map_err(|error| (400, format!("the body: {error}")))
    }
}

/// Resolves method, path, query and body to an [`Ask`]; `stream` asks for events as they happen.
///
/// # Errors
/// 404 or 405 if there is no such path, 400 for what can't be understood.
pub fn route(
    method: &str,
    path: &str,
    query: &str,
    body: &[u8],
    stream: bool,
) -> Result<Ask, Refused> {
    let segments: Vec<String> = path.trim_start_matches('/').split('/').map(decoded).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    if !ROUTES.iter().any(|(_, known, ..)| matches(known, &segments)) {
        return Err((404, format!("there is no {path}; GET /v1/openapi.json says what there is")));
    }
    let parts = Parts { segments, query: pairs(query).into_iter().collect(), body };
    match (method, &parts.segments[..]) {
        ("GET", ["v1", "events"]) if stream => Ok(Ask::Events(parts.number("after", 0)?)),
        ("GET", ["v1", "logs", name]) => {
            Query::decode(name, query).map(Ask::Logs).map_err(|why| (400, why))
        }
        ("GET", ["v1", "debug", name, "terminal"]) => Ok(Ask::Terminal((*name).into())),
        ("GET", _) => read_request(path, &parts),
        ("POST", ["v1", "ask"]) => parts.json().map(Ask::Wrapped),
        _ => write_request(method, path, &parts).map(Ask::Agent),
    }
}

/// Resolves a GET that answers at once; it changes nothing.
fn read_request(path: &str, parts: &Parts<'_>) -> Result<Ask, Refused> {
    Ok(Ask::Agent(match &parts.segments[..] {
        ["healthz"] => return Ok(Ask::Health),
        ["metrics"] => return Ok(Ask::Metrics),
        ["v1", "openapi.json"] => return Ok(Ask::OpenApi),
        ["v1", "status"] => Request::Status {},
        ["v1", "events"] => {
            Request::Events { after: parts.number("after", 0)?, count: parts.count()? }
        }
        ["v1", "images"] => Request::Images {},
        ["v1", "secrets"] => Request::Secrets {},
        ["v1", "challenge"] => Request::Challenge {},
        ["v1", "audit"] => Request::Audit { count: parts.count()? },
        ["v1", "compose"] => Request::Declared {},
        ["v1", "limits"] => {
            Request::Limits { shard: parts.query.get("shard").cloned(), changes: BTreeMap::new() }
        }
        _ => return Err((405, format!("GET is not for {path}"))),
    }))
}

/// Resolves a request that may change something: POST, PUT or DELETE.
fn write_request(method: &str, path: &str, parts: &Parts<'_>) -> Result<Request, Refused> {
    let engine = |kill, drain| Request::Control { kill, drain };
    Ok(match (method, &parts.segments[..]) {
        ("DELETE", ["v1", "images", name]) => Request::RemoveImage { name: (*name).into() },
        ("PUT", ["v1", "secrets", name]) => {
            let secret = STANDARD.encode(parts.body);
            Request::SetSecret { name: (*name).into(), secret }
        }
        ("DELETE", ["v1", "secrets", name]) => Request::RemoveSecret { name: (*name).into() },
        ("PUT", ["v1", "compose"]) => {
            let compose = parts.text()?;
            let try_seconds = parts.query.get("try").map(|_| parts.number("try", 0)).transpose()?;
            let (dry_run, staged) = (parts.is("dry_run"), parts.is("staged"));
            Request::Apply { compose, dry_run, try_seconds, staged }
        }
        ("POST", ["v1", "compose", "keep"]) => Request::Keep {},
        ("POST", ["v1", "debug"]) => {
            let (compose, seconds) = (parts.text()?, parts.number("seconds", 600)?);
            Request::Debug { compose, seconds, terminal: parts.size()? }
        }
        ("POST", ["v1", "debug", name, "keys"]) => {
            Request::Type { name: (*name).into(), keys: STANDARD.encode(parts.body) }
        }
        ("POST", ["v1", "debug", name, "size"]) => {
            Request::Terminal { name: (*name).into(), size: parts.size()? }
        }
        ("DELETE", ["v1", "debug", name]) => Request::EndDebug { name: (*name).into() },
        ("PUT", ["v1", "desired"]) => Request::Deliver { envelope: parts.text()? },
        ("POST", ["v1", "desired", step]) => {
            let step: Step = serde_json::from_value(json!(step))
                .map_err(|_| (404, format!("{step}: hold, resume or sync")))?;
            Request::Desired { step }
        }
        ("POST", ["v1", "rollouts", name, step]) => {
            let step: RolloutStep = serde_json::from_value(json!(step))
                .map_err(|_| (404, format!("{step}: pause, resume, promote or undo")))?;
            Request::Rollout { name: (*name).into(), step }
        }
        ("POST", ["v1", "engine", "kill"]) => engine(true, false),
        ("POST", ["v1", "engine", "drain"]) => engine(false, true),
        ("POST", ["v1", "engine", "resume"]) => engine(false, false),
        ("PUT", ["v1", "limits"]) => {
            Request::Limits { shard: parts.query.get("shard").cloned(), changes: parts.json()? }
        }
        ("POST", ["v1", "capture"]) => {
            let text = |name: &str| parts.query.get(name).cloned().unwrap_or_default();
            Request::Capture(Wanted {
                interface: text("interface"),
                filter: text("filter"),
                seconds: parts.number("seconds", 10)?,
                packets: parts.number("packets", 10_000)?,
                trading: parts.is("trading"),
            })
        }
        ("POST", ["v1", "update"]) => {
            let url = parts.query.get("url").cloned();
            Request::Update { url: url.ok_or_else(|| (400, "?url= is expected".to_owned()))? }
        }
        ("POST", ["v1", "reboot"]) => Request::Reboot { holding: parts.is("holding") },
        _ => return Err((405, format!("{method} is not for {path}"))),
    })
}

/// Returns the role that a path needs: of `/v1/ask`, the request in it may need a higher one.
pub fn role_of(method: &str, path: &str) -> Option<Role> {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let mut routes = ROUTES.iter();
    routes.find(|it| it.0 == method && matches(it.1, &segments)).map(|it| it.2)
}

fn decoded(segment: &str) -> String {
    // A plus stands for itself in a path.
    pairs(&segment.replace('+', "%2B").replace('=', "%3D").replace('&', "%26"))
        .pop()
        .map_or_else(String::new, |(name, _)| name)
}

fn matches(known: &str, segments: &[&str]) -> bool {
    let known: Vec<&str> = known.trim_start_matches('/').split('/').collect();
    let same = |(known, found): (&&str, &&str)| known.starts_with('{') || known == found;
    known.len() == segments.len() && known.iter().zip(segments).all(same)
}

/// Returns the OpenAPI 3.1 description of [`ROUTES`].
pub fn open_api() -> Value {
    let mut paths = serde_json::Map::new();
    for (method, path, role, summary) in ROUTES {
        let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let parameters: Vec<Value> = names
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        let operation = json!({
            "summary": summary,
            "x-quietcore-role": role,
            "parameters": parameters,
            "responses": {
                "200": { "description": "Done" },
                "400": { "description": "Not understood" },
                "403": { "description": "The certificate's role is too low" },
                "409": { "description": "Refused, with the reason" },
            },
        });
        let entry = paths.entry(*path).or_insert_with(|| json!({}));
        entry[method.to_ascii_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Quietcore agent", "version": env!("CARGO_PKG_VERSION") },
        "security": [{ "certificate": [] }],
        "components": { "securitySchemes": { "certificate": { "type": "mutualTLS" } } },
        "paths": paths,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_that_is_described_is_there_and_for_the_role_that_is_said() {
        for (method, path, role, _) in ROUTES {
            let path = path.replace("{act}", "hold");
            let path =
                path.replace("{step}", "undo").replace("{order}", "kill").replace("{name}", "a");
            let body: &[u8] = match path.as_str() {
                "/v1/ask" => br#"{"method":"status"}"#,
                _ => br#"{"position_shares":1}"#,
            };
            let query = if path == "/v1/update" { "url=http://x/" } else { "" };
            let ask = route(method, &path, query, body, false).unwrap();
            let request = match ask {
                Ask::Agent(request) | Ask::Wrapped(request) => request.role(),
                Ask::Terminal(_) => Role::Operator,
                _ => Role::Reader,
            };
            assert_eq!(request, *role, "{method} {path}");
        }
        let described = open_api();
        let operations = described["paths"].as_object().unwrap().values();
        let operations: usize = operations.map(|path| path.as_object().unwrap().len()).sum();
        assert_eq!(operations, ROUTES.len());
    }

    #[test]
    fn what_is_not_there_or_not_understood_is_said() {
        let status = |method, path, query, body: &str| {
            route(method, path, query, body.as_bytes(), false).unwrap_err().0
        };
        assert_eq!(status("GET", "/v1/nothing", "", ""), 404);
        assert_eq!(status("POST", "/v1/status", "", ""), 405);
        assert_eq!(status("GET", "/v1/events", "after=x", ""), 400);
        assert_eq!(status("POST", "/v1/ask", "", "{}"), 400);
        assert_eq!(status("GET", "/v1/logs/-x", "", ""), 400);
        let image = route("DELETE", "/v1/images/reg%3A5000%2Fa%40sha256:0", "", b"", false);
        let name = "reg:5000/a@sha256:0".to_owned();
        assert_eq!(image, Ok(Ask::Agent(Request::RemoveImage { name })));
    }
}
