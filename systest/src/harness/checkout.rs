//! Paths of a checkout, and files and builds of its images.

use abi::gpt;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("systest/ lies in the checkout")
        .to_path_buf()
}

/// The Secure Boot keys that the image is signed with.
pub fn keys() -> PathBuf {
    let given = std::env::var_os("KEYS").filter(|path| !path.is_empty()).map(PathBuf::from);
    given.unwrap_or_else(|| root().join("target/keys"))
}

/// A program of ours, as it stands on the image.
pub fn program(name: &str) -> PathBuf {
    root().join("target/x86_64-unknown-linux-gnu/release").join(name)
}

/// Real exchange data, if this machine has it.
pub fn shared_data() -> Option<PathBuf> {
    let data = root().parent()?.join("shared/data");
    data.is_dir().then_some(data)
}

/// A built image.
#[derive(Debug, Clone)]
pub struct ImageFiles {
    /// Directory of the built image.
    pub directory: PathBuf,
    /// The tools root that it was built in.
    pub tools: PathBuf,
}

impl ImageFiles {
    /// Builds a profile; a second build with nothing changed does nothing.
    ///
    /// # Errors
    /// The build failed; it said why.
    pub fn build(profile: &str) -> Result<Self> {
        let kernel = std::env::var("KERNEL").ok();
        Self::build_with(profile, kernel.as_deref().filter(|kernel| !kernel.is_empty()))
    }

    /// [`Self::build`] with this kernel of ours, or with Debian's.
    ///
    /// # Errors
    /// The build failed; it said why.
    pub fn build_with(profile: &str, kernel: Option<&str>) -> Result<Self> {
        let kernel = kernel.unwrap_or("debian");
        let status = Command::new(root().join("image/build"))
            .arg(profile)
            .env("KERNEL", kernel)
            .status()
            .context("start image/build")?;
        ensure!(status.success(), "the image was not built; the lines above say why");
        match kernel {
            "debian" => Self::find(profile),
            own => Self::find(&format!("{profile}-{own}")),
        }
    }

    /// The debug image, with the kernel that `KERNEL=` names, that was built before.
    ///
    /// # Errors
    /// It was not.
    pub fn find_debug() -> Result<Self> {
        match std::env::var("KERNEL").as_deref() {
            Ok("") | Ok("debian") | Err(_) => Self::find("debug"),
            Ok(own) => Self::find(&format!("debug-{own}")),
        }
    }

    /// A profile that was built before.
    ///
    /// # Errors
    /// It was not.
    pub fn find(profile: &str) -> Result<Self> {
        let directory = root().join("target/image").join(profile);
        let tools = std::fs::read_to_string(directory.join("tools"));
        let tools =
            tools.with_context(|| format!("no {profile} image; run image/build {profile}"))?;
        Ok(Self { directory, tools: tools.trim().into() })
    }

    /// The disk image.
    pub fn disk(&self) -> PathBuf {
        self.directory.join("disk.raw")
    }

    /// Bytes of a file of the image.
    ///
    /// # Errors
    /// It is not there.
    pub fn len_of(&self, wanted: impl Fn(&str) -> bool) -> Result<u64> {
        let entries = std::fs::read_dir(&self.directory)?.filter_map(Result::ok);
        let file = entries
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| wanted(&name.to_string_lossy())));
        Ok(file.context("a part of the image is missing")?.metadata()?.len())
    }

    /// A command inside the tools root, with directories bound into it.
    pub fn in_tools(&self, binds: &[(&Path, &str)]) -> Command {
        let mut command = Command::new(root().join("image/in-tools"));
        command.arg(&self.tools);
        for (source, target) in binds {
            command.arg("-b").arg(format!("{}:{target}", source.display()));
        }
        command.arg("--");
        command
    }
}

/// The byte range of a disk image's root partition.
///
/// # Errors
/// It has none.
pub fn root_partition(disk: &Path) -> Result<std::ops::Range<u64>> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(disk).with_context(|| format!("open {}", disk.display()))?;
    let mut entries = vec![0; gpt::ENTRIES_LEN];
    file.read_exact_at(&mut entries, gpt::ENTRIES_AT)?;
    gpt::root(&entries).context("no root partition")
}

/// Whether an image has our own kernel.
pub fn is_own(image: &ImageFiles) -> bool {
    image.directory.join("kernel.config").exists()
}
