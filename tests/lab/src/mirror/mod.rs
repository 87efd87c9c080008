//! Two ends that execute one log of disk writes, and never stop: what `antipode-lab-mirror` runs on two hosts.
//!
//! The site's driver that will do this for a VM is not there yet; what it will be built from is: the write hook, the
//! passes and the rule of positions of `antipode_disk_sync::online`. Here they meet a real disk, a long line and a
//! writer that does not wait for them.
//!
//! ```text
//!   primary                                                        backup
//!     writer ──▶ Live ─────── Leaf (passes, then the rest) ─────────▶ image, its replica `syncing`
//!                   │ stun ── Lockstep(position) ────────────────────▶ verified by count, flushed, `clean`
//!     writer ──▶ Live ─────── Write(position) ───────────────────────▶ queue ── behind by chance ──▶ Live
//!     Mover ─── snapshot ──── Order(position) ───────────────────────▶ Placer ── reads or writes the leaf
//!           ◀──────────────── Done │ Again ───────────────────────────┘
//! ```
//!
//! - `wire`: messages. - `writer`: the guest's part. - [`primary`], [`backup`]: the ends. - [`alone`]: a replica that was left
//!   alone, written to, and perhaps killed.

pub mod alone;
pub mod backup;
pub mod primary;
mod wire;
mod writer;

#[cfg(test)]
mod tests;

use antipode_disk_sync::image::{Access, FileImage};
use antipode_disk_sync::replica::{FileStore, GenerationId, Replica};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Bytes of a leaf, and of a write.
const LEAF: usize = 64 * 1024;
const WRITE: usize = 4096;

/// Every unit that is moved names it: late packets of an earlier pairing do not.
const PAIRING: GenerationId = GenerationId(*b"the lab's mirror");

/// A replica's two files.
#[derive(Debug, Clone, clap::Args)]
pub struct Files {
    /// The image
    pub image: PathBuf,
    /// Its metadata
    pub metadata: PathBuf,
}

impl Files {
    fn open(&self) -> Result<(FileImage, Replica<FileStore>)> {
        let image = FileImage::open(&self.image, Access::Write)?;
        Ok((image, open_replica(&self.metadata)?))
    }
}

fn open_replica(metadata: &Path) -> Result<Replica<FileStore>> {
    let store = FileStore::open(metadata, true).with_context(|| metadata.display().to_string())?;
    let (replica, _) = Replica::open(store).with_context(|| metadata.display().to_string())?;
    Ok(replica)
}
