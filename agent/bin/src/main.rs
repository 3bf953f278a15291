//! `quietcore-agent`: reads the command line and runs the agent or one of its steps; called `qctl`,
//! it is that.

use agent_boot::{container_init, install_disk, install_update, mount_volume};
use agent_core::health::PROBE_SOCKET;
use agent_core::{compose, protocol};
use agent_daemon::reconcile::{Paths, run};
use agent_host::images::policy::Policy;
use agent_host::images::wanted;
use agent_host::update::UpdatePaths;
use agent_host::{credentials, desired_exchange, hot_partition, journal, vault_exchange};
use agent_qctl::program;
use agent_workers::probe::server;
use agent_workers::{api, fetch, follow, forward, pcap, pull, tail, vault};
use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// The agent of a trading host.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Run {
    /// The compose file of the image.
    #[arg(long, default_value = "/etc/quietcore/compose.yaml")]
    compose: PathBuf,
    /// Where the applied compose file is kept.
    #[arg(long, default_value = "/var/lib/quietcore/agent")]
    state: PathBuf,
    /// Image archives shipped with the OS.
    #[arg(long, default_value = "/usr/share/quietcore/images")]
    images: PathBuf,
    /// Where other images are kept.
    #[arg(long, default_value = "/var/lib/quietcore/images")]
    store: PathBuf,
    /// Directory of the containers' output files.
    #[arg(long, default_value = "/var/log/quietcore/containers")]
    logs: PathBuf,
    /// Where the tailer notes how far it has read them.
    #[arg(long, default_value = "/var/lib/quietcore/tail")]
    positions: PathBuf,
    /// The engine's pages.
    #[arg(long, default_value = "/run/quietcore/engine")]
    pages: PathBuf,
    /// Where secrets are opened, in memory.
    #[arg(long, default_value = "/run/quietcore-private")]
    private: PathBuf,
    /// Where services with several ports say which they have.
    #[arg(long, default_value = "/run/quietcore/ports")]
    ports: PathBuf,
    /// Where the API reads its configuration.
    #[arg(long, default_value = "/run/quietcore-api")]
    api: PathBuf,
    /// Path of containerd's socket.
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    containerd: PathBuf,
    /// Our own socket.
    #[arg(long, default_value = protocol::SOCKET)]
    socket: PathBuf,
    /// The host plan.
    #[arg(long, default_value = "/usr/share/quietcore/host-plan.toml")]
    host_plan: PathBuf,
    /// The engine's journal, whose files are kept in the state's directory `journal`.
    #[arg(long, default_value = "/var/lib/quietcore/journal")]
    journal: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run containers, watch the hot cores, answer qctl.
    Run(Box<Run>),
    /// Make the isolated cpuset partition on the hot cores, and leave.
    HotPartition,
    /// Put this host's configuration, the credential `quietcore.host`, where it is read, and leave.
    HostConfig,
    /// Ask the ports of containers how they are, for the agent.
    Probe {
        /// The socket to answer at.
        #[arg(long, default_value = PROBE_SOCKET)]
        socket: PathBuf,
    },
    /// Answer over the network, behind TLS.
    Api {
        /// Its configuration, from qctl ca host.
        #[arg(long, default_value = "/run/quietcore-api/quietcore.api")]
        config: PathBuf,
        /// The agent's socket.
        #[arg(long, default_value = protocol::SOCKET)]
        agent: PathBuf,
    },
    /// Check an API configuration on standard input, and leave.
    #[command(hide = true)]
    CheckApiConfig,
    /// Start a program, pass signals on to it, and take leave of every process that ends.
    #[command(hide = true)]
    Init {
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        program: Vec<String>,
    },
    /// Forward the journal to those that the credential quietcore.logs names.
    Forward {
        /// Directory of the log positions, one for each target.
        #[arg(long, default_value = "/var/lib/quietcore/forward")]
        positions: PathBuf,
    },
    /// Give containers' output to the journal.
    Tail {
        /// Directory of the containers' output files.
        #[arg(long, default_value = "/var/log/quietcore/containers")]
        logs: PathBuf,
        /// Directory of the log positions, one file for each container.
        #[arg(long, default_value = "/var/lib/quietcore/tail")]
        positions: PathBuf,
        /// Path of journald's socket.
        #[arg(long, default_value = journal::SOCKET)]
        journal: PathBuf,
    },
    /// Fetch the images that the agent wants, until it wants none.
    Pull {
        /// File of the wanted images, written by the agent.
        #[arg(long, default_value = "/run/quietcore/agent/wanted.json")]
        wanted: PathBuf,
        /// File to write the progress of pulls to.
        #[arg(long, default_value = "/run/quietcore/pull/progress.json")]
        progress: PathBuf,
        /// Where they are kept.
        #[arg(long, default_value = "/var/lib/quietcore/images")]
        store: PathBuf,
    },
    /// Look at where the desired state is, and hand on what is there.
    Follow,
    /// Read secrets from the Vault that the credential quietcore.vault names, and hand them on.
    Vault,
    /// Take down packets for who is at the other end of standard input, and leave.
    #[command(hide = true)]
    Pcap,
    /// Mount or unmount a volume of another host, as the agent wrote it down, and leave.
    #[command(hide = true)]
    Volume {
        /// ID of the volume.
        id: String,
    },
    /// Write this host's name as an iSCSI initiator down, and leave.
    #[command(hide = true)]
    InitiatorName {
        /// Where open-iscsi reads it.
        file: PathBuf,
    },
    /// Fetch the release that was asked for, and leave.
    FetchUpdate,
    /// Write the release that was fetched to the other slot, and leave.
    InstallUpdate,
    /// Put this netboot UKI's disk image on the disk that it was told, and restart.
    InstallDisk,
    /// Check a compose file against this host's cores, and leave.
    CheckCompose {
        /// Compose file to check.
        file: PathBuf,
    },
}

/// Credentials that systemd gave this process.
fn credentials() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

fn run_agent(arguments: Run) -> Result<()> {
    let Run {
        compose,
        state,
        images: archives,
        store,
        logs,
        positions,
        pages,
        containerd,
        socket,
        ..
    } = arguments;
    let (applied, archive) = (state.join("compose.yaml"), state.join("journal"));
    let versions = state.join("versions.json");
    // What this host was given comes before what the image says.
    let own = credentials();
    let name = "quietcore.compose.yaml";
    let given = own.as_deref().and_then(|directory| credentials::credential(directory, name));
    // A policy that can't be read allows nothing; what is there runs on.
    let policy = Policy::read(own.as_deref()).unwrap_or_else(|error| {
        tracing::error!("{error}");
        Policy::default()
    });
    let wanted = socket.with_file_name("wanted.json");
    let own_plan = credentials::HostPaths::default().plan();
    let host_plan = if own_plan.exists() { own_plan } else { arguments.host_plan };
    let paths = Paths {
        compose: given.unwrap_or(compose),
        applied,
        versions,
        events: state.join("events.jsonl"),
        archives,
        images: wanted::ImagePaths {
            wanted,
            store,
            loaded: state.join("images"),
            ..Default::default()
        },
        logs,
        positions,
        pages,
        containerd,
        socket,
        host_plan,
        journal: arguments.journal,
        archive,
        private: arguments.private,
        ports: arguments.ports,
        api: arguments.api,
        credentials: own.clone(),
        api_credential: own
            .as_deref()
            .and_then(|own| credentials::credential(own, "quietcore.api")),
        update: UpdatePaths::default(),
    };
    block_on(run(paths, policy))
}

/// One thread for all that a process waits for.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// For who asks registries.
fn use_cryptography() -> Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another provider of cryptography is installed"))
}

fn fetch_images(paths: &wanted::ImagePaths) -> Result<()> {
    let policy = Policy::read(credentials().as_deref())?;
    use_cryptography()?;
    block_on(pull::run(paths, &policy))
}

fn follow() -> Result<()> {
    let own = credentials();
    let config =
        desired_exchange::read_config(own.as_deref())?.context("started with a credential")?;
    use_cryptography()?;
    block_on(follow::run(&config, own.as_deref(), &Default::default()))
}

fn act(command: Command) -> Result<()> {
    match command {
        Command::Run(arguments) => run_agent(*arguments),
        Command::HotPartition => {
            let plan = hot_partition::core_plan()?;
            hot_partition::apply(&plan)?;
            match plan.hot().is_empty() {
                true => println!("no hot cores: the kernel was booted without nohz_full="),
                false => println!("isolated partition on CPUs {}", plan.hot()),
            }
            Ok(())
        }
        Command::HostConfig => {
            let credentials = credentials();
            let paths = credentials::HostPaths::default();
            for refused in credentials::take_from_esp(&paths)? {
                eprintln!("quietcore: {refused}");
            }
            println!("quietcore: {}", credentials::apply(credentials.as_deref(), &paths)?);
            Ok(())
        }
        Command::Pull { wanted, progress, store } => {
            fetch_images(&wanted::ImagePaths { wanted, progress, store, ..Default::default() })
        }
        Command::Probe { socket } => block_on(server::serve(&socket)),
        Command::Api { config, agent } => {
            let image = PathBuf::from("/usr/lib/os-release");
            block_on(api::run(api::ApiPaths { config, agent, image }))
        }
        Command::CheckApiConfig => api::tls::check(&std::io::read_to_string(std::io::stdin())?),
        Command::Init { .. } => unreachable!("it is not this process's own"),
        Command::Forward { positions } => {
            let own = credentials().context("started by systemd, with credentials")?;
            match credentials::credential(&own, "quietcore.logs") {
                Some(config) => forward::run(&config, &positions),
                // Nobody is to have it.
                None => Ok(()),
            }
        }
        Command::Tail { logs, positions, journal } => tail::run(&logs, &positions, &journal),
        Command::Follow => follow(),
        Command::Pcap => pcap::serve(),
        Command::Volume { id } => mount_volume::fulfil_request(&id),
        Command::InitiatorName { file } => mount_volume::name_initiator(&file),
        Command::Vault => {
            let config = vault_exchange::Config::read(credentials().as_deref())?;
            use_cryptography()?;
            block_on(vault::run(&config.context("started with a credential")?, &Default::default()))
        }
        Command::FetchUpdate => fetch::run(&UpdatePaths::default()),
        Command::InstallUpdate => install_update::run(&UpdatePaths::default()),
        Command::InstallDisk => install_disk::run(&credentials::HostPaths::default().install()),
        Command::CheckCompose { file } => {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("read {}", file.display()))?;
            let services = compose::parse(&text, &hot_partition::core_plan()?)
                .with_context(|| file.display().to_string())?;
            println!("{}: valid, {} services", file.display(), services.len());
            Ok(())
        }
    }
}

/// Journald if systemd started us, else lines on standard error.
fn log_to_journald() {
    use tracing_subscriber::prelude::*;
    let filter = tracing_subscriber::filter::LevelFilter::INFO;
    let on_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let journald = on_journal.then(tracing_journald::layer).and_then(Result::ok);
    let plain =
        journald.is_none().then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr));
    tracing_subscriber::registry().with(filter).with(journald).with(plain).init();
}

/// As the first program of a container there is no journal, and the status is another program's.
fn run_init(program: &[String]) -> Result<ExitCode> {
    block_on(container_init::run(program))
}

fn main() -> ExitCode {
    if program::is_called() {
        return program::main();
    }
    let command = Arguments::parse().command;
    if let Command::Init { program } = &command {
        return run_init(program).unwrap_or_else(|error| {
            eprintln!("quietcore-init: {error:#}");
            ExitCode::from(127)
        });
    }
    log_to_journald();
    match act(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quietcore-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
