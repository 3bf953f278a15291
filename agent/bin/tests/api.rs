//! The API over the network: the real server with TLS on both sides, certificates of `qctl ca`, and
//! in the agent's place a socket that verifies as the agent does and notes what it is asked.

use agent_core::protocol::{Request, Response, Role};
use agent_core::request_signature;
use agent_core::status::{Container, Status};
use agent_daemon::request_verifier::RequestVerifier;
use agent_host::api_config::Config;
use agent_workers::api::{ApiPaths, run};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

/// Request that was admitted: who asks, in which role, and for what.
#[derive(Debug, Clone)]
struct Call {
    who: String,
    role: Role,
    request: Request,
}

struct Fixture {
    _temporary: TempDir,
    directory: PathBuf,
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Call>>>,
}

fn qctl(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quietcore-agent"))
        .arg0("qctl")
        .args(arguments)
        .current_dir(directory)
        .env("QCTL_HOSTS", directory.join("hosts.toml"))
        .output()
        .unwrap()
}

fn must(arguments: &[&str], directory: &Path) -> String {
    let output = qctl(arguments, directory);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qctl {}: {said}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// Answers as an agent that does everything for who may ask.
fn stand_in(listener: UnixListener, asked: Arc<Mutex<Vec<Call>>>, config: PathBuf, image: PathBuf) {
    let verifier = RequestVerifier::new(image);
    for stream in listener.incoming().flatten() {
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        if let Ok(config) = Config::read(&config) {
            verifier.set_config(Some(config));
        }
        let answer = |response: &Response| {
            (&stream)
                .write_all((serde_json::to_string(response).unwrap() + "\n").as_bytes())
                .unwrap();
        };
        let call: request_signature::Call = serde_json::from_str(&line).unwrap();
        // The word of the API's process, for who asks without a signature.
        let named = match &call {
            request_signature::Call::Unsigned { who, .. } => Some(who.clone()),
            request_signature::Call::Signed(_) => None,
        };
        let call = match verifier.admit(call) {
            Ok((identity, request)) => {
                let who = named.unwrap_or(identity.who);
                Call { who, role: identity.role, request }
            }
            Err(error) => {
                answer(&Response::Forbidden(format!("{error:#}")));
                continue;
            }
        };
        let response = match &call.request {
            _ if call.role < call.request.role() => {
                Response::Forbidden("that is not for you".into())
            }
            Request::Challenge {} => {
                answer(&Response::Challenge(verifier.challenge().unwrap()));
                continue;
            }
            Request::Status {} => {
                Response::Status(Box::new(status(&asked.lock().unwrap(), &call.who)))
            }
            Request::Apply { .. } => Response::Changes(vec!["~ a: x:1, made anew".into()]),
            Request::Secrets {} => Response::Secrets(vec!["key".into()]),
            Request::Events { after, .. } if *after < 3 => Response::Events(vec![event(after + 1)]),
            Request::Events { .. } => Response::Events(Vec::new()),
            _ => Response::Done,
        };
        asked.lock().unwrap().push(call);
        answer(&response);
    }
}

/// On a host with a 2 in its name a version that is bad is taken back, and one that ends soon ends
/// once it was looked at twice.
fn status(asked: &[Call], who: &str) -> Status {
    let own: Vec<&Request> =
        asked.iter().filter(|call| call.who == who).map(|call| &call.request).collect();
    let looks = own.iter().rev().take_while(|it| matches!(it, Request::Status {})).count();
    let applied = own.iter().rev().find_map(|request| match request {
        Request::Apply { compose, .. } if who.contains('2') => Some(compose.as_str()),
        _ => None,
    });
    let mut container =
        Container { name: "a".into(), state: "running".into(), up: true, ..Container::default() };
    let applied = applied.unwrap_or_default();
    if applied.contains("bad") {
        container.rollout = Some("taken back: it ended with 4".into());
    }
    if applied.contains("soon") && looks >= 2 {
        (container.state, container.up) = ("stopped (1)".into(), false);
    }
    Status { containers: vec![container], ..Status::default() }
}

fn event(number: u64) -> agent_core::protocol::types::Event {
    let (about, text) = ("container a".into(), "started".into());
    agent_core::protocol::types::Event {
        number,
        time: 0,
        level: agent_core::protocol::types::Level::Info,
        about,
        text,
    }
}

impl Fixture {
    fn start() -> Self {
        Self::with_image(SystemTime::UNIX_EPOCH)
    }

    /// On an image that was made then.
    fn with_image(made: SystemTime) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().to_path_buf();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address: SocketAddr = ([127, 0, 0, 1], port).into();
        must(&["ca", "new", "ca"], &directory);
        let listen = address.to_string();
        must(
            &["ca", "host", "ca", "vm", "--address", "127.0.0.1", "--listen", &listen],
            &directory,
        );
        let agent = directory.join("agent.sock");
        let listener = UnixListener::bind(&agent).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        let (image, config) = (directory.join("image"), directory.join("ca/vm.api"));
        std::fs::File::create(&image).unwrap().set_modified(made).unwrap();
        let paths = ApiPaths { config: config.clone(), agent, image: image.clone() };
        std::thread::spawn(|| stand_in(listener, noted, config, image));
        std::thread::spawn(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(paths)).unwrap();
        });
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "nobody listens");
        }
        Self { _temporary: temporary, directory, address, asked }
    }

    /// A certificate, and the host's name for who has it.
    fn identity(&self, ca: &str, name: &str, role: &str) {
        must(&["ca", "client", ca, name, "--role", role], &self.directory);
        let (url, identity) = (format!("https://{}", self.address), format!("{ca}/{name}.pem"));
        must(
            &[
                "hosts",
                "add",
                name,
                &url,
                "--authority",
                "ca/ca.pem",
                "--identity",
                &identity,
                "--label",
                "site=ny4",
            ],
            &self.directory,
        );
    }

    /// Client with the certificate of somebody; it keeps its connection.
    fn agent(&self, who: &str) -> ureq::Agent {
        use ureq::tls::{Certificate, ClientCert, PemItem, RootCerts, TlsConfig, parse_pem};
        let pem = |path: &str| std::fs::read(self.directory.join(path)).unwrap();
        let (mut chain, mut key) = (Vec::new(), None);
        for item in parse_pem(&pem(&format!("ca/{who}.pem"))) {
            match item.unwrap() {
                PemItem::Certificate(certificate) => chain.push(certificate),
                PemItem::PrivateKey(found) => key = Some(found),
                _ => {}
            }
        }
        let root = Certificate::from_pem(&pem("ca/ca.pem")).unwrap();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::from(vec![root]))
            .client_cert(Some(ClientCert::new_with_certs(&chain, key.unwrap())))
            .build();
        let config = ureq::Agent::config_builder().tls_config(tls).http_status_as_error(false);
        ureq::Agent::new_with_config(config.build())
    }

    /// A request by HTTP, without qctl.
    fn http(
        &self,
        who: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, ureq::Body) {
        let agent = self.agent(who);
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // Who sends too much may find the connection closed before it has read the answer.
        match agent.run(request.body(body).unwrap()) {
            Ok(answer) => (answer.status().as_u16(), answer.into_body()),
            Err(_) => (0, ureq::Body::builder().data("")),
        }
    }

    fn get(&self, who: &str, path: &str) -> (u16, String) {
        let (status, mut body) = self.http(who, "GET", path, &[], b"");
        (status, body.read_to_string().unwrap())
    }
}

#[test]
fn who_asks_and_in_which_role_stands_in_the_certificate() {
    let fixture = Fixture::start();
    fixture.identity("ca", "rita", "reader");
    fixture.identity("ca", "adam", "admin");
    must(&["--on", "rita", "secret", "ls"], &fixture.directory);
    let refused = qctl(&["--on", "rita", "kill"], &fixture.directory);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not for you"));
    must(&["--on", "adam", "kill"], &fixture.directory);
    let asked = fixture.asked.lock().unwrap().clone();
    let kill = asked.last().unwrap();
    assert_eq!((kill.who.as_str(), kill.role), ("adam", Role::Admin));
    assert_eq!(kill.request, Request::Control { kill: true, drain: false });
    // All hosts with a label: both are the same one here.
    let both = must(&["--select", "site=ny4", "secret", "ls"], &fixture.directory);
    assert_eq!(both, "== adam\nkey\n== rita\nkey\n");
    let unknown = qctl(&["--on", "nobody", "status"], &fixture.directory);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there are adam, rita"));
    // Who is an admin has to prove it, each time.
    assert_eq!(fixture.http("adam", "POST", "/v1/engine/kill", &[], b"").0, 403);
    must(&["--on", "adam", "api", "POST", "/v1/engine/kill"], &fixture.directory);
    assert!(
        !qctl(&["--on", "rita", "api", "POST", "/v1/engine/kill"], &fixture.directory)
            .status
            .success()
    );
    must(&["--on", "adam", "api", "GET", "/v1/audit"], &fixture.directory);
}

#[test]
fn nobody_is_answered_without_a_certificate_of_the_authority() {
    let fixture = Fixture::start();
    fixture.identity("ca", "rita", "reader");
    assert_eq!(fixture.get("rita", "/v1/secrets"), (200, "[\"key\"]\n".into()));
    // Plain HTTP gets no answer that is one.
    let mut plain = TcpStream::connect(fixture.address).unwrap();
    plain.write_all(b"GET /v1/status HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    // TLS without a certificate.
    let pem = std::fs::read(fixture.directory.join("ca/ca.pem")).unwrap();
    let root = ureq::tls::Certificate::from_pem(&pem).unwrap();
    let tls = ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::from(vec![root]));
    let config = ureq::Agent::config_builder().tls_config(tls.build()).build();
    let url = format!("https://{}/v1/status", fixture.address);
    assert!(ureq::Agent::new_with_config(config).get(&url).call().is_err());
    // One of another authority.
    must(&["ca", "new", "other"], &fixture.directory);
    fixture.identity("other", "eve", "admin");
    assert!(!qctl(&["--on", "eve", "status"], &fixture.directory).status.success());
    // A host's own certificate says no role.
    let asked = fixture.asked.lock().unwrap().clone();
    assert!(asked.iter().all(|call| call.who == "rita"), "{asked:?}");
}

#[test]
fn paths_are_answered_events_followed_and_sizes_bounded() {
    let fixture = Fixture::start();
    fixture.identity("ca", "adam", "admin");
    let (status, metrics) = fixture.get("adam", "/metrics");
    assert!(status == 200 && metrics.contains("quietcore_healthy 0"), "{metrics}");
    assert_eq!(fixture.get("adam", "/healthz").0, 503);
    assert!(fixture.get("adam", "/v1/openapi.json").1.contains("mutualTLS"));
    assert_eq!(fixture.get("adam", "/v1/nothing").0, 404);
    assert_eq!(fixture.http("adam", "POST", "/v1/status", &[], b"").0, 405);
    assert_eq!(fixture.http("adam", "POST", "/v1/ask", &[], b"{}").0, 400);
    let large = vec![b'x'; agent_core::limits::REQUEST_LEN_MAX as usize + 1];
    let before = fixture.asked.lock().unwrap().len();
    assert!([0, 413].contains(&fixture.http("adam", "PUT", "/v1/compose", &[], &large).0));
    assert_eq!(fixture.asked.lock().unwrap().len(), before);
    std::fs::write(fixture.directory.join("bytes"), b"\xff\x00").unwrap();
    must(&["--on", "adam", "api", "PUT", "/v1/secrets/a", "bytes"], &fixture.directory);
    let set = fixture.asked.lock().unwrap().last().unwrap().request.clone();
    assert_eq!(set, Request::SetSecret { name: "a".into(), secret: "/wA=".into() });
    // From where the last connection was.
    let headers = [("accept", "text/event-stream"), ("last-event-id", "1")];
    let (status, body) = fixture.http("adam", "GET", "/v1/events", &headers, b"");
    assert_eq!(status, 200);
    let mut lines = BufReader::new(body.into_reader()).lines();
    let mut ids = Vec::new();
    while ids.len() < 2 {
        let line = lines.next().unwrap().unwrap();
        ids.extend(line.strip_prefix("id: ").map(ToOwned::to_owned));
    }
    assert_eq!(ids, ["2", "3"]);
}

#[test]
fn a_file_comes_to_some_hosts_first_and_to_no_more_where_it_fails() {
    let fixture = Fixture::start();
    for name in ["h1", "h2", "h3", "h4"] {
        fixture.identity("ca", name, "operator");
    }
    std::fs::write(fixture.directory.join("good.yaml"), "services: {a: {image: x}}").unwrap();
    std::fs::write(fixture.directory.join("bad.yaml"), "services: {a: {image: bad}}").unwrap();
    std::fs::write(fixture.directory.join("soon.yaml"), "services: {a: {image: soon}}").unwrap();
    let apply = |file: &str, more: &[&str]| {
        fixture.asked.lock().unwrap().clear();
        let words = [&["--select", "site=ny4", "apply", file, "--wait=20s"], more].concat();
        let output = qctl(&words, &fixture.directory);
        let asked = fixture.asked.lock().unwrap().clone();
        let applied = asked.into_iter().filter(|it| matches!(it.request, Request::Apply { .. }));
        let who: Vec<String> = applied.map(|call| call.who).collect();
        (output.status.success(), who.join(" "), String::from_utf8(output.stderr).unwrap())
    };
    let (done, who, said) = apply("good.yaml", &["--canary", "25%", "--bake", "1s"]);
    assert!(done && who == "h1 h2 h3 h4", "{who}: {said}");
    let (done, who, said) = apply("bad.yaml", &["--canary", "2"]);
    assert!(!done && who == "h1 h2", "{who}: {said}");
    assert!(
        said.contains("h2; 2 of 4 hosts were not asked") && said.contains("ended with 4"),
        "{said}"
    );
}

#[test]
fn certificates_change_without_a_restart_and_a_bad_one_changes_nothing() {
    let fixture = Fixture::start();
    fixture.identity("ca", "rita", "reader");
    assert_eq!(fixture.get("rita", "/v1/secrets").0, 200);
    let config = fixture.directory.join("ca/vm.api");
    let before = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, "version = 1\n").unwrap();
    assert_eq!(fixture.get("rita", "/v1/secrets").0, 200);
    // Another authority for those who ask: the host's own certificate stays.
    must(&["ca", "new", "next"], &fixture.directory);
    let next = std::fs::read_to_string(fixture.directory.join("next/ca.pem")).unwrap();
    let (head, _) = before.split_once("clients = ").unwrap();
    std::fs::write(&config, format!("{head}clients = '''{next}'''\n")).unwrap();
    assert!(!qctl(&["--on", "rita", "secret", "ls"], &fixture.directory).status.success());
    fixture.identity("next", "nora", "reader");
    must(&["--on", "nora", "secret", "ls"], &fixture.directory);
}

#[test]
fn a_clock_that_stands_before_the_image_was_made_is_not_believed() {
    let year = Duration::from_secs(365 * 86_400);
    let fixture = Fixture::with_image(SystemTime::now() + year);
    fixture.identity("ca", "rita", "reader");
    // Good for 90 days from what this machine takes for today; the host knows better.
    let refused = qctl(&["--on", "rita", "secret", "ls"], &fixture.directory);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("certificate"), "{said}");
}

#[test]
fn a_page_of_another_site_asks_nothing() {
    let fixture = Fixture::start();
    fixture.identity("ca", "olga", "operator");
    let call = br#"{"method":"secrets"}"#;
    let ask = |headers: &[(&str, &str)]| fixture.http("olga", "POST", "/v1/ask", headers, call).0;
    let json = ("content-type", "application/json");
    assert_eq!(ask(&[json]), 200);
    let own = format!("https://{}", fixture.address);
    assert_eq!(ask(&[json, ("origin", &own), ("sec-fetch-site", "same-origin")]), 200);
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        assert_eq!(ask(&[json, (name, value)]), 403, "{name}: {value}");
    }
    for kind in ["text/plain", "text/plain;charset=UTF-8", "multipart/form-data; boundary=x"] {
        assert_eq!(ask(&[("content-type", kind)]), 403, "{kind}");
    }
    assert_eq!(fixture.asked.lock().unwrap().len(), 2);
}

#[test]
fn a_held_connection_ends_with_its_authority() {
    let fixture = Fixture::start();
    fixture.identity("ca", "olga", "operator");
    let agent = fixture.agent("olga");
    let url = format!("https://{}/v1/secrets", fixture.address);
    let ask = || {
        let mut answer = agent.get(&url).call().ok()?;
        let _ = answer.body_mut().read_to_string();
        Some(answer.status().as_u16())
    };
    assert_eq!(ask(), Some(200));
    must(&["--on", "olga", "resume"], &fixture.directory);
    let config = fixture.directory.join("ca/vm.api");
    let before = std::fs::read_to_string(&config).unwrap();
    must(&["ca", "new", "next"], &fixture.directory);
    let next = std::fs::read_to_string(fixture.directory.join("next/ca.pem")).unwrap();
    let (head, _) = before.split_once("clients = ").unwrap();
    std::fs::write(&config, format!("{head}clients = '''{next}'''\n")).unwrap();
    // Asked again and again on the same connection, and nobody else comes.
    let start = std::time::Instant::now();
    while ask() == Some(200) {
        assert!(start.elapsed() < Duration::from_secs(10), "it is still answered");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(!qctl(&["--on", "olga", "resume"], &fixture.directory).status.success());
}
