//! The operator's command line, `qctl`: asks agents, resolves compose projects, tunes and checks hosts, flashes disks. Builds on
//! a laptop: neither protoc nor containerd is among its dependencies.
#![forbid(unsafe_code)]

/// `qctl apply` and `qctl diff`.
mod apply;
/// Arguments of `qctl apply`.
mod apply_args;
/// Command line: subcommands, their groups and help.
mod arguments;
/// `qctl audit`.
mod audit;
/// Progress of a boot, until the agent answers.
mod boot;
/// `qctl ca`: a certificate authority for hosts and operators.
mod ca;
/// Client of an agent: its local socket, or HTTPS with a client certificate.
mod client;
/// Line numbers of the user's compose file in errors.
mod compose_file;
/// Compose projects: variables, env files, extends, profiles, resolved to one file.
mod compose_project;
/// `qctl config`.
mod config;
/// `qctl cpu map`.
mod cpu;
/// `qctl debug`: ephemeral debug containers.
mod debug;
/// `qctl desired` and `qctl window`.
mod desired;
/// Line diffs.
mod diff;
/// `qctl events`.
mod events;
/// `qctl apply --canary` over several hosts.
mod fleet;
/// `qctl get` and `qctl describe`.
mod get;
/// `qctl hosts`: the file of hosts, and selection by label.
mod hosts;
/// `qctl image`.
mod image;
/// `qctl logs`.
mod logs;
/// Output formats: table, JSON, YAML.
mod output;
/// `qctl pcap`.
mod pcap;
/// Program: runs a subcommand on this host or on others.
pub mod program;
/// `qctl rollout`.
mod rollout;
/// `qctl secret`.
mod secret;
/// Status as a page for a terminal.
mod status_page;
/// `qctl support`: an archive for whoever is to help.
mod support;
/// Raw mode and size of the terminal that qctl runs in.
mod terminal;
/// Checks of a tuned host: kernel command line, sysctls, interrupts, NICs.
mod tune;
/// `qctl tune`.
mod tuning;
/// `qctl update` and `qctl flash`.
mod update_flash;
/// `qctl apply --wait`.
mod wait;
