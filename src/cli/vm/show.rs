//! What an operator is shown of VMs.

use std::io::Write;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, written};

/// One VM, whole.
pub(super) fn status(status: &Value, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let told = if json {
        writeln!(output, "{status}")
    } else {
        in_words(status, output)
    };
    written(told).map(|()| ExitCode::Done)
}

fn in_words(status: &Value, output: &mut dyn Write) -> std::io::Result<()> {
    let text = |key: &str| status[key].as_str().unwrap_or("-").to_owned();
    let colour = if status["green"] == true {
        "well"
    } else {
        "NOT WELL"
    };
    writeln!(
        output,
        "{}: {} here, the other site is {}: {colour}",
        text("vm"),
        text("role"),
        text("peer")
    )?;
    if let Some(why) = status["because"].as_str() {
        writeln!(output, "  because  {why}")?;
    }
    if let Some(next) = status["next"].as_str() {
        writeln!(output, "  do       {next}")?;
    }
    writeln!(
        output,
        "  generation {}, exit {}, lag {:.1} ms ({}), round trip {} ms, outputs held {} ms (99 of 100: {} ms)",
        status["generation"],
        status["position"],
        status["lag_ms"].as_f64().unwrap_or_default(),
        HumanBytes(status["lag_bytes"].as_u64().unwrap_or_default()),
        number(&status["rtt_ms"]),
        number(&status["output_hold_ms_p50"]),
        number(&status["output_hold_ms_p99"]),
    )?;
    restored(status, output)?;
    verified(&status["verify"], output)?;
    refusals(status, output)?;
    match status["flush"].as_str() {
        Some("both") => writeln!(
            output,
            "  a flush is complete when it is durable at both sites: held {} ms (99 of 100: {} ms)",
            number(&status["flush_hold_ms_p50"]),
            number(&status["flush_hold_ms_p99"]),
        ),
        Some(_) => writeln!(
            output,
            "  a flush is complete when it is durable at the live site"
        ),
        None => Ok(()),
    }
}

/// What restores the protection, and what it took.
fn restored(status: &Value, output: &mut dyn Write) -> std::io::Result<()> {
    let again = &status["protect_again"];
    if let Some(waits_for) = again["waits_for"].as_str() {
        writeln!(
            output,
            "  it is protected again by itself, as soon as it can be: {waits_for}"
        )?;
    }
    if let Some(failure) = again["last_failure"].as_str() {
        writeln!(
            output,
            "  the last protection came to nothing {} s ago ({} in a row; the next try is in {} s): {failure}",
            again["last_failure_s"], again["failures"], again["next_try_s"],
        )?;
    }
    let resync = &status["resync"];
    if let Some(kind) = resync["kind"].as_str() {
        let bytes = |key: &str| HumanBytes(resync[key].as_u64().unwrap_or_default());
        writeln!(
            output,
            "  the other site's disk was made equal ({kind}): {} could differ, {} were sent",
            bytes("changed_bytes"),
            bytes("sent_bytes"),
        )?;
    }
    let memory = &status["memory_sent"];
    if let (Some(once), Some(sent)) = (memory["once_bytes"].as_u64(), memory["sent_bytes"].as_u64()) {
        writeln!(
            output,
            "  its memory was copied: {} of it, {} with what was written meanwhile",
            HumanBytes(once),
            HumanBytes(sent),
        )?;
    }
    Ok(())
}

/// How the last comparison of the two disks went.
fn verified(verify: &Value, output: &mut dyn Write) -> std::io::Result<()> {
    let Some(state) = verify["state"].as_str() else {
        return Ok(());
    };
    let bytes = |key: &str| HumanBytes(verify[key].as_u64().unwrap_or_default());
    let because = verify["because"]
        .as_str()
        .map_or_else(String::new, |why| format!(" ({why})"));
    writeln!(
        output,
        "  the two disks compared: {state}{because}, {} of {}, {} leaves differed and {} were mended; {} were never left alone by the guest",
        bytes("compared_bytes"),
        bytes("total_bytes"),
        verify["differed"],
        verify["mended"],
        bytes("unknown_bytes"),
    )?;
    for difference in verify["differences"].as_array().into_iter().flatten() {
        let state = if difference["mended"] == true {
            "mended"
        } else {
            "not mended"
        };
        writeln!(
            output,
            "    differed at byte {} at exit {}: {state}",
            difference["offset"], difference["exit"]
        )?;
    }
    Ok(())
}

fn refusals(of: &Value, output: &mut dyn Write) -> std::io::Result<()> {
    for refusal in of["refused"].as_array().into_iter().flatten() {
        let text = |key: &str| refusal[key].as_str().unwrap_or_default();
        let (because, what) = (text("because"), text("what"));
        writeln!(
            output,
            "  refused  {because} ({what}, {} times)",
            refusal["count"]
        )?;
    }
    Ok(())
}

fn number(value: &Value) -> String {
    value
        .as_f64()
        .map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

/// All VMs, one a line.
pub(super) fn list(answer: &Value, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    if json {
        return written(writeln!(output, "{answer}")).map(|()| ExitCode::Done);
    }
    for vm in answer["vms"].as_array().into_iter().flatten() {
        let text = |key: &str| vm[key].as_str().unwrap_or("-").to_owned();
        let colour = if vm["green"] == true { "well" } else { "not well" };
        written(writeln!(output, "{:<24}{:<14}{colour}", text("vm"), text("role")))?;
    }
    written(refusals(answer, output))?;
    Ok(ExitCode::Done)
}

/// How far a protection is, on the terminal.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new(json: bool) -> Self {
        let bar = if json {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(0)
        };
        if let Ok(style) =
            ProgressStyle::with_template("{msg:<12} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub(super) fn show(&self, status: &Value) {
        self.0
            .set_message(status["role"].as_str().unwrap_or_default().to_owned());
        let progress = &status["progress"];
        if let (Some(done), Some(total)) = (progress["done_bytes"].as_u64(), progress["total_bytes"].as_u64())
        {
            self.0.set_length(total);
            self.0.set_position(done);
        }
    }

    pub(super) fn show_verification(&self, verify: &Value) {
        self.0.set_message("comparing");
        self.0
            .set_length(verify["total_bytes"].as_u64().unwrap_or_default());
        self.0
            .set_position(verify["compared_bytes"].as_u64().unwrap_or_default());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
