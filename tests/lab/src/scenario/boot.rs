//! `cargo lab boot`: a Debian guest under `antipode run` on an emulated host, used from another host, switched off.

use super::report::{Form, conclude, seconds, with_run};
use super::{Connection, Error, RunSummary, Setup, Stage, StageSpec, Vm, VmEnd, VmSettings};
use crate::debian::KernelFlavour;
use crate::host::RunDirectory;
use crate::image::Service;
use crate::talk;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// From the start of antipode to the guest's ready line: seconds on an idle machine, minutes on one that builds.
pub const READY_TIMEOUT: Duration = Duration::from_secs(600);

/// From the power button to the end of antipode. The guest gives its service ten seconds of its own time.
pub const END_TIMEOUT: Duration = Duration::from_secs(180);

/// For a command typed on the console to be answered.
pub(super) const CONSOLE_TIMEOUT: Duration = Duration::from_secs(180);

/// Boot a Debian guest on an emulated host, reach its service from another, and switch it off
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the guest runs
    #[arg(long, value_enum, default_value = "redis")]
    service: Service,
    /// Which of Debian's kernels boots it
    #[arg(long, value_enum, default_value = "cloud")]
    kernel: KernelFlavour,
    /// Values to write and read back
    #[arg(long, value_name = "N", default_value_t = 10)]
    values: usize,
    #[command(flatten)]
    form: Form,
}

/// Plays it and says what happened.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let say = |text: &str| eprintln!("lab: {text}");
    let plan = Plan {
        service: args.service,
        kernel: args.kernel,
        value_count: args.values,
    };
    let outcome = plan.carry_out(&say).map(|report| report.as_json(&plan));
    conclude(args.form, outcome, |_| {
        "The guest did all that was asked.".to_owned()
    })
}

/// What is to be shown.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) service: Service,
    pub(super) kernel: KernelFlavour,
    pub(super) value_count: usize,
}

/// What was seen.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) hosts_boot: Duration,
    /// From the start of antipode to the ready line.
    pub(super) boot: Duration,
    /// Writing all values, and reading them.
    pub(super) talk: (Duration, Duration),
    pub(super) power_off: Duration,
    pub(super) summary: RunSummary,
}

impl Plan {
    /// Carries everything out and tells `say` about each step before it is taken.
    pub(super) fn carry_out(&self, say: &dyn Fn(&str)) -> Result<Report> {
        let Self { service, kernel, .. } = self;
        let flavour = kernel.meta_package();
        say(&format!(
            "making ready: a {service} guest with the kernel of {flavour}, and a static antipode"
        ));
        let setup = Setup::prepare(*service, *kernel)?;
        with_run(&setup.materials.lab_directory, "boot", |run| {
            self.play(&setup, run, say)
        })
    }

    fn play(&self, setup: &Setup, run: &RunDirectory, say: &dyn Fn(&str)) -> Result<Report> {
        let spec = StageSpec {
            client: self.service.port().is_some(),
            ..StageSpec::new(setup)
        };
        say("booting the emulated hosts: a site with AMD-V and KVM, and a client");
        let started = Instant::now();
        let stage = Stage::open(setup, run, &spec)?;
        let hosts_boot = started.elapsed();
        say(&format!(
            "the hosts are up after {:.1} s; starting `antipode run` on the site",
            hosts_boot.as_secs_f32()
        ));
        let mut vm = stage.start(&VmSettings::new(setup))?;
        let boot = vm.wait_for(&self.service.ready_line(), READY_TIMEOUT)?;
        say(&format!(
            "the guest's {} is ready after {:.1} s",
            self.service,
            boot.as_secs_f32()
        ));
        let talk = match self.service.port() {
            Some(_) => self.talk(&stage, say)?,
            None => self.type_command(&mut vm, say)?,
        };
        say("pressing the guest's power button (SIGTERM to antipode)");
        let pressed = Instant::now();
        vm.press_power_button()?;
        let end = vm.wait_end(END_TIMEOUT)?;
        let summary = powered_off(&end)?;
        Ok(Report {
            hosts_boot,
            boot,
            talk,
            power_off: pressed.elapsed(),
            summary,
        })
    }

    /// Writes on one connection and reads on another: what comes back was kept by the service.
    fn talk(&self, stage: &Stage, say: &dyn Fn(&str)) -> Result<(Duration, Duration)> {
        let (service, count) = (self.service, self.value_count);
        let pairs = talk::pairs(1..=count, &std::process::id().to_string());
        let failed = |connection: &Connection| {
            let address = connection.address().to_owned();
            move |source| Error::Talk {
                service,
                address,
                source,
            }
        };
        let mut connection = stage.connect()?;
        say(&format!(
            "the client writes {count} values to {} and reads them back",
            connection.address()
        ));
        let started = Instant::now();
        talk::write(service, &mut connection, &pairs).map_err(failed(&connection))?;
        let written = started.elapsed();
        let mut connection = stage.connect()?;
        let started = Instant::now();
        talk::read(service, &mut connection, &pairs).map_err(failed(&connection))?;
        Ok((written, started.elapsed()))
    }

    /// Writes a file from the guest's console and reads it back. What is typed is echoed, and is not what is awaited.
    fn type_command(&self, vm: &mut Vm, say: &dyn Fn(&str)) -> Result<(Duration, Duration)> {
        say("typing a command on the guest's console");
        let started = Instant::now();
        vm.type_text("echo antipode > /data/word\n")?;
        let typed = started.elapsed();
        vm.type_text("printf 'read:%s\\n' $(cat /data/word)\n")?;
        vm.wait_for("read:antipode", CONSOLE_TIMEOUT)?;
        Ok((typed, started.elapsed()))
    }
}

/// Whether the guest stopped its service, switched itself off, and antipode says so.
fn powered_off(end: &VmEnd) -> Result<RunSummary> {
    let VmEnd {
        status,
        console,
        messages,
        ..
    } = end;
    ensure!(
        status.success(),
        "the guest was switched off, and antipode ended with {status}: {messages}"
    );
    let said = "antipode-guest: poweroff";
    ensure!(
        console.contains(said),
        "antipode ended without the guest's `{said}`"
    );
    let summary = end.checked_summary()?;
    ensure!(
        summary.ok && summary.rewritten_rdtsc > 0 && summary.exits_total > 0,
        "antipode's summary cannot be true: {summary:?}"
    );
    Ok(summary)
}

impl Report {
    pub(super) fn as_json(&self, plan: &Plan) -> Value {
        let summary = &self.summary;
        json!({
            "ok": true,
            "service": plan.service,
            "kernel": plan.kernel,
            "hosts_boot_s": seconds(self.hosts_boot),
            "boot_s": seconds(self.boot),
            "power_off_s": seconds(self.power_off),
            "exits": summary.exits_total,
            "exits_by_kind": summary.exits,
            "exits_per_second": summary.exits_per_second,
            "rewritten_rdtsc": summary.rewritten_rdtsc,
            "user_rdtsc": summary.user_rdtsc,
            "guest_seconds": summary.guest_seconds,
            "wall_seconds": summary.wall_seconds,
            "service_reached": true,
            "values": plan.value_count,
            "write_s": seconds(self.talk.0),
            "read_s": seconds(self.talk.1),
            "exit_code": summary.exit_code,
        })
    }
}
