//! `disk info`, `digest` and `diff`: what only reads.

use std::io::{self, Write};
use std::path::Path;

use antipode_disk_sync::disk::{self, Digest, DigestError, DiskInfo, Paths, Reading};
use antipode_disk_sync::image::{Access, FileImage, Image};
use antipode_disk_sync::protocol::{Clock, RunError};
use antipode_disk_sync::replica::State;
use antipode_disk_sync::tree::{HashError, Threads, Tree, Value, Wanted, hash_region};
use antipode_disk_sync::units::{ImageLength, LEAF_BYTES, Run};
use indicatif::HumanBytes;
use serde_json::json;

use super::progress::Bar;
use super::{Monotonic, done, seconds};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, Problem, written};

/// Ranges that a comparison lists; how many there are is told anyway.
const RANGES_SHOWN_MAX: usize = 1000;

pub(super) fn info(paths: &Paths, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let info = disk::info(paths)?;
    let shown = if json {
        info_as_json(paths, &info, output)
    } else {
        info_as_text(paths, &info, output)
    };
    written(shown).map(|()| ExitCode::Done)
}

fn info_as_json(paths: &Paths, info: &DiskInfo, output: &mut dyn Write) -> io::Result<()> {
    let metadata = &info.metadata;
    let lineage = metadata.lineage().map(|lineage| {
        json!({
            "current": lineage.current.to_string(),
            "base": lineage.base.map(|base| base.to_string()),
            "history": lineage.history.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    });
    let mut told = done(ExitCode::Done);
    told["image"] = json!(paths.image);
    told["metadata"] = json!(paths.metadata);
    told["vm"] = json!(metadata.vm().to_string());
    told["replica"] = json!(metadata.replica().to_string());
    told["bytes"] = json!(metadata.length().bytes());
    told["image_bytes"] = json!(info.image_bytes);
    told["bytes_on_disk"] = json!(info.bytes_on_disk);
    told["state"] = json!(metadata.state().name());
    told["lineage"] = json!(lineage);
    told["marked_leaves"] = json!(metadata.marks().count());
    told["leaf_bytes"] = json!(LEAF_BYTES);
    told["hot_extents"] = json!(metadata.hot_extents());
    told["in_use"] = json!(metadata.is_in_use());
    told["changed_behind"] = json!(info.was_changed_behind);
    writeln!(output, "{told}")
}

fn info_as_text(paths: &Paths, info: &DiskInfo, output: &mut dyn Write) -> io::Result<()> {
    let metadata = &info.metadata;
    let marked = metadata.marks().count();
    let length = HumanBytes(metadata.length().bytes());
    writeln!(output, "{}", paths.image.display())?;
    writeln!(output, "  VM:       {}", metadata.vm())?;
    writeln!(output, "  replica:  {}", metadata.replica())?;
    writeln!(
        output,
        "  size:     {length}, {} on disk",
        HumanBytes(info.bytes_on_disk)
    )?;
    writeln!(output, "  state:    {}", metadata.state().name())?;
    match metadata.lineage() {
        None => writeln!(output, "  content:  none yet")?,
        Some(lineage) => {
            writeln!(output, "  content:  generation {}", lineage.current)?;
            if let Some(base) = lineage.base {
                writeln!(output, "            alone since generation {base}")?;
            }
        }
    }
    writeln!(
        output,
        "  marked:   {} ({marked} leaves)",
        HumanBytes(marked * LEAF_BYTES)
    )?;
    if metadata.is_in_use() {
        writeln!(
            output,
            "  in use, or its user died; {} extents hot",
            metadata.hot_extents()
        )?;
    }
    if info.image_bytes != metadata.length().bytes() {
        writeln!(
            output,
            "  its image has {} bytes instead of {}: restore its length, or make a new replica",
            info.image_bytes,
            metadata.length().bytes()
        )?;
    }
    if info.was_changed_behind {
        writeln!(
            output,
            "  it was written to without being tracked: the next sync compares everything"
        )?;
    }
    if metadata.state() != State::Clean {
        writeln!(
            output,
            "  do:       antipode disk sync SOURCE {}",
            paths.image.display()
        )?;
    }
    Ok(())
}

pub(super) fn digest(
    paths: &Paths,
    content_only: bool,
    reading: Reading,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let wanted = if content_only {
        Wanted::Content
    } else {
        Wanted::Both
    };
    let begun = Monotonic.now();
    let bar = Bar::new("hashing", 0, json);
    let done_now = |bytes| bar.advance(bytes);
    let found = disk::digest(
        paths,
        wanted,
        reading,
        Threads::all(),
        &mut |bytes| bar.set_length(bytes),
        &done_now,
    );
    let Digest { tree, bytes_hashed } = found.map_err(|error| match error {
        DigestError::Image(error) => error.into(),
        DigestError::Hash(error) => unreadable(&paths.image, error),
    })?;
    drop(bar);
    let took = Monotonic.now().saturating_sub(begun);
    let plain = tree.plain_root().filter(|_| !content_only);
    let shown = if json {
        let mut told = done(ExitCode::Done);
        told["image"] = json!(paths.image);
        told["bytes"] = json!(tree.length().bytes());
        told["bytes_hashed"] = json!(bytes_hashed);
        told["blake3"] = json!(plain.map(|root| root.to_string()));
        told["content"] = json!(tree.content_root().to_string());
        told["seconds"] = json!(seconds(took));
        writeln!(output, "{told}")
    } else {
        let plain = plain.map(|root| format!("blake3  {root}\n"));
        let content = tree.content_root();
        writeln!(output, "{}content {content}", plain.unwrap_or_default())
    };
    written(shown).map(|()| ExitCode::Done)
}

fn tree_of(path: &Path, json: bool) -> Result<Tree, Failure> {
    let image = FileImage::open(path, Access::Read)?;
    image.expect_sequential_reads();
    let bar = Bar::new("hashing", image.length().bytes(), json);
    let tree = Tree::build(&image, Threads::all(), Wanted::Content, &|bytes| {
        bar.advance(bytes)
    });
    tree.map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: HashError) -> Failure {
    let problem = Problem::new(RunError::Hash(error).to_string(), ExitCode::HostIo.remedy());
    Failure::new(ExitCode::HostIo, problem.at(path.display().to_string()))
}

pub(super) fn diff(
    one: &Path,
    other: &Path,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let trees = [tree_of(one, json)?, tree_of(other, json)?];
    let lengths = trees.each_ref().map(Tree::length);
    let runs = if lengths[0] == lengths[1] {
        differing(&trees, [one, other])?
    } else {
        Vec::new()
    };
    let is_equal = lengths[0] == lengths[1] && runs.is_empty();
    let code = if is_equal {
        ExitCode::Done
    } else {
        ExitCode::DisksDiffer
    };
    let ranges: Vec<_> = runs.iter().map(|run| lengths[0].bytes_of(run)).collect();
    let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let shown = if json {
        let shown = ranges.iter().take(RANGES_SHOWN_MAX);
        let shown = shown.map(|range| json!({ "offset": range.start, "bytes": range.end - range.start }));
        let mut told = done(code);
        told["lengths"] = json!(lengths.map(ImageLength::bytes));
        told["differing_bytes"] = json!(bytes);
        told["range_count"] = json!(ranges.len());
        told["ranges"] = shown.collect();
        writeln!(output, "{told}")
    } else if lengths[0] != lengths[1] {
        writeln!(
            output,
            "they have {} and {} bytes",
            lengths[0].bytes(),
            lengths[1].bytes()
        )
    } else if is_equal {
        writeln!(output, "they are equal: content {}", trees[0].content_root())
    } else {
        let mut text = String::new();
        for range in ranges.iter().take(RANGES_SHOWN_MAX) {
            text += &format!("{:>16}  {}\n", range.start, HumanBytes(range.end - range.start));
        }
        writeln!(
            output,
            "{text}they differ in {} ranges, {} in all",
            ranges.len(),
            HumanBytes(bytes)
        )
    };
    written(shown).map(|()| code)
}

/// The leaves, in rows, in which two images of one length differ.
fn differing(trees: &[Tree; 2], paths: [&Path; 2]) -> Result<Vec<Run>, Failure> {
    let length = trees[0].length();
    let mut runs: Vec<Run> = Vec::new();
    for region in 0..length.regions() {
        if trees[0].region(region) == trees[1].region(region) {
            continue;
        }
        let one = leaves(&trees[0], region, paths[0])?;
        let other = leaves(&trees[1], region, paths[1])?;
        for (leaf, pair) in length.leaves_of(region).indices().zip(one.iter().zip(&other)) {
            if pair.0 == pair.1 {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end() == leaf => run.count += 1,
                _ => runs.push(Run::new(leaf, 1)),
            }
        }
    }
    Ok(runs)
}

fn leaves(tree: &Tree, region: u64, path: &Path) -> Result<Vec<Value>, Failure> {
    if let Some(kept) = tree.leaves_of(region) {
        return Ok(kept.to_vec());
    }
    let image = FileImage::open(path, Access::Read)?;
    let found = hash_region(&image, region, Wanted::Content, &mut Vec::new());
    found
        .map(|found| found.leaves)
        .map_err(|error| unreadable(path, error))
}
