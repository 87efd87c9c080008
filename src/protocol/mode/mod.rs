//! How the two copies of a VM are kept the same: by replay, or by checkpoints (H4).
//!
//! ```text
//!            the table says so, and the stay is over; or the operator
//!   replay ─────────────────────────────────────────────────────────▶ checkpoint
//!      ▲                                                                  │
//!      └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Lockstep begins in replay. [`Meter`] measures what the guest costs there, the [table](policy.txt) says what follows, and
//! [`Policy`] sees to it that it does not swing:
//!
//! - A mode lasts [`super::limits::MODE_STAY_MIN`] at least. What is measured just after a change is of neither mode.
//! - A mode that was tried and left again for trouble puts the next try of it off, twice as long each time, up to
//!   [`super::limits::MODE_STAY_MAX`]: a guest that leaks shows none of it under checkpoints, and only a try of replay can
//!   tell whether it still does. One that has lasted for [`super::limits::MODE_LASTS`] beyond its stay was no try that failed.
//! - An operator's choice counts at once and always.
//!
//! [`Checkpointer`] goes from one to the other and takes checkpoints where something waits for them.
//!
//! [`Account`] says what each has cost. All of it is pure.

mod account;
mod checkpointer;
mod meter;
mod policy;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::account::{Account, Modes, ShownWay, Way};
pub use self::checkpointer::{CheckpointEffect, CheckpointEvent, Checkpointer, Step};
pub use self::meter::{Meter, Rates};
pub use self::policy::{Decision, Policy, answer};

/// How a copy is kept the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It executes what the log tells.
    #[default]
    Replay,
    /// It executes nothing and becomes, now and then, what the other one is.
    Checkpoint,
}

/// What a VM's definition wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// What the table says.
    #[default]
    Auto,
    /// That mode, whatever it costs.
    Always(Mode),
}

/// Why the mode has changed: a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The VM's definition wants it.
    Chosen,
    /// The copy was found to be another machine too often.
    Differs,
    /// The guest is stopped so often while it computes that the log is full of its pages.
    Computes,
    /// Outputs wait behind the pages of a guest that computes.
    OutputsWait,
    /// Checkpoints carry too much.
    Dear,
    /// Outputs wait too long for checkpoints.
    Slow,
    /// What the mode was changed for is no more, as far as can be seen.
    Calm,
}

impl Cause {
    /// Those that the table may name.
    pub const OF_TABLE: &[Self] = &[
        Self::Differs,
        Self::Computes,
        Self::OutputsWait,
        Self::Dear,
        Self::Slow,
        Self::Calm,
    ];

    /// As it is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Differs => "differs",
            Self::Computes => "computes",
            Self::OutputsWait => "outputs-wait",
            Self::Dear => "dear",
            Self::Slow => "slow",
            Self::Calm => "calm",
        }
    }

    /// The mode that was left by it was left for trouble.
    #[must_use]
    pub const fn is_trouble(self) -> bool {
        !matches!(self, Self::Chosen | Self::Calm)
    }
}

impl Mode {
    /// Both.
    pub const ALL: &[Self] = &[Self::Replay, Self::Checkpoint];

    /// As it is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Checkpoint => "checkpoint",
        }
    }
}
