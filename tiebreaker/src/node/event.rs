//! What happens to a node, and what it wants done.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use antipode_certs::{Identity, Name};
use raft::eraftpb::{ConfState, Entry, HardState, Message};
use serde::{Deserialize, Serialize};

use super::log::Base;
use super::seats::{NodeId, Seats};
use super::status::{NodeStatus, Summary};
use super::vet::Impossible;
use crate::{Answer, Record, Request};

/// Names a request within one run of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What a client wants to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// One VM's record.
    Show {
        /// Which VM.
        vm: Name,
    },
    /// Who holds which VM: a page of all, from behind the name `after`.
    List {
        /// Where the last page ended.
        after: Option<Name>,
    },
    /// A page of whole records, from behind the name `after`: what a backup is made of.
    Export {
        /// Where the last page ended.
        after: Option<Name>,
    },
}

/// What a client asks of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// A change of a VM's record.
    Change {
        /// Which VM.
        vm: Name,
        /// What for.
        request: Request,
    },
    /// What is so now, confirmed by a majority.
    Read(Query),
    /// What this node knows of itself and its cluster, without asking the others.
    Status,
    /// A new id for the caller's own seat; its disk is lost.
    Reseat {
        /// The id that it had.
        lost: NodeId,
        /// Drawn once for all tries.
        nonce: u64,
    },
}

/// What a node says to a [`Demand`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The change was granted or refused. Final.
    Answer(Answer),
    /// The record; none if the name was never registered.
    Record(Option<Box<Record>>),
    /// A page of VMs in the order of their names.
    Summaries {
        /// The VMs.
        page: Vec<Summary>,
        /// Whether there are more behind the last.
        more: bool,
    },
    /// A page of records in the order of their names.
    Records {
        /// The records.
        page: Vec<(Name, Record)>,
        /// Whether there are more behind the last.
        more: bool,
    },
    /// The node's view.
    Status(Box<NodeStatus>),
    /// The seat's new id, and what a new store needs to know.
    Seat {
        /// The id.
        id: NodeId,
        /// Which cluster's life it is: [`crate::store::Owner::era`].
        era: u64,
        /// Who sits where from now on.
        seats: Seats,
    },
    /// The seat's node has answered a moment ago: it runs, or has just ended. Ask again later.
    SeatTaken,
    /// Ask another node: this one, if it knows.
    NotLeader(Option<Name>),
    /// Nothing was done; ask again later.
    Busy,
    /// The change may have happened or may still happen. Ask again with the same number.
    Unknown,
    /// Not what this caller may ask. Final.
    Forbidden(String),
    /// A guard of [`crate::Operation::Force`]: a site that the record names is in touch with the tiebreaker, or was when
    /// last this node could know. Final.
    PeerReachable {
        /// The site.
        site: Name,
    },
    /// This node cannot take part: its store failed, or the program is too old.
    Stalled(String),
}

/// What happens to a node.
#[derive(Debug, Clone)]
pub enum Event {
    /// A moment has passed.
    Tick,
    /// Another node says something. Whoever hands it in has made sure that it comes from [`Message::from`].
    Message(Box<Message>),
    /// A client asks.
    Request {
        /// Under which the reply goes out.
        ticket: Ticket,
        /// Who asks.
        from: Identity,
        /// The time of day, for the history.
        at_unix_seconds: i64,
        /// What.
        demand: Demand,
    },
    /// What became of the sending of a snapshot.
    SnapshotSent {
        /// To whom.
        to: NodeId,
        /// Whether all of it left.
        whole: bool,
    },
    /// A message could not be sent.
    Unreachable(NodeId),
}

/// What is to be written, all of it or nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Everything that was stored is replaced: a snapshot came.
    pub replaces_all: bool,
    /// Entries that are removed before [`Batch::entries`] are written.
    pub removed: Vec<Range<u64>>,
    /// New entries of the log.
    pub entries: Vec<Entry>,
    /// Term, vote and commit.
    pub hard_state: Option<HardState>,
    /// What was applied, if that changed.
    pub applied: Option<AppliedMark>,
    /// Records that changed.
    pub records: BTreeMap<Name, Arc<Record>>,
}

/// How far the state has come, and the membership there.
#[derive(Debug, Clone, PartialEq)]
pub struct AppliedMark {
    /// The last entry that was applied.
    pub index: u64,
    /// The last entry that is not kept any more.
    pub base: Base,
    /// Voters and learners.
    pub conf_state: ConfState,
    /// Who has which seat.
    pub seats: Seats,
}

/// What a node wants done, in the order of the list.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Write this durably before anything that follows.
    Persist(Box<Batch>),
    /// Send these. They may be lost, repeated and overtaken.
    Send(Vec<Message>),
    /// Tell the client.
    Answer(Ticket, Reply),
    /// Listen to this node no longer: it has said what no node says. Its word was not taken.
    Refuse(NodeId, Impossible),
    /// Stop, and say why: this program cannot go on with this log.
    Halt(&'static str),
}
