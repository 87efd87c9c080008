//! The replayer: a timeline that answers from a log.
//!
//! ```text
//!   exit n ──▶ check n agrees? ──▶ the log reaches past n? ──▶ handled ──▶ entries of n, one by one ──▶ guest entered
//!                  │ no                  │ no: next batch, or the end of the record
//!                  ▼
//!               Diverged
//! ```
//!
//! Its disk requests are its own. A logged completion waits for the request of the same name here.

mod checkpoints;
mod repairing;
mod waiting;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use antipode_disk_sync::online::Slice;

use super::batch::Batch;
use super::catalogue::Entry;
use super::checks::{Rolling, differences};
use super::feed::{Feed, LogSource};
use super::noise::{Noise, NoiseCounts};
use super::page_delta::ToldPages;
use super::recorder::digest_of;
use super::repair::Staging;
use super::{End, Position, time_rule};
use crate::base::units::{ExitOrdinal, VirtualTime};
use crate::devices::{DiskCompletion, DiskOutcome, DiskRequestId, Frame, Input};
use crate::machine::kvm::{Disturbance, Kicker, PostedWrite, VcpuState};
use crate::machine::workers::{Event, Inbox};
use crate::machine::{
    Arrival, EpochDigests, ExitTrace, Kick, Output, Release, Rest, Resumption, Standing, Timeline,
    TimelineError, Turn,
};

pub use self::checkpoints::Awaited;

/// A timeline that replays.
#[derive(Debug)]
pub struct Replayer<S> {
    log: S,
    kicker: Kicker,
    inbox: Inbox,
    rolling: Rolling,
    told_pages: ToldPages,
    /// Not yet asked for.
    entries: VecDeque<(ExitOrdinal, Entry)>,
    /// Checks of `checks_from` and the exits after it.
    checks: Vec<u8>,
    checks_from: u64,
    through: ExitOrdinal,
    /// Where the VM shall be held.
    hold_at: Option<Position>,
    /// What the machine was where the log has it stand, which is here.
    stood: Option<Box<EpochDigests>>,
    /// What the machine was where the log has it execute nothing more, which is here (H4).
    rested: Option<Box<EpochDigests>>,
    /// It executes nothing: what it becomes is told by checkpoints.
    rests: bool,
    /// No flush of the guest ends before the checkpoint behind it is durable here.
    flushes_wait: bool,
    /// Where it does so: the last checkpoint's exit.
    rests_at: ExitOrdinal,
    /// Pieces of the next one.
    staging: Staging,
    /// What is to be compared where it is held, if that is why.
    slice: Option<Slice>,
    /// Exits from which it is stepped to the next.
    stepped: Range<ExitOrdinal>,
    end: Option<End>,
    /// Our own disk requests that have ended before the log says so.
    disk_done: BTreeMap<DiskRequestId, DiskOutcome>,
    is_stopped: bool,
    noise: Option<Noise>,
    /// What was read already, or cut off the last batch by noise.
    cut_off: Option<Batch>,
}

impl<S: LogSource> Replayer<S> {
    /// Replays `log` on the calling thread, which is the vCPU's and whose own `kicker` and `inbox` are.
    #[must_use]
    pub fn new(log: S, kicker: Kicker, inbox: Inbox) -> Self {
        let through = log.begins_at();
        Self {
            log,
            kicker,
            inbox,
            rolling: Rolling::default(),
            told_pages: ToldPages::default(),
            entries: VecDeque::new(),
            checks: Vec::new(),
            checks_from: through.get() + 1,
            through,
            hold_at: None,
            stood: None,
            rested: None,
            rests: false,
            flushes_wait: false,
            rests_at: through,
            staging: Staging::default(),
            slice: None,
            stepped: ExitOrdinal::default()..ExitOrdinal::default(),
            end: None,
            disk_done: BTreeMap::new(),
            is_stopped: false,
            noise: None,
            cut_off: None,
        }
    }

    /// The same, holding the VM at `until`, all that belongs to its exit handled.
    #[must_use]
    pub fn until(self, until: Option<Position>) -> Self {
        Self {
            hold_at: until,
            ..self
        }
    }

    /// The same, going from each exit of `exits` to the next by single steps. It must make no difference.
    #[must_use]
    pub fn stepping_from(self, exits: Range<ExitOrdinal>) -> Self {
        Self {
            stepped: exits,
            ..self
        }
    }

    /// The same, disturbed at moments and in ways that follow from `seed`. It must not notice.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn disturbed_by(self, seed: u64) -> std::io::Result<Self> {
        Ok(Self {
            noise: Some(Noise::start(self.kicker.waker(), seed)?),
            ..self
        })
    }

    /// What noise has done, if there is any.
    #[must_use]
    pub fn noise(&self) -> Option<NoiseCounts> {
        self.noise.as_ref().map(Noise::counts)
    }

    /// What has come here that the log has not told of: what our own disk requests came to, and the wish to stop.
    pub(super) fn take_arrivals(&mut self) -> Vec<Arrival> {
        self.look_into_inbox();
        let done = std::mem::take(&mut self.disk_done).into_iter();
        let completions =
            done.map(|(id, outcome)| Arrival::Device(Input::Disk(DiskCompletion { id, outcome })));
        completions
            .chain(self.is_stopped.then_some(Arrival::Stop))
            .collect()
    }

    /// How the recorded execution ended, once the replay has come there.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Reads the next batch. False after the last.
    fn read_batch(&mut self) -> Result<bool, TimelineError> {
        let next = match self.cut_off.take() {
            Some(rest) => Some(rest),
            None => self.await_batch()?,
        };
        let Some(mut batch) = next else { return Ok(false) };
        self.cut_off = self.noise.as_mut().and_then(|noise| noise.cut(&mut batch));
        self.entries.extend(batch.entries);
        self.checks = batch.checks;
        self.checks_from = batch.first.get();
        self.through = batch.through;
        self.end = batch.end;
        Ok(true)
    }

    /// The next batch of the source, once it is there.
    fn await_batch(&mut self) -> Result<Option<Batch>, TimelineError> {
        loop {
            // Looking takes the note that work waits, so the source is asked after it: what comes later ends the wait.
            self.look_into_inbox();
            match self.log.next()? {
                Feed::Batch(batch) => return Ok(Some(*batch)),
                Feed::Ended => return Ok(None),
                Feed::Waiting if self.is_stopped => return Err(TimelineError::Stopped),
                Feed::Waiting => self.kicker.park(None),
            }
        }
    }

    /// The next entry, if it belongs to the exit of `standing`. One that is there is told before it is known whether more
    /// will come: whatever the log holds, a backup executes before it goes on alone (P1).
    fn entry_here(&mut self, standing: Standing) -> Result<Option<&Entry>, TimelineError> {
        let is_here = |(exit, _): &(ExitOrdinal, Entry)| *exit == standing.exit;
        let may_come = |through| through <= standing.exit;
        while !self.entries.front().is_some_and(is_here) && may_come(self.through) && self.end.is_none() {
            if !self.read_batch()? {
                return Err(TimelineError::Ended(standing.exit));
            }
        }
        match self.entries.front() {
            Some((exit, entry)) if *exit < standing.exit => {
                let entry = entry.name();
                let what = format!("the record has {entry} at exit {exit}, which the guest has passed");
                Err(diverged(standing, what))
            }
            Some((exit, entry)) if *exit == standing.exit => Ok(Some(entry)),
            _ => Ok(None),
        }
    }

    /// What the guest did after the exit of `standing`, if it was pre-empted before the next.
    fn resumption(&mut self, standing: Standing) -> Result<Option<Resumption>, TimelineError> {
        let mut pages = Vec::new();
        while matches!(
            self.entry_here(standing)?,
            Some(Entry::Page { .. } | Entry::Resume { .. })
        ) {
            match self.entries.pop_front() {
                Some((_, Entry::Page { address, delta })) => {
                    let content = self.told_pages.hear(address, &delta).map_err(unreadable)?;
                    pages.push((address, content));
                }
                Some((_, Entry::Resume { vcpu, posted })) => {
                    let vcpu = VcpuState::from_bytes(&vcpu).map_err(unreadable)?;
                    return Ok(Some(Resumption { vcpu, posted, pages }));
                }
                _ => break,
            }
        }
        if pages.is_empty() {
            return Ok(None);
        }
        Err(diverged(
            standing,
            "the record has pages here, and no vCPU to go with them".into(),
        ))
    }

    /// Takes in what workers and operator have posted.
    fn look_into_inbox(&mut self) {
        if !self.kicker.take_work() {
            return;
        }
        for event in self.inbox.take() {
            match event {
                Event::Stop => self.is_stopped = true,
                Event::Device(Input::Disk(completion)) => {
                    self.disk_done.insert(completion.id, completion.outcome);
                }
                // What is typed at a replay, and its power button, is nobody's; and it is held where the log says.
                Event::Device(_) | Event::Hold => {}
            }
        }
    }
}

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> TimelineError {
    TimelineError::Host {
        what: "reading the log",
        source: std::io::Error::other(error),
    }
}

fn diverged(standing: Standing, what: String) -> TimelineError {
    TimelineError::Diverged {
        exit: standing.exit,
        what,
        state: None,
    }
}

impl<S: LogSource> Timeline for Replayer<S> {
    fn read_time(&mut self, standing: Standing) -> Result<VirtualTime, TimelineError> {
        let Some(Entry::TimeRead(time)) = self.entry_here(standing)? else {
            return Ok(time_rule::unsampled(standing.now));
        };
        let time = *time;
        self.entries.pop_front();
        Ok(time)
    }

    fn next_arrival(&mut self, standing: Standing) -> Result<Option<Arrival>, TimelineError> {
        self.look_into_inbox();
        if self.is_stopped {
            return Ok(Some(Arrival::Stop));
        }
        let arrival = match self.entry_here(standing)? {
            None
            | Some(
                Entry::Page { .. }
                | Entry::Resume { .. }
                | Entry::Stand(_)
                | Entry::Verify(_)
                | Entry::Checkpoints { .. },
            ) => return Ok(None),
            Some(Entry::Disk { id, is_done }) => {
                let (id, is_done) = (*id, *is_done);
                self.entries.pop_front();
                return self.disk_completion(standing, id, is_done);
            }
            Some(Entry::Expiry(time)) => Arrival::Expiry(*time),
            Some(Entry::Frame(bytes)) => Arrival::Device(Input::Frame(Frame(bytes.clone()))),
            Some(Entry::Console(bytes)) => Arrival::Device(Input::Console(bytes.clone())),
            Some(Entry::PowerButton) => Arrival::Device(Input::PowerButton),
            Some(Entry::Stop) => Arrival::Stop,
            Some(
                entry @ (Entry::TimeRead(_)
                | Entry::Entropy(_)
                | Entry::Epoch(_)
                | Entry::Flush
                | Entry::Repair(_)
                | Entry::Replays
                | Entry::Output { .. }),
            ) => {
                let entry = entry.name();
                let what = format!("the guest did not ask for the {entry} that the record has here");
                return Err(diverged(standing, what));
            }
        };
        self.entries.pop_front();
        Ok(Some(arrival))
    }

    fn random_bytes(&mut self, standing: Standing, byte_count: usize) -> Result<Vec<u8>, TimelineError> {
        match self.entry_here(standing)? {
            Some(Entry::Entropy(bytes)) if bytes.len() == byte_count => {
                let bytes = bytes.clone();
                self.entries.pop_front();
                Ok(bytes)
            }
            _ => Err(diverged(
                standing,
                format!("the guest asks for {byte_count} random bytes, the record has none"),
            )),
        }
    }

    fn sleep(&mut self, standing: Standing) -> Result<Rest, TimelineError> {
        if self.is_held_here(standing)? {
            return Ok(Rest::Hold);
        }
        Err(diverged(
            standing,
            "the guest sleeps, and nothing in the record wakes it".into(),
        ))
    }

    fn enter_guest(&mut self, standing: Standing) -> Result<Turn, TimelineError> {
        if standing.is_between_exits {
            self.kicker.reenter_guest();
            return Ok(Turn::Run);
        }
        if let Some(position) = self.hold_at.filter(|position| position.exit <= standing.exit) {
            let instructions = position.instructions;
            if instructions == 0 {
                return Ok(Turn::Hold);
            }
            // A stretch that ends in a pre-emption is not executed: nothing lies between its ends.
            if let Some(Entry::Page { .. } | Entry::Resume { .. }) = self.entry_here(standing)? {
                return Err(TimelineError::Beyond {
                    exit: standing.exit.next(),
                    instructions: 0,
                });
            }
            return Ok(Turn::Step(Some(instructions)));
        }
        if self.is_held_here(standing)? {
            return Ok(Turn::Hold);
        }
        if let Some(resumption) = self.resumption(standing)? {
            return Ok(Turn::Become(Box::new(resumption)));
        }
        if self.end.is_some() && self.through == standing.exit {
            return Err(TimelineError::Ended(standing.exit));
        }
        Ok(if !self.kicker.enter_guest() {
            Turn::Wait
        } else if self.stepped.contains(&standing.exit) {
            Turn::Step(None)
        } else {
            Turn::Run
        })
    }

    fn kicked(&mut self, _: Standing) -> Result<Kick, TimelineError> {
        let disturbance = self.noise.as_mut().and_then(Noise::disturbance);
        Ok(disturbance.map_or(Kick::Noise, Kick::Disturb))
    }

    fn disturbed(&mut self, disturbance: Disturbance, has_happened: bool) {
        if let (Some(noise), true) = (&mut self.noise, has_happened) {
            noise.has_happened(disturbance);
        }
    }

    fn is_worth_preempting(&mut self, _: Standing, _: usize) -> Result<bool, TimelineError> {
        Ok(false)
    }

    fn preempted(&mut self, standing: Standing, _: Resumption) -> Result<(), TimelineError> {
        Err(diverged(
            standing,
            "the guest was stopped, and no replay does that".into(),
        ))
    }

    fn begins_epoch(&mut self, standing: Standing) -> Result<bool, TimelineError> {
        Ok(matches!(self.entry_here(standing)?, Some(Entry::Epoch(_))))
    }

    fn epoch_ended(&mut self, standing: Standing, digests: EpochDigests) -> Result<(), TimelineError> {
        let Some((_, Entry::Epoch(recorded))) = self.entries.pop_front() else {
            return Err(diverged(standing, "the record has no epoch here".into()));
        };
        match differences(&recorded, &digests) {
            None => Ok(()),
            Some(what) => Err(TimelineError::Diverged {
                exit: standing.exit,
                what: format!("at the end of an epoch, {what}"),
                state: Some(Box::new(recorded.differing(&digests))),
            }),
        }
    }

    fn leave_guest(&mut self) {
        self.kicker.leave_guest();
    }

    fn posted(&mut self, write: &PostedWrite) {
        self.rolling.posted(write);
    }

    fn exited(&mut self, trace: &ExitTrace<'_>) -> Result<(), TimelineError> {
        let check = self.rolling.exited(trace);
        while self.through < trace.ordinal {
            if self.end.is_some() || !self.read_batch()? {
                return Err(TimelineError::Ended(trace.ordinal));
            }
        }
        let place = trace.ordinal.get().checked_sub(self.checks_from);
        let expected = place.and_then(|place| self.checks.get(usize::try_from(place).ok()?));
        if expected == Some(&check) {
            return Ok(());
        }
        Err(TimelineError::Diverged {
            exit: trace.ordinal,
            what: format!(
                "this exit or what led to it ({:?}, wrote {:02x?}, {:x?})",
                trace.exit, trace.written, trace.registers
            ),
            state: None,
        })
    }

    fn flush(&mut self, standing: Standing) -> Result<(), TimelineError> {
        if self.entry_here(standing)? != Some(&Entry::Flush) {
            return Err(diverged(
                standing,
                "the guest flushes, and the record has no flush here".into(),
            ));
        }
        self.entries.pop_front();
        Ok(())
    }

    fn output(&mut self, standing: Standing, output: Output<'_>) -> Result<Release, TimelineError> {
        let (kind, digest) = digest_of(output);
        match self.entry_here(standing)? {
            Some(recorded) if *recorded == (Entry::Output { kind, digest }) => {
                self.entries.pop_front();
                Ok(Release::Now)
            }
            Some(Entry::Output { kind: recorded, .. }) => {
                let what = format!(
                    "the guest puts out {}, other than the {} in the record",
                    kind.name(),
                    recorded.name()
                );
                Err(diverged(standing, what))
            }
            _ => Err(diverged(
                standing,
                format!("the guest puts out {}, and the record has none here", kind.name()),
            )),
        }
    }
}
