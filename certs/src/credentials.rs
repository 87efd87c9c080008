//! A certificate with its key and the CAs that its holder trusts: what a daemon starts with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use crate::certificate::{Certificate, Holder};
use crate::fault::{CertificateFault, FileError, FileFault, Part};
use crate::identity::{Identity, PeerRule, Role};
use crate::moment::UnixTime;
use crate::pem_file::{Exposure, PemFile};
use crate::tls::provider;
use crate::trust::Trust;
use crate::validity::Standing;

/// Where credentials lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Certificate and key.
    pub credentials: PathBuf,
    /// The CA certificates.
    pub trust: PathBuf,
}

/// Checked credentials.
#[derive(Debug)]
pub struct Credentials {
    certificate: Certificate,
    identity: Identity,
    trust: Trust,
    key: Arc<CertifiedKey>,
}

impl Credentials {
    /// Loads what `paths` names and checks all of it at `now`. `rule` says whose they must be.
    ///
    /// # Errors
    /// The first fault found, with its file: the trust file's before the credentials'.
    pub fn load(paths: &Paths, rule: &PeerRule, now: UnixTime) -> Result<Self, FileError> {
        let trust = Trust::load(&paths.trust, now)?;
        let part = Part::Credentials(sole_role(rule));
        let file = PemFile::read(&paths.credentials, part, Exposure::Secret)?;
        let certificate = sole_certificate(&file)?;
        let [key] = &file.keys[..] else {
            return Err(sole_pair_error(&file));
        };
        let identity = trust
            .check(&certificate, rule, now)
            .map_err(|fault| file.error(fault))?
            .clone();
        let key = CertifiedKey::from_der(vec![certificate.der().clone()], key.clone_key(), &provider())
            .map_err(|error| match error {
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    file.error(FileFault::KeyMismatch("its certificate"))
                }
                _ => file.error(FileFault::BadKey("it is broken, or of an unknown kind")),
            })?;
        Ok(Self {
            certificate,
            identity,
            trust,
            key: Arc::new(key),
        })
    }

    /// Whose they are.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The CAs that peers must have been signed by.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// What of these is in the last tenth of its life at `now`, or past it, in words with what to do: the certificate, and
    /// the CA that signed it.
    pub(crate) fn ending(&self, now: UnixTime) -> Option<String> {
        let is_signer = |authority: &&Certificate| matches!(authority.holder(), Holder::Authority(name) if name == self.certificate.issuer());
        let signers = self.trust.authorities().iter().filter(is_signer);
        let ending: Vec<String> = std::iter::once(&self.certificate)
            .chain(signers)
            .filter(|one| matches!(one.validity().at(now), Standing::Ending | Standing::Over))
            .map(|one| {
                let validity = one.validity().in_words(now);
                match one.holder() {
                    Holder::Leaf(identity) => {
                        format!("the certificate of {identity} {validity}: `antipode certs renew` makes a new one")
                    }
                    Holder::Authority(name) => {
                        format!("{name} {validity}: make a new CA with `antipode certs init` and change over to it")
                    }
                }
            })
            .collect();
        (!ending.is_empty()).then(|| ending.join("; "))
    }

    /// The rule that a later version of these credentials must keep: the same holder.
    pub(crate) fn same_holder(&self) -> PeerRule {
        PeerRule::Exactly(self.identity.clone())
    }

    pub(crate) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

/// The certificate in the credentials file at `path`, unproven, without a look at its dates or at who can read
/// it: what a renewal, which makes a new key, starts from.
///
/// # Errors
/// Where the file cannot be read or holds no single certificate of a leaf.
pub fn holder_of(path: &Path) -> Result<Certificate, FileError> {
    let file = PemFile::read(path, Part::Credentials(None), Exposure::Any)?;
    sole_certificate(&file)
}

fn sole_certificate(file: &PemFile) -> Result<Certificate, FileError> {
    let mut parsed = file.parse_certificates()?;
    match parsed.pop() {
        Some(certificate) if parsed.is_empty() => match certificate.identity() {
            Ok(_) => Ok(certificate),
            Err(fault) => Err(file.error(fault)),
        },
        _ => Err(sole_pair_error(file)),
    }
}

fn sole_pair_error(file: &PemFile) -> FileError {
    file.content_error("one certificate and its private key")
}

fn sole_role(rule: &PeerRule) -> Option<Role> {
    match rule {
        PeerRule::AnyOf(roles) => match roles[..] {
            [role] => Some(role),
            _ => None,
        },
        PeerRule::Exactly(identity) => Some(identity.role),
    }
}

/// Whose certificate `der` is, whoever signed it.
pub(crate) fn identity_of(der: &[u8]) -> Result<Identity, CertificateFault> {
    Certificate::parse(der)?.identity().cloned()
}

/// Each fault that can stand between a daemon and its start: the file, what it should be, and what is wrong.
#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::test_authority::{DAY, NOW, TestAuthority};

    fn load(paths: &Paths) -> Result<Credentials, FileError> {
        Credentials::load(paths, &PeerRule::AnyOf(vec![Role::Site]), NOW)
    }

    /// Loads what `spoil` has spoilt of sound credentials of a site; the error must name the file at fault.
    #[track_caller]
    fn fault_after(spoil: impl FnOnce(&TestAuthority, &Paths)) -> FileFault {
        let authority = TestAuthority::new();
        let paths = authority.saved_leaf("antipode://site/berlin", NOW);
        assert!(load(&paths).is_ok());
        spoil(&authority, &paths);
        let FileError { path, part, fault } = load(&paths).unwrap_err();
        assert_eq!(
            (path, part),
            (paths.credentials, Part::Credentials(Some(Role::Site)))
        );
        fault
    }

    fn replace_by(paths: &Paths, other: &Paths) {
        fs::copy(&other.credentials, &paths.credentials).unwrap();
    }

    /// The parts of a credentials file: certificate and key.
    fn parts(path: &Path) -> (String, String) {
        let text = fs::read_to_string(path).unwrap();
        let (certificate, key) = text.split_at(text.find("-----BEGIN PRIVATE").unwrap());
        (certificate.to_owned(), key.to_owned())
    }

    #[test]
    fn sound_credentials_are_loaded() {
        let authority = TestAuthority::new();
        let loaded = load(&authority.saved_leaf("antipode://site/berlin", NOW)).unwrap();
        assert_eq!(loaded.identity().to_string(), "antipode://site/berlin");
        assert_eq!(loaded.trust().authorities().len(), 1);
    }

    #[test]
    fn of_another_ca() {
        let fault = fault_after(|_, paths| {
            replace_by(
                paths,
                &TestAuthority::new().saved_leaf("antipode://site/berlin", NOW),
            );
        });
        assert!(matches!(
            fault,
            FileFault::Certificate(CertificateFault::WrongAuthority)
        ));
    }

    #[test]
    fn of_another_role() {
        let fault = fault_after(|authority, paths| {
            replace_by(paths, &authority.saved_leaf("antipode://operator/berlin", NOW));
        });
        let FileFault::Certificate(CertificateFault::WrongRole { expected, found }) = fault else {
            panic!("{fault}");
        };
        assert_eq!((expected, found.role), (vec![Role::Site], Role::Operator));
    }

    #[test]
    fn expired() {
        let fault = fault_after(|authority, paths| {
            replace_by(
                paths,
                &authority.saved_leaf("antipode://site/old", NOW.plus(-366 * DAY)),
            );
        });
        assert!(matches!(
            fault,
            FileFault::Certificate(CertificateFault::Expired { since }) if since == NOW.plus(-DAY)
        ));
    }

    #[test]
    fn not_yet_valid() {
        let fault = fault_after(|authority, paths| {
            replace_by(paths, &authority.saved_leaf("antipode://site/new", NOW.plus(DAY)));
        });
        assert!(matches!(
            fault,
            FileFault::Certificate(CertificateFault::NotYetValid { from }) if from == NOW.plus(DAY - 3600)
        ));
    }

    #[test]
    fn key_of_another_certificate() {
        let fault = fault_after(|authority, paths| {
            let (certificate, _) = parts(&paths.credentials);
            let (_, key) = parts(&authority.saved_leaf("antipode://site/paris", NOW).credentials);
            fs::write(&paths.credentials, certificate + &key).unwrap();
        });
        assert!(matches!(fault, FileFault::KeyMismatch("its certificate")));
    }

    #[test]
    fn readable_by_others() {
        for mode in [0o640, 0o604, 0o660, 0o666, 0o601] {
            let fault = fault_after(|_, paths| {
                fs::set_permissions(&paths.credentials, Permissions::from_mode(mode)).unwrap();
            });
            assert!(
                matches!(fault, FileFault::Exposed { mode: found } if found == mode),
                "{fault}"
            );
        }
        let said = FileFault::Exposed { mode: 0o644 }.to_string();
        assert_eq!(
            said,
            "its mode is 0644: others than its owner can reach the private key"
        );
    }

    #[test]
    fn missing() {
        let fault = fault_after(|_, paths| fs::remove_file(&paths.credentials).unwrap());
        assert!(matches!(fault, FileFault::Missing));
    }

    #[test]
    fn a_folder_instead_of_a_file() {
        let fault = fault_after(|_, paths| {
            fs::remove_file(&paths.credentials).unwrap();
            fs::create_dir(&paths.credentials).unwrap();
        });
        assert!(matches!(fault, FileFault::NotAFile));
    }

    #[test]
    fn endless() {
        let fault = fault_after(|_, paths| {
            let endless = "x".repeat(70_000);
            fs::write(&paths.credentials, endless).unwrap();
        });
        assert!(matches!(fault, FileFault::TooLarge));
    }

    #[test]
    fn without_key_or_with_too_much() {
        type Spoil = fn(&str, &str) -> String;
        let table: [(Spoil, (usize, usize)); 5] = [
            (|certificate, _| certificate.to_owned(), (1, 0)),
            (|_, key| key.to_owned(), (0, 1)),
            (
                |certificate, key| [certificate, certificate, key].concat(),
                (2, 1),
            ),
            (|certificate, key| [certificate, key, key].concat(), (1, 2)),
            (|_, _| String::from("nothing of the kind"), (0, 0)),
        ];
        for (spoil, found) in table {
            let fault = fault_after(|_, paths| {
                let (certificate, key) = parts(&paths.credentials);
                fs::write(&paths.credentials, spoil(&certificate, &key)).unwrap();
            });
            let FileFault::Content {
                certificates, keys, ..
            } = fault
            else {
                panic!("{fault}");
            };
            assert_eq!((certificates, keys), found);
        }
    }

    #[test]
    fn cut_short_at_any_line() {
        let authority = TestAuthority::new();
        let paths = authority.saved_leaf("antipode://site/berlin", NOW);
        let text = fs::read_to_string(&paths.credentials).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for kept in 0..lines.len() {
            fs::write(&paths.credentials, lines[..kept].concat()).unwrap();
            assert!(load(&paths).is_err(), "{kept} lines");
        }
    }

    #[test]
    fn a_ca_in_the_place_of_credentials() {
        let fault = fault_after(|authority, paths| {
            let (_, key) = parts(&paths.credentials);
            fs::write(&paths.credentials, authority.authority.certificate_pem() + &key).unwrap();
        });
        assert!(matches!(
            fault,
            FileFault::Certificate(CertificateFault::IsAuthority)
        ));
    }

    #[test]
    fn faults_of_the_trust_file_name_it() {
        let authority = TestAuthority::new();
        let paths = authority.saved_leaf("antipode://site/berlin", NOW);
        fs::remove_file(&paths.trust).unwrap();
        let error = load(&paths).unwrap_err();
        assert_eq!((&error.path, error.part), (&paths.trust, Part::Trust));
        assert_eq!(
            error.to_string(),
            format!("CA certificate {}: there is no such file", paths.trust.display())
        );
    }
}
