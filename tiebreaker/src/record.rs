//! What is kept of one VM.

use std::fmt;

use antipode_certs::{Identity, Name, Role};
use serde::{Deserialize, Deserializer, Serialize};

use crate::limits::{
    CHANGES_MAX, HISTORY_DECISIONS_MAX, HISTORY_ENTRIES_READ_MAX, HISTORY_MOVES_MAX, HISTORY_SETTINGS_MAX,
    REMEMBERED_PER_ROLE_MAX,
};
use crate::request::{Answer, Operation, Reason, RequestId};

macro_rules! numbers {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
            #[serde(transparent)]
            pub struct $name(pub u64);

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.fmt(f)
                }
            }
        )+
    };
}

numbers! {
    /// Counts the changes of holder since the name was first registered. Never falls, not even over a retirement.
    Generation;
    /// Counts the VMs that have had this name, one after the other.
    Incarnation;
    /// Names one pairing of two sites. Drawn by the primary, never used twice.
    PairingId;
    /// Names one start of a site's process for this VM: a process that starts again is another holder.
    Boot;
    /// Counted exits before a point of guest execution (E5).
    Position;
}

impl Generation {
    /// That of a name that was never registered.
    pub const NONE: Self = Self(0);

    /// The one after this.
    ///
    /// # Panics
    /// After 2^64 changes, which no cluster lives to see.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(
            self.0
                .checked_add(1)
                .expect("fewer than 2^64 changes are ever made"),
        )
    }
}

/// When a guest's flush is complete (P8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flush {
    /// When it is durable at the live site. The backup's replica may be behind: it cannot start from it alone.
    Site,
    /// When it is durable at both. Then the backup may start from its replica too.
    Both,
}

/// Who may be live.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Two sites in lockstep. The primary is live; either may claim.
    Paired {
        /// The live site.
        primary: Name,
        /// The site that follows.
        backup: Name,
        /// Their pairing.
        pairing: PairingId,
        /// How flushes are made under it.
        flush: Flush,
    },
    /// One site alone.
    Solo {
        /// The site.
        site: Name,
        /// The start that holds it; none if an operator has put the site here and it has not started yet.
        boot: Option<Boot>,
    },
    /// Stopped in order. Either site may start it again, from the same disk content.
    Parked {
        /// The site that was live.
        primary: Name,
        /// The one that followed, if there was one: it has the same content.
        backup: Option<Name>,
        /// Where the guest stopped.
        position: Position,
    },
    /// Given up. The name may be registered anew, as the next incarnation.
    Retired,
}

impl State {
    /// Every site that has a place in it.
    #[must_use]
    pub fn sites(&self) -> Vec<&Name> {
        match self {
            Self::Paired { primary, backup, .. } => vec![primary, backup],
            Self::Solo { site, .. } => vec![site],
            Self::Parked { primary, backup, .. } => std::iter::once(primary).chain(backup).collect(),
            Self::Retired => Vec::new(),
        }
    }

    /// Whether `site` has a place in it.
    #[must_use]
    pub fn names(&self, site: &Name) -> bool {
        self.sites().contains(&site)
    }
}

/// What an operator sets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settings {
    /// The site that gets a head start when both could go live (P5).
    pub preferred: Option<Name>,
    /// How flushes shall be made. A pairing is made in this way or not at all; a standing one keeps its own.
    pub flush: Flush,
}

/// One of [`Operation::NAMES`]. An alias, so that serde does not take it for text borrowed from what it reads.
pub type OperationName = &'static str;

/// What became of a change, as the history tells it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The generation that it made (of `configure`, that it kept).
    pub generation: Generation,
    /// Who asked.
    pub by: Identity,
    /// The name of the operation.
    #[serde(deserialize_with = "operation_name")]
    pub operation: OperationName,
    /// Of `force`, the site that may start. A record from before this was kept has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Name>,
    /// Why, where an operator had to say it.
    pub reason: Option<Reason>,
    /// When, in seconds since 1970 on the clock of the node that took the request. For readers alone.
    pub at_unix_seconds: i64,
}

/// Entries of one kind push out each other alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A site has moved the VM.
    Move,
    /// An operator has set what the VM prefers.
    Setting,
    /// An operator has decided by hand, and said why.
    Decision,
}

impl Kind {
    const fn entries_max(self) -> usize {
        match self {
            Self::Move => HISTORY_MOVES_MAX,
            Self::Setting => HISTORY_SETTINGS_MAX,
            Self::Decision => HISTORY_DECISIONS_MAX,
        }
    }
}

impl HistoryEntry {
    fn kind(&self) -> Kind {
        match (&self.by.role, &self.reason) {
            (_, Some(_)) => Kind::Decision,
            (Role::Operator, None) => Kind::Setting,
            _ => Kind::Move,
        }
    }
}

fn operation_name<'de, D: Deserializer<'de>>(from: D) -> Result<&'static str, D::Error> {
    let word = String::deserialize(from)?;
    let known = Operation::NAMES.iter().find(|name| **name == word);
    known
        .copied()
        .ok_or_else(|| serde::de::Error::custom(format!("{word:?} is no operation")))
}

/// The last request of one requester and what it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Remembered {
    /// Who asked.
    pub by: Identity,
    /// The request's number.
    pub id: RequestId,
    /// The generation that it named.
    pub expected: Generation,
    /// What it asked for.
    pub operation: Operation,
    /// What it was answered.
    pub answer: Answer,
}

/// What is kept of one VM, by whoever keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Which VM of this name.
    pub incarnation: Incarnation,
    /// How many changes of holder there were.
    pub generation: Generation,
    /// Who may be live.
    pub state: State,
    /// What an operator has set.
    pub settings: Settings,
    /// The last changes of each kind, the newest last: what sites do never pushes out what an operator has decided.
    pub history: Vec<HistoryEntry>,
    /// The last answers, the newest last.
    pub remembered: Vec<Remembered>,
}

/// A record that no node has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A longer history, or more answers, than are kept.
    #[error("it keeps more than a record does")]
    TooLong,
    /// A generation or incarnation that is never reached.
    #[error("it counts more changes than there can have been")]
    Count,
}

/// What [`crate::decide`] makes of a record and a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The record from now on; none while the name was never registered.
    pub record: Option<Record>,
    /// What the caller is told.
    pub answer: Answer,
}

impl Record {
    /// What `by` was last answered.
    #[must_use]
    pub fn remembered_of(&self, by: &Identity) -> Option<&Remembered> {
        self.remembered.iter().find(|last| last.by == *by)
    }

    /// Whether it is within the bounds of every record: of one that comes from elsewhere.
    ///
    /// # Errors
    /// Where it is not.
    pub fn check(&self) -> Result<(), RecordError> {
        if self.history.len() > HISTORY_ENTRIES_READ_MAX
            || self.remembered.len() > 2 * REMEMBERED_PER_ROLE_MAX
        {
            return Err(RecordError::TooLong);
        }
        if self.generation.0.max(self.incarnation.0) > CHANGES_MAX {
            return Err(RecordError::Count);
        }
        Ok(())
    }

    pub(crate) fn remember(&mut self, last: Remembered) {
        self.remembered.retain(|other| other.by != last.by);
        let of_role = |other: &&Remembered| other.by.role == last.by.role;
        if self.remembered.iter().filter(of_role).count() >= REMEMBERED_PER_ROLE_MAX
            && let Some(oldest) = self.remembered.iter().position(|other| of_role(&other))
        {
            self.remembered.remove(oldest);
        }
        self.remembered.push(last);
    }

    pub(crate) fn note(&mut self, entry: HistoryEntry) {
        let alike = |other: &HistoryEntry| other.kind() == entry.kind();
        let count = self.history.iter().filter(|other| alike(other)).count();
        let mut surplus = (count + 1).saturating_sub(entry.kind().entries_max());
        self.history.retain(|other| {
            let goes = surplus > 0 && alike(other);
            surplus -= usize::from(goes);
            !goes
        });
        self.history.push(entry);
    }
}
