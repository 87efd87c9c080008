//! What is known of a replica, kept beside it (D1).
//!
//! ```text
//!             create (adopting content)                      begin_sync(key, work)
//!      nothing ──────────────▶ Clean ────────────────────────────────▶ Syncing(key)
//!         │                    │  ▲                                     │  ▲   │
//!         │ create (empty)     │  └──── finish_sync(lineage) ───────────┘  │   │ begin_sync: resumed or begun anew
//!         └──────▶ Stale ◀─────┘ mark_stale                               └───┘
//!                    │  └──────── begin_sync ──────────────────────────────▲
//!                    └─▶ Clean, everything marked: adopt
//! ```
//!
//! A copy that is repaired (H2) is `Syncing` meanwhile, from nobody (`repair`).
//!
//! `Clean` alone may go live. Each arrow is one update of the `header`, durable when the call returns; a crash
//! leaves the state before or the state after.
//!
//! **What a crash leaves unsure.** A zone enters the activity log durably before its first write and leaves only
//! after a flush that began after its last write ended. Whoever opens a replica that was not closed folds the log into the
//! dirty map: those zones may hold writes that the other replica has not, or lack some that it has.
//!
//! **What a peer may not have.** Of two that write alike, one may be ahead when they part: what it wrote last the other one
//! never gets. That lies in its activity log too. So a replica that is not alone keeps the log when it is closed, whatever it
//! has become; and while it is in doubt whether the other one follows, no zone leaves the log.
//!
//! **Marks without cost.** While a replica goes on alone, every write is marked in the dirty map, in memory. The
//! zone being hot already says durably that something in it is unsure, so a mark is written out only when its
//! zone leaves the log. Marks that are taken away are written out lazily, after what made them needless is durable.
//!
//! **While it is synced**, a target's dirty map is the journal: what is marked is still to be compared, and a
//! mark goes once what it stood for is durable. An interrupted sync goes on with the marks that are left, if the
//! source is still the one and of the generation that [`SyncKey`] names.

mod activity;
pub(crate) mod header;
mod identity;
mod loaded;
mod map;
mod repair;
mod store;

#[cfg(test)]
pub(crate) mod crash_tests;
#[cfg(test)]
pub(crate) mod sim_store;

use std::io;
use std::ops::Range;

use crate::codec::Malformed;
use crate::leaf_set::LeafSet;
use crate::units::{EXTENT_LEAVES, ImageLength, Run, in_memory};

pub use activity::FlushTicket;
pub use identity::{GenerationId, Lineage, ReplicaId, State, SyncKey, VmId, VmIdError};
pub(crate) use identity::{read_option, write_option};
pub use loaded::{Creation, Loaded, metadata_bytes};
pub use store::{FileStore, Store};

use activity::Activity;
use header::Header;

/// Metadata that cannot be read, or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The host failed. After a write that failed, nothing is updated any more: see [`ReplicaError::Broken`].
    #[error("the replica's metadata: {0}")]
    Io(#[from] io::Error),
    /// The file holds something else.
    #[error("this is no replica's metadata")]
    Foreign,
    /// It is of a version that is not known here.
    #[error("the replica's metadata is of version {0}; this program knows version {known}", known = header::VERSION)]
    Version(u32),
    /// Both slots are damaged.
    #[error("the replica's metadata is damaged in both of its places")]
    Damaged,
    /// A slot is whole and makes no sense: a defect of the program that wrote it.
    #[error("the replica's metadata makes no sense: {0}")]
    Senseless(Malformed),
    /// It was opened for reading.
    #[error("the replica was opened for reading only")]
    ReadOnly,
    /// An earlier update failed, and it is not known what became of it. Open it again.
    #[error("an earlier update of the replica's metadata failed")]
    Broken,
}

/// What was found when a replica was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovery {
    /// It was not closed: its user died, or its host.
    pub was_in_use: bool,
    /// Zones that were being written to, now marked as dirty.
    pub unsure_zones: usize,
    /// Pages of the dirty map that were not whole, now marked as dirty.
    pub damaged_pages: usize,
}

/// A replica's metadata, open for updates.
#[derive(Debug)]
pub struct Replica<S> {
    store: S,
    header: Header,
    dirty: LeafSet,
    /// Pages of the dirty map that differ from what is in the store.
    unsaved: Vec<bool>,
    activity: Activity,
    /// Under which name to go on with the next write, after the other replica was lost.
    next_generation: Option<GenerationId>,
    broken: bool,
}

impl<S: Store> Replica<S> {
    /// Opens metadata for updates and takes the replica into use.
    ///
    /// # Errors
    /// [`ReplicaError`].
    pub fn open(store: S) -> Result<(Self, Recovery), ReplicaError> {
        let loaded = Loaded::read(&store)?;
        let recovery = Recovery {
            was_in_use: loaded.header.in_use,
            unsure_zones: loaded.header.activity.len(),
            damaged_pages: loaded.damaged_pages,
        };
        let dirty = loaded.marks();
        let activity = Activity::new(loaded.header.length.zones());
        let mut replica = Self {
            unsaved: vec![
                recovery.unsure_zones + recovery.damaged_pages > 0;
                in_memory(map::pages(loaded.header.length))
            ],
            store,
            header: loaded.header,
            dirty,
            activity,
            next_generation: None,
            broken: false,
        };
        // The marks must be durable before the log that they come from is empty.
        replica.save_map()?;
        let next = Header {
            in_use: true,
            stamp: None,
            activity: Vec::new(),
            ..replica.header.clone()
        };
        replica.save(next)?;
        Ok((replica, recovery))
    }

    /// Ends the use in good order, and answers with the number of the update that did so. `stamp` is what the image looks
    /// like now. Zones that were written to since the last flush stay unsure; of one that is not alone, all that were
    /// written to since the other one was equal: how much of that the other one has, nobody says.
    ///
    /// # Errors
    /// [`ReplicaError`]. The next to open it finds it in use.
    pub fn close(mut self, stamp: Option<[u8; 32]>) -> Result<u64, ReplicaError> {
        self.save_map()?;
        let leaving = if self.is_alone() {
            self.activity.sure()
        } else {
            self.activity.untouched()
        };
        self.activity.leave(&leaving);
        let next = Header {
            in_use: false,
            stamp,
            ..self.current()
        };
        self.save(next)?;
        Ok(self.header.sequence)
    }

    /// Of which VM.
    pub fn vm(&self) -> &VmId {
        &self.header.vm
    }

    /// The replica's own name.
    pub fn id(&self) -> ReplicaId {
        self.header.replica
    }

    /// The image's length.
    pub fn length(&self) -> ImageLength {
        self.header.length
    }

    /// What may be done with it.
    pub fn state(&self) -> State {
        self.header.state
    }

    /// Where its content comes from.
    pub fn lineage(&self) -> Option<&Lineage> {
        self.header.lineage.as_ref()
    }

    /// Whether it goes on alone: its writes are marked, or will be from the next one on.
    pub fn is_alone(&self) -> bool {
        self.header.tracking || self.next_generation.is_some()
    }

    /// What may differ from the replica that it was last equal to; of one that is being synced, what is still to be
    /// compared.
    pub fn dirty(&self) -> &LeafSet {
        &self.dirty
    }

    /// The image was written to and nobody marked where: everything may differ, and that outlives this use.
    ///
    /// # Errors
    /// [`ReplicaError`].
    pub fn mark_everything(&mut self) -> Result<(), ReplicaError> {
        self.dirty.insert(&self.header.length.all_leaves());
        self.unsaved.fill(true);
        self.save_map()
    }

    /// The other replica is lost: writes are marked from now on, and the first of them begins `next`. What is hot and was
    /// written to is marked at once, for nobody knows how much of it the other one has.
    pub fn lose_peer(&mut self, next: GenerationId) {
        let hot: Vec<u32> = self.activity.written().collect();
        for zone in hot {
            self.mark(&self.header.length.leaves_of_zone(zone));
        }
        self.next_generation = Some(next);
        self.activity.keep(false);
    }

    /// Whether the other replica still gets what is written here is in doubt, or is not any more. As long as it is, no zone
    /// leaves the activity log: one that was written to in the meantime must be found there when it comes out that the
    /// other one has gone on without that.
    pub fn doubt_peer(&mut self, is_in_doubt: bool) {
        self.activity.keep(is_in_doubt && !self.is_alone());
    }

    /// Makes sure that `bytes` may be written to: they may once this returns. Call [`Replica::end_write`] afterwards.
    ///
    /// # Errors
    /// [`ReplicaError`]: they must not be written to.
    pub fn begin_write(&mut self, bytes: &Range<u64>) -> Result<(), ReplicaError> {
        let zones = self.header.length.zones_touched(bytes);
        let is_cold = |zone: &u32| !self.activity.is_hot(*zone);
        let cold: Vec<u32> = zones.clone().filter(is_cold).collect();
        let leaving = self.activity.due(&zones);
        if !cold.is_empty() || !leaving.is_empty() || self.next_generation.is_some() {
            self.admit(&cold, &leaving)?;
        }
        for zone in zones {
            self.activity.begin(zone);
        }
        if self.header.tracking {
            self.mark(&self.header.length.leaves_touched(bytes));
        }
        Ok(())
    }

    /// Writes `cold` down, and that `leaving` are sure.
    fn admit(&mut self, cold: &[u32], leaving: &[u32]) -> Result<(), ReplicaError> {
        if self.broken {
            return Err(ReplicaError::Broken);
        }
        if !leaving.is_empty() {
            self.save_map()?;
        }
        let ahead = self.activity.ahead(cold);
        let mut next = self.current();
        // Both in rising order.
        next.activity.retain(|zone| leaving.binary_search(zone).is_err());
        next.activity.extend(cold.iter().chain(&ahead));
        next.activity.sort_unstable();
        if let Some(generation) = self.next_generation {
            match &mut next.lineage {
                Some(lineage) => lineage.advance(generation),
                none => *none = Some(Lineage::new(generation)),
            }
            next.tracking = true;
        }
        self.save(next)?;
        self.next_generation = None;
        self.activity.leave(leaving);
        if !cold.is_empty() {
            self.activity.enter(&ahead);
        }
        Ok(())
    }

    /// A write that had begun has ended, well or badly.
    pub fn end_write(&mut self, bytes: &Range<u64>) {
        for zone in self.header.length.zones_touched(bytes) {
            self.activity.end(zone);
        }
    }

    /// A flush of the image begins.
    pub fn begin_flush(&mut self) -> FlushTicket {
        self.activity.begin_flush()
    }

    /// That flush has succeeded.
    pub fn end_flush(&mut self, ticket: FlushTicket) {
        self.activity.end_flush(ticket);
    }

    /// It lacks writes from now on.
    ///
    /// # Errors
    /// [`ReplicaError`].
    pub fn mark_stale(&mut self) -> Result<(), ReplicaError> {
        let next = Header {
            state: State::Stale,
            ..self.current()
        };
        self.save(next)
    }

    /// It may go live with what it holds, whatever it lacks: an operator says so. What it lacks is marked nowhere, so
    /// everything counts as marked from now on, beside what was; where it comes from it still comes from. Of a replica
    /// that is not stale, or never held anything, nothing changes.
    ///
    /// # Errors
    /// [`ReplicaError`].
    pub fn adopt(&mut self) -> Result<(), ReplicaError> {
        if self.header.state != State::Stale || self.header.lineage.is_none() {
            return Ok(());
        }
        // In this order: a clean one without these marks would look like what it was once equal to.
        self.mark_everything()?;
        let next = Header {
            state: State::Clean,
            ..self.current()
        };
        self.save(next)
    }

    /// It is about to be overwritten where `work` says, to become what `key` names. Durable before this returns, so
    /// that a crash finds it unusable rather than half new.
    ///
    /// # Errors
    /// [`ReplicaError`]: nothing may be overwritten.
    pub fn begin_sync(&mut self, key: SyncKey, work: &LeafSet) -> Result<(), ReplicaError> {
        self.dirty.unite(work);
        self.unsaved.fill(true);
        self.save_map()?;
        let next = Header {
            state: State::Syncing(key),
            tracking: false,
            ..self.current()
        };
        self.save(next)
    }

    /// These leaves need no comparing any more. The image was flushed since they were written.
    ///
    /// # Errors
    /// [`ReplicaError`].
    pub fn settle(&mut self, leaves: &LeafSet) -> Result<(), ReplicaError> {
        for run in leaves.runs() {
            self.dirty.remove(&run);
            for extent in (run.first / EXTENT_LEAVES)..run.end().div_ceil(EXTENT_LEAVES) {
                self.touch_page(extent);
            }
        }
        self.save_map()
    }

    /// It is equal to a replica of this lineage, durably and verified, and nothing has been written since.
    ///
    /// # Errors
    /// [`ReplicaError`].
    pub fn finish_sync(&mut self, lineage: Lineage) -> Result<(), ReplicaError> {
        self.dirty.clear();
        self.unsaved.fill(true);
        let next = Header {
            state: State::Clean,
            tracking: false,
            lineage: Some(Lineage {
                base: None,
                ..lineage
            }),
            ..self.current()
        };
        self.next_generation = None;
        // In this order: marks that are gone while the state still says otherwise would be a sync that settled all.
        self.save_map()?;
        self.save(next)
    }

    /// Another replica has become equal to this one, durably and verified. `but` is what was written here since it
    /// was compared: it stays marked.
    ///
    /// # Errors
    /// [`ReplicaError`].
    pub fn peer_is_equal(&mut self, but: &LeafSet) -> Result<(), ReplicaError> {
        self.dirty.clear();
        self.dirty.unite(but);
        self.unsaved.fill(true);
        let mut next = self.current();
        next.tracking = !but.is_empty();
        if but.is_empty() {
            // It was alone and wrote nothing: there is nothing to go on from under another name.
            self.next_generation = None;
            self.activity.peer_is_equal();
        }
        if let Some(lineage) = next.lineage.as_mut().filter(|_| but.is_empty()) {
            lineage.base = None;
        }
        self.save_map()?;
        self.save(next)
    }

    fn mark(&mut self, leaves: &Run) {
        self.dirty.insert(leaves);
        for extent in (leaves.first / EXTENT_LEAVES)..leaves.end().div_ceil(EXTENT_LEAVES) {
            self.touch_page(extent);
        }
    }

    fn touch_page(&mut self, extent: u64) {
        if let Some(unsaved) = self.unsaved.get_mut(in_memory(extent / map::PAGE_EXTENTS)) {
            *unsaved = true;
        }
    }

    /// The header with the zones that are hot now.
    fn current(&self) -> Header {
        Header {
            activity: self.activity.zones().collect(),
            ..self.header.clone()
        }
    }

    /// Writes the pages of the dirty map that have changed.
    fn save_map(&mut self) -> Result<(), ReplicaError> {
        if self.broken {
            return Err(ReplicaError::Broken);
        }
        if !self.unsaved.contains(&true) {
            return Ok(());
        }
        // Until they are durable it is not known what they are: a failure leaves them to be told dirty.
        self.broken = true;
        for (page, unsaved) in (0..).zip(&mut self.unsaved) {
            if std::mem::take(unsaved) {
                self.store
                    .write_at(map::page_offset(page), &map::encode(page, &self.dirty))?;
            }
        }
        self.store.sync()?;
        self.broken = false;
        Ok(())
    }

    /// Puts `next` in force.
    fn save(&mut self, next: Header) -> Result<(), ReplicaError> {
        if self.broken {
            return Err(ReplicaError::Broken);
        }
        let next = Header {
            sequence: self.header.sequence + 1,
            ..next
        };
        self.broken = true;
        self.store
            .write_at(header::slot_offset(next.sequence), &next.encode())?;
        self.store.sync()?;
        self.broken = false;
        self.header = next;
        Ok(())
    }
}
