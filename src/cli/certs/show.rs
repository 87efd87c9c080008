//! `certs show` and `verify`: what reads files.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use antipode_certs::{
    Certificate, Credentials, FileError, FileFault, Holder, Part, Paths, PeerRule, Standing, UnixTime,
    read_certificates,
};
use serde_json::{Value, json};

use super::{certificate_json, holder_text, problem_of};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, written};

/// Shows every certificate that can be read, then fails if any could not.
pub(super) fn show(
    paths: &[PathBuf],
    now: UnixTime,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let (found, failure) = read_all(paths);
    if json {
        let mut told = failure.as_ref().map_or_else(done, Failure::as_json);
        told["certificates"] = found
            .iter()
            .map(|(file, certificate)| certificate_json(file, certificate, now))
            .collect();
        written(writeln!(output, "{told}"))?;
        return Ok(failure.map_or(ExitCode::Done, |failure| failure.code()));
    }
    for (file, certificate) in &found {
        written(show_one(file, certificate, now, output))?;
    }
    failure.map_or(Ok(ExitCode::Done), Err)
}

/// Every certificate at `paths` with its file, and what could not be read.
fn read_all(paths: &[PathBuf]) -> (Vec<(PathBuf, Certificate)>, Option<Failure>) {
    let (mut found, mut failure) = (Vec::new(), None);
    for path in paths {
        let read = files_at(path).map_or_else(
            |error| vec![Err(error)],
            |files| {
                files
                    .into_iter()
                    .map(|file| Ok((read_certificates(&file)?, file)))
                    .collect()
            },
        );
        for outcome in read {
            match outcome {
                Ok((certificates, file)) => {
                    found.extend(
                        certificates
                            .into_iter()
                            .map(|certificate| (file.clone(), certificate)),
                    );
                }
                Err(error) => failure = Some(with(failure, error)),
            }
        }
    }
    (found, failure)
}

fn done() -> Value {
    json!({ "ok": true, "exit_code": ExitCode::Done.number(), "exit_name": ExitCode::Done.name() })
}

fn with(failure: Option<Failure>, error: FileError) -> Failure {
    match failure {
        Some(failure) => failure.and(problem_of(&error)),
        None => Failure::from(error),
    }
}

/// The file at `path`, or the certificate files in the folder there, in the order of their names.
fn files_at(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |error| FileError {
        path: path.to_owned(),
        part: Part::Credentials(None),
        fault: FileFault::Unreadable(error),
    };
    let entries = fs::read_dir(path).map_err(unreadable)?;
    let entries: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut files = entries.map_err(unreadable)?;
    files.retain(|file| [Some("crt"), Some("pem")].contains(&file.extension().and_then(OsStr::to_str)));
    files.sort();
    if files.is_empty() {
        return Err(FileError {
            path: path.join("*.pem"),
            part: Part::Credentials(None),
            fault: FileFault::Missing,
        });
    }
    Ok(files)
}

fn show_one(file: &Path, certificate: &Certificate, now: UnixTime, output: &mut dyn Write) -> io::Result<()> {
    let validity = certificate.validity();
    writeln!(output, "{}", file.display())?;
    writeln!(output, "  holder:      {}", holder_text(certificate))?;
    writeln!(output, "  signed by:   {}", certificate.issuer())?;
    writeln!(output, "  validity:    {}", validity.in_words(now))?;
    writeln!(output, "  serial:      {}", certificate.serial())?;
    writeln!(output, "  fingerprint: sha256 {}", certificate.fingerprint())?;
    if matches!(validity.at(now), Standing::Ending | Standing::Over) {
        writeln!(output, "  do:          {}", renewal(certificate, file))?;
    }
    Ok(())
}

/// How to renew what `certificate` is.
fn renewal(certificate: &Certificate, file: &Path) -> String {
    match certificate.holder() {
        Holder::Authority(_) => {
            "make a new CA with `antipode certs init`; docs/certificates.md says how to change over"
                .to_owned()
        }
        Holder::Leaf(_) => format!("antipode certs renew {} --ca FOLDER", file.display()),
    }
}

/// Checks credentials as a daemon would, and warns of an end that is near.
pub(super) fn verify(
    paths: &Paths,
    rule: &PeerRule,
    now: UnixTime,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let credentials = Credentials::load(paths, rule, now)?;
    let certificate = credentials.certificate();
    let signer = |authority: &&Certificate| holder_text(authority) == certificate.issuer();
    let checked: Vec<(&Path, &Certificate)> = std::iter::once((paths.credentials.as_path(), certificate))
        .chain(
            credentials
                .trust()
                .authorities()
                .iter()
                .filter(signer)
                .map(|authority| (paths.trust.as_path(), authority)),
        )
        .collect();
    let ends_soon =
        |(_, certificate): &(&Path, &Certificate)| certificate.validity().at(now) == Standing::Ending;
    let code = if checked.iter().any(ends_soon) {
        ExitCode::ExpiresSoon
    } else {
        ExitCode::Done
    };
    let shown = if json {
        let certificates: Vec<Value> = checked
            .iter()
            .map(|(file, certificate)| certificate_json(file, certificate, now))
            .collect();
        let told = json!({
            "ok": code == ExitCode::Done,
            "exit_code": code.number(),
            "exit_name": code.name(),
            "certificates": certificates,
        });
        writeln!(output, "{told}")
    } else {
        tell_verified(&checked, now, output)
    };
    written(shown).map(|()| code)
}

fn tell_verified(checked: &[(&Path, &Certificate)], now: UnixTime, output: &mut dyn Write) -> io::Result<()> {
    for (file, certificate) in checked {
        let validity = certificate.validity();
        writeln!(
            output,
            "good: {}  {}, {}",
            file.display(),
            holder_text(certificate),
            validity.in_words(now)
        )?;
        if validity.at(now) == Standing::Ending {
            writeln!(output, "  do: {}", renewal(certificate, file))?;
        }
    }
    Ok(())
}
