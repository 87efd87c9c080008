//! A raw file or a block device.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSliceMut, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::unistd::{Whence, lseek64};
use rustix::io::{ReadWriteFlags, preadv2};

use super::Image;
use crate::leaf_set::LeafSet;
use crate::units::{ImageLength, MEBIBYTE, TooLong, in_memory, on_disk};

/// What an image is opened for. Writers are alone; readers share it with readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// For reading: nobody may be writing to it.
    Read,
    /// For reading, while somebody else may be writing to it: what is read is of no particular moment.
    ReadUnlocked,
    /// For reading and writing: nobody else may have it open. Of a block device the kernel sees to that too (`O_EXCL`):
    /// one that is mounted, or part of a RAID or volume group, is refused.
    Write,
}

/// Why an image cannot be opened. Nothing was modified.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The host refuses.
    #[error("{path}: cannot be opened: {source}", path = path.display())]
    Refused {
        /// The image.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// It is a folder, a pipe or the like.
    #[error("{path}: is neither a regular file nor a block device", path = path.display())]
    WrongKind {
        /// The image.
        path: PathBuf,
    },
    /// Another process has it, or of a device the kernel itself.
    #[error("{path}: is in use: another process has it, or it is mounted", path = path.display())]
    Locked {
        /// The image.
        path: PathBuf,
    },
    /// It is larger than supported.
    #[error("{path}: {source}", path = path.display())]
    TooLong {
        /// The image.
        path: PathBuf,
        /// How large.
        source: TooLong,
    },
}

/// An open raw file or block device, locked against other processes of ours.
#[derive(Debug)]
pub struct FileImage {
    file: File,
    length: ImageLength,
    is_file: bool,
    /// What was written to, if that is asked for.
    noted: OnceLock<Mutex<LeafSet>>,
}

impl FileImage {
    /// Opens what is at `path`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path, access: Access) -> Result<Self, OpenError> {
        let refused = |source| OpenError::Refused {
            path: path.to_owned(),
            source,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::Write);
        let locked = || OpenError::Locked {
            path: path.to_owned(),
        };
        // Of a file the flag means nothing, and what it would mean is left open: only a device is opened with it.
        let is_device = fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device());
        if is_device && access == Access::Write {
            options.custom_flags(nix::libc::O_EXCL);
        }
        let mut file = options.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => locked(),
            _ => refused(error),
        })?;
        let kind = file.metadata().map_err(refused)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::WrongKind {
                path: path.to_owned(),
            });
        }
        match lock(&file, access) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked()),
            Err(TryLockError::Error(error)) => return Err(refused(error)),
        }
        // A block device has no length in its metadata; its end has a position all the same.
        let bytes = file.seek(SeekFrom::End(0)).map_err(refused)?;
        let length = ImageLength::new(bytes).map_err(|source| OpenError::TooLong {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            file,
            length,
            is_file: kind.is_file(),
            noted: OnceLock::new(),
        })
    }

    /// It will be read from its beginning to its end: the host reads further ahead. Nothing depends on it.
    pub fn expect_sequential_reads(&self) {
        let _ = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
    }

    /// What changes when the file is written to, or replaced: inode, length and time of change. None of a block
    /// device, which has nothing of the kind.
    ///
    /// # Errors
    /// The host's.
    pub fn stamp(&self) -> io::Result<Option<[u8; 32]>> {
        if !self.is_file {
            return Ok(None);
        }
        let seen = self.file.metadata()?;
        let mut hasher = blake3::Hasher::new();
        for value in [seen.ino(), seen.dev(), seen.len()] {
            hasher.update(&value.to_le_bytes());
        }
        for value in [seen.mtime(), seen.mtime_nsec()] {
            hasher.update(&value.to_le_bytes());
        }
        Ok(Some(hasher.finalize().into()))
    }

    /// When it was last written to, in seconds and nanoseconds of the host's clock. None of a block device.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn modified(&self) -> io::Result<Option<(i64, i64)>> {
        if !self.is_file {
            return Ok(None);
        }
        let seen = self.file.metadata()?;
        Ok(Some((seen.mtime(), seen.mtime_nsec())))
    }

    /// Notes from now on what is written to.
    pub(crate) fn note_writes(&self) {
        self.noted.get_or_init(|| Mutex::new(LeafSet::none(self.length)));
    }

    /// What was noted.
    pub(crate) fn noted(&self) -> LeafSet {
        match self.noted.get() {
            Some(noted) => noted.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            None => LeafSet::none(self.length),
        }
    }

    fn note(&self, range: &Range<u64>) {
        if let Some(noted) = self.noted.get() {
            let leaves = self.length.leaves_touched(range);
            noted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(&leaves);
        }
    }

    fn seek(&self, offset: u64, whence: Whence) -> nix::Result<u64> {
        let at = lseek64(&self.file, offset.cast_signed(), whence)?;
        Ok(at.cast_unsigned())
    }
}

fn lock(file: &File, access: Access) -> Result<(), TryLockError> {
    match access {
        Access::Read => file.try_lock_shared(),
        Access::ReadUnlocked => Ok(()),
        Access::Write => file.try_lock(),
    }
}

/// What is written where a hole cannot be made.
static ZEROS: [u8; in_memory(MEBIBYTE)] = [0; in_memory(MEBIBYTE)];

impl Image for FileImage {
    fn length(&self) -> ImageLength {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.note(&(offset..offset.saturating_add(on_disk(bytes.len()))));
        self.file.write_all_at(bytes, offset)
    }

    fn write_zeros(&self, range: Range<u64>) -> io::Result<()> {
        self.note(&range);
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let length = range.end.saturating_sub(range.start);
        match fallocate(&self.file, hole, range.start.cast_signed(), length.cast_signed()) {
            Ok(()) => return Ok(()),
            Err(Errno::EOPNOTSUPP | Errno::ENODEV | Errno::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
        let mut at = range.start;
        while at < range.end {
            let count = (range.end - at).min(MEBIBYTE);
            self.file.write_all_at(&ZEROS[..in_memory(count)], at)?;
            at += count;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn forget_cached(&self, range: Range<u64>) {
        // To the end, so that a last page which is short goes too: zero stands for that.
        let bytes = if range.end >= self.length.bytes() {
            0
        } else {
            range.end - range.start
        };
        let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        let _ = posix_fadvise(&self.file, range.start.cast_signed(), bytes.cast_signed(), advice);
    }

    fn read_ahead(&self, range: Range<u64>) {
        // What is in memory costs one call, and not a walk over each of its pages.
        let mut last = [0];
        let at = range.end.saturating_sub(1);
        let read = preadv2(
            &self.file,
            &mut [IoSliceMut::new(&mut last)],
            at,
            ReadWriteFlags::NOWAIT,
        );
        if read != Ok(1) {
            let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
            let bytes = range.end.saturating_sub(range.start);
            let _ = posix_fadvise(&self.file, range.start.cast_signed(), bytes.cast_signed(), advice);
        }
    }

    fn data_from(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let end = self.length.bytes();
        if offset >= end {
            return Ok(None);
        }
        // Where holes cannot be told (block devices, some file systems) everything may be data.
        let start = match self.seek(offset, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => return Ok(None),
            Err(_) => return Ok(Some(offset..end)),
        };
        let hole = self.seek(start, Whence::SeekHole).unwrap_or(end);
        Ok((start < end).then(|| start..hole.min(end)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::units::LEAF_BYTES;

    #[test]
    fn holes_are_found_made_and_read_as_zeros() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; in_memory(3 * LEAF_BYTES)]).unwrap();
        file.as_file().set_len(16 * MEBIBYTE).unwrap();
        let image = FileImage::open(file.path(), Access::Write).unwrap();
        assert_eq!(image.data_from(0).unwrap(), Some(0..3 * LEAF_BYTES));
        assert_eq!(image.data_from(MEBIBYTE).unwrap(), None);
        image.write_zeros(0..LEAF_BYTES).unwrap();
        assert_eq!(image.data_from(0).unwrap(), Some(LEAF_BYTES..3 * LEAF_BYTES));
        let mut read = [1; 16];
        image.read_at(100, &mut read).unwrap();
        assert_eq!(read, [0; 16]);
    }

    #[test]
    fn what_is_forgotten_is_read_again_and_what_was_not_flushed_is_kept() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let length = 3 * LEAF_BYTES + 512;
        file.as_file().set_len(length).unwrap();
        let image = FileImage::open(file.path(), Access::Write).unwrap();
        image.write_at(LEAF_BYTES, &[1; in_memory(LEAF_BYTES)]).unwrap();
        image.flush().unwrap();
        image.write_at(3 * LEAF_BYTES, &[2; 512]).unwrap();
        for range in [0..LEAF_BYTES, LEAF_BYTES..length, 0..length] {
            image.forget_cached(range);
        }
        let mut read = vec![0; in_memory(length)];
        image.read_at(0, &mut read).unwrap();
        let expected = [vec![0; 65_536], vec![1; 65_536], vec![0; 65_536], vec![2; 512]].concat();
        assert!(read == expected);
    }

    #[test]
    fn a_writer_is_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reader = FileImage::open(file.path(), Access::Read).unwrap();
        let second = FileImage::open(file.path(), Access::Read);
        assert!(second.is_ok());
        assert!(matches!(
            FileImage::open(file.path(), Access::Write),
            Err(OpenError::Locked { .. })
        ));
        drop((reader, second));
        let _writer = FileImage::open(file.path(), Access::Write).unwrap();
        assert!(matches!(
            FileImage::open(file.path(), Access::Read),
            Err(OpenError::Locked { .. })
        ));
        assert!(FileImage::open(file.path(), Access::ReadUnlocked).is_ok());
    }

    #[test]
    fn a_file_that_shrinks_is_a_short_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MEBIBYTE).unwrap();
        let image = FileImage::open(file.path(), Access::Read).unwrap();
        file.as_file().set_len(10).unwrap();
        let error = image.read_at(0, &mut [0; 512]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_stamp_changes_with_the_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MEBIBYTE).unwrap();
        let image = FileImage::open(file.path(), Access::Write).unwrap();
        let before = image.stamp().unwrap();
        assert_eq!(image.stamp().unwrap(), before);
        let later = std::time::SystemTime::UNIX_EPOCH;
        file.as_file().set_modified(later).unwrap();
        assert_ne!(image.stamp().unwrap(), before);
    }

    #[test]
    fn folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            FileImage::open(folder.path(), Access::Read),
            Err(OpenError::WrongKind { .. })
        ));
    }
}
