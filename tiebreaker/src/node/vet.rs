//! Messages that no node sends. raft-rs takes every message for that of a sound peer and stops the process where one
//! cannot be, so each is looked at before: who sends such a message loses the session, and this node goes on.
//!
//! What is late, repeated or of the past is no fault: raft-rs knows it.

use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};
use raft::{Raft, StateRole};

use super::log::{Log, decode_snapshot};
use crate::limits::{COMMAND_BYTES_MAX, CONTEXT_BYTES_MAX, NODES, NUMBERS_AHEAD_MAX, RECORDS_MAX};

/// Why a message is no node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// Of a kind that nodes do not send to each other.
    #[error("a message is of kind {0:?}, which nodes do not send")]
    Kind(MessageType),
    /// Without a term, or with a number that no cluster comes to.
    #[error("a message has a term or an index that cannot be")]
    Number,
    /// Commits what this node does not have.
    #[error("a message commits entry {commit}, and the last one here is {last}")]
    Commit {
        /// As the message says.
        commit: u64,
        /// As it is.
        last: u64,
    },
    /// Says that its sender has what its leader does not.
    #[error("a message tells of entry {index}, and its leader's last one is {last}")]
    Acknowledged {
        /// As the message says.
        index: u64,
        /// As it is.
        last: u64,
    },
    /// Entries that do not follow on each other, or are none.
    #[error("entry {0} of a message is none that a leader sends")]
    Entry(u64),
    /// A state that is none.
    #[error("a message has a state that cannot be read or cannot be")]
    State,
}

/// Whether `raft` can be handed `message`.
pub(super) fn vet(raft: &Raft<Log>, message: &Message) -> Result<(), Impossible> {
    let kind = message.get_msg_type();
    let last = raft.raft_log.last_index();
    vet_numbers(raft, message)?;
    match kind {
        MessageType::MsgAppend => vet_entries(message),
        MessageType::MsgHeartbeat if message.commit > last => Err(Impossible::Commit {
            commit: message.commit,
            last,
        }),
        // Of an earlier term it may tell of entries that were overwritten since.
        MessageType::MsgAppendResponse
            if raft.state == StateRole::Leader
                && message.term == raft.term
                && !message.reject
                && message.index > last =>
        {
            let index = message.index;
            Err(Impossible::Acknowledged { index, last })
        }
        MessageType::MsgSnapshot => vet_snapshot(message.term, message.get_snapshot()),
        MessageType::MsgAppendResponse
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgTimeoutNow => Ok(()),
        // Local ones, and what a follower would forward: here, the leader alone proposes and reads.
        _ => Err(Impossible::Kind(kind)),
    }
}

/// raft-rs takes what has no term for its own, and counts on from what it is told.
fn vet_numbers(raft: &Raft<Log>, message: &Message) -> Result<(), Impossible> {
    let last = raft.raft_log.last_index();
    let metadata = message.get_snapshot().get_metadata();
    let terms = [message.term, message.log_term, message.commit_term, metadata.term];
    let indexes = [message.index, message.commit, message.reject_hint, metadata.index];
    let sound = message.term > 0
        && message.from != raft.id
        && message.request_snapshot == 0
        && message.context.len() <= CONTEXT_BYTES_MAX
        && terms
            .iter()
            .all(|term| term.saturating_sub(raft.term) <= NUMBERS_AHEAD_MAX)
        && indexes
            .iter()
            .all(|index| index.saturating_sub(last) <= NUMBERS_AHEAD_MAX);
    if sound { Ok(()) } else { Err(Impossible::Number) }
}

fn vet_entries(message: &Message) -> Result<(), Impossible> {
    // Before the first entry of all is none, and no other has no term.
    if message.index > 0 && message.log_term == 0 {
        return Err(Impossible::Number);
    }
    let mut before = (message.index, message.log_term);
    for entry in &message.entries {
        let follows = entry.index == before.0 + 1 && entry.term >= before.1 && entry.term <= message.term;
        if !follows || entry.term == 0 || !is_bounded(entry) {
            return Err(Impossible::Entry(entry.index));
        }
        before = (entry.index, entry.term);
    }
    Ok(())
}

fn is_bounded(entry: &Entry) -> bool {
    entry.data.len() <= COMMAND_BYTES_MAX
        && entry.context.len() <= CONTEXT_BYTES_MAX
        && entry.get_entry_type() != EntryType::EntryConfChangeV2
        && !entry.sync_log
}

fn vet_snapshot(term: u64, snapshot: &Snapshot) -> Result<(), Impossible> {
    let metadata = snapshot.get_metadata();
    let sound = metadata.index > 0
        && (1..=term).contains(&metadata.term)
        && is_membership(metadata.get_conf_state())
        && decode_snapshot(snapshot).is_some_and(|machine| {
            machine.records.len() <= RECORDS_MAX
                && machine.records.values().all(|record| record.check().is_ok())
                && (1..=NODES).contains(&machine.seats.iter().count())
        });
    if sound { Ok(()) } else { Err(Impossible::State) }
}

/// Whether nodes change one at a time, and each is there once.
fn is_membership(state: &ConfState) -> bool {
    let mut members: Vec<u64> = state.voters.iter().chain(&state.learners).copied().collect();
    let count = members.len();
    members.sort_unstable();
    members.dedup();
    !state.voters.is_empty()
        && members.len() == count
        // One goes while another comes.
        && count <= 2 * NODES
        && !members.contains(&0)
        && state.voters_outgoing.is_empty()
        && state.learners_next.is_empty()
        && !state.auto_leave
}
