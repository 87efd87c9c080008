//! A replica as files: an image, and its metadata beside it.
//!
//! The image may be a block device; then the metadata is best kept elsewhere, and is named. Beside the metadata stands the
//! tree of the last digest (`kept_tree`).

mod digest;
mod kept_tree;
mod service;
mod sync_target;
#[cfg(test)]
mod tests;

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::decision::Summary;
use crate::image::{Access, FileImage, Image, OpenError};
use crate::leaf_set::LeafSet;
use crate::protocol::{
    Clock, Ledger, Link, Options, Report, Role, RunError, SessionError, Side, Status, run,
};
use crate::replica::{
    Creation, FileStore, GenerationId, Lineage, Loaded, Recovery, Replica, ReplicaError, ReplicaId, SyncKey,
    VmId,
};
use crate::units::{ImageLength, Run};

pub use crate::replica::State;
pub use digest::{Digest, DigestError, Reading, digest};
pub use service::{LiveDisk, Standby, open_to_read};
pub use sync_target::{SyncTarget, adopt, mark_stale, state_of};

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

/// Why a replica cannot be made or opened. Nothing was modified.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The image cannot be opened.
    #[error(transparent)]
    Image(#[from] OpenError),
    /// There is an image without metadata.
    #[error("{path}: there is no replica's metadata", path = .0.display())]
    NoReplica(PathBuf),
    /// The metadata is there already.
    #[error("{path}: is there already", path = .0.display())]
    Exists(PathBuf),
    /// The metadata is open elsewhere.
    #[error("{path}: is in use by another process", path = .0.display())]
    InUse(PathBuf),
    /// The metadata cannot be read, made or updated.
    #[error("{path}: {source}", path = path.display())]
    Metadata {
        /// The metadata's file.
        path: PathBuf,
        /// Why.
        source: ReplicaError,
    },
    /// The image is not as long as it was.
    #[error("{path}: has {found} bytes, but its metadata is of an image of {expected}", path = path.display())]
    Length {
        /// The image.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// What its length was.
        expected: u64,
    },
    /// It shall become a copy of what is not as long.
    #[error("{path}: has {found} bytes, and what it shall be a copy of has {expected}", path = path.display())]
    OtherLength {
        /// The image.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// That of the other one.
        expected: u64,
    },
    /// It may not be used by a VM: part or all of what it should hold is missing.
    #[error("{path}: this replica is {state}, and only a clean one may go live", path = path.display())]
    NotClean {
        /// The image.
        path: PathBuf,
        /// What it is, in a word.
        state: &'static str,
    },
    /// The image's length is none that a disk can have.
    #[error("{path}: has {bytes} bytes, which is no whole number of {SECTOR_BYTES}-byte sectors above zero", path = path.display())]
    Sectors {
        /// The image.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
}

/// What a new replica shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDisk {
    /// Of which VM.
    pub vm: VmId,
    /// Its own name, drawn at random.
    pub replica: ReplicaId,
    /// What the image holds now, as a content of its own, drawn at random; none if it shall become a copy.
    pub content: Option<GenerationId>,
    /// Bytes of the image, if it is to be made.
    pub size: Option<u64>,
}

/// Makes a replica's metadata for an image, and the image too if its size is given.
///
/// # Errors
/// [`DiskError`].
pub fn create(paths: &Paths, new: NewDisk) -> Result<(), DiskError> {
    let refused = |source| OpenError::Refused {
        path: paths.image.clone(),
        source,
    };
    if paths.metadata.exists() {
        return Err(DiskError::Exists(paths.metadata.clone()));
    }
    if let Some(bytes) = new.size {
        check_sectors(&paths.image, bytes)?;
        let made = OpenOptions::new().write(true).create_new(true).open(&paths.image);
        let file = made.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => DiskError::Exists(paths.image.clone()),
            _ => refused(error).into(),
        })?;
        file.set_len(bytes)
            .and_then(|()| file.sync_all())
            .map_err(refused)?;
    }
    let image = FileImage::open(&paths.image, Access::Write)?;
    check_sectors(&paths.image, image.length().bytes())?;
    let creation = Creation {
        vm: new.vm,
        replica: new.replica,
        length: image.length(),
        content: new.content,
        stamp: image.stamp().map_err(refused)?,
    };
    FileStore::create(&paths.metadata, &creation.encode()).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => DiskError::Exists(paths.metadata.clone()),
        _ => metadata_error(paths, error.into()),
    })
}

fn check_sectors(path: &Path, bytes: u64) -> Result<(), DiskError> {
    if bytes == 0 || !bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(DiskError::Sectors {
            path: path.to_owned(),
            bytes,
        });
    }
    Ok(())
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
struct Opened {
    image: FileImage,
    store: FileStore,
    loaded: Loaded,
    was_changed_behind: bool,
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
        Ok(Self {
            was_changed_behind: loaded.was_changed_behind(stamp),
            image,
            store,
            loaded,
        })
    }
}

/// A replica in use.
struct InUse {
    image: FileImage,
    replica: Replica<FileStore>,
    recovery: Recovery,
    claim: Option<Claim>,
}

fn take_into_use(paths: &Paths, opened: Opened) -> Result<InUse, DiskError> {
    let Opened {
        mut image,
        store,
        loaded,
        was_changed_behind,
    } = opened;
    let claim = key_of(&loaded, &image).and_then(|key| Claim::stake(paths, key, &mut image));
    let failed = |error| metadata_error(paths, error);
    let (mut replica, recovery) = Replica::open(store).map_err(failed)?;
    if was_changed_behind {
        // The stamp that tells is gone from now on; without marks whoever fails would forget it.
        replica.mark_everything().map_err(failed)?;
    }
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

/// What is opened of a replica.
#[derive(Debug)]
enum Metadata {
    /// As it was read. It is not kept up.
    Read(Box<Loaded>),
    Used(Box<Replica<FileStore>>, Recovery),
}

/// An open replica.
#[derive(Debug)]
pub struct Disk {
    paths: Paths,
    image: FileImage,
    metadata: Metadata,
    was_changed_behind: bool,
    claim: Option<Claim>,
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
        let opened = Opened::at(&paths, access, !dry_run)?;
        let was_changed_behind = opened.was_changed_behind;
        let (image, metadata, claim) = if dry_run {
            (opened.image, Metadata::Read(Box::new(opened.loaded)), None)
        } else {
            let used = take_into_use(&paths, opened)?;
            let metadata = Metadata::Used(Box::new(used.replica), used.recovery);
            (used.image, metadata, used.claim)
        };
        image.expect_sequential_reads();
        Ok(Self {
            paths,
            image,
            metadata,
            was_changed_behind,
            claim,
        })
    }

    /// What is known of it.
    #[must_use]
    pub fn summary(&self) -> Summary {
        match &self.metadata {
            Metadata::Read(loaded) => Summary::of_loaded(loaded, self.was_changed_behind),
            Metadata::Used(replica, _) => Summary::of(replica, self.was_changed_behind),
        }
    }

    /// What was found amiss when it was opened for use.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        match &self.metadata {
            Metadata::Read(_) => Recovery::default(),
            Metadata::Used(_, recovery) => *recovery,
        }
    }

    /// The image's length.
    #[must_use]
    pub fn length(&self) -> ImageLength {
        self.image.length()
    }

    /// Plays `role` in a session over `link`, and closes the replica in good order if that ends well. `watch` is told
    /// how far it is.
    ///
    /// # Errors
    /// [`RunError`]. The replica says what it is, and whoever opens it next goes on.
    pub fn run(
        mut self,
        role: Role,
        link: Link,
        options: &Options,
        clock: &dyn Clock,
        watch: &mut dyn FnMut(&Status),
    ) -> Result<Report, RunError> {
        let summary = self.summary();
        let (marks, ledger): (LeafSet, &mut dyn Ledger) = match &mut self.metadata {
            Metadata::Read(loaded) => (loaded.marks(), loaded.as_mut()),
            Metadata::Used(replica, _) => (replica.dirty().clone(), replica.as_mut()),
        };
        let side = Side {
            role,
            image: &self.image,
            ledger,
            summary,
            marks,
        };
        let outcome = run(side, link, options, clock, watch);
        // Also after a failure: nothing is being written any more, and the state says the rest. But what could not be
        // made durable is better not declared in good order.
        let is_orderly = !matches!(&outcome, Err(RunError::Image { .. } | RunError::Replica(_)));
        if let Metadata::Used(replica, _) = self.metadata
            && is_orderly
        {
            let stamp = self.image.stamp().map_err(ReplicaError::Io)?;
            let id = replica.id();
            let sequence = replica.close(stamp)?;
            if let Some(claim) = self.claim {
                claim.renew(Key::now(id, sequence, &self.image), &self.image);
            }
        }
        outcome
    }

    /// Where it is.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }
}

/// Metadata that was only read is never changed: a dry run ends before that.
impl Ledger for Loaded {
    fn begin_sync(&mut self, _: SyncKey, _: &LeafSet) -> Result<(), ReplicaError> {
        Err(ReplicaError::ReadOnly)
    }

    fn settle(&mut self, _: &[Run]) -> Result<(), ReplicaError> {
        Err(ReplicaError::ReadOnly)
    }

    fn finish_sync(&mut self, _: Lineage) -> Result<(), ReplicaError> {
        Err(ReplicaError::ReadOnly)
    }

    fn peer_is_equal(&mut self) -> Result<(), ReplicaError> {
        Err(ReplicaError::ReadOnly)
    }
}

/// A replica as it is shown.
#[derive(Debug)]
pub struct DiskInfo {
    /// Its metadata.
    pub metadata: Loaded,
    /// Whether the image was written to behind our back since it was last closed.
    pub was_changed_behind: bool,
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
    let (here, there) = Link::pair().map_err(RunError::Host)?;
    std::thread::scope(|scope| {
        let other = std::thread::Builder::new()
            .name("target".into())
            .spawn_scoped(scope, || {
                target.run(Role::Target, there, options, clock, &mut |_| ())
            })
            .map_err(RunError::Host)?;
        let ours = source.run(Role::Source, here, options, clock, watch);
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
            (ours, theirs) => ours.and_then(|report| theirs.map(|_| report)),
        }
    })
}
