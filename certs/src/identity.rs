//! Who a certificate speaks for: a role and a name.
//!
//! Written as the URI `antipode://ROLE/NAME`. There is one spelling for each identity: parsing accepts what
//! displaying writes and nothing else, so two certificates never look different and mean the same.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::fault::CertificateFault;
use crate::limits::NAME_BYTES_MAX;

const SCHEME: &str = "antipode://";

/// What the holder of a certificate does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Runs VMs. The name is the site's.
    Site,
    /// A node of the tiebreaker.
    Tiebreaker,
    /// A person, or a tool that acts for one. Opens connections, never accepts any.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Site, Self::Tiebreaker, Self::Operator];

    /// The word in URIs, file names and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Tiebreaker => "tiebreaker",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is no role, no name or no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// No word for a role.
    #[error("{0:?} is no role: site, tiebreaker and operator are")]
    Role(String),
    /// Not a name.
    #[error(
        "{0:?} is no name: 1 to {NAME_BYTES_MAX} lower-case letters, digits and hyphens, with no hyphen first or last"
    )]
    Name(String),
    /// Not one of our URIs.
    #[error("{0:?} is no URI like antipode://site/berlin")]
    Uri(String),
}

impl FromStr for Role {
    type Err = IdentityError;

    fn from_str(word: &str) -> Result<Self, IdentityError> {
        Self::ALL
            .into_iter()
            .find(|role| role.name() == word)
            .ok_or_else(|| IdentityError::Role(word.to_owned()))
    }
}

/// A name that serves as a DNS label and as part of file names. Serialized as its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = IdentityError;

    fn from_str(word: &str) -> Result<Self, IdentityError> {
        let in_alphabet = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let sound = (1..=NAME_BYTES_MAX).contains(&word.len())
            && word.bytes().all(in_alphabet)
            && !word.starts_with('-')
            && !word.ends_with('-');
        if sound {
            Ok(Self(word.to_owned()))
        } else {
            Err(IdentityError::Name(word.to_owned()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = IdentityError;

    fn try_from(word: String) -> Result<Self, IdentityError> {
        word.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// A role and a name. Displayed and serialized as its URI.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity {
    /// What it does.
    pub role: Role,
    /// Which one it is.
    pub name: Name,
}

impl Identity {
    /// Parses the URI in a certificate.
    ///
    /// # Errors
    /// On anything but `antipode://ROLE/NAME`.
    pub fn from_uri(uri: &str) -> Result<Self, IdentityError> {
        let (role, name) = uri
            .strip_prefix(SCHEME)
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(|| IdentityError::Uri(uri.to_owned()))?;
        Ok(Self {
            role: role.parse()?,
            name: name.parse()?,
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.role, self.name)
    }
}

impl TryFrom<String> for Identity {
    type Error = IdentityError;

    fn try_from(uri: String) -> Result<Self, IdentityError> {
        Self::from_uri(&uri)
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.to_string()
    }
}

/// Whom one end of a connection accepts at the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerRule {
    /// Anyone with one of these roles; what each may do is decided request by request.
    AnyOf(Vec<Role>),
    /// This one alone: what a client demands that knows whom it calls.
    Exactly(Identity),
}

impl PeerRule {
    /// Whether `found` is accepted.
    ///
    /// # Errors
    /// [`CertificateFault::WrongRole`] or, with the right role, [`CertificateFault::WrongName`].
    pub fn admit(&self, found: &Identity) -> Result<(), CertificateFault> {
        let expected = match self {
            Self::AnyOf(roles) => roles.as_slice(),
            Self::Exactly(expected) => std::slice::from_ref(&expected.role),
        };
        if !expected.contains(&found.role) {
            return Err(CertificateFault::WrongRole {
                expected: expected.to_vec(),
                found: found.clone(),
            });
        }
        match self {
            Self::Exactly(expected) if expected != found => Err(CertificateFault::WrongName {
                expected: expected.clone(),
                found: found.clone(),
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn identities_that_are_none_are_refused() {
        for uri in [
            "",
            "antipode://",
            "antipode://site",
            "antipode://site/",
            "antipode://site/berlin/",
            "antipode://site/Berlin",
            "antipode://site/-berlin",
            "antipode://site/b%65rlin",
            "antipode://Site/berlin",
            "antipode://root/berlin",
            "ANTIPODE://site/berlin",
            "antipode:///berlin",
            "antipode://site/berlin?x",
            " antipode://site/berlin",
        ] {
            assert!(Identity::from_uri(uri).is_err(), "{uri}");
        }
        assert!("a".repeat(NAME_BYTES_MAX).parse::<Name>().is_ok());
        assert!("a".repeat(NAME_BYTES_MAX + 1).parse::<Name>().is_err());
    }

    #[test]
    fn a_rule_admits_by_role_and_by_name() {
        let identity = |uri| Identity::from_uri(uri).unwrap();
        let (berlin, paris) = (
            identity("antipode://site/berlin"),
            identity("antipode://site/paris"),
        );
        let operator = identity("antipode://operator/berlin");
        let sites = PeerRule::AnyOf(vec![Role::Site, Role::Tiebreaker]);
        assert_eq!(sites.admit(&paris), Ok(()));
        assert_eq!(
            sites.admit(&operator).unwrap_err().to_string(),
            "it is for antipode://operator/berlin, but one for the role site or tiebreaker is needed"
        );
        let exact = PeerRule::Exactly(berlin.clone());
        assert_eq!(exact.admit(&berlin), Ok(()));
        assert!(matches!(
            exact.admit(&paris),
            Err(CertificateFault::WrongName { .. })
        ));
        assert!(matches!(
            exact.admit(&operator),
            Err(CertificateFault::WrongRole { .. })
        ));
    }

    proptest! {
        #[test]
        fn what_parses_is_spelled_one_way(uri in "(antipode://)?(site|tiebreaker|operator|.{0,4})/[a-z0-9-]{0,66}") {
            if let Ok(identity) = Identity::from_uri(&uri) {
                prop_assert_eq!(identity.to_string(), uri);
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(uri in ".*") {
            let _ = Identity::from_uri(&uri);
        }
    }
}
