//! A replica that becomes the copy of a running machine's disk (P6, D4). And what a replica is, and what an operator may
//! make of it, while nobody uses it.
//!
//! What is to be looked at is decided by lineage, by the same table as any sync. One that never held anything is made all
//! zeros, and gets what is none. Any other keeps what it has: its source names the hashes of what may differ, and sends
//! what does. What was looked at is settled now and then, so that a transfer which was interrupted goes on from there.

use std::io;
use std::sync::OnceLock;

use super::{DiskError, InUse, Opened, Paths, metadata_error, take_into_use};
use crate::decision::{Consent, Decision, Outcome, Relation, Summary, decide};
use crate::image::{Access, FileImage, Image};
use crate::leaf_set::LeafSet;
use crate::replica::{FileStore, GenerationId, Lineage, Replica, ReplicaId, State, SyncKey, VmId};
use crate::tree::{Found, Threads, Value, Wanted, hash_regions, leaf_value};
use crate::units::{ImageLength, LEAF_BYTES, MEBIBYTE, Run, in_memory};

/// Bytes written after which they are read back: whoever sends waits for that, so it must not take long on a slow disk.
const READ_BACK_BYTES: u64 = 64 * MEBIBYTE;

/// As [`READ_BACK_BYTES`], in a moment when the guest waits for nothing: what is left then is left for one when it does.
const READ_BACK_SOON_BYTES: u64 = 4 * MEBIBYTE;

/// A replica that says `syncing` until all of it is there, and was read back from the disk.
///
/// Of each leaf that is written a check of what it was given is kept, 8 bytes, which what it reads as is compared with: the
/// peer can be believed, it is the disk here that is tested. A leaf that is not written was found equal by its hash, or was
/// durable before. What was written is read back piece by piece on the way, so that little is
/// left for the end, for which a guest stands still.
#[derive(Debug)]
pub struct SyncTarget {
    paths: Paths,
    image: FileImage,
    replica: Replica<FileStore>,
    decision: Decision,
    marks: LeafSet,
    /// What each leaf that was written shall read as; 0 for zeros.
    checks: Vec<u64>,
    /// Leaves that were written and not yet read back.
    unread: LeafSet,
    unread_bytes: u64,
}

/// What is kept of a leaf's value.
fn check_of(value: &Value) -> u64 {
    u64::from_le_bytes(*value.0.first_chunk().unwrap_or(&[0; 8]))
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
    Ok(leaf_value(range.start, &bytes).0)
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
        let length = image.length();
        let mut target = Self {
            paths,
            image,
            replica,
            decision,
            marks,
            checks: vec![0; in_memory(length.leaves())],
            unread: LeafSet::none(length),
            unread_bytes: 0,
        };
        let made_ready = target.make_ready();
        made_ready.map_err(|source| target.unverified(source))?;
        Ok(target)
    }

    /// One that never held anything is made all zeros; of any other, what is compared is what the disk has, not what the
    /// host may have kept in memory because it could not write it.
    fn make_ready(&mut self) -> io::Result<()> {
        let length = self.image.length();
        let all = 0..length.bytes();
        if self.is_blank() {
            self.image.write_zeros(all)?;
            self.unread = LeafSet::all(length);
            return self.read_back();
        }
        self.image.flush()?;
        self.image.forget_cached(all);
        Ok(())
    }

    fn unverified(&self, source: io::Error) -> DiskError {
        DiskError::Unverified {
            path: self.paths.image.clone(),
            source,
        }
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

    /// The host may begin to read `leaves`, which are asked for in this order; what is no leaf is none.
    pub fn read_ahead(&self, leaves: impl IntoIterator<Item = u64>) {
        let length = self.image.length();
        for index in leaves.into_iter().filter(|index| *index < length.leaves()) {
            self.image.read_ahead(length.bytes_of(&Run::new(index, 1)));
        }
    }

    /// These leaves are as the source had them, or will be: it marks what it writes to them from here on. What was written
    /// is durable and read back when this returns.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn settle(&mut self, leaves: &LeafSet) -> Result<(), DiskError> {
        self.read_back().map_err(|error| self.unverified(error))?;
        let settled = self.replica.settle(leaves);
        settled.map_err(|error| metadata_error(&self.paths, error))
    }

    /// Writes the bytes of leaf `index`.
    ///
    /// # Errors
    /// The image's, `InvalidInput` for what is no leaf of it, and `InvalidData` if the disk does not keep what is written.
    pub fn write_leaf(&mut self, index: u64, bytes: &[u8]) -> io::Result<()> {
        let length = self.image.length();
        let range = length.bytes_of(&Run::new(index.min(length.leaves()), 1));
        if index >= length.leaves() || range.end - range.start != bytes.len() as u64 {
            return Err(no_leaf(index));
        }
        self.image.write_at(range.start, bytes)?;
        self.checks[in_memory(index)] = check_of(&leaf_value(range.start, bytes));
        self.unread.insert(&Run::new(index, 1));
        self.unread_bytes += range.end - range.start;
        self.read_back_beyond(READ_BACK_BYTES)
    }

    /// What comes next is not for the disk: a moment to read back what was written.
    ///
    /// # Errors
    /// As of [`SyncTarget::write_leaf`].
    pub fn pause(&mut self) -> io::Result<()> {
        self.read_back_beyond(READ_BACK_SOON_BYTES)
    }

    fn read_back_beyond(&mut self, bytes: u64) -> io::Result<()> {
        if self.unread_bytes < bytes {
            return Ok(());
        }
        self.read_back()
    }

    /// Makes durable what was written, reads it from the disk, and compares.
    fn read_back(&mut self) -> io::Result<()> {
        let length = self.image.length();
        self.image.flush()?;
        for run in self.unread.runs() {
            self.image.forget_cached(length.bytes_of(&run));
        }
        let (unread, checks, wrong) = (&self.unread, &self.checks, OnceLock::new());
        let read = hash_regions(
            &self.image,
            Some(unread),
            Threads::all(),
            Wanted::Content,
            &|found| {
                let wrong_leaf = first_wrong(&found, unread, checks, length);
                wrong_leaf.is_none_or(|leaf| {
                    wrong.get_or_init(|| leaf);
                    false
                })
            },
        );
        read.map_err(|error| io::Error::new(error.source.kind(), error))?;
        if let Some(leaf) = wrong.get() {
            let offset = length.bytes_of(&Run::new(*leaf, 1)).start;
            let what =
                format!("the {LEAF_BYTES} bytes at offset {offset} are not those that were written there");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.unread.clear();
        self.unread_bytes = 0;
        Ok(())
    }

    /// All of it is there, and is of this lineage: it is made durable, read back, and then clean.
    ///
    /// # Errors
    /// [`DiskError`]; it is still `syncing` then.
    pub fn finish(mut self, current: [u8; 16], history: Vec<[u8; 16]>) -> Result<(), DiskError> {
        self.read_back().map_err(|error| self.unverified(error))?;
        let failed = |error| metadata_error(&self.paths, error);
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

/// The first leaf of `found` that is one of `written` and does not read as `checks` say.
fn first_wrong(found: &Found, written: &LeafSet, checks: &[u64], length: ImageLength) -> Option<u64> {
    let is_wrong =
        |leaf: u64, value: &Value| written.contains(leaf) && checks[in_memory(leaf)] != check_of(value);
    match found {
        Found::Zeros(regions) => {
            let leaves = regions
                .indices()
                .flat_map(|region| length.leaves_of(region).indices());
            leaves.into_iter().find(|leaf| is_wrong(*leaf, &Value::ZERO))
        }
        Found::Hashed { first, regions } => (*first..).zip(regions).find_map(|(region, hash)| {
            let leaves = length.leaves_of(region).indices();
            let mut pairs = leaves.zip(&hash.leaves);
            pairs
                .find(|(leaf, value)| is_wrong(*leaf, value))
                .map(|(leaf, _)| leaf)
        }),
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
