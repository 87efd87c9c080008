//! `antipode certs`: a private CA and the certificates it issues, for hosts and people (S1).
//!
//! `make` writes files (init, issue, renew), `show` reads them (show, verify). Nothing is overwritten but by `renew`,
//! which checks every file that was named before it replaces the first.

mod args;
mod make;
mod request;
mod show;

use std::io::Write;

use antipode_certs::{Certificate, FileError, Holder, IssueError, UnixTime, WriteError};
use serde_json::{Value, json};

use super::exit_code::ExitCode;
use super::failure::{Failure, Problem};
use crate::base::clock::wall_clock_unix_seconds;

pub(super) use args::CertsCommand;
pub(super) use request::{Request, resolve};

/// Carries out `request`.
pub(super) fn certs(request: &Request, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let now = UnixTime::from_seconds(wall_clock_unix_seconds());
    match request {
        Request::Init { folder, days } => make::init(folder, *days, now, json, output),
        Request::Issue {
            identity,
            ca,
            into,
            days,
        } => {
            let place = make::Place {
                ca,
                into: into.as_deref().unwrap_or(ca),
            };
            make::issue(identity, place, *days, now, json, output)
        }
        Request::Show(paths) => show::show(paths, now, json, output),
        Request::Renew { files, ca, days } => make::renew(files, ca, *days, now, json, output),
        Request::Verify { paths, rule } => show::verify(paths, rule, now, json, output),
    }
}

/// A certificate as JSON. Moments are seconds since 1970 and, for people, text.
fn certificate_json(file: &std::path::Path, certificate: &Certificate, now: UnixTime) -> Value {
    let validity = certificate.validity();
    let mut value = json!({
        "file": file,
        "issuer": certificate.issuer(),
        "serial": certificate.serial(),
        "sha256": certificate.fingerprint(),
        "not_before": validity.not_before.seconds(),
        "not_after": validity.not_after.seconds(),
        "standing": validity.at(now).name(),
        "validity": validity.in_words(now).to_string(),
    });
    match certificate.holder() {
        Holder::Authority(name) => {
            value["role"] = "ca".into();
            value["name"] = name.as_str().into();
        }
        Holder::Leaf(identity) => {
            value["role"] = identity.role.name().into();
            value["name"] = identity.name.as_str().into();
            value["uri"] = identity.to_string().into();
        }
    }
    value
}

/// Whom a certificate is for, in text.
fn holder_text(certificate: &Certificate) -> String {
    match certificate.holder() {
        Holder::Authority(name) => name.clone(),
        Holder::Leaf(identity) => identity.to_string(),
    }
}

fn problem_of(error: &FileError) -> Problem {
    let FileError { path, part, fault } = error;
    Problem::new(format!("{part}: {fault}"), fault.mend()).at(path.display().to_string())
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::new(ExitCode::CertsRefused, problem_of(&error))
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Exists(path) => {
                let problem = Problem::new(
                    "there is such a file already, and it is not overwritten",
                    "name another place or move it away; a certificate is replaced by `antipode certs renew`",
                );
                Self::new(ExitCode::FileExists, problem.at(path.display().to_string()))
            }
            WriteError::Refused { path, source } => {
                let problem = Problem::new(
                    format!("the file cannot be written: {source}"),
                    "name an existing folder that this user may write to, with room on its disk",
                );
                Self::new(ExitCode::HostIo, problem.at(path.display().to_string()))
            }
        }
    }
}

impl From<IssueError> for Failure {
    fn from(error: IssueError) -> Self {
        let (code, mend) = match error {
            IssueError::OutlivesAuthority { .. } => (
                ExitCode::CertsRefused,
                "give fewer --days, or make a new CA in another folder with `antipode certs init`",
            ),
            IssueError::Failed(_) => (ExitCode::Internal, "report this as a defect"),
        };
        Self::new(code, Problem::new(error.to_string(), mend))
    }
}
