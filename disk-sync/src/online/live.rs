//! The write hook: the one way in which a guest's writes reach a replica that is in use (D1, D3).
//!
//! ```text
//!   write:  extent hot, durably ──▶ image ──▶ noted as written ──▶ ended
//!   flush:  begun ──▶ image flushed ──▶ extents may cool
//! ```
//!
//! A write is noted when it has ended, not when it begins. Whoever takes the notes ([`Live::take_written`]) and then
//! reads a leaf either sees a write whole, or finds it in the notes that are taken next.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::image::Image;
use crate::leaf_set::LeafSet;
use crate::replica::{Admission, GenerationId, Replica, ReplicaError, Store};
use crate::units::on_disk;

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
    replica: Mutex<Replica<S>>,
    written: Mutex<LeafSet>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<I: Image, S: Store> Live<I, S> {
    /// Takes a replica and its image into service.
    pub fn new(image: I, replica: Replica<S>) -> Self {
        Self {
            written: Mutex::new(LeafSet::none(image.length())),
            replica: Mutex::new(replica),
            image,
        }
    }

    /// The image, for reading.
    pub fn image(&self) -> &I {
        &self.image
    }

    /// Writes `bytes` from `offset` on.
    ///
    /// # Errors
    /// [`LiveError`]. What of an image's write that failed is there, nobody knows; it counts as written.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), LiveError> {
        let range = offset..offset.saturating_add(on_disk(bytes.len()));
        loop {
            let admission = locked(&self.replica).begin_write(&range)?;
            match admission {
                Admission::Begun => break,
                Admission::NeedsFlush => self.flush()?,
            }
        }
        let outcome = self.image.write_at(offset, bytes);
        locked(&self.written).insert(&self.image.length().leaves_touched(&range));
        locked(&self.replica).end_write(&range);
        Ok(outcome?)
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// [`LiveError`].
    pub fn flush(&self) -> Result<(), LiveError> {
        let ticket = locked(&self.replica).begin_flush();
        self.image.flush()?;
        locked(&self.replica).end_flush(ticket);
        Ok(())
    }

    /// The other replica is lost: as [`Replica::lose_peer`].
    pub fn lose_peer(&self, next: GenerationId) {
        locked(&self.replica).lose_peer(next);
    }

    /// What was written since this was last asked.
    pub fn take_written(&self) -> LeafSet {
        let nothing = LeafSet::none(self.image.length());
        std::mem::replace(&mut *locked(&self.written), nothing)
    }

    /// Ends the service; the replica is to be closed.
    pub fn into_parts(self) -> (I, Replica<S>) {
        (
            self.image,
            self.replica.into_inner().unwrap_or_else(PoisonError::into_inner),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::image::memory::{Faults, MemoryImage};
    use crate::protocol::session::tests::Site;
    use crate::units::{LEAF_BYTES, in_memory};

    const LEAVES: u64 = 64;
    const LEAF: usize = in_memory(LEAF_BYTES);

    fn live() -> Live<MemoryImage, crate::replica::sim_store::SimStore> {
        let site = Site::new(1, vec![0; LEAF * 64], Some(1));
        let replica = site.open();
        Live::new(site.image, replica)
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
