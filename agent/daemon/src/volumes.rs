//! Directories that containers keep what is theirs in: made when a container is, for the user it
//! runs as. What is in them is never touched.

use agent_core::compose::remote_volumes::REMOTE_VOLUMES;
use agent_core::compose::{Service, VOLUMES, is_bindable};
use agent_host::volume_mounts;
use std::io;
use std::path::Path;

/// Makes the volumes of a service that are not there yet. What a service binds must still be what
/// it may bind once links are followed: a container can put links into its own volume.
///
/// # Errors
/// What making one says, with its path, or where a link leads.
pub fn prepare(service: &Service) -> io::Result<()> {
    for bind in &service.binds {
        if let Some(remote) = &bind.remote {
            // What is written beside it would be gone with this host's memory.
            let mounted = volume_mounts::mounted().map_err(io::Error::other)?;
            let id = bind.source.strip_prefix(REMOTE_VOLUMES);
            if !id.is_some_and(|id| mounted.contains(id)) {
                return Err(io::Error::other(format!("{} is not mounted", remote.what)));
            }
            continue;
        }
        if bind.source.starts_with(VOLUMES) {
            prepare_one(Path::new(&bind.source), service.user)?;
        }
        let Ok(real) = Path::new(&bind.source).canonicalize() else { continue };
        if !is_bindable(&real.to_string_lossy(), bind.read_only) {
            let (link, real) = (&bind.source, real.display());
            return Err(io::Error::other(format!(
                "{link} leads to {real}, which is not for containers"
            )));
        }
    }
    Ok(())
}

fn prepare_one(path: &Path, (user, group): (u32, u32)) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let made = std::fs::create_dir_all(path)
        .and_then(|()| std::os::unix::fs::chown(path, Some(user), Some(group)));
    made.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_made_once_and_left_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("it");
        let me = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        prepare_one(&root.join("dropcopy"), me).unwrap();
        std::fs::write(root.join("dropcopy/kept"), "x").unwrap();
        prepare_one(&root.join("dropcopy"), me).unwrap();
        assert!(root.join("dropcopy/kept").exists());
        let error = prepare_one(&root.join("dropcopy/kept/below"), me).unwrap_err();
        assert!(error.to_string().contains("dropcopy/kept/below"), "{error}");
    }
}
