//! Output formats: table, JSON, YAML.

use anyhow::Result;
use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
    Yaml,
}

impl Output {
    /// Prints a value; a table is made by who knows its columns.
    pub fn print(self, value: &impl serde::Serialize) -> Result<()> {
        match self {
            Self::Yaml => print!("{}", serde_yaml_ng::to_string(value)?),
            _ => println!("{}", serde_json::to_string_pretty(value)?),
        }
        Ok(())
    }
}
