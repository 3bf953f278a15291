//! Directories of the host inside a container. Source: Compose Specification, "volumes".

use crate::compose::remote_volumes::Remote;
use crate::compose::schema::{RawVolume, RawVolumeLong};
use crate::compose::{BIND_ROOTS, Bind, READ_ROOTS, is_bindable, is_readable};

/// One of `volumes`.
///
/// # Errors
/// Value and remedy.
pub fn read(volume: &RawVolume) -> Result<Bind, (String, String)> {
    let long = match volume {
        RawVolume::Long(long) => long.clone(),
        RawVolume::Short(text) => short(text)?,
    };
    let RawVolumeLong { kind, source, target, read_only, driver } = long;
    if let Some(other) = kind.filter(|kind| kind != "bind" && kind != "volume") {
        return Err((other, "type: bind or volume; tmpfs is a key of its own".into()));
    }
    let remote = driver.as_ref().map(Remote::of).transpose();
    let remote = remote.map_err(|remedy| (source.clone(), remedy))?.flatten();
    let is_fine = remote.is_some() || is_bindable(&source, read_only);
    if !is_fine || !target.starts_with('/') {
        let (any, read) = (BIND_ROOTS.join(", "), READ_ROOTS.join(", "));
        let remedy = match is_readable(&source) && !read_only {
            true => "only to be read: append :ro".to_owned(),
            false => format!("a directory under one of {any}, or with :ro {read}"),
        };
        return Err((format!("{source}:{target}"), remedy));
    }
    let source = remote.as_ref().map_or(source.clone(), |remote| remote.place(&source));
    Ok(Bind { source, target, read_only, remote })
}

/// Parses the short volume syntax `SOURCE:TARGET[:ro]`.
///
/// # Errors
/// Value and remedy.
pub fn short(text: &str) -> Result<RawVolumeLong, (String, String)> {
    let refused = || (text.to_owned(), "SOURCE:TARGET or SOURCE:TARGET:ro".to_owned());
    let (source, target, options) = match text.split(':').collect::<Vec<_>>()[..] {
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err(refused()),
    };
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            // Labels of SELinux, which this host has not, and caches of Docker Desktop.
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            _ => return Err(refused()),
        }
    }
    Ok(RawVolumeLong {
        source: source.into(),
        target: target.into(),
        read_only,
        ..RawVolumeLong::default()
    })
}
