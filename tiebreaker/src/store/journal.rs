//! Batches that are in the store as one key each, until they are taken apart. Pure: the simulator keeps them so, too.
//!
//! ```text
//!   j NUMBER          what batch NUMBER does, which is in no other key yet
//!                     how many keys go, how many get a value; those that go, then keys and their values,
//!                     each with its length before it: all numbers in 4 bytes, big-endian
//! ```
//!
//! sled writes a transaction in two pieces, one after the other, and waits for the disk each time; a single key is whole
//! by itself and takes one. Each claim waits for such a write, so the batches that claims make are one key. After some of
//! them, or with a batch that is long anyway, one transaction does what all of them do and takes their keys away.

use std::collections::BTreeMap;

use super::ContentError;
use super::layout::{Writes, is_cleared};
use crate::limits::{JOURNAL_BATCHES_MAX, JOURNAL_BYTES_MAX};

const JOURNAL: u8 = b'j';

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What was not taken apart yet.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    keys: Vec<Vec<u8>>,
    /// What they do together: of each key its value, or none of one that goes.
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

/// How a batch is written.
#[derive(Debug, PartialEq, Eq)]
pub enum Write {
    /// As one key with its value.
    One(Vec<u8>, Vec<u8>),
    /// As a transaction that does what the whole journal does, too.
    All(Writes),
}

impl Journal {
    /// Splits what is in a store into its journal and the rest, and does to the rest what the journal says.
    ///
    /// # Errors
    /// Where the journal has what is no batch.
    pub fn replay(pairs: Pairs) -> Result<(Self, Pairs), ContentError> {
        let (journalled, rest): (Pairs, Pairs) = pairs
            .into_iter()
            .partition(|(key, _)| key.first() == Some(&JOURNAL));
        let mut journal = Self::default();
        // The store gives keys in their order, which is that of the numbers.
        for (key, value) in journalled {
            let writes = decode(&value)
                .ok_or_else(|| ContentError::Unreadable(String::from_utf8_lossy(&key).into_owned()))?;
            journal.note(key, &writes);
        }
        let mut content: BTreeMap<_, _> = rest.into_iter().collect();
        for (key, change) in &journal.changes {
            match change {
                Some(value) => content.insert(key.clone(), value.clone()),
                None => content.remove(key),
            };
        }
        Ok((journal, content.into_iter().collect()))
    }

    /// How to write the store's `number`th batch; it counts as written.
    pub fn take(&mut self, writes: Writes, number: u64) -> Write {
        if !writes.clears && self.keys.len() < JOURNAL_BATCHES_MAX {
            let value = encode(&writes);
            if value.len() <= JOURNAL_BYTES_MAX {
                let key = [&[JOURNAL], number.to_be_bytes().as_slice()].concat();
                self.note(key.clone(), &writes);
                return Write::One(key, value);
            }
        }
        let Self { keys, mut changes } = std::mem::take(self);
        if writes.clears {
            changes.retain(|key, _| !is_cleared(key));
        }
        let clears = writes.clears;
        changes.extend(writes.removed.into_iter().map(|key| (key, None)));
        changes.extend(writes.put.into_iter().map(|(key, value)| (key, Some(value))));
        changes.extend(keys.into_iter().map(|key| (key, None)));
        let mut all = Writes {
            clears,
            ..Writes::default()
        };
        for (key, change) in changes {
            match change {
                Some(value) => all.put.push((key, value)),
                None => all.removed.push(key),
            }
        }
        Write::All(all)
    }

    fn note(&mut self, key: Vec<u8>, writes: &Writes) {
        self.keys.push(key);
        self.changes.extend(changes_of(writes));
    }
}

fn changes_of(writes: &Writes) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
    let removed = writes.removed.iter().map(|key| (key.clone(), None));
    let put = writes
        .put
        .iter()
        .map(|(key, value)| (key.clone(), Some(value.clone())));
    removed.chain(put)
}

fn encode(writes: &Writes) -> Vec<u8> {
    let length = |count: usize| {
        let count = u32::try_from(count).expect("a batch has bounded parts");
        count.to_be_bytes()
    };
    let mut bytes = [length(writes.removed.len()), length(writes.put.len())].concat();
    let put = writes.put.iter().flat_map(|(key, value)| [key, value]);
    for part in writes.removed.iter().chain(put) {
        bytes.extend(length(part.len()));
        bytes.extend(part);
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<Writes> {
    let mut rest = bytes;
    let (removed, put) = (number(&mut rest)?, number(&mut rest)?);
    let mut writes = Writes::default();
    for _ in 0..removed {
        writes.removed.push(part(&mut rest)?);
    }
    for _ in 0..put {
        writes.put.push((part(&mut rest)?, part(&mut rest)?));
    }
    rest.is_empty().then_some(writes)
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let (number, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    usize::try_from(u32::from_be_bytes(*number)).ok()
}

fn part(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let length = number(rest)?;
    let (part, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(part.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(removed: &[&str], put: &[(&str, &str)]) -> Writes {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Writes {
            clears: false,
            removed: removed.iter().map(|key| bytes(key)).collect(),
            put: put
                .iter()
                .map(|(key, value)| (bytes(key), bytes(value)))
                .collect(),
        }
    }

    /// A store's content, changed as `write` says.
    fn apply(store: &mut BTreeMap<Vec<u8>, Vec<u8>>, write: Write) {
        match write {
            Write::One(key, value) => drop(store.insert(key, value)),
            Write::All(all) => {
                if all.clears {
                    store.retain(|key, _| !is_cleared(key));
                }
                all.removed.iter().for_each(|key| drop(store.remove(key)));
                store.extend(all.put);
            }
        }
    }

    #[test]
    fn whatever_way_batches_are_written_the_same_is_read() {
        let (mut store, mut plain) = (BTreeMap::new(), BTreeMap::new());
        let mut journal = Journal::default();
        let long = "x".repeat(JOURNAL_BYTES_MAX);
        let mut transactions = 0;
        for number in 1..=300_u64 {
            let (entry, before) = (format!("l{number}"), format!("l{}", number - number % 3));
            let mut batch = writes(&[&before], &[("h", &entry), (&entry, "an entry")]);
            if number % 50 == 0 {
                batch.put.push((b"r1".to_vec(), long.clone().into_bytes()));
            }
            batch.clears = number % 111 == 0;
            apply(&mut plain, Write::All(batch.clone()));
            let write = journal.take(batch, number);
            transactions += u64::from(matches!(write, Write::All(_)));
            apply(&mut store, write);
            let pairs: Pairs = store.clone().into_iter().collect();
            let (reopened, content) = Journal::replay(pairs).unwrap();
            assert_eq!(
                content.into_iter().collect::<BTreeMap<_, _>>(),
                plain,
                "after batch {number}"
            );
            if number % 7 == 0 {
                journal = reopened;
            }
        }
        assert!((5..20).contains(&transactions), "{transactions}");
        assert!(store.len() < 64 + 300);
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        let good = encode(&writes(&["a"], &[("key", "value")]));
        assert_eq!(decode(&good), Some(writes(&["a"], &[("key", "value")])));
        for end in 0..good.len() {
            let pairs = vec![(b"j1".to_vec(), good[..end].to_vec())];
            let read = Journal::replay(pairs);
            assert!(
                matches!(read, Err(ContentError::Unreadable(_))),
                "{end} bytes of it"
            );
        }
        let mut many = good;
        many[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(decode(&many), None);
    }
}
