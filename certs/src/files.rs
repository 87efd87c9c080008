//! Files on disk: their names, and writing them so that a crash leaves the old file or the new one, whole.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::identity::Identity;

/// The CA certificates that a host trusts. Public.
pub const TRUST_FILE: &str = "ca.crt";

/// The CA's private key. It stays where certificates are issued.
pub const AUTHORITY_KEY_FILE: &str = "ca.key";

const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// The file name of `identity`'s certificate and key: `site-berlin.pem`.
#[must_use]
pub fn credentials_file(identity: &Identity) -> String {
    format!("{}-{}.pem", identity.role, identity.name)
}

/// What becomes of a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and writing fails with [`WriteError::Exists`].
    Keep,
    /// It is replaced in one step.
    Replace,
}

/// A file that was not written. What was there before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is one already.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// The host refused.
    #[error("{} cannot be written: {source}", path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Writes a file that anyone may read. See [`Existing`] for one that is there already.
///
/// # Errors
/// Where the file exists and is to be kept, or the host refuses; nothing has changed then.
pub fn write_public(path: &Path, text: &str, existing: Existing) -> Result<(), WriteError> {
    write(path, text.as_bytes(), PUBLIC, existing)
}

/// Writes a file that only its owner may read.
pub(crate) fn write_secret(path: &Path, text: &str, existing: Existing) -> Result<(), WriteError> {
    write(path, text.as_bytes(), SECRET, existing)
}

/// A temporary file beside the target, made durable before it takes the target's name; then the name itself.
fn write(path: &Path, bytes: &[u8], mode: u32, existing: Existing) -> Result<(), WriteError> {
    let refused = |source: io::Error| WriteError::Refused {
        path: path.to_owned(),
        source,
    };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // First of all: a folder that is not there is told as that, not by the name of the temporary file.
    let opened = File::open(folder).map_err(refused)?;
    let mut builder = tempfile::Builder::new();
    builder
        .prefix(".antipode-")
        .permissions(Permissions::from_mode(SECRET));
    let mut file = builder.tempfile_in(folder).map_err(refused)?;
    file.write_all(bytes).map_err(refused)?;
    // The file is made secret and opened up after: the process's umask has no say in it.
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))
        .map_err(refused)?;
    file.as_file().sync_all().map_err(refused)?;
    match existing {
        Existing::Replace => file.persist(path),
        Existing::Keep => file.persist_noclobber(path),
    }
    .map_err(|failed| match failed.error.kind() {
        io::ErrorKind::AlreadyExists => WriteError::Exists(path.to_owned()),
        _ => refused(failed.error),
    })?;
    opened.sync_all().map_err(refused)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_is_kept_or_replaced_as_asked_and_nothing_else_stays_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site-a.pem");
        write_secret(&path, "one", Existing::Keep).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(matches!(
            write_secret(&path, "two", Existing::Keep),
            Err(WriteError::Exists(at)) if at == path
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        write_secret(&path, "three", Existing::Replace).unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), mode(&path)),
            ("three", 0o600)
        );
        let public = folder.path().join("ca.crt");
        write_public(&public, "four", Existing::Keep).unwrap();
        assert_eq!(mode(&public), 0o644);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_the_host_refuses_is_told_with_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none/site-a.pem");
        let error = write_secret(&path, "one", Existing::Replace).unwrap_err();
        let said = error.to_string();
        assert!(
            said.ends_with("none/site-a.pem cannot be written: No such file or directory (os error 2)"),
            "{said}"
        );
    }
}
