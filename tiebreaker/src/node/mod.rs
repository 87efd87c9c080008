//! One of the three nodes: consensus and what is agreed on, without I/O and without a clock (T1).
//!
//! ```text
//!   Tick, Message, Request ──▶ Node::step ──▶ Effects, to be carried out in their order:
//!                                               Send      what may leave before anything is durable (a leader's appends)
//!                                               Persist   one batch, durable before the next effect
//!                                               Send      what promises durability: votes, acknowledgements
//!                                               Answer    what a majority holds durably and this node has applied
//! ```
//!
//! - **The order is data.** Whoever carries effects out stops at the first that fails and drops the node: what was
//!   promised later in the list is then never said, and the next start reads what was durable. So the core may go on as
//!   if every batch were written, and a test can assert the order.
//! - **A change of the applied state needs no write of its own.** It follows from entries that a majority holds; it rides
//!   in the next batch, together with the hard state that commits it, so a start never finds more applied than committed.
//! - **An answer to a change comes after it was applied**, found by the ticket in its entry. A node that stops leading
//!   answers what still waits with [`Reply::Unknown`]: the change may yet happen, and asking again with the same number
//!   tells.
//! - **A read is confirmed by a majority** after it was asked (`ReadIndex`), so it never shows a past that another leader
//!   has overwritten. No lease: clocks decide nothing.
//! - **Chance is injected.** Each node's patience is fixed ([`Patience`]): in the order of priorities, so that the third
//!   site's node is first, with a seeded jitter. Two nodes never wait equally long, so votes are not split for long.
//! - **Seats.** A cluster has three seats, each with a name (that of its certificate) and, at a time, one node id. A node
//!   that lost its disk may have voted and forgotten it; so its seat gets a new id, by a command of the log, and the
//!   leader then brings membership to what the seats say: out with the old id, in with the new one as a learner, a voter
//!   when it has caught up; one change at a time.

mod core;
mod event;
mod leading;
mod log;
mod machine;
mod patience;
mod reads;
mod seats;
mod status;
mod vet;

pub use self::core::{Node, NodeSettings};
pub use event::{AppliedMark, Batch, Demand, Effect, Event, Query, Reply, Ticket};
pub use log::{Base, Recovered, RecoveredError};
pub use machine::{Applied, COMMAND_VERSION, Command, Machine, NewerCommand};
pub use patience::Patience;
pub use seats::{NodeId, Seats};
pub use status::{NodeStatus, PeerStatus, Standing, Summary};
pub use vet::Impossible;

#[cfg(test)]
mod tests;
