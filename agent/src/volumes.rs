//! Directories that containers keep what is theirs in: made when a container is, for the user it runs as.
//! What is in them is never touched.

use crate::compose::{Service, VOLUMES};
use std::io;
use std::path::Path;

/// Makes the volumes of a service that are not there yet.
///
/// # Errors
/// What making one says, with its path.
pub fn prepare(service: &Service) -> io::Result<()> {
    let mut wanted = service.binds.iter().filter(|bind| bind.source.starts_with(VOLUMES));
    wanted.try_for_each(|bind| prepare_one(Path::new(&bind.source), service.user))
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
        let root = std::env::temp_dir().join(format!("quietcore-volumes-{}", std::process::id()));
        let me = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        prepare_one(&root.join("dropcopy"), me).unwrap();
        std::fs::write(root.join("dropcopy/kept"), "x").unwrap();
        prepare_one(&root.join("dropcopy"), me).unwrap();
        assert!(root.join("dropcopy/kept").exists());
        let error = prepare_one(&root.join("dropcopy/kept/below"), me).unwrap_err();
        assert!(error.to_string().contains("dropcopy/kept/below"), "{error}");
        std::fs::remove_dir_all(root).unwrap();
    }
}
