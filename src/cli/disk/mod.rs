//! `antipode disk`: the replicas of a VM's disk (D6).
//!
//! `show` and `diff` read (info, digest; diff); `sync` moves data (sync, verify), and `serve` is its far end. What goes wrong is told
//! in `failures`.

mod args;
mod diff;
pub(super) mod failures;
mod progress;
mod request;
mod serve;
mod show;
mod sync;

use std::io::Write;
use std::time::Duration;

use antipode_disk_sync::disk::{self, NewDisk, Paths};
use antipode_disk_sync::protocol::Clock;
use antipode_disk_sync::replica::{GenerationId, ReplicaId, VmId};
use serde_json::{Value, json};

use super::exit_code::ExitCode;
use super::failure::{Failure, Problem, written};
use crate::base::clock::{HostClock, SystemClock};
use crate::machine::workers::HostEntropy;

pub(super) use args::DiskCommand;
pub(super) use request::{Request, resolve};

/// Carries out `request`.
pub(super) fn disk(request: &Request, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    match request {
        Request::Create {
            paths,
            vm,
            size,
            is_empty,
        } => create(paths, vm, *size, *is_empty, json, output),
        Request::Info(paths) => show::info(paths, json, output),
        Request::Digest { place, request } => show::digest(place, *request, json, output),
        Request::Diff(diff) => diff::diff(diff, json, output),
        Request::Sync(sync) => sync::sync(sync, json, output),
        Request::Serve {
            paths,
            role,
            listen,
            once,
            bytes_per_second,
            proof,
        } => {
            let service = serve::Service {
                paths,
                role: *role,
                listen,
                once: *once,
                bytes_per_second: *bytes_per_second,
                proof,
            };
            serve::serve(&service, json, output)
        }
    }
}

fn create(
    paths: &Paths,
    vm: &VmId,
    size: Option<u64>,
    is_empty: bool,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let replica = ReplicaId(draw()?);
    // An image that is made now holds zeros, and those are what its VM begins with unless it shall be a copy.
    let content = if is_empty {
        None
    } else {
        Some(GenerationId(draw()?))
    };
    let new = NewDisk {
        vm: vm.clone(),
        replica,
        content,
        size,
    };
    disk::create(paths, new)?;
    let shown = if json {
        let mut told = done(ExitCode::Done);
        told["image"] = json!(paths.image);
        told["metadata"] = json!(paths.metadata);
        told["replica"] = json!(replica.to_string());
        told["generation"] = json!(content.map(|content| content.to_string()));
        writeln!(output, "{told}")
    } else {
        let what = if is_empty { "to become a copy" } else { "clean" };
        writeln!(
            output,
            "{}  replica {replica} of {vm}, {what}",
            paths.metadata.display()
        )
    };
    written(shown).map(|()| ExitCode::Done)
}

/// Sixteen bytes that nobody has drawn before.
fn draw() -> Result<[u8; 16], Failure> {
    HostEntropy::draw().map_err(|error| {
        let problem = Problem::new(format!("no random bytes: {error}"), ExitCode::HostIo.remedy());
        Failure::new(ExitCode::HostIo, problem)
    })
}

/// What every answer in JSON begins with.
fn done(code: ExitCode) -> Value {
    json!({ "ok": code == ExitCode::Done, "exit_code": code.number(), "exit_name": code.name() })
}

/// The host's monotonic clock, for rates.
#[derive(Debug, Clone, Copy)]
struct Monotonic;

impl Clock for Monotonic {
    fn now(&self) -> Duration {
        Duration::from_nanos(SystemClock.monotonic_ns())
    }
}

/// A span of time as JSON shows it, in seconds.
fn seconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e6
}
