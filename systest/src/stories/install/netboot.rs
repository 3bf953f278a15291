//! Hosts that boot from a network, with real servers in a namespace of this machine.

use crate::harness::booted::{READY_LIMIT, Verdict};
use crate::harness::checkout::ImageFiles;
use crate::harness::lan::{Lan, SERVER};
use crate::harness::shell::Shell;
use crate::harness::vm::{Machine, Vm};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;

/// Host configuration that orders an installation onto `/dev/vda`.
const ORDER: &str = "version = 1\n[install]\ndisk = \"/dev/vda\"\n";

/// Text that our iPXE script prints if `netboot.efi` can't be fetched or started.
const FAILURE: &str = "could not be fetched or started";

/// Proves that hosts boot from a network by UEFI HTTP and by iPXE.
pub fn network_boots(image: &ImageFiles) -> Result<Verdict> {
    if !Path::new("/dev/net/tun").exists() {
        return Ok(Verdict::Skipped("this kernel has no tap devices (/dev/net/tun)".into()));
    }
    let directory = std::env::temp_dir().join(format!("quietcore-web-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let told = by_http(image, &directory).and_then(|()| by_ipxe(image, &directory));
    let _ = std::fs::remove_dir_all(&directory);
    told?;
    Ok(Verdict::Proved(
        "UEFI fetches the OS by HTTP, which installs itself on an empty disk and boots from it; iPXE says that a \
         file is missing or cut off, tries again, and the host trades without a disk"
            .into(),
    ))
}

fn options(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| format!("--{line}")).collect()
}

/// UEFI's own HTTP client (UEFI 2.10, section 24.7), to a disk that is empty at first.
fn by_http(image: &ImageFiles, directory: &Path) -> Result<()> {
    std::fs::copy(image.directory.join("netboot.efi"), directory.join("netboot.efi"))?;
    let options = options(&[
        "dhcp-vendorclass=set:http,HTTPClient".into(),
        "dhcp-option-force=tag:http,60,HTTPClient".into(),
        format!("dhcp-boot=tag:http,http://{SERVER}/netboot.efi"),
    ]);
    let lan = Lan::new(image, directory, &options)?;
    let machine = Machine {
        empty_disk: true,
        reboots: true,
        lan: Some(lan.name().into()),
        files: vec![("host.toml", ORDER.into())],
        fw_cfg: vec![("quietcore.host", "host.toml")],
        ..Machine::default()
    };
    let mut vm = Vm::start(image, &machine)?;
    let why = || format!("dnsmasq said:\n{}", lan.log());
    vm.wait_for("quietcore: installed", READY_LIMIT * 3).with_context(why)?;
    // The shell says once that it is there.
    let mut shell = Shell::connect(&mut vm, READY_LIMIT * 5).with_context(why)?;
    shell.check("qctl ready --timeout 300", READY_LIMIT)?;
    let table = shell.check("dmsetup table root", Duration::from_secs(60))?;
    ensure!(table.contains("verity"), "it did not boot from the disk: {table}");
    Ok(())
}

/// iPXE by TFTP, then the OS by HTTP, without a disk; at first the file is not there, then cut off.
fn by_ipxe(image: &ImageFiles, directory: &Path) -> Result<()> {
    let file = directory.join("netboot.efi");
    std::fs::remove_file(&file)?;
    std::fs::copy(image.directory.join("boot.ipxe"), directory.join("boot.ipxe"))?;
    let options = options(&[
        "dhcp-match=set:ipxe,175".into(),
        "dhcp-boot=tag:!ipxe,snponly.efi".into(),
        format!("dhcp-boot=tag:ipxe,http://{SERVER}/boot.ipxe"),
    ]);
    let lan = Lan::new(image, directory, &options)?;
    let machine = Machine { diskless: true, lan: Some(lan.name().into()), ..Machine::default() };
    let mut vm = Vm::start(image, &machine)?;
    let wait_failures = |vm: &Vm, count: usize| -> Result<()> {
        let deadline = vm.clock.deadline(READY_LIMIT);
        while vm.console().matches(FAILURE).count() < count {
            let text = || format!("{}\n{}", vm.console_end(), lan.log());
            ensure!(!deadline.is_over(), "no {FAILURE:?} ({count}):\n{}", text());
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    };
    wait_failures(&vm, 1).context("without the file")?;
    let whole = std::fs::read(image.directory.join("netboot.efi"))?;
    let next = directory.join("next");
    std::fs::write(&next, &whole[..whole.len() / 2])?;
    std::fs::rename(&next, &file)?;
    // One attempt may still have found nothing.
    let before = vm.console().matches(FAILURE).count();
    wait_failures(&vm, before + 2).context("with half the file")?;
    std::fs::write(&next, &whole)?;
    std::fs::rename(&next, &file)?;
    let mut shell = Shell::connect(&mut vm, READY_LIMIT * 3)?;
    shell.check("qctl ready --timeout 300", READY_LIMIT)?;
    Ok(())
}
