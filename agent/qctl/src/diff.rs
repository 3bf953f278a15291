//! Unified diffs of texts.

/// Returns a unified diff of two texts: `-` removed lines, `+` added lines, three lines of context.
pub fn differences(old: &str, new: &str) -> String {
    similar::TextDiff::from_lines(old, new).unified_diff().to_string()
}
