//! What a logging channel belongs to, and how its log is counted.

use std::fmt;

use antipode_certs::Name;
use antipode_tiebreaker::{Generation, Incarnation, PairingId};

pub use crate::base::units::LogSeq;

const TAG_CONTEXT: &str = "antipode 2026 channel session tag";

/// One pairing of two sites for one VM: what acknowledgements and heartbeats are for (P2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The VM.
    pub vm: Name,
    /// Which VM of this name.
    pub incarnation: Incarnation,
    /// That of the solo record under which the pairing was begun.
    pub generation: Generation,
    /// The pairing.
    pub pairing: PairingId,
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            vm,
            incarnation,
            generation,
            pairing,
        } = self;
        write!(
            f,
            "{vm} (incarnation {incarnation}, generation {generation}, pairing {pairing})"
        )
    }
}

impl Session {
    /// The bytes of [`Self::tag`]: what the log's chain is anchored to.
    #[must_use]
    pub fn tag_bytes(&self) -> [u8; 16] {
        self.tag().0
    }

    /// What stands for it in each frame and datagram.
    #[must_use]
    pub fn tag(&self) -> Tag {
        let mut hasher = blake3::Hasher::new_derive_key(TAG_CONTEXT);
        // The numbers first: they have one length, so no two sessions are written alike.
        for number in [self.incarnation.0, self.generation.0, self.pairing.0] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(self.vm.as_str().as_bytes());
        let mut tag = [0; Tag::BYTES];
        hasher.finalize_xof().fill(&mut tag);
        Tag(tag)
    }
}

/// A digest of a [`Session`], by which frames and datagrams of others are told apart. No secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tag(pub(super) [u8; Tag::BYTES]);

impl Tag {
    pub(super) const BYTES: usize = 16;
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({:032x})", u128::from_be_bytes(self.0))
    }
}

/// Which end of a session one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// Its copy of the VM is live, or was when the session began; it writes the log.
    Primary = 1,
    /// Its copy follows the log.
    Backup = 2,
}

impl Side {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Primary => Self::Backup,
            Self::Backup => Self::Primary,
        }
    }

    pub(super) const fn parse(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Primary),
            2 => Some(Self::Backup),
            _ => None,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_differ_in_anything_have_different_tags() {
        let session = |vm: &str, incarnation, generation, pairing| Session {
            vm: vm.parse().unwrap(),
            incarnation: Incarnation(incarnation),
            generation: Generation(generation),
            pairing: PairingId(pairing),
        };
        let all = [
            session("web", 1, 2, 3),
            session("web1", 1, 2, 3),
            session("web", 2, 2, 3),
            session("web", 1, 3, 3),
            session("web", 1, 2, 4),
            session("web", 2, 1, 3),
        ];
        for (index, one) in all.iter().enumerate() {
            assert_eq!(one.tag(), one.clone().tag());
            assert!(all[index + 1..].iter().all(|other| other.tag() != one.tag()));
        }
    }
}
