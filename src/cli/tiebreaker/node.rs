//! A node's beginning, life and end.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use antipode_tiebreaker::service::{self, Backup, BackupError, ServiceSettings, Surroundings};
use antipode_tiebreaker::store::Owner;
use serde_json::json;
use tokio::sync::oneshot;

use super::{PATIENCE, answer, runtime};
use crate::base::entropy::EntropySource;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, written};
use crate::cli::run::{host_failure, open_entropy};
use crate::cli::signals::Signals;
use crate::cli::time_of_day::TimeOfDay;

pub(super) fn init(
    settings: &ServiceSettings,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let owner = runtime()?.block_on(service::init(settings, &surroundings()?))?;
    told(&owner, settings, json, output)
}

pub(super) fn rejoin(
    settings: &ServiceSettings,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let owner = runtime()?.block_on(service::rejoin(settings, &surroundings()?, PATIENCE))?;
    told(&owner, settings, json, output)
}

pub(super) fn restore(
    settings: &ServiceSettings,
    file: &Path,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let owner = service::restore(settings, read_backup(file)?)?;
    told(&owner, settings, json, output)
}

/// Serves until a signal comes.
pub(super) fn run(
    settings: &ServiceSettings,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let signals = Signals::block()?;
    let (ready, is_ready) = oneshot::channel();
    let (end, is_over) = oneshot::channel::<()>();
    signals.once(move || {
        // Nobody there to be told: it is over already.
        let _ = end.send(());
    });
    let serving = service::serve(settings.clone(), surroundings()?, ready, async {
        let _ = is_over.await;
    });
    let telling = async {
        let Ok(address) = is_ready.await else {
            return Ok(());
        };
        let name = &settings.name;
        tracing::info!("node {name} listens on {address}");
        written(
            if json {
                writeln!(
                    output,
                    "{}",
                    json!({ "ready": true, "name": name, "listen": address.to_string() })
                )
            } else {
                writeln!(
                    output,
                    "node {name} of cluster {} listens on {address}",
                    settings.cluster
                )
            }
            .and_then(|()| output.flush()),
        )
    };
    let (served, is_told) = runtime()?.block_on(async { tokio::join!(serving, telling) });
    served?;
    is_told?;
    if json {
        written(writeln!(output, "{}", answer(ExitCode::Done)))?;
    }
    Ok(ExitCode::Done)
}

fn surroundings() -> Result<Surroundings, Failure> {
    let mut seed = [0; 8];
    let drawn = open_entropy()?.fill(&mut seed);
    drawn.map_err(|error| host_failure("drawing a random number", error))?;
    Ok(Surroundings {
        clock: Arc::new(TimeOfDay),
        seed: u64::from_be_bytes(seed),
    })
}

fn told(
    owner: &Owner,
    settings: &ServiceSettings,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let code = ExitCode::Done;
    let data = settings.data.display();
    written(if json {
        let mut told = answer(code);
        told["node"] = json!(owner);
        told["data"] = json!(settings.data);
        writeln!(output, "{told}")
    } else {
        let Owner {
            cluster, name, id, ..
        } = owner;
        writeln!(
            output,
            "node {name} of cluster {cluster} has id {id}; its data is in {data}"
        )
    })?;
    Ok(code)
}

fn read_backup(path: &Path) -> Result<Backup, Failure> {
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| file.take(Backup::BYTES_MAX as u64 + 1).read_to_string(&mut text));
    read.map_err(|error| host_failure(&format!("reading the backup {}", path.display()), error))?;
    Backup::from_json(&text).map_err(|error: BackupError| Failure::from(error))
}
