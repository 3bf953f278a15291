//! `qctl audit`: who changed what.

use crate::client::{Client, unexpected};
use crate::output::{self, Output};
use agent_core::protocol::types::{Record, verify};
use agent_core::protocol::{Request, Response};
use anyhow::{Result, bail};
use clap::Args;

#[derive(Debug, Args)]
pub struct Audit {
    /// The last so many, up to 1000.
    #[arg(short = 'n', long, default_value_t = 50)]
    count: usize,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// Shows them, once each follows the one before.
pub fn show(client: &mut Client, wanted: &Audit) -> Result<()> {
    let Response::Audit(records) = client.ask(&Request::Audit { count: wanted.count })? else {
        return Err(unexpected("records"));
    };
    match wanted.output {
        output::Output::Table => records.iter().for_each(|record| println!("{}", line(record))),
        output => output.print(&records)?,
    }
    match verify(&records) {
        Ok(()) => Ok(()),
        Err(number) => bail!("record {number} was changed, or one before it was taken out"),
    }
}

fn line(record: &Record) -> String {
    let time = prost_types::Timestamp { seconds: record.time as i64, nanos: 0 };
    let refused = record.refused.as_ref().map_or(String::new(), |why| format!(" REFUSED: {why}"));
    format!("{:>6} {time} {:<12} {}{refused}", record.number, record.who, record.request)
}
