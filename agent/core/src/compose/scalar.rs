//! Scalars, and numbers and booleans that are written as text: what a variable was put into is one
//! (`pids_limit: ${PIDS}`). Source: Compose Specification, "Interpolation"; compose-go's casts.

use crate::compose::units;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use std::fmt::Display;
use std::str::FromStr;

/// Scalar as YAML reads it: bool, number or text, where the file's author may mean either.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// Boolean: `true` or `false`.
    Bool(bool),
    /// Integer, as in `5`.
    Integer(i64),
    /// Integer above those.
    Large(u64),
    /// Float, as in `0.5`.
    Float(f64),
    /// Text: any other scalar.
    Text(String),
}

impl Scalar {
    /// Text of the value, as docker-compose writes it.
    pub fn text(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Large(value) => value.to_string(),
            Self::Float(value) => units::float_text(*value),
            Self::Text(value) => value.clone(),
        }
    }
}

fn parse<T: FromStr<Err: Display>, E: Error>(scalar: &Scalar) -> Result<T, E> {
    let text = scalar.text();
    text.parse().map_err(|error| E::custom(format!("{text:?}: {error}")))
}

/// Reads a number, or a text that is one.
///
/// # Errors
/// The value is not a number in the type's range.
pub fn number<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(
    deserializer: D,
) -> Result<T, D::Error> {
    parse(&Scalar::deserialize(deserializer)?)
}

/// Reads a number that may be left out.
///
/// # Errors
/// The value is not a number in the type's range.
pub fn option<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Option::<Scalar>::deserialize(deserializer)?.map(|scalar| parse(&scalar)).transpose()
}

/// Reads a boolean, or a text that is one to docker-compose.
///
/// # Errors
/// The value is not a boolean.
pub fn boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let text = Scalar::deserialize(deserializer)?.text();
    match text.to_ascii_lowercase().as_str() {
        "true" | "y" | "yes" | "on" => Ok(true),
        "false" | "n" | "no" | "off" => Ok(false),
        _ => Err(Error::custom(format!("{text:?}: write true or false"))),
    }
}
