//! Directories that containers keep what is theirs in: made when a container is, for the user it
//! runs as. What is in them is never touched.

use agent_core::compose::remote_volumes::REMOTE_VOLUMES;
use agent_core::compose::{Service, VOLUMES};
use agent_core::image_user::User;
use agent_host::beneath::Beneath;
use agent_host::volume_mounts;
use std::io;
use std::path::Path;

/// Makes the volumes of a service that are not there yet. A container can put links into its own
/// volume, which are not followed.
///
/// # Errors
/// What making one says, with its path.
pub fn prepare(service: &Service, user: &User) -> io::Result<()> {
    for bind in &service.binds {
        if let Some(remote) = &bind.remote {
            // What is written beside it would be gone with this host's memory.
            let mounted = volume_mounts::mounted().map_err(io::Error::other)?;
            let id = bind.source.strip_prefix(REMOTE_VOLUMES);
            if !id.is_some_and(|id| mounted.contains(id)) {
                return Err(io::Error::other(format!("{} is not mounted", remote.what)));
            }
        } else if let Some(name) = bind.source.strip_prefix(VOLUMES) {
            prepare_one(Path::new(VOLUMES), Path::new(name), user)?;
        }
    }
    Ok(())
}

fn prepare_one(volumes: &Path, name: &Path, user: &User) -> io::Result<()> {
    let made = std::fs::create_dir_all(volumes)
        .and_then(|()| Beneath::open(volumes)?.make_directory_for(name, user.uid, user.gid));
    let path = volumes.join(name);
    made.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_made_once_and_left_alone_and_no_link_is_followed() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("it");
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        let user = User { uid, gid, groups: Vec::new() };
        let prepare = |name: &str| prepare_one(&root, Path::new(name), &user);
        prepare("a/dropcopy").unwrap();
        std::fs::write(root.join("a/dropcopy/kept"), "x").unwrap();
        prepare("a/dropcopy").unwrap();
        assert!(root.join("a/dropcopy/kept").exists());
        let error = prepare("a/dropcopy/kept/below").unwrap_err();
        assert!(error.to_string().contains("dropcopy/kept/below"), "{error}");
        // A container's link in its own volume leads root nowhere.
        let outside = temporary.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("a/link")).unwrap();
        prepare("a/link/made").unwrap_err();
        prepare("a/link").unwrap_err();
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}
