//! FIX messages as bytes. Source: "FIX 4.4 with Errata 20030618", volume 1, "FIX tag=value syntax".
//!
//! ```text
//! 8=FIX.4.4␁9=<bytes from after this field to before 10=>␁35=<type>␁…␁
//! 10=<sum of all bytes before, mod 256>␁
//! ```

use std::fmt::Display;

/// The first field of every message.
pub const BEGIN_STRING: &str = "FIX.4.4";

/// The longest message that is taken: a counterparty sends only session messages, of some 100
/// bytes.
pub const MESSAGE_LEN_MAX: usize = 8 << 10;

const SOH: u8 = 1;

/// Tags that this program reads or writes, named as the specification names them.
#[allow(missing_docs, reason = "the specification says what each is")]
pub mod tag {
    pub const AVG_PX: u32 = 6;
    pub const BEGIN_SEQ_NO: u32 = 7;
    pub const CL_ORD_ID: u32 = 11;
    pub const CUM_QTY: u32 = 14;
    pub const END_SEQ_NO: u32 = 16;
    pub const EXEC_ID: u32 = 17;
    pub const EXEC_REF_ID: u32 = 19;
    pub const LAST_PX: u32 = 31;
    pub const LAST_QTY: u32 = 32;
    pub const MSG_SEQ_NUM: u32 = 34;
    pub const MSG_TYPE: u32 = 35;
    pub const NEW_SEQ_NO: u32 = 36;
    pub const ORDER_ID: u32 = 37;
    pub const ORDER_QTY: u32 = 38;
    pub const ORD_STATUS: u32 = 39;
    pub const ORD_TYPE: u32 = 40;
    pub const ORIG_CL_ORD_ID: u32 = 41;
    pub const POSS_DUP_FLAG: u32 = 43;
    pub const PRICE: u32 = 44;
    pub const REF_SEQ_NUM: u32 = 45;
    pub const SENDER_COMP_ID: u32 = 49;
    pub const SENDING_TIME: u32 = 52;
    pub const SIDE: u32 = 54;
    pub const SYMBOL: u32 = 55;
    pub const TARGET_COMP_ID: u32 = 56;
    pub const TEXT: u32 = 58;
    pub const TRANSACT_TIME: u32 = 60;
    pub const POSS_RESEND: u32 = 97;
    pub const ENCRYPT_METHOD: u32 = 98;
    pub const ORD_REJ_REASON: u32 = 103;
    pub const HEART_BT_INT: u32 = 108;
    pub const TEST_REQ_ID: u32 = 112;
    pub const ORIG_SENDING_TIME: u32 = 122;
    pub const GAP_FILL_FLAG: u32 = 123;
    pub const RESET_SEQ_NUM_FLAG: u32 = 141;
    pub const EXEC_TYPE: u32 = 150;
    pub const LEAVES_QTY: u32 = 151;
    pub const REF_MSG_TYPE: u32 = 372;
    pub const SESSION_REJECT_REASON: u32 = 373;
    pub const BUSINESS_REJECT_REASON: u32 = 380;
    pub const SECONDARY_EXEC_ID: u32 = 527;
    pub const COPY_MSG_INDICATOR: u32 = 797;
    pub const LAST_LIQUIDITY_IND: u32 = 851;
}

/// Fields in their order, without 8, 9 and 10.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields(Vec<(u32, String)>);

impl Fields {
    /// Returns an empty list of fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field.
    pub fn add(&mut self, tag: u32, value: impl Display) -> &mut Self {
        self.0.push((tag, value.to_string()));
        self
    }

    /// The first field of a tag.
    pub fn get(&self, tag: u32) -> Option<&str> {
        self.0.iter().find(|(other, _)| *other == tag).map(|(_, value)| value.as_str())
    }

    /// The first field of a tag as a number.
    pub fn number(&self, tag: u32) -> Option<u64> {
        self.get(tag)?.parse().ok()
    }

    /// Whether a flag is set.
    pub fn flag(&self, tag: u32) -> bool {
        self.get(tag) == Some("Y")
    }

    /// `tag=value` with its separators.
    pub fn to_text(&self) -> String {
        self.0.iter().map(|(tag, value)| format!("{tag}={value}\u{1}")).collect()
    }

    /// The inverse of [`Self::to_text`]; `None` if it is something else.
    pub fn parse(text: &str) -> Option<Self> {
        let fields = text.split_terminator('\u{1}').map(|field| {
            let (tag, value) = field.split_once('=')?;
            Some((tag.parse().ok()?, value.to_owned()))
        });
        Some(Self(fields.collect::<Option<_>>()?))
    }

    /// The whole message: 8, 9, these fields, then `body` as it is, 10.
    pub fn encode(&self, body: &str) -> Vec<u8> {
        let head = self.to_text();
        let len = head.len() + body.len();
        let mut message = format!("8={BEGIN_STRING}\u{1}9={len}\u{1}{head}{body}").into_bytes();
        let sum = checksum(&message);
        message.extend_from_slice(format!("10={sum:03}\u{1}").as_bytes());
        message
    }
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Result of decoding the first message of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Framed {
    /// No whole message yet.
    Incomplete,
    /// A message, and the bytes that it took.
    Message(Fields, usize),
    /// A message whose checksum or fields do not fit: the specification has it ignored.
    Garbled(usize),
    /// Nothing that FIX 4.4 is made of: where the next message starts can't be known.
    Lost,
}

/// Cuts the first message off a stream.
pub fn decode(stream: &[u8]) -> Framed {
    let begin = format!("8={BEGIN_STRING}\u{1}9=");
    let known = begin.len().min(stream.len());
    if stream[..known] != begin.as_bytes()[..known] {
        return Framed::Lost;
    }
    let rest = &stream[known..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits > 5 {
        return Framed::Lost;
    }
    match rest.get(digits) {
        None => return Framed::Incomplete,
        Some(&SOH) if digits > 0 => {}
        Some(_) => return Framed::Lost,
    }
    let length = std::str::from_utf8(&rest[..digits]).ok().and_then(|text| text.parse().ok());
    let length: usize = length.unwrap_or(usize::MAX);
    if length > MESSAGE_LEN_MAX {
        return Framed::Lost;
    }
    let start = known + digits + 1;
    let (end, trailer) = (start + length, "10=000|".len());
    let Some(message) = stream.get(..end + trailer) else { return Framed::Incomplete };
    let tail = &message[end..];
    if !tail.starts_with(b"10=") || tail[trailer - 1] != SOH {
        return Framed::Lost;
    }
    let sum = format!("{:03}", checksum(&message[..end]));
    let fields = std::str::from_utf8(&message[start..end]).ok().and_then(Fields::parse);
    match fields {
        Some(fields) if tail[3..6] == *sum.as_bytes() => Framed::Message(fields, end + trailer),
        _ => Framed::Garbled(end + trailer),
    }
}

/// A `UTCTimestamp` with milliseconds, of nanoseconds since the epoch.
pub fn utc_timestamp(time_ns: u64) -> String {
    let time = jiff::Timestamp::from_nanosecond(time_ns.into()).unwrap_or_default();
    time.strftime("%Y%m%d-%H:%M:%S%.3f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's own arithmetic on a message written by hand.
    const HEARTBEAT: &str =
        "8=FIX.4.4|9=59|35=0|49=BANK|56=QC|34=2|52=20261124-09:30:00.000|112=hello|10=095|";

    fn wire(text: &str) -> Vec<u8> {
        text.replace('|', "\u{1}").into_bytes()
    }

    #[test]
    fn a_message_is_cut_off_when_its_last_byte_has_come() {
        let bytes = wire(HEARTBEAT);
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), Framed::Incomplete, "cut at {end}");
        }
        let Framed::Message(fields, len) = decode(&bytes) else { panic!("{:?}", decode(&bytes)) };
        assert_eq!((len, fields.get(tag::TEST_REQ_ID)), (bytes.len(), Some("hello")));
        assert_eq!(fields.encode(""), bytes);
    }

    #[test]
    fn garbled_and_lost_are_told_apart() {
        let changed = wire(&HEARTBEAT.replace("hello", "hullo"));
        assert_eq!(decode(&changed), Framed::Garbled(changed.len()));
        for lost in ["GET / HTTP/1.1", "8=FIX.4.2|9=5|", "8=FIX.4.4|9=x|", "8=FIX.4.4|9=999999|"] {
            assert_eq!(decode(&wire(lost)), Framed::Lost, "{lost}");
        }
        let short = wire(&HEARTBEAT.replace("9=59", "9=58"));
        assert_eq!(decode(&short), Framed::Lost);
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(utc_timestamp(1_795_512_600_123_456_789), "20261124-09:30:00.123");
    }
}
