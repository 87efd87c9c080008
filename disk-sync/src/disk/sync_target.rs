//! A replica that becomes the copy of a running machine's disk (P6, D4). And what a replica is, and what an operator may
//! make of it, while nobody uses it.
//!
//! What is to be looked at is decided by lineage, by the same table as any sync. One that never held anything is made all
//! zeros, and gets what is none. Any other keeps what it has: its source names the hashes of what may differ, and sends
//! what does. What was looked at is settled now and then, so that a transfer which was interrupted goes on from there.

use std::io;

use super::{DiskError, InUse, Opened, Paths, metadata_error, take_into_use};
use crate::decision::{Consent, Decision, Outcome, Relation, Summary, decide};
use crate::image::{Access, FileImage, Image};
use crate::leaf_set::LeafSet;
use crate::replica::{FileStore, GenerationId, Lineage, Replica, ReplicaId, State, SyncKey, VmId};
use crate::units::{ImageLength, Run, in_memory};

/// A replica that says `syncing` until all of it is there.
#[derive(Debug)]
pub struct SyncTarget {
    paths: Paths,
    image: FileImage,
    replica: Replica<FileStore>,
    decision: Decision,
    marks: LeafSet,
}

/// What names the content of leaf `index`.
///
/// # Errors
/// The image's, and `InvalidInput` for what is no leaf of it.
pub fn leaf_hash(image: &impl Image, index: u64) -> io::Result<[u8; 32]> {
    let length = image.length();
    if index >= length.leaves() {
        return Err(no_leaf(index));
    }
    let range = length.bytes_of(&Run::new(index, 1));
    let mut bytes = vec![0; in_memory(range.end - range.start)];
    image.read_at(range.start, &mut bytes)?;
    Ok(*blake3::hash(&bytes).as_bytes())
}

fn no_leaf(index: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("the image has no leaf {index}"),
    )
}

/// The replica of a running machine that another one becomes a copy of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Of which VM.
    pub vm: VmId,
    /// Its own name.
    pub replica: ReplicaId,
    /// Where its content comes from; none if it holds nothing.
    pub lineage: Option<Lineage>,
    /// Bytes of its image.
    pub byte_count: u64,
}

/// What is to be looked at, unless overwriting what is there does harm: what it alone holds is lost by consent alone.
fn decided(paths: &Paths, opened: &Opened, origin: &Origin, consent: Consent) -> Result<Decision, DiskError> {
    let source = Summary {
        vm: origin.vm.clone(),
        replica: origin.replica,
        // A machine runs on it.
        state: State::Clean,
        lineage: origin.lineage.clone(),
        // It adds its own, whatever is decided here.
        has_marks: false,
        was_changed_behind: false,
    };
    let target = opened.idle.summary();
    let decision = decide(&source, &target, consent);
    let path = paths.image.clone();
    if decision.outcome == Outcome::Refuse {
        return Err(DiskError::Refused { path, decision });
    }
    let (found, expected) = (opened.image.length().bytes(), origin.byte_count);
    if found != expected {
        return Err(DiskError::OtherLength {
            path,
            found,
            expected,
        });
    }
    Ok(decision)
}

impl SyncTarget {
    /// Opens a replica to make it a copy of `origin`. It says `syncing` durably before anything is overwritten; one that
    /// never held anything is all zeros then.
    ///
    /// # Errors
    /// [`DiskError`]. What is refused, by the same table as a sync, is left as it was.
    pub fn begin(paths: Paths, origin: &Origin, consent: Consent) -> Result<Self, DiskError> {
        let opened = Opened::at(&paths, Access::Write, true)?;
        let decision = decided(&paths, &opened, origin, consent)?;
        let InUse {
            image, mut replica, ..
        } = take_into_use(&paths, opened).map_err(|error| metadata_error(&paths, error))?;
        let marks = match decision.outcome {
            Outcome::Full => LeafSet::all(image.length()),
            _ => replica.dirty().clone(),
        };
        let key = SyncKey {
            source: origin.replica,
            // A source that goes on alone keeps this name, and marks what it writes, until the copy is equal.
            generation: origin
                .lineage
                .as_ref()
                .map_or(GenerationId(origin.replica.0), |lineage| lineage.current),
        };
        let begun = replica.begin_sync(key, &marks);
        begun.map_err(|error| metadata_error(&paths, error))?;
        if decision.relation == Relation::Blank {
            let cleared = image.write_zeros(0..image.length().bytes());
            cleared.map_err(|error| metadata_error(&paths, error.into()))?;
        }
        Ok(Self {
            paths,
            image,
            replica,
            decision,
            marks,
        })
    }

    /// What is done, and why.
    #[must_use]
    pub fn decision(&self) -> Decision {
        self.decision
    }

    /// Whether it is all zeros, with nothing in it that would be worth comparing.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.decision.relation == Relation::Blank
    }

    /// What of it may differ as far as this end knows; the source adds what it knows.
    #[must_use]
    pub fn marks(&self) -> &LeafSet {
        &self.marks
    }

    /// The image's length.
    #[must_use]
    pub fn length(&self) -> ImageLength {
        self.image.length()
    }

    /// What names the content of leaf `index` now.
    ///
    /// # Errors
    /// As of [`leaf_hash`].
    pub fn leaf_hash(&self, index: u64) -> io::Result<[u8; 32]> {
        leaf_hash(&self.image, index)
    }

    /// These leaves are as the source had them, or will be: it marks what it writes to them from here on. Durable when this
    /// returns.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn settle(&mut self, leaves: &LeafSet) -> Result<(), DiskError> {
        let failed = |error| metadata_error(&self.paths, error);
        self.image.flush().map_err(|error| failed(error.into()))?;
        self.replica.settle(leaves).map_err(failed)
    }

    /// Writes the bytes of leaf `index`.
    ///
    /// # Errors
    /// The image's, and `InvalidInput` for what is no leaf of it.
    pub fn write_leaf(&self, index: u64, bytes: &[u8]) -> io::Result<()> {
        let length = self.image.length();
        let range = length.bytes_of(&Run::new(index.min(length.leaves()), 1));
        if index >= length.leaves() || range.end - range.start != bytes.len() as u64 {
            return Err(no_leaf(index));
        }
        self.image.write_at(range.start, bytes)
    }

    /// All of it is there, and is of this lineage: it is made durable, and then clean.
    ///
    /// # Errors
    /// [`DiskError`]; it is still `syncing` then.
    pub fn finish(mut self, current: [u8; 16], history: Vec<[u8; 16]>) -> Result<(), DiskError> {
        let failed = |error| metadata_error(&self.paths, error);
        self.image.flush().map_err(|error| failed(error.into()))?;
        let lineage = Lineage {
            current: GenerationId(current),
            base: None,
            history: history.into_iter().map(GenerationId).collect(),
        };
        self.replica.finish_sync(lineage).map_err(failed)?;
        let stamp = self.image.stamp().map_err(|error| failed(error.into()))?;
        self.replica.close(stamp).map(drop).map_err(failed)
    }
}

/// What may be done with a replica that nobody uses.
///
/// # Errors
/// [`DiskError`].
pub fn state_of(paths: &Paths) -> Result<State, DiskError> {
    Ok(Opened::at(paths, Access::Read, false)?.idle.loaded.state())
}

/// Makes a stale replica one that may go live, durably, whatever it lacks: by an operator's word (T4), as
/// [`Replica::adopt`]. One that is being synced is half another's, and stays what it is.
///
/// # Errors
/// [`DiskError`].
pub fn adopt(paths: &Paths) -> Result<(), DiskError> {
    let failed = |error| metadata_error(paths, error);
    let InUse {
        image, mut replica, ..
    } = take_into_use(paths, Opened::at(paths, Access::Write, true)?).map_err(failed)?;
    replica.adopt().map_err(failed)?;
    let stamp = image.stamp().map_err(|error| failed(error.into()))?;
    replica.close(stamp).map(drop).map_err(failed)
}

/// Says durably that a replica that nobody uses lacks writes; and, if its content `is_doubtful`, that it may differ
/// anywhere: whoever wrote to it was not the machine that its marks speak of.
///
/// # Errors
/// [`DiskError`].
pub fn mark_stale(paths: &Paths, is_doubtful: bool) -> Result<(), DiskError> {
    let failed = |error| metadata_error(paths, error);
    let InUse {
        image, mut replica, ..
    } = take_into_use(paths, Opened::at(paths, Access::Write, true)?).map_err(failed)?;
    if is_doubtful {
        replica.mark_everything().map_err(failed)?;
    }
    replica.mark_stale().map_err(failed)?;
    let stamp = image.stamp().map_err(|error| failed(error.into()))?;
    replica.close(stamp).map(drop).map_err(failed)
}
