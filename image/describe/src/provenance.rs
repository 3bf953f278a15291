//! Where a release comes from: an in-toto Statement (v1) with SLSA provenance (v1) about its files.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Builder's name in the provenance; there is one builder, and it runs anywhere.
const BUILDER: &str = "quietcore:image/release";

/// The statement about the files in `sums` (sha256sum's format), with the release's `manifest`.
pub fn of(sums: &str, manifest: &Value) -> Result<Value> {
    let subject = |line: &str| -> Result<Value> {
        let (sha256, name) = line.split_once("  ").with_context(|| format!("{line}: no sum"))?;
        Ok(json!({"name": name, "digest": {"sha256": sha256}}))
    };
    let subjects = sums.lines().map(subject).collect::<Result<Vec<_>>>()?;
    Ok(json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": format!("{BUILDER}/v1"),
                "externalParameters": {
                    "profile": manifest["variant"], "version": manifest["version"],
                },
                "internalParameters": {"rustc": manifest["rustc"]},
                "resolvedDependencies": [
                    {"name": "quietcore", "digest": {"gitCommit": manifest["commit"]}},
                ],
            },
            "runDetails": {"builder": {"id": BUILDER}},
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_subject() {
        let manifest = json!({"variant": "demo", "version": "1.0.0", "commit": "abc"});
        let statement = of("aa  disk.raw\nbb  quietcore_1.0.0.efi\n", &manifest).unwrap();
        assert_eq!(statement["subject"][1]["name"], "quietcore_1.0.0.efi");
        assert_eq!(statement["subject"][1]["digest"]["sha256"], "bb");
        let dependencies = &statement["predicate"]["buildDefinition"]["resolvedDependencies"];
        assert_eq!(dependencies[0]["digest"]["gitCommit"], "abc");
        assert!(of("nonsense", &manifest).is_err());
    }
}
