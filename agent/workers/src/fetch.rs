//! The fetching unit: takes a release from an HTTP server onto the data partition. It is a user of
//! its own, reaches the network, and no device. What is broken off goes on where it was.

use crate::http_client;
use abi::release::{Artefact, Release, Version};
use agent_core::digest::hex;
use agent_core::limits::{DISK_SPARE, FETCH_ATTEMPTS, FETCH_PAUSE, FETCH_TIMEOUT, RELEASE_LEN_MAX};
use agent_core::update_progress::{Progress, Stage};
use agent_core::web_url;
use agent_host::files::{free_bytes, write_whole_bytes};
use agent_host::images::archive::sha256;
use agent_host::update::UpdatePaths;
use agent_host::update::progress_files::{report_failure, request_file, write_progress};
use agent_host::update::trust::{RELEASE, ReleaseVerifier, SIGNATURE};
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

struct Server {
    agent: ureq::Agent,
    base: String,
}

impl Server {
    fn new(url: &str, own_authorities: &Path) -> Result<Self> {
        web_url::check_url(url)?;
        let own = std::fs::read(own_authorities).unwrap_or_default();
        let config = http_client::client(&[&own])
            .timeout_recv_response(Some(Duration::from_secs(30)))
            .timeout_recv_body(Some(FETCH_TIMEOUT));
        let agent = ureq::Agent::new_with_config(config.build());
        Ok(Self { agent, base: url.trim_end_matches('/').to_owned() })
    }

    /// A small file, whole.
    fn get(&self, name: &str) -> Result<Vec<u8>> {
        let url = format!("{}/{name}", self.base);
        let mut response = self.agent.get(&url).call().with_context(|| format!("get {url}"))?;
        let body = response.body_mut().with_config().limit(RELEASE_LEN_MAX);
        body.read_to_vec().with_context(|| format!("get {url}"))
    }

    /// The rest of a file from a byte on; says where the answer really starts.
    fn get_from(&self, name: &str, from: u64) -> Result<(u64, impl Read + use<>)> {
        let url = format!("{}/{name}", self.base);
        let request = self.agent.get(&url).header("Range", format!("bytes={from}-"));
        let response = request.call().with_context(|| format!("get {url}"))?;
        // A server may send all of it instead.
        let starts = if response.status() == 206 { from } else { 0 };
        Ok((starts, response.into_body().into_reader()))
    }
}

/// The unit's work.
///
/// # Errors
/// What stands in the progress too.
pub fn run(paths: &UpdatePaths) -> Result<()> {
    report_failure(&paths.fetching, work(paths))
}

fn work(paths: &UpdatePaths) -> Result<()> {
    let request = request_file(paths).read()?.context("no release was requested")?;
    let tell = |version, detail: String, stage| {
        write_progress(&Progress { stage, version, detail }, &paths.fetching)
    };
    tell(None, format!("{RELEASE} from {}", request.url), Stage::Fetching)?;
    let judge = ReleaseVerifier::of(paths)?;
    let server = Server::new(&request.url, &paths.own_authorities)?;
    let (text, signature) = (server.get(RELEASE)?, server.get(SIGNATURE)?);
    let release = judge.admit(&text, &signature)?;
    let directory = &paths.staging;
    clear(directory, &release)?;
    check_space(directory, &release)?;
    for artefact in &release.artefacts {
        let said = |at: u64| {
            let (at, of) = (at >> 20, artefact.size >> 20);
            let version: Version = release.version;
            tell(Some(version), format!("{}: {at} of {of} MiB", artefact.name), Stage::Fetching)
        };
        fetch(&server, artefact, directory, said)?;
    }
    write_whole_bytes(&directory.join(SIGNATURE), &signature)?;
    write_whole_bytes(&directory.join(RELEASE), &text)?;
    tell(Some(release.version), "all of it is what was signed".into(), Stage::Fetched)
}

/// Removes what is not of this release: an older one, whole or in part.
fn clear(directory: &Path, release: &Release) -> Result<()> {
    let of_release = |name: &str| {
        let name = name.strip_suffix(".partial").unwrap_or(name);
        release.artefacts.iter().any(|artefact| artefact.name == name)
    };
    for entry in std::fs::read_dir(directory).context(directory.display().to_string())? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(of_release) {
            std::fs::remove_file(entry.path())
                .with_context(|| format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn check_space(directory: &Path, release: &Release) -> Result<()> {
    let wanted: u64 = release.artefacts.iter().map(|artefact| artefact.size).sum();
    let there: u64 = std::fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()))
        .sum();
    let free = free_bytes(directory)?;
    let needed = wanted.saturating_sub(there) + DISK_SPARE;
    ensure!(
        free >= needed,
        "the data partition has {} MiB free, {} are needed; remove journals or images",
        free >> 20,
        needed >> 20
    );
    Ok(())
}

fn fetch(
    server: &Server,
    artefact: &Artefact,
    directory: &Path,
    said: impl Fn(u64) -> Result<()>,
) -> Result<()> {
    let whole = directory.join(&artefact.name);
    if whole.exists() && sha256(File::open(&whole)?)? == artefact.sha256 {
        return Ok(());
    }
    let partial = directory.join(format!("{}.partial", artefact.name));
    let mut last = None;
    for attempt in 0..FETCH_ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(FETCH_PAUSE);
        }
        match fetch_on(server, artefact, &partial, &said) {
            Ok(hash) if hash == artefact.sha256 => {
                std::fs::rename(&partial, &whole)?;
                return Ok(());
            }
            Ok(_) => {
                std::fs::remove_file(&partial)?;
                bail!("{}: its bytes are not those that were signed", artefact.name);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("no attempt was made")?)
}

/// Goes on with a partial file until it is whole; returns its hash.
fn fetch_on(
    server: &Server,
    artefact: &Artefact,
    partial: &Path,
    said: impl Fn(u64) -> Result<()>,
) -> Result<String> {
    let mut file =
        OpenOptions::new().read(true).append(true).create(true).open(partial).context("stage")?;
    if file.metadata()?.len() > artefact.size {
        file.set_len(0)?;
    }
    let mut hash = Sha256::new();
    let mut at = io::copy(&mut file, &mut hash)?;
    if at < artefact.size {
        let (starts, mut body) = server.get_from(&artefact.name, at)?;
        if starts == 0 && at > 0 {
            file.set_len(0)?;
            (at, hash) = (0, Sha256::new());
        }
        let (mut buffer, mut told) = (vec![0; 1 << 18], u64::MAX);
        loop {
            let len = body.read(&mut buffer).with_context(|| format!("get {}", artefact.name))?;
            if len == 0 {
                break;
            }
            at += len as u64;
            ensure!(
                at <= artefact.size,
                "{}: the server sends more than was signed",
                artefact.name
            );
            hash.update(&buffer[..len]);
            file.write_all(&buffer[..len]).context("write what is fetched")?;
            if at >> 22 != told {
                told = at >> 22;
                said(at)?;
            }
        }
    }
    file.sync_all()?;
    let size = artefact.size;
    ensure!(at == size, "{}: the server sent {at} of {size} bytes", artefact.name);
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    /// A server that breaks off each answer after some bytes, and knows ranges or not.
    fn serve(content: &'static [u8], each: usize, ranges: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/releases", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let mut from = 0;
                for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
                    let range = line.to_ascii_lowercase();
                    if let Some(start) = range.strip_prefix("range: bytes=") {
                        from = start.trim_end_matches('-').parse().unwrap();
                    }
                }
                let from = if ranges { from } else { 0 };
                let status = if ranges { "206 Partial Content" } else { "200 OK" };
                let left = &content[from..];
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", left.len());
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(&left[..left.len().min(each)]).unwrap();
            }
        });
        url
    }

    fn artefact(content: &[u8]) -> Artefact {
        let sha256 = sha256(content).unwrap();
        Artefact { name: "part".into(), size: content.len() as u64, sha256 }
    }

    #[test]
    fn what_is_broken_off_goes_on_where_it_was() {
        let content: &[u8] = &[7; 10_000];
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().to_path_buf();
        let server = Server::new(&serve(content, 4_000, true), Path::new("")).unwrap();
        fetch(&server, &artefact(content), &directory, |_| Ok(())).unwrap();
        assert_eq!(std::fs::read(directory.join("part")).unwrap(), content);
        // It is there: nobody is asked again.
        let nobody = Server::new("http://127.0.0.1:9/", Path::new("")).unwrap();
        fetch(&nobody, &artefact(content), &directory, |_| Ok(())).unwrap();
    }

    #[test]
    fn other_bytes_and_a_server_without_ranges() {
        let content: &[u8] = &[7; 10_000];
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().to_path_buf();
        let server = Server::new(&serve(&[8; 10_000], 10_000, true), Path::new("")).unwrap();
        let error = fetch(&server, &artefact(content), &directory, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("not those that were signed"), "{error:#}");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "nothing is left of it");
        let server = Server::new(&serve(&[7; 10_001], 10_001, false), Path::new("")).unwrap();
        let error = fetch_on(&server, &artefact(content), &directory.join("x"), |_| Ok(()));
        assert!(error.unwrap_err().to_string().contains("more than was signed"));
        std::fs::write(directory.join("part.partial"), [7; 100]).unwrap();
        let server = Server::new(&serve(content, 10_000, false), Path::new("")).unwrap();
        fetch(&server, &artefact(content), &directory, |_| Ok(())).unwrap();
        assert_eq!(std::fs::read(directory.join("part")).unwrap(), content);
    }
}
