//! The guest's part: a thread that writes, in its own rhythm, until it is told to end. It is slowed, and stunned, as a
//! VM is; nothing else makes it wait.

use super::wire::Message;
use super::{LEAF, WRITE};
use crate::switch::random::Random;
use antipode_disk_sync::image::{FileImage, Image};
use antipode_disk_sync::online::{Live, Position};
use antipode_disk_sync::replica::FileStore;
use anyhow::{Result, anyhow};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// After so many writes the guest flushes.
const WRITES_PER_FLUSH: u64 = 256;

/// The line to the backup, and whether both execute the log. Whoever holds the lock stuns the writer.
pub(super) struct Line {
    pub(super) stream: TcpStream,
    pub(super) is_lockstep: bool,
}

/// What the writer and those who watch it share.
pub(super) struct Guest {
    pub(super) live: Live<FileImage, FileStore>,
    line: Mutex<Line>,
    /// How fast it may write, in bytes a second.
    pub(super) bytes_per_second: AtomicU64,
    is_over: AtomicBool,
    pub(super) writes: AtomicU64,
}

impl Guest {
    pub(super) fn new(live: Live<FileImage, FileStore>, stream: TcpStream, wish: u64) -> Self {
        Self {
            live,
            line: Mutex::new(Line {
                stream,
                is_lockstep: false,
            }),
            bytes_per_second: AtomicU64::new(wish),
            is_over: AtomicBool::new(false),
            writes: AtomicU64::new(0),
        }
    }

    /// Stuns the writer for as long as this is held.
    pub(super) fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn send(&self, message: &Message) -> Result<()> {
        Ok(message.send(&mut self.line().stream)?)
    }

    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(super) fn into_live(self) -> Live<FileImage, FileStore> {
        self.live
    }

    /// Writes until it is told to end. Three writes of four go to an eighth of the disk, as a database's do.
    pub(super) fn write(&self, seed: u64) -> Result<()> {
        let mut random = Random::new(seed, "writer");
        let blocks = self.live.image().length().bytes() / WRITE as u64;
        let mut due = Instant::now();
        while !self.is_over.load(Ordering::Relaxed) {
            let hot = random.up_to(3) > 0;
            let offset = random.up_to(if hot { blocks / 8 } else { blocks } - 1) * WRITE as u64;
            let bytes = random.next_u64().to_le_bytes().repeat(WRITE / 8);
            self.write_one(offset, bytes)?;
            let rate = self.bytes_per_second.load(Ordering::Relaxed).max(1);
            // What could not be written while it was stunned is not made up for.
            due = due.max(Instant::now()) + Duration::from_nanos(WRITE as u64 * 1_000_000_000 / rate);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// One write more, into this leaf, beside the writer's own; answers with its position.
    pub(super) fn write_into(&self, leaf: u64) -> Result<Position> {
        let now = self.live.position().0;
        let offset = leaf * LEAF as u64 + now % (LEAF / WRITE) as u64 * WRITE as u64;
        self.write_one(offset, now.to_le_bytes().repeat(WRITE / 8))
    }

    fn write_one(&self, offset: u64, bytes: Vec<u8>) -> Result<Position> {
        let mut line = self.line();
        let failed = |error| anyhow!("the guest's write failed: {error}");
        let position = self.live.write(offset, &bytes).map_err(failed)?;
        if line.is_lockstep {
            Message::Write {
                position: position.0,
                offset,
                bytes,
            }
            .send(&mut line.stream)?;
        }
        drop(line);
        if self
            .writes
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(WRITES_PER_FLUSH)
        {
            self.live.flush().map_err(failed)?;
        }
        Ok(position)
    }
}

const _: () = assert!(LEAF.is_multiple_of(WRITE));
