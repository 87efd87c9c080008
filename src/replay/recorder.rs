//! The recorder: a live timeline whose answers go into a log.
//!
//! What it adds to a live VM is the log alone, and the rules that make positions mean something: nothing enters between
//! two exits, and most reads of the time follow a rule instead of the clock.
//!
//! A guest that computes without an exit keeps what arrives waiting:
//!
//! ```text
//!   kick, something waits ──a while──▶ worth it? ─▶ kick: pages and vCPU go into the log, the point counts as the next exit
//!        └── a counted exit, or a window that was asked for: nothing to do ──▶ it enters there
//! ```
//!
//! The pages are all those that the guest has written since the *epoch* began, at a counted exit: a superset of what it
//! wrote since the last exit, and a cheap one, because KVM's log is seldom cleared.

use std::time::Duration;

use antipode_disk_sync::online::Slice;

use super::batch::{Batch, End};
use super::catalogue::{Entry, OutputKind};
use super::checks::{self, Rolling};
use super::page_delta::ToldPages;
use super::patience::Patience;
use super::{MachineDigests, Repair, time_rule};
use crate::base::limits::{LOG_BATCH_BYTES_TARGET, LOG_BATCH_CHECKS_MAX, LOG_BATCH_ENTRIES_MAX};
use crate::base::units::{ExitOrdinal, VirtualTime};
use crate::devices::{DiskOutcome, Input};
use crate::machine::kvm::PostedWrite;
use crate::machine::{
    Arrival, EpochDigests, ExitTrace, Kick, Live, Output, Release, Rest, Resumption, Standing, Timeline,
    TimelineError, Totals, Turn,
};

/// Bytes of an entry besides its content, at most.
const ENTRY_BYTES: usize = 24;

/// When a batch is closed however small it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cadence {
    /// At each exit with an output, as somebody waits for it.
    pub at_outputs: bool,
    /// At each exit with a flush, as the guest waits for it.
    pub at_flushes: bool,
    /// After this much virtual time while the guest runs: what a power cut can take.
    pub awake: Duration,
    /// The same when it falls asleep.
    pub asleep: Duration,
}

/// Where batches go.
pub trait LogSink: std::fmt::Debug {
    /// Appends `batch`, of whose stretch so much was the guest's time before pre-emptions. May wait while there is no room.
    ///
    /// # Errors
    /// When nothing more can be appended.
    fn append(&mut self, batch: &Batch, resumed: Duration) -> std::io::Result<()>;

    /// When a batch is closed however small it is.
    fn cadence(&self) -> Cadence;

    /// When an output may leave whose entry is in the batch that is appended next.
    fn release(&self) -> Release;
}

/// Counts of what was logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Logged {
    /// Entries.
    pub entries: u64,
    /// Timer expiries among the entries.
    pub expiries: u64,
    /// Times a guest that computed was stopped at a position of our making.
    pub preemptions: u64,
    /// Time that the digests at the ends of epochs took.
    pub digest_time: Duration,
}

/// A timeline that records.
#[derive(Debug)]
pub struct Recorder<L> {
    live: Live,
    log: L,
    cadence: Cadence,
    /// The open batch tells of what somebody waits for.
    is_awaited: bool,
    rolling: Rolling,
    batch: Batch,
    batch_bytes: usize,
    batch_began: VirtualTime,
    /// The guest's time that no replay of the batch executes.
    resumed: Duration,
    /// The time that the guest was last seen to be shown.
    shown: VirtualTime,
    /// Since when something has waited while the guest computes.
    waiting_since: Option<VirtualTime>,
    /// When the last pre-emption began.
    preempting_since: VirtualTime,
    /// When the last epoch ended.
    digesting_since: VirtualTime,
    patience: Patience,
    told_pages: ToldPages,
    /// The other copy executes nothing: what enters is not told (H4).
    rests: bool,
    logged: Logged,
}

fn host(what: &'static str) -> impl Fn(std::io::Error) -> TimelineError {
    move |source| TimelineError::Host { what, source }
}

/// What the log holds of an arrival.
fn entry_of(arrival: &Arrival) -> Entry {
    match arrival {
        Arrival::Expiry(time) => Entry::Expiry(*time),
        Arrival::Stop => Entry::Stop,
        Arrival::Device(input) => match input {
            Input::Frame(frame) => Entry::Frame(frame.0.clone()),
            Input::Disk(completion) => Entry::Disk {
                id: completion.id,
                is_done: !matches!(completion.outcome, DiskOutcome::Failed),
            },
            Input::Console(bytes) => Entry::Console(bytes.clone()),
            Input::Entropy(bytes) => Entry::Entropy(bytes.clone()),
            Input::PowerButton => Entry::PowerButton,
        },
    }
}

impl<L: LogSink> Recorder<L> {
    /// Records what `live` answers in `log`, from where `begun` says the machine stands.
    #[must_use]
    pub fn new(live: Live, log: L, begun: &Totals) -> Self {
        Self {
            live,
            cadence: log.cadence(),
            is_awaited: false,
            log,
            rolling: Rolling::default(),
            batch: Batch::starting_at(begun.exit_count),
            batch_bytes: 0,
            batch_began: begun.virtual_time,
            resumed: Duration::ZERO,
            shown: begun.virtual_time,
            waiting_since: None,
            preempting_since: VirtualTime::ZERO,
            digesting_since: VirtualTime::ZERO,
            patience: Patience::default(),
            told_pages: ToldPages::default(),
            rests: false,
            logged: Logged::default(),
        }
    }

    /// The same, but a guest that computes is pre-empted when something has waited for `always`, if that is said.
    #[must_use]
    pub fn preempting_after(mut self, always: Option<Duration>) -> Self {
        self.patience = Patience::always(always);
        self
    }

    /// Closes the log of a VM that has ended as `outcome` says, at `virtual_time`.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn finish(
        mut self,
        outcome: &str,
        virtual_time: VirtualTime,
        digests: MachineDigests,
    ) -> std::io::Result<(L, Logged)> {
        self.batch.end = Some(End {
            outcome: outcome.to_owned(),
            virtual_time,
            digests,
        });
        self.log.append(&self.batch, self.resumed)?;
        Ok((self.log, self.logged))
    }

    /// Ends the record where the VM stands, which is held: all that was logged is appended. The timeline goes on live.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn leave_off(mut self) -> Result<Live, TimelineError> {
        self.close_batch()?;
        Ok(self.live)
    }

    /// Notes that the VM stands where it is, which is held at `exit`, as `digests` say; all that was logged is appended.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn stand(&mut self, exit: ExitOrdinal, digests: EpochDigests) -> Result<(), TimelineError> {
        self.note(exit, Entry::Stand(Box::new(digests)));
        self.close_batch()
    }

    /// Notes that `slice` of the disk is compared as it is at `exit`, where the VM is held. The other copy hears of it soon.
    pub fn verify(&mut self, exit: ExitOrdinal, slice: Slice) {
        self.note(exit, Entry::Verify(slice));
        self.is_awaited = true;
    }

    /// The other copy executes nothing from `exit` on, where the VM is held and is what `digests` say: what it becomes is told by
    /// checkpoints (H4).
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn begin_checkpoints(
        &mut self,
        exit: ExitOrdinal,
        digests: EpochDigests,
    ) -> Result<(), TimelineError> {
        let flushes_wait = self.cadence.at_flushes;
        self.note(
            exit,
            Entry::Checkpoints {
                digests: Box::new(digests),
                flushes_wait,
            },
        );
        self.rests = true;
        self.close_batch()
    }

    /// It executes again what it is told, from `exit` on, where the VM is held and a checkpoint was just told of.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn end_checkpoints(&mut self, exit: ExitOrdinal) -> Result<(), TimelineError> {
        self.rests = false;
        self.note(exit, Entry::Replays);
        self.close_batch()
    }

    /// Whether the other copy executes nothing.
    #[must_use]
    pub const fn rests_on_checkpoints(&self) -> bool {
        self.rests
    }

    /// Tells of `repair`, of the VM as it is at `exit`, where it is held (H2); or of a checkpoint (H4). Both copies are compared
    /// anew from there on.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn repair(&mut self, exit: ExitOrdinal, repair: &Repair) -> Result<(), TimelineError> {
        self.close_batch()?;
        for piece in repair.pieces() {
            self.note(exit, Entry::Repair(piece));
            if self.is_full() {
                self.close_batch()?;
            }
        }
        self.rolling = Rolling::default();
        self.told_pages = ToldPages::default();
        self.close_batch()
    }

    fn note(&mut self, exit: ExitOrdinal, entry: Entry) {
        let is_for_any_copy = matches!(entry, Entry::Output { .. } | Entry::Repair(_) | Entry::Verify(_));
        if self.rests && !is_for_any_copy {
            return;
        }
        self.logged.entries += 1;
        self.logged.expiries += u64::from(matches!(entry, Entry::Expiry(_)));
        self.batch_bytes += ENTRY_BYTES + entry.content_bytes();
        self.batch.entries.push((exit, entry));
    }

    /// Notes since when something waits to enter a guest that computes.
    fn notice_waiting(&mut self, standing: Standing) -> Result<(), TimelineError> {
        if self.waiting_since.is_none() && self.live.has_arrival(standing) {
            self.waiting_since = Some(self.live.now());
            self.live.kick_after(self.patience.preempt_after_least())?;
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.shown - self.batch_began > self.cadence.awake
            || self.batch_bytes + self.batch.checks.len() >= LOG_BATCH_BYTES_TARGET
            || self.batch.checks.len() >= LOG_BATCH_CHECKS_MAX / 2
            || self.batch.entries.len() >= LOG_BATCH_ENTRIES_MAX / 2
    }

    fn close_batch(&mut self) -> Result<(), TimelineError> {
        if self.batch.entries.is_empty() && self.batch.checks.is_empty() {
            return Ok(());
        }
        let next = Batch::starting_at(self.batch.through);
        let closed = std::mem::replace(&mut self.batch, next);
        self.batch_bytes = 0;
        self.is_awaited = false;
        self.batch_began = self.shown;
        let resumed = std::mem::take(&mut self.resumed);
        self.log.append(&closed, resumed).map_err(host("writing the log"))
    }
}

impl<L: LogSink> Timeline for Recorder<L> {
    fn read_time(&mut self, standing: Standing) -> Result<VirtualTime, TimelineError> {
        let live = self.live.read_time(standing)?;
        if !time_rule::needs_sample(standing.now, live) {
            return Ok(time_rule::unsampled(standing.now));
        }
        self.note(standing.exit, Entry::TimeRead(live));
        Ok(live)
    }

    fn next_arrival(&mut self, standing: Standing) -> Result<Option<Arrival>, TimelineError> {
        let arrival = self.live.next_arrival(standing)?;
        if let Some(arrival) = &arrival {
            self.note(standing.exit, entry_of(arrival));
        }
        self.shown = standing.now;
        Ok(arrival)
    }

    fn random_bytes(&mut self, standing: Standing, byte_count: usize) -> Result<Vec<u8>, TimelineError> {
        let bytes = self.live.random_bytes(standing, byte_count)?;
        self.note(standing.exit, Entry::Entropy(bytes.clone()));
        Ok(bytes)
    }

    fn sleep(&mut self, standing: Standing) -> Result<Rest, TimelineError> {
        let is_due = standing.now - self.batch_began > self.cadence.asleep;
        if is_due || self.is_awaited {
            self.close_batch()?;
        }
        self.live.sleep(standing)
    }

    fn enter_guest(&mut self, standing: Standing) -> Result<Turn, TimelineError> {
        if !standing.is_between_exits {
            if self.is_awaited {
                self.close_batch()?;
            }
            return self.live.enter_guest(standing);
        }
        self.live.reenter_guest();
        self.notice_waiting(standing)?;
        Ok(Turn::Run)
    }

    fn leave_guest(&mut self) {
        self.live.leave_guest();
    }

    fn kicked(&mut self, standing: Standing) -> Result<Kick, TimelineError> {
        // A window is a counted exit, and it opens as soon as an interrupt could enter.
        if standing.awaits_window {
            return Ok(Kick::Noise);
        }
        self.notice_waiting(standing)?;
        let now = self.live.now();
        let Some(since) = self.waiting_since else {
            return Ok(Kick::Noise);
        };
        let (waited, least) = (now - since, self.patience.preempt_after_least());
        if waited >= least {
            return Ok(Kick::Preempt);
        }
        self.live.kick_after(least - waited)?;
        Ok(Kick::Noise)
    }

    fn is_worth_preempting(&mut self, _: Standing, page_count: usize) -> Result<bool, TimelineError> {
        let now = self.live.now();
        let waited = now - self.waiting_since.unwrap_or(now);
        let preempt_after = self.patience.preempt_after(page_count);
        if waited >= preempt_after {
            self.preempting_since = now;
            return Ok(true);
        }
        // By then there may be more pages; that is seen then.
        self.live.kick_after(preempt_after - waited)?;
        Ok(false)
    }

    fn preempted(&mut self, standing: Standing, done: Resumption) -> Result<(), TimelineError> {
        self.logged.preemptions += 1;
        if self.rests {
            return Ok(());
        }
        self.resumed += self.preempting_since.saturating_since(standing.now);
        let page_count = done.pages.len();
        for (address, content) in done.pages {
            let delta = self.told_pages.tell(address, &content);
            self.note(standing.exit, Entry::Page { address, delta });
            if self.is_full() {
                self.close_batch()?;
            }
        }
        let vcpu = done.vcpu.to_bytes();
        let posted = done.posted;
        self.note(standing.exit, Entry::Resume { vcpu, posted });
        let cost = self.live.now() - self.preempting_since;
        tracing::debug!(exit = %standing.exit, page_count, ?cost, "pre-empted");
        self.patience.preempted(page_count, cost);
        Ok(())
    }

    fn begins_epoch(&mut self, standing: Standing) -> Result<bool, TimelineError> {
        // Each checkpoint is one.
        let begins = !self.rests && self.patience.begins_epoch(standing.now);
        if begins {
            self.digesting_since = self.live.now();
        }
        Ok(begins)
    }

    fn epoch_ended(&mut self, standing: Standing, digests: EpochDigests) -> Result<(), TimelineError> {
        self.note(standing.exit, Entry::Epoch(Box::new(digests)));
        self.logged.digest_time += self.live.now() - self.digesting_since;
        Ok(())
    }

    fn posted(&mut self, write: &PostedWrite) {
        self.rolling.posted(write);
    }

    fn exited(&mut self, trace: &ExitTrace<'_>) -> Result<(), TimelineError> {
        self.waiting_since = None;
        // Nobody executes it; zeros take no room.
        let check = if self.rests { 0 } else { self.rolling.exited(trace) };
        self.batch.checks.push(check);
        self.batch.through = trace.ordinal;
        if self.is_full() {
            self.close_batch()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self, standing: Standing) -> Result<(), TimelineError> {
        self.note(standing.exit, Entry::Flush);
        self.is_awaited |= self.cadence.at_flushes && !self.rests;
        Ok(())
    }

    fn output(&mut self, standing: Standing, output: Output<'_>) -> Result<Release, TimelineError> {
        let (kind, digest) = digest_of(output);
        self.note(standing.exit, Entry::Output { kind, digest });
        // What waits for a checkpoint waits for no frame.
        self.is_awaited |= self.cadence.at_outputs && !self.rests;
        Ok(self.log.release())
    }
}

/// Kind and digest of what leaves the VM.
pub(super) fn digest_of(output: Output<'_>) -> (OutputKind, u64) {
    match output {
        Output::Frame(frame) => (OutputKind::Frame, checks::of_output(&frame.0)),
        Output::Console(bytes) => (OutputKind::Console, checks::of_output(bytes)),
        Output::PowerOff => (OutputKind::PowerOff, 0),
    }
}
