//! A version beside the one before: it takes over once it has proved itself, by its health, its
//! metrics and its time, and the one before runs until then. And secrets, of which it gets some.

use crate::harness::booted::{Booted, Verdict};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(60);
/// A container's start and its looks, under TCG beside another machine.
const SEEN: Duration = Duration::from_secs(120);

/// A service that listens at 9470, or at 9480 in the second slot; `number` makes it another
/// version, `canary` is how it is judged.
fn apply(booted: &mut Booted, number: u32, canary: &str) -> Result<()> {
    let file = format!(
        r#"
  web:
    image: $image
    command: ["--pages", "/pages", "--listen", "127.0.0.1:9470"]
    environment: {{NUMBER: {number}}}
    user: "1234:1234"
    restart: always
    volumes: ["/run/quietcore/engine:/pages:ro"]
    secrets: [{{source: key, mode: 0440}}]
    configs: [{{source: conf, target: /conf}}]
    x-quietcore:
      http: "http://127.0.0.1:9470/metrics"
      ports: {{9470: 9480}}
      canary: {canary}
    healthcheck: {{interval: 1s, timeout: 2s, retries: 3}}
    deploy: {{update_config: {{monitor: 60s, order: start-first}}}}
secrets: {{key: {{external: true}}}}
configs: {{conf: {{content: "desk: ny4"}}}}
"#
    );
    let script = format!(
        "image=$(sed -n 's/ *image: \\(.*exporter.*\\)/\\1/p' /etc/quietcore/compose.yaml)\n{{ cat /etc/quietcore/compose.yaml; cat <<END\n{file}END\n}} > /run/beside.yaml; qctl apply /run/beside.yaml"
    );
    booted.shell.check(&script, ANSWER).map(drop)
}

const METRICS: &str = "metrics: \"http://127.0.0.1:9470/metrics\"";

fn find<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["containers"].as_array()?.iter().find(|container| container["name"] == name)
}

fn wait(
    booted: &mut Booted,
    what: &str,
    is: impl Fn(Option<&Value>, Option<&Value>) -> bool,
) -> Result<Value> {
    booted
        .shell
        .wait_status(what, SEEN, |status| is(find(status, "web"), find(status, "web.green")))
}

fn runs(container: Option<&Value>) -> bool {
    container.is_some_and(|it| it["state"] == "running" && it["health"] == "healthy")
}

fn says(container: Option<&Value>, text: &str) -> bool {
    container.is_some_and(|it| it["rollout"].as_str().is_some_and(|said| said.contains(text)))
}

fn is_proven(container: Option<&Value>) -> bool {
    runs(container) && container.is_some_and(|it| it["rollout"].is_null())
}

const PROCESS: &str = "head -n 1 /sys/fs/cgroup/quietcore-containers/web.green-*/cgroup.procs";

/// Proves that a version runs beside the one before until it is promoted or undone, and that
/// secrets reach their container.
pub fn versions_take_over_beside_the_one_before(booted: &mut Booted) -> Result<Verdict> {
    // Without its secret it waits.
    apply(booted, 1, "{bake: 2s}")?;
    let missing = "key not on this host; bring it with qctl secret set";
    let waits = crate::harness::booted::wait_problem(booted, missing, SEEN)?;
    ensure!(find(&waits, "web").is_some_and(|web| web["state"] == "absent"), "{waits}");
    booted.shell.check("echo swordfish | qctl secret set key", ANSWER)?;
    let first = wait(booted, "the first version", |web, _| is_proven(web))?;
    secret(booted, "web", "swordfish")?;
    // The next one proves itself beside it, and both answer meanwhile.
    apply(
        booted,
        2,
        &format!("{{bake: 15s, interval: 1s, {METRICS}, checks: [\"quietcore_engine_up >= 1\"]}}"),
    )?;
    wait(booted, "a version beside it", |web, green| {
        is_proven(web) && runs(green) && says(green, "on trial, beside the version before")
    })?;
    let ports = "cat /run/quietcore/ports/web; for port in 9470 9480; do exec 3<>/dev/tcp/127.0.0.1/$port && echo open; done";
    let before = booted.shell.check(ports, ANSWER)?;
    ensure!(before == "9470 9470\nopen\nopen\n", "{before:?}");
    let status = wait(booted, "it takes over", |web, green| web.is_none() && is_proven(green))?;
    let [first, second] = [(&first, "web"), (&status, "web.green")]
        .map(|(status, name)| find(status, name).and_then(|it| it["generation"].as_u64()));
    ensure!(second == first.map(|first| first + 1), "generation {second:?} after {first:?}");
    let after = booted.shell.check("cat /run/quietcore/ports/web", ANSWER)?;
    ensure!(after == "9470 9480\n", "{after:?}");
    let process = booted.shell.check(PROCESS, ANSWER)?;
    // One whose metrics are not as they must be goes, and the one before never stopped.
    apply(
        booted,
        3,
        &format!("{{bake: 60s, interval: 1s, {METRICS}, checks: [\"quietcore_engine_up > 5\"]}}"),
    )?;
    wait(booted, "it is taken back", |web, green| {
        web.is_none()
            && runs(green)
            && says(green, "taken back: its metrics are not as they must be")
    })?;
    // One that somebody has to let in; held, let in, taken back by hand.
    apply(booted, 4, "{bake: 1s, promote: manual}")?;
    wait(booted, "a version that waits", |web, green| {
        runs(web) && says(web, "on trial") && runs(green)
    })?;
    booted.shell.check(
        "qctl rollout pause web; qctl rollout status web | grep paused; qctl rollout promote web",
        ANSWER,
    )?;
    wait(booted, "it was let in", |web, green| is_proven(web) && green.is_none())?;
    booted.shell.check("qctl rollout undo web", ANSWER)?;
    wait(booted, "it was undone", |web, _| runs(web) && says(web, "undone by hand"))?;
    let twice = booted.shell.run("qctl rollout undo web", ANSWER)?;
    ensure!(twice.code == 1 && twice.text.contains("runs already"), "{}", twice.text);
    // Another secret makes it anew.
    booted
        .shell
        .check("echo herring > /run/key; qctl secret set key /run/key; rm /run/key", ANSWER)?;
    wait(booted, "it was made anew", |web, _| runs(web))?;
    secret(booted, "web", "herring")?;
    let used = booted.shell.run("qctl secret rm key", ANSWER)?;
    ensure!(used.code == 1 && used.text.contains("is used by the service web"), "{}", used.text);
    let described = booted.shell.check("qctl describe web", ANSWER)?;
    ensure!(described.contains("undo, asked for by hand"), "{described}");
    booted.shell.check("qctl apply /etc/quietcore/compose.yaml; qctl secret rm key", ANSWER)?;
    booted.shell.wait_status("ready again", SEEN, |status| status["ready"] == true)?;
    // They go with their container, which may take its time to end.
    let gone = "until [ -z \"$(ls /run/quietcore-private)\" ]; do sleep 0.5; done";
    booted.shell.check(gone, ANSWER).context("opened secrets are left")?;
    Ok(Verdict::Proved(format!(
        "a version ran beside the one before (both answered) until its metrics had held for 15 s, and took over with its port; one whose metrics did not hold was taken back, while process {} ran on; one waited for a hand; a secret was sealed on disk, in the container with owner and mode, and another one after it was changed",
        process.trim()
    )))
}

/// Checks a container's secret and configuration as its process sees them, and that the secret is
/// not on disk in the clear.
fn secret(booted: &mut Booted, container: &str, wanted: &str) -> Result<()> {
    let script = format!(
        "cd /proc/$(head -n 1 /sys/fs/cgroup/quietcore-containers/{container}-*/cgroup.procs)/root; cat run/secrets/key conf; echo; stat -c '%u:%g %a' run/secrets/key; grep -rlc {wanted} /var/lib/quietcore/agent || true; stat -f -c %T run/secrets"
    );
    let seen = booted.shell.check(&script, ANSWER).context("look into the container")?;
    ensure!(seen == format!("{wanted}\ndesk: ny4\n1234:1234 440\ntmpfs\n"), "{seen:?}");
    Ok(())
}
