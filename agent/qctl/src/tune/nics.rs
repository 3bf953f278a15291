//! NIC queue settings that only the card reports: ring lengths and interrupt coalescing.
//! `systemd/base/network/10-ethernet.link` sets them. Source: the kernel's ethtool over netlink
//! (Documentation/networking/ethtool-netlink.rst).

use crate::tune::Line;
use anyhow::{Context, Result};
use ethtool::{EthtoolAttr, EthtoolCoalesceAttr as Coalesce, EthtoolRingAttr as Ring};
use std::path::Path;
use tokio_stream::StreamExt;

/// Ring lengths and interrupt coalescing of one NIC; `None` for values that the card does not
/// report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Queues {
    receive: Option<u32>,
    receive_most: Option<u32>,
    send: Option<u32>,
    send_most: Option<u32>,
    adapts: Option<bool>,
    waits_us: Option<u32>,
}

impl Queues {
    fn take(&mut self, attribute: &EthtoolAttr) {
        match attribute {
            EthtoolAttr::Ring(Ring::Rx(count)) => self.receive = Some(*count),
            EthtoolAttr::Ring(Ring::RxMax(count)) => self.receive_most = Some(*count),
            EthtoolAttr::Ring(Ring::Tx(count)) => self.send = Some(*count),
            EthtoolAttr::Ring(Ring::TxMax(count)) => self.send_most = Some(*count),
            EthtoolAttr::Coalesce(Coalesce::UseAdaptiveRx(adapts)) => self.adapts = Some(*adapts),
            EthtoolAttr::Coalesce(Coalesce::RxUsecs(us)) => self.waits_us = Some(*us),
            _ => {}
        }
    }

    fn lines(&self, card: &str) -> Vec<Line> {
        let line = |name: &str, expected: String, found: String, why: &str| Line {
            name: name.into(),
            at: card.into(),
            is_met: expected == found,
            expected,
            found,
            why: why.into(),
        };
        let ring = |name, now: Option<u32>, most: Option<u32>, why| {
            Some(line(name, format!("{} entries", most?), format!("{} entries", now?), why))
        };
        let burst = "a burst waits in the card instead of being dropped";
        let mut lines = Vec::new();
        lines.extend(ring("receive-ring", self.receive, self.receive_most, burst));
        let refused = "an order is not refused because the card is full";
        lines.extend(ring("send-ring", self.send, self.send_most, refused));
        let in_words = |adapts: bool| if adapts { "adapts" } else { "fixed" }.to_owned();
        lines.extend(self.adapts.map(|adapts| {
            let why = "a card that adapts waits longest when most arrives";
            line("interrupt-wait-adapts", in_words(false), in_words(adapts), why)
        }));
        lines.extend(self.waits_us.map(|us| {
            let why = "a packet is told of when it arrives";
            line("interrupt-wait", "0 us".into(), format!("{us} us"), why)
        }));
        lines
    }
}

/// The names of this host's Ethernet cards: those with a device behind them.
fn cards(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root.join("sys/class/net")).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| path.join("device").exists());
    let mut names: Vec<String> = paths
        .filter(|path| std::fs::read_to_string(path.join("type")).is_ok_and(|t| t.trim() == "1"))
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}

async fn ask(card: &str) -> Result<Queues> {
    let (connection, mut kernel, _) = ethtool::new_connection().context("ethtool's netlink")?;
    let answering = tokio::spawn(connection);
    let mut queues = Queues::default();
    // A card that has no such thing to tell answers with an error.
    let mut rings = Box::pin(kernel.ring().get(Some(card)).execute().await?);
    while let Some(Ok(message)) = rings.next().await {
        message.payload.nlas.iter().for_each(|attribute| queues.take(attribute));
    }
    let mut waits = Box::pin(kernel.coalesce().get(Some(card)).execute().await?);
    while let Some(Ok(message)) = waits.next().await {
        message.payload.nlas.iter().for_each(|attribute| queues.take(attribute));
    }
    answering.abort();
    Ok(queues)
}

/// Compares the queues of every card of this host.
///
/// # Errors
/// The kernel has no ethtool over netlink.
pub fn compare() -> Result<Vec<Line>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut lines = Vec::new();
    for card in cards(Path::new("/")) {
        let queues = runtime.block_on(ask(&card)).with_context(|| card.clone())?;
        lines.extend(queues.lines(&card));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_queue_that_is_not_as_it_must_be_is_named() {
        let mut queues = Queues::default();
        assert!(queues.lines("eth0").is_empty(), "a card that says nothing");
        for attribute in [Ring::RxMax(4096), Ring::Rx(4096), Ring::TxMax(512), Ring::Tx(512)] {
            queues.take(&EthtoolAttr::Ring(attribute));
        }
        for attribute in [Coalesce::UseAdaptiveRx(false), Coalesce::RxUsecs(0)] {
            queues.take(&EthtoolAttr::Coalesce(attribute));
        }
        let bad = |queues: Queues| -> Vec<String> {
            let lines = queues.lines("eth0").into_iter().filter(|line| !line.is_met);
            lines.map(|line| line.name).collect()
        };
        assert_eq!((queues.lines("eth0").len(), bad(queues)), (4, vec![]));
        assert_eq!(bad(Queues { receive: Some(256), ..queues }), ["receive-ring"]);
        assert_eq!(bad(Queues { send: Some(256), ..queues }), ["send-ring"]);
        assert_eq!(bad(Queues { adapts: Some(true), ..queues }), ["interrupt-wait-adapts"]);
        assert_eq!(bad(Queues { waits_us: Some(50), ..queues }), ["interrupt-wait"]);
    }
}
