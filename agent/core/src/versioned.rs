//! Versioned TOML: every configuration that a host or an operator gives has `version = N` first.

use anyhow::{Result, ensure};
use serde::de::DeserializeOwned;

/// Parses a configuration of the only version that this release reads, 1.
///
/// The version is looked at before anything else: a newer format would otherwise be refused for its
/// first unknown key, which says nothing about the remedy.
///
/// # Errors
/// One line: another version, or what is no such configuration, with its place.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    let table: toml::Table = toml::from_str(text)?;
    match table.get("version").and_then(toml::Value::as_integer) {
        Some(version) => {
            ensure!(version == 1, "version {version}: this release knows version 1");
        }
        None => anyhow::bail!("no version: write version = 1 first"),
    }
    Ok(toml::from_str(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[serde(rename = "version")]
        _version: u32,
        name: String,
    }

    #[test]
    fn a_newer_version_is_named_before_its_keys() {
        let parse = |text| parse::<Config>(text);
        assert_eq!(parse("version = 1\nname = \"a\"").unwrap().name, "a");
        let refused = |text| format!("{:#}", parse(text).unwrap_err());
        assert!(refused("version = 2\nnew = 1").contains("version 2: this release knows"));
        assert!(refused("name = \"a\"").contains("no version"));
        assert!(refused("version = \"1\"\nname = \"a\"").contains("no version"));
        assert!(refused("version = 1\nname = \"a\"\nmore = 1").contains("more"));
        assert!(refused("version = 1\nname = 3").contains("line 2"));
    }
}
