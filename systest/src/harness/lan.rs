//! A network for guests alone: a namespace with a tap device, Debian's dnsmasq and a web server in
//! it.

use crate::harness::checkout::ImageFiles;
use crate::harness::http;
use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The tap device that QEMU opens.
pub const TAP: &str = "qc0";

/// The servers' address. The network is one for documentation (RFC 5737).
pub const SERVER: &str = "192.0.2.1";

/// A network. Dropping it ends its servers.
pub struct Lan {
    namespace: Namespace,
    dnsmasq: Child,
    log: PathBuf,
}

/// A network namespace. Dropping it removes it.
struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", &self.0]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("start ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), said.trim());
    Ok(())
}

impl Lan {
    /// Makes the network. Its web server serves `directory` on port 80, its TFTP server the iPXE of
    /// the tools root; `options` are dnsmasq's besides.
    ///
    /// # Errors
    /// The kernel has no tap devices, or a server does not start.
    pub fn new(image: &ImageFiles, directory: &Path, options: &[String]) -> Result<Self> {
        let name = format!("quietcore-{}", std::process::id());
        let inside =
            |arguments: &[&str]| ip(&[&["netns", "exec", &name, "ip"], arguments].concat());
        ip(&["netns", "add", &name])?;
        let namespace = Namespace(name.clone());
        inside(&["link", "set", "lo", "up"])?;
        inside(&["tuntap", "add", "dev", TAP, "mode", "tap"])?;
        inside(&["address", "add", &format!("{SERVER}/24"), "dev", TAP])?;
        inside(&["link", "set", TAP, "up"])?;
        serve(&name, directory)?;
        let log = directory.with_extension("dnsmasq");
        let out = File::create(&log)?;
        let command = in_namespace(&name, image.in_tools(&[]));
        let dnsmasq = { command }
            .args(["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root"])
            .args(["--port=0", "--bind-interfaces", "--log-dhcp", "--log-facility=-"])
            .args(["--dhcp-leasefile=/tmp/leases", "--dhcp-range=192.0.2.10,192.0.2.99"])
            .args([&format!("--interface={TAP}"), "--enable-tftp", "--tftp-root=/usr/lib/ipxe"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("start dnsmasq")?;
        Ok(Self { namespace, dnsmasq, log })
    }

    /// Returns the name of the network namespace.
    pub fn name(&self) -> &str {
        &self.namespace.0
    }

    /// Returns dnsmasq's log; empty if it can't be read.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let _ = self.dnsmasq.kill();
        let _ = self.dnsmasq.wait();
        let _ = std::fs::remove_file(&self.log);
    }
}

/// The same command in a network namespace.
pub fn in_namespace(name: &str, command: Command) -> Command {
    let mut inside = Command::new("ip");
    inside.args(["netns", "exec", name]).arg(command.get_program()).args(command.get_args());
    inside
}

/// Serves from inside the namespace; a thread has one of its own.
fn serve(name: &str, directory: &Path) -> Result<()> {
    let namespace = File::open(Path::new("/run/netns").join(name)).context("the namespace")?;
    let directory = directory.to_path_buf();
    let serving = std::thread::spawn(move || -> Result<()> {
        setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
        http::serve_at(&format!("{SERVER}:80"), directory).map(drop)
    });
    serving.join().expect("the thread that listens")
}
