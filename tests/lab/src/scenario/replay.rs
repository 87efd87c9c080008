//! `cargo lab replay`: a guest's execution is recorded on one host and repeated on another, under noise, and RAM,
//! registers, disk and console at the end are compared byte for byte, by this program and not by antipode's digests.

use super::boot::{CONSOLE_TIMEOUT, END_TIMEOUT, READY_TIMEOUT};
use super::report::{Form, conclude, seconds, with_run};
use super::{Error, RunSummary, Setup, Stage, StageSpec, Task, Vm, VmEnd, VmSettings, store, talk};
use crate::debian::KernelFlavour;
use crate::host::{Disk, DiskMode, RunDirectory};
use crate::image::Service;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const LOG: &str = "/tmp/execution.log";
const DUMP: &str = "/tmp/dump";

/// From the start of a replay to its end: it goes about as fast as its recording, on a host that is kept busy.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(1_800);

/// Keeps the replaying host's processor from being all the guest's, a few milliseconds at a time.
const COMPETING_LOAD: &str =
    "(while sleep 0.1; do i=0; while [ $i -lt 300 ]; do i=$((i+1)); done; done) > /dev/null 2>&1 &";

/// Processes of Debian's own programs, dynamically linked, one round.
const SHELL_ROUND: &str = "for i in 1 2 3 4 5; do head -c 20000 /dev/urandom | gzip | sha256sum; \
                           seq 1 200 | sort -r | tail -n 1; tar cf - /etc | gzip -1 | wc -c; (sleep 0.05 & wait); \
                           perl -e 'print $$ % 7, qq(\\n)'; done > /data/round; sync";

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
    /// Rounds of work for the guest in each
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
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
    ram: bool,
    registers: bool,
    disk: bool,
    console: bool,
}

impl Comparison {
    fn is_same(&self) -> bool {
        let exits = self.recorded.exits == self.replayed.exits;
        exits && self.ram && self.registers && self.disk && self.console
    }
}

fn play_all(args: &Args) -> Result<Value> {
    let setup = Setup::prepare(args.service, args.kernel)?;
    let started = Instant::now();
    let mut comparisons = Vec::new();
    for number in 1..=args.runs {
        let comparison = with_run(&setup.materials.lab_directory, "replay", |run| {
            play(&setup, run, args, number)
        })?;
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
    let count = |is: fn(&Comparison) -> bool| comparisons.iter().filter(|one| is(one)).count();
    let least = |of: fn(&Comparison) -> u64| comparisons.iter().map(of).min();
    let identical = count(Comparison::is_same);
    Ok(json!({
        "ok": identical == comparisons.len(),
        "service": args.service,
        "kernel": args.kernel,
        "runs": comparisons.len(),
        "identical": identical,
        "ram_equal": count(|one| one.ram),
        "regs_equal": count(|one| one.registers),
        "disk_equal": count(|one| one.disk),
        "console_equal": count(|one| one.console),
        "exits_min": least(|one| one.recorded.exits_total),
        "user_rdtsc": comparisons.iter().map(|one| one.recorded.user_rdtsc).sum::<u64>(),
        "noise_kicks_min": least(|one| one.replayed.kicks),
        "preemptions": comparisons.iter().map(|one| one.recorded.preemptions).sum::<u64>(),
        "log_bytes": comparisons.iter().map(|one| one.recorded.log_bytes).sum::<u64>(),
        "log_expiries": comparisons.iter().map(|one| one.recorded.log_expiries).sum::<u64>(),
        "recorded_s": comparisons.iter().map(|one| one.recorded.wall_seconds).sum::<f64>(),
        "replayed_s": comparisons.iter().map(|one| one.replayed.wall_seconds).sum::<f64>(),
        "took_s": seconds(started.elapsed()),
    }))
}

/// What is left of an execution: files of this machine, and texts.
struct Remains {
    end: VmEnd,
    summary: RunSummary,
    /// RAM, then the guest's disk.
    bulk: PathBuf,
    registers: Vec<u8>,
}

fn play(setup: &Setup, run: &RunDirectory, args: &Args, number: u32) -> Result<Comparison> {
    let mut log = Vec::new();
    let recorded = on_fresh_host(setup, run, "record", |stage| {
        let task = Task::Record {
            log: LOG.to_owned(),
            dump: DUMP.to_owned(),
        };
        let mut vm = stage.start_task(&VmSettings::new(setup), &task)?;
        vm.wait_for(&setup.service().ready_line(), READY_TIMEOUT)?;
        for round in 0..args.rounds {
            work(setup.service(), stage, &mut vm, round)?;
        }
        vm.press_power_button()?;
        let end = vm.wait_end(END_TIMEOUT)?;
        log = stage.site().get(LOG)?;
        Ok(end)
    })?;
    let replayed = on_fresh_host(setup, run, "replay", |stage| {
        stage.site().put_bytes(&log, LOG, 0o644)?;
        stage.site().shell(COMPETING_LOAD)?;
        let task = Task::Replay {
            log: LOG.to_owned(),
            dump: DUMP.to_owned(),
            noise: number.into(),
        };
        Ok(stage
            .start_task(&VmSettings::new(setup), &task)?
            .wait_end(REPLAY_TIMEOUT)?)
    })?;
    let memory_bytes = setup.service().memory_bytes();
    let (ram, disk) = compare_bulk(&recorded.bulk, &replayed.bulk, memory_bytes)?;
    Ok(Comparison {
        ram,
        disk,
        registers: recorded.registers == replayed.registers,
        console: console_of(&recorded.end) == console_of(&replayed.end),
        recorded: recorded.summary,
        replayed: replayed.summary,
    })
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
    let spec = StageSpec {
        client: name == "record" && setup.service().port().is_some(),
        disks: vec![Disk {
            path: bulk.clone(),
            mode: DiskMode::ReadWrite,
        }],
        ..StageSpec::new(setup)
    };
    with_run(&setup.materials.lab_directory, name, |part_run| {
        let stage = Stage::open(setup, part_run, &spec)?;
        let end = part(&stage).with_context(|| format!("the {name} host"))?;
        let summary = end.checked_summary()?;
        ensure!(summary.ok, "the guest did not switch itself off: {summary:?}");
        stage.site().shell(&format!(
            "set -e; dd if={DUMP}/ram.bin of=/dev/vdb bs=1M 2> /dev/null
             dd if={}/{} of=/dev/vdb bs=1M seek={} 2> /dev/null; sync",
            store::DIRECTORY,
            store::DISK,
            memory_bytes >> 20
        ))?;
        let registers = stage.site().get(&format!("{DUMP}/vcpu.txt"))?;
        Ok(Remains {
            end,
            summary,
            bulk: bulk.clone(),
            registers,
        })
    })
}

/// Gives the guest something to do that reaches its disk, then lets it rest.
fn work(service: Service, stage: &Stage, vm: &mut Vm, round: usize) -> Result<()> {
    match service.port() {
        Some(_) => {
            let pairs = talk::pairs(10, &format!("{round}-{}", std::process::id()));
            talk::write(service, &mut stage.connect()?, &pairs)?;
            talk::read(service, &mut stage.connect()?, &pairs)?;
            std::thread::sleep(Duration::from_millis(500));
        }
        None => {
            vm.type_text(&format!("{SHELL_ROUND}; echo done:$((round={round}))\n"))?;
            vm.wait_for(&format!("done:{round}"), CONSOLE_TIMEOUT)?;
        }
    }
    Ok(())
}

/// Everything on standard output but antipode's own last line.
fn console_of(end: &VmEnd) -> &str {
    let text = end.console.trim_end();
    text.rfind("{\"").map_or(text, |start| &text[..start])
}

/// Whether the first `memory_bytes` of both files are the same, and whether the rest is.
fn compare_bulk(one: &Path, other: &Path, memory_bytes: u64) -> Result<(bool, bool)> {
    let open = |path: &Path| {
        File::open(path)
            .map(BufReader::new)
            .map_err(Error::file("open", path))
    };
    let (one, other) = (open(one)?, open(other)?);
    let (mut one_ram, mut other_ram) = (one.take(memory_bytes), other.take(memory_bytes));
    let ram = are_equal(&mut one_ram, &mut other_ram)?;
    let disk = are_equal(&mut one_ram.into_inner(), &mut other_ram.into_inner())?;
    Ok((ram, disk))
}

/// Reads both to their ends.
fn are_equal(one: &mut impl Read, other: &mut impl Read) -> Result<bool> {
    let (mut one_part, mut other_part) = (Vec::new(), Vec::new());
    let mut is_same = true;
    loop {
        one_part.clear();
        other_part.clear();
        let taken = one.by_ref().take(1 << 20).read_to_end(&mut one_part)?;
        other.by_ref().take(1 << 20).read_to_end(&mut other_part)?;
        is_same &= one_part == other_part;
        if taken == 0 && other_part.is_empty() {
            return Ok(is_same);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checker is given a planted difference in each part.
    #[test]
    fn one_byte_of_ram_or_disk_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, changed: Option<usize>| {
            let mut bytes = vec![7_u8; 3 << 20];
            if let Some(place) = changed {
                bytes[place] ^= 1;
            }
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let (plain, same) = (write("a", None), write("b", None));
        let (ram, disk) = (write("c", Some((2 << 20) - 1)), write("d", Some(2 << 20)));
        let compare = |other: &Path| compare_bulk(&plain, other, 2 << 20).unwrap();
        assert_eq!(compare(&same), (true, true));
        assert_eq!(compare(&ram), (false, true));
        assert_eq!(compare(&disk), (true, false));
    }
}
