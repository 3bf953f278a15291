//! Every limit of the agent with its reason.

use std::time::Duration;

/// A compose file: a desk has tens of services, each a kilobyte.
pub const COMPOSE_LEN_MAX: u64 = 1 << 20;

/// Services in one file.
pub const SERVICES_MAX: usize = 64;

/// An image archive: the largest static program with its data.
pub const ARCHIVE_LEN_MAX: u64 = 2 << 30;

/// How often everything is compared with what is declared, besides whenever containerd reports an event.
pub const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);

/// Wait before a dead container is started again: doubled each time, up to the maximum.
pub const RESTART_DELAY: Duration = Duration::from_millis(100);
/// See [`RESTART_DELAY`].
pub const RESTART_DELAY_MAX: Duration = Duration::from_secs(10);
/// A container that ran so long starts with the shortest delay again.
pub const RESTART_FORGIVEN: Duration = Duration::from_secs(10);

/// Answers of containerd take milliseconds; past this it is taken for hung, and asked again.
pub const CONTAINERD_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes read from one container's output in one go.
pub const TAIL_CHUNK: usize = 64 * 1024;

/// Pieces read in one turn: 4 MiB a second of one container.
pub const TAIL_CHUNKS_MAX: usize = 64;

/// Output behind the read position is given back to the file system in steps of this.
pub const TAIL_PUNCH: u64 = 1 << 20;

/// A request on the local socket: a compose file and a little more.
pub const REQUEST_LEN_MAX: u64 = COMPOSE_LEN_MAX * 2;

/// Time that a container has to end by itself before it is killed.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// A release's description has a kilobyte.
pub const RELEASE_LEN_MAX: u64 = 64 << 10;

/// How often a file of a release is asked for again when the server breaks off.
pub const FETCH_ATTEMPTS: u32 = 10;
/// Between two of them.
pub const FETCH_PAUSE: Duration = Duration::from_secs(1);
/// One answer: the largest file at 1 MiB a second. Past this it is asked for again, from where it was.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(600);

/// An update says something within this, also on a slow line: 4 MiB, or an attempt that failed.
pub const UPDATE_SILENCE_MAX: Duration = Duration::from_secs(600);

/// How long a finished update's units may take to end before the next is refused.
pub const UPDATE_END_WAIT: Duration = Duration::from_secs(5);

/// udev sees a partition's new name within this.
pub const PARTITION_WAIT: Duration = Duration::from_secs(20);

/// A boot is healthy once everything has stayed up for so long.
pub const HEALTHY_FOR: Duration = Duration::from_secs(10);

/// An engine that is asked to end has ended within this (its unit's `TimeoutStopSec=`).
pub const ENGINE_STOP_WAIT: Duration = Duration::from_secs(10);

/// Between two signs of life to the engine, whose patience is 2 s or more.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// A disk that holds an installed host: 1 GiB of ESP, two slots of 520 MiB and at least 1 GiB of data
/// (systemd/base/repart.d), with the partition tables.
pub const INSTALLED_LEN_MIN: u64 = 3200 << 20;

/// A disk that the installer was told has appeared within this: controllers of servers take so long.
pub const DISK_WAIT: Duration = Duration::from_secs(20);
