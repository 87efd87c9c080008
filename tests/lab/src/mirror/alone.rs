//! A replica whose other one is lost: its guest goes on, and then ends well or is killed.

use super::{Files, LEAF, WRITE};
use crate::switch::random::Random;
use antipode_disk_sync::image::Image;
use antipode_disk_sync::online::{Live, Position};
use antipode_disk_sync::replica::GenerationId;
use anyhow::{Result, anyhow};
use std::collections::BTreeSet;

/// What is asked of it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// How many leaves are written to
    #[arg(long, default_value_t = 10)]
    leaves: u64,
    /// Which extent of 64 leaves they are in: the first of it
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Ends as if it were killed: nothing is flushed or closed
    #[arg(long)]
    crash: bool,
    /// All chance follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Writes, and answers how many leaves were written to.
///
/// # Errors
/// If the disk fails.
pub fn run(args: &Args) -> Result<u64> {
    let (image, replica) = args.files.open()?;
    let leaves = image.length().leaves();
    let live = Live::new(image, replica, Position(0));
    let mut random = Random::new(args.seed, "alone");
    let mut generation = [0; 16];
    for half in generation.chunks_mut(8) {
        half.copy_from_slice(&random.next_u64().to_le_bytes());
    }
    live.lose_peer(GenerationId(generation));
    let mut written = BTreeSet::new();
    for leaf in (args.first..leaves).take(usize::try_from(args.leaves)?) {
        let offset = leaf * LEAF as u64 + random.up_to(15) * WRITE as u64;
        let bytes = random.next_u64().to_le_bytes().repeat(WRITE / 8);
        live.write(offset, &bytes).map_err(|error| anyhow!("{error}"))?;
        written.insert(leaf);
    }
    if !args.crash {
        live.close().map_err(|error| anyhow!("{error}"))?;
    }
    Ok(written.len() as u64)
}
