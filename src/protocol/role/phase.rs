//! The states.

use serde::{Deserialize, Serialize};

/// On which side of a pairing this site is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Its copy was the live one.
    Primary,
    /// Its copy followed.
    Backup,
}

/// The states; [`super`] draws them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing runs here and nothing was asked for yet.
    Idle,
    /// Nothing runs; the start is being asked for.
    Starting,
    /// Live, alone.
    Alone,
    /// Live, alone; the disk goes to the other site.
    Syncing,
    /// Live, alone; RAM goes to the other site.
    Cloning,
    /// The guest stands still; the rest goes to the other site.
    Stunned,
    /// Live in lockstep; `pair` is unanswered, outputs are held.
    Pairing,
    /// Live; a pairing that was asked for is being taken back, outputs are held.
    Cancelling,
    /// Live, alone; the backup has renounced a pairing that is still being taken back.
    Settling,
    /// Live; outputs wait for acknowledgements.
    Primary,
    /// The other one is suspected. The primary's outputs wait; the backup replays and makes its replica durable.
    Suspecting(Side),
    /// The backup has closed the channel; what it received is being replayed and made durable.
    Closing,
    /// `claim` is unanswered.
    Claiming(Side),
    /// The guest stops, or has stopped and the backup has not confirmed it yet.
    Stopping,
    /// `park` is unanswered.
    Parking,
    /// The guest is to stand still, or does, so that the other site may go on; the backup has not confirmed.
    Yielding,
    /// `swap` is unanswered; the guest stands still.
    Swapping,
    /// The other site's machine arrives here.
    Joining,
    /// Follows; the pairing is not confirmed, as far as this site knows.
    Candidate,
    /// Follows.
    Backup,
    /// Follows to the end of a clean stop.
    Halting,
    /// Stopped in order at the primary's position, durable; the record is being parked.
    Halted,
    /// Follows to where the primary stands still, to go on in its place.
    Taking,
    /// Stands there, durable, and waits for the outcome of the other site's `swap`.
    Poised,
    /// Nothing runs here; this site's replica is behind. The end.
    Stale,
    /// Nothing runs here; the replica is whole. The end.
    Stopped,
}

impl Phase {
    /// Whether this site's guest is the live one, as far as it knows.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(
            self,
            Self::Alone
                | Self::Syncing
                | Self::Cloning
                | Self::Stunned
                | Self::Pairing
                | Self::Cancelling
                | Self::Settling
                | Self::Primary
                | Self::Suspecting(Side::Primary)
                | Self::Claiming(Side::Primary)
                | Self::Stopping
                | Self::Parking
                | Self::Yielding
                | Self::Swapping
        )
    }

    /// Whether this site's copy follows the other one's.
    #[must_use]
    pub const fn follows(self) -> bool {
        matches!(
            self,
            Self::Candidate
                | Self::Backup
                | Self::Suspecting(Side::Backup)
                | Self::Closing
                | Self::Claiming(Side::Backup)
                | Self::Halting
                | Self::Halted
                | Self::Taking
                | Self::Poised
        )
    }

    /// Whether the role has come to its end: the process ends, and another one begins anew.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Stale | Self::Stopped)
    }

    /// What an operator calls it.
    #[must_use]
    pub const fn name(self) -> PhaseName {
        match self {
            Self::Idle => PhaseName::Idle,
            Self::Starting => PhaseName::Starting,
            Self::Alone => PhaseName::Unprotected,
            Self::Syncing => PhaseName::Syncing,
            Self::Cloning => PhaseName::Cloning,
            Self::Stunned => PhaseName::Stunned,
            Self::Pairing => PhaseName::Pairing,
            Self::Cancelling => PhaseName::Cancelling,
            Self::Settling => PhaseName::Settling,
            Self::Primary => PhaseName::Primary,
            Self::Suspecting(_) | Self::Closing => PhaseName::Suspecting,
            Self::Claiming(_) => PhaseName::Claiming,
            Self::Stopping => PhaseName::Stopping,
            Self::Parking => PhaseName::Parking,
            Self::Yielding | Self::Swapping | Self::Taking | Self::Poised => PhaseName::Switching,
            Self::Joining => PhaseName::Joining,
            Self::Candidate => PhaseName::Candidate,
            Self::Backup => PhaseName::Backup,
            Self::Halting | Self::Halted => PhaseName::Stopping,
            Self::Stale => PhaseName::Stale,
            Self::Stopped => PhaseName::Stopped,
        }
    }
}

/// A state's name in status and messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the words that an operator reads; `Phase` says what each is"
)]
pub enum PhaseName {
    Idle,
    Starting,
    Unprotected,
    /// Live, alone, after the other site was lost.
    Solo,
    Syncing,
    Cloning,
    Stunned,
    Pairing,
    Cancelling,
    Settling,
    Primary,
    Suspecting,
    Claiming,
    /// A request's outcome is unknown; nothing leaves until it is.
    Frozen,
    Stopping,
    Parking,
    Switching,
    Joining,
    Candidate,
    Backup,
    Stale,
    Stopped,
}
