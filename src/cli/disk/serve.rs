//! `disk serve`: the end that waits.
//!
//! ```text
//!   accept ──▶ a thread for each handshake, few at a time ──▶ one session after the other
//! ```
//!
//! A connection whose other end says nothing, or that slowly, holds up nobody: who it is is found out beside the
//! sessions, and only who has proven itself gets one. What it wants, a peer says first.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use antipode_certs::PeerRule;
use antipode_certs::tls::LiveCredentials;
use antipode_disk_sync::decision::Consent;
use antipode_disk_sync::disk::{Disk, Paths, be_compared, digest_for};
use antipode_disk_sync::image::{Access, FileImage};
use antipode_disk_sync::protocol::{Clock, Digested, Link, Options, Report, Role, Wish, hear, refuse};
use antipode_disk_sync::tree::Threads;
use serde_json::json;

use super::request::Proven;
use super::sync::{as_json, credentials};
use super::{Monotonic, diff, done, failures, seconds};
use crate::base::callers::take_calls;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, Problem, written};
use crate::cli::run::host_failure;

/// Connections whose other end has not yet proven who it is; further ones are closed. Each has 20 s, however it spends them.
const HANDSHAKES_MAX: usize = 16;

/// What `disk serve` was asked for.
pub(super) struct Service<'a> {
    pub(super) paths: &'a Paths,
    /// None if `digest` and `diff` alone are served.
    pub(super) role: Option<Role>,
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
        let served = link.and_then(|link| serve_one(service, link));
        let took = Monotonic.now().saturating_sub(begun);
        match served {
            Ok(served) => {
                let told = if json {
                    writeln!(output, "{}", served.as_json(took))
                } else {
                    let what = served.what();
                    writeln!(output, "{from}: done in {:.1} s ({what})", took.as_secs_f64())
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

/// What a peer has got.
enum Served {
    Session(Report),
    Digest(Digested),
}

impl Served {
    fn what(&self) -> &'static str {
        match self {
            Self::Session(report) => report.finish.decision.map_or("compared", |found| found.reason),
            Self::Digest(_) => "digested",
        }
    }

    fn as_json(&self, took: Duration) -> serde_json::Value {
        match self {
            Self::Session(report) => as_json(report, ExitCode::Done, took),
            Self::Digest(found) => {
                let mut told = done(ExitCode::Done);
                told["content"] = json!(found.content.to_string());
                told["seconds"] = json!(seconds(took));
                told
            }
        }
    }
}

fn serve_one(service: &Service<'_>, link: Link) -> Result<Served, Failure> {
    let peer = link.peer().map(ToString::to_string);
    let (wish, link) = hear(link)?;
    tracing::info!(?peer, ?wish, "a session begins");
    match (wish, service.role) {
        (Wish::Sync, Some(role)) => {
            let (disk, link) = opened(link, Disk::open(service.paths.clone(), role, false))?;
            let options = Options {
                consent: Consent::default(),
                dry_run: false,
                compress: true,
                bytes_per_second: service.bytes_per_second,
                threads: Threads::all(),
            };
            let report = disk.run(role, link, &options, &Monotonic, &mut |_| ())?;
            Ok(Served::Session(report))
        }
        (Wish::Sync, None) => {
            let what = "this image is served for `disk digest` and `disk diff` alone";
            refuse(link, what);
            let problem = Problem::new(what, "start `disk serve` with --as source or --as target");
            Err(Failure::new(ExitCode::SyncRefused, problem))
        }
        (Wish::Compare, _) => {
            let image = FileImage::open(&service.paths.image, Access::Read);
            let (image, link) = opened(link, image)?;
            let report = be_compared(&image, link, &diff::options(), &Monotonic)?;
            Ok(Served::Session(report))
        }
        (Wish::Digest(request), _) => {
            let found = digest_for(service.paths, request, link, Threads::all(), &Monotonic)?;
            Ok(Served::Digest(found))
        }
    }
}

/// What was to be opened for a peer, which is told if it cannot be.
fn opened<T, E: Into<Failure> + ToString>(link: Link, outcome: Result<T, E>) -> Result<(T, Link), Failure> {
    match outcome {
        Ok(opened) => Ok((opened, link)),
        Err(error) => {
            refuse(link, &error.to_string());
            Err(error.into())
        }
    }
}
