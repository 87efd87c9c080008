//! `cargo lab replay`: a guest's execution is recorded on one host and repeated on another, under noise, and RAM,
//! registers, disk and console at the end are compared byte for byte, by this program and not by antipode's digests.
//!
//! The noise that the recording did not have: signals, the page log switched off and on, RAM moved and, as the host has a
//! swap, taken out and brought back, a competing load, batches cut elsewhere.
//!
//! - `work`: what the guest does meanwhile. - `compare`: what is left of both, byte for byte.

mod compare;
mod work;

use super::boot::{END_TIMEOUT, READY_TIMEOUT};
use super::report::{Form, conclude, rounded, seconds, with_run};
use super::{Error, RunSummary, Setup, Stage, StageSpec, Task, VmEnd, VmSettings, store};
use crate::debian::KernelFlavour;
use crate::host::{Disk, DiskMode, RunDirectory};
use crate::image::Service;
use anyhow::{Context, Result, ensure};
use compare::{Remains, Sameness};
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use work::{Amount, Done, Idleness, work};

const LOG: &str = "/tmp/execution.log";
const DUMP: &str = "/tmp/dump";

/// From the start of a replay to its end: it goes about as fast as its recording, on a host that is kept busy.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(1_800);

/// Gives the replaying host a swap.
const SWAP: &str = "mkswap /dev/vdc > /dev/null && swapon /dev/vdc";

/// Keeps the replaying host's processor from being all the guest's, a few milliseconds at a time.
const COMPETING_LOAD: &str =
    "(while sleep 0.1; do i=0; while [ $i -lt 300 ]; do i=$((i+1)); done; done) > /dev/null 2>&1 &";

/// Record a guest on one host, replay it on another under noise, and compare everything
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the guest runs
    #[arg(long, value_enum, default_value = "redis")]
    service: Service,
    /// Which of Debian's kernels boots it
    #[arg(long, value_enum, default_value = "cloud")]
    kernel: KernelFlavour,
    /// Recordings, each with a replay
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    #[command(flatten)]
    amount: Amount,
    /// Do the work of the last recording once more without one, and compare times
    #[arg(long)]
    ratio: bool,
    /// Replay these exits, `FROM..TO`, by single steps
    #[arg(long, value_name = "EXITS")]
    step: Option<String>,
    /// Replay with this `antipode` instead of the one that records
    #[arg(long, value_name = "FILE")]
    replay_with: Option<PathBuf>,
    /// Replay with a debug build of this workspace's `antipode`: its digests must be those of the release build that records
    #[arg(long, conflicts_with = "replay_with")]
    debug_build: bool,
    #[command(flatten)]
    form: Form,
}

/// Plays it and says what happened. The exit code is 1 if anything differs.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let outcome = play_all(args);
    let is_same = outcome.as_ref().is_ok_and(|found| found["ok"] == true);
    let code = conclude(args.form, outcome, |found| {
        if found["ok"] == true {
            "Every replay was its recording again, bit for bit.".to_owned()
        } else {
            format!("A replay differs: {found}")
        }
    });
    if is_same { code } else { ExitCode::FAILURE }
}

/// What a recording and its replay showed.
#[derive(Debug)]
struct Comparison {
    recorded: RunSummary,
    replayed: RunSummary,
    same: Sameness,
    done: Done,
    /// Pages that the replaying host put into its swap and brought back.
    swapped_in: u64,
}

impl Comparison {
    fn is_same(&self) -> bool {
        self.same.is_whole()
    }
}

fn play_all(args: &Args) -> Result<Value> {
    let setup = Setup::prepare(args.service, args.kernel)?;
    let replay_with = match args.debug_build {
        true => Some(setup.materials.build_debug_antipode()?),
        false => args.replay_with.clone(),
    };
    let started = Instant::now();
    let mut comparisons = Vec::new();
    for number in 1..=args.runs {
        // It is kept, with the dumps, unless everything is the same.
        let run = RunDirectory::create(&setup.materials.lab_directory, "replay")?;
        let comparison = play(&setup, &run, args, replay_with.as_deref(), number)?;
        if comparison.is_same() {
            run.finish();
        }
        eprintln!(
            "lab: run {number} of {}: {} exits, {}",
            args.runs,
            comparison.recorded.exits_total,
            if comparison.is_same() {
                "the same again"
            } else {
                "DIFFERENT"
            }
        );
        comparisons.push(comparison);
    }
    let ratio = match comparisons.last() {
        Some(last) if args.ratio => Some(record_ratio(&setup, last)?),
        _ => None,
    };
    let count = |is: fn(&Comparison) -> bool| comparisons.iter().filter(|one| is(one)).count();
    let least = |of: fn(&Comparison) -> u64| comparisons.iter().map(of).min();
    let identical = count(Comparison::is_same);
    Ok(json!({
        "ok": identical == comparisons.len(),
        "service": args.service,
        "kernel": args.kernel,
        "runs": comparisons.len(),
        "identical": identical,
        "ram_equal": count(|one| one.same.ram),
        "regs_equal": count(|one| one.same.registers),
        "disk_equal": count(|one| one.same.disk),
        "console_equal": count(|one| one.same.console),
        "exits_min": least(|one| one.recorded.exits_total),
        "divergences": comparisons.len() - identical,
        "user_execs": least(|one| one.done.execs),
        "user_rdtsc": comparisons.iter().map(|one| one.recorded.user_rdtsc).sum::<u64>(),
        "noise_kicks": comparisons.iter().map(|one| one.replayed.kicks).sum::<u64>(),
        "noise_kicks_min": least(|one| one.replayed.kicks),
        "noise_page_log_restarts": least(|one| one.replayed.noise.page_log_restarts),
        "noise_moves": least(|one| one.replayed.noise.moves),
        "noise_page_outs": least(|one| one.replayed.noise.page_outs),
        "noise_pages_swapped_in": least(|one| one.swapped_in),
        "noise_cut_batches": least(|one| one.replayed.noise.cut_batches),
        "preemptions": comparisons.iter().map(|one| one.recorded.preemptions).sum::<u64>(),
        "log_bytes": comparisons.iter().map(|one| one.recorded.log_bytes).sum::<u64>(),
        "log_expiries": comparisons.iter().map(|one| one.recorded.log_expiries).sum::<u64>(),
        "log_bytes_per_tick_idle": most_of_idle(&comparisons, |idle| idle.bytes / idle.expiries.max(1.0)),
        "log_bytes_per_second_idle": most_of_idle(&comparisons, |idle| idle.bytes / idle.seconds),
        "ticks_per_second_idle": most_of_idle(&comparisons, |idle| idle.expiries / idle.seconds),
        "record_ratio": ratio.map(rounded),
        "recorded_s": sum(&comparisons, |one| one.recorded.wall_seconds),
        "replayed_s": sum(&comparisons, |one| one.replayed.wall_seconds),
        "recorded_cpu_s": sum(&comparisons, |one| one.recorded.cpu_seconds),
        "replayed_cpu_s": sum(&comparisons, |one| one.replayed.cpu_seconds),
        "digest_s": sum(&comparisons, |one| one.recorded.digest_seconds),
        "took_s": seconds(started.elapsed()),
    }))
}

fn play(
    setup: &Setup,
    run: &RunDirectory,
    args: &Args,
    replay_with: Option<&Path>,
    number: u32,
) -> Result<Comparison> {
    let mut log = Vec::new();
    let mut done = Done::default();
    let recorded = on_fresh_host(setup, run, "record", |stage| {
        let task = Task::Record {
            log: LOG.to_owned(),
            dump: Some(DUMP.to_owned()),
        };
        let mut vm = stage.start_task(&VmSettings::new(setup), &task)?;
        vm.wait_for(&setup.service().ready_line(), READY_TIMEOUT)?;
        done = work(setup, stage, &mut vm, &args.amount)?;
        vm.press_power_button()?;
        let end = vm.wait_end(END_TIMEOUT)?;
        log = stage.site().get(LOG)?;
        let kept = run.path().join("execution.log");
        std::fs::write(&kept, &log).map_err(Error::file("write", &kept))?;
        Ok(end)
    })?;
    let mut swapped_in = 0;
    let replayed = on_fresh_host(setup, run, "replay", |stage| {
        stage.site().put_bytes(&log, LOG, 0o644)?;
        if let Some(antipode) = replay_with {
            stage.site().put(antipode, "/usr/local/bin/antipode", 0o755)?;
        }
        stage.site().shell(SWAP)?;
        stage.site().shell(COMPETING_LOAD)?;
        let task = Task::Replay {
            log: LOG.to_owned(),
            dump: Some(DUMP.to_owned()),
            noise: Some(number.into()),
            step: args.step.clone(),
        };
        let end = stage
            .start_task(&VmSettings::new(setup), &task)?
            .wait_end(REPLAY_TIMEOUT)?;
        swapped_in = swapped_in_pages(stage)?;
        Ok(end)
    })?;
    let memory_bytes = setup.service().memory_bytes();
    Ok(Comparison {
        same: Sameness::of(&recorded, &replayed, memory_bytes)?,
        recorded: recorded.summary,
        replayed: replayed.summary,
        done,
        swapped_in,
    })
}

/// How much longer the work of `compared`'s recording took than it takes without one, on another fresh host.
fn record_ratio(setup: &Setup, compared: &Comparison) -> Result<f64> {
    let spec = StageSpec {
        client: setup.service().port().is_some(),
        ..StageSpec::new(setup)
    };
    with_run(&setup.materials.lab_directory, "replay-ratio", |run| {
        let stage = Stage::open(setup, run, &spec)?;
        let mut vm = stage.start_task(&VmSettings::new(setup), &Task::Run)?;
        vm.wait_for(&setup.service().ready_line(), READY_TIMEOUT)?;
        let done = work(setup, &stage, &mut vm, &Amount::rounds(compared.done.rounds))?;
        vm.press_power_button()?;
        vm.wait_end(END_TIMEOUT)?.checked_summary()?;
        Ok(compared.done.working.as_secs_f64() / done.working.as_secs_f64())
    })
}

fn swapped_in_pages(stage: &Stage) -> Result<u64> {
    let text = stage.site().shell("grep '^pswpin ' /proc/vmstat")?;
    let number = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    number.with_context(|| format!("pages swapped in: {text:?}"))
}

fn sum(comparisons: &[Comparison], of: impl Fn(&Comparison) -> f64) -> f64 {
    rounded(comparisons.iter().map(of).sum())
}

/// The largest of what `of` says of the runs that were left alone for a while.
fn most_of_idle(comparisons: &[Comparison], of: impl Fn(&Idleness) -> f64) -> Option<f64> {
    let all = comparisons.iter().filter_map(|one| one.done.idle.as_ref());
    all.map(of)
        .max_by(f64::total_cmp)
        .map(|most| (most * 100.0).round() / 100.0)
}

/// Lets `part` run a VM to its end on a host that has run none before, and fetches what is left of it.
fn on_fresh_host(
    setup: &Setup,
    run: &RunDirectory,
    name: &str,
    part: impl FnOnce(&Stage) -> Result<VmEnd>,
) -> Result<Remains> {
    let (memory_bytes, disk_bytes) = (setup.service().memory_bytes(), setup.service().disk_bytes());
    let bulk = run.path().join(format!("{name}.raw"));
    File::create_new(&bulk)
        .and_then(|file| file.set_len(memory_bytes + disk_bytes))
        .map_err(Error::file("create", &bulk))?;
    let swap = run.path().join(format!("{name}.swap"));
    File::create_new(&swap)
        .and_then(|file| file.set_len(memory_bytes))
        .map_err(Error::file("create", &swap))?;
    let disk = |path: &Path| Disk {
        path: path.to_owned(),
        mode: DiskMode::ReadWrite,
    };
    let spec = StageSpec {
        client: name == "record" && setup.service().port().is_some(),
        disks: vec![disk(&bulk), disk(&swap)],
        ..StageSpec::new(setup)
    };
    with_run(&setup.materials.lab_directory, name, |part_run| {
        let stage = Stage::open(setup, part_run, &spec)?;
        let end = part(&stage).with_context(|| format!("the {name} host"))?;
        let registers = stage.site().get(&format!("{DUMP}/vcpu.txt"))?;
        // Kept with the run if anything differs.
        let kept = run.path().join(format!("{name}.vcpu.txt"));
        std::fs::write(&kept, &registers).map_err(Error::file("write", &kept))?;
        let summary = end.checked_summary()?;
        ensure!(summary.ok, "the guest did not switch itself off: {summary:?}");
        stage.site().shell(&format!(
            "set -e; dd if={DUMP}/ram.bin of=/dev/vdb bs=1M 2> /dev/null
             dd if={}/{} of=/dev/vdb bs=1M seek={} 2> /dev/null; sync",
            store::DIRECTORY,
            store::DISK,
            memory_bytes >> 20
        ))?;
        Ok(Remains {
            end,
            summary,
            bulk: bulk.clone(),
            registers,
        })
    })
}
