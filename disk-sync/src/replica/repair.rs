//! A replica whose copy of the VM is repaired (H2).
//!
//! ```text
//!   clean ── begin_repair ─▶ syncing, everything marked ── end_repair ─▶ clean, marked as it was
//!                                      └── its user dies: to be compared everywhere
//! ```

use super::{GenerationId, Header, LeafSet, Replica, ReplicaError, State, Store, SyncKey};

impl<S: Store> Replica<S> {
    /// It is another machine's for the time being: whoever wrote to it was not the one that its marks speak of, and it is
    /// about to be overwritten where that shows (H2). Durable before this returns: a crash finds it half another's, and to be
    /// compared everywhere. Answers with its marks, for [`Self::end_repair`].
    ///
    /// # Errors
    /// [`ReplicaError`]: nothing may be overwritten.
    pub fn begin_repair(&mut self) -> Result<LeafSet, ReplicaError> {
        let marks = self.dirty.clone();
        // No sync goes on from it: nobody is made equal to itself.
        let key = SyncKey {
            source: self.header.replica,
            generation: GenerationId(self.header.replica.0),
        };
        self.begin_sync(key, &LeafSet::all(self.header.length))?;
        Ok(marks)
    }

    /// It is what its lineage says again, durably and verified; `marks` are what they were when its repair began.
    ///
    /// # Errors
    /// [`ReplicaError`].
    pub fn end_repair(&mut self, marks: LeafSet) -> Result<(), ReplicaError> {
        self.dirty = marks;
        self.unsaved.fill(true);
        self.save_map()?;
        let next = Header {
            state: State::Clean,
            ..self.current()
        };
        self.save(next)
    }
}
