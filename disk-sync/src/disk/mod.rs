//! A replica as files: an image, and its metadata beside it.
//!
//! The image may be a block device; then the metadata is best kept elsewhere, and is named. Beside the metadata stands the
//! tree of the last digest (`kept_tree`).

mod create;
mod digest;
mod error;
mod kept_tree;
mod look;
mod service;
mod sync_target;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::decision::Summary;
use crate::image::{Access, FileImage, Image};
use crate::leaf_set::LeafSet;
use crate::protocol::{
    Clock, Ledger, Link, Options, Report, Role, RunError, SessionError, Side, Status, run,
};
use crate::replica::{FileStore, Lineage, Loaded, Recovery, Replica, ReplicaError, SyncKey};

pub use crate::replica::State;
pub use create::{NewDisk, create};
pub use digest::DigestError;

use digest::{Digest, Reading, digest};
pub use error::DiskError;
pub use look::{be_compared, compare_here, compare_with, digest_for, digested};
pub use service::{LiveDisk, Standby, open_to_read};
pub use sync_target::{Origin, SyncTarget, adopt, leaf_hash, mark_stale, state_of};

use kept_tree::{Claim, Key};

/// What is appended to an image's path to name its metadata.
const METADATA_ENDING: &str = ".replica";

/// Bytes of a sector: an image is a whole number of them.
const SECTOR_BYTES: u64 = 512;

/// Where a replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The image.
    pub image: PathBuf,
    /// Its metadata.
    pub metadata: PathBuf,
}

impl Paths {
    /// An image with its metadata beside it, or where `metadata` says.
    #[must_use]
    pub fn new(image: PathBuf, metadata: Option<PathBuf>) -> Self {
        let metadata = metadata.unwrap_or_else(|| {
            let mut name = image.clone().into_os_string();
            name.push(METADATA_ENDING);
            PathBuf::from(name)
        });
        Self { image, metadata }
    }
}

fn metadata_error(paths: &Paths, source: ReplicaError) -> DiskError {
    DiskError::Metadata {
        path: paths.metadata.clone(),
        source,
    }
}

fn open_store(paths: &Paths, writable: bool) -> Result<FileStore, DiskError> {
    FileStore::open(&paths.metadata, writable).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => DiskError::NoReplica(paths.metadata.clone()),
        io::ErrorKind::WouldBlock => DiskError::InUse(paths.metadata.clone()),
        _ => metadata_error(paths, error.into()),
    })
}

/// An image and its metadata, locked and found to belong together.
#[derive(Debug)]
struct Opened {
    image: FileImage,
    idle: Idle,
    /// What the image looked like.
    stamp: Option<[u8; 32]>,
}

/// Metadata that was read and not changed.
#[derive(Debug)]
struct Idle {
    store: FileStore,
    loaded: Loaded,
    was_changed_behind: bool,
}

/// Metadata of a replica in use.
struct Used {
    replica: Replica<FileStore>,
    recovery: Recovery,
    claim: Option<Claim>,
}

impl Idle {
    fn summary(&self) -> Summary {
        Summary::of_loaded(&self.loaded, self.was_changed_behind)
    }

    fn take_into_use(self, paths: &Paths, image: &FileImage) -> Result<Used, ReplicaError> {
        let claim = key_of(&self.loaded, image).and_then(|key| Claim::stake(paths, key, image));
        let (mut replica, recovery) = Replica::open(self.store)?;
        if self.was_changed_behind {
            // The stamp that tells is gone from now on; without marks whoever fails would forget it.
            replica.mark_everything()?;
        }
        Ok(Used {
            replica,
            recovery,
            claim,
        })
    }
}

impl Used {
    /// Ends the use in good order. `stamp` is what the image looks like with all that was written under this use.
    fn close(self, image: &FileImage, stamp: Option<[u8; 32]>) -> Result<(), ReplicaError> {
        let id = self.replica.id();
        let sequence = self.replica.close(stamp)?;
        if let Some(claim) = self.claim {
            claim.renew(Key::now(id, sequence, image), image);
        }
        Ok(())
    }
}

impl Opened {
    fn at(paths: &Paths, access: Access, writable: bool) -> Result<Self, DiskError> {
        let image = FileImage::open(&paths.image, access)?;
        let store = open_store(paths, writable)?;
        let loaded = Loaded::read(&store).map_err(|error| metadata_error(paths, error))?;
        if loaded.length() != image.length() {
            return Err(DiskError::Length {
                path: paths.image.clone(),
                found: image.length().bytes(),
                expected: loaded.length().bytes(),
            });
        }
        let stamp = image
            .stamp()
            .map_err(|error| metadata_error(paths, error.into()))?;
        let idle = Idle {
            was_changed_behind: loaded.was_changed_behind(stamp),
            store,
            loaded,
        };
        Ok(Self { image, idle, stamp })
    }
}

/// A replica in use.
struct InUse {
    image: FileImage,
    replica: Replica<FileStore>,
    recovery: Recovery,
    claim: Option<Claim>,
}

fn take_into_use(paths: &Paths, opened: Opened) -> Result<InUse, ReplicaError> {
    let Opened { image, idle, .. } = opened;
    let Used {
        replica,
        recovery,
        claim,
    } = idle.take_into_use(paths, &image)?;
    Ok(InUse {
        image,
        replica,
        recovery,
        claim,
    })
}

/// Under which key a tree of this replica is kept; none as long as somebody uses it.
fn key_of(loaded: &Loaded, image: &FileImage) -> Option<Key> {
    if loaded.is_in_use() {
        return None;
    }
    Key::now(loaded.replica(), loaded.sequence(), image).ok()
}

/// A replica that is open to play a part in a session. Until it plays it nothing of it is changed, nor by a source until
/// the target has become equal: whoever fails before that leaves it as it was, with the stamp that tells of writes behind
/// our back.
#[derive(Debug)]
pub struct Disk {
    paths: Paths,
    opened: Opened,
    dry_run: bool,
}

impl Disk {
    /// Opens a replica to play this part in a session. Of a dry run, nothing is changed.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn open(paths: Paths, role: Role, dry_run: bool) -> Result<Self, DiskError> {
        let access = match role {
            Role::Target if !dry_run => Access::Write,
            _ => Access::Read,
        };
        let mut opened = Opened::at(&paths, access, !dry_run)?;
        if role == Role::Source && !dry_run && opened.idle.loaded.is_in_use() {
            opened = recovered(&paths, opened)?;
        }
        opened.image.expect_sequential_reads();
        Ok(Self {
            paths,
            opened,
            dry_run,
        })
    }

    /// Plays `role` in a session over `link`, and closes the replica in good order if that ends well. `watch` is told
    /// how far it is.
    ///
    /// # Errors
    /// [`RunError`]. The replica says what it is, and whoever opens it next goes on.
    pub fn run(
        self,
        role: Role,
        link: Link,
        options: &Options,
        clock: &dyn Clock,
        watch: &mut dyn FnMut(&Status),
    ) -> Result<Report, RunError> {
        if role == Role::Target && !self.dry_run {
            return receive(&self.paths, self.opened, |side| {
                run(side, link, options, clock, watch)
            });
        }
        let Opened { image, idle, .. } = &self.opened;
        let mut lent = Lent::default();
        let side = Side {
            role,
            image,
            ledger: &mut lent,
            summary: Some(idle.summary()),
            marks: idle.loaded.marks(),
        };
        let report = run(side, link, options, clock, watch)?;
        if lent.is_equal {
            note_equal(&self.paths, self.opened)?;
        }
        Ok(report)
    }
}

/// A source that somebody died with, or that a guest ended on without a word: what is unsure is marked, durably, and it
/// is closed, so that later writes behind our back are seen.
fn recovered(paths: &Paths, opened: Opened) -> Result<Opened, DiskError> {
    let failed = |error| metadata_error(paths, error);
    let Opened { image, idle, stamp } = opened;
    let used = idle.take_into_use(paths, &image).map_err(failed)?;
    used.replica.close(stamp).map_err(failed)?;
    let store = open_store(paths, true)?;
    let idle = Idle {
        loaded: Loaded::read(&store).map_err(failed)?,
        store,
        was_changed_behind: false,
    };
    Ok(Opened { image, idle, stamp })
}

/// The part of a target that is written to.
fn receive(
    paths: &Paths,
    opened: Opened,
    session: impl FnOnce(Side<'_>) -> Result<Report, RunError>,
) -> Result<Report, RunError> {
    let Opened { image, idle, .. } = opened;
    let (summary, marks) = (idle.summary(), idle.loaded.marks());
    let mut taken = Taken {
        paths,
        image: &image,
        idle: Some(idle),
        used: None,
    };
    let side = Side {
        role: Role::Target,
        image: &image,
        summary: Some(summary),
        marks,
        ledger: &mut taken,
    };
    let outcome = session(side);
    if matches!(&outcome, Ok(report) if !report.finish.dry_run) {
        // Also if nothing was to be done: whoever died with it has left it in use.
        taken.replica()?;
    }
    // Also after a failure: nothing is being written any more, and the state says the rest. But what could not be
    // made durable is better not declared in good order.
    let is_orderly = !matches!(&outcome, Err(RunError::Image { .. } | RunError::Replica(_)));
    if let Some(used) = taken.used.filter(|_| is_orderly) {
        let stamp = image.stamp().map_err(ReplicaError::Io)?;
        used.close(&image, stamp)?;
    }
    outcome
}

/// The metadata of a target: in use from its first update on, so that one which is only compared is left as it was.
struct Taken<'a> {
    paths: &'a Paths,
    image: &'a FileImage,
    idle: Option<Idle>,
    used: Option<Used>,
}

impl Taken<'_> {
    fn replica(&mut self) -> Result<&mut Replica<FileStore>, ReplicaError> {
        if let Some(idle) = self.idle.take() {
            self.used = Some(idle.take_into_use(self.paths, self.image)?);
        }
        let used = self.used.as_mut();
        used.map(|used| &mut used.replica).ok_or(ReplicaError::Broken)
    }
}

impl Ledger for Taken<'_> {
    fn begin_sync(&mut self, key: SyncKey, work: &LeafSet) -> Result<(), ReplicaError> {
        self.replica()?.begin_sync(key, work)
    }

    fn settle(&mut self, leaves: &LeafSet) -> Result<(), ReplicaError> {
        self.replica()?.settle(leaves)
    }

    fn finish_sync(&mut self, lineage: Lineage) -> Result<(), ReplicaError> {
        self.replica()?.finish_sync(lineage)
    }

    fn peer_is_equal(&mut self) -> Result<(), ReplicaError> {
        Err(ReplicaError::ReadOnly)
    }
}

/// The target has become equal to this source, as it was when it was opened: what was written behind our back since then
/// shows in the stamp.
fn note_equal(paths: &Paths, opened: Opened) -> Result<(), ReplicaError> {
    let Opened { image, idle, stamp } = opened;
    let mut used = idle.take_into_use(paths, &image)?;
    let nothing = LeafSet::none(used.replica.length());
    used.replica.peer_is_equal(&nothing)?;
    used.close(&image, stamp)
}

/// The metadata of whoever only reads, as a session sees it: nothing is written down but that the target is equal.
#[derive(Debug, Default)]
struct Lent {
    is_equal: bool,
}

impl Ledger for Lent {
    fn begin_sync(&mut self, _: SyncKey, _: &LeafSet) -> Result<(), ReplicaError> {
        Err(ReplicaError::ReadOnly)
    }

    fn settle(&mut self, _: &LeafSet) -> Result<(), ReplicaError> {
        Err(ReplicaError::ReadOnly)
    }

    fn finish_sync(&mut self, _: Lineage) -> Result<(), ReplicaError> {
        Err(ReplicaError::ReadOnly)
    }

    fn peer_is_equal(&mut self) -> Result<(), ReplicaError> {
        self.is_equal = true;
        Ok(())
    }
}

/// A replica as it is shown.
#[derive(Debug)]
pub struct DiskInfo {
    /// Its metadata.
    pub metadata: Loaded,
    /// Whether the image was written to behind our back since it was last closed.
    pub was_changed_behind: bool,
    /// Bytes of the image, which should be as many as the metadata says.
    pub image_bytes: u64,
    /// Bytes that the image takes on its file system.
    pub bytes_on_disk: u64,
}

/// Reads what there is to know of a replica, in use or not.
///
/// # Errors
/// [`DiskError`].
pub fn info(paths: &Paths) -> Result<DiskInfo, DiskError> {
    use std::os::unix::fs::MetadataExt;
    let image = FileImage::open(&paths.image, Access::ReadUnlocked)?;
    let store = open_store(paths, false)?;
    let metadata = Loaded::read(&store).map_err(|error| metadata_error(paths, error))?;
    let failed = |error: io::Error| metadata_error(paths, error.into());
    let stamp = image.stamp().map_err(failed)?;
    Ok(DiskInfo {
        was_changed_behind: metadata.was_changed_behind(stamp),
        metadata,
        image_bytes: image.length().bytes(),
        bytes_on_disk: fs::metadata(&paths.image).map_err(failed)?.blocks() * SECTOR_BYTES,
    })
}

/// Makes `target` equal to `source`, both of this host. `watch` is told how far the source is.
///
/// # Errors
/// The error of the end that failed first: the other one only says that it was told.
pub fn sync_here(
    source: Disk,
    target: Disk,
    options: &Options,
    clock: &dyn Clock,
    watch: &mut dyn FnMut(&Status),
) -> Result<Report, RunError> {
    both_here(
        |link| source.run(Role::Source, link, options, clock, watch),
        |link| target.run(Role::Target, link, options, clock, &mut |_| ()),
    )
}

/// Runs both ends of a session in this process, and answers with what came of the first.
fn both_here<T, U: Send>(
    one: impl FnOnce(Link) -> Result<T, RunError>,
    other: impl FnOnce(Link) -> Result<U, RunError> + Send,
) -> Result<T, RunError> {
    let (here, there) = Link::pair().map_err(RunError::Host)?;
    std::thread::scope(|scope| {
        let other = std::thread::Builder::new()
            .name("other end".into())
            .spawn_scoped(scope, || other(there))
            .map_err(RunError::Host)?;
        let ours = one(here);
        let theirs = other
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let only_tells = |error: &RunError| {
            matches!(
                error,
                RunError::Link(_) | RunError::Session(SessionError::Aborted(_))
            )
        };
        match (ours, theirs) {
            (Err(told), Err(cause)) if only_tells(&told) => Err(cause),
            (ours, theirs) => ours.and_then(|found| theirs.map(|_| found)),
        }
    })
}
