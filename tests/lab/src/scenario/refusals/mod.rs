//! `cargo lab refusals`: bad input is refused before anything starts, with the documented exit code and a reason that
//! names the culprit, and nothing is modified.
//!
//! - `here`: what needs no host of ours. `antipode run` is started on this machine with a real kernel and one thing
//!   wrong.
//! - `on_hosts`: what takes a host without KVM, or a host on which a VM runs already.

mod here;
mod on_hosts;

use super::Setup;
use super::exit_codes;
use super::report::{Form, conclude, seconds};
use crate::debian::KernelFlavour;
use crate::image::Service;
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use std::process::ExitCode;
use std::time::Instant;

/// Check that bad input is refused before anything starts, with nothing modified
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    form: Form,
}

/// Plays them all and says what happened.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let words = |found: &Value| {
        let count = found["refusals"].as_object().map_or(0, Map::len);
        format!("{count} refusals, each with its documented exit code, and nothing modified.")
    };
    conclude(args.form, play_all(), words)
}

fn play_all() -> Result<Value> {
    let setup = Setup::prepare(Service::Shell, KernelFlavour::Cloud)?;
    let started = Instant::now();
    let mut seen = Seen::default();
    here::play_all(&setup, &mut seen)?;
    on_hosts::play_all(&setup, &mut seen)?;
    let took = seconds(started.elapsed());
    Ok(json!({ "ok": true, "refusals": seen.refused, "skipped": seen.skipped, "took_s": took }))
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    /// The exit code's name of each case.
    refused: Map<String, Value>,
    /// Cases that cannot be had here.
    skipped: Vec<&'static str>,
}

impl Seen {
    fn refused(&mut self, case: &str, exit_name: &str) {
        eprintln!("lab: {case}: {exit_name}");
        self.refused.insert(case.to_owned(), exit_name.into());
    }

    fn skipped(&mut self, case: &'static str, why: &str) {
        eprintln!("lab: {case}: skipped, {why}");
        self.skipped.push(case);
    }
}

/// How a VM must be refused.
#[derive(Debug, Clone, Copy)]
struct Refusal<'a> {
    /// The documented exit code.
    exit_name: &'a str,
    /// What the reason must name, in small letters.
    named: &'a str,
}

impl Refusal<'_> {
    /// Compares it with what `antipode run --json` ended with and what it said on standard output.
    fn check(self, status: Option<i32>, said: &str) -> Result<()> {
        let Self { exit_name, named } = self;
        let number = exit_codes::number(exit_name).context("its exit code is not documented")?;
        ensure!(
            status == Some(number.into()),
            "ended with {status:?}, expected {number} ({exit_name}); it said: {said}"
        );
        // One line: the guest's console would have come before it.
        let answer: Value = serde_json::from_str(said).with_context(|| said.to_owned())?;
        let reason = answer["errors"].to_string().to_lowercase();
        ensure!(
            answer["exit_name"] == exit_name && reason.contains(named),
            "the reason does not name {named:?}: {said}"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = r#"{"errors":[{"message":"TAP interface tap0 is in use"}],"exit_name":"tap-refused"}"#;
    const REFUSAL: Refusal<'_> = Refusal {
        exit_name: "tap-refused",
        named: "tap0",
    };

    #[test]
    fn the_code_the_name_and_the_culprit_must_all_be_there_and_nothing_before_them() {
        assert!(REFUSAL.check(Some(15), SAID).is_ok());
        assert!(REFUSAL.check(Some(0), SAID).is_err());
        assert!(REFUSAL.check(None, SAID).is_err());
        assert!(REFUSAL.check(Some(15), &SAID.replace("tap0", "it")).is_err());
        assert!(
            REFUSAL
                .check(Some(15), &SAID.replace("tap-refused", "config"))
                .is_err()
        );
        assert!(
            REFUSAL
                .check(Some(15), &format!("Linux version 6.1\r\n{SAID}"))
                .is_err()
        );
    }
}
