//! The page as a reader sees it.

use super::*;

fn page() -> (CountersPage, CountersPage, tempfile::TempPath) {
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let engine = CountersPage::create(&path).unwrap();
    (engine, CountersPage::open(&path).unwrap(), path)
}

#[test]
fn readers_see_what_the_engine_wrote() {
    let (engine, reader, _path) = page();
    engine.add(Counter::Executions, 2);
    engine.set(Counter::PnlTicks, -5i64 as u64);
    let view = InstrumentView {
        symbol: Symbol::new("AAPL").unwrap(),
        bid: Some((Price(5_853_300), 18)),
        ask: None,
        position: -100,
        pnl_ticks: -7,
    };
    engine.show_instrument(0, &view);
    assert_eq!(reader.get(Counter::Executions), 2);
    assert_eq!(reader.get(Counter::PnlTicks) as i64, -5);
    assert_eq!(reader.instruments(), [view]);
}

#[test]
fn the_event_ring_forgets_the_oldest() {
    let (engine, reader, _path) = page();
    for value in 0..EVENTS_KEPT as u64 + 1 {
        engine.raise(Event::FeedGap, value);
    }
    assert_eq!(reader.event(0), None);
    assert_eq!(reader.event(1), Some((Event::FeedGap, 1)));
    assert_eq!(reader.event(EVENTS_KEPT as u64 + 1), None);
}

#[test]
fn ids_and_names_are_unique() {
    let mut seen = std::collections::HashSet::new();
    assert!(Counter::ALL.iter().all(|c| seen.insert(c.metric())));
}
