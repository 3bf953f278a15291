//! Where an order of ours stands between us and the exchange: the states, what moves them, and the
//! table of all moves. The table is data, so that the tests walk all of it and the guide shows it.

/// Where an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Sent, not answered.
    PendingNew,
    /// Accepted, nothing executed.
    Live,
    /// Accepted, executed in part.
    PartiallyFilled,
    /// A replacement was sent.
    PendingReplace,
    /// A cancel was sent; a replacement may be on its way before it.
    PendingCancel,
    /// Executed whole. The order is gone.
    Filled,
    /// Cancelled, whole or the rest. The order is gone.
    Cancelled,
    /// Refused by the exchange. The order is gone.
    Rejected,
}

impl State {
    /// List of all states.
    pub const ALL: [Self; 8] = [
        Self::PendingNew,
        Self::Live,
        Self::PartiallyFilled,
        Self::PendingReplace,
        Self::PendingCancel,
        Self::Filled,
        Self::Cancelled,
        Self::Rejected,
    ];

    /// Whether the order is at rest: no answer is awaited, so that it may be replaced.
    pub fn is_working(self) -> bool {
        matches!(self, Self::Live | Self::PartiallyFilled)
    }

    /// Whether the order can't trade any more.
    pub fn is_gone(self) -> bool {
        matches!(self, Self::Filled | Self::Cancelled | Self::Rejected)
    }
}

/// Event in the life of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// We sent a replacement.
    ReplaceSent,
    /// We sent a cancel.
    CancelSent,
    /// The exchange accepted it.
    Accepted,
    /// The exchange accepted it and took it out at once.
    AcceptedDead,
    /// The exchange refused it.
    Rejected,
    /// Some of its shares traded.
    ExecutedPart,
    /// The last of its shares traded.
    ExecutedAll,
    /// Some of its shares were taken off, asked for or not.
    CancelledPart,
    /// The last of its shares were taken off, asked for or not.
    CancelledAll,
    /// The replacement took its place.
    Replaced,
    /// The replacement took its place and was taken out at once.
    ReplacedDead,
    /// The replacement was refused; the order stands as it was.
    ReplaceRejected,
    /// The cancel was refused.
    CancelRejected,
    /// A trade of it was broken: the position changes, the order does not.
    TradeBroken,
}

impl Event {
    /// List of all events.
    pub const ALL: [Self; 14] = [
        Self::ReplaceSent,
        Self::CancelSent,
        Self::Accepted,
        Self::AcceptedDead,
        Self::Rejected,
        Self::ExecutedPart,
        Self::ExecutedAll,
        Self::CancelledPart,
        Self::CancelledAll,
        Self::Replaced,
        Self::ReplacedDead,
        Self::ReplaceRejected,
        Self::CancelRejected,
        Self::TradeBroken,
    ];
}

/// The state after `event`; `None` if it makes no sense in `state`, which then stays. `executed`
/// says whether shares of the order have traded.
#[inline]
pub fn next(state: State, event: Event, executed: bool) -> Option<State> {
    use Event as E;
    use State as S;
    let working = if executed { S::PartiallyFilled } else { S::Live };
    Some(match (state, event) {
        (_, E::TradeBroken) => state,
        (S::Filled | S::Cancelled | S::Rejected, _) => return None,
        (S::PendingNew, E::Accepted) => S::Live,
        // A cancel that was sent before the answer came.
        (S::PendingCancel, E::Accepted) => S::PendingCancel,
        (S::PendingNew | S::PendingCancel, E::AcceptedDead) => S::Cancelled,
        (S::PendingNew | S::PendingCancel, E::Rejected) => S::Rejected,
        (S::Live | S::PartiallyFilled, E::ReplaceSent) => S::PendingReplace,
        (S::PendingNew | S::Live | S::PartiallyFilled | S::PendingReplace, E::CancelSent) => {
            S::PendingCancel
        }
        (S::PendingNew, _) => return None,
        (_, E::ExecutedAll) => S::Filled,
        (_, E::CancelledAll) => S::Cancelled,
        (S::Live | S::PartiallyFilled, E::ExecutedPart) => S::PartiallyFilled,
        // Fills and partial cancels do not answer what was asked for.
        (S::PendingReplace | S::PendingCancel, E::ExecutedPart) => state,
        (_, E::CancelledPart) => state,
        (S::PendingReplace, E::Replaced | E::ReplaceRejected) => working,
        (S::PendingReplace | S::PendingCancel, E::ReplacedDead) => S::Cancelled,
        // The cancel was sent under the replacement's number: it follows the replacement, and finds
        // nothing if that was refused.
        (S::PendingCancel, E::Replaced) => S::PendingCancel,
        (S::PendingCancel, E::ReplaceRejected | E::CancelRejected) => working,
        _ => return None,
    })
}

/// The table of all moves as the guide shows it: a row for each state, a column for each event.
pub fn table() -> String {
    let mut text = String::from("| event |");
    State::ALL.iter().for_each(|state| text.push_str(&format!(" {state:?} |")));
    text.push_str("\n| --- |");
    State::ALL.iter().for_each(|_| text.push_str(" --- |"));
    for event in Event::ALL {
        text.push_str(&format!("\n| {event:?} |"));
        for state in State::ALL {
            let (fresh, traded) = (next(state, event, false), next(state, event, true));
            let cell = match (fresh, traded) {
                (None, _) => "–".into(),
                (Some(a), Some(b)) if a != b => format!("{a:?} or {b:?}"),
                (Some(a), _) if a == state => "stays".into(),
                (Some(a), _) => format!("{a:?}"),
            };
            text.push_str(&format!(" {cell} |"));
        }
    }
    text.push('\n');
    text
}
