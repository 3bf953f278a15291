//! Where an image comes from: a file, or the parts of one that a netboot UKI carries.

use crate::flash::{CHUNK_LEN, Source};
use crate::images::archive::sha256;
use abi::gpt;
use anyhow::{Context, Result, ensure};
use ed25519_dalek::pkcs8::DecodePublicKey;
use ed25519_dalek::{Signature, VerifyingKey};
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Signature of a GUID partition table header, at the start of block 1 (UEFI 2.10, 5.3.2).
const GPT: &[u8; 8] = b"EFI PART";

/// Names and hashes of a release's files, and their signature.
const SUMS: &str = "SHA256SUMS";

/// A disk image in a file.
pub struct ImageFile {
    file: File,
    len: u64,
}

impl ImageFile {
    /// Opens one and looks whether it is one.
    ///
    /// # Errors
    /// It is not, or can't be read.
    pub fn open(path: &Path) -> Result<Self> {
        let named = || path.display().to_string();
        let file = File::open(path).with_context(named)?;
        let len = file.metadata().with_context(named)?.len();
        let mut mark = [0; 8];
        let is_one = file.read_exact_at(&mut mark, 512).is_ok() && mark == *GPT && len % 512 == 0;
        ensure!(is_one, "{}: no disk image: it has no partition table; give a disk.raw", named());
        Ok(Self { file, len })
    }
}

impl Source for ImageFile {
    fn size(&self) -> u64 {
        self.len
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }
}

/// Compares an image with the `SHA256SUMS` beside it, and that with its signature by `key`. Says
/// what it found.
///
/// # Errors
/// The image or the list is not what was signed; there is no list, and a key was given.
pub fn check_sums(image: &Path, key: Option<&Path>) -> Result<String> {
    let sums = image.with_file_name(SUMS);
    if key.is_none() && !sums.exists() {
        return Ok("no SHA256SUMS beside the image: its bytes are compared with nothing".into());
    }
    let text = std::fs::read(&sums).with_context(|| format!("read {}", sums.display()))?;
    if let Some(key) = key {
        let named = || key.display().to_string();
        let pem = std::fs::read_to_string(key).with_context(named)?;
        let key = VerifyingKey::from_public_key_pem(&pem)
            .with_context(|| format!("{}: no Ed25519 public key in PEM", named()))?;
        let path = sums.with_extension("sig");
        let signature = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let verified = Signature::from_slice(&signature)
            .and_then(|signature| key.verify_strict(&text, &signature));
        verified.with_context(|| {
            format!("{} is not signed by this key; look at where it comes from", sums.display())
        })?;
    }
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let text = String::from_utf8_lossy(&text);
    let listed = text.lines().find_map(|line| {
        let (sum, file) = line.split_once("  ")?;
        (file == name).then(|| sum.to_owned())
    });
    let listed = listed.with_context(|| format!("{}: it has no {name}", sums.display()))?;
    let found = sha256(File::open(image)?).with_context(|| image.display().to_string())?;
    ensure!(
        found == listed,
        "{}: its SHA-256 is not the one in {}; fetch it again",
        image.display(),
        sums.display()
    );
    Ok(match key {
        Some(_) => "the image is the one that was signed".into(),
        None => "the image is the one in SHA256SUMS; --key checks who signed that".into(),
    })
}

/// The parts of a disk image, each in a file whose name is where it begins, in bytes, hexadecimal.
/// What is in no part is zero. One part can be a device with the root, which the image has but
/// once.
pub struct Parts {
    len: u64,
    parts: Vec<(u64, u64, File)>,
}

/// The whole image's length stands in the file of this name.
const LEN: &str = "length";
/// Where the root begins.
const ROOT: &str = "root";

impl Parts {
    /// Opens what lies in a directory; `root` is the device with the root.
    ///
    /// # Errors
    /// A part is missing or overlaps another.
    pub fn open(directory: &Path, root: &Path) -> Result<Self> {
        let number = |name: &str| -> Result<u64> {
            let path = directory.join(name);
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("read {}", path.display()))?;
            u64::from_str_radix(text.trim(), 16).with_context(|| format!("{name}: {text:?}"))
        };
        let mut paths: Vec<(u64, PathBuf)> = vec![(number(ROOT)?, root.into())];
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if ![LEN, ROOT].contains(&name.as_str()) {
                let start = u64::from_str_radix(&name, 16).with_context(|| name.clone())?;
                paths.push((start, path));
            }
        }
        paths.sort();
        let mut parts: Vec<(u64, u64, File)> = Vec::new();
        for (start, path) in paths {
            let mut file = File::open(&path).with_context(|| path.display().to_string())?;
            // A device's length is where its end is.
            let len = io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
            let end = parts.last().map_or(0, |(start, len, _)| start + len);
            ensure!(start >= end, "{}: it overlaps the part before", path.display());
            parts.push((start, len, file));
        }
        let len = number(LEN)?;
        let end = parts.last().map_or(0, |(start, len, _)| start + len);
        ensure!(end <= len && len % 512 == 0, "{}: {len} bytes, {end} in parts", LEN);
        Ok(Self { len, parts })
    }
}

/// Where an image's first root partition is.
fn root_of(image: &impl Source) -> Result<Range<u64>> {
    let mut entries = vec![0; gpt::ENTRIES_LEN];
    image.read_at(&mut entries, gpt::ENTRIES_AT).context("read the partition table")?;
    gpt::root(&entries).context("the image has no root partition")
}

/// Writes an image's parts to a directory, as [`Parts`] reads them: all that is not zero, but for
/// the root.
///
/// # Errors
/// The image has no root, or what the file system says.
pub fn split(image: &impl Source, directory: &Path) -> Result<()> {
    let root = root_of(image)?;
    let mut chunk = vec![0; CHUNK_LEN];
    for range in [0..root.start, root.end..image.size()] {
        let (mut offset, mut part) = (range.start, None);
        while offset < range.end {
            let bytes = &mut chunk[..(range.end - offset).min(CHUNK_LEN as u64) as usize];
            image.read_at(bytes, offset)?;
            if bytes.iter().all(|byte| *byte == 0) {
                part = None;
            } else {
                let file = match part.take() {
                    Some(file) => file,
                    None => File::create(directory.join(format!("{offset:x}")))?,
                };
                part.insert(file).write_all(bytes)?;
            }
            offset += bytes.len() as u64;
        }
    }
    std::fs::write(directory.join(ROOT), format!("{:x}\n", root.start))?;
    std::fs::write(directory.join(LEN), format!("{:x}\n", image.size()))?;
    Ok(())
}

impl Source for Parts {
    fn size(&self) -> u64 {
        self.len
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        bytes.fill(0);
        let end = offset + bytes.len() as u64;
        for (start, len, file) in &self.parts {
            let (from, to) = (offset.max(*start), end.min(start + len));
            if from < to {
                let range = (from - offset) as usize..(to - offset) as usize;
                file.read_exact_at(&mut bytes[range], from - start)?;
            }
        }
        Ok(())
    }
}
