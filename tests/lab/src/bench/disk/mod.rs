//! `antipode-lab bench disk`: `antipode disk` against `b3sum` and `rsync`, natively, on this machine's own disk.
//!
//! ```text
//!  each round:  digest of 1 GiB (cached) │ b3sum of the same │ content root of 1 TiB of holes around the same
//!               digest of the same, not cached │ cat of the same
//!               4 KiB writes past the write hook and through it, by turns: to 1 GiB, and all over 64 GiB
//!               for 1 % and 30 % of 64 KiB blocks changed:  rsync --inplace --no-whole-file │ antipode disk sync
//!  once:        a sync over 80 ms and 100 Mbit/s, 1 % changed │ the memory of a digest and a sync of 1 TiB of holes
//! ```
//!
//! Ratios are of medians within one run. Times are from starting a process to its end. `antipode disk sync` ends when
//! all is durable and read back; rsync's end says nothing of the kind, and is taken as it is. [`line`]: the long line.
//! [`hook`]: the write hook.

mod hook;
mod line;

use super::summary::{self, Bound};
use crate::debian::requirements;
use crate::host::{RunDirectory, antipode_alone};
use crate::scenario::report::{median, rounded};
use crate::switch::random::Random;
use anyhow::{Context, Result, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hook::Kind;
use line::Crossing;

const LEAF: u64 = 64 * 1024;
const SPARSE_BYTES: u64 = 1 << 40;

/// Digests in a round: each takes a fraction of a second, and a busy machine makes single ones lie.
const DIGESTS: u32 = 9;

/// Those of an image that is not cached, in a round.
const COLD_DIGESTS: u32 = 3;

/// Runs of a guest's writes in a round: the disk of a host does other things too.
const HOOKS: u32 = 3;

/// What its hook costs, over either image: of a whole run, and of its second half.
const HOOK_COSTS: [&str; 4] = [
    "hook_cost",
    "hook_cost_late",
    "large_hook_cost",
    "large_hook_cost_late",
];

/// What a command may take beside the image's own share of 0.01 %.
const MEMORY_BYTES: u64 = 64 << 20;

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
    /// Size of the image that crosses the long line, in MiB; it takes twice that on disk
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(64..=65_536))]
    line_mib: u64,
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
    let (lab_directory, antipode) = antipode_alone(args.antipode.as_deref())?;
    let run = RunDirectory::create(&lab_directory, "bench-disk")?;
    let bench = Bench {
        antipode,
        folder: run.path().to_owned(),
        bytes: args.mib << 20,
    };
    let crossing = bench.line(args.line_mib << 20)?;
    bench.prepare()?;
    let mut times: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for round in 0..args.rounds {
        for (name, seconds) in bench.round(round)? {
            times.entry(name).or_default().push(seconds);
        }
        eprintln!("lab: round {} of {}", round + 1, args.rounds);
    }
    let memory_ratio = bench.memory()?;
    run.finish();
    let medians: BTreeMap<&str, f64> = times.iter().map(|(name, all)| (*name, median(all))).collect();
    let mut ratios = ratios(&medians);
    ratios.extend([
        ("line_time_ratio", crossing.time_ratio, Bound::AtMost(1.0)),
        ("line_wire_ratio", crossing.wire_ratio, Bound::AtMost(1.0)),
        ("memory_ratio", memory_ratio, Bound::AtMost(1.0)),
    ]);
    let broken: Vec<&str> = ratios
        .iter()
        .filter(|(_, ratio, bound)| !bound.holds(*ratio))
        .map(|(name, ..)| *name)
        .collect();
    if args.json {
        let mut line = json!({ "ok": broken.is_empty(), "out_of_bounds": broken, "rounds": args.rounds, "seconds": medians, "all": times,
            "line": { "mib": args.line_mib, "seconds": crossing.took, "hashing_seconds": crossing.hashing } });
        for (name, ratio, _) in &ratios {
            line[*name] = json!(rounded(*ratio));
        }
        println!("{line}");
    } else {
        // What a hook costs is no time, and is told with the ratios.
        let in_seconds = medians.iter().filter(|(name, _)| !HOOK_COSTS.contains(name));
        for (name, seconds) in in_seconds {
            println!("{name:<24}{seconds:>10.3} s");
        }
        for (name, ratio, bound) in &ratios {
            println!("{name:<24}{ratio:>10.2}  {bound:?}");
        }
    }
    Ok(summary::exit_code(&broken))
}

/// What is bounded: name, value, bound.
fn ratios(seconds: &BTreeMap<&str, f64>) -> Vec<(&'static str, f64, Bound)> {
    let of = |name: &str| seconds.get(name).copied().unwrap_or(f64::NAN);
    let mut all = vec![
        ("rate_vs_b3sum", of("b3sum") / of("digest"), Bound::AtLeast(0.8)),
        (
            "sparse_vs_data",
            of("digest_sparse") / of("digest_content"),
            Bound::AtMost(2.0),
        ),
        // Past the cache: as fast as the disk is read.
        (
            "cold_rate_vs_read",
            of("read_cold") / of("digest_cold"),
            Bound::AtLeast(0.9),
        ),
    ];
    for name in HOOK_COSTS {
        all.push((name, of(name), Bound::AtMost(1.05)));
    }
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
        let digest = || self.disk(&["digest", "base"]);
        let rival = || timed(Command::new("b3sum").arg(self.path("base")));
        // Once unmeasured: neither pays for a cold cache.
        digest()?;
        for pair in round..round + DIGESTS {
            if pair.is_multiple_of(2) {
                took.extend([("digest", digest()?), ("b3sum", rival()?)]);
            } else {
                took.extend([("b3sum", rival()?), ("digest", digest()?)]);
            }
        }
        let cold = |name, run: &dyn Fn() -> Result<f64>| -> Result<(&'static str, f64)> {
            self.forget("base")?;
            Ok((name, run()?))
        };
        let read = || timed(Command::new("cat").arg(self.path("base")));
        for pair in round..round + COLD_DIGESTS {
            if pair.is_multiple_of(2) {
                took.extend([cold("digest_cold", &digest)?, cold("read_cold", &read)?]);
            } else {
                took.extend([cold("read_cold", &read)?, cold("digest_cold", &digest)?]);
            }
        }
        for _ in 0..HOOKS {
            for (kind, cost, late_cost) in [
                (Kind::Filled, "hook_cost", "hook_cost_late"),
                (Kind::LargeAndSparse, "large_hook_cost", "large_hook_cost_late"),
            ] {
                settle()?;
                let (whole, late) = self.hook(kind)?;
                took.extend([(cost, whole.cost()), (late_cost, late.cost())]);
            }
        }
        // BLAKE3 of a terabyte would have all its zeros hashed, for anybody: here the content root alone.
        for (name, image) in [("digest_content", "base"), ("digest_sparse", "sparse")] {
            self.disk(&["digest", image, "--content"])?;
            took.push((name, self.disk(&["digest", image, "--content"])?));
        }
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

    /// Two images of so many bytes with 1 % of leaves changed, over the long line.
    fn line(&self, bytes: u64) -> Result<Crossing> {
        let mut random = Random::new(2, "line");
        let (near, far) = (File::create(self.path("near"))?, File::create(self.path("far"))?);
        for block in 0..bytes / LEAF {
            let content = noise(&mut random);
            near.write_all_at(&content, block * LEAF)?;
            let theirs = if random.up_to(99) == 0 {
                noise(&mut random)
            } else {
                content
            };
            far.write_all_at(&theirs, block * LEAF)?;
        }
        self.disk(&["create", "near", "--vm", "bench"])?;
        self.disk(&["create", "far", "--vm", "bench", "--empty"])?;
        settle()?;
        let crossing = self.cross("near", "far")?;
        let same = Command::new("cmp")
            .arg(self.path("near"))
            .arg(self.path("far"))
            .status()?;
        ensure!(same.success(), "the far end is not equal to the near one");
        for name in ["near", "near.replica", "far", "far.replica"] {
            fs::remove_file(self.path(name))?;
        }
        Ok(crossing)
    }

    /// The most memory that a digest of the sparse image takes, and a sync of it with both ends in one process, by what
    /// each may take: the worse.
    fn memory(&self) -> Result<f64> {
        self.disk(&["create", "sparse", "--vm", "bench"])?;
        let size = SPARSE_BYTES.to_string();
        self.disk(&["create", "hollow", "--vm", "bench", "--size", &size, "--empty"])?;
        let digest = self.peak_bytes(&["digest", "sparse", "--content"])?;
        let sync = self.peak_bytes(&["sync", "sparse", "hollow"])?;
        let allowed = MEMORY_BYTES + SPARSE_BYTES / 10_000;
        eprintln!(
            "lab: 1 TiB: a digest takes {} MiB, a sync {} MiB",
            digest >> 20,
            sync >> 20
        );
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        Ok(f64::max(
            digest as f64 / allowed as f64,
            sync as f64 / (2 * allowed) as f64,
        ))
    }

    fn peak_bytes(&self, arguments: &[&str]) -> Result<u64> {
        let mut child = Command::new(&self.antipode)
            .arg("disk")
            .args(arguments)
            .arg("--json")
            .current_dir(&self.folder)
            .stdout(Stdio::null())
            .spawn()?;
        let status = format!("/proc/{}/status", child.id());
        let mut peak_kib = 0;
        loop {
            // The kernel keeps the high-water mark; what is grown in the last moments before the end is missed.
            let text = fs::read_to_string(&status).unwrap_or_default();
            let mark = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let mark = mark.and_then(|mark| mark.trim().strip_suffix(" kB")?.parse().ok());
            peak_kib = peak_kib.max(mark.unwrap_or(0));
            if let Some(ended) = child.try_wait()? {
                ensure!(ended.success(), "{arguments:?} failed: {ended}");
                return Ok(peak_kib << 10);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets the host's cache forget a file.
    fn forget(&self, name: &str) -> Result<()> {
        let file = File::open(self.path(name))?;
        file.sync_all()?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        Ok(())
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
            ("digest_content", 0.2),
            ("digest_sparse", 0.3),
            ("rsync_1", 2.0),
            ("sync_1", 1.0),
            ("rsync_30", 9.0),
            ("sync_30", 3.0),
            ("read_cold", 0.9),
            ("digest_cold", 1.0),
            ("hook_cost", 1.02),
            ("hook_cost_late", 1.02),
            ("large_hook_cost", 1.03),
            ("large_hook_cost_late", 1.03),
        ]);
        let values: Vec<f64> = ratios(&seconds)
            .iter()
            .map(|(_, value, _)| (value * 10.0).round())
            .collect();
        assert_eq!(values, [5.0, 15.0, 9.0, 10.0, 10.0, 10.0, 10.0, 20.0, 30.0]);
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
    }
}
