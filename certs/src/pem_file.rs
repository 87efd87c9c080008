//! Reading PEM files: bounded, and with an eye on who else can read them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::certificate::Certificate;
use crate::fault::{FileError, FileFault, Part};
use crate::limits::FILE_BYTES_MAX;

/// Who may have access to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exposure {
    /// Its owner alone.
    Secret,
    /// Its owner alone if a private key is in it, else anyone.
    SecretIfKeys,
    /// Anyone: of a file whose key is not used.
    Any,
}

/// What a PEM file holds, and what its messages need.
#[derive(Debug)]
pub(crate) struct PemFile {
    path: PathBuf,
    part: Part,
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) keys: Vec<PrivateKeyDer<'static>>,
}

impl PemFile {
    /// Reads the file at `path`, which is meant to be a `part`.
    pub(crate) fn read(path: &Path, part: Part, exposure: Exposure) -> Result<Self, FileError> {
        let failed = |fault| FileError {
            path: path.to_owned(),
            part,
            fault,
        };
        let (bytes, mode) = read_bounded(path).map_err(&failed)?;
        let exposed = mode & 0o077 != 0;
        if exposed && exposure == Exposure::Secret {
            return Err(failed(FileFault::Exposed { mode }));
        }
        let certificates = sections(CertificateDer::pem_slice_iter(&bytes)).map_err(&failed)?;
        let keys = sections(PrivateKeyDer::pem_slice_iter(&bytes)).map_err(&failed)?;
        if exposed && !keys.is_empty() && exposure == Exposure::SecretIfKeys {
            return Err(failed(FileFault::Exposed { mode }));
        }
        Ok(Self {
            path: path.to_owned(),
            part,
            certificates,
            keys,
        })
    }

    /// This file's error for `fault`.
    pub(crate) fn error(&self, fault: impl Into<FileFault>) -> FileError {
        FileError {
            path: self.path.clone(),
            part: self.part,
            fault: fault.into(),
        }
    }

    /// The error of a file that should hold `expected`.
    pub(crate) fn content_error(&self, expected: &'static str) -> FileError {
        self.error(FileFault::Content {
            expected,
            certificates: self.certificates.len(),
            keys: self.keys.len(),
        })
    }

    /// Its certificates, parsed.
    pub(crate) fn parse_certificates(&self) -> Result<Vec<Certificate>, FileError> {
        let parsed = self.certificates.iter().map(|der| Certificate::parse(der));
        parsed
            .collect::<Result<_, _>>()
            .map_err(|fault| self.error(fault))
    }
}

/// The file's bytes and permission bits, both of the same open file.
fn read_bounded(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), FileFault> {
    let unusable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => FileFault::Missing,
        _ => FileFault::Unreadable(error),
    };
    // Looked at before it is opened: opening a pipe would wait for a writer.
    if !fs::metadata(path).map_err(unusable)?.is_file() {
        return Err(FileFault::NotAFile);
    }
    let file = File::open(path).map_err(unusable)?;
    let mode = file.metadata().map_err(unusable)?.mode() & 0o7777;
    let mut bytes = Zeroizing::new(Vec::new());
    let read = file
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unusable)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(FileFault::TooLarge);
    }
    Ok((bytes, mode))
}

fn sections<T>(
    found: impl Iterator<Item = Result<T, rustls::pki_types::pem::Error>>,
) -> Result<Vec<T>, FileFault> {
    found
        .collect::<Result<_, _>>()
        .map_err(|_| FileFault::NotPem("a section is broken or cut short"))
}
