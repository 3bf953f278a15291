//! Every limit of the agent with its reason.

use std::time::Duration;

/// A compose file: a desk has tens of services, each a kilobyte.
pub const COMPOSE_LEN_MAX: u64 = 1 << 20;

/// The same once its aliases are put in, with 16 bytes more for each value: some ten times that is
/// what it takes in memory.
pub const COMPOSE_SIZE_MAX: u64 = 4 << 20;

/// Services in one file.
pub const SERVICES_MAX: usize = 64;

/// A configuration in a compose file: what does not fit belongs in an image or a volume.
pub const CONFIG_LEN_MAX: u64 = 64 << 10;

/// Containers at once that are thrown away: each has memory of its own beside what is declared.
pub const DEBUGS_MAX: usize = 4;
/// Seconds that a debug container may run: what is to stay belongs in the compose file.
pub const DEBUG_SECONDS_MAX: u64 = 3600;
/// Memory of one that names none.
pub const DEBUG_MEMORY: u64 = 256 << 20;
/// Processes of one that names none.
pub const DEBUG_PIDS: i64 = 64;

/// One capture, in the agent's memory and in one answer.
pub const CAPTURE_LEN_MAX: u64 = 8 << 20;
const _: () = assert!(CAPTURE_LEN_MAX * 4 / 3 + 4096 < API_ANSWER_MAX);
/// Seconds of one capture: it ends before a network client's request times out.
pub const CAPTURE_SECONDS_MAX: u64 = 45;
const _: () = assert!(CAPTURE_SECONDS_MAX + 10 < API_REQUEST.as_secs());
/// More do not fit: the smallest takes 60 bytes.
pub const CAPTURE_PACKETS_MAX: u64 = 100_000;
/// Bytes kept of a captured packet: all of a jumbo frame.
pub const CAPTURE_PACKET_LEN: u32 = 9216;

/// A secret: a key, a password, a certificate with its chain. systemd takes 1 MiB.
pub const SECRET_LEN_MAX: u64 = 64 << 10;
/// Secrets of a host.
pub const SECRETS_MAX: usize = 256;
/// A TPM takes a second at most for one.
pub const SEAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Vault configuration, in bytes: a certificate or two, and some hundred bytes for each secret.
pub const VAULT_CONFIG_LEN_MAX: u64 = 256 << 10;
/// Between two looks at Vault, unless it is said otherwise.
pub const VAULT_INTERVAL: Duration = Duration::from_secs(300);
/// See [`VAULT_INTERVAL`]: the shortest is no burden for a server with a thousand hosts.
pub const VAULT_INTERVAL_MIN: Duration = Duration::from_secs(5);
/// Longest interval that can be set; see [`VAULT_INTERVAL`].
pub const VAULT_INTERVAL_MAX: Duration = Duration::from_secs(86_400);
/// One look, with all secrets.
pub const VAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Looks at one canary's metrics: each is a line that somebody reads when it fails.
pub const CANARY_CHECKS_MAX: usize = 32;
/// Bytes of one answer with metrics that are read.
pub const METRICS_LEN_MAX: u64 = 1 << 20;

/// Time between two looks at the API's configuration: so long an authority that was taken away
/// counts.
pub const API_CONFIG_CHECK: Duration = Duration::from_secs(1);
/// Connections of the API at once: a desk's operators, their dashboards and a Prometheus.
pub const API_CONNECTIONS_MAX: usize = 32;
/// Handshakes at once: who has no certificate gets no further, and takes no connection from who
/// has.
pub const API_HANDSHAKES_MAX: usize = 256;
/// Streams of lines and of terminals at once; of lines, each has a journalctl.
pub const API_STREAMS_MAX: usize = 16;
/// A peer that is gone, or takes nothing, is given up after this.
pub const API_SILENCE: Duration = Duration::from_secs(30);
/// A handshake, the head of a request, and a whole request with its answer take at most this;
/// removing a container is the longest.
pub const API_HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for the head of an HTTP request; see [`API_HANDSHAKE`].
pub const API_HEADERS: Duration = Duration::from_secs(10);
/// Time for a whole request with its answer; see [`API_HANDSHAKE`].
pub const API_REQUEST: Duration = Duration::from_secs(60);
/// Time to drain a refused connection, so that the refusal arrives before a reset.
pub const API_HANG_UP: Duration = Duration::from_secs(1);
/// Bytes of one answer of the agent: a thousand events of a kilobyte.
pub const API_ANSWER_MAX: u64 = 16 << 20;
/// The API's configuration: a few certificates.
pub const API_CONFIG_LEN_MAX: u64 = 256 << 10;
/// Interval at which a stream of events is polled.
pub const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);
/// Another host answers within this, or is not there.
pub const REMOTE_TIMEOUT: Duration = Duration::from_secs(70);
const _: () = assert!(REMOTE_TIMEOUT.as_secs() > API_REQUEST.as_secs());

/// A signed compose file: base64 twice at most, with a little more around it.
pub const DESIRED_LEN_MAX: u64 = COMPOSE_LEN_MAX * 2;
/// Configuration of the desired state, in bytes: some keys and certificates.
pub const DESIRED_CONFIG_LEN_MAX: u64 = 256 << 10;
/// Between two looks, unless it is said otherwise.
pub const DESIRED_INTERVAL: Duration = Duration::from_secs(60);
/// See [`DESIRED_INTERVAL`]: the shortest is no burden for a server with a thousand hosts.
pub const DESIRED_INTERVAL_MIN: Duration = Duration::from_secs(5);
/// Longest interval that can be set; see [`DESIRED_INTERVAL`].
pub const DESIRED_INTERVAL_MAX: Duration = Duration::from_secs(86_400);
/// One look, with all that comes.
pub const DESIRED_TIMEOUT: Duration = Duration::from_secs(60);
/// A server that does not answer is asked again after this at the latest.
pub const DESIRED_PAUSE_MAX: Duration = Duration::from_secs(300);

/// An image archive: the largest static program with its data.
pub const ARCHIVE_LEN_MAX: u64 = 2 << 30;

/// Entry of an image's name in the store: some signatures of a few kilobytes.
pub const NAME_ENTRY_LEN_MAX: u64 = 64 << 10;
/// All of them together: the agent reads them, and the pull worker writes them.
pub const NAME_ENTRIES_LEN_MAX: u64 = 4 << 20;

/// A manifest, an index or an image's configuration: registries take 4 MiB at most.
pub const METADATA_LEN_MAX: u64 = 4 << 20;

/// Between two looks at what is still to be fetched: the first, and the longest after failures in a
/// row.
pub const PULL_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause after failures in a row; see [`PULL_PAUSE`].
pub const PULL_PAUSE_MAX: Duration = Duration::from_secs(60);

/// An image that was fetched and not taken is asked for again after this: somebody may sign it
/// meanwhile.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// From a volume of another host that could not be mounted to the next try: a server that restarts
/// is there again soon.
pub const REMOTE_PAUSE: Duration = Duration::from_secs(10);

/// A server that takes no connection within this is not there.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A registry that stops in the middle is given up after this.
pub const REGISTRY_SILENCE: Duration = Duration::from_secs(30);
/// Bytes of a blob that must come while it was waited for as long as [`REGISTRY_SILENCE`]: one that
/// sends less keeps others waiting.
pub const TRANSFER_LEN_MIN: u64 = 64 << 10;
/// Time limit for a whole answer of at most [`METADATA_LEN_MAX`].
pub const METADATA_TIMEOUT: Duration = Duration::from_secs(60);
/// Answer of a token server: a token is some kilobytes.
pub const TOKEN_LEN_MAX: u64 = 64 << 10;

/// Bytes that stay free on the data partition after a fetch: the journal is preallocated, logs are
/// not.
pub const DISK_SPARE: u64 = 256 << 20;

/// Interval of a full reconcile, besides one at each event of containerd.
pub const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);

/// Wait before a dead container is started again: doubled each time, up to the maximum.
pub const RESTART_DELAY: Duration = Duration::from_millis(100);
/// Maximum wait before a restart; see [`RESTART_DELAY`].
pub const RESTART_DELAY_MAX: Duration = Duration::from_secs(10);
/// A container that ran so long starts with the shortest delay again.
pub const RESTART_FORGIVEN: Duration = Duration::from_secs(10);

/// Answers of containerd take milliseconds; past this it is taken for hung, and asked again.
pub const CONTAINERD_TIMEOUT: Duration = Duration::from_secs(30);

/// Until a containerd that does not answer is asked again: it starts within some tens of
/// milliseconds.
pub const CONTAINERD_RETRY: Duration = Duration::from_millis(200);

/// Entries of the journal that are forwarded at once, and how long the first of them waits for
/// others.
pub const FORWARD_BATCH_MAX: usize = 1000;
/// See [`FORWARD_BATCH_MAX`]: Loki takes 4 MiB.
pub const FORWARD_BATCH_BYTES: usize = 1 << 20;
/// Time that the first entry of a batch waits for others; see [`FORWARD_BATCH_MAX`].
pub const FORWARD_BATCH_WAIT: Duration = Duration::from_secs(1);
/// Lines that wait to be put into a batch: each may have a quarter of a megabyte.
pub const FORWARD_LINES_WAITING: usize = 64;
/// Between two tries at a target that does not answer: the first, and the longest.
pub const FORWARD_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two tries; see [`FORWARD_PAUSE`].
pub const FORWARD_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A target takes a batch within this.
pub const FORWARD_TIMEOUT: Duration = Duration::from_secs(30);
/// Some targets with their certificates.
pub const FORWARD_CONFIG_LEN_MAX: u64 = 256 << 10;

/// A file of events before the next is begun: some ten thousand of them. One older file is kept.
pub const EVENTS_LEN_MAX: u64 = 1 << 20;
/// A file of who changed what before the next is begun; one older file is kept.
pub const AUDIT_LEN_MAX: u64 = 4 << 20;
/// A request in one of its records.
pub const AUDIT_REQUEST_MAX: usize = 16 << 10;
/// A text in one of its records.
pub const AUDIT_TEXT_MAX: usize = 200;
/// Between two refusals of one name's requests that are written down: each is a write to the disk.
pub const AUDIT_REFUSALS: Duration = Duration::from_secs(10);
/// Shortest and longest time after which a compose file applied on trial is taken back.
pub const TRY_MIN: Duration = Duration::from_secs(1);
/// Longest time of a trial; see [`TRY_MIN`].
pub const TRY_MAX: Duration = Duration::from_secs(86_400);
/// A text in one of its lines: what strangers say is in some of them.
pub const EVENT_TEXT_MAX: usize = 2000;
/// A line of events or of the audit log.
pub const LINE_LEN_MAX: usize = 64 << 10;
/// Events in one answer.
pub const EVENTS_SHOWN_MAX: usize = 1000;

/// A layer that is unpacked, or a blob that is written, brings something within this, or is given
/// up: on a busy disk with many small files that takes a while.
pub const UNPACK_SILENCE: Duration = Duration::from_secs(120);

/// Bytes that are read of an image's `/etc/passwd` and `/etc/group`.
pub const USER_FILE_LEN_MAX: u64 = 1 << 20;

/// An image that containerd did not take is tried again after this.
pub const IMPORT_PAUSE: Duration = Duration::from_secs(5);

/// An image is in containerd within this, or what was written of it is given up.
pub const IMPORT_LEASE: Duration = Duration::from_secs(3600);

/// Bytes read from a container's output in one go, and the longest line of the journal. journald's
/// own limit is larger; a datagram's is 208 KiB (net.core.wmem_max).
pub const OUTPUT_CHUNK: usize = 64 * 1024;

/// Pieces read in one turn, after which the place is kept: a container that writes without end
/// keeps no other waiting, and a reader that is killed over and over still gets on. 1 MiB, which is
/// half a second of journald's work.
pub const OUTPUT_CHUNKS_MAX: usize = 16;

/// Output behind the place is given back to the file system in steps of this.
pub const OUTPUT_PUNCH: u64 = 1 << 20;

/// Output of one stream that may wait for the journal: some seconds of a container that writes as
/// fast as it can.
pub const OUTPUT_BACKLOG_MAX: u64 = 256 << 20;

/// Lines that come within this are read in one turn: each turn costs a wake-up.
pub const OUTPUT_PAUSE: Duration = Duration::from_millis(50);
/// Until the journal is tried again.
pub const OUTPUT_RETRY: Duration = Duration::from_secs(1);

/// The journal takes what was sent to it within this, on a disk that is busy.
pub const JOURNAL_SYNC: Duration = Duration::from_secs(60);

/// A request on the local socket: a compose file and a little more.
pub const REQUEST_LEN_MAX: u64 = COMPOSE_LEN_MAX * 3;
/// The same with its signature, in base64, and a certificate chain.
pub const CALL_LEN_MAX: u64 = REQUEST_LEN_MAX / 3 * 4 + (256 << 10);
/// Connections of the API's process to the agent: one a request of [`API_CONNECTIONS_MAX`] clients,
/// and what still ends. All of them together fit its unit's memory.
pub const API_CALLS_MAX: usize = API_CONNECTIONS_MAX + 4;
const _: () = assert!(API_CALLS_MAX as u64 * CALL_LEN_MAX < 160 << 20);
/// Time in which a challenge may be used: a request's way, by a slow client.
pub const CHALLENGE_TIME: Duration = Duration::from_secs(60);
/// Challenges at once: those of every connection, each asking several times a minute.
pub const CHALLENGES_MAX: usize = 1024;
/// Certificates of a client's chain.
pub const CLIENT_CHAIN_MAX: usize = 8;

/// Time that a container has to end by itself before it is killed, unless it says another.
/// Compose's is ten.
pub const STOP_GRACE: Duration = Duration::from_secs(5);
/// The longest: the host stops in thirty, of which the engine has the first ten
/// (quietcore-agent.service).
pub const STOP_GRACE_MAX: Duration = Duration::from_secs(15);

/// A container that has not been well yet is looked at so often, or as often as it says: each time
/// the main loop comes round, since whoever waits for a host waits for this.
pub const PROBE_STARTING: Duration = Duration::from_millis(250);
/// One question of a port, whatever its own limit is (up to an hour can be written).
pub const PROBE_TIME_MAX: Duration = Duration::from_secs(3600);
/// A question to who asks ports: the checks of a canary.
pub const PROBE_QUESTION_MAX: u64 = 64 << 10;
/// Bytes that are read of an answer to a health check: its first line suffices.
pub const PROBE_ANSWER_MAX: u64 = 4096;

/// Time that a new version of a service has to prove itself, unless it says another.
pub const MONITOR: Duration = Duration::from_secs(30);

/// A release's description has a kilobyte.
pub const RELEASE_LEN_MAX: u64 = 64 << 10;

/// Attempts to fetch a file of a release, the first one included.
pub const FETCH_ATTEMPTS: u32 = 10;
/// Between two of them.
pub const FETCH_PAUSE: Duration = Duration::from_secs(1);
/// Timeout of one HTTP answer: the largest file at 1 MiB a second. Past this the download resumes
/// from where it was.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(600);

/// An update says something within this, also on a slow line: 4 MiB, or an attempt that failed.
pub const UPDATE_SILENCE_MAX: Duration = Duration::from_secs(600);

/// Time that a finished update's units may take to end before the next update is refused.
pub const UPDATE_END_WAIT: Duration = Duration::from_secs(5);

/// udev sees a partition's new name within this.
pub const PARTITION_WAIT: Duration = Duration::from_secs(20);

/// A boot is healthy once everything has stayed up for so long.
pub const HEALTHY_FOR: Duration = Duration::from_secs(10);

/// An engine that is asked to end has ended within this (its unit's `TimeoutStopSec=`).
pub const ENGINE_STOP_WAIT: Duration = Duration::from_secs(10);

/// Between two signs of life to the engine, whose patience is 2 s or more.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// A disk that holds an installed host: 1 GiB of ESP, two slots of 520 MiB and at least 1 GiB of
/// data (systemd/base/repart.d), with the partition tables.
pub const INSTALLED_LEN_MIN: u64 = 3200 << 20;

/// A disk that the installer was told has appeared within this: controllers of servers take so
/// long.
pub const DISK_WAIT: Duration = Duration::from_secs(20);
