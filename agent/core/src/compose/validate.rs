//! Values in their ranges: a service as it is written becomes one that can be run, or is refused
//! with the key and the remedy.

use crate::compose::scalar::Scalar;
use crate::compose::schema::{Pairs, RawDepends, RawService, Ulimit, Words};
use crate::compose::tmpfs::Tmpfs;
use crate::compose::{
    ComposeError, Condition, NetworkMode, Rlimit, RuntimePolicy, Service, binds, canary, disks,
    healthcheck, probe_identity, tmpfs, top_level, units, x_quietcore,
};
use crate::image_user::is_user;
use crate::limits::{MONITOR, STOP_GRACE, STOP_GRACE_MAX};
use abi::hostplan::{CPUS_MAX, CorePlan, CpuSet};
use std::collections::BTreeMap;
use std::time::Duration;

/// Capabilities of a service that does not drop them: Docker's default without those that reach the
/// host (`MKNOD`, `NET_RAW`, `SYS_CHROOT`, `AUDIT_WRITE`, `SETFCAP`).
const CAPABILITIES: [&str; 9] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETPCAP",
    "SETUID",
];

/// Capabilities that `cap_add` can add to [`CAPABILITIES`]. None sets affinities or realtime
/// priorities (`SYS_NICE`), mounts, traces, or reaches the kernel or its cards.
const CAPABILITIES_MORE: [&str; 4] = ["IPC_LOCK", "NET_RAW", "SETFCAP", "SYS_CHROOT"];

/// Limits of processes that a service may set, and how far. None of them reaches a scheduler.
const ULIMITS: [(&str, u64); 7] = [
    ("core", 0),
    ("fsize", u64::MAX),
    ("memlock", 1 << 30),
    ("msgqueue", 16 << 20),
    ("nofile", 1 << 20),
    ("nproc", 1 << 16),
    ("stack", 1 << 30),
];

/// Open files without `ulimits`.
const NOFILE: u64 = 65536;

/// Of containerd's 76 characters: `.green` and 17 for what makes each container's name another one.
const NAME_LEN_MAX: usize = 48;

/// A whole CPU that is reserved, as a weight.
const WEIGHT_OF_CPU: u64 = 100;

/// Size of `/dev/shm` without one.
const SHM_BYTES: u64 = 16 << 20;

pub struct Checker<'a> {
    pub name: &'a str,
    pub cores: &'a CorePlan,
}

impl Checker<'_> {
    fn refuse(
        &self,
        key: &'static str,
        value: impl ToString,
        remedy: impl ToString,
    ) -> ComposeError {
        let (service, value, remedy) = (self.name.into(), value.to_string(), remedy.to_string());
        ComposeError::Value { service, key, value, remedy }
    }

    pub fn check(&self, raw: &RawService, source: String) -> Result<Service, ComposeError> {
        // containerd's own rule, and room for what makes the name of each container another one.
        let is_word =
            |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric());
        if self.name.len() > NAME_LEN_MAX || !self.name.split(['-', '_']).all(is_word) {
            let remedy =
                format!("up to {NAME_LEN_MAX} letters and digits, with single - or _ between them");
            return Err(self.refuse("(name)", self.name, remedy));
        }
        if let Some(bad) = raw.security_opt.iter().find(|word| !NO_NEW.contains(&word.as_str())) {
            let remedy = "no-new-privileges is always on; nothing else can be set";
            return Err(self.refuse("security_opt", bad, remedy));
        }
        let words = |key, words: &Option<Words>| {
            words.as_ref().map(|words| self.words(key, words)).transpose()
        };
        let refused = |(key, value, remedy): (_, String, &str)| self.refuse(key, value, remedy);
        x_quietcore::pull_policy(raw).map_err(refused)?;
        let engine_pages = x_quietcore::engine_pages(raw).map_err(refused)?.map(Ok);
        let binds = raw.volumes.iter().map(|volume| {
            let refused = |(value, remedy): (String, String)| self.refuse("volumes", value, remedy);
            binds::read(volume).map_err(refused)
        });
        let binds = binds.chain(engine_pages);
        let network = raw.network_mode.unwrap_or(NetworkMode::Host);
        let (memory_bytes, user) = (self.memory(raw)?, self.user(raw)?);
        Ok(Service {
            name: self.name.into(),
            image: raw.image.clone(),
            entrypoint: words("entrypoint", &raw.entrypoint)?,
            init: raw.init,
            command: words("command", &raw.command)?,
            environment: self.environment(raw)?,
            user,
            working_dir: raw.working_dir.clone(),
            hostname: self.hostname(raw)?,
            read_only: raw.read_only,
            capabilities: self.capabilities(raw)?,
            rlimits: self.rlimits(raw)?,
            sysctls: self.sysctls(raw, network)?,
            binds: binds.collect::<Result<_, _>>()?,
            tmpfs: self.tmpfs(raw)?,
            ports: raw.own.as_ref().map_or_else(BTreeMap::new, |own| own.ports.clone()),
            secrets: top_level::secrets(&raw.secrets)
                .map_err(|(value, remedy)| self.refuse("secrets", value, remedy))?,
            configs: top_level::configs(&raw.configs)
                .map_err(|(value, remedy)| self.refuse("configs", value, remedy))?,
            shm_bytes: self.optional_bytes("shm_size", &raw.shm_size)?.unwrap_or(SHM_BYTES),
            network,
            cpuset: self.cpuset(raw)?,
            cpu_millis: self.cpu_millis(raw)?,
            cpu_weight: self.cpu_weight(raw)?,
            memory_bytes,
            memory_min_bytes: self.memory_min(raw, memory_bytes)?,
            pids: self.pids(raw)?,
            disks: disks::read(raw).map_err(refused)?,
            huge_pages: x_quietcore::huge_pages(raw).map_err(refused)?,
            policy: self.runtime_policy(raw)?,
            source,
        })
    }

    fn runtime_policy(&self, raw: &RawService) -> Result<RuntimePolicy, ComposeError> {
        let deploy = raw.deploy.as_ref();
        let update = deploy.and_then(|deploy| deploy.update_config.as_ref());
        let canary = canary::read(raw.own.as_ref().and_then(|own| own.canary.as_ref()))
            .map_err(|(key, value, remedy)| self.refuse(key, value, remedy))?;
        let order = canary::order(deploy, canary.is_some())
            .map_err(|(key, value, remedy)| self.refuse(key, value, remedy))?;
        let time = |key, given: Option<&Scalar>, default, max: Duration| match given {
            None => Ok(default),
            Some(text) => {
                units::duration(&text.text()).filter(|duration| *duration <= max).ok_or_else(|| {
                    let remedy = format!("a duration up to {} s, as in 10s", max.as_secs());
                    self.refuse(key, text.text(), remedy)
                })
            }
        };
        let monitor = update.and_then(|update| update.monitor.as_ref());
        let hour = Duration::from_secs(3600);
        let health = healthcheck::read(raw.healthcheck.as_ref(), raw.own.as_ref())
            .map_err(|(key, value, remedy)| self.refuse(key, value, remedy))?;
        let policy = RuntimePolicy {
            restart: raw.restart.unwrap_or_default(),
            stop_signal: raw
                .stop_signal
                .as_deref()
                .map(|text| self.signal("stop_signal", text))
                .transpose()?,
            stop_grace: time(
                "stop_grace_period",
                raw.stop_grace_period.as_ref(),
                STOP_GRACE,
                STOP_GRACE_MAX,
            )?,
            depends_on: match &raw.depends_on {
                None => BTreeMap::new(),
                Some(RawDepends::List(names)) => {
                    names.iter().map(|name| (name.clone(), Condition::default())).collect()
                }
                Some(RawDepends::Map(map)) => {
                    map.iter().map(|(name, depend)| (name.clone(), depend.condition)).collect()
                }
            },
            health,
            failure_action: update.and_then(|update| update.failure_action).unwrap_or_default(),
            monitor: time("deploy.update_config.monitor", monitor, MONITOR, hour)?,
            order,
            canary,
            secret_signal: raw
                .own
                .as_ref()
                .and_then(|own| own.secret_signal.as_ref())
                .map(|name| self.signal("x-quietcore.secret_signal", name))
                .transpose()?,
        };
        match probe_identity::fault(raw, &policy) {
            Some((key, value, remedy)) => Err(self.refuse(key, value, remedy)),
            None => Ok(policy),
        }
    }

    /// A string is split at spaces; quotes would need a shell, and there is none.
    fn words(&self, key: &'static str, words: &Words) -> Result<Vec<String>, ComposeError> {
        match words {
            Words::Many(words) => Ok(words.clone()),
            Words::One(line) => units::words(line)
                .ok_or_else(|| self.refuse(key, line, "close the quote, or write a list of words")),
        }
    }

    /// Names and values, each of which must have one.
    fn pairs(
        &self,
        key: &'static str,
        pairs: Option<&Pairs>,
        remedy: &str,
    ) -> Result<BTreeMap<String, String>, ComposeError> {
        match pairs {
            None => Ok(BTreeMap::new()),
            Some(Pairs::List(list)) => {
                let split = |entry: &String| match entry.split_once('=') {
                    Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
                    None => Err(self.refuse(key, entry, remedy)),
                };
                list.iter().map(split).collect()
            }
            Some(Pairs::Map(map)) => {
                let pair = |(name, value): (&String, &Option<Scalar>)| match value {
                    Some(value) => Ok((name.clone(), value.text())),
                    None => Err(self.refuse(key, name, remedy)),
                };
                map.iter().map(pair).collect()
            }
        }
    }

    fn environment(&self, raw: &RawService) -> Result<Vec<String>, ComposeError> {
        let remedy = "give it a value: the agent has no environment to take it from";
        // Labels are for people, and need no value.
        let pairs = self.pairs("environment", raw.environment.as_ref(), remedy)?;
        Ok(pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    fn user(&self, raw: &RawService) -> Result<Option<String>, ComposeError> {
        match raw.user.as_ref().filter(|text| !text.is_empty()) {
            Some(text) if !is_user(text) => {
                let remedy = "USER or USER:GROUP, names of the image or numbers";
                Err(self.refuse("user", text, remedy))
            }
            text => Ok(text.cloned()),
        }
    }

    fn hostname(&self, raw: &RawService) -> Result<String, ComposeError> {
        let name = raw.hostname.as_deref().unwrap_or(self.name);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        match !name.is_empty() && name.len() <= 64 && name.bytes().all(plain) {
            true => Ok(name.into()),
            false => Err(self.refuse("hostname", name, "1 to 64 letters, digits, - . or _")),
        }
    }

    fn capabilities(&self, raw: &RawService) -> Result<Vec<String>, ComposeError> {
        let bare = |name: &str| name.strip_prefix("CAP_").unwrap_or(name).to_ascii_uppercase();
        let mut kept: Vec<String> = CAPABILITIES.iter().map(ToString::to_string).collect();
        for name in &raw.cap_drop {
            let name = bare(name);
            kept.retain(|kept| name != "ALL" && *kept != name);
        }
        for name in &raw.cap_add {
            let known = [&CAPABILITIES[..], &CAPABILITIES_MORE[..]].concat();
            if !known.contains(&bare(name).as_str()) {
                let remedy = format!("one of {}", known.join(", "));
                return Err(self.refuse("cap_add", name, remedy));
            }
            kept.push(bare(name));
        }
        kept.sort();
        kept.dedup();
        Ok(kept.into_iter().map(|name| format!("CAP_{name}")).collect())
    }

    fn rlimits(&self, raw: &RawService) -> Result<Vec<Rlimit>, ComposeError> {
        let mut limits: BTreeMap<&str, (u64, u64)> = [("nofile", (NOFILE, NOFILE))].into();
        for (name, limit) in &raw.ulimits {
            let (soft, hard) = match *limit {
                Ulimit::Both(both) => (both, both),
                Ulimit::Each { soft, hard } => (soft, hard),
            };
            let Some((name, max)) = ULIMITS.iter().find(|(known, _)| known == name) else {
                let known: Vec<_> = ULIMITS.iter().map(|(name, _)| *name).collect();
                return Err(self.refuse("ulimits", name, format!("one of {}", known.join(", "))));
            };
            // The kernel's number for no limit (RLIM_INFINITY) is the highest.
            let number = |value: i64| match value {
                -1 => Some(u64::MAX),
                other => u64::try_from(other).ok(),
            };
            let inside = number(soft).zip(number(hard));
            let inside = inside.filter(|(soft, hard)| soft <= hard && hard <= max);
            let limit = inside.ok_or_else(|| {
                let value = format!("{name}: {soft} of {hard}");
                let max = if *max == u64::MAX { "-1, no limit".into() } else { max.to_string() };
                self.refuse("ulimits", value, format!("soft up to hard, up to {max}"))
            })?;
            limits.insert(name, limit);
        }
        let rlimit = |(name, (soft, hard)): (&str, (u64, u64))| Rlimit {
            name: format!("RLIMIT_{}", name.to_ascii_uppercase()),
            soft,
            hard,
        };
        Ok(limits.into_iter().map(rlimit).collect())
    }

    fn sysctls(
        &self,
        raw: &RawService,
        network: NetworkMode,
    ) -> Result<BTreeMap<String, String>, ComposeError> {
        let all = self.pairs("sysctls", raw.sysctls.as_ref(), "give it a value")?;
        let refused = |name: &&String| network == NetworkMode::Host || !name.starts_with("net.");
        match all.keys().find(refused) {
            None => Ok(all),
            Some(name) => {
                let remedy = "net.*, with network_mode: none; the host's are the image's (kernel-config/tuning.toml)";
                Err(self.refuse("sysctls", name, remedy))
            }
        }
    }

    fn tmpfs(&self, raw: &RawService) -> Result<Vec<Tmpfs>, ComposeError> {
        let all = match &raw.tmpfs {
            None => &[][..],
            Some(Words::One(one)) => std::slice::from_ref(one),
            Some(Words::Many(many)) => many,
        };
        let read = |text: &String| {
            tmpfs::read(text).ok_or_else(|| self.refuse("tmpfs", text, tmpfs::REMEDY))
        };
        all.iter().map(read).collect()
    }

    fn cpuset(&self, raw: &RawService) -> Result<String, ComposeError> {
        let housekeeping = self.cores.housekeeping();
        let Some(list) = &raw.cpuset else { return Ok(housekeeping.to_string()) };
        let text = list.text();
        let asked = CpuSet::parse(&text, CPUS_MAX - 1)
            .map_err(|error| self.refuse("cpuset", &text, error))?;
        let outside = asked.difference(housekeeping);
        if asked.is_empty() || !outside.is_empty() {
            let hot = if outside.intersection(self.cores.hot()).is_empty() {
                "not on this host"
            } else {
                "hot, for the engine only"
            };
            let remedy = format!("CPU {outside} is {hot}; housekeeping CPUs are {housekeeping}");
            return Err(self.refuse("cpuset", &text, remedy));
        }
        Ok(asked.to_string())
    }

    /// Returns a value that a key of the service and one of `deploy` can give; refused if both do
    /// and they differ.
    fn either(
        &self,
        key: &'static str,
        one: Option<&Scalar>,
        other: Option<&Scalar>,
    ) -> Result<Option<String>, ComposeError> {
        match (one.map(Scalar::text), other.map(Scalar::text)) {
            (Some(one), Some(other)) if one != other => {
                Err(self.refuse(key, one, format!("deploy.resources says {other}; say it once")))
            }
            (one, other) => Ok(one.or(other)),
        }
    }

    fn cpu_millis(&self, raw: &RawService) -> Result<Option<u64>, ComposeError> {
        let limit = limits(raw).and_then(|limits| limits.cpus.as_ref());
        let Some(text) = self.either("cpus", raw.cpus.as_ref(), limit)? else { return Ok(None) };
        let millis = units::thousandths(&text).filter(|millis| *millis > 0);
        let refused = || self.refuse("cpus", &text, "a number of CPUs, as in 0.5");
        millis.map(Some).ok_or_else(refused)
    }

    fn cpu_weight(&self, raw: &RawService) -> Result<Option<u64>, ComposeError> {
        let key = "deploy.resources.reservations.cpus";
        if let Some(cpus) = reservations(raw).and_then(|amount| amount.cpus.as_ref()) {
            let millis = units::thousandths(&cpus.text());
            let millis = millis.filter(|millis| (10..=100_000).contains(millis));
            let refused = || self.refuse(key, cpus.text(), "0.01 to 100 CPUs, as in 0.5");
            return millis.map(|m| Some(m * WEIGHT_OF_CPU / 1000)).ok_or_else(refused);
        }
        let Some(shares) = raw.cpu_shares else { return Ok(None) };
        match (2..=262_144).contains(&shares) {
            // As runc does, from cgroup v1's range to v2's.
            true => Ok(Some(1 + (shares - 2) * 9999 / 262_142)),
            false => Err(self.refuse("cpu_shares", shares, "2 to 262144; 1024 is a whole share")),
        }
    }

    fn optional_bytes(
        &self,
        key: &'static str,
        given: &Option<Scalar>,
    ) -> Result<Option<u64>, ComposeError> {
        given.as_ref().map(|text| self.bytes(key, &text.text())).transpose()
    }

    fn memory(&self, raw: &RawService) -> Result<Option<u64>, ComposeError> {
        let limit = limits(raw).and_then(|limits| limits.memory.as_ref());
        let text = self.either("mem_limit", raw.mem_limit.as_ref(), limit)?;
        let bytes = text.map(|text| self.bytes("mem_limit", &text)).transpose()?;
        if let Some(swap) = &raw.memswap_limit
            && units::bytes(&swap.text()) != bytes
        {
            let remedy = "the same as mem_limit, or leave it out: hosts have no swap";
            return Err(self.refuse("memswap_limit", swap.text(), remedy));
        }
        Ok(bytes)
    }

    fn memory_min(
        &self,
        raw: &RawService,
        limit: Option<u64>,
    ) -> Result<Option<u64>, ComposeError> {
        let reserved = reservations(raw).and_then(|amount| amount.memory.as_ref());
        let text = self.either("mem_reservation", raw.mem_reservation.as_ref(), reserved)?;
        let Some(text) = text else { return Ok(None) };
        let bytes = self.bytes("mem_reservation", &text)?;
        match limit.is_none_or(|limit| bytes <= limit) {
            true => Ok(Some(bytes)),
            false => Err(self.refuse("mem_reservation", text, "at most mem_limit")),
        }
    }

    fn pids(&self, raw: &RawService) -> Result<Option<i64>, ComposeError> {
        if let Some(pids) = reservations(raw).and_then(|amount| amount.pids) {
            let remedy = "a limit, not a reservation: deploy.resources.limits.pids";
            return Err(self.refuse("deploy.resources.reservations.pids", pids, remedy));
        }
        let limit = limits(raw).and_then(|limits| limits.pids);
        if let (Some(one), Some(other)) = (raw.pids_limit, limit)
            && one != other
        {
            let remedy = format!("the same as deploy.resources.limits.pids, {other}, or only one");
            return Err(self.refuse("pids_limit", one, remedy));
        }
        Ok(raw.pids_limit.or(limit).filter(|limit| *limit > 0))
    }

    fn bytes(&self, key: &'static str, text: &str) -> Result<u64, ComposeError> {
        let bytes = units::bytes(text).filter(|bytes| *bytes >= 1 << 20);
        bytes.ok_or_else(|| self.refuse(key, text, "at least 1m, as in 512m or 2g"))
    }

    fn signal(&self, key: &'static str, text: &str) -> Result<u32, ComposeError> {
        let signal = units::signal(text);
        signal.ok_or_else(|| self.refuse(key, text, "a signal, as in SIGTERM, TERM or 15"))
    }
}

/// Values of `security_opt` that are accepted: no-new-privileges, which is always set.
const NO_NEW: [&str; 2] = ["no-new-privileges", "no-new-privileges:true"];

fn limits(raw: &RawService) -> Option<&crate::compose::schema::RawAmount> {
    raw.deploy.as_ref()?.resources.as_ref()?.limits.as_ref()
}

fn reservations(raw: &RawService) -> Option<&crate::compose::schema::RawAmount> {
    raw.deploy.as_ref()?.resources.as_ref()?.reservations.as_ref()
}
