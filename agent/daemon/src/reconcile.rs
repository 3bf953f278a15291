//! The agent's main loop: compare, act, report; once a second and whenever containerd says that
//! something happened.

/// Check of the API's configuration.
mod api_check;
mod apply;
/// Changes of containers, each instance in a task of its own.
mod container_work;
mod converge;
mod debug_containers;
mod desired_state;
/// Desired state that this host keeps over restarts.
mod desired_store;
/// Health probes: file ages by the agent itself, ports through the probe worker.
mod probe_client;
mod remote_volumes;
mod rollouts;
mod secret_rotation;
mod staged_apply;
/// Long work beside the main loop.
mod tasks;
mod vault_secrets;

use crate::agent_socket::{self, PendingRequest, SocketContext};
use crate::audit_log::AuditLog;
use crate::containerd_link::ContainerdLink;
use crate::core_sampler::CoreSampler;
use crate::image_manager::ImageManager;
use crate::problems::Problems;
use crate::reconcile::apply::How;
use crate::reconcile::debug_containers::DebugContainer;
use crate::reconcile::desired_state::DesiredSync;
use crate::reconcile::probe_client::FileAges;
use crate::reconcile::remote_volumes::VolumeMounts;
use crate::reconcile::rollouts::Rollouts;
use crate::reconcile::tasks::Tasks;
use crate::reconcile::vault_secrets::VaultSync;
use crate::request_verifier::RequestVerifier;
use crate::secrets::{self, Secrets};
use crate::{journal_archive, resolver, update_request};
use abi::control::ControlPage;
use abi::hostplan::CorePlan;
use abi::shards::alive_pages;
use agent_core::container_table::ContainerTable;
use agent_core::health::ProbeResult;
use agent_core::limits::{HEARTBEAT_INTERVAL, RECONCILE_INTERVAL};
use agent_core::protocol::{Request, Response};
use agent_core::status::{Container, Engine, Status};
use agent_host::engine_pages::Events;
use agent_host::events::EventLog;
use agent_host::images::policy::Policy;
use agent_host::images::wanted;
use agent_host::update::progress_files::read_update;
use agent_host::{hot_partition, terminal, update};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{RwLock, mpsc, oneshot};
use tracing::{info, warn};

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The compose file of the image.
    pub compose: PathBuf,
    /// The one that `qctl apply` left.
    pub applied: PathBuf,
    /// File of the proven and the failed versions of services.
    pub versions: PathBuf,
    /// File of the event log.
    pub events: PathBuf,
    /// Image archives that came with the OS.
    pub archives: PathBuf,
    /// Files of the image store and of the wanted images.
    pub images: wanted::ImagePaths,
    /// Directory of containers' output files.
    pub logs: PathBuf,
    /// Where the tailer notes how far it has read them.
    pub positions: PathBuf,
    /// The engine's pages.
    pub pages: PathBuf,
    /// Path of containerd's socket.
    pub containerd: PathBuf,
    /// Path of the agent's own socket.
    pub socket: PathBuf,
    /// The host plan.
    pub host_plan: PathBuf,
    /// The engine's journal.
    pub journal: PathBuf,
    /// Where its files are kept.
    pub archive: PathBuf,
    /// Where secrets are opened, in memory.
    pub private: PathBuf,
    /// Where services with several ports say which they have.
    pub ports: PathBuf,
    /// Where the API reads its configuration.
    pub api: PathBuf,
    /// The one that this host was given.
    pub api_credential: Option<PathBuf>,
    /// Credentials of this process.
    pub credentials: Option<PathBuf>,
    /// Files of operating system updates.
    pub update: update::UpdatePaths,
}

/// The running agent: each part owns its state, and the main loop brings them together.
pub struct Agent {
    paths: Paths,
    cores: CorePlan,
    started: Instant,
    log: EventLog,
    problems: Problems,
    /// Declared services and their versions.
    rollouts: Rollouts,
    /// Wanted and observed containers.
    table: ContainerTable,
    link: ContainerdLink,
    image_manager: ImageManager,
    secrets: Secrets,
    request_verifier: RequestVerifier,
    follower: DesiredSync,
    vault: VaultSync,
    remote: VolumeMounts,
    /// Ephemeral debug containers, by name.
    debug_containers: BTreeMap<String, DebugContainer>,
    probe_results: mpsc::Sender<ProbeResult>,
    file_ages: FileAges,
    sampler: CoreSampler,
    engine_events: Events,
    tasks: Tasks,
    /// Whether containers were observed since the start.
    has_observed: bool,
    /// Held to write by who takes images away, to read by who brings some.
    images_in_use: Arc<RwLock<()>>,
    /// Images that stay, while others are being taken away.
    collecting: Option<BTreeSet<String>>,
    /// Instances that can't be taken away just now.
    stuck: BTreeSet<String>,
    /// Secrets that were kept while it was not clear which container of an instance has which: the
    /// instance, the secret's name, and when it was kept.
    renewed_secrets: BTreeMap<(String, String), Duration>,
}

/// Runs until a signal.
///
/// # Errors
/// What makes it impossible to start: cores that can't be read, no usable compose file, no socket.
pub async fn run(paths: Paths, policy: Policy) -> Result<()> {
    let cores = hot_partition::core_plan()?;
    let (probe_results, mut looked) = mpsc::channel::<ProbeResult>(64);
    let (to_finish, mut ended) = mpsc::unbounded_channel();
    let mut agent = Agent::new(paths, cores, policy, probe_results, Tasks::new(to_finish))?;
    let (to_agent, mut requests) = mpsc::channel::<PendingRequest>(16);
    let (socket, pages) = (agent.paths.socket.clone(), agent.paths.pages.clone());
    let audit = AuditLog::at(&agent.paths.versions.with_file_name("audit.jsonl"));
    // Who asks for others, over the network, is whose its directory is (systemd/base/tmpfiles.d).
    let network = agent.paths.api.metadata().map_or(0, |directory| directory.uid());
    let network = Some(network).filter(|user| *user != 0);
    let refused = Default::default();
    let terminals = terminal::directory(&socket);
    let prepared = terminal::prepare(&terminals, network);
    agent.problems.set("terminals", prepared.err().map(|error| format!("{error:#}")));
    let verifier = agent.request_verifier.clone();
    let context = SocketContext {
        pages: pages.clone(),
        terminals,
        to_agent,
        audit,
        network,
        verifier,
        refused,
    };
    // Heartbeat and socket have threads of their own: they wait for nothing that the others wait
    // for.
    std::thread::spawn(|| beat(pages));
    let mut serving = agent_socket::start(socket, context);
    tokio::spawn(journal_archive::keep(agent.paths.journal.clone(), agent.paths.archive.clone()));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut ticks = tokio::time::interval(RECONCILE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let wake = agent.link.wake.clone();
    agent.problems.set("API", agent.start_api().err().map(|error| format!("{error:#}")));
    update_request::record_boot_outcome(&agent.paths.update);
    hot_partition::guard(agent.cores.clone(), agent.log.clone());
    notify_systemd("READY=1");
    info!(housekeeping = %agent.cores.housekeeping(), hot = %agent.cores.hot(), "agent started");
    loop {
        tokio::select! {
            _ = ticks.tick() => agent.tick(),
            () = wake.notified() => agent.reconcile(),
            Some(work) = ended.recv() => agent.finish(work),
            Some(look) = looked.recv() => agent.note_probe(&look),
            Some((request, back)) = requests.recv() => agent.answer(request, back),
            failed = &mut serving => return Err(failed?).context("local socket"),
            _ = terminate.recv() => {
                agent.leave().await;
                return Ok(());
            }
        }
    }
}

/// Tells the engines every second that the agent lives, whatever containerd does. There is no page
/// before the first start.
fn beat(pages: PathBuf) {
    loop {
        for (_, directory) in abi::shards::shard_pages(&pages) {
            if let Ok(page) = ControlPage::open_existing(&directory.join("control")) {
                page.beat(agent_host::engine_pages::monotonic_ns());
            }
        }
        std::thread::sleep(HEARTBEAT_INTERVAL);
    }
}

/// Response to a request: its result, or the error in one line.
fn response<T>(result: Result<T>, of: impl FnOnce(T) -> Response) -> Response {
    result.map_or_else(|error| Response::Error(format!("{error:#}")), of)
}

/// Tells systemd, if it started us. Source: sd_notify(3).
fn notify_systemd(state: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        let sent = std::os::unix::net::UnixDatagram::unbound()
            .and_then(|from| from.send_to(state.as_bytes(), socket));
        if let Err(error) = sent {
            warn!("tell systemd: {error}");
        }
    }
}

impl Agent {
    fn new(
        paths: Paths,
        cores: CorePlan,
        policy: Policy,
        probe_results: mpsc::Sender<ProbeResult>,
        tasks: Tasks,
    ) -> Result<Self> {
        let log = EventLog::at(&paths.events);
        let image_manager = ImageManager::new(paths.images.clone(), policy, log.clone())?;
        let sealed = paths.versions.with_file_name("secrets");
        let secrets = Secrets::new(&sealed, &paths.private, Path::new(secrets::SEALER));
        let follower = paths.versions.with_file_name("desired.json");
        let follower = DesiredSync::new(paths.credentials.as_deref(), &follower);
        let vault = VaultSync::new(paths.credentials.as_deref());
        let link = ContainerdLink::new(paths.containerd.clone());
        let request_verifier = RequestVerifier::new(paths.update.os_release.clone());
        let mut agent = Self {
            paths,
            cores,
            started: Instant::now(),
            problems: Problems::new(log.clone()),
            log,
            rollouts: Rollouts::default(),
            table: ContainerTable::default(),
            link,
            image_manager,
            secrets,
            request_verifier,
            follower,
            vault,
            remote: VolumeMounts::default(),
            debug_containers: BTreeMap::new(),
            probe_results,
            file_ages: FileAges::default(),
            sampler: CoreSampler::default(),
            engine_events: Events::default(),
            tasks,
            has_observed: false,
            images_in_use: Arc::default(),
            collecting: None,
            stuck: BTreeSet::new(),
            renewed_secrets: BTreeMap::new(),
        };
        let is_another = agent.finish_staged();
        agent.rollouts.services = agent.load()?;
        agent.remember();
        if is_another {
            agent.rollouts.versions.declare(&agent.rollouts.services);
            if let Err(error) = agent.write_versions() {
                warn!("{error:#}");
            }
        }
        agent.apply_desired();
        Ok(agent)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn tick(&mut self) {
        self.sampler.sample(&self.engines(), self.cores.hot());
        self.end_try();
        self.end_debugs();
        self.follow();
        self.reconcile();
        self.take_from_vault();
    }

    fn reconcile(&mut self) {
        let plan = hot_partition::check_plan(&self.paths.host_plan, &self.cores);
        self.problems.set("host plan", plan.err());
        let partition = if hot_partition::stands(&self.cores) {
            Ok(())
        } else {
            hot_partition::apply(&self.cores)
        };
        self.problems.set("hot partition", partition.err().map(|error| error.to_string()));
        let resolver = resolver::update();
        self.problems.set("name servers", resolver.err().map(|error| format!("{error:#}")));
        self.observe();
        self.mend_api();
        self.engine_events.report(&self.paths.pages);
    }

    /// The engines that run.
    fn engines(&self) -> Vec<Engine> {
        let pages =
            alive_pages(&self.paths.pages, agent_host::engine_pages::monotonic_ns()).into_iter();
        pages.map(|(shard, page)| Engine::read(shard, &page)).collect()
    }

    /// Answers a request, at once or when its work has ended.
    fn answer(&mut self, request: Request, back: oneshot::Sender<Response>) {
        let done = |done: Result<()>| response(done, |()| Response::Done);
        // Whoever asked may have gone.
        let send = |response: Response| drop(back.send(response));
        match request {
            Request::Terminal { name, size } => {
                self.show_terminal(&name, size, move |shown| send(done(shown)));
            }
            Request::LoadImage { archive } => {
                self.load_image(archive, |loaded| send(response(loaded, Response::Loaded)));
            }
            Request::SetSecret { name, secret } => {
                self.set_secret(name, &secret, move |_, set| send(done(set)));
            }
            Request::Update { url } => {
                let paths = self.paths.update.clone();
                let start = async move { update_request::start(&paths, &url).await };
                self.start(Vec::new(), start, move |_, started| send(done(started)));
            }
            Request::Reboot { holding } => {
                let engines = self.engines();
                let pages = abi::shards::shard_pages(&self.paths.pages);
                let shards: Vec<String> = pages.into_iter().map(|(shard, _)| shard).collect();
                let reboot =
                    async move { update_request::reboot(&shards, &engines, holding).await };
                self.start(Vec::new(), reboot, move |_, asked| send(done(asked)));
            }
            other => send(self.answer_now(other)),
        }
    }

    fn answer_now(&mut self, request: Request) -> Response {
        let done = match request {
            Request::Status {} => return Response::Status(Box::new(self.status())),
            Request::Declared {} => return Response::Declared(self.declared_text()),
            Request::Apply { compose, dry_run, try_seconds, staged } => {
                let how = How::of(dry_run, try_seconds, staged);
                let applied = how.and_then(|how| self.apply(&compose, how));
                return response(applied, Response::Changes);
            }
            Request::Keep {} => self.keep(),
            Request::Debug { compose, seconds, terminal } => {
                let begun = self.begin_debug(&compose, seconds, terminal);
                return response(begun, Response::Started);
            }
            Request::EndDebug { name } => self.end_debug(&name),
            Request::Deliver { envelope } => self.deliver(&envelope),
            Request::Desired { step } => self.step_desired(step),
            Request::Events { after, count } => {
                return Response::Events(self.log.after(after, count));
            }
            Request::Rollout { name, step } => self.step_rollout(&name, step),
            Request::Secrets {} => return Response::Secrets(self.secrets.names()),
            Request::RemoveSecret { name } => self.remove_secret(&name),
            Request::Images {} => {
                return Response::Images(self.image_manager.list(&self.rollouts.services));
            }
            Request::RemoveImage { name } => {
                self.image_manager.remove(&name, &self.rollouts.services)
            }
            Request::Terminal { .. }
            | Request::LoadImage { .. }
            | Request::SetSecret { .. }
            | Request::Update { .. }
            | Request::Reboot { .. } => unreachable!("these are answered when they have ended"),
            Request::Control { .. }
            | Request::Limits { .. }
            | Request::Audit { .. }
            | Request::Challenge {}
            | Request::Type { .. }
            | Request::Capture(_) => {
                unreachable!("the socket answers these itself")
            }
        };
        response(done, |()| Response::Done)
    }

    fn status(&self) -> Status {
        let engines = self.engines();
        let containers: Vec<Container> =
            self.table.wanted.iter().map(|instance| self.container_status(instance)).collect();
        let partition = hot_partition::stands(&self.cores);
        // A shard that does not run has pages, but none that lives.
        let expected = abi::shards::shard_pages(&self.paths.pages).len().max(1);
        let trading = engines.iter().filter(|engine| engine.state == "trading").count() == expected;
        let running = self.table.all_up();
        let running_version = update::Running::read(&self.paths.update.os_release);
        let version =
            running_version.map_or(env!("CARGO_PKG_VERSION").into(), |it| it.version.to_string());
        Status {
            version,
            ready: trading && running && partition,
            healthy: engines.len() == expected && running && partition,
            update: read_update(&self.paths.update),
            desired: self.desired_report(),
            staged: self.is_staged(),
            sealed: agent_host::data_partition::is_sealed(),
            partition,
            engines,
            cores: self.sampler.cores().to_vec(),
            containers,
            problems: self.problems.lines(),
        }
    }
}
