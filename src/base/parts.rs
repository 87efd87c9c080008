//! Saved state as named, versioned parts.
//!
//! What is saved puts each of its parts under a name of its own; what restores takes each by its name. A part of another
//! version, one that is missing, one that nobody takes and bytes that are left over are errors: a state is restored
//! whole or not at all.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a part cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// It is not there.
    #[error("the saved state has no part {0:?}")]
    Missing(&'static str),
    /// It is of another version.
    #[error("part {name:?} is of version {found}; this antipode restores version {supported}")]
    Version {
        /// The part.
        name: &'static str,
        /// The version found.
        found: u16,
        /// The version that can be restored.
        supported: u16,
    },
    /// Its bytes are not what they should be, or hold what cannot be.
    #[error("part {name:?} is refused: {what}")]
    Refused {
        /// The part.
        name: &'static str,
        /// Why.
        what: String,
    },
    /// Nobody takes it.
    #[error("nothing here restores part {0:?}")]
    Unclaimed(String),
}

impl PartError {
    /// Part `name` holds what cannot be.
    pub fn refused(name: &'static str, what: impl ToString) -> Self {
        let what = what.to_string();
        Self::Refused { name, what }
    }
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Whose it is.
    pub name: String,
    /// Of its content.
    pub version: u16,
    /// Its content, as `postcard` writes it.
    pub content: Vec<u8>,
}

/// Parts of a saved state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parts(Vec<Part>);

impl FromIterator<Part> for Parts {
    fn from_iter<I: IntoIterator<Item = Part>>(parts: I) -> Self {
        Self(parts.into_iter().collect())
    }
}

impl Parts {
    /// Puts `content` under `name`.
    pub fn put(&mut self, name: &'static str, version: u16, content: &impl Serialize) {
        // Only a `Serialize` that fails by itself can fail here, and those of saved states are derived.
        let content = postcard::to_allocvec(content).unwrap_or_default();
        self.0.push(Part {
            name: name.to_owned(),
            version,
            content,
        });
    }

    /// Takes what is under `name`.
    ///
    /// # Errors
    /// [`PartError`] if it is missing, of another version, or not a `T`.
    pub fn take<T: DeserializeOwned>(&mut self, name: &'static str, version: u16) -> Result<T, PartError> {
        let place = self.0.iter().position(|part| part.name == name);
        let part = self.0.remove(place.ok_or(PartError::Missing(name))?);
        if part.version != version {
            return Err(PartError::Version {
                name,
                found: part.version,
                supported: version,
            });
        }
        match postcard::take_from_bytes(&part.content) {
            Ok((content, [])) => Ok(content),
            Ok((_, rest)) => Err(PartError::refused(
                name,
                format!("{} bytes are left over", rest.len()),
            )),
            Err(error) => Err(PartError::refused(name, error)),
        }
    }

    /// Makes sure that every part was taken.
    ///
    /// # Errors
    /// [`PartError::Unclaimed`].
    pub fn finish(self) -> Result<(), PartError> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some(part) => Err(PartError::Unclaimed(part.name)),
        }
    }

    /// The parts, in the order in which they were put.
    pub fn iter(&self) -> impl Iterator<Item = &Part> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let mut parts = Parts::default();
        parts.put("clock", 2, &(7_u64, true));
        parts
    }

    #[test]
    fn what_was_put_is_taken_once() {
        let mut parts = parts();
        assert_eq!(parts.take("clock", 2), Ok((7_u64, true)));
        assert_eq!(parts.take::<u64>("clock", 2), Err(PartError::Missing("clock")));
        assert_eq!(parts.finish(), Ok(()));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        assert_eq!(
            parts().take::<(u64, bool)>("clock", 3),
            Err(PartError::Version {
                name: "clock",
                found: 2,
                supported: 3
            })
        );
        let left_over = parts().take::<u64>("clock", 2).unwrap_err().to_string();
        assert!(left_over.contains("1 bytes are left over"), "{left_over}");
        assert!(matches!(
            parts().take::<(u64, bool, u64)>("clock", 2),
            Err(PartError::Refused { .. })
        ));
        assert_eq!(parts().finish(), Err(PartError::Unclaimed("clock".into())));
    }
}
