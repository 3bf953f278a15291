//! A release as its `release.json` describes it: what `image/release` writes and hosts in the field
//! take.
//!
//! ```json
//! {"format": 1, "image": "quietcore", "variant": "production", "version": "0.2.0",
//!  "artefacts": [{"name": "quietcore_0.2.0.efi", "size": 12724696,
//!                 "sha256": "64 hexadecimal digits"}, ...]}
//! ```
//!
//! `release.json.sig` beside it is the Ed25519 signature of its bytes, 64 bytes long.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The schema that this program reads.
pub const FORMAT: u32 = 1;

/// Name of the image; a release of another image is refused.
pub const IMAGE: &str = "quietcore";

/// The most bytes that a UKI may have: three of them fit the EFI system partition many times over.
pub const UKI_LEN_MAX: u64 = 64 << 20;
/// The bytes of a slot's root partition.
pub const ROOT_LEN_MAX: u64 = 512 << 20;
/// The bytes of a slot's verity partition.
pub const VERITY_LEN_MAX: u64 = 8 << 20;

/// Semantic version without pre-release and build: breaks, additions, repairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(u32, u32, u32);

/// Why a release is refused before anything of it is used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReleaseError {
    /// Not three numbers.
    #[error("version {0:?}: write three numbers with points between them")]
    Version(String),
    /// Of another schema.
    #[error("release.json has format {0}; this host reads format {FORMAT}")]
    Format(u32),
    /// Of something else.
    #[error("it is a release of {0:?}, not of {IMAGE:?}")]
    Image(String),
    /// An artefact is missing, is there twice, or has another name.
    #[error("artefacts: {0}")]
    Artefacts(String),
}

impl FromStr for Version {
    type Err = ReleaseError;

    fn from_str(text: &str) -> Result<Self, ReleaseError> {
        let refused = || ReleaseError::Version(text.into());
        let version = semver::Version::parse(text).map_err(|_| refused())?;
        let semver::Version { major, minor, patch, pre, build } = version;
        let number = |number: u64| u32::try_from(number).map_err(|_| refused());
        match pre.is_empty() && build.is_empty() {
            true => Ok(Self(number(major)?, number(minor)?, number(patch)?)),
            false => Err(refused()),
        }
    }
}

impl TryFrom<String> for Version {
    type Error = ReleaseError;

    fn try_from(text: String) -> Result<Self, ReleaseError> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// One file of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artefact {
    /// Its name, beside `release.json`.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, in hexadecimal digits.
    pub sha256: String,
}

/// Release of the operating system, as in `release.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Number of the schema: [`FORMAT`].
    pub format: u32,
    /// Name of the image: [`IMAGE`].
    pub image: String,
    /// The image's profile: a host takes only its own.
    pub variant: String,
    /// Version of the release.
    pub version: Version,
    /// A UKI, a root and its verity tree.
    pub artefacts: Vec<Artefact>,
}

impl Release {
    /// Checks what the schema can't say.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), ReleaseError> {
        if self.format != FORMAT {
            return Err(ReleaseError::Format(self.format));
        }
        if self.image != IMAGE {
            return Err(ReleaseError::Image(self.image.clone()));
        }
        for (what, start, end, len_max) in self.parts() {
            let mut found = self.artefacts.iter().filter(|a| is_named(&a.name, &start, end));
            let (Some(artefact), None) = (found.next(), found.next()) else {
                let why = format!("there is not one {what}, named {start}...{end}");
                return Err(ReleaseError::Artefacts(why));
            };
            let Artefact { name, size, sha256 } = artefact;
            if !(1..=len_max).contains(size) {
                let why = format!("{name} has {size} bytes; 1 to {len_max} fit");
                return Err(ReleaseError::Artefacts(why));
            }
            if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                let why = format!("{name}: sha256 is not 64 hexadecimal digits");
                return Err(ReleaseError::Artefacts(why));
            }
        }
        if self.artefacts.len() != self.parts().len() {
            let why = "there is more than a UKI, a root and a verity tree".into();
            return Err(ReleaseError::Artefacts(why));
        }
        Ok(())
    }

    fn parts(&self) -> [(&'static str, String, &'static str, u64); 3] {
        let named = |part: &str| format!("{IMAGE}_{}.{part}", self.version);
        [
            ("UKI", named("efi"), "", UKI_LEN_MAX),
            ("root", named("root-x86-64."), ".raw", ROOT_LEN_MAX),
            ("verity tree", named("root-x86-64-verity."), ".raw", VERITY_LEN_MAX),
        ]
    }

    /// The partitions: (the partition's UUID, the artefact that goes there).
    pub fn partitions(&self) -> impl Iterator<Item = (&str, &Artefact)> {
        self.artefacts.iter().filter_map(|artefact| {
            Some((artefact.name.strip_suffix(".raw")?.rsplit('.').next()?, artefact))
        })
    }
}

/// Whether a name has these ends, and between them nothing or a UUID.
fn is_named(name: &str, start: &str, end: &str) -> bool {
    let middle = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
    let is_uuid = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    middle.is_some_and(|middle| match end {
        "" => middle.is_empty(),
        _ => (32..=36).contains(&middle.len()) && is_uuid(middle),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release() -> Release {
        let uuid = "8c953698-116d-06b5-9f7d-4f956bf75efb";
        let names = [
            "quietcore_1.2.3.efi".to_string(),
            format!("quietcore_1.2.3.root-x86-64.{uuid}.raw"),
            format!("quietcore_1.2.3.root-x86-64-verity.{uuid}.raw"),
        ];
        let artefact = |name| Artefact { name, size: 4096, sha256: "ab".repeat(32) };
        Release {
            format: 1,
            image: "quietcore".into(),
            variant: "production".into(),
            version: Version(1, 2, 3),
            artefacts: names.into_iter().map(artefact).collect(),
        }
    }

    #[test]
    fn versions_are_numbers_and_compare_as_numbers() {
        let version = |text: &str| text.parse::<Version>();
        assert!(version("0.10.0").unwrap() > version("0.9.9").unwrap());
        assert_eq!(version("1.2.3").unwrap().to_string(), "1.2.3");
        for bad in ["", "1", "1.2", "1.2.3.4", "1.2.x", "01.2.3", "1.2.-3", "1.2.+3", "1..3"] {
            assert!(version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_release_is_a_uki_a_root_and_a_tree() {
        assert_eq!(release().check(), Ok(()));
        assert_eq!(release().partitions().count(), 2);
        let refused = |change: fn(&mut Release)| {
            let mut changed = release();
            change(&mut changed);
            changed.check().unwrap_err().to_string()
        };
        assert!(refused(|r| r.format = 2).contains("format 2"));
        assert!(refused(|r| r.image = "other".into()).contains("other"));
        assert!(refused(|r| drop(r.artefacts.pop())).contains("verity tree"));
        assert!(refused(|r| r.artefacts.push(r.artefacts[0].clone())).contains("UKI"));
        assert!(refused(|r| r.artefacts[1].size = ROOT_LEN_MAX + 1).contains("fit"));
        assert!(refused(|r| r.artefacts[1].size = 0).contains("fit"));
        assert!(refused(|r| r.artefacts[1].sha256 = "ab".into()).contains("sha256"));
        assert!(refused(|r| r.version = Version(1, 2, 4)).contains("UKI"));
        let elsewhere = "quietcore_1.2.3.root-x86-64.../../../../../../../../../etc/x.raw";
        assert!(
            refused(|r| r.artefacts[1].name = "quietcore_1.2.3.root-x86-64..raw".into())
                .contains("root")
        );
        let mut outside = release();
        outside.artefacts[1].name = elsewhere.into();
        assert!(outside.check().is_err());
        let mut more = release();
        more.artefacts.push(Artefact { name: "more".into(), size: 1, sha256: "ab".repeat(32) });
        assert!(more.check().unwrap_err().to_string().contains("more than"));
    }
}
