//! One certificate, parsed: bounded, whole, and only of the two kinds that we make.
//!
//! Parsing proves nothing about who made it: [`crate::Trust::check`] does. What parses has one holder, dates and a
//! key; bytes after its end, a second subject alternative name or a foreign URI are faults.

use std::path::Path;

use pem::{EncodeConfig, LineEnding, Pem};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::fault::{CertificateFault, FileError, Part};
use crate::identity::Identity;
use crate::limits::CERTIFICATE_BYTES_MAX;
use crate::moment::UnixTime;
use crate::pem_file::{Exposure, PemFile};
use crate::validity::Validity;

/// Whom a certificate speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A CA, by its name.
    Authority(String),
    /// A site, a tiebreaker's node, an operator.
    Leaf(Identity),
}

/// A parsed certificate.
#[derive(Debug, Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    holder: Holder,
    issuer: String,
    serial: String,
    validity: Validity,
    public_key: Vec<u8>,
    key_identifier: Vec<u8>,
}

impl Certificate {
    /// Parses `der`.
    ///
    /// # Errors
    /// [`CertificateFault::Malformed`] with what is wrong.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateFault> {
        use CertificateFault::Malformed;
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(Malformed("it is too long"));
        }
        let (rest, parsed) =
            X509Certificate::from_der(der).map_err(|_| Malformed("its encoding is broken"))?;
        if !rest.is_empty() {
            return Err(Malformed("bytes follow its end"));
        }
        let constraints = parsed
            .basic_constraints()
            .map_err(|_| Malformed("its basic constraints are broken"))?;
        let holder = match constraints {
            Some(constraints) if constraints.value.ca => Holder::Authority(common_name(parsed.subject())?),
            _ => Holder::Leaf(identity_in(&parsed)?),
        };
        Ok(Self {
            holder,
            issuer: common_name(parsed.issuer())?,
            serial: hexadecimal(parsed.raw_serial()),
            validity: Validity {
                not_before: UnixTime::from_seconds(parsed.validity().not_before.timestamp()),
                not_after: UnixTime::from_seconds(parsed.validity().not_after.timestamp()),
            },
            public_key: parsed.public_key().raw.to_vec(),
            key_identifier: key_identifier_in(&parsed).to_vec(),
            der: CertificateDer::from(der.to_vec()),
        })
    }

    /// Whom it speaks for.
    #[must_use]
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// The identity of its holder.
    ///
    /// # Errors
    /// [`CertificateFault::IsAuthority`] of a CA's.
    pub fn identity(&self) -> Result<&Identity, CertificateFault> {
        match &self.holder {
            Holder::Leaf(identity) => Ok(identity),
            Holder::Authority(_) => Err(CertificateFault::IsAuthority),
        }
    }

    /// The name of the CA that signed it, unproven.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its serial number in hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// When it is valid.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// SHA-256 of the whole certificate in hexadecimal, as `openssl x509 -fingerprint -sha256` shows it, without
    /// colons and in lower case.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.der);
        hexadecimal(digest.as_ref())
    }

    /// The encoded certificate.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The public key with its algorithm (DER, `SubjectPublicKeyInfo`).
    pub(crate) fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// How certificates name this one's key when they name their issuer; empty if it does not say.
    pub(crate) fn key_identifier(&self) -> &[u8] {
        &self.key_identifier
    }
}

/// Every certificate in the file at `path`, unproven. If private keys are in the file too, it must be secret.
///
/// # Errors
/// Where the file cannot be read, is exposed, or holds anything that is no certificate of ours.
pub fn read_certificates(path: &Path) -> Result<Vec<Certificate>, FileError> {
    let is_trust = path.extension().is_some_and(|extension| extension == "crt");
    let part = if is_trust {
        Part::Trust
    } else {
        Part::Credentials(None)
    };
    let file = PemFile::read(path, part, Exposure::SecretIfKeys)?;
    if file.certificates.is_empty() {
        return Err(file.content_error("at least one certificate"));
    }
    file.parse_certificates()
}

fn identity_in(parsed: &X509Certificate<'_>) -> Result<Identity, CertificateFault> {
    use CertificateFault::Malformed;
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| Malformed("its subject alternative name is broken"))?
        .ok_or(Malformed("it has no subject alternative name"))?;
    match names.value.general_names[..] {
        [GeneralName::URI(uri)] => {
            Identity::from_uri(uri).map_err(|_| Malformed("its URI is not like antipode://site/berlin"))
        }
        _ => Err(Malformed("its subject alternative name is not one URI")),
    }
}

fn common_name(name: &x509_parser::x509::X509Name<'_>) -> Result<String, CertificateFault> {
    let mut names = name.iter_common_name();
    let (Some(only), None) = (names.next(), names.next()) else {
        return Err(CertificateFault::Malformed("it has not one common name"));
    };
    match only.as_str() {
        // Shown on terminals: nothing in it may move a cursor.
        Ok(text) if text.chars().all(|c| c.is_ascii_graphic() || c == ' ') => Ok(text.to_owned()),
        _ => Err(CertificateFault::Malformed("its common name is no plain text")),
    }
}

fn key_identifier_in<'a>(parsed: &'a X509Certificate<'_>) -> &'a [u8] {
    parsed
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0),
            _ => None,
        })
        .unwrap_or_default()
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `certificate` as text.
pub(crate) fn pem_of(certificate: &Certificate) -> String {
    let der: &[u8] = certificate.der();
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    pem::encode_config(&Pem::new("CERTIFICATE", der), config)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_authority::TestAuthority;

    #[test]
    fn every_truncation_and_every_appended_byte_is_refused() {
        let leaf = TestAuthority::new().leaf("antipode://site/berlin");
        let der: &[u8] = leaf.certificate().der();
        assert!(Certificate::parse(der).is_ok());
        for length in 0..der.len() {
            assert!(Certificate::parse(&der[..length]).is_err(), "{length} bytes");
        }
        let longer = [der, b"\0"].concat();
        assert_eq!(
            Certificate::parse(&longer).unwrap_err(),
            CertificateFault::Malformed("bytes follow its end")
        );
        let far_longer = [der, &vec![0; CERTIFICATE_BYTES_MAX]].concat();
        assert_eq!(
            Certificate::parse(&far_longer).unwrap_err(),
            CertificateFault::Malformed("it is too long")
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..1024)) {
            let _ = Certificate::parse(&bytes);
        }

        /// Damage that keeps most of the structure reaches deeper into the parser than noise does.
        #[test]
        fn a_damaged_certificate_is_parsed_or_refused(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut der = SAMPLE.with(Clone::clone);
            for (index, byte) in edits {
                let length = der.len();
                der[index.index(length)] = byte;
            }
            if let Ok(certificate) = Certificate::parse(&der) {
                prop_assert!(certificate.issuer().chars().all(|c| !c.is_control()));
            }
        }
    }

    thread_local! {
        static SAMPLE: Vec<u8> =
            TestAuthority::new().leaf("antipode://site/berlin").certificate().der().to_vec();
    }
}
