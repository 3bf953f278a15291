//! The production image on a host of its own: its configuration comes by credentials, from the ESP,
//! SMBIOS and fw_cfg, and one that can't be used is named and left.

use crate::harness::booted::{READY_LIMIT, Verdict};
use crate::harness::checkout::{ImageFiles, root};
use crate::harness::vm::{Machine, Vm};
use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

const HOST: &str = r#"version = 1
hostname = "ny4-01"
[cores]
hot = "2-N"
[[network]]
mac = "52:54:00:12:34:56"
addresses = ["10.0.2.15/24"]
gateway = "10.0.2.2"
[time]
servers = ["10.0.2.2"]
"#;

/// Onto the ESP, where systemd-stub finds it for every UKI. Without a TPM and Secure Boot, systemd
/// takes what is encrypted with no key.
const ONTO_THE_ESP: &str = "systemd-creds encrypt --with-key=null --name=quietcore.host /vm/host.toml /vm/host.cred 2> /dev/null; \
    mmd -D s $esp ::/loader/credentials; mcopy -o $esp /vm/host.cred ::/loader/credentials/quietcore.host.cred";

/// As credentials in SMBIOS have it.
pub fn base64(text: &str) -> Result<String> {
    let mut child =
        Command::new("base64").arg("-w0").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("base64's input")?;
    std::io::Write::write_all(&mut input, text.as_bytes())?;
    drop(input);
    Ok(String::from_utf8(child.wait_with_output()?.stdout)?)
}

/// Proves that credentials from the ESP, SMBIOS and fw_cfg configure a production host.
pub fn credentials_make_a_host(_: &ImageFiles) -> Result<Verdict> {
    let image = ImageFiles::build("production")?;
    let engine = std::fs::read_to_string(root().join("engine/config/demo.toml"))?;
    let compose = std::fs::read_to_string(root().join("containers/compose/production.yaml"))?;
    let compose = compose.replace("exporter:\n    image", "metrics:\n    image");
    ensure!(compose.contains("metrics:"), "the production compose file has no exporter");
    let smbios = vec![format!("quietcore.engine.toml={}", base64(&engine)?)];
    let machine = Machine {
        network: true,
        files: vec![("host.toml", HOST.into()), ("compose.yaml", compose.clone())],
        fw_cfg: vec![("quietcore.compose.yaml", "compose.yaml")],
        smbios: smbios.clone(),
        esp: Some(ONTO_THE_ESP.into()),
        ..Machine::default()
    };
    let mut vm = Vm::start(&image, &machine)?;
    vm.wait_for(
        "quietcore: host ny4-01, 1 interfaces, hot cores 2-N, time from 10.0.2.2",
        READY_LIMIT,
    )?;
    vm.wait_for("quietcore: healthy", READY_LIMIT)
        .context("engine and containers of the credentials")?;
    let console = vm.console();
    let healthy = console.lines().find(|line| line.contains("quietcore: healthy"));
    let healthy = healthy.unwrap_or_default();
    ensure!(healthy.contains("containers: metrics"), "not the credential's containers: {healthy}");
    let seconds = vm.started.elapsed().as_secs();
    drop(vm);
    let bad = HOST.replace("10.0.2.15/24", "10.0.2.15");
    let machine = Machine {
        network: true,
        files: vec![("host.toml", bad), ("compose.yaml", compose)],
        fw_cfg: vec![("quietcore.compose.yaml", "compose.yaml"), ("quietcore.host", "host.toml")],
        smbios,
        ..Machine::default()
    };
    let mut vm = Vm::start(&image, &machine)?;
    vm.wait_for("network.addresses = \"10.0.2.15\": write ADDRESS/LENGTH", READY_LIMIT)?;
    vm.wait_for("quietcore: healthy", READY_LIMIT).context("with DHCP instead")?;
    Ok(Verdict::Proved(format!(
        "the production image with a host configuration from the ESP, an engine's from SMBIOS and a compose file from fw_cfg is healthy after {seconds} s; one with a mistake is named on the console, and the host asks DHCP"
    )))
}
