//! A software bill of materials. Source of the format: CycloneDX 1.6; of the names, the package-URL
//! specification (types deb and cargo).

use crate::parts::{Crate, Package};
use serde_json::{Value, json};

/// The bill of one thing that is shipped: `operating-system` or `container`, as CycloneDX calls it.
pub fn of(kind: &str, name: &str, version: &str, packages: &[Package], crates: &[Crate]) -> Value {
    let packages = packages.iter().map(|package| {
        let Package { name, version, architecture, sha256, .. } = package;
        let escaped = escape(version);
        component(
            name,
            version,
            &format!("pkg:deb/debian/{name}@{escaped}?arch={architecture}&distro=trixie"),
            sha256.as_deref(),
        )
    });
    let crates = crates.iter().map(|one| {
        let Crate { name, version, checksum } = one;
        let purl = format!("pkg:cargo/{name}@{}", escape(version));
        component(name, version, &purl, checksum.as_deref())
    });
    let components: Vec<Value> = packages.chain(crates).collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": kind, "name": name, "version": version}},
        "components": components,
    })
}

fn component(name: &str, version: &str, purl: &str, sha256: Option<&str>) -> Value {
    let mut value = json!({
        "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
    });
    if let Some(content) = sha256 {
        value["hashes"] = json!([{"alg": "SHA-256", "content": content}]);
    }
    value
}

/// Percent-encodes the characters of a version that a package URL reserves (Debian's epochs, builds
/// and revisions).
fn escape(version: &str) -> String {
    version.replace('%', "%25").replace(':', "%3A").replace('+', "%2B").replace('~', "%7E")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_have_package_urls_and_hashes() {
        let package = Package {
            name: "libc6".into(),
            version: "1:2.41-12+deb13u1".into(),
            architecture: "amd64".into(),
            sha256: Some("ab".into()),
            source: None,
        };
        let own = Crate { name: "abi".into(), version: "0.1.0".into(), checksum: None };
        let bill = of("operating-system", "quietcore", "0.1.0", &[package], &[own]);
        assert_eq!(bill["metadata"]["component"]["type"], "operating-system");
        let components = bill["components"].as_array().unwrap();
        assert_eq!(
            components[0]["purl"],
            "pkg:deb/debian/libc6@1%3A2.41-12%2Bdeb13u1?arch=amd64&distro=trixie"
        );
        assert_eq!(components[0]["hashes"][0]["content"], "ab");
        assert_eq!(components[1]["purl"], "pkg:cargo/abi@0.1.0");
        assert!(components[1].get("hashes").is_none());
    }
}
