//! The session against a counterparty that is spelled out message by message.

use super::super::fix::{Framed, decode};
use super::*;

const SECOND: u64 = 1_000_000_000;

struct Pair {
    session: Session,
    _directory: tempfile::TempDir,
    path: std::path::PathBuf,
    now: u64,
}

impl Pair {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        Self { session: Self::open(&path), _directory: directory, path, now: 5 }
    }

    fn open(path: &std::path::Path) -> Session {
        let names = Names { sender: "QC".into(), target: "BANK".into() };
        let mut session = Session::new(names, Store::open(path).unwrap());
        session.connected(5);
        session
    }

    /// Returns the session's pending output, each message as `type sequence extra`.
    fn output(&mut self) -> Vec<String> {
        let bytes = self.session.take_output().unwrap();
        let mut at = 0;
        let mut found = Vec::new();
        while let Framed::Message(fields, len) = decode(&bytes[at..]) {
            let get = |tag| fields.get(tag).unwrap_or_default();
            let extra = match get(35) {
                "8" => format!("{}{}{}", get(17), get(97), get(43)),
                "4" => format!("to {}", get(36)),
                "2" => format!("{} {}", get(7), get(16)),
                "0" => get(112).to_owned(),
                _ => get(58).to_owned(),
            };
            found.push(format!("{} {} {extra}", get(35), get(34)).trim().to_owned());
            at += len;
        }
        assert_eq!(at, bytes.len());
        found
    }

    fn say(&mut self, text: &str) -> (Fate, Vec<String>) {
        let text = format!("49=BANK|56=QC|52=20261124-09:30:00|{text}|").replace('|', "\u{1}");
        let fate = self.session.on_message(&Fields::parse(&text).unwrap(), self.now).unwrap();
        (fate, self.output())
    }

    fn report(&mut self, id: &str) {
        let mut report = Fields::new();
        report.add(tag::EXEC_ID, id);
        self.session.publish(&report, self.now);
    }
}

const LOGON: &str = "35=A|34=1|98=0|108=30";

#[test]
fn what_was_missed_is_sent_on_request_with_gaps_filled() {
    let mut pair = Pair::new();
    pair.report("D-1");
    pair.report("D-2");
    assert_eq!(pair.output(), Vec::<String>::new());
    assert_eq!(pair.say(LOGON), (Fate::Keep, vec!["A 3".into()]));
    pair.report("D-3");
    assert_eq!(pair.output(), ["8 4 D-3"]);
    let all = ["8 1 D-1Y", "8 2 D-2Y", "4 3 to 4", "8 4 D-3Y"];
    assert_eq!(pair.say("35=2|34=2|7=1|16=0").1, all);
    assert_eq!(pair.say("35=2|34=3|7=2|16=3").1, ["8 2 D-2Y", "4 3 to 4"]);
    let refused = "3 5 BeginSeqNo (7) and EndSeqNo (16) are no range";
    assert_eq!(pair.say("35=2|34=4|7=0|16=0").1, [refused]);
    // Another process goes on with the numbers.
    pair.session = Pair::open(&pair.path);
    assert_eq!(pair.say("35=A|34=5|98=0|108=30").1, ["A 6"]);
}

#[test]
fn a_long_day_is_sent_in_parts_and_what_comes_meanwhile_follows() {
    let mut pair = Pair::new();
    (1..=2_500).for_each(|number| pair.report(&format!("D-{number}")));
    assert_eq!(pair.say(LOGON).1, ["A 2501"]);
    let mut heard = pair.say("35=2|34=2|7=1|16=0").1;
    assert_eq!((heard.len(), pair.session.is_sending()), (1_000, true));
    pair.report("D-2501");
    while pair.session.is_sending() {
        pair.session.send_on(5).unwrap();
        heard.extend(pair.output());
    }
    assert_eq!(heard.len(), 2_502);
    assert_eq!(heard[2_499..], ["8 2500 D-2500Y", "4 2501 to 2502", "8 2502 D-2501Y"]);
}

#[test]
fn our_gap_is_asked_for_once_and_filled() {
    let mut pair = Pair::new();
    assert_eq!(pair.say("35=A|34=4|98=0|108=30").1, ["A 1", "2 2 1 0"]);
    assert_eq!(pair.say("35=0|34=5").1, Vec::<String>::new());
    assert_eq!(pair.say("35=4|34=1|43=Y|123=Y|36=6").1, Vec::<String>::new());
    assert_eq!(pair.say("35=1|34=6|112=x").1, ["0 3 x"]);
    assert_eq!(pair.say("35=0|34=9").1, ["2 4 7 0"]);
    assert_eq!(pair.say("35=4|34=1|36=20").1, Vec::<String>::new());
    assert_eq!(pair.say("35=0|34=20").1, Vec::<String>::new());
}

#[test]
fn a_reset_gives_the_day_again() {
    let mut pair = Pair::new();
    for id in ["OLD-1", "D-1", "D-2"] {
        pair.report(id);
    }
    let logon = "35=A|34=1|98=0|108=30|141=Y";
    assert_eq!(pair.say(logon).1, ["A 1", "8 2 D-1Y", "8 3 D-2Y"]);
    pair.session.connected(5);
    assert_eq!(pair.say(logon).1, ["A 1", "8 2 D-1Y", "8 3 D-2Y"]);
}

#[test]
fn strangers_and_impossible_numbers_are_sent_away() {
    let mut pair = Pair::new();
    assert_eq!(pair.say("35=0|34=1"), (Fate::Close, vec![]));
    let text = format!("49=BANK|56=OTHER|{LOGON}|").replace('|', "\u{1}");
    let stranger = Fields::parse(&text).unwrap();
    assert_eq!(pair.session.on_message(&stranger, 5).unwrap(), Fate::Close);
    let refused = "5 1 HeartBtInt (108) must be 1 to 600 seconds".to_owned();
    assert_eq!(pair.say("35=A|34=1|98=0|108=0"), (Fate::Close, vec![refused]));
    assert_eq!(pair.say(LOGON), (Fate::Keep, vec!["A 2".into()]));
    let text = "j 3 a drop copy takes no application messages";
    assert_eq!(pair.say("35=D|34=2|11=1"), (Fate::Keep, vec![text.into()]));
    let low = "5 4 MsgSeqNum too low, expecting 3 but received 1".to_owned();
    assert_eq!(pair.say("35=0|34=1"), (Fate::Close, vec![low]));
}

#[test]
fn heartbeats_go_out_and_silence_ends_the_connection() {
    let mut pair = Pair::new();
    pair.say(LOGON);
    assert_eq!(pair.session.tick(5 + 30 * SECOND), Fate::Keep);
    assert_eq!(pair.output(), ["0 2"]);
    assert_eq!(pair.session.tick(5 + 37 * SECOND), Fate::Keep);
    assert_eq!(pair.output(), ["1 3"]);
    assert_eq!(pair.session.tick(5 + 73 * SECOND), Fate::Close);
    assert_eq!(pair.output(), ["5 4 no answer to the test request"]);
    pair.session.connected(5);
    assert_eq!(pair.session.tick(5 + 11 * SECOND), Fate::Close);
}

#[test]
fn a_logout_is_answered() {
    let mut pair = Pair::new();
    pair.say(LOGON);
    assert_eq!(pair.say("35=5|34=2"), (Fate::Close, vec!["5 2".into()]));
    pair.session.connected(5);
    pair.say("35=A|34=3|98=0|108=30");
    assert_eq!(pair.session.leave(5), Fate::Keep);
    assert_eq!(pair.output(), ["5 4 FIX.4.4 drop copy stops"]);
    assert_eq!(pair.say("35=5|34=4"), (Fate::Close, vec![]));
}
