//! `qctl support`: what somebody needs who is to help, in one archive. Values of environments and
//! secrets stay here.

use crate::client::{Client, unexpected};
use agent_core::protocol::{Request, Response};
use anyhow::{Context, Result};
use serde_yaml_ng::Value;
use std::path::Path;
use std::process::Command;

/// Commands whose output goes into the archive, run only if the host is this one: file name,
/// command line.
const COMMANDS: [(&str, &[&str]); 7] = [
    ("kernel.txt", &["uname", "-a"]),
    ("cmdline.txt", &["cat", "/proc/cmdline"]),
    ("interrupts.txt", &["cat", "/proc/interrupts"]),
    ("units.txt", &["systemctl", "--no-pager", "--all", "list-units"]),
    ("failed.txt", &["systemctl", "--no-pager", "--failed"]),
    ("journal.txt", &["journalctl", "--no-pager", "--boot", "--lines=5000", "--priority=notice"]),
    ("tuning.txt", &["qctl", "tune", "verify", "--trace", "0"]),
];

/// Writes the archive.
pub fn collect(client: &mut Client, path: &Path) -> Result<()> {
    let file = std::fs::File::create(path).with_context(|| format!("write {}", path.display()))?;
    let mut archive = tar::Builder::new(file);
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes)
    };
    let pretty = |value: &serde_json::Value| serde_json::to_vec_pretty(value);
    add("status.json", &pretty(&serde_json::json!(client.status()?))?)?;
    add("events.json", &pretty(&serde_json::json!(crate::events::ask(client, 0, 1000)?))?)?;
    let Response::Declared(declared) = client.ask(&Request::Declared {})? else {
        return Err(unexpected("what is declared"));
    };
    add("compose.yaml", without_values(&declared)?.as_bytes())?;
    if let Ok(Response::Audit(records)) = client.ask(&Request::Audit { count: 1000 }) {
        add("audit.json", &pretty(&serde_json::json!(records))?)?;
    }
    if let Client::Local(_) = client {
        for (name, command) in COMMANDS {
            let output = Command::new(command[0]).args(&command[1..]).output();
            let output = output.with_context(|| format!("run {}", command.join(" ")))?;
            add(name, &[output.stdout, output.stderr].concat())?;
        }
    }
    archive.into_inner()?.sync_all()?;
    println!("{}: written", path.display());
    Ok(())
}

/// A compose file whose variables have names only.
fn without_values(text: &str) -> Result<String> {
    let mut file: Value = serde_yaml_ng::from_str(text)?;
    let services = file.get_mut("services").and_then(Value::as_mapping_mut);
    for (_, service) in services.into_iter().flat_map(|services| services.iter_mut()) {
        match service.get_mut("environment") {
            Some(Value::Mapping(variables)) => {
                variables.iter_mut().for_each(|(_, value)| *value = "(left out)".into());
            }
            Some(Value::Sequence(variables)) => {
                for variable in variables {
                    let name = variable.as_str().and_then(|it| it.split('=').next());
                    *variable = format!("{}=(left out)", name.unwrap_or("?")).into();
                }
            }
            _ => {}
        }
    }
    if let Some(Value::Mapping(configs)) = file.get_mut("configs") {
        configs.iter_mut().for_each(|(_, config)| *config = "(left out)".into());
    }
    Ok(serde_yaml_ng::to_string(&file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_an_environment_or_configuration_leaves_the_host() {
        let text = "services:\n  a: {image: x, environment: {KEY: swordfish}}\n  b: {image: x, environment: [KEY=swordfish]}\nconfigs: {c: {content: swordfish}}\n";
        let shown = without_values(text).unwrap();
        assert!(!shown.contains("swordfish") && shown.contains("KEY"), "{shown}");
    }
}
