//! `cargo lab guests`: the workspace's own tests with tiny guests, in an emulated host.
//!
//! A developer's machine may have no KVM, or a software one that cannot do all that such a guest asks for: there the tests
//! say what they skip. Here they run on `kvm_amd`, and nothing may be skipped.

use super::report::{Form, conclude, seconds, with_run};
use crate::host::{Host, HostSpec, Materials};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Instant;

/// Files of tests whose guests are a few instructions.
const TESTS: [&str; 2] = ["kvm_tiny_guests", "kvm_replay"];

/// Run the tests with tiny guests in an emulated host, where none is skipped
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only tests whose names contain this
    #[arg(long, value_name = "WORDS", default_value = "")]
    filter: String,
    #[command(flatten)]
    form: Form,
}

/// Plays it and says what happened.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    conclude(args.form, play(args), |found| {
        format!("{} tests passed, none was skipped.", found["passed"])
    })
}

fn play(args: &Args) -> Result<Value> {
    let materials = Materials::without_antipode()?;
    let programs = TESTS
        .into_iter()
        .map(|test| Ok((test, materials.build_test(test)?)))
        .collect::<Result<Vec<_>>>()?;
    let started = Instant::now();
    with_run(&materials.lab_directory, "guests", |run| {
        let host = Host::boot(&materials, &HostSpec::new("host"), run)?;
        let mut passed = 0;
        for (test, program) in &programs {
            let path = format!("/tmp/{test}");
            host.put(program, &path, 0o755)?;
            let command = format!("{path} --test-threads=1 --nocapture {} 2>&1", args.filter);
            let output = host.run(&["sh", "-c", &command])?;
            let text = output.text();
            ensure!(output.status.success(), "{test} failed:\n{text}");
            passed += passed_in(&text)?;
        }
        ensure!(passed > 0, "no test has such a name");
        Ok(json!({ "ok": true, "passed": passed, "took_s": seconds(started.elapsed()) }))
    })
}

/// How many tests have passed, by what they print; an error if one was skipped.
fn passed_in(text: &str) -> Result<u64> {
    let skipped: Vec<_> = text.lines().filter(|line| line.contains("skipped: ")).collect();
    ensure!(skipped.is_empty(), "not all tests could run: {skipped:?}");
    let words = text
        .lines()
        .find_map(|line| line.strip_prefix("test result: ok. "));
    let number = words.and_then(|words| words.split(' ').next()?.parse().ok());
    number.with_context(|| format!("no result of the tests in:\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_test_is_no_passed_one() {
        let text = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored\n";
        assert_eq!(passed_in(text).unwrap(), 2);
        let skipped = format!("skipped: no /dev/kvm\n{text}");
        assert!(
            passed_in(&skipped)
                .unwrap_err()
                .to_string()
                .contains("no /dev/kvm")
        );
        assert!(passed_in("test result: FAILED. 1 passed; 1 failed\n").is_err());
    }
}
