//! A registry with real peers: Debian's docker-registry serves, skopeo copies into it, cosign signs. All of them run in
//! the tools root; the guest reaches the registry at 10.0.2.2.

use crate::checkout::{self, ImageFiles};
use anyhow::{Context, Result, ensure};
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the registry may take to answer.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A registry that runs until it is dropped, with its files.
pub struct Registry {
    image: ImageFiles,
    directory: PathBuf,
    server: Child,
    /// Its port.
    pub port: u16,
}

impl Registry {
    /// Starts one; its repositories are empty.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start(image: &ImageFiles) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let name = format!("quietcore-registry-{}-{port}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(directory.join("repositories"))?;
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem:\n    rootdirectory: /registry/repositories\nhttp:\n  addr: 127.0.0.1:{port}\n"
        );
        std::fs::write(directory.join("config.yml"), config)?;
        let server = serve(image, &directory)?;
        let registry = Self { image: image.clone(), directory, server, port };
        registry.wait()?;
        Ok(registry)
    }

    fn wait(&self) -> Result<()> {
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            ensure!(start.elapsed() < START_LIMIT, "the registry does not answer: {}", self.log());
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

    /// What the server wrote: a line for each request.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn run(&self, script: &str) -> Result<String> {
        let output = self
            .image
            .in_tools(&[(&self.directory, "/registry")])
            .args(["sh", "-euc", &format!("cd /registry; {script}")])
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{script}: {}", said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Packs a program as an image of one layer and pushes it; returns its digest. `padding` random bytes come along, to
    /// make it another image and as large as that.
    ///
    /// # Errors
    /// A peer refuses.
    pub fn push(&self, repository: &str, program: &Path, padding: usize) -> Result<String> {
        self.pack(program, padding, "pushed", "image.tar")?;
        let port = self.port;
        self.run(&format!(
            "skopeo copy --quiet --dest-tls-verify=false --digestfile=digest oci-archive:image.tar docker://127.0.0.1:{port}/{repository}:1 > /dev/null; cat digest"
        ))
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
            "COSIGN_PASSWORD= cosign sign --key {key}.key --tlog-upload=false --allow-http-registry --yes 127.0.0.1:{port}/{repository}@{digest}"
        ))
        .map(drop)
    }
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
