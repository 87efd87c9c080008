//! `certs init`, `issue`, `renew`: what writes files.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use antipode_certs::{
    AUTHORITY_KEY_FILE, Authority, AuthorityDays, Certificate, Existing, FileError, FileFault, Identity,
    Issued, LeafDays, Part, TRUST_FILE, Trust, UnixTime, WriteError, write_public,
};
use serde_json::json;

use super::{certificate_json, holder_text};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, written};

/// Makes a CA in `folder`, which nobody else may look into if it is made here.
pub(super) fn init(
    folder: &Path,
    days: AuthorityDays,
    now: UnixTime,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(folder);
    made.map_err(|source| WriteError::Refused {
        path: folder.to_owned(),
        source,
    })?;
    let authority = Authority::create(days, now)?;
    authority.save(folder)?;
    let (key, trust) = (folder.join(AUTHORITY_KEY_FILE), folder.join(TRUST_FILE));
    let certificate = authority.certificate();
    let shown = if json {
        told_as_json(&[(&trust, certificate)], now, output)
    } else {
        writeln!(
            output,
            "{} {}",
            holder_text(certificate),
            certificate.validity().in_words(now)
        )
        .and_then(|()| {
            writeln!(
                output,
                "  {}  keep it to yourself: who has it can be anyone",
                key.display()
            )
        })
        .and_then(|()| writeln!(output, "  {}  goes to every host", trust.display()))
    };
    written(shown).map(|()| ExitCode::Done)
}

/// Where `issue` finds the CA, and where it writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) ca: &'a Path,
    pub(super) into: &'a Path,
}

/// Issues a certificate for `identity`, and puts the CA's certificate beside it.
pub(super) fn issue(
    identity: &Identity,
    place: Place<'_>,
    days: LeafDays,
    now: UnixTime,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let authority = Authority::load(place.ca, now)?;
    let issued = authority.issue(identity, days, now)?;
    let path = place.into.join(issued.file_name());
    copy_trust(place)?;
    issued.save(&path, Existing::Keep)?;
    let shown = if json {
        told_as_json(&[(&path, issued.certificate())], now, output)
    } else {
        tell(&path, issued.certificate(), now, output)
    };
    written(shown).map(|()| ExitCode::Done)
}

/// Replaces the certificates and keys in `files` by new ones for the same holders: all are checked and made before
/// the first is replaced.
pub(super) fn renew(
    files: &[PathBuf],
    ca: &Path,
    days: LeafDays,
    now: UnixTime,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let authority = Authority::load(ca, now)?;
    let trust = Trust::load(&ca.join(TRUST_FILE), now)?;
    let mut renewed: Vec<(&PathBuf, Issued)> = Vec::new();
    for file in files {
        let identity = Authority::renewable(file, &trust)?;
        renewed.push((file, authority.issue(&identity, days, now)?));
    }
    for (path, issued) in &renewed {
        issued.save(path, Existing::Replace)?;
        if !json {
            written(tell(path, issued.certificate(), now, output))?;
        }
    }
    if json {
        let certificates: Vec<(&Path, &Certificate)> = renewed
            .iter()
            .map(|(path, issued)| (path.as_path(), issued.certificate()))
            .collect();
        written(told_as_json(&certificates, now, output))?;
    }
    Ok(ExitCode::Done)
}

/// The trust file beside the new certificate. One that is there already must say the same.
fn copy_trust(place: Place<'_>) -> Result<(), Failure> {
    let (from, to) = (place.ca.join(TRUST_FILE), place.into.join(TRUST_FILE));
    let unreadable = |path: &Path, error| FileError {
        path: path.to_owned(),
        part: Part::Trust,
        fault: FileFault::Unreadable(error),
    };
    let ours = fs::read_to_string(&from).map_err(|error| unreadable(&from, error))?;
    match fs::read_to_string(&to) {
        Ok(theirs) if theirs == ours => Ok(()),
        Ok(_) => Err(WriteError::Exists(to).into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(write_public(&to, &ours, Existing::Keep)?)
        }
        Err(error) => Err(unreadable(&to, error).into()),
    }
}

fn tell(path: &Path, certificate: &Certificate, now: UnixTime, output: &mut dyn Write) -> io::Result<()> {
    writeln!(
        output,
        "{}  {}, {}",
        path.display(),
        holder_text(certificate),
        certificate.validity().in_words(now)
    )
}

fn told_as_json(
    certificates: &[(impl AsRef<Path>, &Certificate)],
    now: UnixTime,
    output: &mut dyn Write,
) -> io::Result<()> {
    let certificates: Vec<_> = certificates
        .iter()
        .map(|(path, certificate)| certificate_json(path.as_ref(), certificate, now))
        .collect();
    let code = ExitCode::Done;
    let told = json!({
        "ok": true,
        "exit_code": code.number(),
        "exit_name": code.name(),
        "certificates": certificates,
    });
    writeln!(output, "{told}")
}
