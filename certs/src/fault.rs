//! What is wrong with a certificate or with a file that holds one. Each fault is a variant of its own, so that a
//! caller can act on it; each says what to do ([`CertificateFault::mend`], [`FileFault::mend`]).

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::identity::{Identity, Role};
use crate::limits::FILE_BYTES_MAX;
use crate::moment::UnixTime;

/// What is wrong with a certificate, in a file or from a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// Not a certificate of ours at all.
    #[error("it is no certificate of Antipode: {0}")]
    Malformed(&'static str),
    /// A CA's certificate where a holder's is needed.
    #[error("it is a CA's certificate, not one that a CA has issued")]
    IsAuthority,
    /// A holder's certificate where a CA's is needed.
    #[error("it is the certificate of {0}, not a CA's")]
    IsLeaf(Identity),
    /// No CA that is trusted here has signed it.
    #[error("it is not signed by the CA that is trusted here")]
    WrongAuthority,
    /// For another role.
    #[error("it is for {found}, but one for the role {} is needed", or_list(expected))]
    WrongRole {
        /// Roles that would do.
        expected: Vec<Role>,
        /// Whom it is for.
        found: Identity,
    },
    /// For another of the same role.
    #[error("it is for {found}, but {expected} is needed")]
    WrongName {
        /// Who is expected.
        expected: Identity,
        /// Whom it is for.
        found: Identity,
    },
    /// Its life is over.
    #[error("it expired at {since}")]
    Expired {
        /// Its last second.
        since: UnixTime,
    },
    /// Its life has not begun.
    #[error("it is not valid before {from}")]
    NotYetValid {
        /// Its first second.
        from: UnixTime,
    },
}

fn or_list(roles: &[Role]) -> String {
    let names: Vec<&str> = roles.iter().map(|role| role.name()).collect();
    names.join(" or ")
}

impl CertificateFault {
    /// What to do next.
    #[must_use]
    pub fn mend(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::IsAuthority | Self::WrongRole { .. } | Self::WrongName { .. } => {
                "name the right file, or make one with `antipode certs issue`"
            }
            Self::IsLeaf(_) => "name the CA's file, ca.crt",
            Self::WrongAuthority => {
                "use the ca.crt of the CA that issued it, or issue it anew with the CA that is trusted here"
            }
            Self::Expired { .. } => {
                "renew it with `antipode certs renew` where the CA's key is; of a CA, make a new one"
            }
            Self::NotYetValid { .. } => "check this host's clock, or wait",
        }
    }
}

/// What a file is meant to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The certificates of the CAs that are trusted.
    Trust,
    /// A CA's private key.
    AuthorityKey,
    /// A certificate with its private key, of one role where that is known.
    Credentials(Option<Role>),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trust => f.write_str("CA certificate"),
            Self::AuthorityKey => f.write_str("CA key"),
            Self::Credentials(None) => f.write_str("certificate and key"),
            Self::Credentials(Some(role)) => write!(f, "{role} certificate and key"),
        }
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// There is none.
    #[error("there is no such file")]
    Missing,
    /// A folder, pipe or device.
    #[error("it is no file")]
    NotAFile,
    /// The host does not let us read it.
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
    /// Longer than any such file.
    #[error("it is longer than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// Others than its owner may read or change a private key.
    #[error("its mode is {mode:04o}: others than its owner can reach the private key")]
    Exposed {
        /// The permission bits.
        mode: u32,
    },
    /// Not in PEM form.
    #[error("it is no PEM file: {0}")]
    NotPem(&'static str),
    /// PEM, but with other things in it than it should have.
    #[error("it should hold {expected}, but holds {certificates} certificates and {keys} private keys")]
    Content {
        /// What it should hold.
        expected: &'static str,
        /// Certificates found.
        certificates: usize,
        /// Private keys found.
        keys: usize,
    },
    /// A private key that cannot be used.
    #[error("its private key cannot be used: {0}")]
    BadKey(&'static str),
    /// Key and certificate are of different pairs.
    #[error("its private key does not belong to {0}")]
    KeyMismatch(&'static str),
    /// The certificate is wrong.
    #[error(transparent)]
    Certificate(#[from] CertificateFault),
}

impl FileFault {
    /// What to do next.
    #[must_use]
    pub fn mend(&self) -> &'static str {
        match self {
            Self::Missing | Self::NotAFile => "name the right file, or copy it here",
            Self::Unreadable(_) => "let this user read it",
            Self::TooLarge | Self::NotPem(_) | Self::Content { .. } | Self::BadKey(_) => {
                "name the right file, or copy it here again"
            }
            Self::Exposed { .. } => {
                "if nobody else can have read it, `chmod 0600` it; else its key is stolen: see docs/certificates.md"
            }
            Self::KeyMismatch(_) => "copy both again from where they were made, or renew",
            Self::Certificate(fault) => fault.mend(),
        }
    }
}

/// A file that cannot be used: which, what it should be, and what is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{part} {}: {fault}", path.display())]
pub struct FileError {
    /// Which file.
    pub path: PathBuf,
    /// What it should be.
    pub part: Part,
    /// What is wrong with it.
    pub fault: FileFault,
}
