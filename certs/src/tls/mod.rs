//! Mutual TLS 1.3 between holders of certificates (S1, P2).
//!
//! ```text
//!            client                                server
//!   LiveCredentials::client_config(rule)   LiveCredentials::server_config(rule)
//!         │ is the server's certificate ours,       │ is the client's certificate ours,
//!         │ in force, of whom `rule` admits?        │ in force, of whom `rule` admits?
//!         ▼                                         ▼
//!   peer_identity(&connection)             peer_identity(&connection) ──▶ authorise each request
//! ```
//!
//! - TLS 1.3 alone, both ends authenticated, one cryptographic provider (`docs/decisions/0008-tls-provider.md`).
//! - No session is resumed and no early data taken: each connection proves who its ends are, by the certificates
//!   and CAs of that moment.
//! - An established connection outlives a renewal and an expiry; the next one is judged anew.
//! - In TLS 1.3 a client's handshake ends before the server has judged the client's certificate: a refused client
//!   learns of it from its first read.

mod live;
mod peer;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use rustls::CommonState;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;

use crate::credentials::identity_of;
use crate::fault::CertificateFault;
use crate::identity::Identity;

pub use live::{LiveCredentials, Refreshed};
pub use peer::fault_in;
pub use stream::{Secured, TlsError};

/// The one cryptographic provider, with the cipher suites of TLS 1.3 alone.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    Arc::new(provider)
});

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// What a client gives rustls as the server's name. It names no host, is the same for all, and decides nothing:
/// whom a client accepts is in its [`crate::PeerRule`].
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::from(std::net::Ipv4Addr::UNSPECIFIED)
}

/// Who is at the other end of a connection whose handshake is complete.
///
/// # Errors
/// Where the peer has shown no certificate of ours: never after a handshake under a configuration of this module.
pub fn peer_identity(connection: &CommonState) -> Result<Identity, CertificateFault> {
    let shown = connection.peer_certificates().and_then(<[_]>::first);
    identity_of(shown.ok_or(CertificateFault::Malformed("none was shown"))?)
}
