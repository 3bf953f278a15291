//! Rules of the tree as tests: sizes, reasons, names that two places must agree on. Walls between
//! packages: `walls.rs`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use systest::harness::checkout::root;

/// Files over the limit, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];
const LINES_MAX: usize = 500;

fn tracked() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let output = output.expect("git lists the files of the checkout");
    assert!(output.status.success(), "git ls-files failed");
    let text = String::from_utf8(output.stdout).expect("file names are UTF-8");
    text.lines().map(PathBuf::from).filter(|path| root().join(path).is_file()).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_default()
}

fn with_extension<'a>(
    files: &'a [PathBuf],
    extension: &'a str,
) -> impl Iterator<Item = &'a PathBuf> {
    files.iter().filter(move |path| path.extension().is_some_and(|e| e == extension))
}

#[test]
fn files_are_short() {
    let files = tracked();
    for path in with_extension(&files, "rs").chain(with_extension(&files, "md")) {
        let lines = read(path).lines().count();
        let excused = LONG_FILES.iter().any(|(name, _)| Path::new(name) == path);
        assert!(lines <= LINES_MAX || excused, "{} has {lines} lines", path.display());
    }
}

#[test]
fn rust_files_say_what_they_are_for() {
    let files = tracked();
    for path in with_extension(&files, "rs") {
        assert!(
            read(path).starts_with("//! "),
            "{} does not start with a sentence on what it is for",
            path.display()
        );
    }
}

#[test]
fn lib_files_are_maps() {
    // An example shows a whole crate in one file.
    let files = tracked();
    let ours = files.iter().filter(|path| !path.starts_with("examples"));
    for path in ours.filter(|path| path.ends_with("lib.rs")) {
        for line in read(path).lines() {
            let map =
                ["//!", "///", "#", "pub mod ", "mod "].iter().any(|start| line.starts_with(start))
                    || line.trim().is_empty();
            assert!(map, "{}: `{line}` is code", path.display());
        }
    }
}

#[test]
fn unsafe_code_stands_in_named_modules_only() {
    let allowed = [
        "abi/src/checksum.rs",
        "abi/src/page.rs",
        "engine/core/tests/steady.rs",
        "engine/daemon/src/arena.rs",
        "engine/daemon/src/host_cpu.rs",
        "engine/daemon/src/ring.rs",
        "image/initrd/src/devicemapper.rs",
        "image/initrd/src/loopdevice.rs",
        "image/initrd/src/signature.rs",
        // What a hostile program of a container would do.
        "systest/assets/intrude.rs",
        // What a program asks its terminal; it is made by rustc alone.
        "systest/assets/lines.rs",
    ];
    let files = tracked();
    for path in with_extension(&files, "rs") {
        let text = read(path);
        let has = text.contains(concat!("unsafe", " {"))
            || text.contains(concat!("allow(", "unsafe_code"));
        assert_eq!(has, allowed.iter().any(|name| Path::new(name) == path), "{}", path.display());
    }
}

#[test]
fn counters_are_written_by_the_engine() {
    let files = tracked();
    let engine: String = with_extension(&files, "rs")
        .filter(|path| path.starts_with("engine"))
        .map(|path| read(path))
        .collect();
    assert!(engine.contains("Counter::of_refusal("), "nobody counts the reasons of refusals");
    let page = read(Path::new("abi/src/counters.rs"));
    for counter in abi::counters::Counter::ALL {
        if page.contains(&format!("=> Self::{counter:?},")) {
            continue;
        }
        assert!(engine.contains(&format!("Counter::{counter:?}")), "nobody writes {counter:?}");
    }
}

#[test]
fn units_start_programs_that_we_ship() {
    let files = tracked();
    let stages = files
        .iter()
        .filter(|path| path.starts_with("image/stages") || *path == Path::new("image/build"));
    let build: String = stages.map(|path| read(path)).collect();
    let mut ours = 0;
    for path in with_extension(&files, "service") {
        for line in read(path).lines().filter_map(|line| line.strip_prefix("ExecStart=/usr/bin/")) {
            let program = line.split_whitespace().next().expect("a program");
            let debian = [
                "containerd",
                "cp",
                "echo",
                "install",
                "sleep",
                "systemctl",
                "systemd-cryptenroll",
                "touch",
            ]
            .contains(&program);
            assert!(
                debian || build.contains(program),
                "{} starts {program}, which no stage of image/build ships",
                path.display()
            );
            ours += u32::from(!debian);
        }
    }
    assert!(ours >= 4, "only {ours} units of ours were seen");
}

#[test]
fn units_have_their_users_and_something_that_starts_them() {
    let files = tracked();
    let units: Vec<&PathBuf> = files.iter().filter(|path| path.starts_with("systemd")).collect();
    let users: String = units
        .iter()
        .filter(|path| path.components().any(|part| part.as_os_str() == "sysusers.d"))
        .map(|path| read(path))
        .collect();
    let users: Vec<&str> =
        users.lines().filter_map(|line| line.strip_prefix("u ")?.split(' ').next()).collect();
    let programs = files.iter().filter(|path| path.starts_with("agent"));
    let programs: String = programs.map(|path| read(path)).collect();
    let (mut owned, mut started) = (0, 0);
    for path in with_extension(&files, "service").filter(|path| path.starts_with("systemd")) {
        let (text, name) = (read(path), path.file_name().unwrap_or_default().to_string_lossy());
        for user in text.lines().filter_map(|line| line.strip_prefix("User=")) {
            assert!(users.contains(&user), "{name}: no line of sysusers.d makes {user}");
            owned += 1;
        }
        if text.contains("[Install]") || *name == *"emergency.service" {
            continue;
        }
        // A path, socket or timer of its name, another unit that names it, or a program of ours.
        let stem = name.trim_end_matches(".service").trim_end_matches('@');
        let is_named = |other: &&&PathBuf| {
            let is_own = other.file_name().unwrap_or_default().to_string_lossy() == name;
            let starter = ["path", "socket", "timer"].map(|kind| format!("{stem}.{kind}"));
            let is_starter = starter.iter().any(|it| other.ends_with(it));
            is_starter || !is_own && read(other).contains(&*name)
        };
        let is_started = units.iter().any(|other| is_named(&other)) || programs.contains(stem);
        assert!(is_started, "{name}: nothing starts it, and it has no [Install]");
        started += 1;
    }
    assert!(owned >= 9 && started >= 5, "{owned} users, {started} units that others start");
}

#[test]
fn every_word_and_option_of_the_kernel_has_its_reason() {
    let files = tracked();
    let is_one = |path: &&PathBuf| {
        path.starts_with("kernel-config")
            && path
                .extension()
                .is_some_and(|extension| extension == "conf" || extension == "config")
    };
    let (mut count, mut seen) = (0, 0);
    for path in files.iter().filter(is_one) {
        let mut reason = false;
        for line in read(path).lines() {
            match line.chars().next() {
                Some('#') => reason = true,
                Some(_) => {
                    assert!(reason, "{}: no reason above {line}", path.display());
                    count += 1;
                }
                None => reason = false,
            }
        }
        seen += 1;
    }
    assert!(seen >= 8 && count > 200, "only {count} words and options in {seen} files");
    let plan = read(Path::new("image/files/host-plan.toml"));
    assert!(abi::hostplan::HostPlan::parse(&plan).is_ok());
}

#[test]
fn sysctls_have_their_reasons() {
    let files = tracked();
    let settings: Vec<_> =
        files.iter().filter(|path| path.starts_with("systemd/base/sysctl.d")).collect();
    assert!(settings.len() >= 2, "the settings were not found");
    for path in settings {
        let mut reason = false;
        for line in read(path).lines() {
            match line.chars().next() {
                Some('#') => reason = true,
                Some(_) => assert!(reason, "{}: no reason above {line}", path.display()),
                None => reason = false,
            }
        }
    }
}

#[test]
fn nothing_unfinished_and_no_foreign_place_is_committed() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("/wo", "rk/"),
        concat!("deb.", "debian.org"),
    ];
    for path in tracked().iter().filter(|path| !path.ends_with("Cargo.lock")) {
        let text = read(path);
        for mark in marks {
            assert!(!text.contains(mark), "{} has {mark}", path.display());
        }
    }
}

#[test]
fn the_readmes_commands_exist() {
    let readme = read(Path::new("README.md"));
    let makefile = read(Path::new("Makefile"));
    let mut seen = 0;
    for line in readme.lines().filter_map(|line| line.trim_start().strip_prefix("make ")) {
        let target = line.split_whitespace().next().expect("a target");
        assert!(makefile.contains(&format!("\n{target}:")), "README names make {target}");
        seen += 1;
    }
    assert!(seen >= 2, "the README's commands were not found");
}

/// Names that follow a prefix in a text, up to the first character that is none of a name's.
fn names_after<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let is_end = |c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c));
    text.split(prefix).skip(1).map(move |rest| rest.split(is_end).next().unwrap_or_default())
}

#[test]
fn no_container_binds_what_units_and_programs_exchange() {
    let compose = read(Path::new("agent/core/src/compose.rs"));
    let list = |name: &str| -> Vec<String> {
        let text = compose.split(name).nth(1).expect("the list").split(']').next();
        let text = text.and_then(|_| compose.split(name).nth(1)?.split("= [").nth(1));
        let text = text.expect("its values").split(']').next().expect("its end");
        text.split('"').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let mut known = list("pub const OWN: ");
    known.extend(list("pub const OWN_READABLE: "));
    let files = tracked();
    let mut found = BTreeSet::new();
    for path in with_extension(&files, "service") {
        let text = read(path);
        let lines = text.lines().filter_map(|line| line.strip_prefix("RuntimeDirectory="));
        for word in lines.flat_map(str::split_whitespace) {
            found.extend(word.strip_prefix("quietcore/").map(str::to_owned));
        }
    }
    let programs = ["agent/host/src", "agent/daemon/src", "agent/workers/src", "agent/boot/src"];
    for path in with_extension(&files, "rs").filter(|it| programs.iter().any(|p| it.starts_with(p)))
    {
        let text = read(path);
        let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        let names = names_after(&text, "\"/run/quietcore/").filter(|name| !name.is_empty());
        found.extend(names.map(str::to_owned));
    }
    let missing: Vec<_> = found.iter().filter(|name| !known.contains(name)).collect();
    assert!(missing.is_empty(), "a container could bind {missing:?}; see OWN in compose.rs");
    assert!(found.len() > 8 && found.contains("fetch"), "only {found:?} were seen");
}
