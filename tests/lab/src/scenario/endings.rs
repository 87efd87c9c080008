//! `cargo lab endings`: each way in which a VM ends has the exit code that its page documents.
//!
//! Every guest gets a fresh site: a host that has run one VM may stall when it starts the next (see `crate::host`).

use super::boot::{CONSOLE_TIMEOUT, END_TIMEOUT, READY_TIMEOUT};
use super::exit_codes;
use super::report::{Form, conclude, seconds, with_run};
use super::{Setup, Stage, StageSpec, Vm, VmSettings};
use crate::agent::message::ExitStatus;
use crate::debian::KernelFlavour;
use crate::image::Service;
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use std::process::ExitCode;
use std::time::Instant;

/// End guests in every documented way and check antipode's exit codes
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these
    #[arg(value_enum)]
    endings: Vec<Ending>,
    #[command(flatten)]
    form: Form,
}

/// How a guest is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Ending {
    /// By its power button.
    PowerOff,
    /// By `reboot -f` in it.
    Reboot,
    /// By a panic of its kernel (sysrq-c).
    Panic,
    /// By `halt -f` in it: its processor sleeps with interrupts off.
    Halt,
    /// By Linux's own way to reboot a machine that obeys nothing else: `int3` with an empty interrupt table.
    TripleFault,
    /// By a program in it that reads memory where nothing is.
    GuestFault,
    /// By an operator who does not want to wait: a second signal.
    Interrupt,
}

impl Ending {
    const ALL: [Self; 7] = [
        Self::PowerOff,
        Self::Reboot,
        Self::Panic,
        Self::Halt,
        Self::TripleFault,
        Self::GuestFault,
        Self::Interrupt,
    ];

    /// The name of its exit code.
    const fn exit_name(self) -> &'static str {
        match self {
            Self::PowerOff => "done",
            Self::Reboot => "guest-reboot",
            Self::Panic => "guest-panic",
            Self::Halt => "guest-halted",
            Self::TripleFault => "triple-fault",
            Self::GuestFault => "guest-fault",
            Self::Interrupt => "interrupted",
        }
    }

    fn bring_about(self, vm: &mut Vm) -> super::Result<()> {
        match self {
            Self::PowerOff => vm.press_power_button(),
            Self::Reboot => vm.type_text("busybox reboot -f\n"),
            Self::Panic => vm.type_text("echo c > /proc/sysrq-trigger\n"),
            Self::Halt => vm.type_text("busybox halt -f\n"),
            Self::TripleFault => vm.type_text("echo triple > /sys/kernel/reboot/type; busybox reboot -f\n"),
            // Between the end of RAM and the first register of any device.
            Self::GuestFault => vm.type_text("busybox devmem 0xE0000000 32\n"),
            Self::Interrupt => {
                vm.press_power_button()?;
                vm.wait_for_message("a second signal stops the VM at once", CONSOLE_TIMEOUT)?;
                vm.press_power_button()
            }
        }
    }

    /// What the guest's console must have said before. The interrupted guest is one that is still booting: a guest
    /// that is up might be off before the second signal.
    fn awaited(self) -> String {
        match self {
            Self::Interrupt => "antipode-guest: Debian kernel".to_owned(),
            _ => Service::Shell.ready_line(),
        }
    }
}

/// Plays them all and says what happened.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let wanted = if args.endings.is_empty() {
        &Ending::ALL[..]
    } else {
        &args.endings[..]
    };
    let outcome = play_all(wanted);
    conclude(args.form, outcome, |_| {
        "Every ending has its documented exit code.".to_owned()
    })
}

fn play_all(endings: &[Ending]) -> Result<Value> {
    let setup = Setup::prepare(Service::Shell, KernelFlavour::Cloud)?;
    let mut codes = Map::new();
    let started = Instant::now();
    for ending in endings {
        let code = play(&setup, *ending).with_context(|| format!("{ending:?}"))?;
        eprintln!("lab: {ending:?}: exit code {code}, {}", ending.exit_name());
        codes.insert(ending.exit_name().to_owned(), code.into());
    }
    Ok(json!({ "ok": true, "endings": codes, "took_s": seconds(started.elapsed()) }))
}

fn play(setup: &Setup, ending: Ending) -> Result<u8> {
    let expected = exit_codes::number(ending.exit_name()).context("its exit code is not documented")?;
    with_run(&setup.materials.lab_directory, "ending", |run| {
        let spec = StageSpec {
            client: false,
            ..StageSpec::new(setup)
        };
        let stage = Stage::open(setup, run, &spec)?;
        let mut vm = stage.start(&VmSettings::new(setup))?;
        vm.wait_for(&ending.awaited(), READY_TIMEOUT)?;
        ending.bring_about(&mut vm)?;
        let end = vm.wait_end(END_TIMEOUT)?;
        let said = format!("{}{}", end.console, end.messages);
        ensure!(
            end.status == ExitStatus::Code(expected.into()),
            "antipode ended with {}, {expected} is documented; it said:\n{said}",
            end.status
        );
        let summary = end.checked_summary()?;
        ensure!(
            summary.exit_name == ending.exit_name() && summary.ok == (expected == 0),
            "the summary says something else: {summary:?}"
        );
        Ok(expected)
    })
}
