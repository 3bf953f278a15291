//! Proof of who asks over the network: what the process that speaks TLS could make up, change or
//! say again is refused by the agent.

use agent_core::protocol::{Request, Role};
use agent_core::request_signature::{Call, SignedRequest};
use agent_daemon::request_verifier::RequestVerifier;
use agent_host::api_config::{Config, certificates};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

fn qctl(arguments: &[&str], directory: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_quietcore-agent"))
        .arg0("qctl")
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Two authorities: `ca` with the hosts vm and other, and clients; `eve` with a client.
struct Fixture {
    directory: tempfile::TempDir,
    verifier: RequestVerifier,
}

/// Client of a fixture: certificate and key.
struct Client {
    certificates: Vec<String>,
    key: PrivateKeyDer<'static>,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        for authority in ["ca", "eve"] {
            qctl(&["ca", "new", authority], at);
            for role in ["reader", "operator", "admin"] {
                qctl(&["ca", "client", authority, &format!("an-{role}"), "--role", role], at);
            }
        }
        qctl(&["ca", "host", "ca", "vm", "--address", "vm.desk", "--address", "10.0.0.5"], at);
        qctl(&["ca", "host", "ca", "other", "--address", "other.desk"], at);
        let verifier = RequestVerifier::new(at.join("missing"));
        let fixture = Self { directory, verifier };
        fixture.verifier.set_config(Some(fixture.config("vm")));
        fixture
    }

    fn config(&self, host: &str) -> Config {
        Config::read(&self.directory.path().join(format!("ca/{host}.api"))).unwrap()
    }

    fn client(&self, authority: &str, name: &str) -> Client {
        let path = self.directory.path().join(format!("{authority}/{name}.pem"));
        Client::parse(&std::fs::read_to_string(path).unwrap())
    }

    /// A request to kill, with a challenge of its own.
    fn kill(&self, client: &Client) -> SignedRequest {
        let nonce = self.verifier.challenge().unwrap() + ".1";
        client.sign(SignedRequest {
            certificates: client.certificates.clone(),
            method: "POST".into(),
            authority: "vm.desk:9443".into(),
            target: "/v1/engine/kill".into(),
            body: String::new(),
            nonce,
            signature: String::new(),
        })
    }

    fn refused(&self, why: &str, signed: SignedRequest) {
        let said = match self.verifier.admit(Call::Signed(signed)) {
            Ok(admitted) => panic!("{why}: {admitted:?}"),
            Err(error) => format!("{error:#}"),
        };
        assert!(said.contains(why), "{said}: {why} is expected");
    }
}

impl Client {
    fn parse(pem: &str) -> Self {
        let chain = certificates(pem).unwrap();
        let certificates = chain.iter().map(|certificate| STANDARD.encode(certificate)).collect();
        Self { certificates, key: PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap() }
    }

    fn sign(&self, signed: SignedRequest) -> SignedRequest {
        let key = rustls::crypto::ring::sign::any_supported_type(&self.key).unwrap();
        let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
        let signature = STANDARD.encode(signer.sign(signed.base().unwrap().as_bytes()).unwrap());
        SignedRequest { signature, ..signed }
    }
}

#[test]
fn a_signed_request_has_the_role_of_its_certificate() {
    let fixture = Fixture::new();
    for (name, role) in
        [("an-reader", Role::Reader), ("an-operator", Role::Operator), ("an-admin", Role::Admin)]
    {
        let signed = fixture.kill(&fixture.client("ca", name));
        let (identity, request) = fixture.verifier.admit(Call::Signed(signed)).unwrap();
        assert_eq!((identity.who.as_str(), identity.role), (name, role));
        assert_eq!(request, Request::Control { kill: true, drain: false });
    }
    // Without a signature everybody is a reader, whoever the API's process says it is.
    let request = Request::Reboot { holding: true };
    let call = Call::Unsigned { who: "an-admin".into(), request };
    assert_eq!(fixture.verifier.admit(call).unwrap().0.role, Role::Reader);
    let call = Call::Unsigned { who: "a\nb".repeat(50), request: Request::Status {} };
    assert!(fixture.verifier.admit(call).is_err());
}

#[test]
fn a_signature_is_for_one_request_one_host_and_one_time() {
    let fixture = Fixture::new();
    let client = fixture.client("ca", "an-operator");
    let good = || fixture.kill(&client);
    let changed = |change: fn(&mut SignedRequest)| {
        let mut signed = good();
        change(&mut signed);
        fixture.refused("of another request", signed);
    };
    changed(|it| it.target = "/v1/engine/resume".into());
    changed(|it| it.target += "?x=1");
    changed(|it| (it.method, it.target) = ("PUT".into(), "/v1/compose".into()));
    changed(|it| it.body = STANDARD.encode("x"));
    changed(|it| it.authority = "10.0.0.5:9443".into());
    changed(|it| it.nonce.push('1'));
    changed(|it| it.signature.clear());
    changed(|it| it.signature = STANDARD.encode([0; 70]));
    // A part that has the lines after it would be the same text.
    let more =
        SignedRequest { target: "/v1/engine/kill?a\n\"content-digest\": x".into(), ..good() };
    fixture.refused("visible ASCII", more);

    let signed = good();
    fixture.verifier.admit(Call::Signed(signed.clone())).unwrap();
    fixture.refused("used before", signed.clone());
    let second = SignedRequest { nonce: signed.nonce.replace(".1", ".7"), ..signed.clone() };
    fixture.verifier.admit(Call::Signed(client.sign(second))).unwrap();
    let between = SignedRequest { nonce: signed.nonce.replace(".1", ".6"), ..signed };
    fixture.refused("used before", client.sign(between));
    let unknown = SignedRequest { nonce: format!("{:032x}.1", 7), ..good() };
    fixture.refused("challenge", client.sign(unknown));
    for nonce in ["", "a", ".", "a.", ".1", "a.x", "a.-1"] {
        let nonce = nonce.to_owned();
        fixture.refused("signature", client.sign(SignedRequest { nonce, ..good() }));
    }
    let elsewhere = SignedRequest { authority: "other.desk:9443".into(), ..good() };
    fixture.refused("another host", client.sign(elsewhere));
    fixture.refused("authority", client.sign(SignedRequest { authority: String::new(), ..good() }));
    // The other way round: this one's signature, brought to the other host.
    let signed = good();
    fixture.verifier.set_config(Some(fixture.config("other")));
    fixture.refused("another host", signed);
    fixture.verifier.set_config(None);
    fixture.refused("no configuration", good());
}

#[test]
fn only_a_client_of_the_authority_in_force_signs() {
    let fixture = Fixture::new();
    let (client, admin) = (fixture.client("ca", "an-operator"), fixture.client("ca", "an-admin"));
    fixture.refused("not one of the authority", fixture.kill(&fixture.client("eve", "an-admin")));
    // Somebody else's certificate before one's own key.
    let borrowed =
        SignedRequest { certificates: admin.certificates.clone(), ..fixture.kill(&client) };
    fixture.refused("of another request", borrowed);
    for certificates in [vec![], vec!["?".into()], vec![STANDARD.encode("x")]] {
        fixture.refused("signature", SignedRequest { certificates, ..fixture.kill(&client) });
    }
    let many = client.certificates.iter().cycle().take(100).cloned().collect();
    fixture.refused("too long", SignedRequest { certificates: many, ..fixture.kill(&client) });
    // The host's own key, which the API's process has, is no client's.
    let config = fixture.config("vm");
    let host = Client::parse(&(config.certificate.clone() + &config.key));
    fixture.refused("not one of the authority", fixture.kill(&host));
    // The authority is another from now on.
    let next = fixture.config("vm");
    let clients = std::fs::read_to_string(fixture.directory.path().join("eve/ca.pem")).unwrap();
    let signed = fixture.kill(&client);
    fixture.verifier.set_config(Some(Config { clients, ..next }));
    fixture.refused("not one of the authority", signed);
}

#[test]
fn what_the_api_answers_itself_takes_no_signature() {
    let fixture = Fixture::new();
    let client = fixture.client("ca", "an-admin");
    for target in ["/metrics", "/v1/openapi.json", "/v1/logs/a", "/v1/nothing", "", "v1/ask"] {
        let (method, target) = ("GET".into(), target.into());
        let signed = SignedRequest { method, target, ..fixture.kill(&client) };
        let admitted = fixture.verifier.admit(Call::Signed(client.sign(signed)));
        assert!(admitted.is_err(), "{admitted:?}");
    }
}
