//! After construction the core allocates nothing, and the same inputs give the same outputs. A
//! seeded market moves, a model of the exchange answers every order; the allocator counts. `SEED=n
//! cargo test -p engine-core --test steady` repeats a run.
#![allow(clippy::disallowed_methods, reason = "a test reads its seed and its recording")]
#![allow(unsafe_code, reason = "a counting global allocator")]

use abi::field::{Alpha, Price, Side, Symbol, Time48};
use abi::itch::{AddOrder, Message, OrderDelete, StockDirectory, SystemEvent, TradingAction};
use abi::mold::{PacketBuilder, Session};
use abi::ouch::outbound::{self, Accepted, AccountQueryResponse, Canceled, Executed, Replaced};
use abi::ouch::{OrderState, inbound};
use abi::soup::{LoginAccepted, Packet};
use engine_core::counters::Counter;
use engine_core::maker::{Maker, MakerSettings};
use engine_core::pipeline::{Core, Line};
use engine_core::settings::{BookLimits, Login, RiskLimits, Settings};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches a
// const-initialised thread-local, which does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of GlobalAlloc, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

fn symbol() -> Symbol {
    Symbol::new("AAPL").unwrap()
}

fn core() -> Core<Maker> {
    let risk = RiskLimits {
        order_shares_max: 1_000,
        lot_shares: 1,
        gross_notional_max: 100_000_000,
        net_notional_max: 100_000_000,
        duplicate_window_ns: 0,
        feed_age_max_ns: 1_000_000_000,
        rejects_in_a_row_max: 5,
        loss_max: 100_000_000,
        order_notional_max: 1_000_000,
        price_collar_bps: 500,
        position_shares_max: 5_000,
        orders_open_max: 64,
        messages_per_second_max: 100_000,
    };
    let book = BookLimits { orders_max: 100_000, levels_max: 1_024 };
    let settings =
        Settings::new(vec![symbol()], risk, &[], Login::new("user", "pass").unwrap(), None, book)
            .unwrap();
    let maker = MakerSettings {
        quote_shares: 100,
        inventory_shares_max: 1_000,
        requote_interval_ns: 1_000,
    };
    Core::new(settings, Maker::new(maker, 1))
}

/// Packets of a market whose touch wanders, made before anything is counted.
fn feed(seed: u64, count: u64) -> Vec<Vec<u8>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let timestamp = Time48::new(1).unwrap();
    let (stock_locate, tracking_number, stock) = (1, 0, symbol());
    let mut messages = vec![
        Message::SystemEvent(SystemEvent {
            stock_locate: 0,
            tracking_number,
            timestamp,
            event_code: b'O',
        }),
        Message::StockDirectory(
            StockDirectory::decode(&{
                let mut bytes = [b' '; StockDirectory::LEN];
                bytes[..5].copy_from_slice(&[b'R', 0, 1, 0, 0]);
                bytes[11..19].copy_from_slice(&stock.0);
                bytes
            })
            .unwrap(),
        ),
        Message::TradingAction(TradingAction {
            stock_locate,
            tracking_number,
            timestamp,
            stock,
            trading_state: b'T',
            reserved: b' ',
            reason: Alpha::BLANK,
        }),
    ];
    let mut resting: Vec<u64> = Vec::new();
    for order_ref in 1..count {
        let side = if rng.next_u32().is_multiple_of(2) { Side::Buy } else { Side::Sell };
        let distance = 100 * (1 + rng.next_u32() % 20);
        let price =
            Price(if side == Side::Buy { 1_000_000 - distance } else { 1_000_000 + distance });
        let shares = 100 * (1 + rng.next_u32() % 5);
        messages.push(Message::AddOrder(AddOrder {
            stock_locate,
            tracking_number,
            timestamp,
            order_ref,
            side,
            shares,
            stock,
            price,
        }));
        resting.push(order_ref);
        if resting.len() > 50 {
            let order_ref = resting.swap_remove(rng.next_u32() as usize % resting.len());
            messages.push(Message::OrderDelete(OrderDelete {
                stock_locate,
                tracking_number,
                timestamp,
                order_ref,
            }));
        }
    }
    let session = Session::new("DAY").unwrap();
    let mut packets = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let mut builder = PacketBuilder::new(session, index as u64 + 1);
        let mut bytes = Vec::new();
        message.encode_to(&mut bytes);
        assert!(builder.push(&bytes));
        packets.push(builder.finish());
    }
    packets
}

/// A model of the exchange: accepts everything, fills every seventh order at once.
struct Exchange {
    answers: Vec<u8>,
    message: Vec<u8>,
    count: u64,
    /// Sides of the orders, by number.
    sides: Vec<abi::ouch::Side>,
}

impl Exchange {
    fn answer(&mut self, message: &outbound::Message) {
        self.message.clear();
        message.encode_with(&[], &mut self.message);
        Packet::Sequenced(&self.message).encode_to(&mut self.answers);
    }

    fn fill_every_seventh(&mut self, user_ref_num: u32, quantity: u32, price: abi::ouch::Price) {
        if self.count.is_multiple_of(7) {
            let (timestamp, liquidity_flag, match_number) = (1, b'A', self.count);
            self.answer(&outbound::Message::Executed(Executed {
                timestamp,
                user_ref_num,
                quantity,
                price,
                liquidity_flag,
                match_number,
            }));
        }
    }

    fn remember(&mut self, user_ref: u32, side: abi::ouch::Side) -> abi::ouch::Side {
        self.sides[user_ref as usize] = side;
        side
    }

    fn take(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((packet, len)) = Packet::decode(rest).unwrap() {
            rest = &rest[len..];
            match packet {
                Packet::LoginRequest(_) => {
                    let login = LoginAccepted {
                        session: Session::new("DAY").unwrap(),
                        sequence: Alpha([b' '; 20]),
                    };
                    let mut sequence = login.sequence;
                    sequence.0[19] = b'1';
                    Packet::LoginAccepted(LoginAccepted { sequence, ..login })
                        .encode_to(&mut self.answers);
                }
                Packet::Unsequenced(message) => {
                    self.order(inbound::Message::decode(message).unwrap().0)
                }
                _ => {}
            }
        }
    }

    fn order(&mut self, message: inbound::Message) {
        self.count += 1;
        let (timestamp, order_state) = (1, OrderState::Live);
        match message {
            inbound::Message::EnterOrder(m) => {
                let side = self.remember(m.user_ref_num, m.side);
                self.answer(&outbound::Message::Accepted(Accepted {
                    timestamp,
                    user_ref_num: m.user_ref_num,
                    side,
                    quantity: m.quantity,
                    symbol: m.symbol,
                    price: m.price,
                    time_in_force: m.time_in_force,
                    display: m.display,
                    order_ref: self.count,
                    capacity: m.capacity,
                    intermarket_sweep: m.intermarket_sweep,
                    cross_type: m.cross_type,
                    order_state,
                    cl_ord_id: m.cl_ord_id,
                }));
                self.fill_every_seventh(m.user_ref_num, m.quantity, m.price);
            }
            inbound::Message::ReplaceOrder(m) => {
                let side = self.remember(m.user_ref_num, self.sides[m.orig_user_ref_num as usize]);
                self.answer(&outbound::Message::Replaced(Replaced {
                    timestamp,
                    orig_user_ref_num: m.orig_user_ref_num,
                    user_ref_num: m.user_ref_num,
                    side,
                    quantity: m.quantity,
                    symbol: symbol(),
                    price: m.price,
                    time_in_force: m.time_in_force,
                    display: m.display,
                    order_ref: self.count,
                    capacity: abi::ouch::Capacity::Principal,
                    intermarket_sweep: b'N',
                    cross_type: abi::ouch::CrossType::Continuous,
                    order_state,
                    cl_ord_id: m.cl_ord_id,
                }));
                self.fill_every_seventh(m.user_ref_num, m.quantity, m.price);
            }
            inbound::Message::CancelOrder(m) => {
                self.answer(&outbound::Message::Canceled(Canceled {
                    timestamp,
                    user_ref_num: m.user_ref_num,
                    quantity: 1_000_000,
                    reason: b'U',
                }));
            }
            inbound::Message::AccountQuery(_) => {
                self.answer(&outbound::Message::AccountQueryResponse(AccountQueryResponse {
                    timestamp,
                    next_user_ref_num: 1,
                }));
                Packet::ServerHeartbeat.encode_to(&mut self.answers);
            }
            other => panic!("the maker does not send {other:?}"),
        }
    }
}

struct Run {
    hash: u64,
    orders: u64,
    executions: u64,
    allocations: u64,
}

fn run(seed: u64) -> Run {
    let packets = feed(seed, 60_000);
    let mut core = core();
    let mut exchange = Exchange {
        answers: Vec::with_capacity(1 << 20),
        message: Vec::with_capacity(1 << 10),
        count: 0,
        sides: vec![abi::ouch::Side::Buy; 1 << 20],
    };
    let mut sent = Vec::with_capacity(1 << 20);
    let mut hash = 0u64;
    let before = allocations();
    core.on_session_connected(1);
    for (index, packet) in packets.iter().enumerate() {
        let now = 1_000_000 * (index as u64 + 1);
        core.on_feed(Line::A, packet, now);
        core.on_feed(Line::B, packet, now);
        if index.is_multiple_of(10) {
            core.on_tick(now);
        }
        while !core.session_out().is_empty() {
            sent.clear();
            sent.extend_from_slice(core.session_out());
            core.session_out().clear();
            hash = sent
                .iter()
                .fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
            exchange.answers.clear();
            exchange.take(&sent);
            core.on_session_bytes(&exchange.answers, now);
        }
        core.counters.drain_events().for_each(drop);
    }
    let allocations = allocations() - before;
    assert_eq!(core.counters.get(Counter::SessionMalformed), 0);
    Run {
        hash,
        orders: core.counters.get(Counter::OrdersSent),
        executions: core.counters.get(Counter::Executions),
        allocations,
    }
}

#[test]
fn nothing_is_allocated_while_trading_and_a_run_repeats() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(3);
    eprintln!("SEED={seed}");
    let first = run(seed);
    assert!(
        first.orders > 100 && first.executions > 10,
        "{} orders, {} executions: too little was tried",
        first.orders,
        first.executions
    );
    assert_eq!(first.allocations, 0);
    assert_eq!(run(seed).hash, first.hash);
    assert_ne!(run(seed + 1).hash, first.hash);
}

#[test]
fn the_allocator_counts() {
    let before = allocations();
    drop(std::hint::black_box(vec![1u8; 100]));
    assert_eq!(allocations() - before, 1);
}
