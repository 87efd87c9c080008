//! The write hook: the one way in which a guest's writes reach a replica that is in use (D1, D3).
//!
//! ```text
//!   write:  zone hot, durably ──▶ image ──▶ noted as written ──▶ ended
//!   flush:  begun ──▶ image flushed ──▶ zones may cool
//! ```
//!
//! A write is noted when it has ended, not when it begins. Whoever takes the notes ([`Live::take_written`]) and then
//! reads a leaf either sees a write whole, or finds it in the notes that are taken next.
//!
//! Writes are numbered as they begin: the number is the [`Position`] at which the write lies in the guest's log. Two
//! sites that execute one log number its writes alike. A leaf is read together with a position
//! ([`Live::snapshot`]) if no write to it was under way meanwhile: then it holds every write up to there, and none after.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::image::{FileImage, Image};
use crate::leaf_set::LeafSet;
use crate::replica::{GenerationId, Lineage, Replica, ReplicaError, ReplicaId, Store};
use crate::units::{Run, in_memory, on_disk};

use super::{Position, Unit};

/// A guest's write or flush that failed.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The image failed it.
    #[error("the image: {0}")]
    Image(#[from] io::Error),
    /// What must be durable before it could not be made so: the image was not touched.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
}

/// A replica that a guest writes to.
#[derive(Debug)]
pub struct Live<I, S> {
    image: I,
    state: Mutex<State<S>>,
    /// As [`Replica::doubt_peer`], from the next write on: whoever says so waits for none.
    peer_is_in_doubt: AtomicBool,
}

/// What changes with each write, under one lock that is never held while the image is read or written.
#[derive(Debug)]
struct State<S> {
    replica: Replica<S>,
    written: LeafSet,
    /// Of the last write that has begun.
    last: Position,
    /// Leaves that are being written to, and by how many writes.
    under_way: BTreeMap<u64, u32>,
    /// Leaves that are being read for a snapshot, and whether a write to them has begun since.
    reading: BTreeMap<u64, bool>,
}

impl<S: Store> State<S> {
    fn begin(&mut self, leaves: &Run) -> Position {
        self.last = Position(self.last.0 + 1);
        for leaf in leaves.indices() {
            *self.under_way.entry(leaf).or_insert(0) += 1;
            if let Some(disturbed) = self.reading.get_mut(&leaf) {
                *disturbed = true;
            }
        }
        self.last
    }

    fn end(&mut self, leaves: &Run) {
        for leaf in leaves.indices() {
            match self.under_way.get_mut(&leaf) {
                Some(writes) if *writes > 1 => *writes -= 1,
                _ => drop(self.under_way.remove(&leaf)),
            }
        }
        self.written.insert(leaves);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<I: Image, S: Store> Live<I, S> {
    /// Takes a replica and its image into service, at the position of the last write that it holds.
    pub fn new(image: I, replica: Replica<S>, position: Position) -> Self {
        let state = State {
            replica,
            written: LeafSet::none(image.length()),
            last: position,
            under_way: BTreeMap::new(),
            reading: BTreeMap::new(),
        };
        Self {
            state: Mutex::new(state),
            image,
            peer_is_in_doubt: AtomicBool::new(false),
        }
    }

    /// The image, for reading.
    pub fn image(&self) -> &I {
        &self.image
    }

    /// The replica's own name.
    pub fn replica_id(&self) -> ReplicaId {
        locked(&self.state).replica.id()
    }

    /// Where the last write lies that has begun.
    pub fn position(&self) -> Position {
        locked(&self.state).last
    }

    /// Writes `bytes` from `offset` on, and answers where in the log that is. Writes that overlap must not be under way
    /// at once (R4): nobody could say in which order they were done.
    ///
    /// # Errors
    /// [`LiveError`]. What of an image's write that failed is there, nobody knows; it counts as written.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<Position, LiveError> {
        let range = offset..offset.saturating_add(on_disk(bytes.len()));
        let leaves = self.image.length().leaves_touched(&range);
        let position = {
            let mut state = locked(&self.state);
            let is_in_doubt = self.peer_is_in_doubt.load(Ordering::Relaxed);
            state.replica.doubt_peer(is_in_doubt);
            state.replica.begin_write(&range)?;
            state.begin(&leaves)
        };
        let outcome = self.image.write_at(offset, bytes);
        let mut state = locked(&self.state);
        state.end(&leaves);
        state.replica.end_write(&range);
        drop(state);
        outcome?;
        Ok(position)
    }

    /// Reads a leaf as it is at a position: it holds every write up to there, and none after. None if the guest is
    /// writing to it: ask again later, other leaves first.
    ///
    /// # Errors
    /// The image's.
    pub fn snapshot(&self, unit: Unit) -> io::Result<Option<(Position, Vec<u8>)>> {
        let leaf = unit.0;
        let range = self.image.length().bytes_of(&Run::new(leaf, 1));
        {
            let mut state = locked(&self.state);
            if state.under_way.contains_key(&leaf) || state.reading.contains_key(&leaf) {
                return Ok(None);
            }
            state.reading.insert(leaf, false);
        }
        let mut bytes = vec![0; in_memory(range.end - range.start)];
        let read = self.image.read_at(range.start, &mut bytes);
        let mut state = locked(&self.state);
        let disturbed = state.reading.remove(&leaf).unwrap_or(true);
        read?;
        Ok((!disturbed).then_some((state.last, bytes)))
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// [`LiveError`].
    pub fn flush(&self) -> Result<(), LiveError> {
        let ticket = locked(&self.state).replica.begin_flush();
        self.image.flush()?;
        locked(&self.state).replica.end_flush(ticket);
        Ok(())
    }

    /// The other replica is lost, or there is none: as [`Replica::lose_peer`]. Of a replica that is alone already nothing
    /// changes: whoever is made equal to it goes on with the marks it has.
    pub fn lose_peer(&self, next: GenerationId) {
        let mut state = locked(&self.state);
        if !state.replica.is_alone() {
            state.replica.lose_peer(next);
        }
    }

    /// Whether the other replica follows is in doubt: as [`Replica::doubt_peer`].
    pub fn doubt_peer(&self, is_in_doubt: bool) {
        self.peer_is_in_doubt.store(is_in_doubt, Ordering::Relaxed);
    }

    /// The other replica has become equal to this one, durably, and nothing has been written since: as
    /// [`Replica::peer_is_equal`].
    ///
    /// # Errors
    /// [`LiveError`].
    pub fn peer_is_equal(&self) -> Result<(), LiveError> {
        let nothing = LeafSet::none(self.image.length());
        Ok(locked(&self.state).replica.peer_is_equal(&nothing)?)
    }

    /// What may differ from the replica that it was last equal to.
    pub fn marks(&self) -> LeafSet {
        locked(&self.state).replica.dirty().clone()
    }

    /// Where its content comes from.
    pub fn lineage(&self) -> Option<Lineage> {
        locked(&self.state).replica.lineage().cloned()
    }

    /// It lacks writes from now on: as [`Replica::mark_stale`].
    ///
    /// # Errors
    /// [`LiveError`].
    pub fn mark_stale(&self) -> Result<(), LiveError> {
        Ok(locked(&self.state).replica.mark_stale()?)
    }

    /// What wrote to it was not the machine that it is of: as [`Replica::begin_repair`].
    ///
    /// # Errors
    /// [`LiveError`].
    pub fn begin_repair(&self) -> Result<LeafSet, LiveError> {
        Ok(locked(&self.state).replica.begin_repair()?)
    }

    /// It is that machine's again, durably: as [`Replica::end_repair`].
    ///
    /// # Errors
    /// [`LiveError`].
    pub fn end_repair(&self, marks: LeafSet) -> Result<(), LiveError> {
        Ok(locked(&self.state).replica.end_repair(marks)?)
    }

    /// What was written since this was last asked.
    pub fn take_written(&self) -> LeafSet {
        let nothing = LeafSet::none(self.image.length());
        std::mem::replace(&mut locked(&self.state).written, nothing)
    }

    /// Ends the service; the replica is to be closed.
    pub fn into_parts(self) -> (I, Replica<S>) {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        (self.image, state.replica)
    }
}

impl<S: Store> Live<FileImage, S> {
    /// Ends the service in good order: what was written is durable, and nothing is unsure. Answers with the image, and the
    /// number of the update that ended it.
    ///
    /// # Errors
    /// [`LiveError`]. The next to open the replica finds it in use.
    pub fn close(self) -> Result<(FileImage, u64), LiveError> {
        self.flush()?;
        let (image, replica) = self.into_parts();
        let stamp = image.stamp()?;
        let sequence = replica.close(stamp)?;
        Ok((image, sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::memory::{Faults, MemoryImage};
    use crate::protocol::session::tests::Site;
    use crate::units::{LEAF_BYTES, in_memory};

    const LEAVES: u64 = 64;
    const LEAF: usize = in_memory(LEAF_BYTES);

    fn live() -> Live<MemoryImage, crate::replica::sim_store::SimStore> {
        let site = Site::new(1, vec![0; LEAF * 64], Some(1));
        let replica = site.open();
        Live::new(site.image, replica, Position(0))
    }

    #[test]
    fn passes_over_what_was_written_end_in_an_equal_copy() {
        let live = live();
        let copy = MemoryImage::of(vec![9; LEAF * 64]);
        let pass = |leaves: &LeafSet| {
            let mut leaf_bytes = vec![0; LEAF];
            for leaf in leaves.runs().flat_map(|run| run.indices()) {
                live.image().read_at(leaf * LEAF_BYTES, &mut leaf_bytes).unwrap();
                copy.write_at(leaf * LEAF_BYTES, &leaf_bytes).unwrap();
            }
        };
        let is_stunned = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut at = 1_u64;
                while !is_stunned.load(Ordering::Relaxed) {
                    at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    live.write(at >> 32 & 0x3f_f000, &at.to_le_bytes()).unwrap();
                }
            });
            pass(&LeafSet::all(live.image().length()));
            for _ in 0..5 {
                pass(&live.take_written());
            }
            is_stunned.store(true, Ordering::Relaxed);
        });
        // The writer stands still: the rest.
        pass(&live.take_written());
        assert!(live.image().bytes() == copy.bytes());
        assert!(live.take_written().is_empty());
    }

    #[test]
    fn a_snapshot_holds_every_write_up_to_its_position_and_none_after() {
        // Each write fills a leaf's half with its own position, so that what a snapshot holds can be told.
        let live = live();
        let is_over = AtomicBool::new(false);
        let taken = std::thread::scope(|scope| {
            scope.spawn(|| {
                for at in 1..=20_000_u64 {
                    let half = LEAF / 2;
                    let offset = at % 6 * on_disk(half);
                    let bytes = at.to_le_bytes().repeat(half / 8);
                    assert_eq!(live.write(offset, &bytes).unwrap(), Position(at));
                }
                is_over.store(true, Ordering::Relaxed);
            });
            let mut taken = 0;
            while !is_over.load(Ordering::Relaxed) {
                for leaf in 0..3 {
                    let Some((position, bytes)) = live.snapshot(Unit(leaf)).unwrap() else {
                        continue;
                    };
                    taken += 1;
                    for (half, chunk) in (leaf * 2..).zip(bytes.chunks(LEAF / 2)) {
                        // The last write up to the position that went to this half.
                        let last = (0..6)
                            .map(|back| position.0.saturating_sub(back))
                            .find(|at| at % 6 == half);
                        let expected = last.unwrap_or(0).to_le_bytes().repeat(LEAF / 16);
                        assert!(chunk == expected, "leaf {leaf} at {position:?}");
                    }
                }
            }
            taken
        });
        assert!(taken > 100, "{taken} snapshots were hardly a race");
    }

    #[test]
    fn while_alone_each_write_is_marked_and_a_failed_one_too() {
        let live = live();
        live.write(0, b"paired").unwrap();
        live.lose_peer(GenerationId([2; 16]));
        live.write(LEAF_BYTES * 40 - 1, b"xx").unwrap();
        live.image().set_faults(Faults {
            writes_left: Some(0),
            ..Faults::default()
        });
        assert!(matches!(
            live.write(LEAF_BYTES * 63, b"x"),
            Err(LiveError::Image(_))
        ));
        assert_eq!(live.take_written().count(), 4);
        let (_, replica) = live.into_parts();
        let marked: Vec<u64> = replica.dirty().runs().flat_map(|run| run.indices()).collect();
        // The first write was under way when the peer was lost: nobody knows whether the peer has it.
        assert_eq!(marked, (0..LEAVES).collect::<Vec<_>>());
        assert_eq!(replica.lineage().unwrap().current, GenerationId([2; 16]));
    }
}
