//! The private CA: made once, kept where certificates are issued, never needed by a daemon.

use std::path::Path;

use aws_lc_rs::digest;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::certificate::{Certificate, Holder, hexadecimal, pem_of};
use crate::credentials::holder_of;
use crate::fault::{CertificateFault, FileError, FileFault, Part};
use crate::files::{
    AUTHORITY_KEY_FILE, Existing, TRUST_FILE, WriteError, credentials_file, write_public, write_secret,
};
use crate::identity::{Identity, Role};
use crate::moment::UnixTime;
use crate::pem_file::{Exposure, PemFile};
use crate::trust::Trust;
use crate::validity::{AuthorityDays, LeafDays, Validity};

/// Bytes of a key's digest that a CA's name shows, so that two CAs never have one name.
const NAME_DIGEST_BYTES: usize = 4;

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// It would be valid when its CA no longer is.
    #[error("the certificate would live until {leaf_end}, its CA only until {authority_end}")]
    OutlivesAuthority {
        /// Its last second.
        leaf_end: UnixTime,
        /// The CA's last second.
        authority_end: UnixTime,
    },
    /// The library that makes keys and signatures failed.
    #[error("the certificate cannot be made: {0}")]
    Failed(String),
}

impl From<rcgen::Error> for IssueError {
    fn from(error: rcgen::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A CA with its private key.
#[derive(Debug)]
pub struct Authority {
    certificate: Certificate,
    key: KeyPair,
}

/// A new certificate with its private key.
#[derive(Debug)]
pub struct Issued {
    certificate: Certificate,
    identity: Identity,
    pem: Zeroizing<String>,
}

impl Authority {
    /// Makes a CA that lives `days` from `now`.
    ///
    /// # Errors
    /// [`IssueError::Failed`].
    pub fn create(days: AuthorityDays, now: UnixTime) -> Result<Self, IssueError> {
        let key = new_key()?;
        let digest = digest::digest(&digest::SHA256, &key.subject_public_key_info());
        let name = format!(
            "Antipode CA {}",
            hexadecimal(&digest.as_ref()[..NAME_DIGEST_BYTES])
        );
        let mut params = params(&name, Validity::of_authority(days, now))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let made = params.self_signed(&key)?;
        Ok(Self {
            certificate: parse_own(made.der())?,
            key,
        })
    }

    /// Loads the CA in `folder`: its key, and the certificate of that key among those in the trust file.
    ///
    /// # Errors
    /// Where a file is unusable, no CA is in force at `now`, or key and certificates do not match.
    pub fn load(folder: &Path, now: UnixTime) -> Result<Self, FileError> {
        let trust = Trust::load(&folder.join(TRUST_FILE), now)?;
        let file = PemFile::read(
            &folder.join(AUTHORITY_KEY_FILE),
            Part::AuthorityKey,
            Exposure::Secret,
        )?;
        let ([key], []) = (&file.keys[..], &file.certificates[..]) else {
            return Err(file.content_error("one private key and nothing else"));
        };
        let key = KeyPair::try_from(key).map_err(|_| file.error(FileFault::BadKey("it is broken")))?;
        let public_key = key.subject_public_key_info();
        let of_key = |authority: &&Certificate| authority.public_key() == public_key;
        match trust.authorities().iter().find(of_key) {
            Some(certificate) => Ok(Self {
                certificate: certificate.clone(),
                key,
            }),
            None => Err(file.error(FileFault::KeyMismatch("a CA in ca.crt that is in force"))),
        }
    }

    /// Writes key and certificate into `folder`, which has neither yet.
    ///
    /// # Errors
    /// Where either is there, or the host refuses.
    pub fn save(&self, folder: &Path) -> Result<(), WriteError> {
        let trust = folder.join(TRUST_FILE);
        if trust.exists() {
            return Err(WriteError::Exists(trust));
        }
        let key = Zeroizing::new(self.key.serialize_pem());
        write_secret(&folder.join(AUTHORITY_KEY_FILE), &key, Existing::Keep)?;
        write_public(&trust, &self.certificate_pem(), Existing::Keep)
    }

    /// The CA's certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The CA's certificate as text.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        pem_of(&self.certificate)
    }

    /// Makes a certificate with a new key for `identity` that lives `days` from `now`.
    ///
    /// # Errors
    /// Where it would outlive the CA.
    pub fn issue(&self, identity: &Identity, days: LeafDays, now: UnixTime) -> Result<Issued, IssueError> {
        let validity = Validity::of_leaf(days, now);
        let authority_end = self.certificate.validity().not_after;
        if validity.not_after > authority_end {
            return Err(IssueError::OutlivesAuthority {
                leaf_end: validity.not_after,
                authority_end,
            });
        }
        let key = new_key()?;
        let made = leaf_params(identity, validity)?.signed_by(&key, &self.issuer()?)?;
        let certificate = parse_own(made.der())?;
        let mut pem = Zeroizing::new(pem_of(&certificate));
        pem.push_str(&Zeroizing::new(key.serialize_pem()));
        Ok(Issued {
            certificate,
            identity: identity.clone(),
            pem,
        })
    }

    /// The certificate in the credentials file at `path`, if this CA or another of `trust` issued it to whom it
    /// names. Its dates do not matter: an expired one can be renewed.
    ///
    /// # Errors
    /// Where the file is unusable or of a CA that is not trusted.
    pub fn renewable(path: &Path, trust: &Trust) -> Result<Identity, FileError> {
        let failed = |fault: CertificateFault| FileError {
            path: path.to_owned(),
            part: Part::Credentials(None),
            fault: fault.into(),
        };
        let certificate = holder_of(path)?;
        trust.has_issued(&certificate).map_err(failed)?;
        certificate.identity().cloned().map_err(failed)
    }

    /// What signatures need to know of the issuer, rebuilt from its certificate.
    fn issuer(&self) -> Result<Issuer<'_, &KeyPair>, IssueError> {
        let Holder::Authority(name) = self.certificate.holder() else {
            return Err(IssueError::Failed("the issuer is no CA".to_owned()));
        };
        let mut params = params(name, self.certificate.validity())?;
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.key_identifier_method = KeyIdMethod::PreSpecified(self.certificate.key_identifier().to_vec());
        Ok(Issuer::new(params, &self.key))
    }
}

impl Issued {
    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The usual name of its file.
    #[must_use]
    pub fn file_name(&self) -> String {
        credentials_file(&self.identity)
    }

    /// Writes certificate and key to `path`, for the owner alone.
    ///
    /// # Errors
    /// Where there is a file already and it is to be kept, or the host refuses.
    pub fn save(&self, path: &Path, existing: Existing) -> Result<(), WriteError> {
        write_secret(path, &self.pem, existing)
    }
}

/// ECDSA on P-256: every TLS stack, browser and hardware token knows it.
fn new_key() -> Result<KeyPair, IssueError> {
    Ok(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?)
}

fn params(common_name: &str, validity: Validity) -> Result<CertificateParams, IssueError> {
    let date = |moment: UnixTime| {
        OffsetDateTime::from_unix_timestamp(moment.seconds())
            .map_err(|_| IssueError::Failed(format!("{moment} is no date")))
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date(validity.not_before)?;
    params.not_after = date(validity.not_after)?;
    Ok(params)
}

fn leaf_params(identity: &Identity, validity: Validity) -> Result<CertificateParams, IssueError> {
    let mut params = params(&format!("{} {}", identity.role, identity.name), validity)?;
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if identity.role != Role::Operator {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// What we made must be what we accept.
fn parse_own(der: &[u8]) -> Result<Certificate, IssueError> {
    Certificate::parse(der).map_err(|fault| IssueError::Failed(fault.to_string()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::Standing;
    use crate::test_authority::{DAY, NOW, TestAuthority};

    #[test]
    fn a_ca_that_was_saved_issues_what_it_trusts() {
        let saved = TestAuthority::new();
        let loaded = Authority::load(saved.folder.path(), NOW).unwrap();
        let identity = Identity::from_uri("antipode://tiebreaker/one").unwrap();
        let issued = loaded.issue(&identity, LeafDays::default(), NOW).unwrap();
        assert_eq!(issued.certificate().identity().unwrap(), &identity);
        assert_eq!(
            Holder::Authority(issued.certificate().issuer().to_owned()),
            *loaded.certificate().holder()
        );
        assert!(saved.trust().has_issued(issued.certificate()).is_ok());
    }

    #[test]
    fn nothing_of_a_ca_is_overwritten() {
        let saved = TestAuthority::new();
        let before = fs::read(saved.path("ca.key")).unwrap();
        let other = Authority::create(AuthorityDays::default(), NOW).unwrap();
        assert!(matches!(
            other.save(saved.folder.path()),
            Err(WriteError::Exists(_))
        ));
        fs::remove_file(saved.path("ca.crt")).unwrap();
        assert!(matches!(
            other.save(saved.folder.path()),
            Err(WriteError::Exists(_))
        ));
        assert_eq!(fs::read(saved.path("ca.key")).unwrap(), before);
        assert!(!saved.path("ca.crt").exists());
    }

    #[test]
    fn a_key_of_another_ca_is_refused() {
        let (one, two) = (TestAuthority::new(), TestAuthority::new());
        fs::copy(two.path("ca.key"), one.path("ca.key")).unwrap();
        let error = Authority::load(one.folder.path(), NOW).unwrap_err();
        assert!(matches!(error.fault, FileFault::KeyMismatch(_)));
        assert_eq!((error.part, error.path), (Part::AuthorityKey, one.path("ca.key")));
    }

    #[test]
    fn no_certificate_outlives_its_ca() {
        let saved = TestAuthority::new();
        let identity = Identity::from_uri("antipode://site/berlin").unwrap();
        let last = NOW.plus((3650 - 365) * DAY);
        assert!(
            saved
                .authority
                .issue(&identity, LeafDays::default(), last)
                .is_ok()
        );
        assert!(matches!(
            saved
                .authority
                .issue(&identity, LeafDays::default(), last.plus(1)),
            Err(IssueError::OutlivesAuthority { .. })
        ));
    }

    #[test]
    fn what_is_renewed_was_issued_here_even_if_it_has_expired() {
        let (ours, theirs) = (TestAuthority::new(), TestAuthority::new());
        let old = ours.saved_leaf("antipode://site/berlin", NOW.plus(-500 * DAY));
        let standing = holder_of(&old.credentials).unwrap().validity().at(NOW);
        assert_eq!(standing, Standing::Over);
        assert_eq!(
            Authority::renewable(&old.credentials, &ours.trust())
                .unwrap()
                .to_string(),
            "antipode://site/berlin"
        );
        assert!(matches!(
            Authority::renewable(&old.credentials, &theirs.trust())
                .unwrap_err()
                .fault,
            FileFault::Certificate(CertificateFault::WrongAuthority)
        ));
    }

    #[test]
    fn two_certificates_differ_in_key_and_serial_number() {
        let authority = TestAuthority::new();
        let one = authority.leaf("antipode://site/berlin");
        let two = authority.leaf("antipode://site/berlin");
        assert_ne!(one.certificate().serial(), two.certificate().serial());
        assert_ne!(one.certificate().public_key(), two.certificate().public_key());
    }
}
