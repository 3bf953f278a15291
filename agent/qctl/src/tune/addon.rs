//! A host's own words of the kernel's command line, as an addon of the UKI (systemd-stub(7)): which
//! cores are hot, and what `[kernel]` of its configuration adds. Made with systemd's ukify, signed
//! with osslsigncode.

use abi::hostconfig::HostConfig;
use abi::hostplan::HostPlan;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// Kernel command line words that make cores hot, one per line, from `kernel-config/cores.conf`.
const CORES: &str = include_str!("../../../../kernel-config/cores.conf");

/// The signature's time is the image's, so that signing again gives the same bytes.
const SIGNED_AT: &str = include_str!("../../../../image/source-date-epoch");

/// Signing key in PEM, and its certificate.
#[derive(Debug, Clone, Copy)]
pub struct Signer<'a> {
    /// The private key.
    pub key: &'a Path,
    /// The certificate that the firmware knows.
    pub certificate: &'a Path,
}

/// The words of a host with so many CPUs, or with any number of them.
///
/// # Errors
/// The configuration says nothing of cores, or its cores are not to be had.
pub fn words(config: &HostConfig, cpus: Option<u32>) -> Result<Vec<String>> {
    let plan = config.plan_text().context("no hot = \"2-N\" under [cores]")?;
    let plan = HostPlan::parse(&plan)?;
    let housekeeping = plan.housekeeping_text(cpus)?;
    let lines = CORES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let of_host = |line: &str| {
        line.replace("{hot}", plan.hot_text()).replace("{housekeeping}", &housekeeping)
    };
    Ok(lines.map(of_host).chain(config.kernel_words().iter().cloned()).collect())
}

/// Makes the addon. Without a signer it is for firmware without Secure Boot.
///
/// # Errors
/// A program is missing or says no; there is no file then.
pub fn make(words: &[String], signer: Option<Signer<'_>>, output: &Path) -> Result<()> {
    let name = output.display().to_string();
    ensure!(name.ends_with(".addon.efi"), "{name}: systemd-stub takes only names in .addon.efi");
    let partial = output.with_extension("partial");
    let made = build(words, signer, &partial)
        .and_then(|()| std::fs::rename(&partial, output).with_context(|| format!("write {name}")));
    let _ = std::fs::remove_file(&partial);
    made
}

fn build(words: &[String], signer: Option<Signer<'_>>, output: &Path) -> Result<()> {
    let mut ukify = Command::new("ukify");
    ukify.arg("build").arg(format!("--cmdline={}", words.join(" ")));
    ukify.arg("--output").arg(output).env("SOURCE_DATE_EPOCH", SIGNED_AT.trim());
    run(&mut ukify, "systemd-ukify and systemd-boot-efi")?;
    let Some(Signer { key, certificate }) = signer else { return Ok(()) };
    let signed = output.with_extension("signed");
    let mut sign = Command::new("osslsigncode");
    sign.arg("sign").arg("-certs").arg(certificate).arg("-key").arg(key);
    sign.args(["-h", "sha256", "-time", SIGNED_AT.trim()])
        .arg("-in")
        .arg(output)
        .arg("-out")
        .arg(&signed);
    let result = run(&mut sign, "osslsigncode")
        .and_then(|()| std::fs::rename(&signed, output).context("the signed addon"));
    let _ = std::fs::remove_file(&signed);
    result
}

fn run(command: &mut Command, packages: &str) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| {
        format!("{name} is not here: install {packages}, or use make addon, which needs nothing")
    })?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    ensure!(output.status.success(), "{name}: {last}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_words_are_those_of_its_cores_and_its_own() {
        let of = |text: &str, cpus| words(&HostConfig::parse(text).unwrap(), cpus);
        let text = "version = 1\n[cores]\nhot = \"2-N\"\n[kernel]\nwords = [\"idle=poll\"]\n";
        assert_eq!(
            of(text, None).unwrap().join(" "),
            "nohz_full=2-N rcu_nocbs=2-N irqaffinity=0-1 isolcpus=managed_irq,2-N \
             systemd.cpu_affinity=0-1 idle=poll"
        );
        let text = "version = 1\n[cores]\nhot = \"1,4-5\"\n";
        let error = of(text, None).unwrap_err().to_string();
        assert!(error.contains("--cpus"), "{error}");
        let found = of(text, Some(8)).unwrap().join(" ");
        assert!(found.contains("irqaffinity=0,2-3,6-7 "), "{found}");
        assert!(of(text, Some(5)).unwrap_err().to_string().contains("has CPUs 0-4"));
        assert!(of("version = 1\n", None).unwrap_err().to_string().contains("[cores]"));
    }

    #[test]
    fn an_addon_that_was_not_made_is_no_file() {
        let temporary = tempfile::tempdir().unwrap();
        let output = temporary.path().join("it");
        let error = make(&[], None, &output).unwrap_err().to_string();
        assert!(error.contains(".addon.efi") && !output.exists(), "{error}");
    }
}
