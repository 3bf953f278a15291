//! Everything put together: an input and the time go in, bytes to send and counters come out. The
//! same inputs in the same order give the same outputs, byte for byte: live, in replay and in
//! backtest.

use crate::arbiter::Arbiter;
use crate::bbo_changes::Touch;
use crate::counters::{Counter, Counters, Event};
use crate::market::{InstrumentId, Market};
use crate::order_entry::{Answer, Moment, OrderEntry};
use crate::settings::{RiskLimits, Settings};
use crate::soup_session::{Client, Incoming, Phase};
use crate::strategy::{Actions, Strategy, View};
use abi::control::Orders as ControlOrders;
use abi::counters::{InstrumentView, State};
use abi::journal::{Recovery, Refused, StopReason};
use abi::mold::{DATAGRAM_LEN_MAX, Request, Session};
use abi::soup::LoginRejectReason;
use snapshot::Snapshot;

mod feed;
mod snapshot;

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
    /// Input that changed the core.
    Accepted,
    /// Input that changed nothing but a counter.
    Dropped,
}

/// A feed that is silent for so long while another session is heard is over: lines send a heartbeat
/// every second.
const SESSION_SILENCE_NS: u64 = 5_000_000_000;

/// Between two attempts to cancel an order whose cancel the exchange refused.
const CANCEL_RETRY_NS: u64 = 1_000_000_000;

/// Stops that one input may cause.
const STOPS_MAX: usize = 8;

/// The core of one hot thread.
pub struct Core<S> {
    settings: Settings,
    arbiter: Arbiter,
    market: Market,
    order_entry: OrderEntry,
    session: Client,
    snapshot: Option<Snapshot>,
    strategy: S,
    actions: Actions,
    /// Counters and events so far.
    pub counters: Counters,
    touch: Touch,
    control: ControlOrders,
    state: State,
    recovered: bool,
    fed: bool,
    feed_ended: bool,
    stopped: Option<StopReason>,
    /// Stops that the rim has not recorded yet.
    stops: Vec<StopReason>,
    recovery: Recovery,
    cancels_retried_at: u64,
    request: Option<Request>,
    reset: bool,
    rolled: bool,
    own_session_heard_at: u64,
    /// The last sign of life of the feed that was recorded.
    feed_heard_at: u64,
    /// A book missed a message: orders in its instrument are cancelled.
    is_unsound: bool,
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
            order_entry: OrderEntry::new(&settings),
            session: Client::new(settings.login.clone()),
            snapshot: settings.snapshot.clone().map(Snapshot::new),
            strategy,
            actions: Actions::new(),
            counters: Counters::new(),
            touch: Touch::new(count),
            control: ControlOrders::default(),
            state: State::Recovering,
            recovered: false,
            fed: false,
            feed_ended: false,
            stopped: None,
            stops: Vec::with_capacity(STOPS_MAX),
            recovery: Recovery::default(),
            cancels_retried_at: 0,
            request: None,
            reset: false,
            rolled: false,
            own_session_heard_at: 0,
            feed_heard_at: 0,
            is_unsound: false,
            held: [0; DATAGRAM_LEN_MAX],
            settings,
        }
    }

    /// Returns the state of the core.
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns the books and statuses of all instruments.
    pub fn market(&self) -> &Market {
        &self.market
    }

    /// Orders and positions.
    pub fn order_entry(&self) -> &OrderEntry {
        &self.order_entry
    }

    /// Returns the strategy that the core runs.
    pub fn strategy(&self) -> &S {
        &self.strategy
    }

    /// Bytes for the order-entry connection; the rim sends and clears them after every input.
    pub fn session_out(&mut self) -> &mut Vec<u8> {
        self.order_entry.outbox()
    }

    /// A re-request for the request server, if one is due.
    pub fn take_request(&mut self) -> Option<Request> {
        self.request.take()
    }

    /// Whether the order-entry connection is to be closed and made anew.
    pub fn take_reset(&mut self) -> bool {
        std::mem::take(&mut self.reset)
    }

    /// Whether the exchange has started another session. Nothing of the old one counts any more:
    /// the process ends and starts anew.
    pub fn session_rolled(&self) -> bool {
        self.rolled
    }

    fn may_trade(&self) -> bool {
        // The state follows a stop only at the end of an input.
        self.state == State::Trading
            && self.stopped.is_none()
            && self.arbiter.is_whole()
            && !self.feed_ended
    }

    /// Calls the strategy and does what it asks for, if it may trade now.
    #[inline]
    fn run(&mut self, now: u64, call: impl FnOnce(&mut S, &View<'_>, &mut Actions)) {
        self.actions.clear();
        let may_act = self.may_trade();
        let (market, orders) = (&self.market, &self.order_entry.orders);
        let view = View { market, now_ns: now, may_act, orders };
        call(&mut self.strategy, &view, &mut self.actions);
        if !may_act {
            return;
        }
        let refused_before = self.order_entry.refusals().len();
        let feed_heard_at = self.feed_heard_at;
        let moment = Moment { market: &self.market, now, feed_heard_at };
        let mut at = 0;
        while let Some(intent) = self.actions.take(at) {
            self.order_entry.act(intent, moment, &mut self.counters);
            at += 1;
        }
        for refused in &self.order_entry.refusals()[refused_before..] {
            let (market, orders) = (&self.market, &self.order_entry.orders);
            let view = View { market, now_ns: now, may_act, orders };
            self.strategy.on_refused(&view, refused);
        }
    }

    /// The order-entry connection stands.
    pub fn on_session_connected(&mut self, now: u64) {
        self.recovered = false;
        self.session.connected(now, self.order_entry.outbox());
    }

    /// The order-entry connection is gone.
    pub fn on_session_lost(&mut self, now: u64) {
        if self.session.phase() == Phase::Up {
            self.counters.count(Counter::SessionDisconnects);
            self.counters.raise(Event::SessionDown, 0);
        }
        self.session.lost();
        self.recovered = false;
        self.order_entry.outbox().clear();
        self.update_state(now);
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
        self.update_state(now);
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
                if self.session.session().0 == self.recovery.session {
                    self.order_entry.recover(&self.recovery);
                }
                self.order_entry.query_account();
            }
            Incoming::Refused(why) => {
                self.counters.count(Counter::SessionLoginRejected);
                self.counters.raise(Event::LoginRejected, why as u64);
                self.reset = true;
                self.session.refused(now);
                // One that was never there is not open yet.
                let was_in = self.session.session() != Session::BLANK;
                self.rolled |= was_in && why == LoginRejectReason::SessionUnavailable;
            }
            Incoming::Message => self.on_ouch(now),
            Incoming::Idle if !self.recovered && self.order_entry.query_answered => {
                // The server sends a heartbeat when nothing is left to send: the backlog is over.
                self.recovered = true;
                self.order_entry.risk.forgive();
                self.order_entry.forget_unanswered();
                let same = self.session.session().0 == self.recovery.session;
                if same && self.session.received() < self.recovery.messages {
                    self.stop(StopReason::ExchangeForgot);
                }
            }
            Incoming::Idle => {}
            Incoming::Ended => self.recovered = false,
        }
    }

    fn on_ouch(&mut self, now: u64) {
        self.counters.count(Counter::SessionMessagesIn);
        let answer =
            self.order_entry.on_message(self.session.message(), &self.market, &mut self.counters);
        match answer {
            Ok(Answer::Execution(execution)) => {
                self.run(now, |strategy, view, actions| {
                    strategy.on_execution(view, &execution, actions);
                });
            }
            // What is replayed at a login was dealt with when it happened.
            Ok(Answer::Stop(StopReason::Rejects)) if !self.recovered => {}
            Ok(Answer::Stop(reason)) => self.stop(reason),
            Ok(Answer::Nothing) => {}
            Err(_) => self.on_malformed(),
        }
        if let Some(update) = self.order_entry.take_update() {
            self.run(now, |strategy, view, actions| strategy.on_order(view, &update, actions));
        }
    }

    /// The timer: about every 10 ms.
    pub fn on_tick(&mut self, now: u64) {
        self.ask_for_gap(now, false);
        self.consider_snapshot(now);
        if !self.session.tick(now, self.order_entry.outbox()) {
            self.reset = true;
        }
        if now.saturating_sub(self.cancels_retried_at) >= CANCEL_RETRY_NS {
            self.cancels_retried_at = now;
            self.order_entry.retry_cancels();
            if self.session.phase() == Phase::Up {
                self.order_entry.confirm_mass_cancel(now, &mut self.counters);
            }
        }
        self.publish();
        self.update_state(now);
        if self.may_trade() {
            self.run(now, |strategy, view, actions| strategy.on_timer(view, actions));
        }
        if !self.order_entry.outbox().is_empty() {
            self.session.note_sent(now);
        }
    }

    /// The control page says something else. An operator who asks for neither kill nor drain also
    /// lets trading go on after a stop, but for one whose cause is still there.
    pub fn on_control(&mut self, orders: ControlOrders, now: u64) {
        if orders.resume && self.stopped != Some(StopReason::Journal) {
            self.stopped = None;
            self.order_entry.risk.forgive();
        }
        if orders.agent_silent && !self.control.agent_silent {
            self.counters.raise(Event::Stopped, StopReason::AgentSilent as u64);
        }
        self.control = orders;
        self.update_state(now);
    }

    /// Other risk limits are to be in force. Words that are no limits change nothing.
    pub fn on_limits(&mut self, words: &[u64; RiskLimits::WORDS]) {
        let (counter, event) = match RiskLimits::from_words(words) {
            Ok(limits) => {
                self.order_entry.risk.set_limits(limits);
                (Counter::LimitsLoads, Event::LimitsLoaded)
            }
            Err(_) => (Counter::LimitsRefused, Event::LimitsRefused),
        };
        self.counters.count(counter);
        self.counters.raise(event, self.counters.get(counter));
    }

    /// Returns the progress of the run, for the recovery of a later run.
    pub fn context(&self) -> Recovery {
        Recovery {
            session: self.session.session().0,
            messages: self.session.received(),
            user_ref_max: self.order_entry.user_ref_max(),
            stopped: match self.stopped {
                Some(StopReason::Journal) | None => self.control.kill.then_some(StopReason::Killed),
                stopped => stopped,
            },
        }
    }

    /// Takes the recovery from earlier runs' journal; called before any other input. A stop that
    /// nobody has lifted stops this run too.
    pub fn on_recovered(&mut self, recovery: Recovery) {
        self.recovery = recovery;
        if let Some(reason) = recovery.stopped {
            self.stop(reason);
        }
    }

    /// The rim can't go on (a journal write failed): nothing more is sent but cancels.
    pub fn halt(&mut self, now: u64) {
        self.stop(StopReason::Journal);
        self.update_state(now);
    }

    /// Sends nothing more but cancels, until an operator lets it go on.
    fn stop(&mut self, reason: StopReason) {
        if self.stopped.is_none() {
            self.stopped = Some(reason);
            self.counters.raise(Event::Stopped, reason as u64);
            if self.stops.len() < STOPS_MAX {
                self.stops.push(reason);
            }
        }
    }

    /// The stops since the last call, for the journal.
    pub fn take_stops(&mut self) -> impl Iterator<Item = StopReason> + '_ {
        self.stops.drain(..)
    }

    /// The orders that risk refused since the last call, for the journal.
    pub fn take_refusals(&mut self) -> impl Iterator<Item = Refused> + '_ {
        self.order_entry.take_refusals()
    }

    /// Moves to the state that follows from everything known, and does what it demands.
    fn update_state(&mut self, now: u64) {
        let next = match () {
            () if self.stopped.is_some_and(|reason| reason != StopReason::Killed) => State::Halted,
            () if self.control.kill || self.control.agent_silent || self.stopped.is_some() => {
                State::Killed
            }
            () if self.control.drain => State::Draining,
            () if self.recovered && self.fed => State::Trading,
            () => State::Recovering,
        };
        let before = std::mem::replace(&mut self.state, next);
        let stopped = matches!(next, State::Halted | State::Killed | State::Draining);
        if stopped && self.session.phase() == Phase::Up {
            self.order_entry.cancel_all(now, &mut self.counters);
        }
        if self.is_unsound && self.session.phase() == Phase::Up {
            self.order_entry.cancel_unsound(&self.market, now, &mut self.counters);
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

    /// Brings the gauges up to date, and stops trading if the loss is as large as it may be.
    fn publish(&mut self) {
        let (mut pnl, mut shares) = (0i64, 0i64);
        for id in self.market.instruments() {
            pnl = pnl.saturating_add(self.order_entry.pnl(id, &self.market));
            shares = shares.saturating_add(self.order_entry.orders.position(id).shares);
        }
        if self.order_entry.risk.is_lost(pnl) {
            self.stop(StopReason::Loss);
        }
        let allowed = self.may_trade();
        let counters = &mut self.counters;
        counters.set(Counter::TradingAllowed, allowed.into());
        counters.set(Counter::BboHash, self.touch.hash);
        counters.set(Counter::BookOrders, self.market.orders_count() as u64);
        counters.set(Counter::OrdersOpen, self.order_entry.orders.open_count() as u64);
        counters.set(Counter::PnlTicks, pnl as u64);
        counters.set(Counter::Position, shares as u64);
    }

    /// An instrument as the counters page shows it; marked at the price at which it could be
    /// closed.
    pub fn instrument_view(&self, id: InstrumentId) -> InstrumentView {
        let bbo = self.market.bbo(id);
        let shown = |quote: Option<crate::book::Quote>| quote.map(|q| (q.price, q.shares));
        InstrumentView {
            symbol: self.market.symbol(id),
            bid: shown(bbo.bid),
            ask: shown(bbo.ask),
            position: self.order_entry.orders.position(id).shares,
            pnl_ticks: self.order_entry.pnl(id, &self.market),
        }
    }
}
