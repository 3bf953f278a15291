//! The gate: what is known against the parts of a release, from files that somebody brought. Asks
//! no network.
//!
//! Debian's data is the security tracker's JSON (`/tracker/data/json`): source package, then CVE,
//! then release with `status`, `fixed_version` and `urgency`. RustSec's is a checkout of its
//! advisory database.

use crate::parts::{Crate, Package};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use debversion::Version;
use jiff::civil::Date;
use rustsec::database::Query;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// The Debian release that the image is made of.
const RELEASE: &str = "trixie";

/// Severity; Debian's `not yet assigned` and advisories without a score are medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Severity {
    Unimportant,
    Low,
    Medium,
    High,
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", format!("{self:?}").to_lowercase())
    }
}

/// Something known against a part of the release.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub id: String,
    /// The source package or the crate.
    pub part: String,
    pub version: String,
    pub severity: Severity,
    /// The version that mends it, if there is one.
    pub fixed: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, part, version, severity, fixed } = self;
        let remedy = match fixed {
            Some(fixed) => format!("take {fixed}"),
            None => "there is no fixed version yet".into(),
        };
        write!(f, "{severity} {id} in {part} {version}: {remedy}")
    }
}

type Tracker = BTreeMap<String, BTreeMap<String, Issue>>;

#[derive(Deserialize)]
struct Issue {
    #[serde(default)]
    releases: BTreeMap<String, InRelease>,
}

#[derive(Deserialize)]
struct InRelease {
    status: String,
    fixed_version: Option<String>,
    #[serde(default)]
    urgency: String,
}

/// Returns the issues in Debian's security tracker that the packages' installed versions do not
/// fix.
pub fn debian(packages: &[Package], path: &Path) -> Result<Vec<Finding>> {
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let tracker: Tracker = serde_json::from_slice(&text)
        .with_context(|| format!("{}: not the security tracker's JSON", path.display()))?;
    ensure!(!tracker.is_empty(), "{}: it says nothing about any package", path.display());
    let mut findings = BTreeSet::new();
    for package in packages {
        let (source, version) = package.source();
        let installed: Version = version.parse().with_context(|| format!("{source} {version}"))?;
        for (id, issue) in tracker.get(source).into_iter().flatten() {
            let Some(state) = issue.releases.get(RELEASE) else { continue };
            // "0" stands for a release that was never affected.
            let fixed = state.fixed_version.as_deref().filter(|_| state.status == "resolved");
            let is_mended = match fixed {
                Some("0") => true,
                Some(fixed) => {
                    installed >= fixed.parse().with_context(|| format!("{id}: {fixed}"))?
                }
                None => false,
            };
            if !is_mended {
                findings.insert(Finding {
                    id: id.clone(),
                    part: source.into(),
                    version: version.into(),
                    severity: urgency(&state.urgency),
                    fixed: fixed.map(str::to_owned),
                });
            }
        }
    }
    Ok(findings.into_iter().collect())
}

fn urgency(word: &str) -> Severity {
    match word.trim_end_matches('*') {
        "unimportant" => Severity::Unimportant,
        "low" => Severity::Low,
        "high" => Severity::High,
        "end-of-life" => Severity::Critical,
        _ => Severity::Medium,
    }
}

/// Returns RustSec's advisories that affect the crates; crates without a checksum are not looked
/// up.
pub fn rustsec(crates: &[Crate], path: &Path) -> Result<Vec<Finding>> {
    let database = rustsec::Database::open(path);
    let database = database.with_context(|| format!("{}: RustSec's database", path.display()))?;
    ensure!(database.iter().next().is_some(), "{}: no advisory is in it", path.display());
    let mut findings = Vec::new();
    for one in crates.iter().filter(|one| one.checksum.is_some()) {
        let named = |what| format!("{} {}: {what}", one.name, one.version);
        let query = Query::crate_scope()
            .package_name(one.name.parse().with_context(|| named("a crate's name"))?)
            .package_version(one.version.parse().with_context(|| named("a version"))?);
        for advisory in database.query(&query) {
            let score = advisory.metadata.cvss.as_ref().map(|score| score.severity());
            use rustsec::advisory::Severity as Score;
            findings.push(Finding {
                id: advisory.id().to_string(),
                part: one.name.clone(),
                version: one.version.clone(),
                severity: match score {
                    Some(Score::None | Score::Low) => Severity::Low,
                    None | Some(Score::Medium) => Severity::Medium,
                    Some(Score::High) => Severity::High,
                    Some(Score::Critical) => Severity::Critical,
                },
                fixed: advisory.versions.patched().first().map(ToString::to_string),
            });
        }
    }
    findings.sort();
    Ok(findings)
}

/// Why a finding is let pass, and until when.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiver {
    id: String,
    part: String,
    /// The last day on which it holds.
    until: Date,
    /// Reason in free text; an empty one is refused.
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Waivers {
    #[serde(default)]
    waiver: Vec<Waiver>,
}

/// Reads a file of waivers.
pub fn waivers(path: &Path) -> Result<Vec<Waiver>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let file: Waivers = toml::from_str(&text).with_context(|| path.display().to_string())?;
    for waiver in &file.waiver {
        let (id, has_reason) = (&waiver.id, !waiver.reason.trim().is_empty());
        ensure!(has_reason, "{}: {id}: give a reason", path.display());
    }
    Ok(file.waiver)
}

/// Describes each finding of severity `fail_at` or above; the flag is true if it holds the release
/// back.
pub fn evaluate(
    findings: &[Finding],
    waivers: &[Waiver],
    fail_at: Severity,
    today: Date,
) -> Vec<(String, bool)> {
    let counts = findings.iter().filter(|finding| finding.severity >= fail_at);
    let said = counts.map(|finding| {
        let waiver = waivers.iter().find(|w| w.id == finding.id && w.part == finding.part);
        match waiver {
            Some(waiver) if waiver.until >= today => {
                (format!("{finding}; waived until {}: {}", waiver.until, waiver.reason), false)
            }
            Some(waiver) => (format!("{finding}; its waiver ended on {}", waiver.until), true),
            None => (finding.to_string(), true),
        }
    });
    said.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn debians_data_is_read_by_source_and_version() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().to_path_buf();
        let path = directory.join("tracker.json");
        let tracker = serde_json::json!({"openssl": {
            "CVE-1": {"releases": {"trixie": {"status": "resolved", "fixed_version": "3.5.1-1", "urgency": "high"}}},
            "CVE-2": {"releases": {"trixie": {"status": "resolved", "fixed_version": "3.5.4-1~deb13u2", "urgency": "high"}}},
            "CVE-3": {"releases": {"trixie": {"status": "open", "urgency": "not yet assigned"}}},
            "CVE-4": {"releases": {"trixie": {"status": "open", "urgency": "unimportant"}}},
            "CVE-5": {"releases": {"trixie": {"status": "resolved", "fixed_version": "0", "urgency": "high"}}},
            "CVE-6": {"releases": {"sid": {"status": "open", "urgency": "high"}}},
        }});
        std::fs::write(&path, tracker.to_string()).unwrap();
        let package = Package {
            name: "libssl3t64".into(),
            version: "3.5.4-1~deb13u1+b1".into(),
            architecture: "amd64".into(),
            sha256: None,
            source: Some(("openssl".into(), "3.5.4-1~deb13u1".into())),
        };
        let found = debian(&[package.clone(), package], &path).unwrap();
        let short: Vec<_> = found.iter().map(|f| (f.id.as_str(), f.severity)).collect();
        let expected = [
            ("CVE-2", Severity::High),
            ("CVE-3", Severity::Medium),
            ("CVE-4", Severity::Unimportant),
        ];
        assert_eq!(short, expected);
        std::fs::write(&path, "{}").unwrap();
        assert!(debian(&[], &path).is_err(), "an empty file is no clean bill");
    }

    #[test]
    fn advisories_are_read_by_crate_and_version() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().to_path_buf();
        let crates = directory.join("crates/example");
        std::fs::create_dir_all(&crates).unwrap();
        let advisory = "```toml\n[advisory]\nid = \"RUSTSEC-2025-0001\"\npackage = \"example\"\ndate = \"2025-01-02\"\ncvss = \"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H\"\n[versions]\npatched = [\">= 1.2.0\"]\n```\n# Title\n\nText.\n";
        std::fs::write(crates.join("RUSTSEC-2025-0001.md"), advisory).unwrap();
        let one = |version: &str| Crate {
            name: "example".into(),
            version: version.into(),
            checksum: Some("ab".into()),
        };
        let found = rustsec(&[one("1.1.0"), one("1.2.0")], &directory).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].severity, &found[0].version[..]), (Severity::Critical, "1.1.0"));
        assert_eq!(found[0].fixed.as_deref(), Some(">=1.2.0"));
    }

    #[test]
    fn a_waiver_ends() {
        let finding = Finding {
            id: "CVE-2".into(),
            part: "openssl".into(),
            version: "1".into(),
            severity: Severity::High,
            fixed: None,
        };
        let low = Finding { severity: Severity::Low, id: "CVE-9".into(), ..finding.clone() };
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().to_path_buf();
        let path = directory.join("waivers.toml");
        let text = "[[waiver]]\nid = \"CVE-2\"\npart = \"openssl\"\nuntil = \"2026-12-31\"\nreason = \"no TLS server here\"\n";
        std::fs::write(&path, text).unwrap();
        let waivers = waivers(&path).unwrap();
        let findings = [finding, low];
        let holds = |waivers: &[Waiver], today| {
            let said = evaluate(&findings, waivers, Severity::Medium, today);
            said.iter().map(|(_, holds)| *holds).collect::<Vec<_>>()
        };
        assert_eq!(holds(&[], date(2026, 12, 31)), [true]);
        assert_eq!(holds(&waivers, date(2026, 12, 31)), [false]);
        assert_eq!(holds(&waivers, date(2027, 1, 1)), [true]);
        std::fs::write(&path, text.replace("no TLS server here", " ")).unwrap();
        assert!(super::waivers(&path).unwrap_err().to_string().contains("reason"));
    }
}
