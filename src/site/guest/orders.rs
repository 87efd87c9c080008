//! What the driver wants of the vCPU's thread, and what that thread tells.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use antipode_disk_sync::online::Slice;

use super::log_ends::{Feeder, Incoming, Room};
use super::vcpu::Handle;
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::machine::launch::Birth;
use crate::machine::started::Exits;
use crate::machine::workers::{DiskHandle, Round};
use crate::machine::{HeldOutput, Outcome, RamCopy, RamDigest, Touched};
use crate::protocol::mode::Step;
use crate::protocol::repair::{Cause, Done};
use crate::replay::Carried;
use crate::transfer::Stunned;

/// Something to be done at the next position, while the VM is held there.
#[derive(Debug)]
pub(crate) enum Order {
    /// Begin a copy of RAM: from here on it is known what is written.
    BeginCopy {
        /// Takes what reads it.
        reply: Sender<RamCopy>,
    },
    /// What was written since this was last asked is to be copied again.
    TakeWritten {
        /// Takes the addresses of its pages.
        reply: Sender<Vec<u64>>,
    },
    /// Stand still for a while, or until something else is ordered.
    Rest {
        /// How long.
        span: Duration,
    },
    /// Stand still: the rest of RAM, and all else that the machine is.
    Stun {
        /// Takes them.
        reply: Sender<Stunned>,
    },
    /// All of RAM was copied while it stood still.
    Adopt {
        /// Of all of it.
        digest: Box<RamDigest>,
    },
    /// Run on after a stun, and log all that enters.
    Lead {
        /// What both ends know, to which the log's chain is anchored.
        anchor: Vec<u8>,
        /// How much may wait for the other site.
        room: Arc<Room>,
        /// Whether flushes wait for the other site: then it is told of each at once.
        flushes_wait: bool,
    },
    /// Run on, alone, and log nothing.
    GoAlone,
    /// Stand still, all that entered logged, and that it stands; of a VM that leads.
    StandStill,
    /// Follow, from where it stands still.
    Follow {
        /// The log's far end.
        log: Incoming,
    },
    /// Log that a slice of the disk is compared as it is here, and watch it; of a VM that leads.
    Verify {
        /// Which.
        slice: Slice,
    },
    /// Log what makes the copy at the other site the same again, which wishes for it; of a VM that leads.
    Repair {
        /// Which of its wishes.
        number: u64,
        /// What it may have written.
        theirs: Touched,
    },
    /// Log what a copy needs that executes nothing; of a VM that leads.
    Checkpoint(Step),
    /// Become what was staged.
    BeRepaired,
    /// Run on as it was.
    GoOn,
    /// It is about to be ended: stand no more.
    End,
}

/// What the vCPU's thread tells the driver.
#[derive(Debug)]
pub(crate) enum FromVcpu {
    /// The VM is about to run.
    Ready {
        /// The way to it.
        handle: Handle,
        /// Where its outputs leave.
        exits: Exits,
        /// Its disk, if it has one.
        disk: Option<DiskHandle>,
    },
    /// What chance and the host gave it.
    Born(Box<Birth>),
    /// Something leaves the guest.
    Output {
        /// The log frame that tells of it.
        seq: LogSeq,
        /// What.
        output: HeldOutput,
    },
    /// A frame of the log is to be sent.
    Logged {
        /// Its number.
        seq: LogSeq,
        /// Where it ends.
        through: ExitOrdinal,
        /// Whether an output waits for it.
        is_urgent: bool,
        /// Epochs that end in it.
        epochs: u32,
        /// What it is made of.
        carried: Carried,
        /// The frame.
        frame: Vec<u8>,
    },
    /// The replay has executed everything up to this frame.
    Consumed {
        /// Which.
        seq: LogSeq,
    },
    /// The copy stands as it was sent, at this position; it follows what the feeder is fed.
    Restored {
        /// Where.
        position: ExitOrdinal,
        /// The log's near end.
        feeder: Feeder,
    },
    /// The copy has gone live; here its outputs leave.
    Live(Exits),
    /// It runs alone and logs nothing.
    Alone,
    /// It stands still, by order or because the log says that the other copy does.
    Stands {
        /// Where.
        position: ExitOrdinal,
    },
    /// This copy is another machine than the one that it follows, and waits to be made the same again.
    Differs(Box<Differs>),
    /// It waits in vain.
    Unrepaired {
        /// Where the first output of its primary was made that this copy has not made.
        first_output: Option<ExitOrdinal>,
    },
    /// All that makes it the same is there.
    Staged {
        /// Which of its wishes that answers.
        number: u64,
    },
    /// It is the same machine again.
    Repaired(Done),
    /// What makes the copy at the other site the same again is in the log; or there is nothing that could.
    Captured {
        /// Which of its wishes that answers.
        number: u64,
        /// Where, and what is carried of RAM and disk; or why not.
        outcome: Result<(ExitOrdinal, u64), String>,
    },
    /// What a copy needs that executes nothing is in the log; or it cannot be had.
    Checkpointed {
        /// What was wanted.
        step: Step,
        /// Where, and what is carried of RAM and disk; or why not.
        outcome: Result<(ExitOrdinal, u64), String>,
    },
    /// This copy executes nothing. It is what its primary was here, and waits for nothing that was told before.
    Rests {
        /// Where.
        position: ExitOrdinal,
    },
    /// It executes again what the log tells.
    Follows,
    /// From here on it is known what is written to a slice of the disk.
    Watches(Round),
    /// The copy leads now; here its outputs leave.
    Leads(Exits),
    /// The VM has ended, and at which exit; or could not begin.
    Ended(Result<(Outcome, ExitOrdinal), Ending>),
}

/// A copy that was found to be another machine.
#[derive(Debug)]
pub(crate) struct Differs {
    /// How often that was so.
    pub(crate) number: u64,
    /// Where it shows first.
    pub(crate) position: ExitOrdinal,
    /// What differs, in words.
    pub(crate) what: String,
    /// Why, as far as it is known by now.
    pub(crate) cause: Cause,
    /// What it may have written since it was the same.
    pub(crate) touched: Touched,
}

/// Why a VM ended otherwise than its guest wished.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The copy is not the same machine.
    Diverged(String),
    /// The copy's disk has failed what the other one's has done.
    DiskFailed(String),
    /// Something failed.
    Failed(String),
}
