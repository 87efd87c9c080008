//! Requests to a disk, past the page cache.

use super::order::{Direction, Pattern};
use crate::switch::random::Random;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// `O_DIRECT` wants buffers aligned to the disk's blocks; none has larger ones.
const ALIGNMENT: usize = 4_096;

/// The part of a disk that may be overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The disk.
    pub path: PathBuf,
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
}

impl Region {
    /// Reads or writes for `span`, from `depth` threads, and returns how many bytes were done.
    ///
    /// # Errors
    /// The disk's, or that the region is smaller than a block.
    pub fn load(
        &self,
        direction: Direction,
        pattern: Pattern,
        depth: u32,
        span: Duration,
    ) -> io::Result<u64> {
        let blocks = self.length / pattern.block_bytes() as u64;
        if blocks == 0 {
            return Err(io::Error::other("the region is smaller than a block"));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(direction == Direction::Write)
            .custom_flags(libc::O_DIRECT)
            .open(&self.path)?;
        let work = Work {
            file,
            start: self.start,
            direction,
            pattern,
            blocks,
            next: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..depth)
                .map(|index| {
                    let work = &work;
                    scope.spawn(move || work.carry_out(index))
                })
                .collect();
            thread::sleep(span);
            work.ended.store(true, Ordering::Relaxed);
            let done = threads.into_iter().map(|thread| {
                let died = |_| Err(io::Error::other("a thread of the load died"));
                thread.join().unwrap_or_else(died)
            });
            done.sum()
        })
    }
}

struct Work {
    file: File,
    start: u64,
    direction: Direction,
    pattern: Pattern,
    blocks: u64,
    next: AtomicU64,
    ended: AtomicBool,
}

impl Work {
    fn carry_out(&self, index: u32) -> io::Result<u64> {
        let block_bytes = self.pattern.block_bytes();
        let mut memory = vec![0xA5_u8; block_bytes + ALIGNMENT];
        let unaligned = memory.as_ptr().align_offset(ALIGNMENT);
        let buffer = &mut memory[unaligned..unaligned + block_bytes];
        let mut random = Random::new(u64::from(index), "load");
        let mut done = 0;
        while !self.ended.load(Ordering::Relaxed) {
            let block = match self.pattern {
                Pattern::Sequential => self.next.fetch_add(1, Ordering::Relaxed) % self.blocks,
                Pattern::Random => random.up_to(self.blocks - 1),
            };
            let offset = self.start + block * block_bytes as u64;
            match self.direction {
                Direction::Read => self.file.read_exact_at(buffer, offset)?,
                Direction::Write => self.file.write_all_at(buffer, offset)?,
            }
            done += block_bytes as u64;
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_stay_in_the_region_and_are_counted() {
        // Not in /tmp, which may be a tmpfs: that knows no O_DIRECT.
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        let region = Region {
            path: file.path().to_owned(),
            start: 1 << 20,
            length: 2 << 20,
        };
        let span = Duration::from_millis(20);
        for pattern in [Pattern::Sequential, Pattern::Random] {
            let written = region.load(Direction::Write, pattern, 2, span).unwrap();
            assert!(written > 0 && written.is_multiple_of(pattern.block_bytes() as u64));
        }
        assert!(region.load(Direction::Read, Pattern::Random, 1, span).unwrap() > 0);
        let bytes = std::fs::read(file.path()).unwrap();
        let is_written = |range: std::ops::Range<usize>| bytes[range].contains(&0xA5);
        assert!(!is_written(0..1 << 20) && is_written(1 << 20..3 << 20) && !is_written(3 << 20..4 << 20));
    }

    #[test]
    fn a_region_without_room_is_refused() {
        let region = Region {
            path: "/dev/null".into(),
            start: 0,
            length: 4_095,
        };
        let span = Duration::ZERO;
        assert!(region.load(Direction::Read, Pattern::Random, 1, span).is_err());
    }
}
