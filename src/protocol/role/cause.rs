//! Why things are as they are, in words that an operator can use.

use serde::{Deserialize, Serialize};

use crate::protocol::detector::Suspicion;

/// Why a role ends a pairing of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Leaving {
    /// An operator ended the protection.
    #[error("protection was ended by command")]
    Unprotected,
    /// The copy was not the same machine any more.
    #[error("the backup's copy diverged")]
    Diverged,
    /// The backup's disk failed.
    #[error("the backup could not write its replica")]
    ReplicaFailed,
    /// The live site's disk failed, while the other one's did not.
    #[error("the disk of the site that was live failed")]
    DiskFailed,
    /// The VM ended there.
    #[error("the VM process at the other site ended")]
    VmFailed,
    /// The transfer failed there.
    #[error("the transfer could not go on at the other site")]
    TransferFailed,
}

/// Why a state is not the one that is wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The other site was suspected.
    #[error("the other site was lost: {}", describe(*.0))]
    PeerLost(Suspicion),
    /// The other site has left the pairing.
    #[error("{0}")]
    PeerLeft(Leaving),
    /// This site has left the pairing.
    #[error("{0}")]
    SelfLeft(Leaving),
    /// By command.
    #[error("protection was ended by command")]
    Unprotected,
    /// The transfer failed.
    #[error("the transfer to the other site could not go on")]
    TransferFailed,
    /// The stun took too long.
    #[error("the last part of the transfer took too long and was given up")]
    StunTooLong,
    /// The tiebreaker would not make the pairing.
    #[error("the tiebreaker refused the pairing")]
    PairingRefused,
    /// The backup has renounced while the tiebreaker did not answer.
    #[error("the tiebreaker did not confirm the pairing in time, and the other site has given it up")]
    Renounced,
    /// The pairing was given up before it was confirmed.
    #[error("the pairing ended before it was confirmed")]
    NeverConfirmed,
    /// The record says that somebody else holds the VM.
    #[error("the other site holds the VM")]
    Lost,
    /// The tiebreaker does not answer.
    #[error("the tiebreaker does not answer; outputs are held until it does")]
    TiebreakerSilent,
    /// The tiebreaker does not answer while nothing is asked of it that matters now.
    #[error("the tiebreaker does not answer; if a site were lost now, the other one could not go on")]
    TiebreakerAway,
    /// A comparison of the two disks has found what could not be mended, or not yet.
    #[error(
        "the two sites' disks differ in what was compared; if this site were lost, the VM would go on with other data"
    )]
    DisksDiffer,
    /// The backup's copy is another machine and is being made the same again.
    #[error(
        "the backup's copy differs and is being repaired; if the primary were lost now, neither site could go on"
    )]
    CopyDiffers,
    /// The primary that was to yield is not told whether it has.
    #[error("the other site was not told in time whether the VM may be switched over")]
    SwapUnknown,
    /// This host did not run for a while.
    #[error(
        "this host stood still for a while; outputs are held until the tiebreaker confirms that this site is live"
    )]
    Awoken,
    /// The replica cannot be started from.
    #[error("this site's replica is not whole")]
    ReplicaNotClean,
    /// Only the site that was primary has all on its disk.
    #[error("only the other site's disk holds all that was acknowledged")]
    OnlyPrimaryMayStart,
    /// The record has no place for this site.
    #[error("the record has no place for this site")]
    NotASite,
    /// The tiebreaker would not grant the start.
    #[error("the tiebreaker refused the start")]
    StartRefused,
    /// The guest stopped.
    #[error("the guest stopped in order")]
    Stopped,
    /// The VM ended.
    #[error("the VM ended by an error")]
    VmFailed,
}

const fn describe(suspicion: Suspicion) -> &'static str {
    match suspicion {
        Suspicion::Silence => "nothing was heard of it",
        Suspicion::Deaf => "it did not hear this site",
        Suspicion::AckTimeout => "it did not acknowledge in time",
        Suspicion::Stall => "its replay stood still",
        Suspicion::FlushTimeout => "its disk did not flush in time",
        Suspicion::ChannelDown => "the logging channel did not come back",
    }
}

/// Why a command is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refused {
    /// It does not fit what the VM does here.
    #[error("the VM's state here does not allow this")]
    State,
    /// Something else is under way.
    #[error("something else is under way; look at the status and ask again")]
    Busy,
    /// The tiebreaker does not answer, and without it this would hold the VM's outputs.
    #[error("the tiebreaker does not answer; nothing was changed")]
    TiebreakerSilent,
    /// There is no other site to go on.
    #[error(
        "the VM is not protected, so there is no site to switch over to; `antipode vm protect` makes one"
    )]
    NotProtected,
    /// The backup is suspected, or was not heard just now.
    #[error("the other site is not heard, or does not get on; the VM goes on here")]
    PeerSilent,
    /// The backup would need too long to come to where the primary stands.
    #[error("the backup is too far behind; ask again when its lag has fallen")]
    LagTooHigh,
    /// The backup did not confirm in time.
    #[error("the backup did not come to the same place in time; the VM goes on where it was")]
    SwitchTooLong,
    /// By command.
    #[error("the switchover was cancelled; the VM goes on where it was")]
    Cancelled,
    /// `swap` was asked for: nobody can take that back.
    #[error("the tiebreaker has been asked to switch over; its answer decides")]
    TooLate,
    /// The tiebreaker would not swap.
    #[error("the tiebreaker refused to switch over; the VM goes on where it was")]
    SwapRefused,
}
