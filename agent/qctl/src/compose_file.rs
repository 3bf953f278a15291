//! Line numbers of the user's compose file in the agent's errors.

use agent_core::compose::error_lines::line_of;
use anyhow::anyhow;
use std::path::Path;

/// An error with the line of the file as it is written: what was read is what [`resolve`] made of
/// it.
pub fn in_file(file: &Path, error: &anyhow::Error) -> anyhow::Error {
    let said = format!("{error:#}");
    let told = said.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
    let Some((_, what)) = told.filter(|(line, _)| line.parse::<usize>().is_ok()) else {
        return anyhow!("{}: {said}", file.display());
    };
    let own = std::fs::read_to_string(file).ok().and_then(|text| line_of(&text, what));
    let line = own.map_or_else(String::new, |line| format!(":{line}"));
    anyhow!("{}{line}: {what}", file.display())
}

#[cfg(test)]
mod tests {
    use crate::compose_file::in_file;
    use anyhow::anyhow;

    #[test]
    fn an_error_has_the_line_of_the_file_as_it_is_written() {
        let temporary = tempfile::tempdir().unwrap();
        let file = temporary.path().join("it");
        std::fs::write(&file, "services:\n  a:\n    extends: {service: b}\n    cpus: 9\n").unwrap();
        for (said, shown) in [
            ("line 49: services.a.cpus: \"9\": no", ":4: services.a.cpus: \"9\": no"),
            ("line 49: volumes.a: no", ": volumes.a: no"),
            ("not there at line 3", ": not there at line 3"),
        ] {
            let error = in_file(&file, &anyhow!("{said}")).to_string();
            assert_eq!(error, format!("{}{shown}", file.display()));
        }
    }
}
