//! What the sessions and the node's desk share: a queue one way, a view of the node the other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use antipode_certs::{Identity, Name};
use raft::eraftpb::Message;
use tokio::sync::{mpsc, oneshot};

use crate::limits::INBOX_EVENTS_MAX;
use crate::node::{Demand, Event, Impossible, NodeId, Reply, Seats};
use crate::store::Owner;

/// What waits for the node.
#[derive(Debug)]
pub(super) enum Work {
    Event(Event),
    /// What another node says, and how its session is ended if that cannot be.
    Message {
        message: Box<Message>,
        end: mpsc::Sender<Impossible>,
    },
    Request {
        from: Identity,
        demand: Demand,
        reply: oneshot::Sender<Reply>,
    },
}

/// The way to the node.
#[derive(Debug, Clone)]
pub(super) struct Inbox(mpsc::Sender<Work>);

pub(super) fn pair() -> (Inbox, mpsc::Receiver<Work>) {
    let (queue, work) = mpsc::channel(INBOX_EVENTS_MAX);
    (Inbox(queue), work)
}

impl Inbox {
    /// Hands `work` over, unless too much waits already or nobody takes it any more.
    pub(super) fn post(&self, work: Work) -> bool {
        self.0.try_send(work).is_ok()
    }

    /// Hands `work` over when there is room.
    pub(super) async fn deliver(&self, work: Work) {
        // Nobody takes it any more at the end alone.
        let _ = self.0.send(work).await;
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
    /// The id that this node's seat has now, if it is another's; else 0.
    successor: AtomicU64,
}

impl View {
    pub(super) fn new(owner: Owner, seats: Seats) -> Self {
        Self {
            owner,
            seats: RwLock::new(seats),
            learnt: RwLock::default(),
            faulty_sessions: AtomicU64::new(0),
            successor: AtomicU64::new(0),
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

    /// Another node says that this node's seat is `id`'s now.
    pub(super) fn note_successor(&self, id: NodeId) {
        if self.successor.fetch_max(id.0, Ordering::Relaxed) < id.0
            && let Some(why) = self.superseded()
        {
            tracing::error!("this node takes no part any more: {why}");
        }
    }

    /// Why this node takes no part, if its seat was given to another.
    pub(super) fn superseded(&self) -> Option<String> {
        let successor = self.successor.load(Ordering::Relaxed);
        (successor > self.owner.id.0).then(|| {
            format!(
                "its seat was given to node {successor}: its data is of the past; stop it, move its folder away, and \
                 start the node that has node {successor}'s data, or `antipode tiebreaker rejoin`"
            )
        })
    }

    pub(super) fn count_fault(&self) {
        self.faulty_sessions.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn faulty_sessions(&self) -> u64 {
        self.faulty_sessions.load(Ordering::Relaxed)
    }
}
