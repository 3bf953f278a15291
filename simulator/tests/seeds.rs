//! Seeds that must pass, a seed that must repeat, and things broken on purpose that must be
//! noticed. `make sim` runs a hundred thousand seeds in a release build.

use simulator::world::{Bench, Sabotage};

#[test]
fn crashes_lose_and_invent_nothing() {
    let mut bench = Bench::new().unwrap();
    let mut orders = 0;
    for seed in 0..500 {
        orders += bench.run(seed).unwrap_or_else(|broken| panic!("SEED={seed}: {broken}")).orders;
    }
    assert!(orders > 2_000, "{orders} orders: too little was tried");
}

/// The seed that once had a run take a crashed run's records for its own.
#[test]
fn a_segment_numbered_twice_does_not_mix_runs() {
    Bench::new().unwrap().run(12_570).unwrap();
}

#[test]
fn a_seed_repeats() {
    let mut bench = Bench::new().unwrap();
    let (first, again) = (bench.run(3).unwrap(), bench.run(3).unwrap());
    assert_eq!((first.hash, first.orders), (again.hash, again.orders));
    assert_ne!(first.hash, bench.run(4).unwrap().hash);
}

#[test]
fn what_is_broken_on_purpose_is_noticed() {
    for (sabotage, words) in [
        (Sabotage::LyingDisk, ["were durable", ""]),
        (Sabotage::Amnesia, ["was used before", ""]),
        (Sabotage::HastyOrders, ["recorded under", ""]),
        // An order whose fill is not known is waited for, or the position differs.
        (Sabotage::LostFill, ["the exchange says", "stay open"]),
    ] {
        let mut bench = Bench::new().unwrap();
        let noticed = (0..300).find_map(|seed| bench.run_with(seed, sabotage).err());
        let noticed = noticed.unwrap_or_else(|| panic!("{sabotage:?} was not noticed"));
        let named = words.iter().any(|word| !word.is_empty() && noticed.contains(word));
        assert!(named, "{sabotage:?}: {noticed}");
    }
}
