//! Promises and proofs of docs/SPECIFICATION.md: each promise has a proof that exists, each story a
//! promise.

use std::collections::BTreeSet;
use std::path::Path;
use systest::harness::checkout::root;
use systest::stories::STORIES;

/// Promise of the specification: its number and the names of its proofs.
type Promise = (String, Vec<String>);

fn promises(text: &str) -> Vec<Promise> {
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.split(" | ").collect();
        let number = cells.first()?.trim();
        let is_number = number.starts_with(|first: char| first.is_ascii_uppercase())
            && number[1..].parse::<u32>().is_ok();
        let proofs = cells.last()?.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        is_number.then(|| (number.to_owned(), proofs))
    });
    rows.collect()
}

/// Faults of a specification, one line each.
fn faults(promises: &[Promise]) -> Vec<String> {
    let stories: BTreeSet<&str> = STORIES.iter().map(|story| story.name).collect();
    let makefile = std::fs::read_to_string(root().join("Makefile")).expect("the Makefile");
    let exists = |proof: &str| match proof.strip_prefix("make ") {
        Some(target) => makefile.contains(&format!("\n{target}:")),
        None => stories.contains(proof) || proof.contains('/') && root().join(proof).is_file(),
    };
    let mut faults = Vec::new();
    let mut numbers = BTreeSet::new();
    for (number, proofs) in promises {
        if !numbers.insert(number) {
            faults.push(format!("{number} stands there twice"));
        }
        if proofs.is_empty() {
            faults.push(format!("{number} has no proof"));
        }
        let missing = proofs.iter().filter(|proof| !exists(proof));
        faults.extend(missing.map(|proof| format!("{number}: there is no {proof}")));
    }
    let named: BTreeSet<&str> =
        promises.iter().flat_map(|(_, proofs)| proofs).map(String::as_str).collect();
    faults.extend(stories.difference(&named).map(|story| format!("{story} proves no promise")));
    faults
}

#[test]
fn every_promise_has_its_proof_and_every_story_its_promise() {
    let text = std::fs::read_to_string(root().join(Path::new("docs/SPECIFICATION.md")));
    let text = text.expect("the specification");
    let written = promises(&text);
    assert!(written.len() > 40, "only {} promises were seen", written.len());
    assert_eq!(faults(&written), Vec::<String>::new());
    // The controls: a promise without a proof, a proof that is not there, a story without a
    // promise.
    let broken = text.replace("| `netboot` |", "| |").replace("`kill-switch`", "`kill-swich`");
    let found = faults(&promises(&broken));
    for wanted in
        ["B10 has no proof", "there is no kill-swich", "netboot proves no", "kill-switch proves no"]
    {
        assert!(found.iter().any(|fault| fault.contains(wanted)), "{wanted}: {found:?}");
    }
}
