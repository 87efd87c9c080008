//! Who may speak: a private certificate authority, certificates with a role and a name, and mutual TLS 1.3 (S1).
//!
//! ```text
//!   Authority ──issue──▶ Issued ──save──▶ site-berlin.pem   (certificate and key in one file, 0600)
//!       │                                      │
//!       └──save──▶ ca.key (0600)               │ load: exposure, form, role, dates, CA, key
//!                  ca.crt (public) ──load──▶ Trust ──▶ Credentials ──▶ LiveCredentials ──▶ rustls configurations
//!                                                                          ▲                     │
//!                                                      files changed: load anew            peer's Identity
//! ```
//!
//! - A certificate holds one [`Identity`]: a role and a name, as `antipode://site/berlin` in its only subject
//!   alternative name. No host name or address is in it: a site may move.
//! - Certificate and key share one file, so that a renewal is one rename and no crash leaves a pair that does not
//!   match. Nothing is overwritten unless the caller says so ([`Existing`]).
//! - A chain is one certificate long: a leaf signed by a CA of the trust file. What else a peer sends is not read.
//! - The same checks ([`Trust::check`]) stand before a daemon's start and inside every handshake, and say which
//!   [`CertificateFault`] it is.
//! - No clock is read here: callers hand in [`UnixTime`] or a [`WallClock`].
//!
//! This package imports nothing else of ours.
#![forbid(unsafe_code)]

mod authority;
mod certificate;
mod credentials;
mod fault;
mod files;
mod identity;
pub mod limits;
mod moment;
mod pem_file;
pub mod tls;
mod trust;
mod validity;

pub use authority::{Authority, IssueError, Issued};
pub use certificate::{Certificate, Holder, read_certificates};
pub use credentials::{Credentials, Paths, holder_of};
pub use fault::{CertificateFault, FileError, FileFault, Part};
pub use files::{AUTHORITY_KEY_FILE, Existing, TRUST_FILE, WriteError, credentials_file, write_public};
pub use identity::{Identity, IdentityError, Name, PeerRule, Role};
pub use moment::{UnixTime, WallClock, in_words};
pub use trust::Trust;
pub use validity::{AuthorityDays, DaysError, LeafDays, Standing, Validity};

#[cfg(test)]
mod test_authority;
