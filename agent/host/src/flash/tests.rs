//! Disks of memory that are pulled out at every write, or forget one; images in parts and their
//! signatures.

use crate::flash::source::{ImageFile, Parts, check_sums, split};
use crate::flash::*;
use crate::images::archive::sha256;
use ed25519_dalek::pkcs8::EncodePublicKey;
use ed25519_dalek::{Signer, SigningKey};

struct Bytes(Vec<u8>);

impl Source for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        bytes.copy_from_slice(&self.0[offset as usize..offset as usize + bytes.len()]);
        Ok(())
    }
}

/// A disk that is pulled out at a write, or that forgets one.
struct Fragile {
    bytes: Vec<u8>,
    writes: u32,
    pulled_at: Option<u32>,
    forgets: Option<u32>,
}

impl Fragile {
    fn new(len: usize) -> Self {
        Self { bytes: vec![0xee; len], writes: 0, pulled_at: None, forgets: None }
    }
}

impl Target for Fragile {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        bytes.copy_from_slice(&self.bytes[offset as usize..offset as usize + bytes.len()]);
        Ok(())
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.writes += 1;
        // Half of it may get there.
        let is_pulled = self.pulled_at.is_some_and(|at| self.writes >= at);
        let len = if is_pulled { bytes.len() / 2 } else { bytes.len() };
        if self.forgets != Some(self.writes) && (!is_pulled || self.pulled_at == Some(self.writes))
        {
            self.bytes[offset as usize..offset as usize + len].copy_from_slice(&bytes[..len]);
        }
        if is_pulled { Err(io::Error::other("no such device")) } else { Ok(()) }
    }

    fn flush_and_check(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Five chunks and a bit: a table, data, nothing, data.
fn image() -> Bytes {
    let mut bytes = vec![0; 5 * CHUNK_LEN + 1536];
    bytes[512..520].copy_from_slice(b"EFI PART");
    bytes[CHUNK_LEN + 7] = 1;
    bytes[4 * CHUNK_LEN..].fill(9);
    Bytes(bytes)
}

#[test]
fn an_image_is_on_the_disk_and_the_old_table_is_nowhere() {
    let (image, mut disk) = (image(), Fragile::new(8 * CHUNK_LEN));
    let mut told = Vec::new();
    write(&image, &mut disk, |step, done| told.push((step, done))).unwrap();
    assert_eq!(disk.bytes[..image.0.len()], image.0);
    assert!(disk.bytes[7 * CHUNK_LEN..].iter().all(|byte| *byte == 0));
    assert_eq!(told.last(), Some(&(Step::Verifying, image.size())));
    // Once more: only the head is written again.
    let writes = disk.writes;
    write(&image, &mut disk, |_, _| ()).unwrap();
    assert_eq!(disk.writes, writes + 2);
}

#[test]
fn a_disk_that_is_pulled_out_does_not_boot_and_is_finished_by_a_second_try() {
    let image = image();
    let mut whole = Fragile::new(8 * CHUNK_LEN);
    write(&image, &mut whole, |_, _| ()).unwrap();
    for at in 1..=whole.writes {
        let mut disk = Fragile::new(8 * CHUNK_LEN);
        disk.bytes[512..520].copy_from_slice(b"EFI PART");
        disk.pulled_at = Some(at);
        let error = write(&image, &mut disk, |_, _| ()).unwrap_err().to_string();
        assert!(error.contains("start again"), "{error}");
        let is_whole = disk.bytes[CHUNK_LEN..image.0.len()] == image.0[CHUNK_LEN..];
        assert!(disk.bytes[512..520] != *b"EFI PART" || is_whole, "write {at}: it boots");
        disk.pulled_at = None;
        write(&image, &mut disk, |_, _| ()).unwrap();
        assert_eq!(disk.bytes[..image.0.len()], image.0);
    }
}

#[test]
fn a_disk_that_forgets_or_is_too_small_is_refused() {
    let image = image();
    // The first two writes make the old table go.
    for forgets in 3..=5 {
        let mut disk = Fragile::new(8 * CHUNK_LEN);
        disk.forgets = Some(forgets);
        let error = write(&image, &mut disk, |_, _| ()).unwrap_err().to_string();
        assert!(error.contains("something else"), "write {forgets}: {error}");
    }
    let mut small = Fragile::new(5 * CHUNK_LEN);
    let error = write(&image, &mut small, |_, _| ()).unwrap_err().to_string();
    assert!(error.contains("larger") && small.writes == 0, "{error}");
}

#[test]
fn an_image_comes_from_its_parts_as_it_was() {
    let temporary = tempfile::tempdir().unwrap();
    let (mut image, root) = (image(), temporary.path().to_path_buf());
    let parts = root.join("parts");
    std::fs::create_dir(&parts).unwrap();
    // A root in the last chunk but one, not on a chunk's edge.
    let (start, end) = (3 * CHUNK_LEN + 4096, 4 * CHUNK_LEN + 8192);
    let entry = &mut image.0[1024..1152];
    entry[..16].copy_from_slice(&abi::gpt::ROOT_TYPE);
    entry[32..40].copy_from_slice(&(start as u64 / 512).to_le_bytes());
    entry[40..48].copy_from_slice(&(end as u64 / 512 - 1).to_le_bytes());
    split(&image, &parts).unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(&parts).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["0", "402000", "length", "root"]);
    std::fs::write(root.join("erofs"), &image.0[start..end]).unwrap();
    let mut disk = Fragile::new(8 * CHUNK_LEN);
    let whole = Parts::open(&parts, &root.join("erofs")).unwrap();
    write(&whole, &mut disk, |_, _| ()).unwrap();
    assert_eq!(disk.bytes[..image.0.len()], image.0);
    std::fs::write(parts.join("401000"), b"x").unwrap();
    let error = Parts::open(&parts, &root.join("erofs")).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("overlaps"), "{error}");
}

#[test]
fn only_the_image_that_was_signed_is_taken() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().to_path_buf();
    let path = root.join("disk.raw");
    std::fs::write(&path, b"a text").unwrap();
    assert!(ImageFile::open(&path).map(|_| ()).unwrap_err().to_string().contains("no disk image"));
    assert!(check_sums(&path, None).unwrap().contains("nothing"));
    std::fs::write(&path, &image().0).unwrap();
    assert_eq!(ImageFile::open(&path).unwrap().size(), image().size());
    let sum = sha256(&image().0[..]).unwrap();
    let sums = format!("{}  other\n{sum}  disk.raw\n", "0".repeat(64));
    std::fs::write(root.join("SHA256SUMS"), &sums).unwrap();
    let key = SigningKey::from_bytes(&[3; 32]);
    std::fs::write(root.join("SHA256SUMS.sig"), key.sign(sums.as_bytes()).to_bytes()).unwrap();
    let pem = |key: &SigningKey| key.verifying_key().to_public_key_pem(Default::default()).unwrap();
    let own = root.join("release.pub");
    std::fs::write(&own, pem(&key)).unwrap();
    check_sums(&path, Some(&own)).unwrap();
    check_sums(&path, None).unwrap();
    std::fs::write(&own, pem(&SigningKey::from_bytes(&[4; 32]))).unwrap();
    let refused = |key| format!("{:#}", check_sums(&path, key).unwrap_err());
    assert!(refused(Some(&*own)).contains("not signed by this key"));
    std::fs::write(&path, b"a text").unwrap();
    assert!(refused(None).contains("fetch it again"));
}
