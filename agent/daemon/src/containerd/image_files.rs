//! Files of an image that are read without running it: those with its users and groups.

use crate::containerd::images::{VIEWING, unique};
use crate::containerd::{Containerd, ContainerdError, SNAPSHOTTER, call, request};
use agent_core::image_user::UserFiles;
use agent_core::limits::USER_FILE_LEN_MAX;
use agent_host::beneath::Beneath;
use agent_host::images::archive::chain_ids;
use containerd_client::services::v1::snapshots::ViewSnapshotRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::types::Mount;
use oci_spec::image::ImageConfiguration;
use std::io::{ErrorKind, Read};
use std::path::Path;

impl Containerd {
    /// Files of an image with its users and groups.
    ///
    /// # Errors
    /// [`ContainerdError::Call`].
    pub async fn user_files(
        &self,
        image: &ImageConfiguration,
    ) -> Result<UserFiles, ContainerdError> {
        let Some(parent) = chain_ids(image.rootfs().diff_ids()).pop() else {
            return Ok(UserFiles::default());
        };
        let key = format!("{VIEWING}{}", unique());
        let view = ViewSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: key.clone(),
            parent,
            labels: [("containerd.io/gc.root".to_string(), key.clone())].into(),
        };
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        let answer = call("view snapshot", &key, &[], snapshots.view(request(view))).await?;
        let mounts = answer.map(|answer| answer.mounts).unwrap_or_default();
        let files = tokio::task::spawn_blocking(move || read_user_files(&mounts)).await;
        self.remove_snapshot(&key).await?;
        Ok(files.expect("it does not panic"))
    }
}

/// Reads the files of users and groups in the uppermost directory of a snapshot that has them; what
/// is no plain file counts as not there. Whoever made the image may have put links into its `etc`.
fn read_user_files(mounts: &[Mount]) -> UserFiles {
    let directories = mounts.iter().flat_map(|mount| match mount.r#type.as_str() {
        "overlay" => mount
            .options
            .iter()
            .filter_map(|option| option.strip_prefix("lowerdir="))
            .flat_map(|list| list.split(':').map(str::to_owned))
            .collect(),
        _ => vec![mount.source.clone()],
    });
    let directories: Vec<String> = directories.collect();
    let read = |name: &str| -> String {
        let find = |directory: &String| {
            let opened = Beneath::open(Path::new(directory)).ok()?.read(Path::new(name));
            let file = match opened {
                Ok(file) => file,
                // A whiteout: an upper layer took the file away.
                Err(error) if error.kind() == ErrorKind::Other => return Some(String::new()),
                Err(_) => return None,
            };
            let mut text = Vec::new();
            file.take(USER_FILE_LEN_MAX).read_to_end(&mut text).ok()?;
            Some(String::from_utf8_lossy(&text).into_owned())
        };
        directories.iter().find_map(find).unwrap_or_default()
    };
    UserFiles { passwd: read("etc/passwd"), group: read("etc/group") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_from_the_uppermost_layer_that_has_them_and_through_no_link() {
        let temporary = tempfile::tempdir().unwrap();
        let layer = |name: &str| temporary.path().join(name);
        for name in ["top", "middle", "bottom"] {
            std::fs::create_dir_all(layer(name)).unwrap();
        }
        std::os::unix::fs::symlink("/etc", layer("top").join("etc")).unwrap();
        for (name, text) in [("middle", "app:x:5:5::/:\n"), ("bottom", "old:x:1:1::/:\n")] {
            std::fs::create_dir(layer(name).join("etc")).unwrap();
            std::fs::write(layer(name).join("etc/passwd"), text).unwrap();
        }
        let all = ["top", "middle", "bottom"].map(|name| layer(name).display().to_string());
        let options = vec!["ro".to_owned(), format!("lowerdir={}", all.join(":"))];
        let mount = Mount { r#type: "overlay".into(), options, ..Default::default() };
        let files = read_user_files(&[mount]);
        assert_eq!((files.passwd.as_str(), files.group.as_str()), ("app:x:5:5::/:\n", ""));
        let one = Mount { r#type: "bind".into(), source: all[2].clone(), ..Default::default() };
        assert_eq!(read_user_files(&[one]).passwd, "old:x:1:1::/:\n");
    }
}
