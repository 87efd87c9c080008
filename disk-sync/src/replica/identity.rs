//! Names: of a VM, of a replica, of what a replica holds.

use std::fmt;
use std::str::FromStr;

use crate::codec::{Malformed, Reader, Writer};
use crate::limits::{LINEAGE_HISTORY_MAX, VM_ID_BYTES_MAX};

/// What a VM is called: lower-case letters, digits and dashes, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmId(String);

/// Text that is no VM's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no VM id: 1 to {VM_ID_BYTES_MAX} lower-case letters, digits and dashes, beginning with no dash"
)]
pub struct VmIdError(String);

impl FromStr for VmId {
    type Err = VmIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=VM_ID_BYTES_MAX).contains(&text.len()) && !text.starts_with('-');
        if !fits || !text.bytes().all(is_good) {
            return Err(VmIdError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl VmId {
    pub(crate) fn write(&self, to: &mut Writer) {
        let length = u8::try_from(self.0.len()).unwrap_or(u8::MAX);
        to.u8(length).bytes(self.0.as_bytes());
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let length = from.u8()?;
        let text = std::str::from_utf8(from.bytes(usize::from(length))?);
        text.ok()
            .and_then(|text| text.parse().ok())
            .ok_or(Malformed::Field("VM id"))
    }
}

macro_rules! random_names {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $name(pub [u8; 16]);

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
                }
            }

            impl fmt::Debug for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    fmt::Display::fmt(self, f)
                }
            }
        )+
    };
}

random_names! {
    /// Names one replica for as long as its metadata lives. Drawn at random.
    ReplicaId;
    /// Names a content and all that grows from it while no other replica is lost. Drawn at random.
    GenerationId;
}

/// Where a replica's content comes from, after DRBD's generation identifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// What it is now.
    pub current: GenerationId,
    /// What it was when it was last equal to another replica, if it has moved on alone since: the point from which
    /// the dirty map counts.
    pub base: Option<GenerationId>,
    /// What it was before, the latest first.
    pub history: Vec<GenerationId>,
}

impl Lineage {
    /// That of a new content.
    #[must_use]
    pub const fn new(current: GenerationId) -> Self {
        Self {
            current,
            base: None,
            history: Vec::new(),
        }
    }

    /// Goes on alone as `next`.
    pub(crate) fn advance(&mut self, next: GenerationId) {
        // A second loss before the first was made good: the map still counts from the first.
        self.base = self.base.or(Some(self.current));
        self.history.insert(0, self.current);
        self.history.truncate(LINEAGE_HISTORY_MAX);
        self.current = next;
    }

    /// Whether it is or once was this.
    #[must_use]
    pub fn holds(&self, generation: GenerationId) -> bool {
        self.current == generation || self.history.contains(&generation)
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.bytes(&self.current.0);
        write_option(to, self.base.map(|base| base.0).as_ref());
        to.count(self.history.len());
        for generation in &self.history {
            to.bytes(&generation.0);
        }
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let current = GenerationId(from.array()?);
        let base = read_option(from, "base")?.map(GenerationId);
        let count = from.count(LINEAGE_HISTORY_MAX, "history")?;
        let history: Result<_, _> = (0..count).map(|_| from.array().map(GenerationId)).collect();
        Ok(Self {
            current,
            base,
            history: history?,
        })
    }
}

/// A flag, and what it announces.
pub(crate) fn write_option<const N: usize>(to: &mut Writer, value: Option<&[u8; N]>) {
    to.u8(u8::from(value.is_some()));
    if let Some(value) = value {
        to.bytes(value);
    }
}

pub(crate) fn read_option<const N: usize>(
    from: &mut Reader<'_>,
    what: &'static str,
) -> Result<Option<[u8; N]>, Malformed> {
    Ok(if from.flag(what)? {
        Some(from.array()?)
    } else {
        None
    })
}

/// Which content a target is being made equal to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncKey {
    /// The replica that it is copied from.
    pub source: ReplicaId,
    /// The generation of that replica.
    pub generation: GenerationId,
}

/// What may be done with a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It holds what its lineage says; it may go live.
    Clean,
    /// It lacks writes that its lineage knows of, or holds nothing yet: it must be synced before it may go live.
    Stale,
    /// It is being overwritten: part old, part new. It may not go live until that is finished.
    Syncing(SyncKey),
}

impl State {
    /// How it is shown.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Stale => "stale",
            Self::Syncing(_) => "syncing",
        }
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        match self {
            Self::Clean => to.u8(0),
            Self::Stale => to.u8(1),
            Self::Syncing(key) => to.u8(2).bytes(&key.source.0).bytes(&key.generation.0),
        };
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match from.u8()? {
            0 => Self::Clean,
            1 => Self::Stale,
            2 => Self::Syncing(SyncKey {
                source: ReplicaId(from.array()?),
                generation: GenerationId(from.array()?),
            }),
            _ => return Err(Malformed::Field("state")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_vms_are_labels() {
        for good in ["a", "web-1", "0"] {
            assert_eq!(good.parse::<VmId>().unwrap().to_string(), good);
        }
        for bad in ["", "-a", "A", "a b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<VmId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_base_stays_until_it_is_made_good() {
        let id = |byte| GenerationId([byte; 16]);
        let mut lineage = Lineage::new(id(1));
        lineage.advance(id(2));
        lineage.advance(id(3));
        assert_eq!((lineage.current, lineage.base), (id(3), Some(id(1))));
        assert_eq!(lineage.history, [id(2), id(1)]);
        assert!(lineage.holds(id(1)) && !lineage.holds(id(4)));
        (4..100).for_each(|byte| lineage.advance(id(byte)));
        assert_eq!(lineage.history.len(), LINEAGE_HISTORY_MAX);
    }
}
