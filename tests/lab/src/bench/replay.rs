//! `antipode-lab bench replay`: what recording costs a guest, and replaying a host.
//!
//! ```text
//!  each round, for a guest that waits (redis) and one that computes, each time on fresh hosts:
//!
//!    run beside run, written pages logged │ run beside record ─▶ replay beside replay
//!     └── both are ready ─ 3 s ─▶ work: values written and read back │ rounds computed, and pings meanwhile ─▶ off
//! ```
//!
//! - **Recording** is judged by the work: by how many values come through in a time, and by how many rounds are computed.
//! - **Logging written pages** is all that a guest pays for being able to be pre-empted and never is.
//! - **Replaying** is judged by processor time, as a replay does not sleep.
//! - **Latency** is what `ping` in the client host sees of a guest that computes.
//!
//! A guest is compared with the one that did the same work beside it in the same seconds: a machine's speed changes more
//! from one minute to the next than what is measured. Of the rounds' ratios the median counts.

use super::summary::{self, Bound, Spread};
use crate::debian::KernelFlavour;
use crate::host::RunDirectory;
use crate::image::Service;
use crate::load::clients::Amount;
use crate::scenario::boot::{END_TIMEOUT, READY_TIMEOUT};
use crate::scenario::clients::Clients;
use crate::scenario::report::{rounded, with_run};
use crate::scenario::stage::GUEST_ADDRESS;
use crate::scenario::{Connection, RunSummary, Setup, Stage, StageSpec, Task, Vm, VmSettings};
use anyhow::{Context, Result, anyhow, ensure};
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

/// How long the clients write values and read them back, and how many there are.
const TALKING: Duration = Duration::from_secs(25);
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
    /// Seconds for a value, or for a round of the computation. None of a replay.
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

/// What was measured at once.
#[derive(Debug, Clone, Serialize)]
struct Pair {
    /// A guest as it runs without a log, or the record that is replayed.
    base: Trial,
    /// Guests that are compared with it.
    compared: Vec<Trial>,
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
    let mut pairs = Vec::new();
    let services = [Service::Redis, Service::Compute];
    let setups = services.map(|service| Setup::prepare(service, KernelFlavour::Cloud));
    for round in 1..=args.rounds {
        for setup in &setups {
            let setup = setup.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            for mode in [Mode::RunLoggingPages, Mode::Record] {
                let (pair, log) = side_by_side(setup, mode)?;
                if let Some(log) = log {
                    pairs.push(Pair {
                        base: pair.compared[0].clone(),
                        compared: replays(setup, &log)?,
                    });
                }
                pairs.push(pair);
            }
        }
        eprintln!("lab: round {round} of {}", args.rounds);
    }
    let figures = figures(&pairs);
    let broken = summary::broken(BOUNDS, &figures);
    if args.json {
        let mut line = json!({
            "ok": broken.is_empty(),
            "out_of_bounds": broken,
            "rounds": args.rounds,
            "took_s": started.elapsed().as_secs(),
            "trials": pairs,
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

/// A guest on a stage of its own.
struct Guest {
    stage: Stage,
    vm: Vm,
    mode: Mode,
}

impl Guest {
    /// Until its service is up.
    fn start(setup: &Setup, run: &RunDirectory, mode: Mode) -> Result<Self> {
        let task = match mode {
            Mode::Run => Task::Run,
            Mode::RunLoggingPages => Task::RunLoggingPages,
            Mode::Record | Mode::Replay => Task::Record {
                log: LOG.to_owned(),
                dump: None,
            },
        };
        let stage = Stage::open(setup, run, &StageSpec::new(setup))?;
        Clients::install(setup, &stage)?.context("the service has no port")?;
        let mut vm = stage.start_task(&VmSettings::new(setup), &task)?;
        vm.wait_for(&setup.service().ready_line(), READY_TIMEOUT)?;
        Ok(Self { stage, vm, mode })
    }

    /// Seconds for a value or a round, and pings meanwhile.
    fn work(&self, service: Service) -> Result<(f64, Vec<f64>)> {
        thread::sleep(SETTLING);
        if service == Service::Compute {
            return compute(&self.stage);
        }
        let client = self.stage.client().context("no client host")?;
        let clients = Clients::of(client, service, GUEST_ADDRESS).context("the service has no port")?;
        let talked = clients.talk(Amount::Span(TALKING), CLIENTS, "bench")?;
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        let values = talked.values as f64;
        Ok((talked.seconds / values, Vec::new()))
    }

    /// What it came to, and its log, if it was recorded.
    fn end(self) -> Result<(RunSummary, Option<Vec<u8>>)> {
        self.vm.press_power_button()?;
        let summary = self.vm.wait_end(END_TIMEOUT)?.checked_summary()?;
        ensure!(summary.ok, "the guest did not switch itself off: {summary:?}");
        let log = match self.mode {
            Mode::Record => Some(self.stage.site().get(LOG)?),
            _ => None,
        };
        Ok((summary, log))
    }
}

/// A guest as it runs and one in `mode`, at once; and the log of a recorded one.
fn side_by_side(setup: &Setup, mode: Mode) -> Result<(Pair, Option<Vec<u8>>)> {
    let service = setup.service();
    on_two(setup, |runs| {
        let modes = [(runs[0], Mode::Run), (runs[1], mode)];
        let guests = both(modes, |(run, mode)| Guest::start(setup, run, mode))?;
        let work = both(guests.each_ref(), |guest| guest.work(service))?;
        let [(plain, _), (compared, log)] = both(guests, Guest::end)?;
        let [base, other] = work;
        let trial = |mode, summary, (seconds, pings)| Trial {
            seconds_of_work: Some(seconds),
            pings,
            ..Trial::new(service, mode, summary)
        };
        let pair = Pair {
            base: trial(Mode::Run, &plain, base),
            compared: vec![trial(mode, &compared, other)],
        };
        Ok((pair, log))
    })
}

/// Two replays of `log` at once, as there were two guests when it was recorded.
fn replays(setup: &Setup, log: &[u8]) -> Result<Vec<Trial>> {
    let replay = |run: &RunDirectory| {
        let spec = StageSpec {
            client: false,
            ..StageSpec::new(setup)
        };
        let stage = Stage::open(setup, run, &spec)?;
        stage.site().put_bytes(log, LOG, 0o644)?;
        let task = Task::Replay {
            log: LOG.to_owned(),
            dump: None,
            noise: None,
            step: None,
        };
        let vm = stage.start_task(&VmSettings::new(setup), &task)?;
        let summary = vm.wait_end(REPLAY_TIMEOUT)?.checked_summary()?;
        ensure!(summary.ok, "the replay did not end as its record: {summary:?}");
        Ok(Trial::new(setup.service(), Mode::Replay, &summary))
    };
    on_two(setup, |runs| Ok(both(runs, replay)?.into()))
}

fn on_two<T>(setup: &Setup, part: impl FnOnce([&RunDirectory; 2]) -> Result<T>) -> Result<T> {
    let lab = &setup.materials.lab_directory;
    with_run(lab, "bench-replay", |first| {
        with_run(lab, "bench-replay", |second| part([first, second]))
    })
}

/// `what` of both at once.
fn both<P: Send, T: Send>(parts: [P; 2], what: impl Fn(P) -> Result<T> + Sync) -> Result<[T; 2]> {
    let what = &what;
    let [first, second] = thread::scope(|scope| {
        let begun = parts.map(|part| scope.spawn(move || what(part)));
        begun.map(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread has died")))
        })
    });
    Ok([first?, second?])
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

fn figures(pairs: &[Pair]) -> BTreeMap<&'static str, f64> {
    let median = |service: Service, mode: Mode, of: &dyn Fn(&Trial, &Trial) -> Option<f64>| {
        let each = pairs.iter().flat_map(|pair| {
            let of_mode = |trial: &&Trial| trial.service == service && trial.mode == mode;
            let compared = pair.compared.iter().filter(of_mode);
            compared.filter_map(|trial| of(trial, &pair.base))
        });
        Spread::of(each.collect()).map_or(f64::NAN, |spread| spread.median)
    };
    let work = |service, mode| {
        median(service, mode, &|trial, base| {
            Some(trial.seconds_of_work? / base.seconds_of_work?)
        })
    };
    let ping = |percent: usize| {
        let of = |trial: &Trial| trial.pings.get(trial.pings.len() * percent / 100).copied();
        median(Service::Compute, Mode::Record, &|trial, base| {
            Some(of(trial)? - of(base)?)
        })
    };
    let share = |service| {
        median(service, Mode::Record, &|trial, _| {
            Some(trial.digest_seconds / trial.cpu_seconds)
        })
    };
    let replay = |service| {
        median(service, Mode::Replay, &|trial, record| {
            Some(trial.cpu_seconds / record.cpu_seconds)
        })
    };
    let (redis, compute) = (Service::Redis, Service::Compute);
    BTreeMap::from([
        ("ratio_record_redis", work(redis, Mode::Record)),
        ("ratio_record_compute", work(compute, Mode::Record)),
        ("ratio_logging_pages", work(redis, Mode::RunLoggingPages)),
        (
            "ratio_logging_pages_compute",
            work(compute, Mode::RunLoggingPages),
        ),
        ("ratio_replay_cpu", replay(redis).max(replay(compute))),
        ("share_digests", share(redis).max(share(compute))),
        ("added_ping_ms_p50", ping(50)),
        ("added_ping_ms_p90", ping(90)),
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
    fn ratios_are_of_guests_side_by_side() {
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
        let mut pairs = Vec::new();
        // The machine is half as fast in the second round.
        for slowness in [1.0, 2.0] {
            for (service, factor) in [(Service::Redis, 1.0), (Service::Compute, 2.0)] {
                let run = || trial(service, Mode::Run, Some(10.0 * slowness), 1.0);
                let record = trial(service, Mode::Record, Some(11.0 * factor * slowness), 10.0);
                let logging = trial(service, Mode::RunLoggingPages, Some(10.2 * slowness), 1.0);
                let replay = trial(service, Mode::Replay, None, 10.0 * factor);
                for (base, compared) in [
                    (run(), vec![logging]),
                    (run(), vec![record.clone()]),
                    (record, vec![replay.clone(), replay]),
                ] {
                    pairs.push(Pair { base, compared });
                }
            }
        }
        let figures = figures(&pairs);
        let expected = [
            ("ratio_record_redis", 1.1),
            ("ratio_record_compute", 2.2),
            ("ratio_logging_pages", 1.02),
            ("ratio_replay_cpu", 2.0),
            ("share_digests", 0.01),
            ("added_ping_ms_p50", 0.0),
        ];
        for (name, value) in expected {
            assert!((figures[name] - value).abs() < 1e-9, "{name}: {}", figures[name]);
        }
    }
}
