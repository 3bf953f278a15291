//! Secrets from Vault: the real client over TLS, and in Vault's place a server that answers as its
//! API documentation has it ("AppRole auth method", "Login with AppRole"; "KV secrets engine,
//! version 2", "Read secret version"). No server of that API with KV version 2 is to be had from
//! Debian, crates.io, PyPI or npm: RustyVault 0.2.1 has version 1.

use agent_host::vault_exchange::{Config, VaultPaths};
use agent_workers::vault::run;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// State of the stand-in for Vault: valid token, password, number of logins.
#[derive(Debug)]
struct Vault {
    /// The only token that is good.
    token: String,
    password: String,
    /// A request that is answered with this status.
    refused: (&'static str, u16),
    logins: u32,
    renewals: u32,
    /// Seconds that a token is good for.
    lease: u32,
}

impl Vault {
    fn new(password: &str) -> Arc<Mutex<Self>> {
        let (token, password) = (String::new(), password.into());
        let refused = ("", 404);
        let vault = Self { token, password, refused, logins: 0, renewals: 0, lease: 1200 };
        Arc::new(Mutex::new(vault))
    }

    /// Information on the token, as a login and a renewal answer it.
    fn auth(&self) -> (u16, Value) {
        let auth = json!({
            "renewable": true, "lease_duration": self.lease, "metadata": null,
            "token_policies": ["default"], "accessor": "fd6c9a00", "policies": ["default"],
            "client_token": self.token, "entity_id": "", "token_type": "service", "orphan": true,
        });
        let answer = json!({ "auth": auth, "warnings": null, "wrap_info": null, "data": null,
            "lease_duration": 0, "renewable": false, "lease_id": "", "request_id": "" });
        (200, answer)
    }
}

/// The answer to a request.
fn answer(vault: &mut Vault, request: &str, token: Option<&str>, body: &[u8]) -> (u16, Value) {
    let refused = |code, why: &str| (code, json!({ "errors": [why] }));
    match request {
        "POST /v1/auth/approle/login" => {
            let given: Value = serde_json::from_slice(body).unwrap_or_default();
            if given != json!({ "role_id": "59d6d1ca", "secret_id": "84896a0c" }) {
                return refused(400, "invalid role or secret ID");
            }
            vault.logins += 1;
            vault.token = format!("token-{}", vault.logins);
            vault.auth()
        }
        _ if token != Some(vault.token.as_str()) => refused(403, "permission denied"),
        "POST /v1/auth/token/renew-self" => {
            vault.renewals += 1;
            vault.auth()
        }
        "GET /v1/auth/token/lookup-self" => {
            let data = json!({ "accessor": "a", "creation_time": 0, "creation_ttl": 0,
                "display_name": "", "entity_id": "", "expire_time": null, "explicit_max_ttl": 0,
                "id": "", "identity_policies": [], "issue_time": "", "meta": {}, "num_uses": 0,
                "orphan": true, "path": "", "policies": [], "renewable": true, "ttl": 1 });
            (
                200,
                json!({ "request_id": "", "lease_id": "", "renewable": false,
                "lease_duration": 0, "data": data, "wrap_info": null, "warnings": null, "auth": null }),
            )
        }
        other if other == vault.refused.0 => refused(vault.refused.1, "not this one"),
        "GET /v1/secret/data/desk/ny4" | "GET /v1/secret/data/desk/bytes" => {
            let metadata = json!({ "created_time": "2018-03-22T02:24:06.945319214Z",
                "custom_metadata": null, "deletion_time": "", "destroyed": false, "version": 2 });
            let data = json!({ "data": { "password": vault.password, "key": "AP8=" }, "metadata": metadata });
            (
                200,
                json!({ "request_id": "", "lease_id": "", "renewable": false, "lease_duration": 0,
                "data": data, "wrap_info": null, "warnings": null, "auth": null }),
            )
        }
        _ => (404, json!({ "errors": [] })),
    }
}

/// One request on one connection.
fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    vault: &Mutex<Vault>,
) -> std::io::Result<()> {
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let (mut request, mut token, mut len) = (String::new(), None, 0);
    stream.read_line(&mut request)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "x-vault-token" => token = Some(value.to_owned()),
            "content-length" => len = value.parse().map_err(std::io::Error::other)?,
            _ => {}
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body)?;
    let request = request.rsplit_once(" HTTP/").map_or("", |(request, _)| request);
    // The client ends a path without a query so.
    let request = request.trim_end_matches('?');
    let mut vault = vault.lock().unwrap();
    let (code, answer) = answer(&mut vault, request, token.as_deref(), &body);
    let answer = answer.to_string();
    let head = format!(
        "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        answer.len()
    );
    let out = stream.get_mut();
    out.write_all((head + &answer).as_bytes())?;
    out.conn.send_close_notify();
    out.flush()
}

/// Error of the last attempt, as the agent reads it.
fn wrong(paths: &VaultPaths) -> Option<String> {
    paths.report_file().read().ok().flatten()?.error
}

/// Starts one; its address and who vouches for it.
fn start(vault: Arc<Mutex<Vault>>) -> (String, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let config = ServerConfig::builder().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![own.cert.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = serve(stream, config.clone(), &vault);
        }
    });
    (url, own.cert.pem())
}

/// Starts the process's work in a directory of its own.
fn read_into(url: &str, authority: &str, secret_id: &str) -> (TempDir, VaultPaths) {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "version = 1\nurl = {url:?}\nauthority = '''{authority}'''\nrole_id = \"59d6d1ca\"\nsecret_id = {secret_id:?}\ninterval_seconds = 5\n[[secret]]\nname = \"feed\"\npath = \"desk/ny4\"\nfield = \"password\"\n[[secret]]\nname = \"bytes\"\npath = \"desk/bytes\"\nfield = \"key\"\nbase64 = true\n"
    );
    let (config, paths) =
        (Config::parse(&text).unwrap(), VaultPaths::in_directory(directory.path()));
    let own = paths.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&config, &own)).unwrap();
    });
    (directory, paths)
}

fn wait<T>(path: &Path, look: impl Fn() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        let said = std::fs::read_to_string(path.join("failed")).unwrap_or_default();
        assert!(start.elapsed() < Duration::from_secs(60), "it does not come: {said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn secrets_are_read_and_read_again_when_the_token_was_taken_back() {
    let vault = Vault::new("swordfish");
    let (url, authority) = start(vault.clone());
    let (directory, paths) = read_into(&url, &authority, "84896a0c");
    let fetched = wait(directory.path(), || paths.fetched_file().read().ok().flatten());
    // The password, and the two bytes 00 ff.
    assert_eq!((fetched["feed"].as_str(), fetched["bytes"].as_str()), ("c3dvcmRmaXNo", "AP8="));
    assert_eq!((wrong(&paths), vault.lock().unwrap().logins), (None, 1));
    {
        let mut vault = vault.lock().unwrap();
        (vault.password, vault.token) = ("herring".into(), "taken back".into());
    }
    wait(directory.path(), || {
        paths.fetched_file().read().ok().flatten().filter(|it| it["feed"] == "aGVycmluZw==")
    });
    assert_eq!((wrong(&paths), vault.lock().unwrap().logins), (None, 2));
}

#[test]
fn one_secret_that_is_missing_keeps_no_other_and_a_login_is_used_once() {
    let vault = Vault::new("swordfish");
    const BYTES: &str = "GET /v1/secret/data/desk/bytes";
    // Renewed at every read.
    {
        let mut vault = vault.lock().unwrap();
        (vault.refused, vault.lease) = ((BYTES, 404), 1);
    }
    let (url, authority) = start(vault.clone());
    let (directory, paths) = read_into(&url, &authority, "84896a0c");
    let fetched = wait(directory.path(), || paths.fetched_file().read().ok().flatten());
    assert_eq!(fetched.keys().collect::<Vec<_>>(), ["feed"]);
    let said = wait(directory.path(), || wrong(&paths));
    assert!(said.contains("secret bytes: secret/desk/bytes: status 404"), "{said}");
    assert!(!said.contains("feed"), "{said}");
    // A path that the token has no right to is no reason to log in again.
    vault.lock().unwrap().refused = (BYTES, 403);
    wait(directory.path(), || wrong(&paths).filter(|it| it.contains("status 403")));
    vault.lock().unwrap().refused = ("", 0);
    wait(directory.path(), || {
        paths.fetched_file().read().ok().flatten().filter(|it| it.len() == 2)
    });
    wait(directory.path(), || wrong(&paths).is_none().then_some(()));
    let vault = vault.lock().unwrap();
    assert_eq!(vault.logins, 1, "secret IDs may be good for one login");
    assert!(vault.renewals > 0);
    drop(vault);
}

#[test]
fn what_vault_says_is_told_and_a_stranger_is_not_believed() {
    let vault = Vault::new("");
    let (url, authority) = start(vault.clone());
    let (directory, paths) = read_into(&url, &authority, "guessed");
    let said = wait(directory.path(), || wrong(&paths));
    assert!(said.contains("log in by AppRole: status 400: invalid role or secret ID"), "{said}");
    assert!(!paths.fetched.exists());
    // One for whom nobody vouches is told no secret.
    let (directory, paths) = read_into(&url, "", "84896a0c");
    let said = wait(directory.path(), || wrong(&paths));
    assert!(said.contains("certificate") && vault.lock().unwrap().logins == 0, "{said}");
}
