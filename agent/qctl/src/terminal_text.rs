//! Texts of other hosts and of workers, before a terminal shows them.

/// The text without orders to a terminal: of control characters only tabs and ends of lines stay.
pub fn printable(text: &str) -> String {
    let is_order = |it: char| it.is_control() && !['\n', '\t'].contains(&it);
    text.replace(is_order, "\u{fffd}")
}
