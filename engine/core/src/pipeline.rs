//! Everything put together: an input and the time go in, bytes to send and counters come out. The same
//! inputs in the same order give the same outputs, byte for byte: live, in replay and in backtest.

use crate::arbiter::{Arbiter, Arrival};
use crate::counters::{Counter, Counters, Event};
use crate::desk::Desk;
use crate::market::{BookError, Change, InstrumentId, Market};
use crate::session::{Client, Incoming, Phase};
use crate::settings::Settings;
use crate::strategy::{Actions, Strategy, View};
use crate::touch::{BBO_HASH_EMPTY, Touch};
use abi::control::Orders as ControlOrders;
use abi::counters::{InstrumentView, State};
use abi::field::Side;
use abi::mold::{DATAGRAM_LEN_MAX, Packet, Request};
use abi::soup::LoginRejectReason;

/// Where a datagram came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Multicast line A.
    A,
    /// Multicast line B.
    B,
    /// The request server.
    Replay,
}

/// Whether an input changed the core. One that did not is not journaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It changed the core.
    Accepted,
    /// It changed nothing but a counter.
    Dropped,
}

/// A feed that is silent for so long while another session is heard is over: lines send a heartbeat
/// every second.
const SESSION_SILENCE_NS: u64 = 5_000_000_000;

/// The core of one hot thread.
pub struct Core<S> {
    settings: Settings,
    arbiter: Arbiter,
    market: Market,
    desk: Desk,
    session: Client,
    strategy: S,
    actions: Actions,
    /// What happened so far.
    pub counters: Counters,
    touch: Touch,
    control: ControlOrders,
    state: State,
    recovered: bool,
    fed: bool,
    feed_ended: bool,
    halted: bool,
    request: Option<Request>,
    reset: bool,
    rolled: bool,
    own_session_heard_at: u64,
    held: [u8; DATAGRAM_LEN_MAX],
}

impl<S: Strategy> Core<S> {
    /// A core that has heard nothing.
    pub fn new(settings: Settings, strategy: S) -> Self {
        let count = settings.instruments.len();
        Self {
            arbiter: Arbiter::new(settings.feed_session),
            market: Market::new(
                &settings.instruments,
                settings.book.orders_max,
                settings.book.levels_max,
            ),
            desk: Desk::new(&settings),
            session: Client::new(settings.login.clone()),
            strategy,
            actions: Actions::new(),
            counters: Counters::new(),
            touch: Touch::new(count),
            control: ControlOrders::default(),
            state: State::Recovering,
            recovered: false,
            fed: false,
            feed_ended: false,
            halted: false,
            request: None,
            reset: false,
            rolled: false,
            own_session_heard_at: 0,
            held: [0; DATAGRAM_LEN_MAX],
            settings,
        }
    }

    /// What the core is doing.
    pub fn state(&self) -> State {
        self.state
    }

    /// The books.
    pub fn market(&self) -> &Market {
        &self.market
    }

    /// Orders and positions.
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// The strategy.
    pub fn strategy(&self) -> &S {
        &self.strategy
    }

    /// Bytes for the order-entry connection; the rim sends and clears them after every input.
    pub fn session_out(&mut self) -> &mut Vec<u8> {
        self.desk.outbox()
    }

    /// A re-request for the request server, if one is due.
    pub fn take_request(&mut self) -> Option<Request> {
        self.request.take()
    }

    /// Whether the order-entry connection is to be closed and made anew.
    pub fn take_reset(&mut self) -> bool {
        std::mem::take(&mut self.reset)
    }

    /// Whether the exchange has started another session. Nothing of the old one counts any more: the
    /// process ends and starts anew.
    pub fn session_rolled(&self) -> bool {
        self.rolled
    }

    fn may_trade(&self) -> bool {
        self.state == State::Trading && self.arbiter.is_whole() && !self.feed_ended
    }

    /// A datagram came in.
    #[inline]
    pub fn on_feed(&mut self, line: Line, datagram: &[u8], now: u64) -> Verdict {
        let Ok(packet) = Packet::decode(datagram) else {
            self.counters.count(Counter::FeedPacketsMalformed);
            return Verdict::Dropped;
        };
        if self.own_session_heard_at == 0 {
            self.own_session_heard_at = now;
        }
        let before = self.arbiter.knowledge();
        let was_whole = self.arbiter.is_whole();
        let applied = self.place(&packet, datagram, now);
        if was_whole && !self.arbiter.is_whole() && self.fed {
            self.counters.count(Counter::FeedGaps);
            self.counters.raise(Event::FeedGap, self.arbiter.next());
        }
        self.ask_for_gap(now, line == Line::Replay && applied);
        // A heartbeat or a datagram that can't be kept is an input too if it taught us of a gap.
        if !applied && before == self.arbiter.knowledge() {
            return Verdict::Dropped;
        }
        self.after_feed(now);
        Verdict::Accepted
    }

    /// Applies, holds or drops a datagram; `true` if it was applied or held.
    fn place(&mut self, packet: &Packet<'_>, datagram: &[u8], now: u64) -> bool {
        let arrival = self.arbiter.on_packet(packet, datagram, now);
        if arrival != Arrival::Foreign {
            self.own_session_heard_at = now;
        }
        match arrival {
            Arrival::Apply { skip } => {
                self.apply(packet, skip, now);
                self.apply_held(now);
                return true;
            }
            Arrival::Held => {
                self.counters.count(Counter::FeedReordered);
                return true;
            }
            Arrival::Duplicate => self.counters.count(Counter::FeedPacketsDuplicate),
            Arrival::WindowFull => self.counters.count(Counter::FeedWindowFull),
            Arrival::Foreign => {
                self.counters.count(Counter::FeedPacketsMalformed);
                self.rolled |= now.saturating_sub(self.own_session_heard_at) > SESSION_SILENCE_NS;
            }
            Arrival::Ended if !self.feed_ended => {
                self.feed_ended = true;
                self.counters.raise(Event::FeedEnded, self.arbiter.next());
                return true;
            }
            Arrival::Ended => {}
        }
        false
    }

    fn apply(&mut self, packet: &Packet<'_>, skip: u16, now: u64) {
        self.counters.count(Counter::FeedPackets);
        for bytes in packet.messages().skip(usize::from(skip)) {
            self.apply_message(bytes);
        }
        let next = packet.header.sequence + u64::from(packet.message_count());
        self.arbiter.advance(next, now);
        self.counters.set(Counter::FeedSequence, next);
    }

    fn apply_held(&mut self, now: u64) {
        let mut held = self.held;
        while let Some(len) = self.arbiter.take_ready(&mut held) {
            let Ok(packet) = Packet::decode(&held[..len]) else { continue };
            let next = self.arbiter.next();
            if packet.header.sequence + u64::from(packet.message_count()) > next {
                self.apply(&packet, (next - packet.header.sequence) as u16, now);
            }
        }
    }

    #[inline]
    fn apply_message(&mut self, bytes: &[u8]) {
        self.counters.count(Counter::FeedMessages);
        let Self { market, touch, counters, strategy, .. } = self;
        let change = market.apply(bytes, |market, id| {
            touch.note(id, market.bbo(id), counters, strategy);
        });
        match change {
            Ok(Change::None | Change::MarketClosed) => {}
            Ok(Change::Status(id)) => self.touch.mark(id),
            Ok(Change::MarketOpened) => self.restart_bbo_sequence(),
            Err(BookError::Malformed) => self.counters.count(Counter::FeedMessagesMalformed),
            Err(BookError::UnknownOrder) => self.counters.count(Counter::BookUnknownOrder),
            Err(_) => self.counters.count(Counter::BookRefused),
        }
    }

    /// The sequence is that of the changes since market hours started.
    fn restart_bbo_sequence(&mut self) {
        self.touch.hash = BBO_HASH_EMPTY;
        self.counters.set(Counter::BboChanges, 0);
    }

    fn ask_for_gap(&mut self, now: u64, replayed: bool) {
        let (wait, retry) = (self.settings.gap_wait_ns, self.settings.request_retry_ns);
        if let Some(request) = self.arbiter.due_request(now, wait, retry, replayed) {
            self.request = Some(request);
            self.counters.count(Counter::FeedRequests);
        }
    }

    fn after_feed(&mut self, now: u64) {
        if self.arbiter.is_whole() && !self.fed {
            self.fed = true;
            self.counters.raise(Event::FeedWhole, self.arbiter.next());
        }
        self.settle(now);
        while let Some(id) = self.touch.take_changed() {
            if self.may_trade() {
                self.run(now, |strategy, view, actions| strategy.on_bbo(view, id, actions));
            }
        }
    }

    /// Calls the strategy and does what it asks for.
    #[inline]
    fn run(&mut self, now: u64, call: impl FnOnce(&mut S, &View<'_>, &mut Actions)) {
        self.actions.clear();
        let view = View { market: &self.market, now_ns: now, orders: &self.desk.orders };
        call(&mut self.strategy, &view, &mut self.actions);
        let mut at = 0;
        while let Some(intent) = self.actions.take(at) {
            self.desk.act(intent, &self.market, now, &mut self.counters);
            at += 1;
        }
    }

    /// The order-entry connection stands.
    pub fn on_session_connected(&mut self, now: u64) {
        self.recovered = false;
        self.session.connected(now, self.desk.outbox());
    }

    /// The order-entry connection is gone.
    pub fn on_session_lost(&mut self, now: u64) {
        if self.session.phase() == Phase::Up {
            self.counters.count(Counter::SessionDisconnects);
            self.counters.raise(Event::SessionDown, 0);
        }
        self.session.lost();
        self.recovered = false;
        self.desk.outbox().clear();
        self.settle(now);
    }

    /// Bytes came from the order-entry connection.
    pub fn on_session_bytes(&mut self, bytes: &[u8], now: u64) {
        if self.session.receive(bytes, now).is_err() {
            self.on_malformed();
            return;
        }
        loop {
            match self.session.next_incoming() {
                Ok(Incoming::Nothing) => break,
                Ok(incoming) => self.on_incoming(incoming, now),
                Err(_) => {
                    self.on_malformed();
                    break;
                }
            }
        }
        self.settle(now);
    }

    fn on_malformed(&mut self) {
        self.counters.count(Counter::SessionMalformed);
        let count = self.counters.get(Counter::SessionMalformed);
        self.counters.raise(Event::SessionMalformed, count);
        self.reset = true;
    }

    fn on_incoming(&mut self, incoming: Incoming, now: u64) {
        match incoming {
            Incoming::Nothing => {}
            Incoming::LoggedIn => {
                self.counters.count(Counter::SessionConnects);
                self.counters
                    .raise(Event::SessionUp, self.counters.get(Counter::SessionMessagesIn));
                self.desk.query_account();
            }
            Incoming::Refused(why) => {
                self.counters.count(Counter::SessionLoginRejected);
                self.counters.raise(Event::LoginRejected, why as u64);
                self.reset = true;
                self.rolled |= why == LoginRejectReason::SessionUnavailable;
            }
            Incoming::Message => self.on_ouch(now),
            Incoming::Idle if !self.recovered && self.desk.query_answered => {
                // The server sends a heartbeat when nothing is left to send: the backlog is over.
                self.recovered = true;
                self.desk.forget_unanswered();
            }
            Incoming::Idle => {}
            Incoming::Ended => self.recovered = false,
        }
    }

    fn on_ouch(&mut self, now: u64) {
        self.counters.count(Counter::SessionMessagesIn);
        let executed =
            self.desk.on_message(self.session.message(), &self.market, &mut self.counters);
        match executed {
            Ok(Some(execution)) if self.may_trade() => {
                self.run(now, |strategy, view, actions| {
                    strategy.on_execution(view, &execution, actions);
                });
            }
            Ok(_) => {}
            Err(_) => self.on_malformed(),
        }
    }

    /// The timer: about every 10 ms.
    pub fn on_tick(&mut self, now: u64) {
        self.ask_for_gap(now, false);
        if !self.session.tick(now, self.desk.outbox()) {
            self.reset = true;
        }
        self.settle(now);
        if self.may_trade() {
            self.run(now, |strategy, view, actions| strategy.on_timer(view, actions));
        }
        if !self.desk.outbox().is_empty() {
            self.session.note_sent(now);
        }
        self.publish();
    }

    /// The control page says something else.
    pub fn on_control(&mut self, orders: ControlOrders, now: u64) {
        self.control = orders;
        self.settle(now);
    }

    /// The rim can't go on (a journal write failed): nothing more is sent but cancels.
    pub fn halt(&mut self, now: u64) {
        self.halted = true;
        self.settle(now);
    }

    /// Moves to the state that follows from everything known, and does what it demands.
    fn settle(&mut self, now: u64) {
        let next = match () {
            () if self.halted => State::Halted,
            () if self.control.kill => State::Killed,
            () if self.control.drain => State::Draining,
            () if self.recovered && self.fed => State::Trading,
            () => State::Recovering,
        };
        let before = std::mem::replace(&mut self.state, next);
        let stopped = matches!(next, State::Halted | State::Killed | State::Draining);
        if stopped && self.session.phase() == Phase::Up {
            self.desk.cancel_all(now, &mut self.counters);
        }
        if before == next {
            return;
        }
        if next == State::Trading {
            self.counters
                .raise(Event::TradingStarted, self.counters.get(Counter::SessionMessagesIn));
            self.touch.mark_all();
        } else if before == State::Trading {
            self.counters.raise(Event::TradingStopped, next as u64);
        }
    }

    /// Brings the gauges up to date.
    fn publish(&mut self) {
        let allowed = self.may_trade();
        let views = self.market.instruments().map(|id| self.instrument_view(id));
        let (pnl, shares) = views.fold((0i64, 0i64), |(pnl, shares), view| {
            (pnl.saturating_add(view.pnl_ticks), shares.saturating_add(view.position))
        });
        let counters = &mut self.counters;
        counters.set(Counter::TradingAllowed, allowed.into());
        counters.set(Counter::BboHash, self.touch.hash);
        counters.set(Counter::BookOrders, self.market.orders_count() as u64);
        counters.set(Counter::OrdersOpen, self.desk.orders.open_count() as u64);
        counters.set(Counter::PnlTicks, pnl as u64);
        counters.set(Counter::Position, shares as u64);
    }

    /// An instrument as the counters page shows it; marked at the price at which it could be closed.
    pub fn instrument_view(&self, id: InstrumentId) -> InstrumentView {
        let bbo = self.market.bbo(id);
        let position = self.desk.orders.position(id);
        let side = if position.shares >= 0 { Side::Buy } else { Side::Sell };
        let shown = |quote: Option<crate::book::Quote>| quote.map(|q| (q.price, q.shares));
        InstrumentView {
            symbol: self.market.symbol(id),
            bid: shown(bbo.bid),
            ask: shown(bbo.ask),
            position: position.shares,
            pnl_ticks: position.pnl(bbo.side(side).map(|quote| quote.price)),
        }
    }
}
