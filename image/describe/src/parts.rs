//! Components of a release: Debian packages and crates.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A Debian package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// SHA-256 of the `.deb`; none for the tools, whose packages are not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The source package and its version, where they are others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<(String, String)>,
}

impl Package {
    /// The source package and its version.
    pub fn source(&self) -> (&str, &str) {
        let same = || (self.name.as_str(), self.version.as_str());
        self.source.as_ref().map_or_else(same, |(name, version)| (name, version))
    }
}

#[derive(Deserialize)]
struct Base {
    packages: Vec<BasePackage>,
}

#[derive(Deserialize)]
struct BasePackage {
    name: String,
    version: String,
    architecture: String,
}

/// Name, version and architecture.
type Key = (String, String, String);

/// The packages whose files are in a directory.
fn kept(directory: &Path) -> Result<BTreeMap<Key, PathBuf>> {
    let named = || format!("read {}", directory.display());
    let mut packages = BTreeMap::new();
    for entry in std::fs::read_dir(directory).with_context(named)? {
        let path = entry.with_context(named)?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let text = path.to_str().context("a package's path is no text")?;
            let format = "--showformat=${Package} ${Version} ${Architecture}";
            let said = crate::output("dpkg-deb", &["--show", format, text])?;
            let mut words = said.split(' ').map(str::to_owned);
            let (Some(name), Some(version), Some(architecture)) =
                (words.next(), words.next(), words.next())
            else {
                bail!("{text}: dpkg-deb says {said:?}");
            };
            packages.insert((name, version, architecture), path);
        }
    }
    Ok(packages)
}

/// The packages of the image with the hashes of their files.
pub fn image_packages(manifest: &Path, directory: &Path) -> Result<Vec<Package>> {
    let text = std::fs::read_to_string(manifest);
    let text = text.with_context(|| format!("read {}", manifest.display()))?;
    let base: Base = serde_json::from_str(&text).with_context(|| manifest.display().to_string())?;
    let kept = kept(directory)?;
    let package = |package: BasePackage| -> Result<Package> {
        let BasePackage { name, version, architecture } = package;
        let key = (name, version, architecture);
        let path = kept.get(&key).with_context(|| {
            let (directory, (name, version, _)) = (directory.display(), &key);
            format!("{directory}: {name} {version} is not kept there; build the base anew")
        })?;
        of_file(key, path)
    };
    let mut packages = base.packages.into_iter().map(package).collect::<Result<Vec<_>>>()?;
    packages.sort();
    Ok(packages)
}

/// Every package whose file is in a directory.
pub fn packages_in(directory: &Path) -> Result<Vec<Package>> {
    kept(directory)?.into_iter().map(|(key, path)| of_file(key, &path)).collect()
}

fn of_file((name, version, architecture): Key, path: &Path) -> Result<Package> {
    let sha256 = Some(hash_of(path)?);
    let text = path.to_str().context("a package's path is no text")?;
    let source = source(&crate::output("dpkg-deb", &["--field", text, "Source"])?, &version);
    Ok(Package { name, version, architecture, sha256, source })
}

/// A package's `Source` field: nothing, a name, or a name and a version in brackets.
fn source(field: &str, version: &str) -> Option<(String, String)> {
    let mut words = field.split_ascii_whitespace();
    let name = words.next()?.to_owned();
    let own = words.next().map(|word| word.trim_matches(['(', ')']).to_owned());
    Some((name, own.unwrap_or_else(|| version.to_owned())))
}

/// A file's SHA-256.
pub fn hash_of(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(hex(&Sha256::digest(&bytes)))
}

/// The SHA-256 of the configuration that the image's kernel was built with, from the kernel's
/// package.
pub fn kernel_config(directory: &Path) -> Result<String> {
    let script = "for file in \"$0\"/linux-image-6*.deb; do dpkg-deb --fsys-tarfile \"$file\" | \
                  tar -x --to-stdout --wildcards './boot/config-*' | sha256sum; done | tail -n 1";
    let text = directory.to_str().context("the packages' path is no text")?;
    let said = crate::output("sh", &["-euc", script, text])?;
    let hash = said.split(' ').next().filter(|hash| hash.len() == 64);
    Ok(hash.with_context(|| format!("{text}: no kernel's configuration"))?.to_owned())
}

/// The version of a kernel of our own, by the head of its configuration: `# Linux/x86 6.12.1 Kernel
/// Configuration`.
pub fn kernel_version(config: &Path) -> Result<String> {
    let text = std::fs::read_to_string(config).with_context(|| config.display().to_string())?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("# Linux/x86 ")?.strip_suffix(" Kernel Configuration"));
    let version = version.with_context(|| format!("{}: whose is it?", config.display()))?;
    Ok(format!("linux-source {version}, kernel-config"))
}

/// The packages of the tools root, by dpkg's own list.
pub fn tool_packages(root: &Path) -> Result<Vec<Package>> {
    let path = root.join("var/lib/dpkg/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut packages = Vec::new();
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
        let field = |name: &str| {
            let line =
                paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.map(str::to_owned).with_context(|| format!("{}: no {name}", path.display()))
        };
        let (name, version) = (field("Package")?, field("Version")?);
        let architecture = field("Architecture")?;
        packages.push(Package { name, version, architecture, sha256: None, source: None });
    }
    packages.sort();
    Ok(packages)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A crate from a registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Crate {
    pub name: String,
    pub version: String,
    /// SHA-256 of its archive, by Cargo.lock; none for our own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Crate>,
}

/// All crates of the tree.
pub struct Crates(BTreeMap<(String, String), Crate>);

impl Crates {
    pub fn of_lock(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let lock: Lock = toml::from_str(&text).with_context(|| path.display().to_string())?;
        let keyed = |one: Crate| ((one.name.clone(), one.version.clone()), one);
        Ok(Self(lock.package.into_iter().map(keyed).collect()))
    }

    pub fn all(&self) -> Vec<&Crate> {
        self.0.values().collect()
    }

    /// Those in the output of `cargo tree --prefix=none --format={p}`: `NAME vVERSION`, and words
    /// behind it.
    pub fn named_in(&self, tree: &str) -> Result<Vec<Crate>> {
        let mut found = BTreeSet::new();
        for line in tree.lines().filter(|line| !line.trim().is_empty()) {
            let mut words = line.split_ascii_whitespace();
            let (name, version) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            let key = (name.to_owned(), version.trim_start_matches('v').to_owned());
            let Some(known) = self.0.get(&key) else { bail!("{line}: not in Cargo.lock") };
            found.insert(known.clone());
        }
        Ok(found.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_names_its_source() {
        let package = Package {
            name: "bsdutils".into(),
            version: "1:2.41.5-0+deb13u1".into(),
            architecture: "amd64".into(),
            sha256: None,
            source: source("util-linux (2.41.5-0+deb13u1)", "1:2.41.5-0+deb13u1"),
        };
        assert_eq!(package.source(), ("util-linux", "2.41.5-0+deb13u1"));
        assert_eq!(source("", "1"), None);
    }

    #[test]
    fn crates_of_a_tree_are_those_of_the_lock() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("it");
        let text = "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"ab\"\n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n";
        std::fs::write(&path, text).unwrap();
        let crates = Crates::of_lock(&path).unwrap();
        let found = crates.named_in("own v0.1.0 (path)\na v1.0.0 (*)\na v1.0.0\n").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].checksum.as_deref(), Some("ab"));
        assert!(crates.named_in("b v1.0.0").unwrap_err().to_string().contains("Cargo.lock"));
    }
}
