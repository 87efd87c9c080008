//! What may be asked, and what is answered.

use std::fmt;

use antipode_certs::Name;
use serde::{Deserialize, Serialize};

use crate::limits::REASON_BYTES_MAX;
use crate::record::{Boot, Flush, Generation, PairingId, Position, State};

/// Numbers the requests of one requester, upwards. A copy of a request has its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

/// Why an operator does what cannot be undone; kept in the history.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reason(String);

/// A text that is no reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reason is 1 to {REASON_BYTES_MAX} bytes of text on one line")]
pub struct ReasonError;

impl Reason {
    /// `text` as a reason.
    ///
    /// # Errors
    /// Where it is empty, too long, or holds control characters.
    pub fn new(text: &str) -> Result<Self, ReasonError> {
        let sound = (1..=REASON_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(ReasonError)
        }
    }
}

impl TryFrom<String> for Reason {
    type Error = ReasonError;

    fn try_from(text: String) -> Result<Self, ReasonError> {
        Self::new(&text)
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a live site holds a VM by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Its start, alone.
    Boot(Boot),
    /// Its pairing, as the primary.
    Pairing(PairingId),
}

/// A change that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// By a site: this VM runs here from now on. The name is free.
    Register {
        /// The start that will hold it.
        boot: Boot,
    },
    /// By either site of a pairing: it goes on alone.
    Claim {
        /// The pairing that it was in.
        pairing: PairingId,
        /// The start that will hold it.
        boot: Boot,
    },
    /// By the solo site: the other one is in lockstep.
    Pair {
        /// The start that holds it.
        boot: Boot,
        /// The other site.
        backup: Name,
        /// A new name for their pairing.
        pairing: PairingId,
        /// How flushes are made under it.
        flush: Flush,
    },
    /// By the solo site: no `pair` that it has sent before may still be granted. Needed before any output that the
    /// other site has not acknowledged, after a pairing that was given up half made.
    CancelPair {
        /// The start that holds it.
        boot: Boot,
    },
    /// By the primary, stopped at a position that the backup has confirmed: the roles turn round.
    Swap {
        /// The pairing that it is in.
        pairing: PairingId,
        /// The name of the turned pairing.
        turned: PairingId,
    },
    /// By the live site: the VM is stopped in order and durable at `position`, at both sites if it was paired.
    Park {
        /// What the live site holds it by.
        hold: Hold,
        /// Where the guest stopped.
        position: Position,
    },
    /// By a site that has just started and runs nothing: it starts the VM from its disk.
    ColdStart {
        /// The start that will hold it.
        boot: Boot,
    },
    /// By an operator: what is set for this VM.
    Configure {
        /// The site with the head start.
        preferred: Option<Name>,
        /// How flushes shall be made from the next pairing on.
        flush: Flush,
    },
    /// By an operator who knows that no other site is live: `site` alone may start, whatever it has.
    Force {
        /// The site.
        site: Name,
        /// Why.
        reason: Reason,
    },
    /// By an operator: the VM is given up.
    Retire {
        /// Why.
        reason: Reason,
    },
}

impl Operation {
    /// Every name that [`Operation::name`] gives.
    pub const NAMES: [&'static str; 10] = [
        "register",
        "claim",
        "pair",
        "cancel_pair",
        "swap",
        "park",
        "cold_start",
        "configure",
        "force",
        "retire",
    ];

    /// The name used in histories and messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Register { .. } => "register",
            Self::Claim { .. } => "claim",
            Self::Pair { .. } => "pair",
            Self::CancelPair { .. } => "cancel_pair",
            Self::Swap { .. } => "swap",
            Self::Park { .. } => "park",
            Self::ColdStart { .. } => "cold_start",
            Self::Configure { .. } => "configure",
            Self::Force { .. } => "force",
            Self::Retire { .. } => "retire",
        }
    }

    /// Whether it is an operator's; all others are a site's.
    #[must_use]
    pub const fn is_operators(&self) -> bool {
        matches!(
            self,
            Self::Configure { .. } | Self::Force { .. } | Self::Retire { .. }
        )
    }
}

/// A change that is asked for, in the record that the requester knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Request {
    /// The request's number.
    pub id: RequestId,
    /// The generation to change; [`Generation::NONE`] of a name that was never registered.
    pub expected: Generation,
    /// What is asked for.
    pub operation: Operation,
    /// When the node took it, in seconds since 1970. For the history alone.
    pub at_unix_seconds: i64,
}

/// Why a change is refused. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The operation belongs to another role.
    #[error("the caller's role may not ask for this")]
    Role,
    /// The caller has asked for something later already: this is an old copy.
    #[error("the caller has made a later request since")]
    Superseded,
    /// The caller has used this number for another request.
    #[error("the request's number belongs to another request of the caller")]
    NumberReused,
    /// There is no such VM.
    #[error("there is no such VM")]
    Unknown,
    /// There is one already.
    #[error("there is such a VM already")]
    Registered,
    /// Another change came first, or the caller knows an old record.
    #[error("the record has another generation")]
    Generation,
    /// The caller has no place in the record.
    #[error("the caller is no site of this VM")]
    NotASite,
    /// The operation is for a VM in another state.
    #[error("the VM's state does not allow this")]
    State,
    /// The pairing is another one, or the turned one has the name of the old.
    #[error("the pairing is another one")]
    Pairing,
    /// Another start of the caller's holds the record, or the new start is the old one.
    #[error("the start is not the one that it must be")]
    Boot,
    /// The caller is not the primary, and only that one may.
    #[error("only the primary may")]
    NotPrimary,
    /// The backup's replica may lack what clients were told: it cannot start from it.
    #[error("the backup's disk was not kept durable with the primary's")]
    NotDurable,
    /// The pairing makes flushes in another way than the operator wants.
    #[error("flushes are to be made in another way")]
    Flush,
}

impl Refusal {
    /// The name used in JSON and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::Superseded => "superseded",
            Self::NumberReused => "number-reused",
            Self::Unknown => "unknown",
            Self::Registered => "registered",
            Self::Generation => "generation",
            Self::NotASite => "not-a-site",
            Self::State => "state",
            Self::Pairing => "pairing",
            Self::Boot => "boot",
            Self::NotPrimary => "not-primary",
            Self::NotDurable => "not-durable",
            Self::Flush => "flush",
        }
    }
}

/// What a caller is told: whether it won, and who holds the VM at that moment, so that a loser knows by whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Answer {
    /// Granted, or why not.
    pub verdict: Result<(), Refusal>,
    /// The record's generation after the request.
    pub generation: Generation,
    /// Who may be live after the request; none if there is no such VM.
    pub state: Option<State>,
}
