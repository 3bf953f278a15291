//! A registry with real peers: Debian's docker-registry serves, skopeo copies into it, cosign
//! signs. All of them run in the tools root; the guest reaches the registry at 10.0.2.2. It wants a
//! name and a password, and an authority of its own vouches for it.

use crate::harness::booted::{Booted, give_credential};
use crate::harness::checkout::{self, ImageFiles};
use crate::harness::guest_clock::limit_under_load;
use crate::harness::http::free_port;
use anyhow::{Context, Result, ensure};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time limit for the registry to answer once it is started.
const START_LIMIT: Duration = Duration::from_secs(30);

/// User name that the registry accepts.
const USER: &str = "host";
/// Password of [`USER`].
const PASSWORD: &str = "swordfish";
/// The two as htpasswd has them: bcrypt, cost 5.
const HTPASSWD: &str = "host:$2y$05$SbYSMDjcCXINqT4Mx5LOOOZ5msedL57N/7AqMsgYgYnNCmirI9Xiq";

/// An authority of its own, and a certificate for the addresses at which this machine and the guest
/// reach it.
const CERTIFY: &str = r#"mkdir authority
new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
openssl req -quiet -x509 $new -keyout ca.key -out authority/ca.crt -days 30 -subj /CN=desk
openssl req -quiet $new -keyout tls.key -out tls.csr -subj /CN=registry
echo subjectAltName=IP:127.0.0.1,IP:10.0.2.2 > names
openssl x509 -req -in tls.csr -CA authority/ca.crt -CAkey ca.key -days 30 -extfile names -out tls.pem 2> /dev/null"#;

/// A registry that runs until it is dropped, with its files.
pub struct Registry {
    image: ImageFiles,
    directory: PathBuf,
    server: Child,
    /// Port of the registry on 127.0.0.1.
    pub port: u16,
}

impl Registry {
    /// Starts one; its repositories are empty.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start(image: &ImageFiles) -> Result<Self> {
        let port = free_port()?;
        let name = format!("quietcore-registry-{}-{port}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(directory.join("repositories"))?;
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem:\n    rootdirectory: /registry/repositories\nhttp:\n  addr: 127.0.0.1:{port}\n  tls: {{certificate: /registry/tls.pem, key: /registry/tls.key}}\nauth:\n  htpasswd: {{realm: desk, path: /registry/htpasswd}}\n"
        );
        std::fs::write(directory.join("config.yml"), config)?;
        std::fs::write(directory.join("htpasswd"), format!("{HTPASSWD}\n"))?;
        run(image, &directory, CERTIFY)?;
        let server = serve(image, &directory)?;
        let registry = Self { image: image.clone(), directory, server, port };
        registry.wait()?;
        Ok(registry)
    }

    fn wait(&self) -> Result<()> {
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            ensure!(
                start.elapsed() < limit_under_load(START_LIMIT),
                "the registry does not answer: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Ends the server.
    ///
    /// # Errors
    /// It can't be ended.
    pub fn stop(&mut self) -> Result<()> {
        self.server.kill().context("end the registry")?;
        self.server.wait()?;
        Ok(())
    }

    /// Returns the server's log, a line for each request; empty if it can't be read.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn run(&self, script: &str) -> Result<String> {
        run(&self.image, &self.directory, script)
    }

    /// Copies an image into a repository of this registry.
    fn copy(&self, options: &str, from: &str, to: &str) -> Result<String> {
        let port = self.port;
        self.run(&format!(
            "skopeo copy --quiet --dest-cert-dir=/registry/authority --dest-creds={USER}:{PASSWORD} --digestfile=digest {options} {from} docker://127.0.0.1:{port}/{to} > /dev/null; cat digest"
        ))
    }

    /// A policy that lets a guest ask it, with more lines.
    ///
    /// # Errors
    /// Its authority's certificate can't be read.
    pub fn policy(&self, more: &str) -> Result<String> {
        let authority = std::fs::read_to_string(self.file("authority/ca.crt"))?;
        Ok(format!(
            "version = 1\n[[registry]]\nname = \"10.0.2.2:{}\"\nauthority = \"\"\"\n{authority}\"\"\"\nusername = \"{USER}\"\npassword = \"{PASSWORD}\"\n{more}\n",
            self.port
        ))
    }

    /// Packs a program as an image of one layer and pushes it; returns its digest. `padding` random
    /// bytes come along, to make it another image and as large as that.
    ///
    /// # Errors
    /// A peer refuses.
    pub fn push(&self, repository: &str, program: &Path, padding: usize) -> Result<String> {
        self.pack(program, padding, "pushed", "image.tar")?;
        let digest = self.copy(
            "--dest-compress-format zstd",
            "oci-archive:image.tar",
            &format!("{repository}:1"),
        )?;
        let manifest = self.run(&format!(
            "cat repositories/docker/registry/v2/blobs/sha256/*/{}/data",
            digest.trim_start_matches("sha256:")
        ))?;
        ensure!(manifest.contains("tar+zstd"), "its layers are not zstd's: {manifest}");
        Ok(digest)
    }

    /// The file of an archive that [`Self::pack`] made.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Packs a program as [`Self::push`] does, into an archive.
    ///
    /// # Errors
    /// The packer refuses.
    pub fn pack(&self, program: &Path, padding: usize, name: &str, archive: &str) -> Result<()> {
        let packed = self.directory.join("program");
        let mut bytes = std::fs::read(program).with_context(|| program.display().to_string())?;
        let mut random = vec![0; padding];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
        // A loader reads what an ELF file's headers name, and nothing behind it.
        bytes.extend(random);
        std::fs::write(&packed, bytes)?;
        let output = Command::new(checkout::program("quietcore-oci"))
            .args(["--name", name, "--version", "1", "--program"])
            .arg(&packed)
            .arg("--output")
            .arg(self.file(archive))
            .output()
            .context("start quietcore-oci")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pack an image: {said}");
        Ok(())
    }

    /// Pushes a file as an OCI artefact of one layer of this type.
    ///
    /// # Errors
    /// skopeo refuses.
    pub fn push_artefact(&self, repository: &str, tag: &str, kind: &str, file: &str) -> Result<()> {
        self.run(&format!(
            r#"mkdir -p layout/blobs/sha256; echo '{{"imageLayoutVersion":"1.0.0"}}' > layout/oci-layout
put() {{ digest=sha256:$(sha256sum < $1 | cut -d ' ' -f 1); size=$(stat -c %s $1); cp $1 layout/blobs/sha256/${{digest#*:}}; }}
printf '{{}}' > config; put config
printf '{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%s","size":%d}},' $digest $size > manifest
put {file}; printf '"layers":[{{"mediaType":"{kind}","digest":"%s","size":%d}}]}}' $digest $size >> manifest
put manifest; printf '{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":%d}}]}}' $digest $size > layout/index.json"#
        ))?;
        self.copy("", "oci:layout", &format!("{repository}:{tag}")).map(drop)
    }

    /// A new Ed25519 private key in NAME.pem; returns the public key, in PEM.
    ///
    /// # Errors
    /// openssl refuses.
    pub fn signing_key(&self, name: &str) -> Result<String> {
        self.run(&format!(
            "openssl genpkey -algorithm ed25519 -out {name}.pem; openssl pkey -in {name}.pem -pubout"
        ))
    }

    /// A new key pair; returns the public key, in PEM.
    ///
    /// # Errors
    /// cosign refuses.
    pub fn key(&self, name: &str) -> Result<String> {
        self.run(&format!(
            "COSIGN_PASSWORD= cosign generate-key-pair --output-key-prefix {name} 2> {name}.log; cat {name}.pub"
        ))
    }

    /// Signs a digest with a key of [`Self::key`].
    ///
    /// # Errors
    /// cosign refuses.
    pub fn sign(&self, repository: &str, digest: &str, key: &str) -> Result<()> {
        let port = self.port;
        self.run(&format!(
            "COSIGN_PASSWORD= SSL_CERT_FILE=/registry/authority/ca.crt cosign sign --key {key}.key --tlog-upload=false --registry-username={USER} --registry-password={PASSWORD} --yes 127.0.0.1:{port}/{repository}@{digest}"
        ))
        .map(drop)
    }
}

fn run(image: &ImageFiles, directory: &Path, script: &str) -> Result<String> {
    let output = image
        .in_tools(&[(directory, "/registry")])
        .args(["sh", "-euc", &format!("cd /registry; {script}")])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn serve(image: &ImageFiles, directory: &Path) -> Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("log"))?;
    image
        .in_tools(&[(directory, "/registry")])
        .args(["docker-registry", "serve", "/registry/config.yml"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start docker-registry")
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Download limit that [`policy`] sets, in bytes per second.
pub const RATE: u64 = 1 << 20;

/// Time that the agent may take to be ready again with another policy.
const AGENT_LIMIT: Duration = Duration::from_secs(120);

/// Units that read the policy `quietcore.images`, restarted when it changes.
pub const READERS: &str = "quietcore-agent quietcore-pull";

/// Returns a policy with our registry behind a dead mirror, a download limit and one signer's key.
///
/// # Errors
/// cosign makes no key.
pub fn policy(registry: &Registry) -> Result<String> {
    let key = registry.key("desk")?;
    registry.key("stranger")?;
    registry.policy(&format!(
        "mirrors = [\"10.0.2.2:1\"]\nrate_bytes_per_second = {RATE}\nsigners = [\"\"\"\n{key}\n\"\"\"]"
    ))
}

/// Tells a running host which registries it may ask.
///
/// # Errors
/// The units that read it do not start.
pub fn give_policy(booted: &mut Booted, policy: &str) -> Result<()> {
    give_credential(booted, "quietcore.images", policy, READERS)?;
    booted.shell.wait_status("the agent is back", AGENT_LIMIT, |status| status["ready"] == true)?;
    Ok(())
}
