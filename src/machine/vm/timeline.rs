//! Everything that enters a VM and is no function of its own state, and when.
//!
//! The VM asks its timeline at every counted exit, and nowhere else (E1, E5): for the time when the exit's handling
//! reads it, then, the exit handled, for what arrives. A timeline that answers the same at the same exits makes the same
//! machine: a live one ([`super::live::Live`]) answers from the host, a recorder passes a live one's answers on and notes
//! them, a replayer answers from the notes.

use kvm_bindings::kvm_regs;

use super::epoch::{Differing, EpochDigests};
use crate::base::units::{ExitOrdinal, LogSeq, PAGE_SIZE, VirtualTime};
use crate::devices::{Frame, Input};
use crate::machine::kvm::{Disturbance, Exit, PostedWrite, VcpuState};

/// What enters a VM at a counted exit that has been handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// It is this late, and the timers due by then expire.
    Expiry(VirtualTime),
    /// Something for a device.
    Device(Input),
    /// The operator stops the VM.
    Stop,
}

/// A stretch of execution in its result: what became of a guest that computed without an exit and was stopped (H1).
#[derive(Debug, Clone, PartialEq)]
pub struct Resumption {
    /// The vCPU then.
    pub vcpu: VcpuState,
    /// What the guest wrote without an exit meanwhile.
    pub posted: Vec<PostedWrite>,
    /// Guest physical address and content of all pages that it may have written.
    pub pages: Vec<(u64, Box<[u8; PAGE_SIZE]>)>,
}

/// How the guest goes on.
#[derive(Debug)]
pub enum Turn {
    /// Not yet: something has arrived that may enter first. Never between two exits.
    Wait,
    /// By being run.
    Run,
    /// By single steps: so many instructions, and there the VM is held; or all to the next exit (`None`). Never between two
    /// exits.
    Step(Option<u64>),
    /// Not at all: here the VM is held ([`crate::machine::Outcome::Held`]). Never between two exits.
    Hold,
    /// By becoming what it was when it was stopped, before its next exit. Never between two exits.
    Become(Box<Resumption>),
}

/// How a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Something may have arrived.
    Over,
    /// Here the VM is held, as by [`Turn::Hold`].
    Hold,
}

/// When something that leaves the VM may be shown to the outside (P1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// At once.
    Now,
    /// When the other site has acknowledged that frame of the log, or this one is alone.
    After(LogSeq),
    /// Not from here: another copy shows it.
    Never,
}

/// What a kick is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kick {
    /// For nothing: back into the guest.
    Noise,
    /// To disturb the VM's memory on purpose, then back into the guest.
    Disturb(Disturbance),
    /// For what has arrived, which may enter here, between two exits.
    Arrival,
    /// The guest has computed for too long while something waited: here shall be a position (H1), if
    /// [`Timeline::is_worth_preempting`].
    Preempt,
}

/// What leaves a VM at a counted exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output<'a> {
    /// A frame of the guest.
    Frame(&'a Frame),
    /// Bytes of the guest's console.
    Console(&'a [u8]),
    /// The guest switches itself off.
    PowerOff,
}

/// Where a VM stands when it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The last counted exit; the one being handled, if one is.
    pub exit: ExitOrdinal,
    /// The time that the guest was last shown.
    pub now: VirtualTime,
    /// When the next timer is due.
    pub deadline: Option<VirtualTime>,
    /// The guest was stopped between that exit and the next by a kick.
    pub is_between_exits: bool,
    /// A window exit was asked for, and will come by itself.
    pub awaits_window: bool,
    /// The guest made that exit and has not run since: here is a position.
    pub is_at_exit: bool,
}

/// A counted exit and what led to it, for whoever compares two executions.
#[derive(Debug)]
pub struct ExitTrace<'a> {
    /// Which.
    pub ordinal: ExitOrdinal,
    /// What happened.
    pub exit: &'a Exit,
    /// Bytes that the guest wrote, if it wrote any.
    pub written: &'a [u8],
    /// The general registers, before the exit is handled.
    pub registers: &'a kvm_regs,
}

/// Why a timeline cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TimelineError {
    /// It holds nothing from here on: the record ends.
    #[error("the record ends at exit {0}")]
    Ended(ExitOrdinal),
    /// The guest does not do what it did when it was recorded.
    #[error("the guest diverges from the record at exit {exit}: {what}")]
    Diverged {
        /// Where: the exit that differs, or the last one before what differs.
        exit: ExitOrdinal,
        /// What differs, by name.
        what: String,
        /// In what the two machines differ; none where it shows in what the guest does.
        state: Option<Box<Differing>>,
    },
    /// The operator stops the VM while it waits for what comes next.
    #[error("the VM was stopped while it waited for the log")]
    Stopped,
    /// The position lies behind the next exit.
    #[error("exit {exit} comes after {instructions} instructions, before the position")]
    Beyond {
        /// The exit.
        exit: ExitOrdinal,
        /// Instructions between the exit before and it.
        instructions: u64,
    },
    /// This host's disk has not done what the disk has done that was there when it was recorded (R4).
    #[error(
        "at exit {exit} the guest is told that its disk request {request} is done, and this host's disk has failed it"
    )]
    Disk {
        /// Where.
        exit: ExitOrdinal,
        /// Which.
        request: u64,
    },
    /// The host failed.
    #[error("{what}: {source}")]
    Host {
        /// What was done.
        what: &'static str,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
}

/// Where everything comes from that is no function of the guest's state.
pub trait Timeline {
    /// The time that the guest reads at the exit which is being handled: never before [`Standing::now`]. Asked once an
    /// exit at most.
    ///
    /// # Errors
    /// [`TimelineError`].
    fn read_time(&mut self, standing: Standing) -> Result<VirtualTime, TimelineError>;

    /// The next thing that arrives now that the exit is handled. It is asked again until nothing does.
    ///
    /// # Errors
    /// [`TimelineError`].
    fn next_arrival(&mut self, standing: Standing) -> Result<Option<Arrival>, TimelineError>;

    /// Random bytes for the guest's entropy device.
    ///
    /// # Errors
    /// [`TimelineError`].
    fn random_bytes(&mut self, standing: Standing, byte_count: usize) -> Result<Vec<u8>, TimelineError>;

    /// Waits, the guest being asleep, until something may have arrived.
    ///
    /// # Errors
    /// [`TimelineError`].
    fn sleep(&mut self, standing: Standing) -> Result<Rest, TimelineError>;

    /// The guest is about to be entered, at the exit in `standing` or between two.
    ///
    /// # Errors
    /// [`TimelineError`].
    fn enter_guest(&mut self, standing: Standing) -> Result<Turn, TimelineError>;

    /// The guest was left.
    fn leave_guest(&mut self);

    /// The guest was left by a kick.
    ///
    /// # Errors
    /// [`TimelineError`].
    fn kicked(&mut self, standing: Standing) -> Result<Kick, TimelineError>;

    /// The guest was stopped for [`Kick::Preempt`], and would have to be captured with `page_count` pages: whether that
    /// shall be done now. If not, it goes on.
    ///
    /// # Errors
    /// [`TimelineError`].
    fn is_worth_preempting(&mut self, standing: Standing, page_count: usize) -> Result<bool, TimelineError>;

    /// What [`Kick::Disturb`] asked for was done, and the host took part or did not.
    fn disturbed(&mut self, disturbance: Disturbance, has_happened: bool) {
        let _ = (disturbance, has_happened);
    }

    /// The guest was captured for [`Kick::Preempt`]: what it did since the exit in `standing`. The point where it stands
    /// will count as the next exit.
    ///
    /// # Errors
    /// [`TimelineError`].
    fn preempted(&mut self, standing: Standing, done: Resumption) -> Result<(), TimelineError>;

    /// Whether an epoch ends at the exit in `standing`, which is not handled yet, and another begins: the log of written
    /// pages starts anew.
    ///
    /// # Errors
    /// [`TimelineError`].
    fn begins_epoch(&mut self, standing: Standing) -> Result<bool, TimelineError>;

    /// What the machine is at the end of the epoch.
    ///
    /// # Errors
    /// [`TimelineError`].
    fn epoch_ended(&mut self, standing: Standing, digests: EpochDigests) -> Result<(), TimelineError>;

    /// The guest wrote without an exit, before the next one.
    fn posted(&mut self, write: &PostedWrite);

    /// The guest made a counted exit, which will be handled next.
    ///
    /// # Errors
    /// [`TimelineError`].
    fn exited(&mut self, trace: &ExitTrace<'_>) -> Result<(), TimelineError>;

    /// The guest has asked its disk to make durable what it wrote.
    ///
    /// # Errors
    /// [`TimelineError`].
    fn flush(&mut self, standing: Standing) -> Result<(), TimelineError>;

    /// Something leaves the VM, when the answer says so.
    ///
    /// # Errors
    /// [`TimelineError`].
    fn output(&mut self, standing: Standing, output: Output<'_>) -> Result<Release, TimelineError>;
}
