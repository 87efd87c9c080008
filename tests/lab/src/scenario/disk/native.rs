//! How fast an image is digested, against `b3sum` on this machine: within one run, cached, one after the other.

use super::super::report::median;
use crate::debian::run_tool;
use crate::switch::random::Random;
use anyhow::Result;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const BYTES: usize = 256 << 20;
const ROUNDS: usize = 7;

/// `b3sum`'s time by ours, medians.
pub(super) fn rate_vs_b3sum(antipode: &Path, folder: &Path) -> Result<f64> {
    let path = folder.join("digested");
    let mut random = Random::new(1, "native");
    let noise: Vec<u8> = (0..1 << 17)
        .flat_map(|_| random.next_u64().to_le_bytes())
        .collect();
    let mut file = File::create(&path)?;
    for _ in 0..BYTES / noise.len() {
        file.write_all(&noise)?;
    }
    let ours = || {
        let mut command = Command::new(antipode);
        timed(command.args(["disk", "digest", "--json"]).arg(&path), "antipode")
    };
    let theirs = || timed(Command::new("b3sum").arg(&path), "b3sum");
    ours()?;
    let (mut of_ours, mut of_theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        of_theirs.push(theirs()?);
        of_ours.push(ours()?);
    }
    std::fs::remove_file(&path)?;
    Ok(median(&of_theirs) / median(&of_ours))
}

fn timed(command: &mut Command, package: &str) -> Result<f64> {
    let begun = Instant::now();
    run_tool(command, package)?;
    Ok(begun.elapsed().as_secs_f64())
}
