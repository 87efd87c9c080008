//! A replica that is filled by somebody who knows which leaves: a running machine's disk, while it is copied (P6). And what
//! a replica is, and what an operator may make of it, while nobody uses it.

use std::io;

use super::{DiskError, InUse, Opened, Paths, metadata_error, take_into_use};
use crate::decision::{Consent, Outcome, Summary, decide};
use crate::image::{Access, FileImage, Image};
use crate::leaf_set::LeafSet;
use crate::replica::{FileStore, GenerationId, Lineage, Replica, ReplicaId, State, SyncKey, VmId};
use crate::units::Run;

/// A replica that says `syncing` until all of it is there.
#[derive(Debug)]
pub struct SyncTarget {
    paths: Paths,
    image: FileImage,
    replica: Replica<FileStore>,
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

/// Whether overwriting what is there does no harm: nothing that it alone holds is lost.
fn check_may_become(paths: &Paths, opened: &Opened, origin: &Origin) -> Result<(), DiskError> {
    let source = Summary {
        vm: origin.vm.clone(),
        replica: origin.replica,
        // A machine runs on it.
        state: State::Clean,
        lineage: origin.lineage.clone(),
        has_marks: false,
        was_changed_behind: false,
    };
    let target = opened.idle.summary();
    let decision = decide(&source, &target, Consent::default());
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
    Ok(())
}

impl SyncTarget {
    /// Opens a replica to make it a copy of `origin`, and makes it all zeros: whoever fills it leaves zeros out. It says
    /// `syncing` durably before that begins.
    ///
    /// # Errors
    /// [`DiskError`]. What is refused, by the same table as a sync, is left as it was.
    pub fn begin(paths: Paths, origin: &Origin) -> Result<Self, DiskError> {
        let opened = Opened::at(&paths, Access::Write, true)?;
        check_may_become(&paths, &opened, origin)?;
        let InUse {
            image, mut replica, ..
        } = take_into_use(&paths, opened).map_err(|error| metadata_error(&paths, error))?;
        let key = SyncKey {
            source: origin.replica,
            // The source goes on being written to: what it will be called is known at the end.
            generation: GenerationId(origin.replica.0),
        };
        let begun = replica.begin_sync(key, &LeafSet::all(image.length()));
        begun.map_err(|error| metadata_error(&paths, error))?;
        let cleared = image.write_zeros(0..image.length().bytes());
        cleared.map_err(|error| metadata_error(&paths, error.into()))?;
        Ok(Self {
            paths,
            image,
            replica,
        })
    }

    /// Writes the bytes of leaf `index`.
    ///
    /// # Errors
    /// The image's, and `InvalidInput` for what is no leaf of it.
    pub fn write_leaf(&self, index: u64, bytes: &[u8]) -> io::Result<()> {
        let length = self.image.length();
        let range = length.bytes_of(&Run::new(index.min(length.leaves()), 1));
        if index >= length.leaves() || range.end - range.start != bytes.len() as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} bytes are no leaf {index} of it", bytes.len()),
            ));
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

/// Says durably that a replica that nobody uses lacks writes.
///
/// # Errors
/// [`DiskError`].
pub fn mark_stale(paths: &Paths) -> Result<(), DiskError> {
    let failed = |error| metadata_error(paths, error);
    let InUse {
        image, mut replica, ..
    } = take_into_use(paths, Opened::at(paths, Access::Write, true)?).map_err(failed)?;
    replica.mark_stale().map_err(failed)?;
    let stamp = image.stamp().map_err(|error| failed(error.into()))?;
    replica.close(stamp).map(drop).map_err(failed)
}
