//! Tasks of the main loop: long work (an import, a stop, a seal) runs beside the loop, which takes
//! its result and answers requests meanwhile.

use crate::reconcile::Agent;
use std::collections::BTreeSet;
use tokio::sync::mpsc;

/// Rest of some work, for the main loop: it changes the agent.
pub type Rest = Box<dyn FnOnce(&mut Agent) + Send>;

/// Work and its rest, as they come back to the main loop.
pub type Ended = (Vec<Work>, Rest);

/// Kind of work, with its object: at most one of each is under way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Connect to containerd.
    Connect,
    /// Read what containerd has.
    Observe,
    /// Take away images that nobody needs.
    Collect,
    /// Read an archive into the store and into containerd.
    Load,
    /// Bring an image, by its name, into containerd.
    Image(String),
    /// Take away containers of an instance, by its ID, and make one.
    Container(String),
    /// Seal or open a secret, by its name.
    Secret(String),
    /// Put the API's configuration where its process reads it.
    Api,
    /// Mount or unmount a volume of another host, by its ID.
    Volume(String),
}

/// Work under way.
#[derive(Debug)]
pub struct Tasks {
    under_way: BTreeSet<Work>,
    /// Number of changes to containers since the start: what was observed before the last one
    /// counts no more.
    pub changes: u64,
    /// The same, of the last observation that counted.
    pub seen_changes: u64,
    /// Whether to observe again once the observation under way has ended.
    pub observe_again: bool,
    ended: mpsc::UnboundedSender<Ended>,
}

impl Tasks {
    /// No work yet; what ends is sent there.
    pub fn new(ended: mpsc::UnboundedSender<Ended>) -> Self {
        Self {
            under_way: BTreeSet::new(),
            changes: 0,
            seen_changes: 0,
            observe_again: false,
            ended,
        }
    }

    /// Returns true while this work is under way.
    pub fn has(&self, work: &Work) -> bool {
        self.under_way.contains(work)
    }

    /// Returns true while work that the predicate names is under way.
    pub fn has_any(&self, is_it: impl Fn(&Work) -> bool) -> bool {
        self.under_way.iter().any(is_it)
    }

    /// Instances whose containers are changed.
    pub fn changed_instances(&self) -> Vec<String> {
        let id = |work: &Work| match work {
            Work::Container(id) => Some(id.clone()),
            _ => None,
        };
        self.under_way.iter().filter_map(id).collect()
    }

    /// Returns true while what was observed is older than the last change of a container.
    pub fn is_stale(&self) -> bool {
        self.changes != self.seen_changes
    }

    /// Returns true while the containers of an instance are changed.
    pub fn changes_container(&self, id: &str) -> bool {
        self.has(&Work::Container(id.to_owned()))
    }
}

impl Agent {
    /// Starts work in a task of its own; `rest` takes its result in the main loop. The caller has
    /// seen that none of it is under way.
    pub(super) fn start<T: Send + 'static>(
        &mut self,
        works: Vec<Work>,
        work: impl Future<Output = T> + Send + 'static,
        rest: impl FnOnce(&mut Self, T) + Send + 'static,
    ) {
        self.tasks.under_way.extend(works.iter().cloned());
        let ended = self.tasks.ended.clone();
        tokio::spawn(async move {
            let result = work.await;
            // Nobody takes it once the agent leaves.
            let _ = ended.send((works, Box::new(move |agent: &mut Self| rest(agent, result))));
        });
    }

    /// Does the rest of some work.
    pub(super) fn finish(&mut self, (works, rest): Ended) {
        for work in works {
            self.tasks.changes += u64::from(matches!(work, Work::Container(_)));
            self.tasks.under_way.remove(&work);
        }
        rest(self);
    }
}
