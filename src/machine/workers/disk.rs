//! A raw disk image or block device, and the threads that read and write it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{Event, Inbox};
use crate::base::buffer_pool::BufferPool;
use crate::base::limits::DISK_WORKER_THREADS;
use crate::base::units::SECTOR_BYTES;
use crate::devices::{DiskCompletion, DiskOperation, DiskOutcome, DiskRequest, Input};

/// Why a disk cannot be used. Nothing was modified.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be opened.
    #[error("cannot open disk {path}: {source}", path = path.display())]
    Open {
        /// The disk.
        path: PathBuf,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
    /// It is neither a regular file nor a block device.
    #[error("disk {path} is neither a regular file nor a block device", path = path.display())]
    WrongKind {
        /// The disk.
        path: PathBuf,
    },
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
    /// Another process uses it.
    #[error("disk {path} is in use by another process; stop that process first", path = path.display())]
    Locked {
        /// The disk.
        path: PathBuf,
    },
}

/// An open disk, locked against other Antipode processes.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    byte_count: u64,
}

impl DiskFile {
    /// Opens and locks the disk at `path`: exclusively, or shared if `read_only`.
    ///
    /// # Errors
    /// [`DiskError`]; nothing was modified.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let failed = |source| DiskError::Open {
            path: path.to_path_buf(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::WrongKind {
                path: path.to_path_buf(),
            });
        }
        let locked = if read_only {
            file.try_lock_shared()
        } else {
            file.try_lock()
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DiskError::Locked {
                    path: path.to_path_buf(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let byte_count = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if byte_count == 0 || byte_count % SECTOR_BYTES != 0 {
            return Err(DiskError::Size {
                path: path.to_path_buf(),
                byte_count,
            });
        }
        Ok(Self { file, byte_count })
    }

    /// Its size in bytes.
    #[must_use]
    pub fn byte_count(&self) -> u64 {
        self.byte_count
    }

    fn perform(&self, operation: DiskOperation, buffers: &BufferPool) -> DiskOutcome {
        let result = match operation {
            DiskOperation::Read { offset, byte_count } => {
                let mut data = buffers.take(byte_count);
                self.file
                    .read_exact_at(&mut data, offset)
                    .map(|()| DiskOutcome::Read(data))
            }
            DiskOperation::Write { offset, data } => {
                self.file.write_all_at(&data, offset).map(|()| DiskOutcome::Done)
            }
            DiskOperation::Flush => self.file.sync_data().map(|()| DiskOutcome::Done),
        };
        result.unwrap_or_else(|error| {
            tracing::error!(%error, "disk request failed; the guest sees an I/O error");
            DiskOutcome::Failed
        })
    }
}

#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<DiskRequest>,
    /// Requests that a thread has taken and not ended.
    under_way: usize,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// A request waits, or no more will come.
    work: Condvar,
    /// The last request under way has ended.
    idle: Condvar,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads that carry out disk requests.
#[derive(Debug)]
pub struct DiskWorkers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl DiskWorkers {
    /// Starts the threads; completions go to `inbox`.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn start(disk: DiskFile, inbox: &Inbox) -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
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
        Ok(Self { shared, threads })
    }

    /// Waits until all requests handed in are done, and what they came to is in the inbox.
    pub fn drain(&self) {
        let mut queue = self.shared.queue();
        while !queue.requests.is_empty() || queue.under_way > 0 {
            queue = self
                .shared
                .idle
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hands requests to the workers.
    pub fn submit(&self, requests: impl IntoIterator<Item = DiskRequest>) {
        let mut queue = self.shared.queue();
        for request in requests {
            queue.requests.push_back(request);
            self.shared.work.notify_one();
        }
    }
}

impl Drop for DiskWorkers {
    /// Waits until every request handed in is done: a VM that ended leaves no write behind.
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a disk worker died");
            }
        }
    }
}

fn serve(shared: &Shared, disk: &DiskFile, buffers: &BufferPool, inbox: &Inbox) {
    loop {
        let mut queue = shared.queue();
        let request = loop {
            if let Some(request) = queue.requests.pop_front() {
                queue.under_way += 1;
                break request;
            }
            if queue.closed {
                return;
            }
            queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        };
        drop(queue);
        let outcome = disk.perform(request.operation, buffers);
        let completion = DiskCompletion {
            id: request.id,
            outcome,
        };
        inbox.post([Event::Device(Input::Disk(completion))]);
        let mut queue = shared.queue();
        queue.under_way -= 1;
        if queue.requests.is_empty() && queue.under_way == 0 {
            shared.idle.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_ends_within_a_sector_is_refused_with_its_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(513).unwrap();
        let error = DiskFile::open(file.path(), false).unwrap_err();
        assert!(error.to_string().contains("513 bytes"), "{error}");
    }

    #[test]
    fn a_second_writer_is_kept_out_and_readers_share() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let first = DiskFile::open(file.path(), false).unwrap();
        assert!(matches!(
            DiskFile::open(file.path(), true),
            Err(DiskError::Locked { .. })
        ));
        drop(first);
        let _reader = DiskFile::open(file.path(), true).unwrap();
        assert!(DiskFile::open(file.path(), true).is_ok());
        assert!(matches!(
            DiskFile::open(file.path(), false),
            Err(DiskError::Locked { .. })
        ));
    }

    #[test]
    fn folders_and_missing_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = DiskFile::open(folder.path(), true).unwrap_err();
        assert!(matches!(error, DiskError::WrongKind { .. }), "{error}");
        let error = DiskFile::open(&folder.path().join("none"), false).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }
}
