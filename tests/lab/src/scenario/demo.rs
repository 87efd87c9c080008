//! `cargo demo`: the scenario of [`super::boot`] with Redis, told as a story.

use super::boot::{Plan, Report};
use super::report::{Form, conclude};
use crate::debian::KernelFlavour;
use crate::image::Service;
use serde_json::Value;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Instant;

/// Enough to be more than a greeting, and a second of waiting for an emulated disk.
const VALUE_COUNT: usize = 100;

const OPENING: &str = "\
A Debian guest with Redis will run under `antipode run` on one emulated host and be used from another.

  lab ─ QEMU ─ site-a   Debian's cloud kernel, kvm_amd, antipode ─ guest  Debian's cloud kernel, Redis
         │       │ bridge with the guest's TAP
         │     switch (a process of the lab)
         │       │
        QEMU ─ client   writes and reads over TCP
";

/// Boot a Debian guest with Redis on an emulated host and talk to it from another one
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    form: Form,
}

/// Plays it and tells what happens.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let plan = Plan {
        service: Service::Redis,
        kernel: KernelFlavour::Cloud,
        value_count: VALUE_COUNT,
    };
    println!("{OPENING}");
    let started = Instant::now();
    let say = |text: &str| println!("[{:6.1} s] {text}", started.elapsed().as_secs_f32());
    let outcome = plan.carry_out(&say);
    if let Ok(report) = &outcome {
        println!("\n{}", epilogue(report));
    }
    let as_json = |report: Report| report.as_json(&plan);
    let words =
        |_: &Value| "What to do next: `cargo lab up` gives you these hosts with a shell on each.".to_owned();
    conclude(args.form, outcome.map(as_json), words)
}

fn epilogue(report: &Report) -> String {
    let summary = &report.summary;
    let mut text = String::from("What happened\n");
    let mut line = |name: &str, value: String| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {name:<34}{value}");
    };
    line(
        "guest boot, to Redis ready",
        format!("{:.1} s", report.boot.as_secs_f32()),
    );
    line(
        "values written, read back, equal",
        format!(
            "{VALUE_COUNT} in {:.2} s, in {:.2} s",
            report.talk.0.as_secs_f32(),
            report.talk.1.as_secs_f32()
        ),
    );
    line(
        "power button to the end",
        format!("{:.1} s", report.power_off.as_secs_f32()),
    );
    line(
        "VM exits",
        format!("{} ({}/s)", summary.exits_total, summary.exits_per_second),
    );
    line(
        "RDTSC in the kernel, rewritten",
        summary.rewritten_rdtsc.to_string(),
    );
    line("RDTSC of programs, answered", summary.user_rdtsc.to_string());
    line(
        "exit code of antipode",
        format!("{} ({})", summary.exit_code, summary.exit_name),
    );
    text
}
