//! The CAs that are trusted here, and the one check of a certificate against them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, UnixTime as TlsTime};
use rustls::server::ParsedCertificate;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, Error, RootCertStore};

use crate::certificate::{Certificate, Holder};
use crate::fault::{CertificateFault, FileError, FileFault, Part};
use crate::identity::{Identity, PeerRule};
use crate::limits::AUTHORITIES_MAX;
use crate::moment::UnixTime;
use crate::pem_file::{Exposure, PemFile};
use crate::tls::provider;
use crate::validity::Standing;

/// The CAs of one trust file that are in force.
#[derive(Debug)]
pub struct Trust {
    authorities: Vec<Certificate>,
    roots: RootCertStore,
    client_verifier: Arc<dyn ClientCertVerifier>,
}

/// Which end of a connection a certificate was shown by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The one that opened it.
    Client,
    /// The one that accepted it.
    Server,
}

impl Trust {
    /// Loads the CA certificates in `path`. While a CA is being replaced the file holds two; one that has expired
    /// is passed over as long as another is in force.
    ///
    /// # Errors
    /// Where the file cannot be read or parsed, holds anything else, or no CA in it is in force at `now`.
    pub fn load(path: &Path, now: UnixTime) -> Result<Self, FileError> {
        let file = PemFile::read(path, Part::Trust, Exposure::SecretIfKeys)?;
        if !file.keys.is_empty() || !(1..=AUTHORITIES_MAX).contains(&file.certificates.len()) {
            return Err(file.content_error("one to four CA certificates and no key"));
        }
        let mut authorities = Vec::new();
        let mut out_of_force = None;
        for certificate in file.parse_certificates()? {
            if let Holder::Leaf(identity) = certificate.holder() {
                return Err(file.error(CertificateFault::IsLeaf(identity.clone())));
            }
            match in_force(&certificate, now) {
                Ok(()) => authorities.push(certificate),
                Err(fault) => out_of_force = Some(fault),
            }
        }
        match out_of_force {
            Some(fault) if authorities.is_empty() => Err(file.error(fault)),
            _ => Self::of(authorities).map_err(|fault| file.error(fault)),
        }
    }

    pub(crate) fn of(authorities: Vec<Certificate>) -> Result<Self, FileFault> {
        let unusable = FileFault::Certificate(CertificateFault::Malformed("it cannot serve as a CA"));
        let mut roots = RootCertStore::empty();
        let ders = authorities.iter().map(|authority| authority.der().clone());
        let (_, refused_count) = roots.add_parsable_certificates(ders);
        let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider()).build();
        match built {
            Ok(client_verifier) if refused_count == 0 => Ok(Self {
                authorities,
                roots,
                client_verifier,
            }),
            _ => Err(unusable),
        }
    }

    /// The CAs that are in force.
    #[must_use]
    pub fn authorities(&self) -> &[Certificate] {
        &self.authorities
    }

    /// Whose certificate `certificate` is, if it is in force at `now`, signed by a CA of these, and `rule` admits
    /// its holder. The dates are judged first: of an expired certificate of a foreign CA, renewing is the answer
    /// that a reader can act on.
    ///
    /// # Errors
    /// With the first fault found.
    pub fn check<'c>(
        &self,
        certificate: &'c Certificate,
        rule: &PeerRule,
        now: UnixTime,
    ) -> Result<&'c Identity, CertificateFault> {
        self.check_shown_by(End::Client, certificate, rule, now)
    }

    /// As [`Self::check`]; of a server, the certificate must also be one that may serve.
    pub(crate) fn check_shown_by<'c>(
        &self,
        end: End,
        certificate: &'c Certificate,
        rule: &PeerRule,
        now: UnixTime,
    ) -> Result<&'c Identity, CertificateFault> {
        let identity = certificate.identity()?;
        in_force(certificate, now)?;
        self.verify_signature(end, certificate.der(), now)?;
        rule.admit(identity)?;
        Ok(identity)
    }

    /// Whether a CA of these signed `certificate`, whatever the date.
    ///
    /// # Errors
    /// [`CertificateFault::WrongAuthority`] if none did.
    pub(crate) fn has_issued(&self, certificate: &Certificate) -> Result<(), CertificateFault> {
        self.verify_signature(End::Client, certificate.der(), certificate.validity().not_after)
    }

    fn verify_signature(
        &self,
        end: End,
        der: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<(), CertificateFault> {
        let seconds = u64::try_from(now.seconds()).unwrap_or(0);
        let now = TlsTime::since_unix_epoch(Duration::from_secs(seconds));
        let outcome = match end {
            End::Client => self.client_verifier.verify_client_cert(der, &[], now).map(drop),
            End::Server => ParsedCertificate::try_from(der).and_then(|parsed| {
                let algorithms = provider().signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, &[], now, algorithms)
            }),
        };
        outcome.map_err(|error| match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                CertificateFault::WrongAuthority
            }
            Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            ) => CertificateFault::Malformed("its key may not be used for this end of a connection"),
            _ => CertificateFault::Malformed("its chain cannot be verified"),
        })
    }
}

fn in_force(certificate: &Certificate, now: UnixTime) -> Result<(), CertificateFault> {
    let validity = certificate.validity();
    match validity.at(now) {
        Standing::Good | Standing::Ending => Ok(()),
        Standing::NotYet => Err(CertificateFault::NotYetValid {
            from: validity.not_before,
        }),
        Standing::Over => Err(CertificateFault::Expired {
            since: validity.not_after,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Role;
    use crate::test_authority::{DAY, NOW, TestAuthority};

    fn anyone() -> PeerRule {
        PeerRule::AnyOf(Role::ALL.to_vec())
    }

    #[test]
    fn no_single_flipped_bit_goes_unnoticed() {
        let authority = TestAuthority::new();
        let trust = authority.trust();
        let leaf = authority.leaf("antipode://site/berlin");
        let accepts = |der: &[u8]| {
            Certificate::parse(der).is_ok_and(|damaged| trust.check(&damaged, &anyone(), NOW).is_ok())
        };
        let mut der = leaf.certificate().der().to_vec();
        assert!(accepts(&der));
        for bit in 0..der.len() * 8 {
            der[bit / 8] ^= 1 << (bit % 8);
            assert!(!accepts(&der), "bit {bit}");
            der[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn an_expired_ca_is_passed_over_while_another_is_in_force() {
        let (old, new) = (TestAuthority::new(), TestAuthority::new());
        let path = old.path("ca.crt");
        let later = NOW.plus(3651 * DAY);
        assert!(matches!(
            Trust::load(&path, later).unwrap_err().fault,
            FileFault::Certificate(CertificateFault::Expired { .. })
        ));
        let young = crate::Authority::create(crate::AuthorityDays::default(), later).unwrap();
        let both = [old.authority.certificate_pem(), young.certificate_pem()].concat();
        std::fs::write(&path, both).unwrap();
        let names = |now| Trust::load(&path, now).map(|trust| trust.authorities().len());
        assert_eq!((names(NOW).unwrap(), names(later).unwrap()), (1, 1));
        let five = new.authority.certificate_pem().repeat(AUTHORITIES_MAX + 1);
        std::fs::write(&path, five).unwrap();
        assert!(matches!(
            Trust::load(&path, NOW).unwrap_err().fault,
            FileFault::Content { certificates: 5, .. }
        ));
    }

    #[test]
    fn a_leaf_cannot_sign_and_is_no_ca() {
        let authority = TestAuthority::new();
        let leaf = authority.saved_leaf("antipode://site/berlin", NOW);
        let certificate = crate::read_certificates(&leaf.credentials).unwrap().remove(0);
        std::fs::write(authority.path("ca.crt"), crate::certificate::pem_of(&certificate)).unwrap();
        assert!(matches!(
            Trust::load(&leaf.trust, NOW).unwrap_err().fault,
            FileFault::Certificate(CertificateFault::IsLeaf(_))
        ));
    }
}
