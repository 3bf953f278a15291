//! Releases for the stories: real ones, and broken ones made from them.

use crate::harness::checkout::{ImageFiles, keys, root};
use abi::release::{Artefact, FORMAT, IMAGE, Release, Version};
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The version of the tree, with the third number raised.
///
/// # Errors
/// The tree's version is none.
pub fn version_after(number: u32) -> Result<Version> {
    let parts: Vec<u32> =
        env!("CARGO_PKG_VERSION").split('.').map(str::parse).collect::<Result<_, _>>()?;
    Ok(format!("{}.{}.{}", parts[0], parts[1], parts[2] + number).parse()?)
}

/// Builds a release of the debug profile, with files laid over its root if a directory of them is
/// given.
///
/// # Errors
/// The build failed; it said why.
pub fn build(version: Version, extra: Option<&Path>) -> Result<PathBuf> {
    let mut command = Command::new(root().join("image/release"));
    command.arg("debug").env("VERSION", version.to_string());
    command.env("EXTRA", extra.unwrap_or(Path::new("")));
    // As the image of the stories was built; and nobody builds these again, or installs them.
    command.env("LOCK", "any").env("PARTS", "update");
    ensure!(command.status().context("start image/release")?.success(), "no release {version}");
    Ok(root().join(format!("target/releases/debug-{version}")))
}

/// Ways to break a release.
#[derive(Debug, Clone, Copy)]
pub enum Broken {
    /// Its root is not what its root hash says.
    Root,
    /// Its initrd waits for ever.
    Initrd,
}

/// The parts of a UKI, put together again as another version; `$1` is the old file, `$2` the new,
/// `$3` its version. A named pipe among the modules is one that init waits for.
const REMAKE: &str = r#"
cd /tmp
for part in linux initrd cmdline osrel uname; do objcopy --dump-section .$part=$part "$1" copy.efi; done
for text in cmdline osrel uname; do tr -d '\0' < $text > $text.text; done
sed -i "s/^VERSION_ID=.*/VERSION_ID=$3/; s/^IMAGE_VERSION=.*/IMAGE_VERSION=$3/" osrel.text
more=
if [ "$4" = hang ]; then
    mkdir -p hang/modules
    mkfifo hang/modules/000-hang.ko
    (cd hang && printf 'modules\nmodules/000-hang.ko\n' | cpio --quiet -o -H newc > ../hang.cpio)
    more=--initrd=hang.cpio
fi
ukify build --linux=linux --initrd=initrd $more --cmdline=@cmdline.text --os-release=@osrel.text --uname=$(cat uname.text) --output="$2"
"#;

/// Makes a broken release of a good one, signed as if it were good.
///
/// # Errors
/// A step of it failed.
pub fn broken(image: &ImageFiles, good: &Path, version: Version, how: Broken) -> Result<PathBuf> {
    let release: Release =
        serde_json::from_slice(&std::fs::read(good.join("release.json"))?).context("release")?;
    let directory = root().join(format!("target/releases/broken-{version}"));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory)?;
    for artefact in &release.artefacts {
        let name = artefact.name.replace(&release.version.to_string(), &version.to_string());
        if name.ends_with(".efi") {
            let hang = if matches!(how, Broken::Initrd) { "hang" } else { "" };
            let (from, to) = (format!("/from/{}", artefact.name), format!("/to/{name}"));
            let status = image
                .in_tools(&[(good, "/from"), (&directory, "/to")])
                .args(["sh", "-euc", REMAKE, "sh", &from, &to, &version.to_string(), hang])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            ensure!(status.success(), "put the UKI of {version} together");
        } else {
            let mut bytes = std::fs::read(good.join(&artefact.name))?;
            if name.contains(".root-x86-64.") && matches!(how, Broken::Root) {
                bytes[100] ^= 0x5a;
            }
            std::fs::write(directory.join(name), bytes)?;
        }
    }
    let own = Signed { variant: "debug", key: "/keys/release.key" };
    describe(image, &directory, version, own)?;
    Ok(directory)
}

/// Profile in a release's description, and the key that signs it.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// Profile of the release.
    pub variant: &'a str,
    /// The private key, as the tools root sees it: below `/keys` or, in the directory itself,
    /// `/release`.
    pub key: &'a str,
}

/// Writes and signs the description of what lies in a directory.
///
/// # Errors
/// It can't be signed.
pub fn describe(
    image: &ImageFiles,
    directory: &Path,
    version: Version,
    signed: Signed<'_>,
) -> Result<()> {
    let mut artefacts = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(IMAGE) {
            let bytes = std::fs::read(entry.path())?;
            let sha256 = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            artefacts.push(Artefact { name, size: bytes.len() as u64, sha256 });
        }
    }
    let (image_name, variant) = (IMAGE.to_owned(), signed.variant.to_owned());
    let release = Release { format: FORMAT, image: image_name, variant, version, artefacts };
    std::fs::write(directory.join("release.json"), serde_json::to_string_pretty(&release)?)?;
    let status = image
        .in_tools(&[(directory, "/release"), (&keys(), "/keys")])
        .args(["openssl", "pkeyutl", "-sign", "-inkey", signed.key, "-rawin"])
        .args(["-in", "/release/release.json", "-out", "/release/release.json.sig"])
        .status()?;
    ensure!(status.success(), "sign {}", directory.display());
    Ok(())
}
