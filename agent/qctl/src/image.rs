//! `qctl image`: the images that this host has.

use crate::client::{Client, unexpected};
use crate::output::{self, Output};
use crate::table::Column::Text;
use crate::table::table;
use agent_core::protocol::types::ImageLine;
use agent_core::protocol::{Request, Response};
use anyhow::{Context, Result};
use clap::Subcommand;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub enum Image {
    /// Put the image of an archive, an OCI layout in a tar file, on this host. It is kept across
    /// restarts and updates until it is removed.
    Load {
        /// The archive, where the agent can read it: below /run or /var.
        archive: PathBuf,
    },
    /// The images that this host has.
    Ls {
        /// Format of the output.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Take an image away that nothing declared needs.
    Rm {
        /// Name of the image to remove.
        name: String,
    },
}

pub fn act(client: &mut Client, what: &Image) -> Result<()> {
    match what {
        Image::Load { archive } => load(client, archive),
        Image::Ls { output } => list(client, *output),
        Image::Rm { name } => client.done(&Request::RemoveImage { name: name.clone() }),
    }
}

fn load(client: &mut Client, archive: &Path) -> Result<()> {
    let archive = archive.canonicalize().with_context(|| archive.display().to_string())?;
    match client.ask(&Request::LoadImage { archive })? {
        Response::Loaded(name) => println!("{name}: loaded"),
        _ => return Err(unexpected("an image's name")),
    }
    Ok(())
}

pub fn list(client: &mut Client, output: Output) -> Result<()> {
    let images = match client.ask(&Request::Images {})? {
        Response::Images(images) => images,
        _ => return Err(unexpected("images")),
    };
    match output {
        output::Output::Table => {
            let columns = [Text("NAME"), Text("DIGEST"), Text("FROM"), Text("USED")];
            print!("{}", table(&columns, images.iter().map(row)));
        }
        output => output.print(&images)?,
    }
    Ok(())
}

fn row(image: &ImageLine) -> Vec<String> {
    let digest = image.digest.get(..19).unwrap_or(&image.digest);
    // The name's own digest says nothing new.
    let name = image.name.split('@').next().unwrap_or_default();
    let used = if image.declared { "yes" } else { "no" };
    vec![name.into(), digest.into(), image.from.clone(), used.into()]
}
