//! What happens to a role.

use std::time::Duration;

use antipode_tiebreaker::{Answer, Flush, Generation, PairingId, Record, RequestId};
use serde::{Deserialize, Serialize};

use super::cause::{Leaving, Refused};
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::protocol::detector::{Heard, Waits};
use crate::protocol::lag::Lag;

/// What this site's replica is, by its own metadata (D1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replica {
    /// Whole, and of the lineage that its metadata says.
    Clean,
    /// Behind, or of a history that was not the one that went on.
    Stale,
    /// A sync into it has not ended.
    Syncing,
}

/// What is wanted of the VM here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Start it from its disk.
    Start {
        /// What the disk is.
        replica: Replica,
    },
    /// Go on with it after an outage, if it was running when that began and is this site's to start.
    Resume {
        /// What the disk is.
        replica: Replica,
    },
    /// Become the copy of the other site's VM; from its site, which is about to send it.
    Join {
        /// The name of the pairing that is being made.
        pairing: PairingId,
        /// The generation of the other site's record.
        generation: Generation,
    },
    /// Protect it by a copy at the other site.
    Protect {
        /// A name for the pairing that was never used before.
        pairing: PairingId,
    },
    /// End the protection, or the making of it; the VM runs on here.
    Unprotect,
    /// Stop it in order, at both sites.
    Stop,
    /// Let the other site go on in this one's place, or this one in the other's.
    SwitchOver {
        /// A name for the turned pairing that was never used before.
        turned: PairingId,
    },
    /// Do not switch over after all.
    Stay,
}

/// What one role tells the other, over the channel or whatever else connects the two sites. It may be lost with the
/// connection; it never arrives in another pairing than it names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Primary: the pairing is in the record, in this generation.
    Confirmed {
        /// The pairing.
        pairing: PairingId,
        /// The record's generation.
        generation: Generation,
        /// Whether the sender has the head start, should both claim.
        sender_preferred: bool,
        /// How flushes are made in it.
        flush: Flush,
    },
    /// Primary: the tiebreaker does not answer; give the pairing up, durably (P6).
    PleaseRenounce {
        /// The pairing.
        pairing: PairingId,
    },
    /// Backup: it will never act in this pairing, and has noted so durably.
    Renounced {
        /// The pairing.
        pairing: PairingId,
    },
    /// Primary: the guest is stopped in order, at this position.
    Stopping {
        /// The pairing.
        pairing: PairingId,
        /// Where.
        position: ExitOrdinal,
    },
    /// Backup: its copy stands at this position, and its replica is durable there.
    StoppedAt {
        /// The pairing.
        pairing: PairingId,
        /// Where.
        position: ExitOrdinal,
    },
    /// Primary: the record is parked.
    Parked {
        /// The pairing.
        pairing: PairingId,
    },
    /// Backup: an operator at its site wants to switch over.
    PleaseSwitch {
        /// The pairing.
        pairing: PairingId,
        /// A name for the turned one.
        turned: PairingId,
    },
    /// Primary: it does not, though the backup's operator has asked.
    NotSwitched {
        /// The pairing.
        pairing: PairingId,
        /// Why.
        why: Refused,
    },
    /// Primary: its guest stands still at this position, to go on at the other site.
    Turning {
        /// The pairing.
        pairing: PairingId,
        /// The one that it turns into.
        turned: PairingId,
        /// Where.
        position: ExitOrdinal,
    },
    /// Backup: its copy stands there too, is the same machine, and its replica is durable.
    Poised {
        /// The pairing.
        pairing: PairingId,
        /// Where.
        position: ExitOrdinal,
    },
    /// Primary: its guest, which was to stand or stood, goes on.
    GoesOn {
        /// The pairing.
        pairing: PairingId,
    },
    /// Primary: it is no more; the roles have turned round in the record.
    Turned {
        /// The pairing that was.
        pairing: PairingId,
        /// The record's generation.
        generation: Generation,
        /// Whether the sender has the head start, should both claim.
        sender_preferred: bool,
    },
    /// Either: the pairing is over for the sender.
    Left {
        /// The pairing.
        pairing: PairingId,
        /// Why.
        why: Leaving,
    },
}

impl Word {
    /// The pairing that it is about.
    #[must_use]
    pub const fn pairing(&self) -> PairingId {
        match self {
            Self::Confirmed { pairing, .. }
            | Self::PleaseRenounce { pairing }
            | Self::Renounced { pairing }
            | Self::Stopping { pairing, .. }
            | Self::StoppedAt { pairing, .. }
            | Self::Parked { pairing }
            | Self::PleaseSwitch { pairing, .. }
            | Self::NotSwitched { pairing, .. }
            | Self::Turning { pairing, .. }
            | Self::Poised { pairing, .. }
            | Self::GoesOn { pairing }
            | Self::Turned { pairing, .. }
            | Self::Left { pairing, .. } => *pairing,
        }
    }
}

/// What the driver sees of its own VM and channel, at each tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gauges {
    /// The last log frame that was handed to the channel, in this pairing.
    pub logged: LogSeq,
    /// The end of what is in it; of a backup, how far it has replayed.
    pub position: ExitOrdinal,
    /// How far the backup is behind.
    pub lag: Lag,
    /// Since when the oldest output, and the oldest flush, have waited for the other site.
    pub waits: Waits,
    /// The copy is kept the same by checkpoints: for how long one has been under way.
    pub checkpoint: Option<Duration>,
}

impl Gauges {
    /// The lag that a slower guest would make shorter. A copy that becomes checkpoints is behind by what lies between two, too:
    /// that is nobody's fault (H4).
    #[must_use]
    pub fn lateness(&self) -> Duration {
        self.checkpoint
            .map_or(self.lag.time, |under_way| under_way.min(self.lag.time))
    }
}

/// What the backup has acknowledged, in this pairing; cumulative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Acknowledged {
    /// The last log frame that it has received whole, with all before it.
    pub received: LogSeq,
    /// The last one that it has executed to its end, its outputs made and the same.
    pub executed: LogSeq,
    /// How far it has replayed.
    pub replayed: ExitOrdinal,
    /// How far its replica is durable.
    pub durable: ExitOrdinal,
}

/// How far a transfer to the other site is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes done in this phase.
    pub done_bytes: u64,
    /// Bytes that the phase has to do, as known by now.
    pub total_bytes: u64,
    /// Time left, if it can be told.
    pub left: Option<Duration>,
}

/// Names one reading of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReadId(pub u64);

/// Names one replay to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReplayId(pub u64);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An operator, or the other site's supervisor, wants something.
    Command(Command),
    /// Time has passed: at the latest after each heartbeat interval.
    Tick(Gauges),
    /// How far the transfer is. Primary.
    TransferProgress(Progress),
    /// What is left of the disk fits the stun. Primary.
    DiskInSync,
    /// What is left of the RAM fits the stun. Primary.
    RamInSync,
    /// The transfer, in whatever phase, cannot go on. Either side of it.
    TransferFailed,
    /// The other site has restored the whole machine, its digest agrees, its replica is durable and clean. Primary.
    PeerReady,
    /// The same, of this site. Backup.
    Joined,
    /// A heartbeat of the other site arrived.
    PeerHeard(Heard),
    /// Something arrived on the channel; while this site joins, on the connection that its machine comes by.
    ChannelHeard,
    /// The backup acknowledges.
    Acked(Acknowledged),
    /// The channel is down.
    ChannelLost,
    /// It is up again, with nothing missing.
    ChannelResumed,
    /// The other role says something.
    PeerSaid(Word),
    /// The tiebreaker's answer to a request; none if the outcome is unknown.
    Answered {
        /// Which request.
        id: RequestId,
        /// What was answered.
        answer: Option<Box<Answer>>,
    },
    /// The record, as it was at some moment after the reading was asked for; none if nobody answered.
    RecordRead {
        /// Which reading.
        read: ReadId,
        /// The record; none within if there never was one.
        record: Option<Option<Box<Record>>>,
    },
    /// The copy stands at the end of all that was received when that was asked for. Backup.
    ReplayReachedEnd {
        /// Which replay.
        replay: ReplayId,
        /// Where that is.
        position: ExitOrdinal,
        /// Whether every digest up to there agreed.
        agrees: bool,
    },
    /// All disk requests of the copy up to this position are done, and durable. Backup.
    ReplicaDurable {
        /// Where.
        position: ExitOrdinal,
    },
    /// The guest stands still: by [`super::Effect::StandStill`], or, of a copy, because the log says that the primary's
    /// does; its digests agree then.
    StoodStill {
        /// Where.
        position: ExitOrdinal,
        /// The last log frame that was written by then. Primary.
        logged: LogSeq,
    },
    /// The copy is not the same machine any more, and nothing makes it that. Backup.
    ReplayDiverged,
    /// Outputs leave when the backup has made them too, or when it has received what tells of them. Primary, or about to be.
    OutputsVerified(bool),
    /// The other site's copy is being made the same machine again, and acknowledges nothing meanwhile. Primary.
    RepairBegins,
    /// It is no more. Primary.
    RepairEnds,
    /// A write or flush of this site's replica failed. Backup.
    ReplicaFailed,
    /// This site's disk has failed a request of its guest, which has not been told. Live, in a pairing.
    DiskFailed,
    /// The guest is stopped in order, all of its disk requests durable here; by command or by itself.
    GuestStopped {
        /// Where.
        position: ExitOrdinal,
    },
    /// The VM here ended otherwise.
    VmFailed,
}
