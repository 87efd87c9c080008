//! Everything that reaches a VM's driver.

use antipode_certs::Name;
use antipode_tiebreaker::{Answer, Record, RequestId};
use serde_json::Value;
use tokio::sync::oneshot;

use super::refusals::Fault;
use crate::channel::{Message, Opened, Tag};
use crate::machine::launch::Birth;
use crate::machine::workers::{Hashes, Round};
use crate::protocol::role::ReadId;
use crate::transfer::News;

/// What a client of the control socket wants.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// Where this process is reached.
    Ports,
    /// How things are.
    Status,
    /// Start the guest from its disk.
    Start,
    /// Go on with the guest after an outage, if it is this site's to start.
    Resume,
    /// Protect it by a copy at the other site.
    Protect {
        /// What that site's replica alone holds may be lost.
        discard: bool,
    },
    /// Protect it by a copy at another site than before.
    Replace {
        /// That site.
        peer: Name,
        /// Where its supervisor is reached, as `host:port`.
        address: String,
    },
    /// End the protection.
    Unprotect,
    /// Stop the guest in order.
    Stop,
    /// Let the other site go on in this one's place, or this one in the other's.
    SwitchOver,
    /// Do not, after all.
    Stay,
    /// Compare the two sites' disks while the guest runs.
    Verify {
        /// Do not, after all.
        cancel: bool,
    },
    /// End the process.
    End,
}

/// Something that happened, for the driver.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A connection of the logging channel stands.
    Opened(Box<Opened>),
    /// Something came over it, in this session.
    Message(u64, Tag, Message),
    /// It has ended.
    Lost(u64, Fault),
    /// Somebody was refused who meant to talk about this VM, or this site by the other one.
    Refused(Fault),
    /// A request was answered; none if the outcome is unknown.
    Answered(RequestId, Option<Box<Answer>>),
    /// The tiebreaker has answered a question of no consequence.
    InTouch,
    /// The record was read; none if nobody answered.
    RecordRead(ReadId, Option<Option<Box<Record>>>),
    /// The transfer of that number from here tells.
    Transfer(u64, TransferNews),
    /// A piece of the machine has arrived here.
    TransferHeard,
    /// The transfer to here has ended.
    Received(Result<(), Fault>),
    /// This site has become ready to be filled with a machine of this birth.
    Prepared(Box<Birth>),
    /// Flushed durably, up to where the driver had asked.
    Durable(Result<crate::base::units::ExitOrdinal, String>),
    /// The disk has failed the guest of this site, which has not been told.
    DiskFailed,
    /// The guest of the copy asked for a flush at this exit, and that is what it came to.
    Flushed(crate::base::units::ExitOrdinal, crate::devices::DiskOutcome),
    /// A slice of the disk was read, as it was where the round began.
    SliceRead(Round, Hashes),
    /// A leaf that is to be mended at the other site was read; none if it is no more as it was.
    LeafRead(Round, u8, Option<Vec<u8>>),
    /// A leaf of this site's replica was mended, or not any more as it was; or cannot be.
    LeafMended(Round, u8, Result<bool, String>),
    /// The other site was asked whether it could take a copy.
    Called(u64, crate::protocol::reprotect::Called),
    /// Somebody asks.
    Control(Request, oneshot::Sender<Value>),
    /// The process is to end.
    Terminate,
}

/// What the transfer from here tells.
#[derive(Debug)]
pub(crate) enum TransferNews {
    /// The other site is ready; its process is reached at these ports.
    Ports {
        /// Of the logging channel, and of heartbeats.
        log: u16,
    },
    /// It goes on.
    News(News),
    /// It stands at this position.
    StoodAt(crate::base::units::ExitOrdinal),
    /// It failed.
    Failed(Fault),
}
