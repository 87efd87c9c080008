//! What the write hook costs a guest: 4 KiB writes at random, through it and past it.
//!
//! Two images are written to alike, a slice of writes at a time, by turns: what the host does meanwhile hits both. The
//! replica is alone, so each write is marked, and fresh, so the first write to an extent waits for a durable update. The
//! whole run counts, and its second half by itself: what each write costs once the guest has been everywhere.
//!
//! Once over an image that is filled, and once all over one that is large and sparse: there a write seldom comes where one
//! has been before, and what counts is how the hook finds its way about.

use super::Bench;
use crate::switch::random::Random;
use antipode_disk_sync::disk::NewDisk;
use antipode_disk_sync::disk::{Paths, create};
use antipode_disk_sync::image::{Access, FileImage, Image};
use antipode_disk_sync::online::{Live, Position};
use antipode_disk_sync::replica::{FileStore, GenerationId, Replica, ReplicaId};
use anyhow::Result;
use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

const FILLED_BYTES: u64 = 1 << 30;
const SPARSE_BYTES: u64 = 64 << 30;
const WRITE_BYTES: u64 = 4096;
/// Writes in a slice, and slices of a run.
const SLICE_WRITES: u64 = 512;
const SLICES: u64 = 48;

/// After so many writes a guest flushes. A file server does so more often, which hides the hook's cost behind the disk.
const WRITES_PER_FLUSH: u64 = 64;

/// Seconds of the same writes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Took {
    past: f64,
    through: f64,
}

/// Which image is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Filled,
    LargeAndSparse,
}

impl Kind {
    const fn bytes(self) -> u64 {
        match self {
            Self::Filled => FILLED_BYTES,
            Self::LargeAndSparse => SPARSE_BYTES,
        }
    }
}

impl Bench {
    /// The whole run, and its second half.
    pub(super) fn hook(&self, kind: Kind) -> Result<(Took, Took)> {
        let paths = Paths::new(self.path("hooked"), None);
        let new = NewDisk {
            vm: "bench".parse()?,
            replica: ReplicaId([1; 16]),
            content: Some(GenerationId([1; 16])),
            size: Some(kind.bytes()),
        };
        create(&paths, new)?;
        let plain_path = self.path("plain");
        File::create(&plain_path)?.set_len(kind.bytes())?;
        let plain = opened(&plain_path, kind)?;
        let image = opened(&paths.image, kind)?;
        let (replica, _) = Replica::open(FileStore::open(&paths.metadata, true)?)?;
        let live = Live::new(image, replica, Position(0));
        live.lose_peer(GenerationId([2; 16]));
        let (mut whole, mut late) = (Took::default(), Took::default());
        for slice in 0..SLICES {
            let past = || {
                writes(
                    kind,
                    slice,
                    |offset, bytes| Ok(plain.write_at(offset, bytes)?),
                    || Ok(plain.flush()?),
                )
            };
            let through = || {
                writes(
                    kind,
                    slice,
                    |offset, bytes| Ok(live.write(offset, bytes).map(drop)?),
                    || Ok(live.flush()?),
                )
            };
            let took = if slice.is_multiple_of(2) {
                let past = past()?;
                Took {
                    past,
                    through: through()?,
                }
            } else {
                let through = through()?;
                Took {
                    past: past()?,
                    through,
                }
            };
            whole.add(took);
            if slice >= SLICES / 2 {
                late.add(took);
            }
        }
        drop((live, plain));
        for path in [&paths.image, &paths.metadata, &plain_path] {
            fs::remove_file(path)?;
        }
        Ok((whole, late))
    }
}

impl Took {
    /// Of the hook, by what is past it.
    pub(super) fn cost(self) -> f64 {
        self.through / self.past
    }

    fn add(&mut self, more: Self) {
        self.past += more.past;
        self.through += more.through;
    }
}

/// Opens an image, and makes room for all of it if it shall be filled: what is measured then is no file system's.
fn opened(path: &Path, kind: Kind) -> Result<FileImage> {
    let image = FileImage::open(path, Access::Write)?;
    if kind == Kind::Filled {
        for offset in (0..FILLED_BYTES).step_by(1 << 20) {
            image.write_at(offset, &[1; 1 << 20])?;
        }
    }
    image.flush()?;
    Ok(image)
}

fn writes(
    kind: Kind,
    slice: u64,
    write: impl Fn(u64, &[u8]) -> Result<()>,
    flush: impl Fn() -> Result<()>,
) -> Result<f64> {
    let mut random = Random::new(slice, "hook");
    let bytes = vec![7; usize::try_from(WRITE_BYTES)?];
    let begun = Instant::now();
    for count in 1..=SLICE_WRITES {
        write(random.up_to(kind.bytes() / WRITE_BYTES - 1) * WRITE_BYTES, &bytes)?;
        if count.is_multiple_of(WRITES_PER_FLUSH) {
            flush()?;
        }
    }
    Ok(begun.elapsed().as_secs_f64())
}
