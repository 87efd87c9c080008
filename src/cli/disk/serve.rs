//! `disk serve`: the end that waits.
//!
//! ```text
//!   accept ──▶ a thread for each handshake, few at a time ──▶ one session after the other
//! ```
//!
//! A connection whose other end says nothing, or that slowly, holds up nobody: who it is is found out beside the
//! sessions, and only who has proven itself gets one.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use antipode_certs::PeerRule;
use antipode_certs::tls::LiveCredentials;
use antipode_disk_sync::decision::Consent;
use antipode_disk_sync::disk::{Disk, Paths};
use antipode_disk_sync::protocol::{Clock, Link, Options, Report, Role};
use antipode_disk_sync::tree::Threads;
use serde_json::json;

use super::request::Proven;
use super::sync::{as_json, credentials};
use super::{Monotonic, failures};
use crate::base::callers::take_calls;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, written};
use crate::cli::run::host_failure;

/// Connections whose other end has not yet proven who it is; further ones are closed. Each has 20 s, however it spends them.
const HANDSHAKES_MAX: usize = 16;

/// What `disk serve` was asked for.
pub(super) struct Service<'a> {
    pub(super) paths: &'a Paths,
    pub(super) role: Role,
    pub(super) listen: &'a str,
    pub(super) once: bool,
    pub(super) bytes_per_second: Option<u64>,
    pub(super) proof: &'a Proven,
}

/// Serves one session after the other. One that fails is told and does not end the service.
pub(super) fn serve(service: &Service<'_>, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let live = credentials(service.proof)?;
    let listener =
        TcpListener::bind(service.listen).map_err(|error| failures::of_listening(service.listen, &error))?;
    let address = listener
        .local_addr()
        .map_err(|error| host_failure("listening", error))?;
    // Told before anything else, so that a script that lets the host choose the port can read it.
    let told = if json {
        writeln!(output, "{}", json!({ "listening": address.to_string() }))
    } else {
        writeln!(output, "listening on {address}")
    };
    written(told.and_then(|()| output.flush()))?;
    let meetings = receive(listener, live, service.proof.rule.clone())
        .map_err(|error| host_failure("starting a thread", error))?;
    for Meeting { from, link } in meetings {
        let begun = Monotonic.now();
        let served = link.and_then(|link| session(service, link));
        let took = Monotonic.now().saturating_sub(begun);
        match served {
            Ok(report) => {
                let told = if json {
                    writeln!(output, "{}", as_json(&report, ExitCode::Done, took))
                } else {
                    let reason = report.finish.decision.reason;
                    writeln!(output, "{from}: done in {:.1} s ({reason})", took.as_secs_f64())
                };
                written(told.and_then(|()| output.flush()))?;
                if service.once {
                    break;
                }
            }
            Err(failure) if service.once => return Err(failure),
            Err(failure) => tracing::error!(%from, "{}", failure.as_json()["errors"]),
        }
    }
    Ok(ExitCode::Done)
}

/// A connection that came in: who has proven to be whom `disk serve` admits, or why not.
struct Meeting {
    from: SocketAddr,
    link: Result<Link, Failure>,
}

/// Takes connections, on threads of their own until the process ends.
fn receive(
    listener: TcpListener,
    live: Arc<LiveCredentials>,
    rule: PeerRule,
) -> std::io::Result<Receiver<Meeting>> {
    let (met, meetings) = channel();
    thread::Builder::new().name("accept".into()).spawn(move || {
        take_calls(&listener, HANDSHAKES_MAX, move |stream, from| {
            prove(stream, from, &live, rule.clone(), &met);
        })
    })?;
    Ok(meetings)
}

fn prove(
    stream: TcpStream,
    from: SocketAddr,
    live: &Arc<LiveCredentials>,
    rule: PeerRule,
    met: &Sender<Meeting>,
) {
    let link = Link::accept(stream, live, rule).map_err(|error| failures::of_link(&from.to_string(), &error));
    // Nobody waits any more once the service has ended.
    let _ = met.send(Meeting { from, link });
}

fn session(service: &Service<'_>, link: Link) -> Result<Report, Failure> {
    tracing::info!(peer = ?link.peer(), "a session begins");
    let disk = Disk::open(service.paths.clone(), service.role, false)?;
    let options = Options {
        consent: Consent::default(),
        dry_run: false,
        compress: true,
        bytes_per_second: service.bytes_per_second,
        threads: Threads::all(),
    };
    Ok(disk.run(service.role, link, &options, &Monotonic, &mut |_| ())?)
}
