//! Storage of others with real peers: NFS-Ganesha serves files, tgt serves a disk by iSCSI. Both
//! run in the tools root; the guest reaches them at 10.0.2.2. What Ganesha has is in its memory,
//! what tgt has in a file.

use crate::harness::checkout::ImageFiles;
use crate::harness::guest_clock::limit_under_load;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const START_LIMIT: Duration = Duration::from_secs(30);

/// The target's name.
pub const TARGET: &str = "iqn.2026-01.example.desk:ticks";

/// Configuration of NFS-Ganesha: exports `/days` to every client over NFS 4.
const GANESHA: &str = r#"
NFS_CORE_PARAM { NFS_Port = @NUMBER@; Bind_addr = 127.0.0.1; Protocols = 4; Plugins_Dir = "/usr/lib/x86_64-linux-gnu/ganesha"; allow_set_io_flusher_fail = true; Enable_NLM = false; Enable_RQUOTA = false; }
NFSV4 { Graceless = true; Minor_Versions = 1, 2; }
MEM { Inode_Size = 4096; }
EXPORT { Export_Id = 1; Path = /days; Pseudo = /days; Protocols = 4; Transports = TCP; Access_Type = RW; Squash = None; SecType = sys; FSAL { Name = MEM; } }
"#;

/// A disk with an ext4 on it, at the target's LUN 1.
const SERVE: &str = r#"cd /storage
[ -e disk ] || { truncate -s 64M disk; mke2fs -q -t ext4 disk; }
mkdir -p /var/lib/nfs/ganesha /run/ganesha
ganesha.nfsd -F -x -f /storage/ganesha.conf -L /storage/ganesha.log -p /run/ganesha.pid &
tgtd -f -C 1 --iscsi portal=127.0.0.1:$1 &
until tgtadm -C 1 --lld iscsi --op show --mode sys > tgt.log 2>&1; do sleep 0.1; done
tgtadm -C 1 --lld iscsi --op new --mode target --tid 1 -T $2
tgtadm -C 1 --lld iscsi --op new --mode logicalunit --tid 1 --lun 1 -b /storage/disk
tgtadm -C 1 --lld iscsi --op bind --mode target --tid 1 -I ALL
touch serves
wait"#;

/// Servers that run until they are dropped.
pub struct Storage {
    directory: PathBuf,
    servers: Child,
    /// Where files are served.
    pub nfs: u16,
    /// Where the disk is.
    pub iscsi: u16,
}

impl Storage {
    /// Starts both servers and waits until they answer.
    ///
    /// # Errors
    /// They do not answer.
    pub fn start(image: &ImageFiles) -> Result<Self> {
        let free = || -> Result<_> {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            Ok((listener.local_addr()?.port(), listener))
        };
        // Both at once, or they might be the same.
        let ((nfs, one), (iscsi, other)) = (free()?, free()?);
        drop((one, other));
        let directory = std::env::temp_dir().join(format!("quietcore-storage-{nfs}-{iscsi}"));
        std::fs::create_dir_all(&directory)?;
        let config = GANESHA.replace("@NUMBER@", &nfs.to_string());
        std::fs::write(directory.join("ganesha.conf"), config)?;
        let log = File::create(directory.join("log"))?;
        let mut command = image.in_tools(&[(&directory, "/storage")]);
        command.args(["sh", "-euc", SERVE, "serve", &iscsi.to_string(), TARGET]);
        let servers = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start the servers")?;
        let mut storage = Self { directory, servers, nfs, iscsi };
        storage.wait()?;
        Ok(storage)
    }

    fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        let has_begun = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
        let is_there = self.directory.join("serves");
        while !(is_there.exists() && has_begun(self.nfs)) {
            let runs = self.servers.try_wait()?.is_none()
                && start.elapsed() < limit_under_load(START_LIMIT);
            let said = |name: &str| {
                let text = std::fs::read_to_string(self.directory.join(name)).unwrap_or_default();
                let from = text.len().saturating_sub(1000);
                text.get(from..).unwrap_or_default().to_owned()
            };
            ensure!(runs, "no storage: {}\n{}", said("log"), said("ganesha.log"));
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // The first process of its namespace takes the others with it.
        let _ = self.servers.kill();
        let _ = self.servers.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
