//! `antipode-lab bench replay`: what recording costs a guest, and replaying a host.
//!
//! ```text
//!  each round, each on fresh hosts, for a guest that waits (redis) and one that computes:
//!
//!    run │ run, written pages logged │ record ─▶ replay
//!         └── ready line ─ 3 s ─▶ work: values written and read back │ rounds computed, and pings meanwhile ─▶ off
//! ```
//!
//! - **Recording** is judged by the work: by how long the values take, and by how many rounds are computed a second.
//! - **Logging written pages** is all that a guest pays for being able to be pre-empted and never is.
//! - **Replaying** is judged by processor time, as a replay does not sleep.
//! - **Latency** is what `ping` in the client host sees of a guest that computes.
//!
//! Ratios are of medians within one run.

use super::summary::{self, Bound, Spread};
use crate::debian::KernelFlavour;
use crate::image::Service;
use crate::scenario::boot::{END_TIMEOUT, READY_TIMEOUT};
use crate::scenario::clients::Clients;
use crate::scenario::report::{rounded, with_run};
use crate::scenario::stage::GUEST_ADDRESS;
use crate::scenario::{Connection, RunSummary, Setup, Stage, StageSpec, Task, VmSettings};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

const LOG: &str = "/tmp/execution.log";

/// From the ready line to the work: what the boot left to do settles.
const SETTLING: Duration = Duration::from_secs(3);

/// Values that the clients write and read back, and how many clients there are.
const VALUES: usize = 900;
const CLIENTS: usize = 3;

/// How long a guest that computes is watched.
const COMPUTING: Duration = Duration::from_secs(25);
/// Pings meanwhile, and seconds between two.
const PINGS: u32 = 100;
const PING_EVERY_SECONDS: &str = "0.2";

const REPLAY_TIMEOUT: Duration = Duration::from_secs(900);

#[derive(Debug, clap::Args)]
pub(super) struct ReplayArgs {
    /// Runs of each kind
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Print one line of JSON last
    #[arg(long)]
    json: bool,
}

/// What is measured of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Run,
    RunLoggingPages,
    Record,
    Replay,
}

/// One guest from start to end.
#[derive(Debug, Clone, Serialize)]
struct Trial {
    service: Service,
    mode: Mode,
    /// Seconds for the values, or for a round of the computation. None of a replay.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_of_work: Option<f64>,
    /// Milliseconds of each ping, ascending.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pings: Vec<f64>,
    cpu_seconds: f64,
    digest_seconds: f64,
    preemptions: u64,
    log_bytes: u64,
}

impl Trial {
    fn new(service: Service, mode: Mode, summary: &RunSummary) -> Self {
        Self {
            service,
            mode,
            seconds_of_work: None,
            pings: Vec::new(),
            cpu_seconds: summary.cpu_seconds,
            digest_seconds: summary.digest_seconds,
            preemptions: summary.preemptions,
            log_bytes: summary.log_bytes,
        }
    }
}

/// What is promised.
const BOUNDS: &[(&str, Bound)] = &[
    ("ratio_record_redis", Bound::AtMost(1.1)),
    ("ratio_record_compute", Bound::AtMost(1.2)),
    ("ratio_logging_pages", Bound::AtMost(1.03)),
    ("ratio_replay_cpu", Bound::AtMost(1.1)),
    ("share_digests", Bound::AtMost(0.03)),
    // 20 ms, the shortest wait before a pre-emption, and 5 ms.
    ("added_ping_ms_p50", Bound::AtMost(25.0)),
];

/// Carries the command out. The exit code is 1 if a bound is broken.
pub(super) fn run(args: &ReplayArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let mut trials = Vec::new();
    let services = [Service::Redis, Service::Compute];
    let setups = services.map(|service| Setup::prepare(service, KernelFlavour::Cloud));
    for round in 1..=args.rounds {
        for setup in &setups {
            let setup = setup.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            for mode in [Mode::Run, Mode::RunLoggingPages, Mode::Record] {
                trials.extend(measure(setup, mode)?);
            }
        }
        eprintln!("lab: round {round} of {}", args.rounds);
    }
    let figures = figures(&trials);
    let broken = summary::broken(BOUNDS, &figures);
    if args.json {
        let mut line = json!({
            "ok": broken.is_empty(),
            "out_of_bounds": broken,
            "rounds": args.rounds,
            "took_s": started.elapsed().as_secs(),
            "trials": trials,
        });
        for (name, value) in &figures {
            line[*name] = json!(rounded(*value));
        }
        println!("{line}");
    } else {
        for (name, value) in &figures {
            println!("{name:<24}{value:>10.3}");
        }
    }
    Ok(summary::exit_code(&broken))
}

/// A guest in `mode`; a recorded one is replayed too.
fn measure(setup: &Setup, mode: Mode) -> Result<Vec<Trial>> {
    let service = setup.service();
    let mut log = Vec::new();
    let trial = on_fresh_hosts(setup, true, |stage| {
        let task = match mode {
            Mode::Run => Task::Run,
            Mode::RunLoggingPages => Task::RunLoggingPages,
            Mode::Record | Mode::Replay => Task::Record {
                log: LOG.to_owned(),
                dump: None,
            },
        };
        let mut vm = stage.start_task(&VmSettings::new(setup), &task)?;
        vm.wait_for(&service.ready_line(), READY_TIMEOUT)?;
        let clients = Clients::install(setup, stage)?.context("the service has no port")?;
        thread::sleep(SETTLING);
        let (seconds, pings) = match service {
            Service::Compute => compute(stage)?,
            _ => (clients.talk(VALUES, CLIENTS, "bench")?.seconds, Vec::new()),
        };
        vm.press_power_button()?;
        let summary = vm.wait_end(END_TIMEOUT)?.checked_summary()?;
        ensure!(summary.ok, "the guest did not switch itself off: {summary:?}");
        if mode == Mode::Record {
            log = stage.site().get(LOG)?;
        }
        Ok(Trial {
            seconds_of_work: Some(seconds),
            pings,
            ..Trial::new(service, mode, &summary)
        })
    })?;
    let mut trials = vec![trial];
    if mode == Mode::Record {
        trials.push(on_fresh_hosts(setup, false, |stage| {
            stage.site().put_bytes(&log, LOG, 0o644)?;
            let task = Task::Replay {
                log: LOG.to_owned(),
                dump: None,
                noise: None,
                step: None,
            };
            let vm = stage.start_task(&VmSettings::new(setup), &task)?;
            let summary = vm.wait_end(REPLAY_TIMEOUT)?.checked_summary()?;
            ensure!(summary.ok, "the replay did not end as its record: {summary:?}");
            Ok(Trial::new(service, Mode::Replay, &summary))
        })?);
    }
    Ok(trials)
}

fn on_fresh_hosts<T>(setup: &Setup, client: bool, part: impl FnOnce(&Stage) -> Result<T>) -> Result<T> {
    with_run(&setup.materials.lab_directory, "bench-replay", |run| {
        let spec = StageSpec {
            client,
            ..StageSpec::new(setup)
        };
        part(&Stage::open(setup, run, &spec)?)
    })
}

/// Seconds for a round of the computation, and pings meanwhile.
fn compute(stage: &Stage) -> Result<(f64, Vec<f64>)> {
    let mut connection = stage.connect()?;
    let (begun, first) = (Instant::now(), progress(&mut connection)?);
    let client = stage.client().context("no client host")?;
    let script = format!("ping -i {PING_EVERY_SECONDS} -c {PINGS} {GUEST_ADDRESS} || true");
    let pings = pings(&client.shell(&script)?);
    ensure!(
        pings.len() * 2 > PINGS as usize,
        "only {} of {PINGS} pings were answered",
        pings.len()
    );
    if let Some(left) = COMPUTING.checked_sub(begun.elapsed()) {
        thread::sleep(left);
    }
    let rounds = progress(&mut connection)? - first;
    ensure!(rounds > 0.0, "the guest computes nothing");
    Ok((begun.elapsed().as_secs_f64() / rounds, pings))
}

/// How many rounds the guest has computed.
pub(super) fn progress(connection: &mut Connection) -> Result<f64> {
    connection.write_all(b"?\n")?;
    let mut line = String::new();
    BufReader::new(connection).read_line(&mut line)?;
    let round = line.split(' ').next().and_then(|word| word.parse().ok());
    round.with_context(|| format!("no progress in {line:?}"))
}

/// The times that `ping` has printed, ascending.
fn pings(text: &str) -> Vec<f64> {
    let times = text.split("time=").skip(1);
    let mut all: Vec<f64> = times
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect();
    all.sort_by(f64::total_cmp);
    all
}

fn figures(trials: &[Trial]) -> BTreeMap<&'static str, f64> {
    let median = |service: Service, mode: Mode, of: &dyn Fn(&Trial) -> Option<f64>| {
        let own = trials
            .iter()
            .filter(|trial| trial.service == service && trial.mode == mode);
        Spread::of(own.filter_map(of).collect()).map_or(f64::NAN, |spread| spread.median)
    };
    let work = |service, mode| median(service, mode, &|trial| trial.seconds_of_work);
    let cpu = |service, mode| median(service, mode, &|trial| Some(trial.cpu_seconds));
    let ping = |mode, percent: usize| {
        let of = |trial: &Trial| trial.pings.get(trial.pings.len() * percent / 100).copied();
        median(Service::Compute, mode, &of)
    };
    let share = |service| {
        median(service, Mode::Record, &|trial| {
            Some(trial.digest_seconds / trial.cpu_seconds)
        })
    };
    let (redis, compute) = (Service::Redis, Service::Compute);
    let replay = |service| cpu(service, Mode::Replay) / cpu(service, Mode::Record);
    BTreeMap::from([
        (
            "ratio_record_redis",
            work(redis, Mode::Record) / work(redis, Mode::Run),
        ),
        (
            "ratio_record_compute",
            work(compute, Mode::Record) / work(compute, Mode::Run),
        ),
        (
            "ratio_logging_pages",
            work(redis, Mode::RunLoggingPages) / work(redis, Mode::Run),
        ),
        (
            "ratio_logging_pages_compute",
            work(compute, Mode::RunLoggingPages) / work(compute, Mode::Run),
        ),
        ("ratio_replay_cpu", replay(redis).max(replay(compute))),
        ("share_digests", share(redis).max(share(compute))),
        ("added_ping_ms_p50", ping(Mode::Record, 50) - ping(Mode::Run, 50)),
        ("added_ping_ms_p90", ping(Mode::Record, 90) - ping(Mode::Run, 90)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_read_and_sorted() {
        let text =
            "64 bytes from 10.9.0.50: seq=0 ttl=64 time=2.500 ms\n64 bytes: seq=1 ttl=64 time=0.75 ms\n";
        assert_eq!(pings(text), [0.75, 2.5]);
        assert_eq!(pings("connect: Network is unreachable"), Vec::<f64>::new());
    }

    #[test]
    fn ratios_are_of_medians_and_of_the_worse_guest() {
        let trial = |service, mode, work, cpu| Trial {
            service,
            mode,
            seconds_of_work: work,
            pings: vec![1.0, 2.0, 4.0],
            cpu_seconds: cpu,
            digest_seconds: 0.1,
            preemptions: 0,
            log_bytes: 0,
        };
        let mut trials = Vec::new();
        for (service, factor) in [(Service::Redis, 1.0), (Service::Compute, 2.0)] {
            trials.push(trial(service, Mode::Run, Some(10.0), 1.0));
            trials.push(trial(service, Mode::RunLoggingPages, Some(10.2), 1.0));
            trials.push(trial(service, Mode::Record, Some(11.0 * factor), 10.0));
            trials.push(trial(service, Mode::Replay, None, 10.0 * factor));
        }
        let figures = figures(&trials);
        assert!((figures["ratio_record_redis"] - 1.1).abs() < 1e-9);
        assert!((figures["ratio_record_compute"] - 2.2).abs() < 1e-9);
        assert!((figures["ratio_replay_cpu"] - 2.0).abs() < 1e-9);
        assert!((figures["share_digests"] - 0.01).abs() < 1e-9);
        assert!(figures["added_ping_ms_p50"].abs() < 1e-9);
    }
}
