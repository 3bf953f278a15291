//! Command line of `qctl`: subcommands, their groups, and the help that shows them.

use crate::output::Output;
use crate::{
    api, apply_args, audit, ca, cpu, debug, desired, events, get, image, logs, pcap, rollout,
    secret, tuning,
};
use agent_core::protocol::SOCKET;
use clap::{CommandFactory, Parser, Subcommand};
use std::fmt::Write;
use std::path::PathBuf;

/// Subcommands as the help shows them; every one that is not hidden stands here once.
const GROUPS: [(&str, &[&str]); 7] = [
    ("Look at a host", &["status", "top", "get", "describe", "events", "logs", "cpu", "audit"]),
    ("Containers", &["apply", "diff", "keep", "config", "rollout", "secret", "image", "debug"]),
    ("Trading", &["kill", "drain", "resume", "limits"]),
    ("Operating system", &["ready", "healthy", "update", "reboot", "window", "tune"]),
    ("Hosts and fleets", &["hosts", "desired", "ca", "api", "host", "flash"]),
    ("Find a fault", &["pcap", "support"]),
    ("Shell", &["completion", "man"]),
];

/// Builds the command line, with its help in groups.
pub fn command_line() -> clap::Command {
    let command = Arguments::command();
    let mut groups = String::new();
    for (title, names) in GROUPS {
        writeln!(groups, "{title}:").expect("a string takes everything");
        for name in names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            writeln!(groups, "  {name:<11} {about}").expect("a string takes everything");
        }
        groups.push('\n');
    }
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}Options:\n{{options}}{{after-help}}"
    );
    command.help_template(template)
}

/// Operate Quietcore hosts: this one, or others over the network.
///
/// Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "qctl", version)]
pub struct Arguments {
    /// The agent's socket.
    #[arg(long, default_value = SOCKET, global = true)]
    pub socket: PathBuf,
    /// Ask these hosts of the file of hosts instead, one after the other.
    #[arg(long, global = true, value_delimiter = ',')]
    pub on: Vec<String>,
    /// Ask all hosts of that file that have these labels, NAME=VALUE.
    #[arg(long, global = true, value_delimiter = ',')]
    pub select: Vec<String>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what the host is doing.
    Status {
        /// Format of the output.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Show the status, drawn anew each second.
    Top {
        /// Use colour although the output is not a terminal.
        #[arg(long)]
        colour: bool,
        /// Until the agent answers, show how far the host's boot is.
        #[arg(long, hide = true)]
        boot: bool,
    },
    /// Wait until the engine trades and every container runs.
    Ready {
        /// Seconds to wait.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
    /// Wait until engine and containers run and stay up.
    ///
    /// The engine is past its preflight, every container runs, and all stay up for 10 s. The
    /// exchange may be closed.
    Healthy {
        /// Seconds to wait.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
    /// Fetch a release of the operating system for the next boot.
    ///
    /// It is written to the other slot, which the next boot tries. Trading goes on meanwhile.
    /// Without URL: how the last update went.
    Update {
        /// The release's directory, as http://HOST/PATH or https://HOST/PATH.
        url: Option<String>,
    },
    /// Restart the host; refused while the engine holds a position.
    ///
    /// The engine cancels its orders first.
    Reboot {
        /// Although the engine holds a position.
        #[arg(long)]
        holding: bool,
    },
    /// Run what a compose file declares.
    ///
    /// Variables, env files, extended services and profiles are resolved here, from this
    /// environment and the files beside the compose file.
    Apply(apply_args::Apply),
    /// Keep what was applied with --try.
    Keep,
    /// Compare a compose file with what is declared, line by line.
    Diff {
        /// Compose file to compare.
        file: PathBuf,
        /// A profile whose services are wanted too; * for all.
        #[arg(long)]
        profile: Vec<String>,
    },
    /// List containers, cores, engines, images, problems or secrets.
    Get(get::Get),
    /// Show all that is known of a service.
    Describe {
        /// Service to describe.
        name: String,
    },
    /// Show, pause, promote or undo trials of new versions.
    Rollout {
        #[command(subcommand)]
        what: rollout::Rollout,
    },
    /// Sign and follow a desired state (GitOps).
    ///
    /// It comes from a web server, a registry or a stick.
    Desired {
        #[command(subcommand)]
        what: desired::What,
    },
    /// Tell whether a maintenance window is open.
    ///
    /// Windows stand in the credential quietcore.desired. Exit code 1 if none is open.
    Window,
    /// Show which core belongs to whom.
    Cpu {
        #[command(subcommand)]
        what: cpu::Cpu,
    },
    /// Set, list and remove secrets of containers.
    Secret {
        #[command(subcommand)]
        what: secret::Secret,
    },
    /// Show who changed what on this host.
    Audit(audit::Audit),
    /// Send a request of the HTTP API, signed where it must be; for scripts.
    Api(api::Api),
    /// Collect an archive for whoever is to help; no secrets.
    ///
    /// Status, events, units, kernel, journal.
    Support {
        /// The archive to write.
        archive: PathBuf,
    },
    /// Edit the file of hosts that --on and --select read.
    ///
    /// Asks no agent.
    Hosts {
        #[command(subcommand)]
        what: Hosts,
    },
    /// Issue certificates for hosts and operators.
    ///
    /// Asks no agent.
    Ca {
        #[command(subcommand)]
        what: ca::Ca,
    },
    /// Check a compose file and print its meaning as JSON.
    ///
    /// With everything resolved. Asks no agent.
    Config {
        /// Compose file to check.
        file: PathBuf,
        /// A profile whose services are wanted too; * for all.
        #[arg(long)]
        profile: Vec<String>,
        /// CPUs for containers that the host has.
        #[arg(long, default_value_t = 2)]
        cpus: u32,
    },
    /// Show what happened on this host, oldest first.
    Events(events::Events),
    /// Show the output of a container.
    Logs(logs::Logs),
    /// Print a completion script for a shell.
    ///
    /// Asks no agent.
    Completion {
        /// Shell to complete for.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, for `man -l -`.
    ///
    /// Asks no agent.
    Man,
    /// Run a program in an ephemeral debug container.
    ///
    /// With an image of tools, or in a service's place; on housekeeping cores, as every container.
    /// Exit code 1 if the program ends with another status than 0.
    Debug(debug::Debug),
    /// Capture packets of an interface into a pcap file.
    Pcap(pcap::Pcap),
    /// Load, list and remove images of containers.
    Image {
        #[command(subcommand)]
        what: image::Image,
    },
    /// Check whether this host is tuned, and show how.
    ///
    /// Asks no agent.
    Tune {
        #[command(subcommand)]
        what: tuning::Tune,
    },
    /// Write a disk image to a disk and read it back.
    ///
    /// Asks no agent. Refused while anything uses the disk. A disk that was pulled out does not
    /// boot; a second try goes on.
    Flash {
        /// The image, a disk.raw.
        image: PathBuf,
        /// The whole disk, as /dev/sdb.
        disk: PathBuf,
        /// Public key (release.pub) to verify the SHA256SUMS beside the image with.
        #[arg(long)]
        key: Option<PathBuf>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Put the parts of a disk image that are not the root in files, for a netboot UKI.
    #[command(hide = true)]
    SplitImage {
        /// Disk image to split.
        image: PathBuf,
        /// Directory to write the parts to.
        directory: PathBuf,
    },
    /// Check a host's configuration file.
    Host {
        #[command(subcommand)]
        what: Host,
    },
    /// Cancel every order and stop trading, until `qctl resume`.
    Kill,
    /// Cancel orders and open no new ones, until `qctl resume`.
    Drain,
    /// Trade again, also after a limit stopped trading.
    Resume,
    /// Show or change the engine's risk limits.
    ///
    /// Changes are in force until the engine's next configuration.
    Limits {
        /// The shard, if the engine has several.
        #[arg(long)]
        shard: Option<String>,
        /// NAME=VALUE; none shows all.
        changes: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Hosts {
    /// Write a host down, or another one in its place.
    Add {
        /// Name of the host.
        name: String,
        /// URL of the host's API, as https://HOST:PORT.
        url: String,
        /// CA certificate of the host: the ca.pem of qctl ca.
        #[arg(long)]
        authority: PathBuf,
        /// Client certificate and key, from qctl ca.
        #[arg(long)]
        identity: PathBuf,
        /// NAME=VALUE, to select it by.
        #[arg(long = "label")]
        labels: Vec<String>,
    },
    /// List the hosts.
    Ls,
}

#[derive(Debug, Subcommand)]
pub enum Host {
    /// Check the file that a host is to be given as the credential quietcore.host. Asks no agent.
    Check {
        /// Host configuration file to check.
        file: PathBuf,
        /// CPUs of the host, to check its cores too.
        #[arg(long)]
        cpus: Option<u32>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_stands_in_one_group() {
        let command = Arguments::command();
        let shown = command.get_subcommands().filter(|it| !it.is_hide_set());
        let mut shown: Vec<&str> = shown.map(clap::Command::get_name).collect();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        shown.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(grouped, shown);
        let help = command_line().render_help().to_string();
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    }
}
