//! `disk info` and `disk digest`: what only reads.

use std::io::{self, Write};
use std::path::Path;

use antipode_disk_sync::disk::{self, DigestError, DiskInfo, Paths};
use antipode_disk_sync::protocol::{Clock, DigestRequest, RunError, ask_digest};
use antipode_disk_sync::replica::State;
use antipode_disk_sync::tree::{HashError, Threads};
use antipode_disk_sync::units::LEAF_BYTES;
use indicatif::HumanBytes;
use serde_json::json;

use super::progress::Bar;
use super::request::Place;
use super::sync::{connect, credentials};
use super::{Monotonic, done, seconds};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, Problem, written};

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
    told["hot_bytes"] = json!(metadata.hot_bytes());
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
            "  in use, or its user died; {} unsure",
            HumanBytes(metadata.hot_bytes())
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
    place: &Place<Paths>,
    request: DigestRequest,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let begun = Monotonic.now();
    let bar = Bar::new("hashing", 0, json);
    let (found, name) = match place {
        Place::Here(paths) => {
            let progress = |bytes| {
                bar.advance(bytes);
                true
            };
            let mut begins = |bytes| bar.set_length(bytes);
            let found = disk::digested(paths, request, Threads::all(), &mut begins, &progress);
            let found = found.map_err(|error| match error {
                DigestError::Image(error) => error.into(),
                DigestError::Hash(error) => unreadable(&paths.image, error),
            })?;
            (found, paths.image.display().to_string())
        }
        Place::There(far) => {
            let link = connect(far, &credentials(&far.proof)?)?;
            let found = ask_digest(link, request, &Monotonic, &mut |done, of| bar.set(done, of))?;
            (found, far.to_string())
        }
    };
    drop(bar);
    let took = Monotonic.now().saturating_sub(begun);
    let plain = found.plain.map(|plain| blake3::Hash::from(plain).to_string());
    let shown = if json {
        let mut told = done(ExitCode::Done);
        told["image"] = json!(name);
        told["bytes"] = json!(found.bytes);
        told["bytes_hashed"] = json!(found.bytes_hashed);
        told["blake3"] = json!(plain);
        told["content"] = json!(found.content.to_string());
        told["seconds"] = json!(seconds(took));
        writeln!(output, "{told}")
    } else {
        let plain = plain.map(|plain| format!("blake3  {plain}\n"));
        writeln!(output, "{}content {}", plain.unwrap_or_default(), found.content)
    };
    written(shown).map(|()| ExitCode::Done)
}

fn unreadable(path: &Path, error: HashError) -> Failure {
    let problem = Problem::new(RunError::Hash(error).to_string(), ExitCode::HostIo.remedy());
    Failure::new(ExitCode::HostIo, problem.at(path.display().to_string()))
}
