//! `disk diff`: where two images differ, replicas or not.

use std::io::{self, Write};
use std::ops::Range;

use antipode_disk_sync::decision::Consent;
use antipode_disk_sync::disk::{compare_here, compare_with};
use antipode_disk_sync::image::{Access, FileImage};
use antipode_disk_sync::protocol::{Comparison, Options};
use antipode_disk_sync::tree::Threads;
use indicatif::HumanBytes;
use serde_json::json;

use super::progress::Bar;
use super::request::{Diff, Place};
use super::sync::{connect, credentials};
use super::{Monotonic, done};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, written};

/// Ranges that a comparison lists; how many there are is told anyway.
const RANGES_SHOWN_MAX: usize = 1000;

/// How two images are compared: nothing of them is sent.
pub(super) fn options() -> Options {
    Options {
        consent: Consent::default(),
        dry_run: true,
        compress: false,
        bytes_per_second: None,
        threads: Threads::all(),
    }
}

pub(super) fn diff(diff: &Diff, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let ours = FileImage::open(&diff.ours, Access::Read)?;
    let bar = Bar::new("comparing", 0, json);
    let found = match &diff.other {
        Place::Here(other) => {
            let other = FileImage::open(other, Access::Read)?;
            compare_here(&ours, &other, &options(), &Monotonic, &mut |status| {
                bar.show(status)
            })?
        }
        Place::There(far) => {
            let link = connect(far, &credentials(&far.proof)?)?;
            compare_with(&ours, link, &options(), &Monotonic, &mut |status| {
                bar.show(status)
            })?
        }
    };
    drop(bar);
    let mut lengths = found.lengths;
    if diff.is_swapped {
        lengths.reverse();
    }
    let is_equal = lengths[0] == lengths[1] && found.differing.is_empty();
    let code = if is_equal {
        ExitCode::Done
    } else {
        ExitCode::DisksDiffer
    };
    let shown = if json {
        as_json(&found, lengths, code, output)
    } else {
        as_text(&found, lengths, output)
    };
    written(shown).map(|()| code)
}

fn ranges(found: &Comparison) -> impl Iterator<Item = Range<u64>> {
    let length = found.differing.length();
    found.differing.runs().map(move |run| length.bytes_of(&run))
}

/// How many ranges differ, and bytes in all.
fn extent(found: &Comparison) -> (usize, u64) {
    ranges(found).fold((0, 0), |(count, bytes), range| {
        (count + 1, bytes + range.end - range.start)
    })
}

fn as_json(found: &Comparison, lengths: [u64; 2], code: ExitCode, output: &mut dyn Write) -> io::Result<()> {
    let (count, bytes) = extent(found);
    let shown = ranges(found).take(RANGES_SHOWN_MAX);
    let shown = shown.map(|range| json!({ "offset": range.start, "bytes": range.end - range.start }));
    let mut told = done(code);
    told["lengths"] = json!(lengths);
    told["differing_bytes"] = json!(bytes);
    told["range_count"] = json!(count);
    told["ranges"] = shown.collect();
    writeln!(output, "{told}")
}

fn as_text(found: &Comparison, lengths: [u64; 2], output: &mut dyn Write) -> io::Result<()> {
    if lengths[0] != lengths[1] {
        return writeln!(output, "they have {} and {} bytes", lengths[0], lengths[1]);
    }
    if found.differing.is_empty() {
        return writeln!(output, "they are equal: content {}", found.content);
    }
    for range in ranges(found).take(RANGES_SHOWN_MAX) {
        writeln!(
            output,
            "{:>16}  {}",
            range.start,
            HumanBytes(range.end - range.start)
        )?;
    }
    let (count, bytes) = extent(found);
    writeln!(
        output,
        "they differ in {count} ranges, {} in all",
        HumanBytes(bytes)
    )
}
