//! `antipode run`: one unprotected VM in the foreground, its console on standard input and output.

use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use super::disk::failures;
use super::exit_code::ExitCode;
use super::failure::{Failure, Problem, written};
use super::signals::Signals;
use crate::machine::kvm::KvmError;
use crate::machine::launch::{Connection, LaunchError, PreparedVm, RunReport};
use crate::machine::workers::{DiskError, HostEntropy};
use crate::machine::{Outcome, RunError, TimelineError, config};

/// Runs the VM that the file at `path` describes, to its end.
pub(super) fn run(
    path: &Path,
    logs_written_pages: bool,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let config = config::load(path)?;
    let mut vm = PreparedVm::from_config(&config, Connection::Tap)?;
    if logs_written_pages {
        vm = vm.preemptible();
    }
    let signals = Signals::block()?;
    let mut entropy = open_entropy()?;
    let birth = vm.birth(&mut entropy)?;
    let exit_cost = PreparedVm::exit_cost();
    let mut vm = vm.start(&birth)?;
    signals.serve(vm.inbox().clone());
    let report = vm.run(&mut vm.live(entropy, exit_cost)?)?;
    answer(&report, json, output, |_| {})
}

/// Shows how a VM ended: as JSON on `output` with what `more` adds, else in words on standard error.
pub(super) fn answer(
    report: &RunReport,
    json: bool,
    output: &mut dyn Write,
    more: impl FnOnce(&mut serde_json::Value),
) -> Result<ExitCode, Failure> {
    let code = exit_code_of(&report.outcome);
    let shown = if json {
        let mut summary = as_json(report, code);
        more(&mut summary);
        writeln!(output, "{summary}")
    } else {
        show(report, &mut io::stderr().lock())
    };
    written(shown).map(|()| code)
}

pub(super) fn open_entropy() -> Result<HostEntropy, Failure> {
    HostEntropy::open().map_err(|error| host_failure("opening the random-number generator", error))
}

pub(super) fn exit_code_of(outcome: &Outcome) -> ExitCode {
    match outcome {
        Outcome::PowerOff | Outcome::Held => ExitCode::Done,
        Outcome::Reboot => ExitCode::GuestReboot,
        Outcome::Panic => ExitCode::GuestPanic,
        Outcome::TripleFault => ExitCode::TripleFault,
        Outcome::DeadHalt => ExitCode::GuestHalted,
        Outcome::DeviceFault(_) | Outcome::WildMmio { .. } => ExitCode::GuestFault,
        Outcome::Refused(_) => ExitCode::UnexpectedExit,
        Outcome::Stopped => ExitCode::Interrupted,
    }
}

fn exits_per_second(report: &RunReport) -> u64 {
    let exits = u128::from(report.totals.exit_count.get());
    let per_second = exits * 1000 / report.wall.as_millis().max(1);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

pub(super) fn as_json(report: &RunReport, code: ExitCode) -> serde_json::Value {
    let totals = &report.totals;
    let exits: serde_json::Map<String, serde_json::Value> = totals
        .exits_by_kind()
        .map(|(kind, count)| (kind.name().into(), json!(count)))
        .collect();
    json!({
        "ok": code == ExitCode::Done,
        "exit_code": code.number(),
        "exit_name": code.name(),
        "outcome": report.outcome.name(),
        "what": report.outcome.describe(),
        "exits": exits,
        "exits_total": totals.exit_count.get(),
        "exits_per_second": exits_per_second(report),
        "guest_seconds": seconds(totals.virtual_time.saturating_since(crate::base::units::VirtualTime::ZERO)),
        "wall_seconds": seconds(report.wall),
        "cpu_seconds": seconds(report.cpu),
        "rewritten_rdtsc": report.rewritten.rdtsc(),
        "rewritten_cr4": report.rewritten.cr4_writes(),
        "rewritten_mask_reads": report.rewritten.dead_mask_reads(),
        "kernel_rdtsc": totals.kernel_rdtsc,
        "user_rdtsc": totals.user_rdtsc,
        "posted_writes": totals.posted_writes,
        "interrupts": totals.interrupts,
        "kicks": totals.kicks,
    })
}

pub(super) fn seconds(span: std::time::Duration) -> f64 {
    (span.as_secs_f64() * 1000.0).round() / 1000.0
}

pub(super) fn show(report: &RunReport, output: &mut impl Write) -> io::Result<()> {
    let totals = &report.totals;
    writeln!(output, "{}", report.outcome.describe())?;
    writeln!(
        output,
        "  ran {:.1} s of guest time in {:.1} s; {} exits, {}/s",
        seconds(
            totals
                .virtual_time
                .saturating_since(crate::base::units::VirtualTime::ZERO)
        ),
        seconds(report.wall),
        totals.exit_count.get(),
        exits_per_second(report)
    )?;
    let kinds: Vec<String> = totals
        .exits_by_kind()
        .map(|(kind, count)| format!("{} {count}", kind.name()))
        .collect();
    writeln!(output, "  exits by kind: {}", kinds.join(", "))?;
    writeln!(
        output,
        "  time-stamp counter: {} kernel instructions rewritten, {} kernel and {} user reads answered",
        report.rewritten.rdtsc(),
        totals.kernel_rdtsc,
        totals.user_rdtsc
    )
}

pub(super) fn host_failure(what: &str, error: io::Error) -> Failure {
    Failure::new(
        ExitCode::HostIo,
        Problem::new(format!("{what}: {error}"), ExitCode::HostIo.remedy()),
    )
}

fn code_of(error: &LaunchError) -> ExitCode {
    match error {
        LaunchError::Unreadable { what: "initrd", .. } | LaunchError::Boot(_) => ExitCode::InitrdRefused,
        LaunchError::Unreadable { .. } | LaunchError::Kernel { .. } => ExitCode::KernelRefused,
        LaunchError::Cmdline(_) => ExitCode::Config,
        LaunchError::Disk(error) => of_disk(error).0,
        LaunchError::Tap(_) => ExitCode::TapRefused,
        LaunchError::Kvm(KvmError::Open(_)) => ExitCode::KvmMissing,
        LaunchError::Kvm(_) | LaunchError::UnfitKvm(_) => ExitCode::KvmUnusable,
        LaunchError::Restore(_) => ExitCode::StateRefused,
        LaunchError::Run(RunError::UserTsc(_)) => ExitCode::KernelRefused,
        LaunchError::Run(RunError::Kvm(_)) => ExitCode::KvmFailed,
        LaunchError::Run(RunError::Timeline(TimelineError::Diverged { .. })) => ExitCode::Diverged,
        LaunchError::Run(RunError::Timeline(TimelineError::Ended(_) | TimelineError::Beyond { .. })) => {
            ExitCode::RecordEnded
        }
        LaunchError::Run(RunError::Timeline(TimelineError::Stopped)) => ExitCode::Interrupted,
        LaunchError::Run(
            RunError::Host { .. }
            | RunError::Timeline(TimelineError::Host { .. } | TimelineError::Disk { .. }),
        )
        | LaunchError::Host { .. } => ExitCode::HostIo,
    }
}

/// The exit code of a disk that a VM cannot be started on, and what to do.
fn of_disk(error: &DiskError) -> (ExitCode, &'static str) {
    match error {
        DiskError::Image(error) => failures::of_image(error),
        DiskError::Replica(error) => failures::of_disk(error),
        DiskError::Size { .. } => (ExitCode::DiskRefused, ExitCode::DiskRefused.remedy()),
        DiskError::Entropy { .. } => (ExitCode::HostIo, ExitCode::HostIo.remedy()),
    }
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Self {
        let code = code_of(&error);
        let mend = match &error {
            LaunchError::Disk(error) => of_disk(error).1,
            _ => code.remedy(),
        };
        Self::new(code, Problem::new(error.to_string(), mend))
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        LaunchError::from(error).into()
    }
}
