//! Images from registries that are hostile, or lack what others have: stand-ins of one connection
//! after the other, over plain HTTP, whose answers the real client of the pull worker reads.

use agent_core::cosign;
use agent_core::digest::digest_of;
use agent_host::images::policy::Policy;
use agent_host::images::store::Store;
use agent_workers::pull;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::EncodePublicKey;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PASSWORD: &str = "host:swordfish";

/// Answer to one path.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
    /// Number of times that the body is sent, in one answer without a length.
    times: usize,
}

impl Answer {
    fn new(status: u16, headers: &str, body: &[u8]) -> Self {
        Self { status, headers: headers.into(), body: body.into(), times: 1 }
    }
}

/// Answers of a stand-in, and the requests that it saw.
#[derive(Default)]
struct Server {
    answers: HashMap<String, Answer>,
    /// The answer to each path that has none of its own; 404 without one.
    any: Option<Answer>,
    /// Demand for authorization, if requests need it.
    demand: Option<String>,
    seen: Vec<(String, Option<String>)>,
    sent: usize,
}

/// A stand-in, by its port.
#[derive(Clone)]
struct Registry {
    host: String,
    server: Arc<Mutex<Server>>,
}

impl Registry {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let server = Arc::new(Mutex::new(Server::default()));
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || serve(&stream, &serving));
            }
        });
        Self { host, server }
    }

    fn put(&self, path: &str, answer: Answer) {
        self.server.lock().unwrap().answers.insert(format!("/v2/desk/a/{path}"), answer);
    }

    fn put_blob(&self, bytes: &[u8]) -> Value {
        self.put(&format!("blobs/{}", digest_of(bytes)), Answer::new(200, "", bytes));
        json!({ "digest": digest_of(bytes), "size": bytes.len() })
    }

    fn put_manifest(&self, manifest: &Value, tag: Option<&str>) -> String {
        let bytes = manifest.to_string();
        let digest = digest_of(bytes.as_bytes());
        let answer = Answer::new(200, "", bytes.as_bytes());
        for name in tag.into_iter().chain([digest.as_str()]) {
            self.put(&format!("manifests/{name}"), answer.clone());
        }
        digest
    }

    /// An image of one layer; returns its digest.
    fn put_image(&self) -> String {
        let layer = typed(self.put_blob(b"layer"), "application/vnd.oci.image.layer.v1.tar");
        let config = format!(
            "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{:?}]}}}}",
            digest_of(b"layer")
        );
        let config = self.put_blob(config.as_bytes());
        let config = typed(config, "application/vnd.oci.image.config.v1+json");
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        self.put_manifest(&manifest, Some("1"))
    }

    /// cosign's signature of an image, by tag.
    fn put_signature(&self, key: &SigningKey, digest: &str) {
        let payload = json!({ "critical": {
            "identity": { "docker-reference": "" },
            "image": { "docker-manifest-digest": digest },
            "type": "cosign container image signature",
        }, "optional": null });
        let payload = payload.to_string();
        let mut layer = typed(
            self.put_blob(payload.as_bytes()),
            "application/vnd.dev.cosign.simplesigning.v1+json",
        );
        layer["annotations"] = json!({ cosign::ANNOTATION: sign(key, payload.as_bytes()) });
        let config = typed(self.put_blob(b"{}"), "application/vnd.oci.image.config.v1+json");
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        self.put_manifest(&manifest, Some(&cosign::tag(digest)));
    }

    /// cosign 3's signature of an image: a bundle that refers to it, listed at `path`.
    fn put_bundle(&self, key: &SigningKey, digest: &str, path: &str) {
        let hex = digest.trim_start_matches("sha256:");
        let statement = json!({ "_type": "https://in-toto.io/Statement/v1",
            "subject": [{ "digest": { "sha256": hex } }],
            "predicateType": "https://sigstore.dev/cosign/sign/v1", "predicate": {} });
        let envelope = abi::dsse::Envelope::seal(
            "application/vnd.in-toto+json",
            statement.to_string().as_bytes(),
            |bytes| {
                let signature: DerSignature = key.sign(bytes);
                signature.as_bytes().to_vec()
            },
        );
        let bundle = json!({ "mediaType": BUNDLE, "dsseEnvelope": envelope,
            "verificationMaterial": { "publicKey": { "hint": "x" } } });
        let layer = typed(self.put_blob(bundle.to_string().as_bytes()), BUNDLE);
        let config = typed(self.put_blob(b"{}"), "application/vnd.oci.empty.v1+json");
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": BUNDLE,
            "config": config, "layers": [layer] });
        let digest = self.put_manifest(&manifest, None);
        let one = json!({ "mediaType": MANIFEST, "artifactType": BUNDLE, "digest": digest,
            "size": manifest.to_string().len() });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [one] });
        self.put(path, Answer::new(200, "", index.to_string().as_bytes()));
    }

    fn demand(&self, demand: &str) {
        self.server.lock().unwrap().demand = Some(demand.into());
    }

    /// Returns true if it was ever sent the password.
    fn has_password(&self) -> bool {
        let password = format!("Basic {}", STANDARD.encode(PASSWORD));
        let server = self.server.lock().unwrap();
        server.seen.iter().any(|(_, authorization)| authorization.as_ref() == Some(&password))
    }

    fn sent(&self) -> usize {
        self.server.lock().unwrap().sent
    }
}

fn typed(mut descriptor: Value, media_type: &str) -> Value {
    descriptor["mediaType"] = json!(media_type);
    descriptor
}

fn sign(key: &SigningKey, bytes: &[u8]) -> String {
    let signature: DerSignature = key.sign(bytes);
    STANDARD.encode(signature.as_bytes())
}

fn serve(stream: &TcpStream, server: &Mutex<Server>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut request, mut authorization) = (String::new(), None);
    reader.read_line(&mut request).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        if name.eq_ignore_ascii_case("authorization") {
            authorization = Some(value.to_owned());
        }
    }
    let path = request.split(' ').nth(1)?.split('?').next()?.to_owned();
    let answer = {
        let mut server = server.lock().unwrap();
        server.seen.push((path.clone(), authorization.clone()));
        match server.demand.as_ref().filter(|_| authorization.is_none()) {
            Some(demand) => Answer::new(401, &format!("WWW-Authenticate: {demand}\r\n"), b"log in"),
            None => {
                let known = server.answers.get(&path).or(server.any.as_ref());
                known.cloned().unwrap_or_else(|| Answer::new(404, "", b"{}"))
            }
        }
    };
    let mut length = format!("Content-Length: {}\r\n", answer.body.len());
    if answer.times > 1 {
        length.clear();
    }
    let Answer { status, headers, body, times } = answer;
    let head = format!("HTTP/1.1 {status} X\r\n{headers}{length}Connection: close\r\n\r\n");
    let mut stream = stream;
    stream.write_all(head.as_bytes()).ok()?;
    for _ in 0..times {
        stream.write_all(&body).ok()?;
        server.lock().unwrap().sent += body.len();
    }
    Some(())
}

/// Fetches an image as the pull worker does, with a policy of these lines.
fn fetch(
    upstream: &Registry,
    reference: &str,
    lines: &str,
) -> (tempfile::TempDir, anyhow::Result<()>) {
    let directory = tempfile::tempdir().unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = Store::at(directory.path());
    store.prepare().unwrap();
    let host = &upstream.host;
    let policy =
        format!("version = 1\n[[registry]]\nname = \"{host}\"\nplain_http = true\n{lines}\n");
    let policy = Policy::parse(&policy).unwrap();
    let name = format!("{host}/desk/a{reference}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let fetched = runtime.block_on(pull::pull(&store, &policy, &name, &mut |_, _| {}));
    assert_eq!(store.find(&name).is_some(), fetched.is_ok());
    (directory, fetched)
}

fn key(number: u8) -> (SigningKey, String) {
    let key = SigningKey::from_slice(&[number; 32]).unwrap();
    let pem = key.verifying_key().to_public_key_pem(p256::pkcs8::LineEnding::LF).unwrap();
    (key, format!("signers = ['''{pem}''']"))
}

#[test]
fn a_signature_comes_from_whoever_has_it() {
    let (key, signers) = key(1);
    let (upstream, mirror) = (Registry::start(), Registry::start());
    let digest = mirror.put_image();
    upstream.put_image();
    let lines = format!("{signers}\nmirrors = [{:?}]", mirror.host);
    let error = format!("{:#}", fetch(&upstream, &format!("@{digest}"), &lines).1.unwrap_err());
    assert!(error.contains("nobody signed it"), "{error}");
    assert_eq!(
        mirror.server.lock().unwrap().seen.iter().filter(|it| it.0.contains("blobs")).count(),
        0
    );
    upstream.put_signature(&key, &digest);
    fetch(&upstream, &format!("@{digest}"), &lines).1.unwrap();
    let seen = |registry: &Registry, part: &str| {
        registry.server.lock().unwrap().seen.iter().any(|(path, _)| path.contains(part))
    };
    let layer = digest_of(b"layer");
    assert!(seen(&mirror, &layer) && !seen(&upstream, &layer), "its layer is the mirror's");
    // A mirror that serves something else under a tag does not keep the registry's image away.
    let stale = Registry::start();
    stale.put(
        "manifests/1",
        Answer::new(200, "", json!({ "mediaType": MANIFEST }).to_string().as_bytes()),
    );
    let lines = format!("unsigned = true\ntags = true\nmirrors = [{:?}]", stale.host);
    fetch(&upstream, ":1", &lines).1.unwrap();
}

#[test]
fn bundles_of_cosign_3_are_found_by_the_api_and_by_the_tag_in_its_place() {
    let (key, signers) = key(1);
    for path in ["referrers/DIGEST", "manifests/TAG"] {
        let registry = Registry::start();
        let digest = registry.put_image();
        let path = path.replace("DIGEST", &digest).replace("TAG", &digest.replace(':', "-"));
        let name = format!("@{digest}");
        fetch(&registry, &name, &signers).1.unwrap_err();
        let stranger = SigningKey::from_slice(&[2; 32]).unwrap();
        registry.put_bundle(&stranger, &digest, &path);
        let error = format!("{:#}", fetch(&registry, &name, &signers).1.unwrap_err());
        assert!(error.contains("none of its signatures is by a key"), "{error}");
        registry.put_bundle(&key, &digest, &path);
        fetch(&registry, &name, &signers).1.unwrap();
    }
}

#[test]
fn a_password_goes_to_its_registry_and_to_the_token_hosts_of_the_policy() {
    let login = "unsigned = true\nusername = \"host\"\npassword = \"swordfish\"";
    let tokens = Registry::start();
    tokens.server.lock().unwrap().any =
        Some(Answer::new(200, "", b"{\"token\":\"t\",\"access_token\":\"t\"}"));
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"x\"", tokens.host);
    // A registry's own demand.
    let upstream = Registry::start();
    let digest = format!("@{}", upstream.put_image());
    upstream.demand("Basic realm=\"desk\"");
    fetch(&upstream, &digest, login).1.unwrap();
    assert!(upstream.has_password());
    let error = format!("{:#}", fetch(&upstream, &digest, "unsigned = true").1.unwrap_err());
    assert!(error.contains("wants a password"), "{error}");
    // A mirror asks for the registry's, itself and by a token server.
    for demand in ["Basic realm=\"desk\"", realm.as_str()] {
        let mirror = Registry::start();
        mirror.put_image();
        mirror.demand(demand);
        let lines = format!("{login}\nmirrors = [{:?}]", mirror.host);
        fetch(&upstream, &digest, &lines).1.unwrap();
        assert!(!mirror.has_password() && !tokens.has_password(), "{demand}");
        // Its own is its own.
        let own = format!(
            "unsigned = true\nmirrors = [{{ host = {:?}, username = \"host\", password = \"swordfish\" }}]",
            mirror.host
        );
        let fetched = fetch(&upstream, &digest, &own).1;
        assert_eq!(mirror.has_password(), demand.starts_with("Basic"));
        assert_eq!(fetched.is_ok(), demand.starts_with("Basic"), "{fetched:?}");
        assert!(!tokens.has_password());
    }
    // The registry names a token server.
    upstream.demand(&realm);
    let error = format!("{:#}", fetch(&upstream, &digest, login).1.unwrap_err());
    assert!(error.contains("is not in token_hosts") && !tokens.has_password(), "{error}");
    let lines = format!("{login}\ntoken_hosts = [{:?}]", tokens.host);
    fetch(&upstream, &digest, &lines).1.unwrap();
    assert!(tokens.has_password());
    let seen = upstream.server.lock().unwrap();
    assert!(seen.seen.iter().any(|(_, it)| it.as_deref() == Some("Bearer t")));
}

fn below(random: &mut ChaCha8Rng, end: usize) -> usize {
    (random.next_u64() % end as u64) as usize
}

fn one<'a, T>(random: &mut ChaCha8Rng, of: &'a [T]) -> &'a T {
    &of[below(random, of.len())]
}

/// An answer that no registry should give: sizes, types, redirects, realms.
fn hostile(random: &mut ChaCha8Rng, own: &str, other: &str) -> Answer {
    let bodies: [&[u8]; 8] = [
        b"",
        b"{}",
        b"[]",
        b"{\"schemaVersion\":2,\"manifests\":[]}",
        b"{\"schemaVersion\":2,\"mediaType\":\"x\",\"config\":{\"mediaType\":\"x\",\"digest\":\"sha256:../../x\",\"size\":1},\"layers\":[]}",
        b"{\"schemaVersion\":2,\"config\":{\"mediaType\":\"x\",\"digest\":\"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\",\"size\":18446744073709551615},\"layers\":[]}",
        &[b'['; 4096],
        &[0xff; 4096],
    ];
    let realms = [
        format!("http://{other}/"),
        format!("http://{own}/"),
        "file:///etc/passwd".into(),
        "x".into(),
    ];
    let places = [
        format!("http://{other}/x"),
        format!("http://{own}/v2/"),
        "file:///etc/passwd".into(),
        "//".into(),
    ];
    let headers = match below(random, 5) {
        0 => format!("Location: {}\r\n", one(random, &places)),
        1 => format!("WWW-Authenticate: Bearer realm=\"{}\"\r\n", one(random, &realms)),
        2 => "WWW-Authenticate: Basic realm=\"x\"\r\n".into(),
        3 => "WWW-Authenticate: Bearer \"\\\"\r\nContent-Range: bytes 9-1/0\r\n".into(),
        _ => String::new(),
    };
    let status =
        *one(random, &[200, 206, 204, 301, 302, 307, 308, 401, 403, 404, 416, 429, 500, 503]);
    let mut answer = Answer::new(status, &headers, bodies[below(random, bodies.len())]);
    if below(random, 16) == 0 {
        // Half a gigabyte, without saying so.
        (answer.body, answer.times) = (vec![b' '; 1 << 20], 512);
    }
    answer
}

#[test]
fn answers_of_a_hostile_registry_are_bounded_and_learn_no_password() {
    let cases: u64 = std::env::var("CASES").map_or(400, |text| text.parse().unwrap());
    let (registry, stranger) = (Registry::start(), Registry::start());
    let digest = registry.put_image();
    let known: Vec<String> = registry.server.lock().unwrap().answers.keys().cloned().collect();
    let good = registry.server.lock().unwrap().answers.clone();
    let (_, signers) = key(1);
    let lines = format!("{signers}\ntags = true\nusername = \"host\"\npassword = \"swordfish\"");
    for seed in 0..cases {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        {
            let mut server = registry.server.lock().unwrap();
            server.answers.clone_from(&good);
            server.any = Some(hostile(&mut random, &registry.host, &stranger.host));
            for _ in 0..below(&mut random, 4) {
                let path = one(&mut random, &known).clone();
                server.answers.insert(path, hostile(&mut random, &registry.host, &stranger.host));
            }
            server.sent = 0;
        }
        stranger.server.lock().unwrap().any =
            Some(hostile(&mut random, &stranger.host, &registry.host));
        let name = if below(&mut random, 2) == 0 { ":1".to_owned() } else { format!("@{digest}") };
        let (_store, fetched) = fetch(&registry, &name, &lines);
        assert!(fetched.is_err(), "seed {seed}: nobody signed it");
        assert!(!stranger.has_password(), "seed {seed}: a stranger has the password");
        // Some requests of at most 4 MiB each, and what was on its way: not what was offered.
        assert!(registry.sent() < 100 << 20, "seed {seed}: {} bytes were read", registry.sent());
    }
    let peak = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    // MemoryMax= of quietcore-pull.service.
    assert!(peak < 256 << 10, "{peak} KiB at the most");
}
