//! Decoding never panics, never reads past the end, and gives back what was encoded. Seeded:
//! `SEED=n cargo test -p abi --test decoding` repeats a run.

use abi::field::Time48;
use abi::journal::{self, BLOCK_LEN, JournalError, Kind, Record, Segment};
use abi::ouch::appendage::Appendage;
use abi::ouch::{inbound, outbound};
use abi::{itch, mold, soup};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

const ROUNDS: usize = 20_000;

fn rng() -> ChaCha8Rng {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    eprintln!("SEED={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}

fn random_bytes(rng: &mut ChaCha8Rng, len_max: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.next_u64() as usize % (len_max + 1)];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Changes a few bytes, cuts, or lengthens: near-misses find more than noise does.
fn mangle(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.next_u32() % 3 {
        if !bytes.is_empty() {
            let at = rng.next_u64() as usize % bytes.len();
            bytes[at] = rng.next_u32() as u8;
        }
    }
    match rng.next_u32() % 4 {
        0 => bytes.truncate(rng.next_u64() as usize % (bytes.len() + 1)),
        1 => bytes.extend_from_slice(&[0; 3]),
        _ => {}
    }
}

/// For every message type: valid bytes of the right length decode, and encode to the same bytes.
/// `fix` puts listed codes where random bytes would not be one.
macro_rules! round_trip {
    ($protocol:path, $fix:expr) => {{
        use $protocol as Protocol;
        let mut rng = rng();
        for &(kind, len) in Protocol::KINDS {
            let mut decoded = 0;
            for _ in 0..2_000 {
                let mut bytes = vec![0; len];
                rng.fill_bytes(&mut bytes);
                bytes[0] = kind;
                $fix(&mut bytes);
                let Ok(message) = Protocol::decode_prefix(&bytes) else { continue };
                decoded += 1;
                let mut again = Vec::new();
                message.encode_to(&mut again);
                assert_eq!(again, bytes, "{message:?}");
                for end in 0..len {
                    assert!(
                        Protocol::decode_prefix(&bytes[..end]).is_err(),
                        "{message:?} cut at {end}"
                    );
                }
            }
            assert!(decoded > 0, "no bytes decoded as message {:?}", char::from(kind));
        }
    }};
}

#[test]
fn every_itch_message_round_trips() {
    let fix_side = |bytes: &mut Vec<u8>| {
        if b"AFP".contains(&bytes[0]) {
            bytes[19] = b'B';
        }
    };
    round_trip!(itch::Message, fix_side);
    assert_eq!(itch::Message::KINDS.len(), 23);
}

#[test]
fn every_ouch_inbound_message_round_trips() {
    let fix_codes = |bytes: &mut Vec<u8>| match bytes[0] {
        b'O' => {
            bytes[5] = b'T';
            bytes[26..29].copy_from_slice(b"3YP");
            bytes[30] = b'N';
        }
        b'U' => bytes[21..23].copy_from_slice(b"0N"),
        b'M' => bytes[5] = b'E',
        _ => {}
    };
    round_trip!(inbound::Message, fix_codes);
    assert_eq!(inbound::Message::KINDS.len(), 8);
}

#[test]
fn every_ouch_outbound_message_round_trips() {
    let fix_codes = |bytes: &mut Vec<u8>| match bytes[0] {
        b'A' => {
            bytes[13] = b'B';
            bytes[34..36].copy_from_slice(b"0Y");
            bytes[44] = b'P';
            bytes[46..48].copy_from_slice(b"NL");
        }
        b'U' => {
            bytes[17] = b'S';
            bytes[38..40].copy_from_slice(b"6A");
            bytes[48] = b'R';
            bytes[50..52].copy_from_slice(b"OD");
        }
        b'T' => bytes[21] = b'Z',
        b'M' => bytes[13] = b'S',
        _ => {}
    };
    round_trip!(outbound::Message, fix_codes);
    assert_eq!(outbound::Message::KINDS.len(), 17);
}

#[test]
fn noise_is_never_more_than_an_error() {
    let mut rng = rng();
    for _ in 0..ROUNDS {
        let mut bytes = random_bytes(&mut rng, 200);
        if let (Some(first), true) = (bytes.first_mut(), rng.next_u32().is_multiple_of(2)) {
            *first = b"SRHYLVWKJhAFECXDUPQBINOMGT"[rng.next_u32() as usize % 26];
        }
        let _ = itch::Message::decode(&bytes);
        let _ = inbound::Message::decode(&bytes);
        let _ = outbound::Message::decode(&bytes);
        let _ = Appendage::decode(&bytes).map(|appendage| appendage.iter().count());
        let _ = soup::Packet::decode(&bytes);
        let _ = mold::Packet::decode(&bytes).map(|packet| packet.messages().count());
        let _: Vec<_> = itch::Framed::new(&bytes).collect();
    }
}

#[test]
fn a_mangled_datagram_never_gives_more_messages_than_it_announces() {
    let mut rng = rng();
    for _ in 0..ROUNDS {
        let mut builder = mold::PacketBuilder::new(mold::Session::BLANK, rng.next_u64());
        for _ in 0..rng.next_u32() % 6 {
            builder.push(&random_bytes(&mut rng, 60));
        }
        let mut datagram = builder.finish();
        mangle(&mut rng, &mut datagram);
        if let Ok(packet) = mold::Packet::decode(&datagram) {
            assert_eq!(packet.messages().count(), usize::from(packet.message_count()));
        }
    }
}

fn segment_with(records: &[(Kind, Vec<u8>)]) -> Vec<u8> {
    let header = journal::Header { segment: 3, run: 9 };
    let mark = header.mark();
    let mut file = header.encode().to_vec();
    for (index, (kind, payload)) in records.iter().enumerate() {
        let at = file.len();
        let record = Record { kind: *kind, sequence: index as u64 + 1, time_ns: 5, payload };
        file.resize(at + journal::record_len(payload.len()), 0xee);
        journal::encode_record(&record, mark, &mut file[at..]);
        if index % 3 == 2 {
            let end = file.len().next_multiple_of(BLOCK_LEN);
            let at = file.len();
            file.resize(end, 0xee);
            journal::encode_pad(&mut file[at..], mark);
        }
    }
    let end = file.len().next_multiple_of(BLOCK_LEN);
    let at = file.len();
    file.resize(end, 0xee);
    journal::encode_pad(&mut file[at..], mark);
    file.resize(file.len() + BLOCK_LEN, 0);
    file
}

#[test]
fn journal_records_round_trip_over_batches() {
    let mut rng = rng();
    let kinds = [Kind::FeedA, Kind::SessionBytes, Kind::Tick, Kind::SessionSent];
    for _ in 0..200 {
        let count = rng.next_u32() % 40;
        let records: Vec<_> = (0..count)
            .map(|_| (kinds[rng.next_u32() as usize % 4], random_bytes(&mut rng, 1500)))
            .collect();
        let file = segment_with(&records);
        let read: Vec<_> = Segment::open(&file).unwrap().map(Result::unwrap).collect();
        assert_eq!(read.len(), records.len());
        for (index, (record, (kind, payload))) in read.iter().zip(&records).enumerate() {
            assert_eq!((record.kind, record.payload), (*kind, &payload[..]));
            assert_eq!((record.sequence, record.time_ns), (index as u64 + 1, 5));
        }
    }
}

#[test]
fn a_flipped_bit_in_a_record_is_named_by_its_offset() {
    let file = segment_with(&[(Kind::FeedA, vec![1; 100]), (Kind::Tick, vec![])]);
    let second = BLOCK_LEN + journal::record_len(100);
    for at in [second + 1, second + 13, second + 20] {
        let mut bad = file.clone();
        bad[at] ^= 1;
        let last = Segment::open(&bad).unwrap().last().unwrap();
        assert_eq!(last, Err(JournalError::Checksum { offset: second }), "byte {at}");
    }
    let mut bad = file;
    bad[3] ^= 1;
    assert!(matches!(Segment::open(&bad), Err(JournalError::Header(_))));
}

#[test]
fn a_mangled_segment_is_never_more_than_an_error() {
    let mut rng = rng();
    let file = segment_with(&[(Kind::FeedA, vec![1; 100]), (Kind::FeedB, vec![2; 5000])]);
    for _ in 0..ROUNDS / 10 {
        let mut bad = file.clone();
        mangle(&mut rng, &mut bad);
        if let Ok(segment) = Segment::open(&bad) {
            let _: Vec<_> = segment.collect();
        }
    }
}

#[test]
fn time_stamps_are_found_without_decoding() {
    let event = itch::SystemEvent {
        stock_locate: 0,
        tracking_number: 0,
        timestamp: Time48::new(99).unwrap(),
        event_code: b'O',
    };
    assert_eq!(itch::timestamp_of(&event.to_bytes()), Time48::new(99));
    assert_eq!(itch::timestamp_of(&[0; 10]), None);
}
