//! What a role wants done.

use antipode_tiebreaker::{Flush, Generation, Operation, PairingId, RequestId};
use serde::{Deserialize, Serialize};

use super::cause::Refused;
use super::event::{ReadId, ReplayId, Word};
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::protocol::lag::CpuShare;

/// A request that was sent, or is about to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ask {
    /// Its number.
    pub id: RequestId,
    /// The generation that it changes.
    pub expected: Generation,
    /// What is asked for.
    pub operation: Operation,
}

/// What a site must remember of a VM over a crash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Notes {
    /// The number of the last request; the next one has a higher one.
    pub last_request: u64,
    /// The request whose answer is not known. While it is a claim, no channel of its pairing is taken up again (P2).
    pub asked: Option<Ask>,
    /// The pairing in which this site will never act (P6).
    pub renounced: Option<PairingId>,
}

/// Something to do. Effects are done in the order in which they are given; [`Effect::Persist`],
/// [`Effect::MarkStale`] and [`Effect::AdoptReplica`] are durable before the next one begins, the others that take long end in an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Write the notes, durably.
    Persist(Notes),
    /// Send a request to the tiebreaker; ends in `Answered`, be it with an unknown outcome.
    AskTiebreaker(Ask),
    /// Read the record, linearizably; ends in `RecordRead`.
    ReadRecord(ReadId),
    /// Nothing leaves.
    HoldOutputs,
    /// Outputs in log frames up to this one leave.
    ReleaseThrough(LogSeq),
    /// The guest is told of flushes that it asked for up to this exit, once they are durable here too.
    ReleaseFlushes(ExitOrdinal),
    /// All outputs leave, and flushes wait for this site's disk alone.
    OpenOutputs,
    /// What this copy shows is dropped, from now on.
    DiscardOutputs,
    /// Make the disk's replica at the other site; ends in `DiskInSync` or `TransferFailed`.
    BeginDiskSync(PairingId),
    /// Send RAM while the guest runs, the disk's writes too; ends in `RamInSync` or `TransferFailed`.
    BeginRamCopy,
    /// Stop the guest and send the rest; ends in `PeerReady` or `TransferFailed`.
    Stun,
    /// Let the guest run on, and log all that enters to the other site. Whether its flushes wait for that site.
    BeginLockstep(Flush),
    /// Drop the transfer. A stunned guest runs on here.
    AbortTransfer,
    /// Replay all that was received by now; ends in `ReplayReachedEnd`. Following goes on unless the channel is closed.
    ReplayToEnd(ReplayId),
    /// Wait for the copy's own disk requests and make them durable; ends in `ReplicaDurable` or `ReplicaFailed`.
    MakeDurable,
    /// Leave replay: from here on this copy takes in what is new. Its outputs are held until they are opened.
    GoLive,
    /// Tell the network where the VM is now (P5), and run `on_live`.
    Announce,
    /// Boot the guest from its disk. Its outputs are held until they are opened.
    StartGuest,
    /// Stop the guest in order; ends in `GuestStopped`. May come again while it stops.
    StopGuest,
    /// Hold the guest at an exit, its disk requests done and all that entered it logged, and then that it stands; ends in
    /// `StoodStill`, at the other site too.
    StandStill,
    /// The guest that stands still, or is about to, leads on as it did.
    GoOn,
    /// The other role may soon speak in this pairing, of the next generation, over the same connection.
    ExpectTurned(PairingId),
    /// This copy, which stands still, leads in this pairing from here on; its outputs are held until they are released.
    Lead(PairingId, Flush),
    /// This copy, which stands still, follows in this pairing from here on.
    Follow(PairingId),
    /// Remove the VM here, whatever it does.
    DestroyVm,
    /// This site's stale replica is the VM's disk from now on, by an operator's word, durably.
    AdoptReplica,
    /// This site's replica is not what a start may begin from, durably.
    MarkStale,
    /// No log frame goes out or is taken in any more in this pairing, none is acknowledged, none resumes it. Its
    /// heartbeats end too.
    CloseChannel,
    /// Tell the other role, if it can be reached.
    Tell(Word),
    /// The guest may use so much of a processor.
    Throttle(CpuShare),
    /// A command is not done.
    Refuse(Refused),
    /// What an operator is shown has changed.
    Report,
}
