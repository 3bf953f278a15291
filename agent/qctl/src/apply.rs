//! `qctl apply` and `qctl diff`: apply a compose file, compare it with what is declared, wait for
//! the result.

use crate::apply_args::Apply;
use crate::client::{Client, unexpected};
use crate::compose_file::in_file;
use crate::compose_project::{Surroundings, resolve};
use crate::wait;
use agent_core::protocol::{Request, Response};
use anyhow::Result;
use std::path::Path;

/// Applies a file, after its variables, files and profiles were put in here.
pub fn apply(client: &mut Client, wanted: &Apply) -> Result<()> {
    let file = &wanted.file;
    let compose = resolve(file, &Surroundings::of(file, &wanted.profile)?)?;
    let try_seconds = wanted.try_for.map(|time| time.as_secs());
    let (dry_run, staged) = (wanted.dry_run, wanted.staged);
    let request = Request::Apply { compose, dry_run, try_seconds, staged };
    let answer = client.ask(&request).map_err(|error| in_file(file, &error))?;
    let Response::Changes(changes) = answer else { return Err(unexpected("changes")) };
    changes.iter().for_each(|line| println!("{line}"));
    if let Some(seconds) = try_seconds {
        println!("taken back in {seconds} s; qctl keep keeps it");
    }
    if staged {
        println!("staged: the next boot runs it");
    }
    wanted.wait.map_or(Ok(()), |limit| wait::wait(client, limit))
}

/// Shows how a file differs from what is declared, line by line.
pub fn diff(client: &mut Client, file: &Path, profiles: &[String]) -> Result<()> {
    let compose = resolve(file, &Surroundings::of(file, profiles)?)?;
    let Response::Declared(declared) = client.ask(&Request::Declared {})? else {
        return Err(unexpected("what is declared"));
    };
    print!("{}", crate::diff::differences(&declared, &compose));
    let request = Request::Apply { compose, dry_run: true, try_seconds: None, staged: false };
    let answer = client.ask(&request).map_err(|error| in_file(file, &error))?;
    let Response::Changes(changes) = answer else { return Err(unexpected("changes")) };
    changes.iter().filter(|line| !line.starts_with('=')).for_each(|line| println!("{line}"));
    Ok(())
}
