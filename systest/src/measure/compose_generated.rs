//! Generated compose files, within what is accepted, are the same here and to docker-compose: a
//! project of four files for each seed.

use crate::harness::checkout::{ImageFiles, program};
use crate::measure::compose_comparison::{compare_projects, read_json};
use anyhow::{Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// Values of a variable, as YAML.
const VALUES: [&str; 26] = [
    "1",
    "-7",
    "0x1F",
    "0o17",
    "1.0",
    "1.50",
    "1e3",
    "1000000.5",
    "0.00001",
    "true",
    "False",
    "yes",
    "null",
    "~",
    "''",
    "\"010\"",
    "'2001-01-01'",
    "18446744073709551615",
    "plain text",
    "\"a\\tb\"",
    "'it''s'",
    "${SET}",
    "${NONE:-other}",
    "\"${SET:+x}-${NONE-}\"",
    "$$SET",
    "http://a/?b=c&d=${SET}",
];

/// Lines of an env file; each sets another variable.
const LINES: [&str; 22] = [
    "A=file",
    "B='single # no comment'",
    "C=\"double\" # comment",
    "D=plain # comment",
    "E=a#b",
    "F=\"line1\\nline2\"",
    "G=\"in \\\"quotes\\\"\"",
    "H=${SET}/x",
    "I='${SET}'",
    "J=",
    "K = spaced",
    "export L=1",
    "M: colon",
    "N=\"over\nlines\"",
    "# comment",
    "",
    "O=a=b=c",
    "P=${NONE:-other}",
    "Q=\"\\$SET\"",
    "R=it's",
    "S=\"  kept  \"",
    "T=C:\\dir",
];

/// Lines of a service: no two of a row stand in one service.
const KEYS: [&[&str]; 13] = [
    &["command: [a, 'b c', '-d']", "command: a 'b c' \"d\\\\ e\" --f=g", "command: []"],
    &["entrypoint: /bin/x -y", "entrypoint: [/bin/x, '$$1']"],
    &["labels: {a: '1', b: ''}", "labels: [a=1, b]"],
    &["mem_limit: 64m", "mem_limit: 1.5g", "mem_limit: 67108864", "mem_limit: 1Gi"],
    &["cpus: 0.25", "cpus: '1.5'", "cpus: 1"],
    &["pids_limit: 20", "pids_limit: '30'"],
    &["restart: always", "restart: on-failure", "restart: 'no'", "restart: unless-stopped"],
    &["stop_grace_period: 1s500ms", "stop_grace_period: 10s", "stop_grace_period: 0m3s"],
    &[
        "volumes: ['/run/quietcore/a:/a:ro', '/run/quietcore/b:/b']",
        "volumes: [{type: bind, source: /run/quietcore/a, target: /a, read_only: true}]",
        "volumes: ['/run/quietcore/a:/a:z,ro']",
    ],
    &["read_only: true", "read_only: false"],
    &["user: '5:6'", "user: \"1000:1000\""],
    &["hostname: h${SET}", "working_dir: /w"],
    &["cap_drop: [ALL]", "cap_drop: [CHOWN]"],
];

struct Generator(ChaCha8Rng);

impl Generator {
    fn below(&mut self, end: usize) -> usize {
        self.0.next_u32() as usize % end
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn chance(&mut self, of_ten: usize) -> bool {
        self.below(10) < of_ten
    }

    fn env_file(&mut self) -> String {
        let lines = (0..self.below(9)).map(|_| self.one(&LINES)).collect::<Vec<_>>();
        lines.join("\n") + "\n"
    }

    fn environment(&mut self, text: &mut String) {
        let names = (0..1 + self.below(5)).map(|_| self.one(&["A", "B", "C", "D", "SET", "ALONE"]));
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.dedup();
        let is_map = self.chance(5);
        *text += "    environment:\n";
        for name in names {
            let line = match (is_map, self.chance(2)) {
                (true, true) => format!("{name}:"),
                (true, false) => format!("{name}: {}", self.one(&VALUES)),
                (false, true) => format!("- {name}"),
                (false, false) => {
                    let value = self.one(&["1", "", "a b", "010", "a=b", "${SET}", "$$x", "null"]);
                    format!("- {name}={value}")
                }
            };
            *text += &format!("      {line}\n");
        }
    }

    fn service(&mut self, text: &mut String, extends: Option<&str>) {
        match extends {
            Some(of) => *text += &format!("    extends: {of}\n"),
            None => *text += "    image: x:${SET}\n",
        }
        for row in KEYS {
            if self.chance(2) {
                *text += &format!("    {}\n", self.one(row));
            }
        }
        if self.chance(5) {
            *text += match self.below(3) {
                0 => "    env_file: one.env\n",
                1 => "    env_file: [one.env, two.env]\n",
                _ => "    env_file: [{path: none.env, required: false}, {path: two.env}]\n",
            };
        }
        if self.chance(8) {
            self.environment(text);
        }
    }

    fn project(&mut self, directory: &Path) -> Result<()> {
        let common = directory.join("common");
        std::fs::create_dir_all(&common)?;
        for of in [directory, &common] {
            std::fs::write(of.join("one.env"), self.env_file())?;
            std::fs::write(of.join("two.env"), self.env_file())?;
        }
        let mut base = "services:\n  base:\n".to_owned();
        self.service(&mut base, None);
        std::fs::write(common.join("base.yaml"), base)?;
        let mut text = "services:\n".to_owned();
        for number in 0..1 + self.below(4) {
            writeln!(text, "  s{number}:")?;
            let extends = match self.below(4) {
                0 => Some("{file: common/base.yaml, service: base}".to_owned()),
                1 if number > 0 => Some(format!("s{}", number - 1)),
                _ => None,
            };
            self.service(&mut text, extends.as_deref());
            if number > 0 && self.chance(3) {
                let condition = self.one(&["service_started", "service_completed_successfully"]);
                writeln!(text, "    depends_on: {{s0: {{condition: {condition}}}}}")?;
            }
        }
        std::fs::write(directory.join("compose.yaml"), text)?;
        Ok(())
    }
}

/// Result of comparing generated projects.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Services that were the same.
    pub services: usize,
    /// Values of them that were compared.
    pub values: u32,
    /// Projects that mean something else, each with its seed, which writes it again.
    pub different: Vec<String>,
}

/// Compares `count` generated projects as qctl and docker-compose read them.
///
/// # Errors
/// One of the two can't be run.
pub fn compare_generated(image: &ImageFiles, seed: u64, count: u64) -> Result<Comparison> {
    let root = tempfile::tempdir()?;
    for seed in seed..seed + count {
        let directory = root.path().join(format!("{seed}"));
        Generator(ChaCha8Rng::seed_from_u64(seed)).project(&directory)?;
    }
    let all = "for d in /g/*; do cd $d; SET=set docker-compose config --format json >out.json 2>error.txt || echo failed >>error.txt; done";
    let status = image.in_tools(&[(root.path(), "/g")]).args(["sh", "-uc", all]).status()?;
    ensure!(status.success(), "docker-compose: {status}");
    let mut comparison = Comparison::default();
    for seed in seed..seed + count {
        let directory = root.path().join(format!("{seed}"));
        let theirs = std::fs::read_to_string(directory.join("out.json"))?;
        let mut qctl = Command::new(program("qctl"));
        qctl.arg("config")
            .arg("compose.yaml")
            .current_dir(&directory)
            .env_clear()
            .env("SET", "set");
        let output = qctl.output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        match compare_texts(&said, &theirs) {
            Ok((services, values)) => {
                comparison.services += services;
                comparison.values += values;
            }
            Err(why) => {
                let read = |name| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
                let error = String::from_utf8_lossy(&output.stderr);
                comparison.different.push(format!(
                    "seed {seed}: {why:#} {} {}\n{}",
                    error.trim(),
                    read("error.txt").trim(),
                    read("compose.yaml")
                ));
            }
        }
    }
    Ok(comparison)
}

fn compare_texts(ours: &str, theirs: &str) -> Result<(usize, u32)> {
    compare_projects(&read_json(ours)?, &read_json(theirs)?)
}
