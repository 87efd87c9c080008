//! Kernel and initrd in a VM's folder, and what they are.
//!
//! What a file is stands beside it (`kernel.digest`), with what the file system said of it when it was read. While that is
//! the same, nothing is read again: a site that is back knows at once what it has (P6), and no driver waits for a hash.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use super::store::VmFolder;
use crate::transfer::{BootFile, FileOffer};

/// What every change of a file changes, if only its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    inode: u64,
    byte_count: u64,
    modified_ns: (i64, i64),
    changed_ns: (i64, i64),
}

impl Mark {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            byte_count: metadata.len(),
            modified_ns: (metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Digest {
    of: Mark,
    is: FileOffer,
}

/// What the file in `folder` is.
///
/// # Errors
/// When it cannot be read.
pub(super) fn find(folder: &VmFolder, file: BootFile) -> io::Result<FileOffer> {
    let path = folder.file(file.name());
    let mark = Mark::of(&fs::metadata(&path)?);
    let noted = fs::read(folder.file(&digest_name(file))).ok();
    let noted: Option<Digest> = noted.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(noted) = noted.filter(|noted| noted.of == mark) {
        return Ok(noted.is);
    }
    let is = FileOffer::of(&fs::read(&path)?);
    if let Err(error) = note(folder, file, Digest { of: mark, is }) {
        tracing::warn!(%error, path = %path.display(), "what it is cannot be noted, and it is read again each time");
    }
    Ok(is)
}

/// Makes `content`, which is what `is` says, that file of `folder`.
///
/// # Errors
/// When the host refuses.
pub(super) fn keep(folder: &VmFolder, file: BootFile, content: &[u8], is: FileOffer) -> io::Result<()> {
    folder.write(file.name(), content)?;
    let of = Mark::of(&fs::metadata(folder.file(file.name()))?);
    note(folder, file, Digest { of, is })
}

fn note(folder: &VmFolder, file: BootFile, digest: Digest) -> io::Result<()> {
    folder.write(&digest_name(file), &serde_json::to_vec(&digest)?)
}

fn digest_name(file: BootFile) -> String {
    format!("{}.digest", file.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_is_is_read_once_and_again_when_it_has_changed() {
        let state = tempfile::tempdir().unwrap();
        let folder = VmFolder::of(state.path(), "redis-1");
        folder.make().unwrap();
        assert!(find(&folder, BootFile::Kernel).is_err());
        // Said to be another: nobody reads it to find out.
        keep(&folder, BootFile::Kernel, b"one", FileOffer::of(b"two")).unwrap();
        assert_eq!(find(&folder, BootFile::Kernel).unwrap(), FileOffer::of(b"two"));
        fs::write(folder.file("kernel"), b"six").unwrap();
        assert_eq!(find(&folder, BootFile::Kernel).unwrap(), FileOffer::of(b"six"));
        fs::write(folder.file("kernel.digest"), b"no digest").unwrap();
        assert_eq!(find(&folder, BootFile::Kernel).unwrap(), FileOffer::of(b"six"));
        assert_eq!(find(&folder, BootFile::Kernel).unwrap(), FileOffer::of(b"six"));
    }
}
