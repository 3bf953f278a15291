//! Rules for words as tests (docs/GLOSSARY.md): how doc sentences begin, how wide comments are,
//! what a commit is called.

use std::path::{Path, PathBuf};
use std::process::Command;
use systest::harness::checkout::root;

/// Openings that say nothing an engineer would search for.
const OPENINGS: [&str; 5] = ["What", "Who", "How", "Which", "It"];
/// Words of the shortest doc sentence.
const DOC_WORDS_MIN: usize = 3;
/// Columns of a comment, as of code.
const COLUMNS_MAX: usize = 100;
/// Characters of a commit's first line.
const SUBJECT_LEN_MAX: usize = 72;
/// Day from which commits keep to their length.
const SUBJECTS_SINCE: &str = "2026-11-30";

fn git(arguments: &[&str]) -> String {
    let output = Command::new("git").args(arguments).current_dir(root()).output();
    let output = output.expect("git runs");
    assert!(output.status.success(), "git {arguments:?} failed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sources() -> Vec<(PathBuf, String)> {
    let listed = git(&["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"]);
    let read =
        |path: &str| Some((PathBuf::from(path), std::fs::read_to_string(root().join(path)).ok()?));
    listed.lines().filter_map(read).collect()
}

/// First paragraphs of doc comments, with the number of the line on which each begins.
fn docs(text: &str) -> Vec<(usize, String)> {
    let mark_of = |line: &str| {
        let line = line.trim_start();
        ["///", "//!"].into_iter().find(|mark| line.starts_with(mark))
    };
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(mark) = mark_of(line) else { continue };
        if index > 0 && mark_of(lines[index - 1]) == Some(mark) {
            continue;
        }
        let words = lines[index..].iter().map_while(|line| {
            let rest = line.trim_start().strip_prefix(mark)?.trim();
            (!rest.is_empty()).then_some(rest)
        });
        found.push((index + 1, words.collect::<Vec<_>>().join(" ")));
    }
    found
}

/// Faults of one doc sentence, in words.
fn fault(doc: &str) -> Option<String> {
    let mut words = doc.split_whitespace();
    let first = words.next().unwrap_or_default().trim_end_matches([',', ':', ';']);
    if OPENINGS.contains(&first) {
        return Some(format!("begins with {first}"));
    }
    let count = doc.split_whitespace().count();
    (count < DOC_WORDS_MIN).then(|| format!("has {count} words"))
}

#[test]
fn docs_begin_with_the_word_that_one_searches_for() {
    let (mut seen, mut faults) = (0, Vec::new());
    for (path, text) in sources() {
        for (line, doc) in docs(&text) {
            seen += 1;
            faults.extend(fault(&doc).map(|it| format!("{}:{line} {it}: {doc}", path.display())));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen > 3000, "only {seen} doc sentences were seen");
    // The controls.
    for bad in ["What is asked of systemd.", "It, in words.", "Its name.", "Connects."] {
        assert!(fault(bad).is_some(), "{bad}");
    }
    assert_eq!(fault("Runs systemctl and returns its output."), None);
    let text = "/// How far\n/// it is.\n///\n/// More.\nstruct X;\n";
    assert_eq!(docs(text), [(1, "How far it is.".to_owned())]);
}

#[test]
fn comments_are_as_narrow_as_code() {
    let mut seen = 0;
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let is_comment = line.trim_start().starts_with("//");
            seen += usize::from(is_comment);
            let columns = line.chars().count();
            // A picture is as wide as it is; an address has no place to break.
            let is_picture = line.contains(['│', '┌', '└', '┴']);
            let breaks = !is_picture && line.split_whitespace().count() > 2;
            assert!(
                !is_comment || columns <= COLUMNS_MAX || !breaks,
                "{}:{} has {columns} columns",
                path.display(),
                number + 1
            );
        }
    }
    assert!(seen > 5000, "only {seen} comments were seen");
}

#[test]
fn commits_have_a_subject_that_fits() {
    let log = git(&["log", &format!("--since={SUBJECTS_SINCE}"), "--no-merges", "--format=%h %s"]);
    for line in log.lines() {
        let (hash, subject) = line.split_once(' ').expect("a hash and a subject");
        assert!(subject.chars().count() <= SUBJECT_LEN_MAX, "{hash}: {subject}");
        assert!(subject.contains(": "), "{hash}: {subject}: which part is it about?");
    }
}

#[test]
fn the_glossary_names_each_term_once() {
    let text = std::fs::read_to_string(root().join(Path::new("docs/GLOSSARY.md"))).expect("it");
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let mut terms: Vec<&str> =
        rows.filter_map(|row| row.split('|').nth(1)).map(str::trim).collect();
    terms.retain(|term| *term != "term");
    let count = terms.len();
    assert!(count > 50, "only {count} terms were seen");
    terms.sort_unstable();
    terms.dedup();
    assert_eq!(terms.len(), count, "a term stands there twice");
}

/// Paths that a document names in backticks or as a link, and that do not exist.
fn missing_paths(document: &Path, text: &str) -> Vec<String> {
    let spans = text.split('`').skip(1).step_by(2);
    let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let folder = root().join(document.parent().unwrap_or(Path::new("")));
    let is_path = |span: &&str| {
        let ends = [".rs", ".md", ".toml", ".yaml", "/"].iter().any(|end| span.ends_with(end));
        let is_ours = ["abi/", "agent/", "containers/", "docs/", "engine/", "exchange/", "image/"]
            .iter()
            .chain(&["examples/", "kernel-config/", "simulator/", "systemd/", "systest/"])
            .any(|start| span.starts_with(start));
        ends && is_ours && !span.contains(['*', ' ', '{'])
    };
    let spans = spans.filter(is_path).map(|span| (span, root().join(span)));
    let is_here = |link: &&str| !link.is_empty() && !link.contains("://");
    let links = links.filter(is_here).map(|link| (link, folder.join(link)));
    let missing = spans.chain(links).filter(|(_, path)| !path.exists());
    missing.map(|(name, _)| format!("{} names {name}", document.display())).collect()
}

#[test]
fn documents_name_files_that_exist() {
    let listed = git(&["ls-files", "--cached", "--others", "--exclude-standard", "*.md"]);
    let mut missing = Vec::new();
    // The log of changes names what was.
    for path in listed.lines().filter(|path| *path != "CHANGELOG.md") {
        let text = std::fs::read_to_string(root().join(path)).unwrap_or_default();
        missing.extend(missing_paths(Path::new(path), &text));
    }
    assert_eq!(missing, Vec::<String>::new());
    let text = "`engine/core/src/desk.rs` and [a guide](HACKING.md), [another](GUIDE.md#x)";
    let found = missing_paths(Path::new("docs/X.md"), text);
    assert_eq!(found, ["docs/X.md names engine/core/src/desk.rs", "docs/X.md names GUIDE.md"]);
}
