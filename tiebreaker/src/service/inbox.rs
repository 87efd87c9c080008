//! What the sessions and the node's thread share: a queue one way, a view of the node the other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};

use antipode_certs::{Identity, Name};
use tokio::sync::oneshot;

use crate::limits::INBOX_EVENTS_MAX;
use crate::node::{Demand, Event, NodeId, Reply, Seats};
use crate::store::Owner;

/// What waits for the node's thread.
#[derive(Debug)]
pub(super) enum Work {
    Event(Event),
    Request {
        from: Identity,
        demand: Demand,
        reply: oneshot::Sender<Reply>,
    },
    /// End the thread.
    End,
}

/// The way to the node's thread.
#[derive(Debug, Clone)]
pub(super) struct Inbox {
    queue: SyncSender<Work>,
    closed: Arc<AtomicBool>,
}

impl Inbox {
    pub(super) fn new() -> (Self, Receiver<Work>) {
        let (queue, work) = sync_channel(INBOX_EVENTS_MAX);
        let closed = Arc::default();
        (Self { queue, closed }, work)
    }

    /// Hands `work` over, unless too much waits already or nobody takes it any more.
    pub(super) fn post(&self, work: Work) -> bool {
        match self.queue.try_send(work) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => false,
            Err(TrySendError::Disconnected(_)) => {
                self.closed.store(true, Ordering::Relaxed);
                false
            }
        }
    }

    /// Whether a post has found nobody who takes it.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

/// What sessions know of the node.
#[derive(Debug)]
pub(super) struct View {
    owner: Owner,
    seats: RwLock<Seats>,
    /// Ids that nodes have named themselves by. A node that was away has their new ids from here before the log tells.
    learnt: RwLock<BTreeMap<NodeId, Name>>,
    faulty_sessions: AtomicU64,
}

impl View {
    pub(super) fn new(owner: Owner, seats: Seats) -> Self {
        Self {
            owner,
            seats: RwLock::new(seats),
            learnt: RwLock::default(),
            faulty_sessions: AtomicU64::new(0),
        }
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner.clone()
    }

    /// Values are replaced whole, so a lock that a panic left behind guards a sound one.
    pub(super) fn seats(&self) -> Seats {
        self.seats.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_seats(&self, seats: &Seats) {
        let mut held = self.seats.write().unwrap_or_else(PoisonError::into_inner);
        if *held != *seats {
            held.clone_from(seats);
        }
    }

    /// The newest id of a name is the one that counts: a seat is never given an older one.
    pub(super) fn learn(&self, id: NodeId, name: &Name) {
        let mut learnt = self.learnt.write().unwrap_or_else(PoisonError::into_inner);
        learnt.retain(|known, of| of != name || *known >= id);
        if !learnt.values().any(|of| of == name) {
            learnt.insert(id, name.clone());
        }
    }

    /// Where the node `id` sits.
    pub(super) fn name_of(&self, id: NodeId) -> Option<Name> {
        let seats = self.seats.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = seats.name_of(id) {
            return Some(name.clone());
        }
        self.learnt
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    pub(super) fn count_fault(&self) {
        self.faulty_sessions.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn faulty_sessions(&self) -> u64 {
        self.faulty_sessions.load(Ordering::Relaxed)
    }
}
