//! One engine and one exchange on loopback, for the tests that need both.

pub mod ledger;

use abi::counters::{Counter, CountersPage, State, Word};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use systest::harness::checkout::root;
use tempfile::TempDir;

/// Generous: the machine may be busy with other tests.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Programs that the tests start.
const PROGRAMS: [&str; 3] = ["quietcore-engine", "quietcore-exchange", "quietcore-dropcopy"];

/// Builds the programs once and says where they are.
pub fn programs() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "--workspace"])
            .args(PROGRAMS.iter().flat_map(|name| ["--bin", name]))
            .current_dir(root())
            .status()
            .expect("cargo builds the programs");
        assert!(built.success(), "the programs do not build");
        let test = std::env::current_exe().expect("this test's own path");
        test.ancestors().nth(2).expect("target/debug").to_path_buf()
    })
}

/// One engine, one exchange, one directory.
pub struct Bench {
    directory: TempDir,
    pub port: u16,
    pub exchange: Option<Child>,
    pub engine: Option<Child>,
}

impl Bench {
    pub fn new(port: u16) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let bench = Self { directory, port, exchange: None, engine: None };
        let demo = std::fs::read_to_string(root().join("engine/config/demo.toml"))
            .expect("the demo configuration");
        let config = demo
            .replace("contract = \"enforce\"", "contract = \"report\"")
            .replace("239.192.0.1:31001", &format!("239.192.{}.1:{port}", port % 250))
            .replace("239.192.0.2:31002", &format!("239.192.{}.2:{}", port % 250, port + 1))
            .replace("127.0.0.1:31003", &format!("127.0.0.1:{}", port + 2))
            .replace("127.0.0.1:31010", &format!("127.0.0.1:{}", port + 3))
            .replace("/var/lib/quietcore/journal", &bench.path("journal").display().to_string())
            .replace("/run/quietcore/engine", &bench.path("pages").display().to_string());
        std::fs::write(bench.path("engine.toml"), config).expect("write the configuration");
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn start_exchange(&mut self, extra: &[&str]) {
        let port = self.port;
        let child = Command::new(programs().join("quietcore-exchange"))
            .args(["--line-a", &format!("239.192.{}.1:{port}", port % 250)])
            .args(["--line-b", &format!("239.192.{}.2:{}", port % 250, port + 1)])
            .args(["--request", &format!("127.0.0.1:{}", port + 2)])
            .args(["--orders", &format!("127.0.0.1:{}", port + 3)])
            .args(extra)
            .stdout(Stdio::null())
            .spawn();
        self.exchange = Some(child.expect("start the exchange"));
    }

    pub fn start_engine(&mut self) {
        self.start(&programs().join("quietcore-engine"));
    }

    /// Starts an engine that is built otherwise.
    pub fn start(&mut self, program: &Path) {
        let log = std::fs::File::create(self.path("engine.log")).expect("the engine's log");
        let child =
            Command::new(program).arg("--config").arg(self.path("engine.toml")).stderr(log).spawn();
        self.engine = Some(child.expect("start the engine"));
    }

    /// The page of the engine that runs, or else of the one that ran: a killed engine's page says
    /// that it trades until the next one starts.
    pub fn page(&self) -> Option<CountersPage> {
        let page = CountersPage::open(&self.path("pages").join("counters")).ok()?;
        let pid = self.engine.as_ref().map(|engine| u64::from(engine.id()));
        pid.is_none_or(|pid| page.word(Word::Pid) == pid).then_some(page)
    }

    pub fn get(&self, counter: Counter) -> u64 {
        self.page().map_or(0, |page| page.get(counter))
    }

    /// Whether the engine was started and has ended by itself; then nothing is worth waiting for.
    fn has_ended(&self) -> bool {
        let Some(engine) = &self.engine else { return false };
        let status = format!("/proc/{}/stat", engine.id());
        std::fs::read_to_string(status).is_ok_and(|stat| stat.contains(") Z "))
    }

    pub fn wait(&self, what: &str, done: impl Fn(&CountersPage) -> bool) {
        let start = Instant::now();
        while !self.page().is_some_and(|page| done(&page)) {
            let page = self.page();
            assert!(
                !self.has_ended(),
                "the engine ended before: {what}; {}",
                std::fs::read_to_string(self.path("engine.log")).unwrap_or_default()
            );
            let counters = page.iter().flat_map(|page| {
                Counter::ALL.iter().map(|c| format!("{}={}", c.metric(), page.get(*c)))
            });
            assert!(
                start.elapsed() < LIMIT,
                "not within {LIMIT:?}: {what}; {}",
                counters.collect::<Vec<_>>().join(" ")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn wait_trading(&self) {
        self.wait("the engine trades", |page| page.state() == Some(State::Trading));
    }

    pub fn signal_engine(&self, signal: &str) {
        if let Some(engine) = &self.engine {
            let sent = Command::new("kill").args([signal, &engine.id().to_string()]).status();
            assert!(sent.is_ok_and(|status| status.success()));
        }
    }

    /// Ends the engine by a signal and waits for it.
    pub fn end_engine(&mut self, signal: &str) {
        self.signal_engine(signal);
        if let Some(mut engine) = self.engine.take() {
            engine.wait().expect("the engine ends");
        }
    }

    /// Plays the journal back: every output must come out again. Returns the best bids and offers.
    pub fn replay(&self) -> String {
        let csv = self.path("bbo.csv");
        let replay = Command::new(programs().join("quietcore-engine"))
            .arg("replay")
            .arg(self.path("journal"))
            .arg("--bbo")
            .arg(&csv)
            .output()
            .expect("replay");
        assert!(replay.status.success(), "replay: {}", String::from_utf8_lossy(&replay.stderr));
        std::fs::read_to_string(csv).expect("the replay's best bids and offers")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for child in [&mut self.engine, &mut self.exchange].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // What a failed test leaves is what one wants to look at.
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            eprintln!("kept: {}", self.directory.path().display());
        }
    }
}
