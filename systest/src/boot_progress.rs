//! Progress of a boot, for a person: firmware, kernel, units done of all. On a terminal one line
//! that moves; in a pipe a line for each step.

use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Console text that begins each step of a boot, in order. The last one that is there counts.
const STEPS: [(&str, &str); 3] = [
    ("BdsDxe: starting", "loader"),
    ("EFI stub", "kernel"),
    // The configuration of the host is the first thing that a unit of ours says.
    ("quietcore: ", "units"),
];

/// Prefix of the guest's live view for a line about its boot (`qctl top --boot`).
pub const BOOTING: &str = "booting: ";

/// The step that a console has come to.
fn step(console: &str) -> &'static str {
    let begun = STEPS.iter().rev().find(|(shown, _)| console.contains(shown));
    begun.map_or("firmware", |(_, step)| step)
}

/// Boot steps as they are shown to a person.
pub struct BootProgress {
    is_terminal: bool,
    step: &'static str,
    /// Units done of all, in the guest's words.
    units: Option<String>,
}

impl Default for BootProgress {
    fn default() -> Self {
        Self { is_terminal: std::io::stdout().is_terminal(), step: "", units: None }
    }
}

impl BootProgress {
    /// Returns the boot's last step, in words.
    pub fn text(&self) -> String {
        match &self.units {
            Some(units) => units.clone(),
            None => format!("booting: {}", self.step),
        }
    }

    /// Takes what the console shows, and what the guest says of its units; shows what is new.
    ///
    /// # Errors
    /// Standard output's.
    pub fn update(
        &mut self,
        console: &str,
        units: Option<String>,
        elapsed: Duration,
    ) -> std::io::Result<()> {
        let step = if units.is_some() { "units" } else { step(console) };
        let is_new = step != self.step && (self.step, step) != ("units", "kernel");
        self.step = if is_new { step } else { self.step };
        self.units = units.or(self.units.take());
        let (text, seconds) = (self.text(), elapsed.as_secs());
        let mut out = std::io::stdout();
        if self.is_terminal {
            write!(out, "\r\x1b[K{text} ({seconds} s); Ctrl-C ends it")?;
        } else if is_new {
            writeln!(out, "{text} ({seconds} s)")?;
        }
        out.flush()
    }

    /// Leaves the line, for what comes after the boot.
    ///
    /// # Errors
    /// Standard output's.
    pub fn end(&self) -> std::io::Result<()> {
        if self.is_terminal { writeln!(std::io::stdout()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_that_was_begun_counts() {
        assert_eq!(step(""), "firmware");
        assert_eq!(step("BdsDxe: starting Boot0001"), "loader");
        let console = "BdsDxe: starting Boot0001\nEFI stub: Loaded initrd\n";
        assert_eq!(step(console), "kernel");
        assert_eq!(step(&format!("{console}quietcore: no host configuration")), "units");
    }

    #[test]
    fn what_the_guest_says_of_its_units_is_kept() {
        let mut progress = BootProgress { is_terminal: false, step: "", units: None };
        progress.update("EFI stub", None, Duration::ZERO).unwrap();
        assert_eq!(progress.text(), "booting: kernel");
        let units = Some("booting: 50 of 80 units".to_owned());
        progress.update("EFI stub", units, Duration::ZERO).unwrap();
        progress.update("EFI stub", None, Duration::ZERO).unwrap();
        assert_eq!(progress.text(), "booting: 50 of 80 units");
    }
}
