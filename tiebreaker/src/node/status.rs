//! What a node can say of itself, of the others, and of the VMs.

use antipode_certs::Name;
use raft::eraftpb::ConfState;
use raft::{RawNode, StateRole};
use serde::{Deserialize, Serialize};

use super::event::{Query, Reply};
use super::log::Log;
use super::seats::NodeId;
use crate::limits::FRAME_BYTES_MAX;
use crate::{Generation, HistoryEntry, Incarnation, Record, Settings, State};

/// The one operation that moves nobody.
const SETTINGS_ALONE: &str = "configure";

/// What a node has to say in an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It votes.
    Voter,
    /// It follows until it has caught up, then it will vote.
    Learner,
    /// It is in no present membership.
    Outside,
}

/// A node as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its seat.
    pub name: Name,
    /// Its id.
    pub id: NodeId,
    /// Whether it votes.
    pub standing: Standing,
    /// Entries of the leader's log that it has not acknowledged; none if only the leader knows and this node is not it.
    pub lag: Option<u64>,
    /// Whether it has answered the leader within the last election time; none as above.
    pub active: Option<bool>,
}

/// A node's view of itself and of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its seat.
    pub name: Name,
    /// Its id.
    pub id: NodeId,
    /// Leader, follower or candidate.
    pub role: String,
    /// The election that it knows of last.
    pub term: u64,
    /// Who leads, if it knows.
    pub leader: Option<Name>,
    /// The last entry that it knows a majority to hold.
    pub commit: u64,
    /// The last entry in its state.
    pub applied: u64,
    /// Names that have a record.
    pub records: u64,
    /// All seats.
    pub peers: Vec<PeerStatus>,
    /// Sessions that ended because the other end broke a rule of the protocol.
    pub faulty_sessions: u64,
    /// Why it takes no part, if it does not.
    pub stalled: Option<String>,
}

/// Who holds a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Which VM.
    pub vm: Name,
    /// Which VM of this name.
    pub incarnation: Incarnation,
    /// How many changes of holder there were.
    pub generation: Generation,
    /// Who may be live.
    pub state: State,
    /// What an operator has set.
    pub settings: Settings,
    /// When it came to this, in seconds since 1970 on some node's clock; none if the history does not go back so far.
    pub since_unix_seconds: Option<i64>,
}

impl Summary {
    pub(super) fn of(vm: &Name, record: &Record) -> Self {
        // Not by its generation: a cluster that was restored has raised that since.
        let moved = |entry: &&HistoryEntry| entry.operation != SETTINGS_ALONE;
        let made = record.history.iter().rev().find(moved);
        Self {
            vm: vm.clone(),
            incarnation: record.incarnation,
            generation: record.generation,
            state: record.state.clone(),
            settings: record.settings.clone(),
            since_unix_seconds: made.map(|entry| entry.at_unix_seconds),
        }
    }
}

/// What `log` says to `query`.
pub(super) fn answer(log: &Log, query: &Query) -> Reply {
    let records = &log.machine.records;
    match query {
        Query::Show { vm } => Reply::Record(records.get(vm).map(|record| Box::new(Record::clone(record)))),
        Query::List { after } => {
            let behind = records.range(behind(after.as_ref()));
            let (page, more) = page(behind.map(|(vm, record)| Summary::of(vm, record)));
            Reply::Summaries { page, more }
        }
        Query::Export { after } => {
            let behind = records.range(behind(after.as_ref()));
            let (page, more) = page(behind.map(|(vm, record)| (vm.clone(), Record::clone(record))));
            Reply::Records { page, more }
        }
    }
}

/// The first of `items`, until they fill half a frame; the other half has room for the one that is too many.
fn page<T: Serialize>(mut items: impl Iterator<Item = T>) -> (Vec<T>, bool) {
    let (mut page, mut bytes) = (Vec::new(), 0);
    while bytes < FRAME_BYTES_MAX / 2
        && let Some(item) = items.next()
    {
        bytes += serde_json::to_vec(&item).map_or(0, |text| text.len());
        page.push(item);
    }
    (page, items.next().is_some())
}

fn behind(after: Option<&Name>) -> (std::ops::Bound<&Name>, std::ops::Bound<&Name>) {
    use std::ops::Bound::{Excluded, Unbounded};
    (after.map_or(Unbounded, Excluded), Unbounded)
}

pub(super) fn standing(conf_state: &ConfState, id: NodeId) -> Standing {
    if conf_state.voters.contains(&id.0) {
        Standing::Voter
    } else if conf_state.learners.contains(&id.0) {
        Standing::Learner
    } else {
        Standing::Outside
    }
}

pub(super) fn of(raw: &RawNode<Log>, name: &Name) -> NodeStatus {
    let (raft, log) = (&raw.raft, raw.store());
    let leads = raft.state == StateRole::Leader;
    let seats = &log.machine.seats;
    let peers = seats.iter().map(|(seat, id)| {
        let progress = leads.then(|| raft.prs().get(id.0)).flatten();
        let own = id.0 == raft.id;
        PeerStatus {
            name: seat.clone(),
            id,
            standing: standing(&log.conf_state, id),
            lag: progress.map(|progress| log.last().saturating_sub(progress.matched)),
            active: progress.map(|progress| own || progress.recent_active),
        }
    });
    NodeStatus {
        name: name.clone(),
        id: NodeId(raft.id),
        role: role_name(raft.state).to_owned(),
        term: raft.term,
        leader: seats.name_of(NodeId(raft.leader_id)).cloned(),
        commit: raft.raft_log.committed,
        applied: log.applied,
        records: log.machine.records.len() as u64,
        peers: peers.collect(),
        faulty_sessions: 0,
        stalled: None,
    }
}

const fn role_name(role: StateRole) -> &'static str {
    match role {
        StateRole::Leader => "leader",
        StateRole::Follower => "follower",
        StateRole::Candidate | StateRole::PreCandidate => "candidate",
    }
}
