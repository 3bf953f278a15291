//! Boots and runs commands.
use std::time::Duration;
use systest::{checkout::ImageFiles, stories, vm::Machine};
fn main() -> anyhow::Result<()> {
    let image = ImageFiles::find("debug")?;
    let mut b = stories::boot(&image, &Machine::default())?;
    for c in std::env::args().skip(1) {
        match b.shell.run(&c, Duration::from_secs(300)) {
            Ok(o) => println!("--- {c} [{}]\n{}", o.code, o.text),
            Err(e) => println!("--- {c}: {e:#}\n{}", b.vm.console_end()),
        }
    }
    Ok(())
}
