//! The rim to containerd 1.7: images into its content store, containers and tasks by its native
//! API. Every call has a time limit. What containerd keeps is a cache of the archives on the
//! read-only root.

/// Files of an image that are read without running it.
mod image_files;
pub mod images;

use crate::bind_sources::BindSources;
use crate::block_devices::read_facts;
use agent_core::compose::Service;
use agent_core::image_user::{self, NOBODY, User};
use agent_core::instance::Instance;
use agent_core::limits::CONTAINERD_TIMEOUT;
use agent_core::plan::{Ending, Observed, Task};
use agent_core::protocol::types::Size;
use agent_core::runtime_spec::{self, Delivered};
use agent_host::container_output::{Files, Kind, instance_of};
use agent_host::images::archive::chain_ids;
use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    ListSnapshotsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
};
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest,
    DeleteTaskRequest, KillRequest, ListContainersRequest, ListTasksRequest, ResizePtyRequest,
    StartRequest, SubscribeRequest, WaitRequest,
};
use containerd_client::types::Mount;
use containerd_client::types::v1::Status;
use oci_spec::image::ImageConfiguration;
use std::collections::BTreeMap;
use std::path::Path;
use thiserror::Error;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request};

const NAMESPACE: &str = "quietcore";
const SNAPSHOTTER: &str = "overlayfs";
const RUNTIME: &str = "io.containerd.runc.v2";
const FINGERPRINT: &str = "io.quietcore.fingerprint";
/// Label of containers: see [`Ending`].
const ENDING: &str = "io.quietcore.ending";

/// Why containerd did not do something.
#[derive(Debug, Error)]
pub enum ContainerdError {
    /// The socket is not there.
    #[error("connect to containerd at {socket}")]
    Connect {
        /// Path of containerd's socket.
        socket: String,
        source: tonic::transport::Error,
    },
    /// A call failed.
    #[error("containerd: {action} {object}: {message}")]
    Call {
        /// Action that failed, as a verb for the message.
        action: &'static str,
        /// Object of the action, such as a container or an image.
        object: String,
        /// Error message of containerd.
        message: String,
    },
    /// A layer that is not what the image's configuration says.
    #[error("layer {layer}: {message}")]
    Layer {
        /// Digest of the layer.
        layer: String,
        /// Difference to what it unpacked to.
        message: String,
    },
    /// A directory for a container can't be made or opened, or another one was mounted.
    #[error("volume {0}")]
    Volume(std::io::Error),
    /// Files to be put into a container, host facts for its limits, or its output files can't be
    /// prepared.
    #[error("{0:#}")]
    Prepare(anyhow::Error),
}

/// Parts of a container that were prepared for it.
#[derive(Debug)]
pub struct Prepared {
    /// User that its program runs as.
    pub user: User,
    /// Sources of its binds.
    pub sources: BindSources,
    /// Files that are brought into it.
    pub brought: Vec<Delivered>,
    /// Files of its output, whose name it has.
    pub output: Files,
}

/// A connection to containerd; a clone is another handle on the same one.
#[derive(Debug, Clone)]
pub struct Containerd {
    channel: Channel,
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let namespace = NAMESPACE.parse().expect("a plain word is a header value");
    request.metadata_mut().insert("containerd-namespace", namespace);
    request
}

/// A runtime specification in JSON, as containerd wants it.
fn as_spec(json: Vec<u8>) -> prost_types::Any {
    let type_url = "types.containerd.io/opencontainers/runtime-spec/1/Spec".into();
    prost_types::Any { type_url, value: json }
}

/// Waits for a call with a time limit; `None` if the answer is one of the `expected` codes.
async fn call<T>(
    action: &'static str,
    object: &str,
    expected: &[Code],
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<Option<T>, ContainerdError> {
    let failed = |message: String| ContainerdError::Call { action, object: object.into(), message };
    match timeout(CONTAINERD_TIMEOUT, answer).await {
        Ok(Ok(response)) => Ok(Some(response.into_inner())),
        Ok(Err(status)) if expected.contains(&status.code()) => Ok(None),
        Ok(Err(status)) => Err(failed(status.message().to_string())),
        Err(_) => Err(failed(format!("no answer for {} s", CONTAINERD_TIMEOUT.as_secs()))),
    }
}

impl Containerd {
    /// Connects to the daemon's socket.
    ///
    /// # Errors
    /// [`ContainerdError::Connect`].
    pub async fn connect(socket: &Path) -> Result<Self, ContainerdError> {
        let failed =
            |source| ContainerdError::Connect { socket: socket.display().to_string(), source };
        let channel = containerd_client::connect(socket).await.map_err(failed)?;
        Ok(Self { channel })
    }

    async fn prepare(&self, key: &str, parent: &str) -> Result<Vec<Mount>, ContainerdError> {
        let prepare = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: key.into(),
            parent: parent.into(),
            // Kept until it is removed by name: no garbage collection between two steps. A label
            // without a value is not kept.
            labels: [("containerd.io/gc.root".to_string(), key.to_string())].into(),
        };
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        let answer =
            call("prepare snapshot", key, &[], snapshots.prepare(request(prepare))).await?;
        Ok(answer.map(|answer| answer.mounts).unwrap_or_default())
    }

    async fn remove_snapshot(&self, key: &str) -> Result<(), ContainerdError> {
        let remove = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: key.into() };
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        call("remove snapshot", key, &[Code::NotFound], snapshots.remove(request(remove))).await?;
        Ok(())
    }

    /// Removes a snapshot that nothing stands on; says whether it did.
    async fn try_remove_snapshot(&self, key: &str) -> Result<bool, ContainerdError> {
        let remove = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: key.into() };
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        let in_use = [Code::FailedPrecondition, Code::NotFound];
        let removed = call("remove snapshot", key, &in_use, snapshots.remove(request(remove)));
        Ok(removed.await?.is_some())
    }

    /// The names of all snapshots.
    async fn snapshots(&self) -> Result<Vec<String>, ContainerdError> {
        let list = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.into(), ..Default::default() };
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        let listed = call("list", "snapshots", &[], snapshots.list(request(list))).await?;
        let mut names = Vec::new();
        if let Some(mut answers) = listed {
            while let Ok(Ok(Some(answer))) = timeout(CONTAINERD_TIMEOUT, answers.message()).await {
                names.extend(answer.info.into_iter().map(|info| info.name));
            }
        }
        Ok(names)
    }

    /// Everything that containerd knows of our containers.
    ///
    /// # Errors
    /// [`ContainerdError::Call`].
    pub async fn observe(&self) -> Result<BTreeMap<String, Observed>, ContainerdError> {
        let mut observed: BTreeMap<String, Observed> = BTreeMap::new();
        let list = ListContainersRequest::default();
        let containers = call(
            "list",
            "containers",
            &[],
            ContainersClient::new(self.channel.clone()).list(request(list)),
        )
        .await?;
        for container in containers.map(|answer| answer.containers).unwrap_or_default() {
            let fingerprint = container.labels.get(FINGERPRINT).cloned().unwrap_or_default();
            let ending = container.labels.get(ENDING).and_then(|label| Ending::read(label));
            let found = observed.entry(container.id).or_default();
            found.fingerprint = Some(fingerprint);
            found.ending = ending.unwrap_or_default();
        }
        let list = ListTasksRequest::default();
        let tasks =
            call("list", "tasks", &[], TasksClient::new(self.channel.clone()).list(request(list)))
                .await?;
        for process in tasks.map(|answer| answer.tasks).unwrap_or_default() {
            let task = match process.status() {
                Status::Created => Task::Created,
                Status::Running | Status::Paused | Status::Pausing => Task::Running,
                Status::Stopped | Status::Unknown => Task::Stopped(process.exit_status),
            };
            observed.entry(process.id).or_default().task = Some(task);
        }
        for snapshot in self.snapshots().await? {
            if let Some(name) = snapshot.strip_prefix("container-") {
                observed.entry(name.to_string()).or_default().snapshot = true;
            }
        }
        for (name, found) in &mut observed {
            found.instance = instance_of(name).into();
        }
        Ok(observed)
    }

    /// Makes a container of an image, and starts it once its mounts are what was prepared.
    ///
    /// # Errors
    /// [`ContainerdError`] names the step.
    pub async fn create(
        &self,
        instance: &Instance,
        image: &ImageConfiguration,
        prepared: &Prepared,
    ) -> Result<u32, ContainerdError> {
        let Prepared { user, sources, brought, output } = prepared;
        let (name, service) = (&output.stem, &instance.service);
        let snapshot_key = format!("container-{name}");
        let parent = chain_ids(image.rootfs().diff_ids()).pop().unwrap_or_default();
        let rootfs = self.prepare(&snapshot_key, &parent).await?;
        let facts = read_facts(service, Path::new("/sys")).map_err(ContainerdError::Prepare)?;
        let spec = runtime_spec::spec(name, instance, brought, &facts, image, user);
        let spec = as_spec(spec.to_string().into_bytes());
        let container = Container {
            id: name.clone(),
            labels: [
                (FINGERPRINT.to_owned(), instance.fingerprint.clone()),
                (ENDING.to_owned(), Ending::of(service, runtime_spec::stop_signal(image)).label()),
            ]
            .into(),
            image: service.image.clone(),
            runtime: Some(Runtime { name: RUNTIME.into(), options: None }),
            spec: Some(spec),
            snapshotter: SNAPSHOTTER.into(),
            snapshot_key,
            ..Default::default()
        };
        let create = CreateContainerRequest { container: Some(container) };
        call(
            "create container",
            name,
            &[],
            ContainersClient::new(self.channel.clone()).create(request(create)),
        )
        .await?;
        // A plain path is a fifo to the shim, or a file if it is one: both streams of a `file://`
        // go to one file.
        let file = |kind| output.stream(kind).display().to_string();
        let [stdin, stdout, stderr] = match &instance.terminal {
            None => [String::new(), file(Kind::Out), file(Kind::Err)],
            Some(terminal) => {
                let [keys, screen] = [&terminal.keys, &terminal.screen];
                [keys.display().to_string(), screen.display().to_string(), String::new()]
            }
        };
        let create = CreateTaskRequest {
            container_id: name.clone(),
            rootfs,
            stdin,
            stdout,
            stderr,
            terminal: instance.terminal.is_some(),
            ..Default::default()
        };
        let mut tasks = TasksClient::new(self.channel.clone());
        let made = call("create task", name, &[], tasks.create(request(create))).await?;
        let process = made.map_or(0, |answer| answer.pid);
        sources.check(process).map_err(ContainerdError::Volume)?;
        let start = StartRequest { container_id: name.clone(), ..Default::default() };
        let started = call("start", name, &[], tasks.start(request(start))).await?;
        Ok(started.map_or(0, |answer| answer.pid))
    }

    /// User that a service's program runs as: the file's, else the image's, by numbers or by the
    /// image's own files.
    ///
    /// # Errors
    /// The image does not know it, or its files can't be read.
    pub async fn user(
        &self,
        service: &Service,
        image: &ImageConfiguration,
    ) -> Result<User, ContainerdError> {
        let Some(text) = runtime_spec::user(service, image) else { return Ok(NOBODY) };
        if let Some(user) = image_user::of_numbers(text) {
            return Ok(user);
        }
        let files = self.user_files(image).await?;
        let unknown = |what: String| ContainerdError::Prepare(anyhow::anyhow!("{what}"));
        image_user::resolve(text, &files).map_err(unknown)
    }

    /// Sends a signal to a container's first process.
    ///
    /// # Errors
    /// [`ContainerdError::Call`]: it does not run, among others.
    pub async fn signal(&self, name: &str, signal: u32) -> Result<(), ContainerdError> {
        let kill = KillRequest { container_id: name.into(), signal, ..Default::default() };
        let mut tasks = TasksClient::new(self.channel.clone());
        call("signal", name, &[], tasks.kill(request(kill))).await.map(drop)
    }

    /// Says how large a container's terminal is seen.
    ///
    /// # Errors
    /// [`ContainerdError::Call`]: it does not run, among others.
    pub async fn resize(&self, name: &str, size: Size) -> Result<(), ContainerdError> {
        let resize = ResizePtyRequest {
            container_id: name.into(),
            width: size.columns.into(),
            height: size.rows.into(),
            ..Default::default()
        };
        let mut tasks = TasksClient::new(self.channel.clone());
        call("resize the terminal of", name, &[], tasks.resize_pty(request(resize))).await.map(drop)
    }

    /// Puts a container in front of a task that has none: without one containerd lets nobody reach
    /// the task.
    ///
    /// # Errors
    /// [`ContainerdError::Call`].
    pub async fn create_placeholder(&self, name: &str) -> Result<(), ContainerdError> {
        let container = Container {
            id: name.into(),
            runtime: Some(Runtime { name: RUNTIME.into(), options: None }),
            spec: Some(as_spec(b"{}".to_vec())),
            ..Default::default()
        };
        let create = CreateContainerRequest { container: Some(container) };
        let mut containers = ContainersClient::new(self.channel.clone());
        let created = containers.create(request(create));
        call("create container", name, &[Code::AlreadyExists], created).await.map(drop)
    }

    /// Ends a container and takes away task, container and snapshot, whatever of them there is.
    ///
    /// # Errors
    /// [`ContainerdError::Call`] names the step that failed; doing it again goes on from there.
    pub async fn remove(&self, name: &str, ending: Ending) -> Result<(), ContainerdError> {
        let Ending { signal: stop_signal, grace } = ending;
        let mut tasks = TasksClient::new(self.channel.clone());
        // "Failed precondition" and "not found" both say that there is nothing to end any more.
        let gone = [Code::NotFound, Code::FailedPrecondition, Code::Unknown];
        for signal in [stop_signal, nix::libc::SIGKILL as u32] {
            let kill = KillRequest {
                container_id: name.into(),
                signal,
                all: signal != stop_signal,
                ..Default::default()
            };
            if call("signal", name, &gone, tasks.kill(request(kill))).await?.is_none() {
                break;
            }
            let wait = WaitRequest { container_id: name.into(), ..Default::default() };
            if timeout(grace, tasks.wait(request(wait))).await.is_ok() {
                break;
            }
        }
        let delete = DeleteTaskRequest { container_id: name.into() };
        call("delete task", name, &[Code::NotFound], tasks.delete(request(delete))).await?;
        let delete = DeleteContainerRequest { id: name.into() };
        call(
            "delete container",
            name,
            &[Code::NotFound],
            ContainersClient::new(self.channel.clone()).delete(request(delete)),
        )
        .await?;
        self.remove_snapshot(&format!("container-{name}")).await
    }

    /// Calls `notify` for every event, until the daemon goes away. `subscribe` answers only with
    /// the first event, so this runs in a task of its own.
    pub async fn watch(&self, notify: impl Fn()) {
        let mut events = EventsClient::new(self.channel.clone());
        let filters = vec![format!("namespace=={NAMESPACE},topic==\"/tasks/exit\"")];
        let Ok(answer) = events.subscribe(request(SubscribeRequest { filters })).await else {
            return;
        };
        let mut stream = answer.into_inner();
        while let Ok(Some(_)) = stream.message().await {
            notify();
        }
    }
}
