//! Tables for people: columns as wide as what is in them, cut at the terminal's width.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Row, Table};
use std::io::{IsTerminal, stdout};

/// Heading of a column: numbers stand at its right.
pub enum Column {
    /// Text, from the left.
    Text(&'static str),
    /// Number, from the right.
    Number(&'static str),
}

/// Lays rows out below their headings; a line for each, longer ones cut on a terminal.
pub fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    let names = columns.iter().map(|column| match column {
        Column::Text(name) | Column::Number(name) => *name,
    });
    table.set_header(names);
    for row in rows {
        let mut row = Row::from(row);
        row.max_height(1);
        table.add_row(row);
    }
    for (at, column) in columns.iter().enumerate() {
        let column_of = table.column_mut(at).expect("there is one for each heading");
        column_of.set_padding((0, 2));
        if let Column::Number(_) = column {
            column_of.set_cell_alignment(CellAlignment::Right);
        }
    }
    if let Some(width) = terminal_width() {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.trim_fmt() + "\n"
}

/// Columns of the terminal at standard output, if it is one.
fn terminal_width() -> Option<u16> {
    let size = stdout().is_terminal().then(|| rustix::termios::tcgetwinsize(stdout()))?.ok()?;
    (size.ws_col > 0).then_some(size.ws_col)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let rows = [["a", "7", "x y"], ["long-name", "1234", ""]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        let columns = [Column::Text("NAME"), Column::Number("N"), Column::Text("LAST")];
        assert_eq!(
            table(&columns, rows),
            "NAME          N  LAST\na             7  x y\nlong-name  1234\n"
        );
        assert_eq!(table(&columns, []), "NAME  N  LAST\n");
    }
}
