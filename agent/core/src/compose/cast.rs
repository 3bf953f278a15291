//! Numbers and booleans that are written as text: what a variable was put into is one
//! (`pids_limit: ${PIDS}`). Source: Compose Specification, "Interpolation"; compose-go's casts.

use crate::compose::schema::Scalar;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use std::fmt::Display;
use std::str::FromStr;

/// Reads a number, or a text that is one.
///
/// # Errors
/// It is none.
pub fn number<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let text = Scalar::deserialize(deserializer)?.text();
    text.parse().map_err(|error| Error::custom(format!("{text:?}: {error}")))
}

/// Reads a number that may be left out.
///
/// # Errors
/// It is none.
pub fn option<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = Option::<Scalar>::deserialize(deserializer)?.map(|scalar| scalar.text());
    let number =
        text.map(|text| text.parse().map_err(|error| Error::custom(format!("{text:?}: {error}"))));
    number.transpose()
}

/// Reads a boolean, or a text that is one to docker-compose.
///
/// # Errors
/// It is none.
pub fn boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let text = Scalar::deserialize(deserializer)?.text();
    match text.to_ascii_lowercase().as_str() {
        "true" | "y" | "yes" | "on" => Ok(true),
        "false" | "n" | "no" | "off" => Ok(false),
        _ => Err(Error::custom(format!("{text:?}: write true or false"))),
    }
}
