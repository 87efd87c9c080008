//! The frames that a copy's guest has made, kept in files for whoever checks two sites (`[check]` of the site's
//! configuration): those of a backup are in no other place, as it lets none out.
//!
//! ```text
//!   frames, frames.old   magic "ANTIFRAM" (8), number of the file, from 0 (8), then of each frame, in order:
//!   position (8) │ 1 in replay, 0 as the live copy (1) │ length (4) │ virtio-net header (12), frame
//!   position (8) │ 2 not made, but told of (1)         │ 8 (4)      │ XXH3-64 of header and frame
//! ```
//!
//! A copy that was repaired has not made what it has left out: the log has told it what the other one has put out there.
//! Integers are little-endian. `frames` is renamed to `frames.old` when it holds half of what may be kept, and the next
//! number begins. The last record is cut short if the process ended while it was written. Each VM that a process begins,
//! begins anew. The room for a file is taken when it begins: a disk that is full is one of the things that are checked.

use std::fs::{self, File};
use std::io::{self, Write};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::base::units::ExitOrdinal;
use crate::site::store::VmFolder;

const MAGIC: &[u8; 8] = b"ANTIFRAM";
/// The file that is written, and the one before.
const NAME: &str = "frames";
const OLD_NAME: &str = "frames.old";

/// Where frames are to be kept, and how many bytes of them.
#[derive(Debug, Clone)]
pub(crate) struct KeepFrames {
    pub(crate) folder: VmFolder,
    pub(crate) bytes_max: u64,
}

impl KeepFrames {
    /// Begins anew.
    ///
    /// # Errors
    /// When the host refuses.
    pub(crate) fn begin(&self) -> io::Result<KeptFrames> {
        match fs::remove_file(self.folder.file(OLD_NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (file, byte_count) = self.open(0)?;
        Ok(KeptFrames {
            place: self.clone(),
            number: 0,
            file,
            byte_count,
        })
    }

    fn open(&self, number: u64) -> io::Result<(File, u64)> {
        let mut file = self.folder.create(NAME)?;
        let head = [MAGIC.as_slice(), &number.to_le_bytes()].concat();
        file.write_all(&head)?;
        let room = i64::try_from(self.bytes_max / 2).unwrap_or(i64::MAX);
        match fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, room) {
            // Where that cannot be, room is taken as it is needed.
            Ok(()) | Err(Errno::EOPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        Ok((file, head.len() as u64))
    }
}

/// A frame that is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kept<'a> {
    /// The guest has made it, as the live copy.
    Live(&'a [u8]),
    /// The guest has made it in replay.
    Replayed(&'a [u8]),
    /// Its digest: another copy of the guest has made it.
    Told(u64),
}

/// The frames that are kept.
#[derive(Debug)]
pub(crate) struct KeptFrames {
    place: KeepFrames,
    number: u64,
    file: File,
    byte_count: u64,
}

impl KeptFrames {
    /// Keeps a frame that was made at `position`.
    ///
    /// # Errors
    /// When the host refuses. What was kept before stays.
    pub(crate) fn note(&mut self, position: ExitOrdinal, kept: Kept<'_>) -> io::Result<()> {
        let digest;
        let (kind, content) = match kept {
            Kept::Live(frame) => (0, frame),
            Kept::Replayed(frame) => (1, frame),
            Kept::Told(told) => {
                digest = told.to_le_bytes();
                (2, &digest[..])
            }
        };
        let length = u32::try_from(content.len()).map_err(io::Error::other)?;
        let head = [&position.get().to_le_bytes()[..], &[kind], &length.to_le_bytes()];
        let record = [&head.concat(), content].concat();
        if self.byte_count + record.len() as u64 > self.place.bytes_max / 2 {
            let folder = &self.place.folder;
            fs::rename(folder.file(NAME), folder.file(OLD_NAME))?;
            self.number += 1;
            (self.file, self.byte_count) = self.place.open(self.number)?;
        }
        self.file.write_all(&record)?;
        self.byte_count += record.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(bytes_max: u64) -> (tempfile::TempDir, KeepFrames) {
        let state = tempfile::tempdir().unwrap();
        let folder = VmFolder::of(state.path(), "redis-1");
        folder.make().unwrap();
        (state, KeepFrames { folder, bytes_max })
    }

    #[test]
    fn a_frame_is_kept_as_it_is_drawn() {
        let (_state, place) = place(1 << 20);
        let mut kept = place.begin().unwrap();
        kept.note(ExitOrdinal::new(7), Kept::Replayed(b"abc")).unwrap();
        kept.note(ExitOrdinal::new(0x1_02), Kept::Live(b"")).unwrap();
        kept.note(ExitOrdinal::new(3), Kept::Told(0x0203)).unwrap();
        let expected = [
            &b"ANTIFRAM\0\0\0\0\0\0\0\0"[..],
            b"\x07\0\0\0\0\0\0\0\x01\x03\0\0\0abc",
            b"\x02\x01\0\0\0\0\0\0\0\0\0\0\0",
            b"\x03\0\0\0\0\0\0\0\x02\x08\0\0\0\x03\x02\0\0\0\0\0\0",
        ];
        assert_eq!(fs::read(place.folder.file(NAME)).unwrap(), expected.concat());
    }

    #[test]
    fn room_is_taken_before_it_is_needed() {
        use std::os::linux::fs::MetadataExt;

        let (_state, place) = place(1 << 20);
        let _kept = place.begin().unwrap();
        let file = fs::metadata(place.folder.file(NAME)).unwrap();
        assert_eq!(file.st_size(), 16);
        assert!(file.st_blocks() * 512 >= 1 << 19, "{}", file.st_blocks());
    }

    #[test]
    fn no_more_is_kept_than_may_be_and_the_newest_stays() {
        let (_state, place) = place(1_000);
        let mut kept = place.begin().unwrap();
        for round in 0..100_u8 {
            kept.note(ExitOrdinal::new(1), Kept::Replayed(&[round; 50]))
                .unwrap();
        }
        let files = [OLD_NAME, NAME].map(|name| fs::read(place.folder.file(name)).unwrap());
        assert!(files.iter().all(|file| file.len() <= 500));
        assert_eq!(files[1].last(), Some(&99));
        let numbers = files.map(|file| u64::from_le_bytes(file[8..16].try_into().unwrap()));
        assert!(numbers[0] > 0 && numbers[1] == numbers[0] + 1, "{numbers:?}");
        drop(kept);
        place.begin().unwrap();
        assert!(!place.folder.file(OLD_NAME).exists());
        assert_eq!(fs::read(place.folder.file(NAME)).unwrap().len(), 16);
    }
}
