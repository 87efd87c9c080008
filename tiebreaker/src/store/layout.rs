//! The keys and values of a store. Pure: the simulator keeps the same ones in memory.
//!
//! ```text
//!   b                the number of the batch that was written last          8 bytes, big-endian
//!   h                term, vote, commit                                      protobuf, raft-rs's HardState
//!   l INDEX          an entry of the log; INDEX in 8 bytes, big-endian       protobuf, raft-rs's Entry
//!   m                how far the state has come, membership there, seats     JSON
//!   o                format version and owner                                JSON
//!   r NAME           a VM's record                                           JSON
//! ```
//!
//! A field that a record gains and an older program may pass over, as the site of a history's entry, keeps the version.
//!
//! Beside them are batches that have not become such keys yet (`journal`).
//!
//! sled guards every page with a checksum, so values have none of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use antipode_certs::Name;
use protobuf::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState};
use serde::{Deserialize, Serialize};

use super::{ContentError, Owner};
use crate::limits::{RECORD_BYTES_MAX, VALUE_BYTES_MAX};
use crate::node::{AppliedMark, Base, Batch, Recovered, Seats};

/// The version that this program writes. It reads the one before, too: that had no journal.
const FORMAT: u16 = 2;

const BATCH_NUMBER: &[u8] = b"b";
const HARD_STATE: &[u8] = b"h";
const MARK: &[u8] = b"m";
const OWNER: &[u8] = b"o";
const ENTRY: u8 = b'l';
const RECORD: u8 = b'r';

/// What a batch does to the tree: first the removals, then the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writes {
    /// Every entry and record that is there goes.
    pub clears: bool,
    /// Keys that go.
    pub removed: Vec<Vec<u8>>,
    /// Keys that get a value.
    pub put: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Serialize, Deserialize)]
struct StoredOwner {
    format: u16,
    #[serde(flatten)]
    owner: Owner,
}

#[derive(Serialize, Deserialize)]
struct StoredMark {
    index: u64,
    base: Base,
    voters: Vec<u64>,
    learners: Vec<u64>,
    seats: Seats,
}

/// Whether `key` is of an entry or a record, which [`Writes::clears`] removes.
#[must_use]
pub fn is_cleared(key: &[u8]) -> bool {
    matches!(key.first(), Some(&(ENTRY | RECORD)))
}

/// What a new store begins with.
#[must_use]
pub fn beginning(owner: &Owner, content: &Recovered) -> Writes {
    let batch = Batch {
        hard_state: Some(content.hard_state.clone()),
        applied: Some(content.applied.clone()),
        entries: content.entries.clone(),
        records: content.records.clone(),
        ..Batch::default()
    };
    let mut writes = of_batch(&batch, 1);
    let stored = StoredOwner {
        format: FORMAT,
        owner: owner.clone(),
    };
    writes.put.push((OWNER.to_vec(), json(&stored)));
    writes
}

/// What `batch`, the store's `number`th, does.
///
/// # Panics
/// Where a value is longer than a store takes: commands and records are bounded.
#[must_use]
pub fn of_batch(batch: &Batch, number: u64) -> Writes {
    let mut put = vec![(BATCH_NUMBER.to_vec(), number.to_be_bytes().to_vec())];
    if let Some(hard_state) = &batch.hard_state {
        put.push((HARD_STATE.to_vec(), protobuf(hard_state)));
    }
    for entry in &batch.entries {
        put.push((entry_key(entry.index), protobuf(entry)));
    }
    if let Some(mark) = &batch.applied {
        put.push((MARK.to_vec(), json(&StoredMark::of(mark))));
    }
    for (name, record) in &batch.records {
        let value = json(record.as_ref());
        assert!(value.len() <= RECORD_BYTES_MAX, "a record has bounded parts");
        put.push((record_key(name), value));
    }
    assert!(
        put.iter().all(|(_, value)| value.len() <= VALUE_BYTES_MAX),
        "every value has bounded parts"
    );
    Writes {
        clears: batch.replaces_all,
        removed: batch.removed.iter().cloned().flatten().map(entry_key).collect(),
        put,
    }
}

/// What the keys and values of a store say: whose it is, the number of its last batch, and its content.
///
/// # Errors
/// Where something is missing, unreadable, unknown, or does not fit to the rest.
pub fn read(
    pairs: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
) -> Result<(Owner, u64, Recovered), ContentError> {
    let (mut owner, mut number, mut hard_state, mut mark) = (None, None, None, None);
    let (mut entries, mut records) = (Vec::new(), BTreeMap::new());
    for (key, value) in pairs {
        let unreadable = || ContentError::Unreadable(String::from_utf8_lossy(&key).into_owned());
        match (key.first(), key.as_slice()) {
            (_, BATCH_NUMBER) => {
                number = Some(u64::from_be_bytes(value.try_into().map_err(|_| unreadable())?));
            }
            (_, HARD_STATE) => {
                hard_state = Some(HardState::parse_from_bytes(&value).map_err(|_| unreadable())?)
            }
            (_, MARK) => {
                let stored: StoredMark = serde_json::from_slice(&value).map_err(|_| unreadable())?;
                mark = Some(stored.read());
            }
            (_, OWNER) => owner = Some(read_owner(&value).ok_or_else(unreadable)??),
            (Some(&ENTRY), _) => {
                let entry = Entry::parse_from_bytes(&value).map_err(|_| unreadable())?;
                if entry_key(entry.index) != key {
                    return Err(unreadable());
                }
                entries.push(entry);
            }
            (Some(&RECORD), [_, name @ ..]) => {
                let name = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
                let record = serde_json::from_slice(&value).map_err(|_| unreadable())?;
                records.insert(name.ok_or_else(unreadable)?, Arc::new(record));
            }
            _ => return Err(ContentError::UnknownKey(key)),
        }
    }
    let recovered = Recovered {
        hard_state: hard_state.ok_or(ContentError::Missing("the vote"))?,
        applied: mark.ok_or(ContentError::Missing("the mark of what was applied"))?,
        entries,
        records,
    };
    recovered.check()?;
    Ok((
        owner.ok_or(ContentError::Missing("the owner"))?,
        number.ok_or(ContentError::Missing("the number of the last batch"))?,
        recovered,
    ))
}

/// `None` if it cannot be read at all. The version is looked at first: a later one may have other fields.
fn read_owner(value: &[u8]) -> Option<Result<Owner, ContentError>> {
    #[derive(Deserialize)]
    struct Version {
        format: u16,
    }
    let Version { format } = serde_json::from_slice(value).ok()?;
    if !(FORMAT - 1..=FORMAT).contains(&format) {
        return Some(Err(ContentError::Newer));
    }
    let stored: StoredOwner = serde_json::from_slice(value).ok()?;
    Some(Ok(stored.owner))
}

fn entry_key(index: u64) -> Vec<u8> {
    [&[ENTRY], index.to_be_bytes().as_slice()].concat()
}

fn record_key(name: &Name) -> Vec<u8> {
    [&[RECORD], name.as_str().as_bytes()].concat()
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("what is stored has keys that are text")
}

fn protobuf(message: &impl protobuf::Message) -> Vec<u8> {
    message
        .write_to_bytes()
        .expect("raft-rs's messages have no required fields")
}

impl StoredMark {
    fn of(mark: &AppliedMark) -> Self {
        Self {
            index: mark.index,
            base: mark.base,
            voters: mark.conf_state.voters.clone(),
            learners: mark.conf_state.learners.clone(),
            seats: mark.seats.clone(),
        }
    }

    fn read(self) -> AppliedMark {
        AppliedMark {
            index: self.index,
            base: self.base,
            conf_state: ConfState {
                voters: self.voters,
                learners: self.learners,
                ..ConfState::default()
            },
            seats: self.seats,
        }
    }
}
