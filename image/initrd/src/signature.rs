//! The signature of the root hash, which the kernel itself checks with the keys of the firmware:
//! with Secure Boot on, no root is mounted without it. Source: the kernel's
//! `Documentation/admin-guide/device-mapper/verity.rst`, `root_hash_sig_key_desc`.
#![allow(unsafe_code, reason = "adding a key to a keyring has no safe form")]

use super::{Failure, failed};
use std::ffi::CStr;
use std::fs;

/// PKCS #7 over the root hash in hexadecimal digits, by whoever signed the UKI that it lies in.
const FILE: &str = "/roothash.p7s";

/// The key's description, by which dm-verity asks for it.
pub const DESCRIPTION: &str = "quietcore-root";
const DESCRIPTION_C: &CStr = c"quietcore-root";

/// Where `secure_boot` stands in the kernel's boot parameters, and what it is with Secure Boot on
/// (`efi_secureboot_mode_enabled`). Source: the kernel's `Documentation/arch/x86/zero-page.rst`,
/// 1EC.
const SECURE_BOOT_AT: usize = 0x1ec;
const SECURE_BOOT_ON: u8 = 3;

/// `KEY_SPEC_PROCESS_KEYRING` of keyctl(2): gone with this program, which becomes systemd.
const PROCESS_KEYRING: libc::c_long = -2;

/// Hands the signature to the kernel if Secure Boot is on; says whether it did.
pub fn give() -> Result<bool, Failure> {
    let parameters = "/sys/kernel/boot_params/data";
    let parameters = fs::read(parameters).map_err(failed(format!("read {parameters}")))?;
    if parameters.get(SECURE_BOOT_AT) != Some(&SECURE_BOOT_ON) {
        return Ok(false);
    }
    let signature = fs::read(FILE).map_err(failed("read the root hash's signature"))?;
    // SAFETY: the pointers are those of two C strings and of a slice with its length, which the
    // kernel copies.
    let added = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            DESCRIPTION_C.as_ptr(),
            signature.as_ptr(),
            signature.len(),
            PROCESS_KEYRING,
        )
    };
    if added < 0 {
        return Err(failed("add the root hash's signature")(std::io::Error::last_os_error()));
    }
    Ok(true)
}
