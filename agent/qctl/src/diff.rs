//! Line diffs.

/// What is another in a text, line by line: `-` what goes, `+` what comes, with three lines around.
pub fn differences(old: &str, new: &str) -> String {
    similar::TextDiff::from_lines(old, new).unified_diff().to_string()
}
