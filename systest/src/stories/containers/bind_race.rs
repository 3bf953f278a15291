//! A container that writes the directory above another one's volume puts a link to the host's
//! configuration there and takes it away, as fast as it can. On this machine, with the image's
//! containerd and runc; `STARTS=n` starts the other one as often as one likes.

use crate::harness::booted::Verdict;
use crate::harness::checkout::ImageFiles;
use crate::harness::native_host::{IMAGE, Rig};
use crate::measure::kill_storm::CONVERGE_LIMIT;
use anyhow::{Result, ensure};
use serde_json::Value;

const STARTS: u32 = 40;

/// Words of a refusal by what was really mounted; the rest was refused when it was opened.
const PROOF: [&str; 2] =
    ["of another place than what was checked", "was checked and is not mounted"];

fn compose(version: u32) -> String {
    let service = |name: &str, words: &str, volume: &str| {
        format!(
            "  {name}:\n    image: {IMAGE}\n    command: [{words}]\n    environment: {{VERSION: \"{version}\"}}\n    ulimits: {{nofile: 1024}}\n    stop_signal: SIGKILL\n    volumes: [\"/var/lib/quietcore/volumes/{volume}\"]\n"
        )
    };
    let flipper = service("flipper", "flip, /outer", "race:/outer");
    let flipper = flipper.replace(&format!("\"{version}\""), "\"0\"");
    // One that was refused waits longer and longer: each is another one.
    let victim = service(&format!("victim-{version}"), "visit, /data", "race/sub:/data");
    let victim = victim + "    restart: \"no\"\n";
    format!("services:\n{flipper}{}", if version == 0 { String::new() } else { victim })
}

/// State of the victim, or why it was not started.
fn end_of(status: &Value) -> Option<String> {
    let problems = status["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut problems = problems.filter(|it| it.starts_with("container victim-"));
    let containers = status["containers"].as_array().into_iter().flatten();
    let mut states = containers.filter_map(|it| it["state"].as_str());
    let ended = states.find(|it| it.starts_with("stopped (0"));
    problems.next().or(ended).map(str::to_owned)
}

/// Proves that a container's link in its volume leads no other container elsewhere.
pub fn links_lead_nowhere(image: &ImageFiles) -> Result<Verdict> {
    let starts = std::env::var("STARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(STARTS);
    let mut rig = Rig::start(image, &compose(0))?;
    rig.wait("it flips", CONVERGE_LIMIT, |status| status["containers"][0]["state"] == "running")?;
    let (mut started, mut opened, mut proved) = (0, 0, 0);
    for version in 1..=starts {
        rig.apply(&compose(version))?;
        rig.wait("the victim is started or refused", CONVERGE_LIMIT, |status| {
            end_of(status).is_some()
        })?;
        let end = end_of(&rig.status()?).unwrap_or_default();
        match PROOF.iter().any(|words| end.contains(words)) {
            true => proved += 1,
            false if end.starts_with("container victim-") => opened += 1,
            false => started += 1,
        }
        // Each begins without what became of the one before.
        rig.apply(&compose(0))?;
        rig.wait("the victim is gone", CONVERGE_LIMIT, |status| {
            end_of(status).is_none()
                && status["containers"].as_array().is_some_and(|it| it.len() == 1)
        })?;
    }
    let visited = rig.inside("ls /etc/visited 2> /dev/null || :")?.output()?;
    ensure!(visited.stdout.is_empty(), "a container was in the host's /etc");
    ensure!(
        started > 0 && opened > 0 && proved > 0,
        "{started} started, {opened} refused when opened, {proved} by what was mounted: nobody raced"
    );
    Ok(Verdict::Proved(format!(
        "{starts} starts of a container whose volume another one turns into a link to /etc and back: {started} had their volume, {opened} were refused when it was opened and {proved} by what was mounted before the program started; none was in /etc"
    )))
}
