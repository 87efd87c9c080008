//! `antipode-lab bench disk`: `antipode disk` against `b3sum` and `rsync`, natively, on this machine's own disk.
//!
//! ```text
//!  each round:  digest of 1 GiB (cached) │ b3sum of the same │ digest of 1 TiB of holes around the same
//!               for 1 % and 30 % of 64 KiB blocks changed:  rsync --inplace --no-whole-file │ antipode disk sync
//! ```
//!
//! Ratios are of medians within one run. Times are from starting a process to its end. `antipode disk sync` ends when
//! all is durable and read back; rsync's end says nothing of the kind, and is taken as it is.

use super::summary::Bound;
use crate::debian::{Cache, requirements};
use crate::host::{Materials, RunDirectory};
use crate::switch::random::Random;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

const LEAF: u64 = 64 * 1024;
const SPARSE_BYTES: u64 = 1 << 40;

/// Changed blocks out of a hundred, and what the sync must be faster by.
const CHANGES: &[(u64, &str, f64)] = &[(1, "rsync_1", 1.5), (30, "rsync_30", 5.0)];

#[derive(Debug, clap::Args)]
pub(super) struct DiskArgs {
    /// Runs of each program
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Size of the image in MiB
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(16..=65_536))]
    mib: u64,
    /// The `antipode` to measure (default: build this workspace's)
    #[arg(long, value_name = "FILE")]
    antipode: Option<PathBuf>,
    /// Print one line of JSON last
    #[arg(long)]
    json: bool,
}

/// Carries the command out. The exit code is 1 if a bound is broken.
pub(super) fn run(args: &DiskArgs) -> Result<ExitCode> {
    requirements::ensure()?;
    let antipode = match &args.antipode {
        Some(path) => path.clone(),
        None => Materials::prepare()?.antipode.context("no antipode was built")?,
    };
    let run = RunDirectory::create(Cache::of_workspace()?.root(), "bench-disk")?;
    let bench = Bench {
        antipode,
        folder: run.path().to_owned(),
        bytes: args.mib << 20,
    };
    bench.prepare()?;
    let mut times: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for round in 0..args.rounds {
        for (name, seconds) in bench.round(round)? {
            times.entry(name).or_default().push(seconds);
        }
        eprintln!("lab: round {} of {}", round + 1, args.rounds);
    }
    run.finish();
    let medians: BTreeMap<&str, f64> = times.iter().map(|(name, all)| (*name, median(all))).collect();
    let ratios = ratios(&medians);
    let broken: Vec<&str> = ratios
        .iter()
        .filter(|(_, ratio, bound)| !bound.holds(*ratio))
        .map(|(name, ..)| *name)
        .collect();
    if args.json {
        let mut line = json!({ "ok": broken.is_empty(), "out_of_bounds": broken, "rounds": args.rounds, "seconds": medians, "all": times });
        for (name, ratio, _) in &ratios {
            line[*name] = json!((ratio * 1000.0).round() / 1000.0);
        }
        println!("{line}");
    } else {
        for (name, seconds) in &medians {
            println!("{name:<24}{seconds:>10.3} s");
        }
        for (name, ratio, bound) in &ratios {
            println!("{name:<24}{ratio:>10.2}  {bound:?}");
        }
    }
    Ok(if broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// What is bounded: name, value, bound.
fn ratios(seconds: &BTreeMap<&str, f64>) -> Vec<(&'static str, f64, Bound)> {
    let of = |name: &str| seconds.get(name).copied().unwrap_or(f64::NAN);
    let mut all = vec![
        ("rate_vs_b3sum", of("b3sum") / of("digest"), Bound::AtLeast(0.8)),
        (
            "sparse_vs_data",
            of("digest_sparse") / of("digest"),
            Bound::AtMost(2.0),
        ),
    ];
    for (_, name, bound) in CHANGES {
        let ours = if *name == "rsync_1" { "sync_1" } else { "sync_30" };
        let ratio = if *name == "rsync_1" {
            "speed_vs_rsync_1"
        } else {
            "speed_vs_rsync_30"
        };
        all.push((ratio, of(name) / of(ours), Bound::AtLeast(*bound)));
    }
    all
}

struct Bench {
    antipode: PathBuf,
    folder: PathBuf,
    bytes: u64,
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The image, the same in the middle of holes, and one changed image for each share of blocks.
    fn prepare(&self) -> Result<()> {
        let mut random = Random::new(1, "disk");
        let mut image = File::create(self.path("base"))?;
        let sparse = File::create(self.path("sparse"))?;
        sparse.set_len(SPARSE_BYTES)?;
        for block in 0..self.bytes / LEAF {
            let bytes = noise(&mut random);
            image.write_all(&bytes)?;
            sparse.write_all_at(&bytes, SPARSE_BYTES / 2 + block * LEAF)?;
        }
        for (share, ..) in CHANGES {
            let source = self.path(&format!("source-{share}"));
            fs::copy(self.path("base"), &source)?;
            let file = OpenOptions::new().write(true).open(&source)?;
            for block in 0..self.bytes / LEAF {
                if random.up_to(99) < *share {
                    file.write_all_at(&noise(&mut random), block * LEAF)?;
                }
            }
            self.disk(&["create", &format!("source-{share}"), "--vm", "bench"])?;
        }
        settle()
    }

    /// One of everything, in seconds. The order of rivals alternates.
    fn round(&self, round: u32) -> Result<Vec<(&'static str, f64)>> {
        let mut took = Vec::new();
        let digest = || self.disk(&["digest", "base", "--content"]);
        let rival = || timed(Command::new("b3sum").arg(self.path("base")));
        // Once unmeasured: neither pays for a cold cache.
        digest()?;
        if round.is_multiple_of(2) {
            took.extend([("digest", digest()?), ("b3sum", rival()?)]);
        } else {
            took.extend([("b3sum", rival()?), ("digest", digest()?)]);
        }
        self.disk(&["digest", "sparse", "--content"])?;
        took.push(("digest_sparse", self.disk(&["digest", "sparse", "--content"])?));
        for (share, rsync, _) in CHANGES {
            let source = format!("source-{share}");
            self.fresh_target()?;
            let mut command = Command::new("rsync");
            command
                .args(["--inplace", "--no-whole-file"])
                .arg(self.path(&source))
                .arg(self.path("target"));
            took.push((rsync, timed(&mut command)?));
            self.check(&source)?;
            self.fresh_target()?;
            self.disk(&["create", "target", "--vm", "bench", "--empty"])?;
            let sync = if *share == 1 { "sync_1" } else { "sync_30" };
            took.push((sync, self.disk(&["sync", &source, "target"])?));
            self.check(&source)?;
        }
        Ok(took)
    }

    fn fresh_target(&self) -> Result<()> {
        for name in ["target", "target.replica"] {
            match fs::remove_file(self.path(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        fs::copy(self.path("base"), self.path("target"))?;
        settle()
    }

    /// A program that is fast and wrong shall win nothing.
    fn check(&self, source: &str) -> Result<()> {
        let same = Command::new("cmp")
            .arg(self.path(source))
            .arg(self.path("target"))
            .status()?;
        ensure!(same.success(), "the target is not equal to {source}");
        Ok(())
    }

    fn disk(&self, arguments: &[&str]) -> Result<f64> {
        let mut command = Command::new(&self.antipode);
        command
            .arg("disk")
            .args(arguments)
            .arg("--json")
            .current_dir(&self.folder);
        timed(&mut command)
    }
}

fn noise(random: &mut Random) -> Vec<u8> {
    (0..LEAF / 8)
        .flat_map(|_| random.next_u64().to_le_bytes())
        .collect()
}

/// Nothing that was written before is still being written while the next one is measured.
fn settle() -> Result<()> {
    let done = Command::new("sync").status()?;
    ensure!(done.success(), "sync failed");
    Ok(())
}

fn timed(command: &mut Command) -> Result<f64> {
    let begun = Instant::now();
    let status = command.stdout(Stdio::null()).status();
    let took = begun.elapsed().as_secs_f64();
    let program = Path::new(command.get_program()).display().to_string();
    let status = status.with_context(|| format!("starting {program}"))?;
    ensure!(status.success(), "{program} failed: {status}");
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_ours_against_theirs() {
        let seconds = BTreeMap::from([
            ("digest", 0.2),
            ("b3sum", 0.1),
            ("digest_sparse", 0.3),
            ("rsync_1", 2.0),
            ("sync_1", 1.0),
            ("rsync_30", 9.0),
            ("sync_30", 3.0),
        ]);
        let values: Vec<f64> = ratios(&seconds)
            .iter()
            .map(|(_, value, _)| (value * 10.0).round())
            .collect();
        assert_eq!(values, [5.0, 15.0, 20.0, 30.0]);
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
    }
}
