//! Secrets of containers: sealed on disk by systemd (to the TPM, where there is one), opened into
//! files in memory when a container is made. Source: systemd's varlink interface
//! `io.systemd.Credentials` and systemd-creds(1).

use agent_core::compose::Service;
use agent_core::compose::top_level::{Access, is_name};
use agent_core::image_user::User;
use agent_core::limits::{SEAL_TIMEOUT, SECRET_LEN_MAX, SECRETS_MAX};
use agent_core::runtime_spec::Delivered;
use agent_host::files::{read_up_to, write_private};
use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Where systemd seals and opens.
pub const SEALER: &str = "/run/systemd/io.systemd.Credentials";

/// Where a container sees its secrets.
pub const TARGET: &str = "/run/secrets";

/// Sealed secrets by name, and where they are opened.
#[derive(Debug, Clone)]
pub struct Secrets {
    sealed: PathBuf,
    opened: PathBuf,
    sealer: PathBuf,
}

impl Secrets {
    /// With a directory on disk, one in memory, and systemd's socket.
    pub fn new(sealed: &Path, opened: &Path, sealer: &Path) -> Self {
        Self { sealed: sealed.into(), opened: opened.into(), sealer: sealer.into() }
    }

    /// Their names, in order.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.sealed).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> =
            names.filter_map(|it| Some(it.strip_suffix(".sealed")?.into())).collect();
        names.sort();
        names
    }

    /// Those that a service wants and this host does not have.
    pub fn missing(&self, service: &Service) -> Vec<String> {
        let wanted = service.secrets.iter().map(|secret| secret.source.clone());
        wanted.filter(|name| !self.path(name).exists()).collect()
    }

    /// Keeps a secret, sealed.
    ///
    /// # Errors
    /// One line: its name or size is not possible, systemd does not seal it, or it can't be
    /// written.
    pub fn set(&self, name: &str, secret: &[u8]) -> Result<()> {
        ensure!(is_name(name), "secret {name:?}: 1 to 63 letters, digits, - _ or .");
        let len = secret.len() as u64;
        ensure!(len <= SECRET_LEN_MAX, "secret {name}: {len} bytes, at most {SECRET_LEN_MAX}");
        let is_new = !self.path(name).exists();
        ensure!(
            !is_new || self.names().len() < SECRETS_MAX,
            "there are {SECRETS_MAX} secrets already; remove one"
        );
        let question = json!({ "name": name, "data": STANDARD.encode(secret) });
        let blob = self.ask("Encrypt", question, "blob")?;
        std::fs::create_dir_all(&self.sealed)?;
        std::fs::set_permissions(&self.sealed, PermissionsExt::from_mode(0o700))?;
        write_private(&self.path(name), &blob)
    }

    /// Forgets a secret.
    ///
    /// # Errors
    /// It is not there, or can't be removed.
    pub fn remove(&self, name: &str) -> Result<()> {
        ensure!(is_name(name) && self.path(name).exists(), "secret {name:?} is not on this host");
        std::fs::remove_file(self.path(name)).with_context(|| format!("remove secret {name}"))
    }

    /// Opens what a container is to have, for the user that it runs as: its secrets, and the texts
    /// of its compose file.
    ///
    /// # Errors
    /// One line: which is not there or does not open, or what the file system says.
    pub fn deliver(&self, id: &str, service: &Service, user: &User) -> Result<Vec<Delivered>> {
        let place = self.opened.join(id);
        let mut delivered = Vec::new();
        let directory = |name: &str| -> Result<PathBuf> {
            let path = place.join(name);
            std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
            Ok(path)
        };
        if !service.secrets.is_empty() {
            let directory = directory("secrets")?;
            for secret in &service.secrets {
                let opened = self.open(&secret.source)?;
                put(&directory, &secret.file, &opened, Owner::of(secret.access, user))?;
            }
            delivered.push((directory, TARGET.into()));
        }
        for (index, config) in service.configs.iter().enumerate() {
            let directory = directory("configs")?;
            let name = index.to_string();
            put(&directory, &name, config.content.as_bytes(), Owner::of(config.access, user))?;
            delivered.push((directory.join(name), config.target.clone()));
        }
        Ok(delivered)
    }

    /// A container is gone, and what was opened for it.
    pub fn withdraw(&self, id: &str) {
        let _ = std::fs::remove_dir_all(self.opened.join(id));
    }

    /// Removes opened secrets of all containers but those in `ids`, also those that a killed agent
    /// left.
    pub fn keep_only(&self, ids: &BTreeSet<String>) {
        let entries = std::fs::read_dir(&self.opened).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| !ids.contains(name)).for_each(|name| self.withdraw(&name));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sealed.join(format!("{name}.sealed"))
    }

    /// Opens a sealed secret with systemd and returns its bytes.
    ///
    /// # Errors
    /// It is not there, or systemd does not open it.
    pub fn open(&self, name: &str) -> Result<Vec<u8>> {
        // What is sealed is a third larger, in base64 a third more, and has a header.
        let blob = read_up_to(&self.path(name), 2 * SECRET_LEN_MAX + 4096).with_context(|| {
            format!("secret {name} is not on this host; qctl secret set {name}")
        })?;
        let question = json!({ "name": name, "blob": String::from_utf8_lossy(&blob).trim() });
        let data =
            self.ask("Decrypt", question, "data").with_context(|| format!("open secret {name}"))?;
        STANDARD.decode(data).with_context(|| format!("open secret {name}"))
    }

    /// One varlink call: a JSON text that ends with a zero byte each way (varlink.org, "Protocol").
    fn ask(&self, method: &str, parameters: Value, wanted: &str) -> Result<String> {
        let named = || format!("ask systemd at {}", self.sealer.display());
        let stream = UnixStream::connect(&self.sealer).with_context(named)?;
        stream.set_read_timeout(Some(SEAL_TIMEOUT))?;
        let method = format!("io.systemd.Credentials.{method}");
        let call = json!({ "method": method, "parameters": parameters }).to_string();
        (&stream).write_all(&[call.as_bytes(), b"\0"].concat()).with_context(named)?;
        let mut answer = Vec::new();
        BufReader::new(&stream).read_until(0, &mut answer).with_context(named)?;
        let answer = answer.strip_suffix(b"\0").unwrap_or_default();
        let answer: Value = serde_json::from_slice(answer).with_context(named)?;
        match answer["parameters"][wanted].as_str() {
            Some(text) if answer.get("error").is_none() => Ok(text.into()),
            _ => bail!("systemd says {}", answer["error"]),
        }
    }
}

/// Owner of a file in numbers, and what he may.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// Number of the user.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
    /// Permission bits (chmod(2)).
    pub mode: u32,
}

impl Owner {
    fn of(access: Access, user: &User) -> Self {
        let (uid, gid) = (access.uid.unwrap_or(user.uid), access.gid.unwrap_or(user.gid));
        Self { uid, gid, mode: access.mode }
    }
}

/// Writes a file so that who reads it sees the old one or the new one, and only who may.
///
/// # Errors
/// What the file system says, with the path.
pub fn put(directory: &Path, name: &str, bytes: &[u8], owner: Owner) -> Result<()> {
    let (path, next) = (directory.join(name), directory.join(format!(".{name}.next")));
    let written = (|| {
        let _ = std::fs::remove_file(&next);
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
        file.write_all(bytes)?;
        chown(&next, Some(owner.uid), Some(owner.gid))?;
        file.set_permissions(PermissionsExt::from_mode(owner.mode))?;
        std::fs::rename(&next, &path)
    })();
    written.with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::hostplan::CorePlan;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixListener;

    /// A stand-in for systemd that seals by turning bytes round: what is tested is what becomes of
    /// its answers. The story `secrets` has the real one.
    fn seal(listener: UnixListener) {
        for stream in listener.incoming().flatten() {
            let mut call = Vec::new();
            BufReader::new(&stream).read_until(0, &mut call).unwrap();
            let call: Value = serde_json::from_slice(&call[..call.len() - 1]).unwrap();
            let turned = |key: &str| {
                let text = call["parameters"][key].as_str().unwrap();
                text.chars().rev().collect::<String>()
            };
            let answer = match call["method"].as_str().unwrap() {
                "io.systemd.Credentials.Encrypt" => {
                    json!({ "parameters": { "blob": turned("data") } })
                }
                "io.systemd.Credentials.Decrypt" if turned("blob").contains("!") => {
                    json!({ "error": "io.systemd.Credentials.BadFormat", "parameters": {} })
                }
                _ => json!({ "parameters": { "data": turned("blob") } }),
            };
            (&stream).write_all(&[answer.to_string().as_bytes(), b"\0"].concat()).unwrap();
        }
    }

    #[test]
    fn secrets_are_kept_sealed_and_delivered_with_owner_and_mode() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().to_path_buf();
        let listener = UnixListener::bind(root.join("sealer")).unwrap();
        std::thread::spawn(|| seal(listener));
        let secrets =
            Secrets::new(&root.join("sealed"), &root.join("opened"), &root.join("sealer"));
        let me = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        let user = User { uid: me.0, gid: me.1, groups: Vec::new() };
        let text = "services:\n  a:\n    image: x\n    secrets: [key, {source: key, target: other, mode: 0440}]\n    configs: [{source: c, target: /etc/c}]\nsecrets: {key: {external: true}}\nconfigs: {c: {content: hello}}\n";
        let cores = CorePlan::from_kernel("0-1", "").unwrap();
        let service = agent_core::compose::parse(text, &cores).unwrap().remove(0);
        assert_eq!(secrets.missing(&service), ["key", "key"]);
        let error = format!("{:#}", secrets.deliver("a", &service, &user).unwrap_err());
        assert!(error.contains("qctl secret set key"), "{error}");
        secrets.set("key", b"swordfish").unwrap();
        assert!(
            !std::fs::read_to_string(root.join("sealed/key.sealed")).unwrap().contains("swordfish")
        );
        assert_eq!((secrets.names(), secrets.missing(&service).len()), (vec!["key".to_owned()], 0));
        let delivered = secrets.deliver("a", &service, &user).unwrap();
        let file = |name: &str| root.join("opened/a/secrets").join(name);
        assert_eq!(delivered[0], (root.join("opened/a/secrets"), TARGET.to_owned()));
        assert_eq!(std::fs::read(file("key")).unwrap(), b"swordfish");
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!((mode(&file("key")), mode(&file("other"))), (0o400, 0o440));
        assert_eq!(std::fs::read(&delivered[1].0).unwrap(), b"hello");
        assert_eq!(delivered[1].1, "/etc/c");
        secrets.set("key", b"herring").unwrap();
        secrets.deliver("a", &service, &user).unwrap();
        assert_eq!(std::fs::read(file("key")).unwrap(), b"herring");
        std::fs::write(root.join("sealed/key.sealed"), "!").unwrap();
        let error = format!("{:#}", secrets.deliver("a", &service, &user).unwrap_err());
        assert!(error.contains("open secret key") && error.contains("BadFormat"), "{error}");
        secrets.withdraw("a");
        assert!(!file("key").exists());
        assert!(secrets.set("../x", b"").is_err() && secrets.remove("y").is_err());
        let long = vec![0; SECRET_LEN_MAX as usize + 1];
        assert!(secrets.set("long", &long).unwrap_err().to_string().contains("at most"));
        secrets.remove("key").unwrap();
    }
}
