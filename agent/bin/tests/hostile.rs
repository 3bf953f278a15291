//! Randomized tests of the parsers of outside input: every parser accepts or refuses a changed
//! text, without a panic, within 5 s. The seed is printed on failure; `HOSTILE_ROUNDS` sets the
//! number of rounds.

use abi::hostplan::CorePlan;
use agent_core::api_routes::route;
use agent_core::compose;
use agent_core::desired::{Config, Desired};
use agent_core::log_entry::Entry;
use agent_core::request_signature::{Call, parse, signature, signature_input};
use agent_daemon::request_verifier::RequestVerifier;
use agent_host::images::policy::Policy;
use agent_host::vault_exchange;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePublicKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Changed texts for each reader.
const ROUNDS: u64 = 20_000;
/// One of them, on a machine that is busy with other things.
const LONGEST: Duration = Duration::from_secs(5);

/// Pieces that are more likely to hurt than any byte.
const PIECES: [&str; 20] = [
    "\0",
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    ":",
    "&a ",
    "*a",
    "<<: ",
    "%",
    "%00",
    "%zz",
    "\u{202e}",
    "-1",
    "18446744073709551616",
    "1e999",
    "../",
    "\n",
];

const COMPOSE: &str = "services:\n  a: &a\n    image: x@sha256:00\n    command: [\"b\", 'c']\n    environment: {D: \"1\"}\n    cpuset: \"0-1\"\n    mem_limit: 64m\n    volumes: [\"/run/quietcore/engine:/p:ro\"]\n    blkio_config: {device_read_bps: [{path: /dev/vda, rate: 1mb}]}\n    x-quietcore: {http: \"http://127.0.0.1:1/x\", ports: {1: 2}, canary: {bake: 1m}}\n    healthcheck: {interval: 1s}\n    deploy: {update_config: {order: start-first}}\n  b: {<<: *a, depends_on: [a]}\n";
const DESIRED: &str = "version = 1\nname = \"a\"\nurl = \"https://x/y\"\nwindows = [\"Mon-Fri 22:00-05:00\"]\nkeys = [\"\"\"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n\"\"\"]\n";
const VAULT: &str = "version = 1\nurl = \"https://v:8200\"\nrole_id = \"r\"\nsecret_id = \"s\"\n[[secret]]\nname = \"a\"\npath = \"b/c\"\nfield = \"d\"\n";
const IMAGE: &str =
    "r:5000/a/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const POLICY: &str = "version = 1\n[[registry]]\nname = \"r:5000\"\nmirrors = [\"m\"]\nunsigned = true\nrate_bytes_per_second = 4096\n";
const ENTRY: &str = r#"{"__CURSOR":"s=a;i=1","__REALTIME_TIMESTAMP":"1700000000000000","MESSAGE":"m","PRIORITY":"6","CONTAINER_NAME":["a","b"],"X":[1,2,255]}"#;
const BODY: &str = r#"{"method":"apply","compose":"services: {}","dry_run":true,"try":60}"#;
const SIGNED: &str = r#"{"signed":{"certificates":["AA=="],"method":"POST","authority":"h:1","target":"/v1/ask?a=b","body":"e30=","nonce":"a.1","signature":"AA=="}}"#;
const LINES: [&str; 6] = [
    "GET /v1/events after=1&count=2",
    "PUT /v1/compose dry_run=true&try=60",
    "POST /v1/rollouts/a/undo ",
    "GET /v1/logs/a lines=3&since=10%20min%20ago&follow=true",
    "DELETE /v1/images/r%3A5000%2Fa ",
    "POST /v1/ask ",
];

/// Some changes of a text: pieces put in, cut out, doubled; bytes of any value.
fn changed(text: &str, random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=random.next_u32() % 6 {
        let mut at = |len: usize| random.next_u64() as usize % (len + 1);
        let (from, to) = (at(bytes.len()), at(bytes.len()));
        let (from, to) = (from.min(to), from.max(to).min(from.min(to) + 40));
        match at(3) {
            0 => drop(bytes.splice(from..from, PIECES[at(PIECES.len() - 1)].bytes())),
            1 => drop(bytes.drain(from..to)),
            2 => {
                let piece = bytes[from..to].to_vec();
                let times = at(50);
                drop(bytes.splice(from..from, piece.repeat(times)));
            }
            _ if from < bytes.len() => bytes[from] = at(255) as u8,
            _ => {}
        }
    }
    bytes
}

/// Has a reader read changed texts.
fn hostile(name: &str, text: &str, read: impl Fn(&[u8])) {
    let rounds = std::env::var("HOSTILE_ROUNDS").ok().and_then(|text| text.parse().ok());
    for seed in 0..rounds.unwrap_or(ROUNDS) {
        let bytes = changed(text, &mut ChaCha8Rng::seed_from_u64(seed));
        let start = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| read(&bytes)));
        let shown = || String::from_utf8_lossy(&bytes).into_owned();
        assert!(ended.is_ok(), "{name}, seed {seed}: {}", shown());
        assert!(start.elapsed() < LONGEST, "{name}, seed {seed}: slow: {}", shown());
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn compose_files_and_desired_states_are_read_or_refused() {
    let cores = CorePlan::from_kernel("0-3", "2-3").unwrap();
    compose::parse(COMPOSE, &cores).unwrap();
    hostile("compose", COMPOSE, |bytes| drop(compose::parse(&text(bytes), &cores)));
    assert!(Config::parse(DESIRED).is_ok());
    hostile("desired", DESIRED, |bytes| {
        if let Ok(config) = Config::parse(&text(bytes)) {
            let _ = (config.windows.text(), config.windows.next_after(1));
        }
    });
    assert!(vault_exchange::Config::parse(VAULT).is_ok());
    hostile("vault", VAULT, |bytes| drop(vault_exchange::Config::parse(&text(bytes))));
    let key = SigningKey::from_bytes(&[7; 32]);
    let pem = key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
    let text = format!("version = 1\nname = \"a\"\nkeys = ['''{pem}''']\n");
    let config = Config::parse(&text).unwrap();
    let desired =
        Desired { name: "a".into(), serial: 1, compose: COMPOSE.into(), ..Desired::default() };
    let envelope = desired.seal(&key).unwrap();
    assert!(config.open(envelope.as_bytes()).is_ok());
    hostile("envelope", &envelope, |bytes| {
        // What still opens says what was signed.
        assert!(
            config.open(bytes).is_ok_and(|opened| opened == desired) || config.open(bytes).is_err()
        );
    });
}

#[test]
fn requests_are_understood_or_refused_with_a_status() {
    for line in LINES {
        hostile("route", line, |bytes| {
            let line = text(bytes);
            let mut words = line.splitn(3, ' ');
            let mut next = || words.next().unwrap_or_default();
            let (method, path, query) = (next(), next(), next());
            if let Err((status, why)) = route(method, path, query, BODY.as_bytes(), false) {
                assert!((400..500).contains(&status) && !why.is_empty());
            }
        });
    }
    hostile("body", BODY, |bytes| drop(route("POST", "/v1/ask", "", bytes, false)));
    let unsigned = format!("{{\"unsigned\":{{\"who\":\"a\",\"request\":{BODY}}}}}");
    hostile("call", &unsigned, |bytes| {
        if let Ok(Call::Unsigned { request, .. }) = serde_json::from_slice(bytes) {
            assert!(request.for_audit().to_string().len() < 2_000);
        }
    });
    let verifier = RequestVerifier::new("/".into());
    hostile("signed", SIGNED, |bytes| {
        if let Ok(call) = serde_json::from_slice::<Call>(bytes) {
            assert!(verifier.admit(call).is_err());
        }
    });
    let (input, signature) = (signature_input("ab12.7"), signature(b"bytes"));
    hostile("input", &input, |bytes| drop(parse(&text(bytes), &signature)));
    hostile("signature", &signature, |bytes| drop(parse(&input, &text(bytes))));
}

#[test]
fn policies_and_entries_of_the_journal_are_read_or_refused() {
    hostile("policy", POLICY, |bytes| {
        if let Ok(policy) = Policy::parse(&text(bytes)) {
            let _ = policy.admit(IMAGE);
        }
    });
    let policy = Policy::parse(POLICY).unwrap();
    assert!(policy.admit(IMAGE).is_ok());
    hostile("image", IMAGE, |bytes| {
        let _ = policy.admit(&text(bytes));
    });
    assert!(Entry::read(ENTRY).is_some());
    hostile("entry", ENTRY, |bytes| drop(Entry::read(&text(bytes))));
}

#[test]
fn a_reader_that_panics_is_noticed() {
    let noticed = catch_unwind(|| hostile("control", "abc", |bytes| assert_ne!(bytes.len(), 2)));
    assert!(noticed.is_err());
}
