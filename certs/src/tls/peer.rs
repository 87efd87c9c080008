//! The judgement of a peer's certificate inside a handshake.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime as TlsTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    SignatureScheme,
};

use super::live::LiveCredentials;
use super::provider;
use crate::certificate::Certificate;
use crate::fault::CertificateFault;
use crate::identity::PeerRule;
use crate::moment::UnixTime;
use crate::trust::End;

/// Judges the certificates of peers by the CAs that are trusted at that moment.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    pub(super) live: Arc<LiveCredentials>,
    pub(super) rule: PeerRule,
}

impl PeerVerifier {
    fn judge(&self, end: End, shown: &CertificateDer<'_>, now: TlsTime) -> Result<(), Error> {
        let now = UnixTime::from_seconds(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let credentials = self.live.looked_after();
        Certificate::parse(shown)
            .and_then(|certificate| {
                credentials
                    .trust()
                    .check_shown_by(end, &certificate, &self.rule, now)
                    .map(drop)
            })
            .map_err(as_tls_error)
    }
}

/// The alert that a peer sees says as much as TLS has words for; our side keeps the whole fault.
fn as_tls_error(fault: CertificateFault) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(fault))))
}

/// The fault of the peer's certificate that ended a handshake, if that is why it ended.
#[must_use]
pub fn fault_in(error: &Error) -> Option<&CertificateFault> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(fault))) => fault.downcast_ref(),
        _ => None,
    }
}

fn verify_signature(
    message: &[u8],
    shown: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature(
        message,
        shown,
        signature,
        &provider().signature_verification_algorithms,
    )
}

fn tls12_is_not_spoken() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)
}

impl ClientCertVerifier for PeerVerifier {
    /// None: a client has one certificate, so hints would only tell strangers our CA's name.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: TlsTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(End::Client, end_entity, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_not_spoken())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: TlsTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(End::Server, end_entity, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_not_spoken())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl TimeProvider for LiveCredentials {
    fn current_time(&self) -> Option<TlsTime> {
        let seconds = u64::try_from(self.now().seconds()).ok()?;
        Some(TlsTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}
