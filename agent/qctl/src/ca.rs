//! `qctl ca`: an authority of one's own, on a machine of one's own, and the certificates that it
//! gives: to hosts for their network side, to people and programs with the role that they have.

use agent_core::protocol::Role;
use agent_host::api_config::{Config, SCHEME, is_who};
use agent_host::files::write_whole;
use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Make an authority: ca.pem, which everybody may have, and ca.key, which nobody else may.
    New {
        /// A directory, made if it is not there.
        directory: PathBuf,
    },
    /// Make what a host is given as the credential quietcore.api: NAME.api, in the authority's
    /// directory.
    Host {
        /// The authority's directory.
        directory: PathBuf,
        /// The host's name.
        name: String,
        /// Names and addresses that the host is reached at.
        #[arg(long = "address", required = true)]
        addresses: Vec<String>,
        /// Where it listens.
        #[arg(long, default_value = "0.0.0.0:9443")]
        listen: SocketAddr,
        /// Days that its certificate is good for.
        #[arg(long, default_value_t = HOST_DAYS)]
        days: u32,
    },
    /// Make what somebody asks with: NAME.pem, in the authority's directory.
    Client {
        /// The authority's directory.
        directory: PathBuf,
        /// Name of the certificate's holder.
        name: String,
        /// Role: reader (look), operator (decide what runs and trades) or admin (all).
        #[arg(long, value_parser = role)]
        role: Role,
        /// Days that it is good for.
        #[arg(long, default_value_t = 90)]
        days: u32,
    },
}

fn role(text: &str) -> Result<Role, String> {
    serde_json::from_value(text.into()).map_err(|_| "reader, operator or admin".into())
}

/// An authority is good for ten years.
const AUTHORITY_DAYS: u32 = 3650;

/// A host's certificate, unless it says another: what browsers take at most.
const HOST_DAYS: u32 = 397;

const DAY: Duration = Duration::from_secs(86_400);

pub fn act(what: &Ca) -> Result<()> {
    match what {
        Ca::New { directory } => new(directory),
        Ca::Host { directory, name, addresses, listen, days } => {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(addresses.clone())
                .with_context(|| format!("addresses {}", addresses.join(", ")))?;
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            name_and_days(&mut params, name, *days);
            let (authority, clients) = authority(directory)?;
            let certificate = params.signed_by(&key, &authority)?;
            let config = Config {
                version: 1,
                issued: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
                listen: *listen,
                certificate: certificate.pem(),
                key: key.serialize_pem(),
                clients,
            };
            let path = directory.join(format!("{name}.api"));
            write_private(&path, &toml::to_string(&config)?)?;
            println!("{}: give it to the host as the credential quietcore.api", path.display());
            Ok(())
        }
        Ca::Client { directory, name, role, days } => {
            let good = is_who(name) && name != "ca";
            ensure!(good, "{name:?}: 1 to 63 letters, digits and -_.@, and not ca");
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(Vec::new())?;
            let role = serde_json::to_value(role)?;
            let uri = format!("{SCHEME}:{}:{name}", role.as_str().context("a word")?);
            params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into()?)];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            name_and_days(&mut params, name, *days);
            // A host whose clock stands takes the time of its own certificate, which may be as old
            // as it can get.
            params.not_before = (SystemTime::now() - DAY * HOST_DAYS).into();
            let (authority, _) = authority(directory)?;
            let certificate = params.signed_by(&key, &authority)?;
            let path = directory.join(format!("{name}.pem"));
            write_private(&path, &(certificate.pem() + &key.serialize_pem()))?;
            println!("{}: {uri}, for {days} days", path.display());
            Ok(())
        }
    }
}

fn new(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let (certificate_path, key_path) = (directory.join("ca.pem"), directory.join("ca.key"));
    ensure!(!key_path.exists(), "{}: there is an authority already", key_path.display());
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    name_and_days(&mut params, "Quietcore authority", AUTHORITY_DAYS);
    let certificate = params.self_signed(&key)?;
    write_private(&key_path, &key.serialize_pem())?;
    write_whole(&certificate_path, &certificate.pem())?;
    println!("{}: keep {} to yourself", certificate_path.display(), key_path.display());
    Ok(())
}

fn authority(directory: &Path) -> Result<(Issuer<'static, KeyPair>, String)> {
    let read = |name: &str| {
        let path = directory.join(name);
        std::fs::read_to_string(&path)
            .with_context(|| format!("read {}; qctl ca new makes it", path.display()))
    };
    let pem = read("ca.pem")?;
    let key = KeyPair::from_pem(&read("ca.key")?).context("ca.key")?;
    let issuer = Issuer::from_ca_cert_pem(&pem, key).context("ca.pem")?;
    Ok((issuer, pem))
}

fn name_and_days(params: &mut CertificateParams, name: &str, days: u32) {
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    // Clocks differ.
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * days).into();
    params.use_authority_key_identifier_extension = true;
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let next = path.with_extension("next");
    let _ = std::fs::remove_file(&next);
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&next);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&next, path))
        .with_context(|| format!("write {}", path.display()))
}
