//! A raw disk image or block device, and the threads that read and write it.
//!
//! An image with a replica's metadata is a replica (D1). Its writes go through the hook of
//! [`antipode_disk_sync::online`], here in the workers: it may wait for the metadata to be durable, which the vCPU's
//! thread never does. No other site follows such a VM, so the replica is alone: what is written is marked, and the first
//! write begins a new generation.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use antipode_disk_sync::LeafSet;
use antipode_disk_sync::disk::{self, LiveDisk, Paths, Standby};
use antipode_disk_sync::image::{Access, FileImage, Image, OpenError};
use antipode_disk_sync::online::{Live, LiveError, Position};
use antipode_disk_sync::replica::{FileStore, GenerationId, Lineage};

use super::disk_queue::Queue;
use super::failures::Failures;
use super::flushes::Flushes;
use super::write_limit::WriteLimit;
use super::{Event, HostEntropy, Inbox};
use crate::base::buffer_pool::BufferPool;
use crate::base::limits::DISK_WORKER_THREADS;
use crate::base::units::{ExitOrdinal, SECTOR_BYTES};
use crate::devices::{DiskCompletion, DiskOperation, DiskOutcome, DiskRequest, Input};

/// Why a disk cannot be used. The image was not modified.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be opened.
    #[error("disk {0}")]
    Image(#[from] OpenError),
    /// It is a replica that cannot be used.
    #[error("disk {0}")]
    Replica(#[from] disk::DiskError),
    /// It is empty or ends within a sector.
    #[error(
        "disk {path} has {byte_count} bytes, which is no whole number of {SECTOR_BYTES}-byte sectors above zero; a raw image is \
         expected (extend it with `truncate`, or convert it with `qemu-img convert -O raw`)",
        path = path.display()
    )]
    Size {
        /// The disk.
        path: PathBuf,
        /// Its size.
        byte_count: u64,
    },
    /// The new generation of a replica cannot be named.
    #[error("disk {path}: no random bytes to name its content by: {source}", path = path.display())]
    Entropy {
        /// The disk.
        path: PathBuf,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
}

/// An open disk, checked and locked against other Antipode processes. Dropped, it is as it was.
#[derive(Debug)]
pub struct DiskFile {
    path: PathBuf,
    medium: Checked,
    /// Another replica is equal to it, and goes on to be.
    follows: bool,
}

#[derive(Debug)]
enum Checked {
    Plain(FileImage),
    Replica(Box<Standby>),
}

impl DiskFile {
    /// Opens and locks the disk at `path`: exclusively, or shared if `read_only`. It is a replica if `metadata` names its
    /// metadata, or that is beside it, and must be clean then.
    ///
    /// # Errors
    /// [`DiskError`]; nothing was modified.
    pub fn open(path: &Path, metadata: Option<&Path>, read_only: bool) -> Result<Self, DiskError> {
        let paths = Paths::new(path.to_path_buf(), metadata.map(Path::to_path_buf));
        let is_replica = metadata.is_some() || paths.metadata.exists();
        let medium = match (is_replica, read_only) {
            (false, true) => Checked::Plain(FileImage::open(path, Access::Read)?),
            (false, false) => Checked::Plain(FileImage::open(path, Access::Write)?),
            (true, true) => Checked::Plain(disk::open_to_read(&paths)?),
            (true, false) => Checked::Replica(Box::new(Standby::open(paths)?)),
        };
        let disk = Self {
            path: path.to_path_buf(),
            medium,
            follows: false,
        };
        let byte_count = disk.byte_count();
        if byte_count == 0 || !byte_count.is_multiple_of(SECTOR_BYTES) {
            return Err(DiskError::Size {
                path: disk.path,
                byte_count,
            });
        }
        Ok(disk)
    }

    /// The same, of a VM that follows another: its writes are the other replica's too.
    #[must_use]
    pub fn following(self) -> Self {
        Self {
            follows: true,
            ..self
        }
    }

    /// Its size in bytes.
    #[must_use]
    pub fn byte_count(&self) -> u64 {
        let image = match &self.medium {
            Checked::Plain(image) => image,
            Checked::Replica(standby) => standby.image(),
        };
        image.length().bytes()
    }

    /// Takes it into service. A replica is in use from now on; it marks what is written unless it follows another.
    ///
    /// # Errors
    /// [`DiskError`]; the image was not modified.
    pub fn into_service(self) -> Result<Disk, DiskError> {
        let standby = match self.medium {
            Checked::Plain(image) => return Ok(Medium::Plain(image).into()),
            Checked::Replica(standby) => standby,
        };
        let name = HostEntropy::draw().map_err(|source| DiskError::Entropy {
            path: self.path.clone(),
            source,
        })?;
        let (disk, recovery) = standby.go_live(Position(0))?;
        if recovery.was_in_use {
            tracing::warn!(
                disk = %self.path.display(),
                unsure_zones = recovery.unsure_zones,
                "the replica was not closed when it was last used; the next sync compares what was being written to then"
            );
        }
        if !self.follows {
            disk.live().lose_peer(GenerationId(name));
        }
        Ok(Medium::Replica(Box::new(disk)).into())
    }
}

/// A disk in service.
#[derive(Debug)]
pub struct Disk {
    medium: Medium,
    limit: WriteLimit,
}

impl From<Medium> for Disk {
    fn from(medium: Medium) -> Self {
        Self {
            medium,
            limit: WriteLimit::default(),
        }
    }
}

#[derive(Debug)]
enum Medium {
    Plain(FileImage),
    Replica(Box<LiveDisk>),
}

impl Medium {
    fn image(&self) -> &FileImage {
        match self {
            Self::Plain(image) => image,
            Self::Replica(disk) => disk.live().image(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), LiveError> {
        match self {
            Self::Plain(image) => Ok(image.write_at(offset, data)?),
            Self::Replica(disk) => disk.live().write(offset, data).map(drop),
        }
    }

    fn flush(&self) -> Result<(), LiveError> {
        match self {
            Self::Plain(image) => Ok(image.flush()?),
            Self::Replica(disk) => disk.live().flush(),
        }
    }
}

impl Disk {
    /// Its image, for reading.
    #[must_use]
    pub fn image(&self) -> &FileImage {
        self.medium.image()
    }

    /// What was written since this was last asked; none of a disk that is no replica.
    #[must_use]
    pub fn take_written(&self) -> Option<LeafSet> {
        self.live().map(Live::take_written)
    }

    /// What may differ from the replica that it was last equal to; none of a disk that is no replica.
    #[must_use]
    pub fn marks(&self) -> Option<LeafSet> {
        self.live().map(Live::marks)
    }

    /// Where a replica's content comes from.
    #[must_use]
    pub fn lineage(&self) -> Option<Lineage> {
        self.live().and_then(Live::lineage)
    }

    /// The replica's own name.
    #[must_use]
    pub fn replica_id(&self) -> Option<[u8; 16]> {
        self.live().map(|live| live.replica_id().0)
    }

    /// The other site's replica is equal to this one, and follows it from here on.
    ///
    /// # Errors
    /// [`LiveError`].
    pub fn peer_is_equal(&self) -> Result<(), LiveError> {
        self.live().map_or(Ok(()), Live::peer_is_equal)
    }

    /// No other replica follows this one from here on. Said again, it changes nothing.
    ///
    /// # Errors
    /// When the host has no random bytes to name its new content by.
    pub fn lose_peer(&self) -> std::io::Result<()> {
        let Some(live) = self.live() else { return Ok(()) };
        live.lose_peer(GenerationId(HostEntropy::draw()?));
        Ok(())
    }

    /// Whether the other site's replica follows this one is in doubt, or is not any more.
    pub fn doubt_peer(&self, is_in_doubt: bool) {
        if let Some(live) = self.live() {
            live.doubt_peer(is_in_doubt);
        }
    }

    /// This replica lacks writes from now on.
    ///
    /// # Errors
    /// [`LiveError`].
    pub fn mark_stale(&self) -> Result<(), LiveError> {
        self.live().map_or(Ok(()), Live::mark_stale)
    }

    /// From now on the guest writes at most so many bytes in a second; none lets it go.
    pub fn limit_writes(&self, bytes_per_second: Option<u64>) {
        self.limit.set(bytes_per_second);
    }

    /// As a guest does, which may have to wait for it.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> Result<(), LiveError> {
        self.limit.wait(data.len());
        self.medium.write(offset, data)
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// [`LiveError`].
    pub fn flush(&self) -> Result<(), LiveError> {
        self.medium.flush()
    }

    pub(super) fn live(&self) -> Option<&Live<FileImage, FileStore>> {
        match &self.medium {
            Medium::Plain(_) => None,
            Medium::Replica(disk) => Some(disk.live()),
        }
    }

    fn perform(&self, operation: DiskOperation, buffers: &BufferPool) -> DiskOutcome {
        let result = match operation {
            DiskOperation::Read { offset, byte_count } => {
                let mut data = buffers.take(byte_count);
                let read = self.medium.image().read_at(offset, &mut data);
                read.map(|()| DiskOutcome::Read(data)).map_err(LiveError::from)
            }
            DiskOperation::Write { offset, data } => self.write(offset, &data).map(|()| DiskOutcome::Done),
            DiskOperation::Flush => self.medium.flush().map(|()| DiskOutcome::Done),
        };
        result.unwrap_or_else(|error| {
            tracing::error!(%error, "a disk request of the guest has failed");
            DiskOutcome::Failed
        })
    }

    /// Ends its use in good order. A replica that is only dropped is found in use by whoever opens it next, and what was
    /// being written to counts as unsure: as after a crash.
    fn close(self) {
        if let Medium::Replica(disk) = self.medium
            && let Err(error) = disk.close()
        {
            tracing::error!(%error, "the disk's replica was not closed; the next sync compares more than it had to");
        }
    }
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// A request waits, or no more will come.
    work: Condvar,
    /// The last request under way has ended, or a leaf's mending.
    idle: Condvar,
    flushes: Flushes,
    failures: Failures,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drain(&self) {
        let mut queue = self.queue();
        while !queue.is_idle() {
            queue = self.idle.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A disk in service, for other threads than those that carry out its requests. The disk is closed in order only after all
/// handles are gone.
#[derive(Debug, Clone)]
pub struct DiskHandle {
    shared: Arc<Shared>,
    disk: Arc<Disk>,
}

impl std::ops::Deref for DiskHandle {
    type Target = Disk;

    fn deref(&self) -> &Disk {
        &self.disk
    }
}

impl DiskHandle {
    /// Waits until all requests handed in are done, and makes durable what was written (P5).
    ///
    /// # Errors
    /// [`LiveError`].
    pub fn settle(&self) -> Result<(), LiveError> {
        self.shared.drain();
        self.disk.flush()
    }

    /// Its requests.
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue()
    }

    /// What had to wait for a leaf's mending may go on.
    pub(super) fn mending_is_over(&self) {
        self.shared.work.notify_all();
        self.shared.idle.notify_all();
    }

    /// Its requests that have failed.
    pub(super) fn failures(&self) -> &Failures {
        &self.shared.failures
    }

    /// Its guest's flushes.
    #[must_use]
    pub fn flushes(&self) -> &Flushes {
        &self.shared.flushes
    }
}

/// The threads that carry out disk requests.
#[derive(Debug)]
pub struct DiskWorkers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Here until the workers end.
    disk: Option<Arc<Disk>>,
}

impl DiskWorkers {
    /// Starts the threads; completions go to `inbox`.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn start(disk: Disk, inbox: &Inbox) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
            flushes: Flushes::new(inbox.clone()),
            failures: Failures::default(),
        });
        let disk = Arc::new(disk);
        let read_buffers = BufferPool::default();
        let threads = (0..DISK_WORKER_THREADS)
            .map(|index| {
                let (shared, disk, inbox) = (Arc::clone(&shared), Arc::clone(&disk), inbox.clone());
                let buffers = read_buffers.clone();
                std::thread::Builder::new()
                    .name(format!("disk-{index}"))
                    .spawn(move || serve(&shared, &disk, &buffers, &inbox))
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self {
            shared,
            threads,
            disk: Some(disk),
        })
    }

    /// The disk, for whoever copies it.
    #[must_use]
    pub fn handle(&self) -> Option<DiskHandle> {
        let shared = Arc::clone(&self.shared);
        self.disk.clone().map(|disk| DiskHandle { shared, disk })
    }

    /// Waits until all requests handed in are done, and what they came to is in the inbox, but for what [`Flushes`] hold.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// Hands requests to the workers, of a guest that stands at exit `at`.
    pub fn submit(&self, at: ExitOrdinal, requests: impl IntoIterator<Item = DiskRequest>) {
        let mut queue = self.shared.queue();
        for request in requests {
            queue.submit(at, request);
            self.shared.work.notify_one();
        }
    }
}

impl Drop for DiskWorkers {
    /// Waits until every request handed in is done, and closes the disk: a VM that ended leaves no write behind.
    fn drop(&mut self) {
        self.shared.queue().close();
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a disk worker died");
            }
        }
        // What a worker that died had begun to write stays unsure: that write never ended.
        if let Some(disk) = self.disk.take().and_then(Arc::into_inner) {
            disk.close();
        }
    }
}

fn serve(shared: &Shared, disk: &Disk, buffers: &BufferPool, inbox: &Inbox) {
    loop {
        let mut queue = shared.queue();
        let (at, request) = loop {
            if let Some(next) = queue.take() {
                break next;
            }
            if queue.is_over() {
                return;
            }
            queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        };
        drop(queue);
        let is_flush = matches!(request.operation, DiskOperation::Flush);
        let written = request.operation.written();
        let outcome = disk.perform(request.operation, buffers);
        let completion = DiskCompletion {
            id: request.id,
            outcome,
        };
        match shared.failures.ended(completion) {
            Some(completion) if is_flush => shared.flushes.ended(at, completion),
            Some(completion) => inbox.post([Event::Device(Input::Disk(completion))]),
            None => {}
        }
        let mut queue = shared.queue();
        queue.ended(written.as_ref());
        if queue.is_idle() {
            shared.idle.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use antipode_disk_sync::disk::NewDisk;
    use antipode_disk_sync::replica::{ReplicaId, State};
    use antipode_disk_sync::units::{EXTENT_BYTES, EXTENT_LEAVES, LEAF_BYTES};

    use super::*;

    #[test]
    fn a_disk_that_ends_within_a_sector_is_refused_with_its_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(513).unwrap();
        let error = DiskFile::open(file.path(), None, false).unwrap_err();
        assert!(error.to_string().contains("513 bytes"), "{error}");
    }

    #[test]
    fn a_second_writer_is_kept_out_and_readers_share() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let is_locked = |opened: Result<DiskFile, DiskError>| {
            matches!(opened, Err(DiskError::Image(OpenError::Locked { .. })))
        };
        let first = DiskFile::open(file.path(), None, false).unwrap();
        assert!(is_locked(DiskFile::open(file.path(), None, true)));
        drop(first);
        let _reader = DiskFile::open(file.path(), None, true).unwrap();
        assert!(DiskFile::open(file.path(), None, true).is_ok());
        assert!(is_locked(DiskFile::open(file.path(), None, false)));
    }

    #[test]
    fn folders_and_missing_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = DiskFile::open(folder.path(), None, true).unwrap_err();
        assert!(
            matches!(error, DiskError::Image(OpenError::WrongKind { .. })),
            "{error}"
        );
        let error = DiskFile::open(&folder.path().join("none"), None, false).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }

    const EXTENTS: u64 = 4;
    const CONTENT: GenerationId = GenerationId([1; 16]);

    /// A replica of four extents in `folder`.
    fn replica(folder: &Path, content: Option<GenerationId>) -> Paths {
        let paths = Paths::new(folder.join("disk"), None);
        let new = NewDisk {
            vm: "vm".parse().unwrap(),
            replica: ReplicaId([7; 16]),
            content,
            size: Some(EXTENTS * EXTENT_BYTES),
        };
        disk::create(&paths, new).unwrap();
        paths
    }

    fn in_service(paths: &Paths) -> Disk {
        DiskFile::open(&paths.image, None, false)
            .unwrap()
            .into_service()
            .unwrap()
    }

    fn write(disk: &Disk, offset: u64) {
        let data = BufferPool::default().take(4096);
        let outcome = disk.perform(DiskOperation::Write { offset, data }, &BufferPool::default());
        assert!(matches!(outcome, DiskOutcome::Done), "{outcome:?}");
    }

    fn flush(disk: &Disk) {
        let outcome = disk.perform(DiskOperation::Flush, &BufferPool::default());
        assert!(matches!(outcome, DiskOutcome::Done), "{outcome:?}");
    }

    #[test]
    fn a_run_that_ends_well_leaves_marks_where_it_wrote_and_a_new_generation() {
        let folder = tempfile::tempdir().unwrap();
        let paths = replica(folder.path(), Some(CONTENT));
        let disk = in_service(&paths);
        write(&disk, 3 * LEAF_BYTES);
        write(&disk, EXTENT_BYTES - 4096);
        flush(&disk);
        disk.close();
        let info = disk::info(&paths).unwrap();
        assert!(!info.metadata.is_in_use() && !info.was_changed_behind);
        let marked: Vec<u64> = info
            .metadata
            .marks()
            .runs()
            .flat_map(|run| run.indices())
            .collect();
        assert_eq!(marked, [3, EXTENT_LEAVES - 1]);
        let lineage = info.metadata.lineage().unwrap().clone();
        assert!(lineage.current != CONTENT && lineage.base == Some(CONTENT));
        // Alone is alone: the next run adds to the marks, and whoever was being made equal to it goes on.
        let disk = in_service(&paths);
        write(&disk, EXTENT_BYTES);
        disk.close();
        let info = disk::info(&paths).unwrap();
        assert_eq!(info.metadata.marks().count(), 3);
        assert_eq!(info.metadata.lineage(), Some(&lineage));
    }

    #[test]
    fn a_run_that_is_killed_leaves_the_extents_it_wrote_to_unsure() {
        let folder = tempfile::tempdir().unwrap();
        let paths = replica(folder.path(), Some(CONTENT));
        let disk = in_service(&paths);
        write(&disk, 2 * EXTENT_BYTES);
        drop(disk);
        let info = disk::info(&paths).unwrap();
        assert!(info.metadata.is_in_use());
        let marked: Vec<u64> = info
            .metadata
            .marks()
            .runs()
            .flat_map(|run| run.indices())
            .collect();
        let unsure: Vec<u64> = (2 * EXTENT_LEAVES..3 * EXTENT_LEAVES).collect();
        assert_eq!(marked, unsure);
        assert_eq!(info.metadata.lineage().unwrap().base, Some(CONTENT));
        // It is clean, and may be run again; what is unsure stays marked.
        in_service(&paths).close();
        let info = disk::info(&paths).unwrap();
        assert_eq!(
            (info.metadata.is_in_use(), info.metadata.marks().count()),
            (false, EXTENT_LEAVES)
        );
    }

    #[test]
    fn a_run_that_writes_nothing_begins_no_generation() {
        let folder = tempfile::tempdir().unwrap();
        let paths = replica(folder.path(), Some(CONTENT));
        let disk = in_service(&paths);
        flush(&disk);
        disk.close();
        let info = disk::info(&paths).unwrap();
        assert_eq!(info.metadata.lineage().unwrap().current, CONTENT);
        assert!(info.metadata.marks().is_empty());
    }

    #[test]
    fn a_replica_that_is_not_clean_is_refused_and_one_that_is_not_started_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let paths = replica(folder.path(), None);
        for read_only in [true, false] {
            let error = DiskFile::open(&paths.image, None, read_only).unwrap_err();
            assert!(error.to_string().contains("stale"), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let paths = replica(folder.path(), Some(CONTENT));
        let before = std::fs::read(&paths.metadata).unwrap();
        let opened = DiskFile::open(&paths.image, None, false).unwrap();
        let error = DiskFile::open(&paths.image, None, false).unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
        drop(opened);
        drop(DiskFile::open(&paths.image, None, true).unwrap());
        assert!(std::fs::read(&paths.metadata).unwrap() == before);
        assert_eq!(disk::info(&paths).unwrap().metadata.state(), State::Clean);
    }
}
