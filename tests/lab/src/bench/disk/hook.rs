//! What the write hook costs a guest: 4 KiB writes at random, through it and past it.

use super::Bench;
use crate::switch::random::Random;
use antipode_disk_sync::disk::NewDisk;
use antipode_disk_sync::disk::{Paths, create};
use antipode_disk_sync::image::{Access, FileImage, Image};
use antipode_disk_sync::online::{Live, Position};
use antipode_disk_sync::replica::{FileStore, GenerationId, Replica, ReplicaId};
use anyhow::{Result, anyhow};
use std::fs;
use std::time::Instant;

const IMAGE_BYTES: u64 = 1 << 30;
const WRITE_BYTES: u64 = 4096;
const WRITES: u64 = 8192;

/// After so many writes a guest flushes. A file server does so more often, which hides the hook's cost behind the disk.
const WRITES_PER_FLUSH: u64 = 64;

impl Bench {
    /// Seconds of the same writes past the hook, and through it, with a replica that is alone: each is marked.
    pub(super) fn hook(&self, round: u32) -> Result<(f64, f64)> {
        let paths = Paths::new(self.path("hooked"), None);
        let new = NewDisk {
            vm: "bench".parse()?,
            replica: ReplicaId([1; 16]),
            content: Some(GenerationId([1; 16])),
            size: Some(IMAGE_BYTES),
        };
        create(&paths, new)?;
        let image = FileImage::open(&paths.image, Access::Write)?;
        // Room is made beforehand: what is measured is no file system's.
        for offset in (0..IMAGE_BYTES).step_by(1 << 20) {
            image.write_at(offset, &[1; 1 << 20])?;
        }
        image.flush()?;
        let (replica, _) = Replica::open(FileStore::open(&paths.metadata, true)?)?;
        let live = Live::new(image, replica, Position(0));
        live.lose_peer(GenerationId([2; 16]));
        let past = || {
            writes(
                |offset, bytes| Ok(live.image().write_at(offset, bytes)?),
                || Ok(live.image().flush()?),
            )
        };
        let through = || {
            writes(
                |offset, bytes| {
                    live.write(offset, bytes)
                        .map(drop)
                        .map_err(|error| anyhow!("{error}"))
                },
                || live.flush().map_err(|error| anyhow!("{error}")),
            )
        };
        // The first write to an extent waits for a durable update, and the whole image fits the log: what is measured is
        // what each write costs from then on.
        past()?;
        through()?;
        let took = if round.is_multiple_of(2) {
            let first = past()?;
            (first, through()?)
        } else {
            let first = through()?;
            (past()?, first)
        };
        drop(live);
        fs::remove_file(&paths.image)?;
        fs::remove_file(&paths.metadata)?;
        Ok(took)
    }
}

fn writes(write: impl Fn(u64, &[u8]) -> Result<()>, flush: impl Fn() -> Result<()>) -> Result<f64> {
    let mut random = Random::new(1, "hook");
    let bytes = vec![7; usize::try_from(WRITE_BYTES)?];
    let begun = Instant::now();
    for count in 1..=WRITES {
        write(random.up_to(IMAGE_BYTES / WRITE_BYTES - 1) * WRITE_BYTES, &bytes)?;
        if count.is_multiple_of(WRITES_PER_FLUSH) {
            flush()?;
        }
    }
    Ok(begun.elapsed().as_secs_f64())
}
