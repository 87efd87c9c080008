//! `antipode replay --print` and `--stats`: a log as a person reads it.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::exit_code::ExitCode;
use super::failure::{Failure, written};
use super::record::log_refused;
use crate::base::units::{ExitOrdinal, VirtualTime};
use crate::replay::{Batch, Entry, LogError, LogReader, RepairPiece};

/// Calls `take` with each batch of the log at `path`, and answers whether the log was cut off.
fn for_each_batch(path: &Path, mut take: impl FnMut(&Batch) -> std::io::Result<()>) -> Result<bool, Failure> {
    let refused = |error: LogError| log_refused(path, &error);
    let mut log = LogReader::open(path).map_err(refused)?;
    while let Some(batch) = log.next_batch().map_err(refused)? {
        match take(&batch) {
            Ok(()) => {}
            Err(error) => {
                written(Err(error))?;
                // Whoever read has seen enough.
                return Ok(false);
            }
        }
    }
    Ok(log.was_cut_off())
}

/// Shows every entry.
pub(super) fn print(path: &Path, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let was_cut_off = for_each_batch(path, |batch| {
        for (exit, entry) in &batch.entries {
            print_entry(*exit, entry, json, output)?;
        }
        match &batch.end {
            Some(end) if json => writeln!(
                output,
                "{}",
                json!({ "exit": batch.through.get(), "end": end.outcome, "time_s": as_seconds(end.virtual_time) })
            ),
            Some(end) => writeln!(
                output,
                "{:>12}  end           {} after {} s",
                batch.through.to_string(),
                end.outcome,
                as_seconds(end.virtual_time)
            ),
            None => Ok(()),
        }
    })?;
    Ok(code_of(was_cut_off))
}

/// Entries that are shown before a position, and after it.
const ENTRIES_AROUND: usize = 40;

/// What the log at `path` has around `exit`, as [`print`] shows it.
pub(super) fn entries_around(path: &Path, exit: ExitOrdinal) -> std::io::Result<Vec<u8>> {
    let mut log = LogReader::open(path).map_err(std::io::Error::other)?;
    let (mut before, mut after) = (VecDeque::new(), Vec::new());
    while after.len() < ENTRIES_AROUND
        && let Some(batch) = log.next_batch().map_err(std::io::Error::other)?
    {
        for (at, entry) in batch.entries {
            if at > exit {
                after.push((at, entry));
                continue;
            }
            before.push_back((at, entry));
            if before.len() > ENTRIES_AROUND {
                before.pop_front();
            }
        }
    }
    after.truncate(ENTRIES_AROUND);
    let mut text = Vec::new();
    for (at, entry) in before.iter().chain(&after) {
        print_entry(*at, entry, false, &mut text)?;
    }
    Ok(text)
}

fn print_entry(exit: ExitOrdinal, entry: &Entry, json: bool, output: &mut dyn Write) -> std::io::Result<()> {
    if json {
        let line = json!({
            "exit": exit.get(),
            "entry": entry.name(),
            "what": described(entry),
            "bytes": entry.content_bytes(),
        });
        return writeln!(output, "{line}");
    }
    writeln!(
        output,
        "{:>12}  {:<12}  {}",
        exit.to_string(),
        entry.name(),
        described(entry)
    )
}

fn described(entry: &Entry) -> String {
    match entry {
        Entry::TimeRead(time) | Entry::Expiry(time) => format!("at {:.6} s", as_seconds(*time)),
        Entry::Frame(bytes) | Entry::Entropy(bytes) => format!("{} bytes", bytes.len()),
        Entry::Console(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        Entry::Disk { id, is_done } => {
            format!("request {} {}", id.0, if *is_done { "done" } else { "failed" })
        }
        Entry::PowerButton | Entry::Stop | Entry::Flush | Entry::Replays => String::new(),
        Entry::Verify(slice) => format!("{} leaves of extent {}", slice.leaves.count_ones(), slice.extent),
        Entry::Page { address, delta } if delta.is_empty() => format!("{address:#x}, as told before"),
        Entry::Page { address, .. } => format!("{address:#x}"),
        Entry::Resume { vcpu, posted } => {
            format!(
                "a vCPU of {} bytes, after {} collected writes",
                vcpu.len(),
                posted.len()
            )
        }
        Entry::Epoch(digests) | Entry::Stand(digests) | Entry::Checkpoints { digests, .. } => {
            format!("registers, RAM and {} parts", digests.parts.len())
        }
        Entry::Repair(piece) => match piece {
            RepairPiece::Part { name, content, .. } => format!("{} bytes of {name}", content.len()),
            RepairPiece::Page { address, .. } => format!("the page at {address:#x}"),
            RepairPiece::Leaf { number, .. } => format!("leaf {number} of the disk"),
            RepairPiece::End { number, .. } => format!("the end of repair {number}"),
        },
        Entry::Output { kind, digest } => format!("{}, digest {digest:016x}", kind.name()),
    }
}

fn as_seconds(time: VirtualTime) -> f64 {
    time.saturating_since(VirtualTime::ZERO).as_secs_f64()
}

fn code_of(was_cut_off: bool) -> ExitCode {
    if was_cut_off {
        ExitCode::RecordEnded
    } else {
        ExitCode::Done
    }
}

/// What a log holds of one kind.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    count: u64,
    content_bytes: u64,
}

/// Shows totals by kind.
pub(super) fn statistics(path: &Path, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let mut shares: BTreeMap<&'static str, Share> = BTreeMap::new();
    let (mut exits, mut time, mut outcome) = (ExitOrdinal::default(), VirtualTime::ZERO, None);
    let was_cut_off = for_each_batch(path, |batch| {
        for (_, entry) in &batch.entries {
            let share = shares.entry(entry.name()).or_default();
            share.count += 1;
            share.content_bytes += entry.content_bytes() as u64;
            if let Entry::TimeRead(now) | Entry::Expiry(now) = entry {
                time = time.max(*now);
            }
        }
        exits = batch.through;
        if let Some(end) = &batch.end {
            time = end.virtual_time;
            outcome = Some(end.outcome.clone());
        }
        Ok(())
    })?;
    let file_bytes = std::fs::metadata(path)
        .map_err(|error| log_refused(path, &error))?
        .len();
    let per_second = |bytes: u64| {
        let milliseconds =
            u64::try_from(time.saturating_since(VirtualTime::ZERO).as_millis()).unwrap_or(u64::MAX);
        bytes.saturating_mul(1000) / milliseconds.max(1)
    };
    let shown = if json {
        let kinds: serde_json::Map<String, serde_json::Value> = shares
            .iter()
            .map(|(name, share)| {
                let value = json!({ "count": share.count, "content_bytes": share.content_bytes });
                ((*name).to_owned(), value)
            })
            .collect();
        writeln!(
            output,
            "{}",
            json!({
                "ok": !was_cut_off,
                "outcome": outcome,
                "exits": exits.get(),
                "guest_seconds": as_seconds(time),
                "file_bytes": file_bytes,
                "bytes_per_second": per_second(file_bytes),
                "entries": kinds,
            })
        )
    } else {
        show_statistics(&shares, output).and_then(|()| {
            writeln!(
                output,
                "{} exits in {:.1} s; {file_bytes} bytes, {} a second; {}",
                exits.get(),
                as_seconds(time),
                per_second(file_bytes),
                outcome.as_deref().unwrap_or("cut off before the VM ended")
            )
        })
    };
    written(shown).map(|()| code_of(was_cut_off))
}

fn show_statistics(shares: &BTreeMap<&'static str, Share>, output: &mut dyn Write) -> std::io::Result<()> {
    writeln!(output, "{:<14}{:>10}{:>16}", "entry", "count", "content bytes")?;
    for (name, share) in shares {
        writeln!(output, "{name:<14}{:>10}{:>16}", share.count, share.content_bytes)?;
    }
    Ok(())
}
