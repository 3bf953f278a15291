//! The operator's command line, `qctl`: asks agents, resolves compose projects, tunes and checks
//! hosts, flashes disks. Builds on a laptop: neither protoc nor containerd is among its
//! dependencies.
#![forbid(unsafe_code)]

/// `qctl api`: requests of the HTTP API, signed.
mod api;
/// `qctl apply` and `qctl diff`.
mod apply;
/// Arguments of `qctl apply`.
mod apply_args;
/// Command line: subcommands, their groups and help.
mod arguments;
/// `qctl audit`: records of the audit log, with their chain verified.
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
/// `qctl config`: check of a compose file, printed as JSON.
mod config;
/// `qctl cpu map`.
mod cpu;
/// `qctl debug`: ephemeral debug containers.
mod debug;
/// `qctl desired` and `qctl window`.
mod desired;
/// Unified diffs of texts.
mod diff;
/// Env files (`env_file`, `.env`), as docker-compose reads them.
mod env_file;
/// `qctl events`: events of a host, oldest first.
mod events;
/// `qctl apply --canary` over several hosts.
mod fleet;
/// `qctl get` and `qctl describe`.
mod get;
/// `qctl hosts`: the file of hosts, and selection by label.
mod hosts;
/// `qctl image`: load, list and remove container images.
mod image;
/// Variables in texts of a compose file.
mod interpolation;
/// `qctl logs`: output of a container, from the journal of systemd.
mod logs;
/// Output formats: table, JSON, YAML.
mod output;
/// `qctl pcap`: packet capture on an interface of a host.
mod pcap;
/// Program: runs a subcommand on this host or on others.
pub mod program;
/// HTTPS to the API of another host.
mod remote_client;
/// Signatures of requests to other hosts.
mod request_signer;
/// `qctl rollout`: show, pause, promote and undo trials.
mod rollout;
/// `qctl secret`: set, list and remove secrets of containers.
mod secret;
/// Status as a page for a terminal.
mod status_page;
/// `qctl support`: an archive for whoever is to help.
mod support;
/// Tables for people.
mod table;
/// Raw mode and size of the terminal that qctl runs in.
mod terminal;
/// Texts without orders to a terminal.
mod terminal_text;
/// Checks of a tuned host: kernel command line, sysctls, interrupts, NICs.
mod tune;
/// `qctl tune`: verification of a host's tuning, and kernel command line addons.
mod tuning;
/// `qctl update` and `qctl flash`.
mod update_flash;
/// `qctl apply --wait`.
mod wait;
