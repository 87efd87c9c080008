//! `antipode-lab bench`: of `boot`, alternating rounds of both machines, and what came of them.

use super::contestant::{self, Contestant};
use super::summary::{self, Figure};
use super::trial::{self, Trial};
use super::{disk, emulator, ft, guest, rebuild, replay, tiebreaker};
use crate::debian::{Cache, KernelFlavour, requirements};
use crate::host::{Disk, DiskMode, Host, HostFile, HostSpec, Materials, RunDirectory};
use crate::image;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Measure Antipode against QEMU, side by side
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Boot, idle cost, memory, disk and network of one guest
    Boot(BootArgs),
    /// `antipode disk` against `b3sum` and `rsync`, natively
    Disk(disk::DiskArgs),
    /// What protection costs a guest, over any distance, and what a takeover takes
    Ft(ft::FtArgs),
    /// What it takes until a site that was lost follows again, and how long a switchover leaves a guest silent
    Rebuild(rebuild::RebuildArgs),
    /// What recording costs a guest, and replaying a host
    Replay(replay::ReplayArgs),
    /// The tiebreaker against `etcd`, natively, and what it promises
    Tiebreaker(tiebreaker::TiebreakerArgs),
}

#[derive(Debug, clap::Args)]
struct BootArgs {
    /// Runs of each machine
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// The static `antipode` to measure (default: build this workspace's)
    #[arg(long, value_name = "FILE")]
    antipode: Option<PathBuf>,
    /// Print one line of JSON last
    #[arg(long)]
    json: bool,
}

/// Carries the command out. The exit code is 1 if a bound is broken.
///
/// # Errors
/// If a host or a machine does not do what it is for.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Boot(args) => boot(args),
        What::Disk(args) => disk::run(args),
        What::Ft(args) => ft::run(args),
        What::Rebuild(args) => rebuild::run(args),
        What::Replay(args) => replay::run(args),
        What::Tiebreaker(args) => tiebreaker::run(args),
    }
}

fn boot(args: &BootArgs) -> Result<ExitCode> {
    requirements::ensure()?;
    let setting = Setting::prepare(args.antipode.as_deref())?;
    let begun = Begun::now();
    let mut trials = Vec::new();
    for round in 0..args.rounds {
        let mut order = [Contestant::Antipode, Contestant::Qemu];
        if round % 2 == 1 {
            order.reverse();
        }
        for contestant in order {
            let trial = setting.trial(contestant)?;
            eprintln!(
                "lab: round {} of {}: {} booted in {:.2} s",
                round + 1,
                args.rounds,
                contestant.name(),
                trial.boot_s
            );
            trials.push(trial);
        }
    }
    setting.run.finish();
    let figures = summary::figures(&trials);
    let bounded = summary::bounded(&figures);
    let broken = summary::out_of_bounds(&bounded);
    if args.json {
        let mut line = json!({
            "ok": broken.is_empty(),
            "out_of_bounds": &broken,
            "rounds": args.rounds,
            "figures": figures,
            "trials": trials,
        });
        begun.tell(&mut line);
        for (name, value) in bounded {
            line[name] = json!(value);
        }
        println!("{line}");
    } else {
        show(&figures, &bounded);
    }
    Ok(summary::exit_code(&broken))
}

fn show(figures: &BTreeMap<&'static str, Figure>, bounded: &BTreeMap<&'static str, f64>) {
    println!("{:<26}{:>12}{:>12}{:>8}", "median", "antipode", "qemu", "ratio");
    for (name, figure) in figures {
        let (ours, theirs) = (figure.antipode.median, figure.qemu.median);
        println!("{name:<26}{ours:>12.2}{theirs:>12.2}{:>8.2}", figure.ratio);
    }
    let broken = summary::out_of_bounds(bounded);
    for (name, bound) in summary::BOUNDS {
        let verdict = if broken.contains(name) { "BROKEN" } else { "kept" };
        println!(
            "{name:<26}{:>12.2}  {bound}: {verdict}",
            bounded.get(name).copied().unwrap_or(f64::NAN)
        );
    }
}

/// When a bench began, and how busy the machine was.
pub(super) struct Begun {
    at: Instant,
    load: Vec<f64>,
}

impl Begun {
    pub(super) fn now() -> Self {
        Self {
            at: Instant::now(),
            load: load_average(),
        }
    }

    /// Adds to `line` how long it took, and how busy the machine was before and after.
    pub(super) fn tell(&self, line: &mut Value) {
        line["seconds"] = json!(self.at.elapsed().as_secs());
        line["load_average"] = json!({ "before": self.load, "after": load_average() });
    }
}

/// One, five and fifteen minutes.
fn load_average() -> Vec<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .take(3)
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// Everything both machines share.
struct Setting {
    materials: Materials,
    run: RunDirectory,
    spec: HostSpec,
    command_line: String,
}

impl Setting {
    fn prepare(antipode: Option<&Path>) -> Result<Self> {
        let materials = match antipode {
            Some(path) => Materials::with_antipode(path)?,
            None => Materials::prepare()?,
        };
        let load = materials.build_binary("antipode-lab-load")?;
        let cache = Cache::of_workspace()?;
        let image = image::build(&cache, guest::SERVICE, KernelFlavour::Cloud)?;
        let qemu = emulator::disk(&cache)?;
        let run = RunDirectory::create(&materials.lab_directory, "bench")?;
        let command_line = guest::command_line(&image);
        let (initrd, config) = (run.path().join("initrd"), run.path().join("vm.toml"));
        guest::write_initrd(&image, &load, &initrd)?;
        std::fs::write(&config, contestant::antipode_config(&command_line))
            .with_context(|| format!("writing {}", config.display()))?;
        let file = |path: &str, mode, source| HostFile {
            path: path.to_owned(),
            mode,
            source,
        };
        let disk = |path, mode| Disk { path, mode };
        let mut spec = HostSpec::new("host");
        spec.memory_mib = 2_048;
        spec.disks = vec![
            disk(qemu, DiskMode::ReadOnly),
            disk(image.disk, DiskMode::ReadOnly),
        ];
        spec.files = vec![
            file(contestant::KERNEL, 0o644, image.kernel),
            file(contestant::INITRD, 0o644, initrd),
            file(contestant::CONFIG, 0o644, config),
            file("/bin/antipode-lab-load", 0o755, load),
        ];
        Ok(Self {
            materials,
            run,
            spec,
            command_line,
        })
    }

    /// A fresh host each time: one that has run a VM may stall when it starts the next.
    fn trial(&self, contestant: Contestant) -> Result<Trial> {
        let host = Host::boot(&self.materials, &self.spec, &self.run)?;
        let trial = trial::run(&host, contestant, &self.command_line)?;
        host.power_cut();
        Ok(trial)
    }
}
