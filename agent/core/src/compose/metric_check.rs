//! Bounds on metrics in the Prometheus text format, for health checks and canaries.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Comparison of a metric with its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// Less than the bound (`<`).
    Less,
    /// At most the bound (`<=`).
    AtMost,
    /// More than the bound (`>`).
    More,
    /// At least the bound (`>=`).
    AtLeast,
}

pub const RELATIONS: [(&str, Relation); 4] = [
    ("<=", Relation::AtMost),
    (">=", Relation::AtLeast),
    ("<", Relation::Less),
    (">", Relation::More),
];

/// Bound on one metric: `NAME{label="value"} <= 5`. Every sample of that name that has these labels
/// must hold, and there must be one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    name: String,
    labels: BTreeMap<String, String>,
    relation: Relation,
    bound: f64,
}

impl Check {
    /// Parses `NAME{label="value"} <= 5`; none if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        // A label's value may have what looks like a relation.
        let (metric, rest) = match text.rfind('}') {
            Some(at) => text.split_at(at + 1),
            None => text.split_at(text.find(['<', '>'])?),
        };
        let rest = rest.trim();
        let (sign, relation) = RELATIONS.iter().find(|(sign, _)| rest.starts_with(sign))?;
        let bound: f64 = rest[sign.len()..].trim().parse().ok()?;
        let (name, labels) = split_labels(metric.trim())?;
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let good = bound.is_finite() && !name.is_empty() && name.chars().all(word);
        good.then(|| Self { name: name.into(), labels, relation: *relation, bound })
    }

    /// Looks at a text of metrics (Prometheus text exposition format, version 0.0.4).
    ///
    /// # Errors
    /// The sample that fails the check, or that no sample matches, in one line.
    pub fn evaluate(&self, text: &str) -> Result<(), String> {
        let mut found = false;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let at = line.rfind('}').map_or_else(|| line.find(' '), |at| Some(at + 1));
            let Some((metric, value)) = at.map(|at| line.split_at(at)) else { continue };
            let Some((name, labels)) = split_labels(metric.trim()) else { continue };
            let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
            if name != self.name || !self.labels.iter().all(has) {
                continue;
            }
            found = true;
            let value = value.split_whitespace().next().and_then(|v| v.parse::<f64>().ok());
            let value = value.ok_or_else(|| format!("{line:?} has no value"))?;
            if !self.holds(value) {
                let (sign, _) =
                    RELATIONS.iter().find(|(_, it)| *it == self.relation).expect("all are listed");
                return Err(format!(
                    "{metric} is {value}, which is not {sign} {}",
                    self.bound,
                    metric = metric.trim()
                ));
            }
        }
        if found { Ok(()) } else { Err(format!("there is no metric {}", self.name)) }
    }

    fn holds(&self, value: f64) -> bool {
        match self.relation {
            Relation::Less => value < self.bound,
            Relation::AtMost => value <= self.bound,
            Relation::More => value > self.bound,
            Relation::AtLeast => value >= self.bound,
        }
    }
}

/// Splits `name{a="b",c="d"}` into name and labels; none if it is malformed.
pub fn split_labels(metric: &str) -> Option<(&str, BTreeMap<String, String>)> {
    let Some((name, rest)) = metric.split_once('{') else { return Some((metric, BTreeMap::new())) };
    let mut rest = rest.strip_suffix('}')?.trim_end_matches(',');
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (at, '"') => break at,
                (_, other) => value.push(other),
            }
        };
        labels.insert(label.trim_start_matches(',').trim().into(), value);
        rest = after[end + 1..].trim_start_matches([',', ' ']);
    }
    Some((name.trim(), labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP x y\nerrors_total 3\nlatency{quantile=\"0.5\",path=\"/a}b\"} 0.1\nlatency{quantile=\"0.99\"} 0.7 1700000000\nempty{} NaN\n";

    fn evaluated(check: &str) -> Result<(), String> {
        Check::parse(check).unwrap().evaluate(TEXT)
    }

    #[test]
    fn every_sample_with_the_labels_must_hold() {
        assert_eq!(evaluated("errors_total <= 3"), Ok(()));
        assert_eq!(evaluated("errors_total<4"), Ok(()));
        assert_eq!(
            evaluated("errors_total <= 0").unwrap_err(),
            "errors_total is 3, which is not <= 0"
        );
        assert_eq!(evaluated("latency{quantile=\"0.5\"} < 0.2"), Ok(()));
        assert_eq!(evaluated("latency{path=\"/a}b\"} > 0"), Ok(()));
        assert!(evaluated("latency < 0.5").unwrap_err().contains("0.99"));
        assert!(evaluated("latency{quantile=\"0.9\"} < 1").unwrap_err().contains("no metric"));
        // What is no number holds for nothing.
        assert!(evaluated("empty >= 0").is_err());
        for bad in ["", "errors_total", "errors_total < x", "a b < 1", "a{b} < 1", "a < inf"] {
            assert!(Check::parse(bad).is_none(), "{bad}");
        }
    }
}
