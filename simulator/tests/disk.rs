//! A disk that fails, writes half, or does not answer, while the engine trades.

use abi::counters::State;
use engine::config::Durability;
use simulator::disk::Failure;
use simulator::world::Bench;

#[test]
fn a_failed_or_short_write_cancels_everything_and_stops_trading_for_good() {
    for failure in [Failure::Error, Failure::Short] {
        for durability in [Durability::Async, Durability::DurableBeforeSend] {
            let mut bench = Bench::new().unwrap();
            let [failed, well] = bench.run_failing(5, durability, failure).unwrap();
            let what = format!("{failure:?} {durability:?}: {failed:?}");
            assert!(failed.errors > 0 && failed.live == 0, "{what}");
            assert_eq!(failed.state, State::Halted, "{what}");
            assert_eq!((well.state, well.orders), (State::Halted, failed.orders), "{well:?}");
        }
    }
}

#[test]
fn a_disk_that_does_not_answer_holds_everything_up_and_nothing_is_lost() {
    for durability in [Durability::Async, Durability::DurableBeforeSend] {
        let mut bench = Bench::new().unwrap();
        let [silent, well] = bench.run_failing(6, durability, Failure::Silence).unwrap();
        assert!(silent.errors == 0 && silent.stalled > 0, "{silent:?}");
        assert_eq!(well.state, State::Trading, "{well:?}");
        assert!(well.orders > silent.orders, "it does not trade on: {well:?}");
    }
}
