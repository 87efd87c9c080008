//! Carries a node's effects out, in their order.

use raft::eraftpb::Message;

use crate::node::{Effect, Event, Impossible, Node, NodeId, Reply, Ticket};
use crate::store::{Store, StoreError};

/// Where messages and replies go.
pub trait Outbox {
    /// To another node.
    fn send(&mut self, message: Message);

    /// Lets what was sent leave. Awaited before each write, so that messages travel while the disk works; that they have
    /// left is not needed.
    fn depart(&mut self) -> impl Future<Output = ()> + Send;

    /// To a client.
    fn answer(&mut self, ticket: Ticket, reply: Reply);

    /// Ends the session of a node that has said what cannot be.
    fn refuse(&mut self, from: NodeId, why: Impossible);
}

/// Why a node goes no further.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// Its store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log asks for more than this program can do.
    #[error("{0}")]
    Halted(&'static str),
}

/// A node and its store.
#[derive(Debug)]
pub struct Driver<S> {
    node: Node,
    store: S,
}

impl<S: Store> Driver<S> {
    /// Puts both together: `node` goes on from what `store` holds.
    pub const fn new(node: Node, store: S) -> Self {
        Self { node, store }
    }

    /// The node.
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// Takes `events` and does what follows. An effect is only carried out when all before it have been.
    ///
    /// # Errors
    /// Where the store fails or the node halts. What would have followed is never said; the driver is of no use any more.
    pub async fn take(
        &mut self,
        events: impl IntoIterator<Item = Event>,
        outbox: &mut impl Outbox,
    ) -> Result<(), Stop> {
        for effect in self.node.step(events) {
            match effect {
                Effect::Persist(batch) => {
                    outbox.depart().await;
                    self.store.write(&batch)?;
                }
                Effect::Send(messages) => messages.into_iter().for_each(|message| outbox.send(message)),
                Effect::Answer(ticket, reply) => outbox.answer(ticket, reply),
                Effect::Refuse(from, why) => outbox.refuse(from, why),
                Effect::Halt(why) => return Err(Stop::Halted(why)),
            }
        }
        Ok(())
    }
}
