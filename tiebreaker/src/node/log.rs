//! The log and the state in memory, as raft-rs wants to see them. What is here is durable or will be before anyone is
//! told of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use antipode_certs::Name;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use serde::{Deserialize, Serialize};

use super::event::AppliedMark;
use super::machine::Machine;
use super::seats::Seats;
use crate::Record;
use crate::limits::{LOG_CUT_EVERY, LOG_ENTRIES_KEPT};

/// The last entry before the log's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What a store gives back at a start.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// How far the state has come.
    pub applied: AppliedMark,
    /// The entries behind the base, in order.
    pub entries: Vec<Entry>,
    /// Every record.
    pub records: BTreeMap<Name, Arc<Record>>,
}

/// A store whose parts do not fit together. It was not this program that left it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecoveredError {
    /// Entries are missing inside the log.
    #[error("entry {0} of the log is missing")]
    Gap(u64),
    /// Terms fall along the log.
    #[error("the terms of the log fall at entry {0}")]
    Terms(u64),
    /// More is committed than there is, or more applied than committed.
    #[error("the log from {base} to {last} does not fit to commit {commit} and applied {applied}")]
    Marks {
        /// The last entry that is not kept.
        base: u64,
        /// The last one that is.
        last: u64,
        /// As stored.
        commit: u64,
        /// As stored.
        applied: u64,
    },
}

impl Recovered {
    /// The beginning of a cluster whose voters are `seats`: one entry that everyone has. With it no log begins at nothing,
    /// so whoever joins later is sent the state and with it who is in the cluster.
    #[must_use]
    pub fn first(seats: Seats, records: BTreeMap<Name, Record>) -> Self {
        let base = Base { index: 1, term: 1 };
        let conf_state = ConfState {
            voters: seats.iter().map(|(_, id)| id.0).collect(),
            ..ConfState::default()
        };
        Self {
            hard_state: HardState {
                term: base.term,
                commit: base.index,
                ..HardState::default()
            },
            applied: AppliedMark {
                index: base.index,
                base,
                conf_state,
                seats,
            },
            entries: Vec::new(),
            records: shared(records),
        }
    }

    /// A node that is given an id in a cluster of which it knows nothing yet: the leader will send it a snapshot.
    #[must_use]
    pub fn joining(seats: Seats) -> Self {
        Self {
            hard_state: HardState::default(),
            applied: AppliedMark {
                index: 0,
                base: Base { index: 0, term: 0 },
                conf_state: ConfState::default(),
                seats,
            },
            entries: Vec::new(),
            records: BTreeMap::new(),
        }
    }

    /// Whether the parts fit together.
    ///
    /// # Errors
    /// Where they do not: the store is corrupt.
    pub fn check(&self) -> Result<(), RecoveredError> {
        let base = self.applied.base;
        let mut before = base;
        for entry in &self.entries {
            if entry.index != before.index + 1 {
                return Err(RecoveredError::Gap(before.index + 1));
            }
            if entry.term < before.term {
                return Err(RecoveredError::Terms(entry.index));
            }
            before = Base {
                index: entry.index,
                term: entry.term,
            };
        }
        let (commit, applied) = (self.hard_state.commit, self.applied.index);
        if base.index <= applied
            && applied <= commit
            && commit <= before.index
            && before.term <= self.hard_state.term
        {
            Ok(())
        } else {
            Err(RecoveredError::Marks {
                base: base.index,
                last: before.index,
                commit,
                applied,
            })
        }
    }
}

/// Log, hard state and state.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) hard_state: HardState,
    pub(super) conf_state: ConfState,
    base: Base,
    entries: VecDeque<Entry>,
    pub(super) applied: u64,
    pub(super) machine: Machine,
}

impl Log {
    pub(super) fn new(recovered: Recovered) -> Self {
        let Recovered {
            hard_state,
            applied,
            entries,
            records,
        } = recovered;
        Self {
            hard_state,
            conf_state: applied.conf_state,
            base: applied.base,
            entries: entries.into(),
            applied: applied.index,
            machine: Machine {
                records,
                seats: applied.seats,
            },
        }
    }

    pub(super) fn last(&self) -> u64 {
        self.base.index + self.entries.len() as u64
    }

    pub(super) fn mark(&self) -> AppliedMark {
        AppliedMark {
            index: self.applied,
            base: self.base,
            conf_state: self.conf_state.clone(),
            seats: self.machine.seats.clone(),
        }
    }

    /// Puts `new` at its place; what was from there on is gone, and told.
    pub(super) fn append(&mut self, new: &[Entry]) -> Option<std::ops::Range<u64>> {
        let first = new.first()?.index;
        assert!(
            self.applied < first && first <= self.last() + 1,
            "entries follow on what is there, and what was applied stays"
        );
        let replaced = first..self.last() + 1;
        self.entries.truncate(self.position(first));
        self.entries.extend(new.iter().cloned());
        (!replaced.is_empty()).then_some(replaced)
    }

    /// Takes over a snapshot, in place of everything.
    pub(super) fn install(&mut self, snapshot: &Snapshot, machine: Machine) {
        let metadata = snapshot.get_metadata();
        self.base = Base {
            index: metadata.index,
            term: metadata.term,
        };
        self.entries.clear();
        self.applied = metadata.index;
        self.conf_state = metadata.get_conf_state().clone();
        self.machine = machine;
        self.hard_state.commit = self.hard_state.commit.max(metadata.index);
        self.hard_state.term = self.hard_state.term.max(metadata.term);
    }

    /// Cuts the log's beginning if it has grown long; answers with what went.
    pub(super) fn cut(&mut self) -> Option<std::ops::Range<u64>> {
        let keep_from = self.applied.saturating_sub(LOG_ENTRIES_KEPT);
        if keep_from < self.base.index + LOG_CUT_EVERY {
            return None;
        }
        let term = self.entries[self.position(keep_from)].term;
        let went = self.base.index + 1..keep_from + 1;
        self.entries.drain(..=self.position(keep_from));
        self.base = Base {
            index: keep_from,
            term,
        };
        Some(went)
    }

    /// Where entry `index` stands among those kept.
    fn position(&self, index: u64) -> usize {
        usize::try_from(index - self.base.index - 1)
            .expect("a log in memory has fewer entries than addresses")
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "raft-rs asks for what there is");
        let range = self.position(low)..self.position(high);
        let mut found: Vec<Entry> = self.entries.range(range).cloned().collect();
        raft::util::limit_size(&mut found, max_size.into());
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.index {
            return Ok(self.base.term);
        }
        if index < self.base.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        let entry = self.entries.get(self.position(index));
        entry
            .map(|entry| entry.term)
            .ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// The state as of now, whatever it was when last one was wanted.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.applied < request_index {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = self.applied;
        metadata.term = self.term(self.applied)?;
        metadata.set_conf_state(self.conf_state.clone());
        let state = serde_json::to_vec(&self.machine).expect("the state's keys are text");
        snapshot.data = state.into();
        Ok(snapshot)
    }
}

pub(super) fn shared(records: BTreeMap<Name, Record>) -> BTreeMap<Name, Arc<Record>> {
    let records = records.into_iter();
    records.map(|(vm, record)| (vm, Arc::new(record))).collect()
}

/// The state in a snapshot, if it is one.
pub(super) fn decode_snapshot(snapshot: &Snapshot) -> Option<Machine> {
    serde_json::from_slice(&snapshot.data).ok()
}
