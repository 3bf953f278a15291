//! Volumes that are on another host: NFS, and disks by iSCSI, in the words that Docker's `local`
//! driver has for them. Source: docker volume create(1), "Driver-specific options"; nfs(5); udev's
//! names of disks, 60-persistent-storage.rules.

use crate::compose::schema::RawDriver;
use crate::digest::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddrV4};

/// Where volumes of other hosts are mounted. Nothing of this can be bound by its path.
pub const REMOTE_VOLUMES: &str = "/run/quietcore-volumes/";

/// Always so: nothing on another host makes somebody root here, or is a device.
const ALWAYS: &str = "nosuid,nodev";
/// Of a disk systemd does not see that it needs the network until it is unmounted
/// (systemd.mount(5)).
const NEEDS_NETWORK: &str = "_netdev";
/// Words of nfs(5) that stand alone or have a number.
const NFS_WORDS: [&str; 11] = [
    "ro",
    "rw",
    "hard",
    "soft",
    "softerr",
    "noatime",
    "nodiratime",
    "sync",
    "async",
    "noac",
    "nocto",
];
const NFS_NUMBERS: [&str; 9] =
    ["port", "timeo", "retrans", "rsize", "wsize", "nconnect", "acregmin", "acregmax", "actimeo"];
/// Words of mount(8) and ext4(5).
const DISK_WORDS: [&str; 7] = ["ro", "rw", "noatime", "nodiratime", "relatime", "lazytime", "sync"];

/// Room for what else is in a unit's name, which has 255 bytes (systemd.unit(5)).
const TARGET_LEN_MAX: usize = 180;

/// Remote volume: NFS export or iSCSI disk, with file system and mount options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    /// `ADDRESS:/PATH`, or the name of a disk.
    pub what: String,
    /// `nfs4` or `ext4`.
    pub file_system: String,
    /// Of the mount.
    pub options: String,
    /// Whom the host's initiator asks for the disk.
    pub session: Option<Session>,
}

/// An iSCSI target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Address and port.
    pub portal: SocketAddrV4,
    /// Its name: `iqn.`, `eui.` or `naa.` (RFC 7143, 4.2.7).
    pub target: String,
}

impl Remote {
    /// Reads a volume's `driver` and `driver_opts` from the top level; none for a directory of this
    /// host.
    ///
    /// # Errors
    /// What is to be written instead.
    pub fn of(driver: &RawDriver) -> Result<Option<Self>, String> {
        if driver.driver.as_deref().is_some_and(|name| name != "local") {
            return Err("driver: local, or none".into());
        }
        (!driver.driver_opts.is_empty()).then(|| Self::read(driver)).transpose()
    }

    fn read(driver: &RawDriver) -> Result<Self, String> {
        let of = |key: &str| driver.driver_opts.get(key).map(String::as_str);
        if let Some(other) =
            driver.driver_opts.keys().find(|key| !["type", "o", "device"].contains(&key.as_str()))
        {
            return Err(format!("type, o and device in driver_opts, not {other}"));
        }
        let options: Vec<&str> =
            of("o").unwrap_or("").split(',').filter(|it| !it.is_empty()).collect();
        let device = of("device").unwrap_or("");
        match of("type") {
            Some("nfs" | "nfs4") => nfs(device, &options),
            Some("ext4") => disk(device, &options),
            _ => Err("driver_opts with type: nfs or ext4".into()),
        }
    }

    /// Where it is mounted: another place if it is another one, so that two versions of a service
    /// can have each theirs.
    pub fn place(&self, name: &str) -> String {
        let said = serde_json::to_vec(self).expect("plain text");
        format!("{REMOTE_VOLUMES}{name}-{}", hex(&Sha256::digest(said)[..4]))
    }
}

fn nfs(device: &str, options: &[&str]) -> Result<Remote, String> {
    let (mut address, mut version, mut others) = (None, "4.2", Vec::new());
    for option in options {
        match option.split_once('=') {
            Some(("addr", text)) => address = text.parse::<IpAddr>().ok(),
            Some(("nfsvers" | "vers", text)) => version = text,
            Some(("proto", "tcp" | "tcp6") | ("sec", "sys")) => others.push(*option),
            Some((key, number)) if NFS_NUMBERS.contains(&key) && number.parse::<u32>().is_ok() => {
                others.push(option);
            }
            None if NFS_WORDS.contains(option) => others.push(option),
            _ => return Err(format!("options of nfs(5) that are known here, not {option}")),
        }
    }
    // Nobody on the host looks names up for the kernel.
    let Some(address) = address else {
        return Err("the server's address, as in o: addr=192.0.2.5,ro".into());
    };
    if !["4", "4.0", "4.1", "4.2"].contains(&version) {
        return Err("nfsvers=4.2, 4.1 or 4.0: older ones want daemons of their own".into());
    }
    let path = device.strip_prefix(':').unwrap_or(device);
    if !is_path(path) {
        return Err("device: \":/PATH\", as the server exports it".into());
    }
    let server = match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let mut said = format!("{ALWAYS},addr={address},vers={version}");
    for option in others {
        said = format!("{said},{option}");
    }
    let what = format!("{server}:{path}");
    Ok(Remote { what, file_system: "nfs4".into(), options: said, session: None })
}

fn disk(device: &str, options: &[&str]) -> Result<Remote, String> {
    if let Some(other) = options.iter().find(|option| !DISK_WORDS.contains(option)) {
        return Err(format!("one of {} in o, not {other}", DISK_WORDS.join(", ")));
    }
    let session = read_disk(device).ok_or_else(|| {
        let form = "/dev/disk/by-path/ip-ADDRESS:PORT-iscsi-TARGET-lun-NUMBER";
        format!("device: {form}, with an IPv4 address and a target's iqn., eui. or naa. name")
    })?;
    let options = [&[ALWAYS, NEEDS_NETWORK][..], options].concat().join(",");
    let (what, file_system) = (device.to_owned(), "ext4".into());
    Ok(Remote { what, file_system, options, session: Some(session) })
}

fn read_disk(device: &str) -> Option<Session> {
    let name = device.strip_prefix("/dev/disk/by-path/ip-")?;
    let (portal, rest) = name.split_once("-iscsi-")?;
    let (target, unit) = rest.rsplit_once("-lun-")?;
    unit.parse::<u16>().ok().filter(|number| number.to_string() == unit)?;
    let kind = ["iqn.", "eui.", "naa."].iter().any(|start| target.starts_with(start));
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:".contains(&byte);
    let good = kind && target.len() <= TARGET_LEN_MAX && target.bytes().all(plain);
    Some(Session { portal: portal.parse().ok().filter(|_| good)?, target: target.into() })
}

fn is_path(text: &str) -> bool {
    let plain = |part: &str| {
        !matches!(part, "." | "..")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+@ ".contains(&byte))
    };
    text.starts_with('/') && text.len() <= 1000 && text.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &str, options: &str, device: &str) -> Result<Remote, String> {
        let opts = [("type", kind), ("o", options), ("device", device)];
        let opts = opts.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let driver = RawDriver { driver: None, driver_opts: opts.into() };
        Remote::of(&driver).map(Option::unwrap)
    }

    #[test]
    fn a_server_is_an_address_and_its_words_are_known() {
        let remote = read("nfs", "addr=192.0.2.5,ro,soft,timeo=50", ":/export/days").unwrap();
        assert_eq!(remote.what, "192.0.2.5:/export/days");
        assert_eq!(remote.options, "nosuid,nodev,addr=192.0.2.5,vers=4.2,ro,soft,timeo=50");
        let remote = read("nfs4", "addr=2001:db8::5,nfsvers=4.1", "/x").unwrap();
        assert_eq!(remote.what, "[2001:db8::5]:/x");
        assert!(remote.options.ends_with("vers=4.1"));
        for (options, device, remedy) in [
            ("addr=storage,ro", ":/x", "address"),
            ("ro", ":/x", "address"),
            ("addr=192.0.2.5,suid", ":/x", "not suid"),
            ("addr=192.0.2.5,timeo=x", ":/x", "not timeo=x"),
            ("addr=192.0.2.5,nfsvers=3", ":/x", "nfsvers"),
            ("addr=192.0.2.5", ":x", "exports"),
            ("addr=192.0.2.5", ":/x,suid", "exports"),
            ("addr=192.0.2.5", ":/../x", "exports"),
        ] {
            let said = read("nfs", options, device).unwrap_err();
            assert!(said.contains(remedy), "{options} {device}: {said}");
        }
    }

    #[test]
    fn a_disk_is_named_as_udev_names_it() {
        let name = "/dev/disk/by-path/ip-192.0.2.6:3260-iscsi-iqn.2026-01.example:ticks-lun-0";
        let remote = read("ext4", "noatime", name).unwrap();
        let session = remote.session.clone().unwrap();
        assert_eq!((session.portal.port(), &*session.target), (3260, "iqn.2026-01.example:ticks"));
        assert_eq!(remote.options, "nosuid,nodev,_netdev,noatime");
        for other in [
            "/dev/sda",
            "/dev/disk/by-path/ip-storage:3260-iscsi-iqn.x-lun-0",
            "/dev/disk/by-path/ip-192.0.2.6:3260-iscsi-iqn.X-lun-0",
            "/dev/disk/by-path/ip-192.0.2.6:3260-iscsi-iqn.x/../../sda-lun-0",
            "/dev/disk/by-path/ip-192.0.2.6:3260-iscsi-iqn.x-lun-00",
        ] {
            assert!(read("ext4", "", other).unwrap_err().contains("device"), "{other}");
        }
        assert!(read("ext4", "data=journal", name).unwrap_err().contains("not data=journal"));
        assert!(read("xfs", "", name).unwrap_err().contains("nfs or ext4"));
        let own = remote.place("ticks");
        assert!(own.starts_with("/run/quietcore-volumes/ticks-"), "{own}");
        assert_ne!(own, read("ext4", "ro", name).unwrap().place("ticks"));
    }
}
