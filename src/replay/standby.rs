//! The timeline of a backup: a replayer that goes on alone where the log ends, if it is told to.
//!
//! ```text
//!   following ── the source ends ──▶ live, here: even within the handling of an exit
//!       └─ the log says that the primary stands ─▶ held ─▶ follows on, or leads in its place from there
//! ```
//!
//! The last watermark names an exit that the primary has reached; which of its entries are missing, nobody knows any more.
//! None of them was acknowledged, so nothing that depends on them has left the primary (P1), and what the guest now asks
//! for is answered by this host, from the last time that the guest was shown (E8). The VM is held at the next position, so
//! that its outside can be attached.
//!
//! Disk requests are its own in either phase: what has ended before the log said so arrives as soon as it is live, and
//! nothing is asked for twice (P5).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use antipode_disk_sync::online::Slice;

use super::catalogue::OutputKind;
use super::feed::LogSource;
use super::repair::Repair;
use super::replayer::{Awaited, Replayer};
use crate::base::units::{ExitOrdinal, VirtualTime};
use crate::machine::kvm::{Disturbance, Kicker, PostedWrite};
use crate::machine::workers::{HostEntropy, Inbox};
use crate::machine::{
    Arrival, EpochDigests, ExitTrace, Kick, Live, Output, Release, Rest, Resumption, Standing, Timeline,
    TimelineError, Turn,
};

/// What this host has ready for a VM that goes live.
#[derive(Debug)]
pub struct Reserve {
    /// The vCPU thread's own.
    pub kicker: Kicker,
    /// The vCPU thread's own.
    pub inbox: Inbox,
    /// Random bytes.
    pub entropy: HostEntropy,
    /// What an exit costs here.
    pub exit_cost: Duration,
    /// Where it is told, for other threads, which exit was reached.
    pub position: Arc<AtomicU64>,
    /// The copy is led astray once in so many exits, on purpose.
    pub lead_astray_every: Option<u64>,
}

/// Shows a copy another time than its primary saw, now and then: for whoever checks that it is noticed and repaired (H2).
#[derive(Debug)]
struct Astray {
    every: u64,
    next: u64,
}

/// How much later that is.
const ASTRAY: Duration = Duration::from_millis(1);

impl Astray {
    fn answer(&mut self, exit: ExitOrdinal, time: VirtualTime) -> VirtualTime {
        if exit.get() < self.next {
            return time;
        }
        self.next = exit.get() + self.every;
        tracing::warn!(%exit, "the copy is led astray, as the site's configuration wants it");
        time + ASTRAY
    }
}

/// A backup's timeline.
#[derive(Debug)]
pub struct Standby<S> {
    phase: Phase<S>,
    position: Arc<AtomicU64>,
    astray: Option<Astray>,
}

#[derive(Debug)]
enum Phase<S> {
    Following(Box<Replayer<S>>, Option<Reserve>),
    Live(Box<Live>),
}

impl<S: LogSource> Standby<S> {
    /// Follows `log`, and goes on with `reserve` where it ends.
    pub fn following(log: S, reserve: Reserve) -> Self {
        let begins_at = log.begins_at();
        let replayer = Replayer::new(log, reserve.kicker.clone(), reserve.inbox.clone());
        Self {
            astray: reserve.lead_astray_every.map(|every| Astray {
                every,
                next: begins_at.get() + every,
            }),
            position: Arc::clone(&reserve.position),
            phase: Phase::Following(Box::new(replayer), Some(reserve)),
        }
    }

    /// The live timeline, if it has come to that.
    ///
    /// # Errors
    /// Itself, if it still follows.
    pub fn into_live(self) -> Result<Live, Self> {
        match self.phase {
            Phase::Live(live) => Ok(*live),
            phase @ Phase::Following(..) => Err(Self { phase, ..self }),
        }
    }

    /// What the primary was where it stands still, if that is why the VM is held here.
    pub fn take_stood(&mut self) -> Option<Box<EpochDigests>> {
        match &mut self.phase {
            Phase::Following(replayer, _) => replayer.take_stood(),
            Phase::Live(_) => None,
        }
    }

    /// The slice of the disk that is compared as it is here, if that is why the VM is held.
    pub fn take_slice(&mut self) -> Option<Slice> {
        match &mut self.phase {
            Phase::Following(replayer, _) => replayer.take_slice(),
            Phase::Live(_) => None,
        }
    }

    /// Leaves out all that the log tells until there is a whole repair of that number; answers with it, and where it is of.
    /// Each output that is left out is told to `left_out`: where, and its digest.
    ///
    /// # Errors
    /// When the log ends before, or the operator stops the VM; or what comes is no repair.
    pub fn await_repair(
        &mut self,
        number: u64,
        left_out: &mut dyn FnMut(ExitOrdinal, OutputKind, u64),
    ) -> Result<(ExitOrdinal, Repair), TimelineError> {
        match &mut self.phase {
            Phase::Following(replayer, _) => replayer.await_repair(number, left_out),
            Phase::Live(_) => Err(TimelineError::Stopped),
        }
    }

    /// What the primary was where its copy was to execute nothing more, if that is why the VM is held here (H4).
    pub fn take_rested(&mut self) -> Option<Box<EpochDigests>> {
        match &mut self.phase {
            Phase::Following(replayer, _) => replayer.take_rested(),
            Phase::Live(_) => None,
        }
    }

    /// Whether it executes nothing, and becomes what checkpoints say.
    #[must_use]
    pub fn rests(&self) -> bool {
        match &self.phase {
            Phase::Following(replayer, _) => replayer.rests(),
            Phase::Live(_) => false,
        }
    }

    /// Whether no flush of the guest ends before the checkpoint behind it is durable here.
    #[must_use]
    pub fn flushes_wait(&self) -> bool {
        match &self.phase {
            Phase::Following(replayer, _) => replayer.flushes_wait(),
            Phase::Live(_) => false,
        }
    }

    /// Waits for the next checkpoint, or for the end of them. Each output on the way, which nobody makes here, is told to
    /// `left_out`: where, and its digest.
    ///
    /// # Errors
    /// When the operator stops the VM; or what comes is no checkpoint.
    pub fn await_checkpoint(
        &mut self,
        left_out: &mut dyn FnMut(ExitOrdinal, OutputKind, u64),
    ) -> Result<Awaited, TimelineError> {
        match &mut self.phase {
            Phase::Following(replayer, _) => replayer.await_checkpoint(left_out),
            Phase::Live(_) => Ok(Awaited::Nothing),
        }
    }

    /// What its disk has done so far is nobody's: the VM becomes what it is at `exit`.
    pub fn begin_anew_at(&mut self, exit: ExitOrdinal) {
        if let Phase::Following(replayer, _) = &mut self.phase {
            replayer.forget_disk();
            self.position.store(exit.get(), Ordering::Relaxed);
        }
    }

    /// Goes on alone from where the primary stands still, and from `now`. Nothing has entered since.
    ///
    /// # Errors
    /// When the host refuses a timer.
    pub fn into_leading(mut self, now: VirtualTime) -> Result<Live, TimelineError> {
        self.go_live(now)?;
        match self.phase {
            Phase::Live(live) => Ok(*live),
            Phase::Following(..) => Err(TimelineError::Stopped),
        }
    }

    /// Asks `question` of the present phase, and of the live one if the log ends at it.
    fn ask<T>(
        &mut self,
        now: VirtualTime,
        mut question: impl FnMut(&mut dyn Timeline) -> Result<T, TimelineError>,
    ) -> Result<T, TimelineError> {
        match &mut self.phase {
            Phase::Live(live) => return question(&mut **live),
            Phase::Following(replayer, _) => match question(&mut **replayer) {
                Err(TimelineError::Ended(_)) => {}
                answer => return answer,
            },
        }
        let live = self.go_live(now)?;
        live.want_hold();
        question(live)
    }

    fn go_live(&mut self, now: VirtualTime) -> Result<&mut Live, TimelineError> {
        if let Phase::Following(replayer, reserve) = &mut self.phase
            && let Some(reserve) = reserve.take()
        {
            let arrived = replayer.take_arrivals();
            let live = Live::starting_at(
                now,
                reserve.kicker,
                reserve.inbox,
                reserve.entropy,
                reserve.exit_cost,
            );
            let live = live.map_err(|source| TimelineError::Host {
                what: "creating the vCPU's timer",
                source,
            })?;
            let live = live.after(arrived).telling(Arc::clone(&self.position));
            self.phase = Phase::Live(Box::new(live));
        }
        match &mut self.phase {
            Phase::Live(live) => Ok(live),
            // The reserve goes with the phase.
            Phase::Following(..) => Err(TimelineError::Stopped),
        }
    }

    fn present(&mut self) -> &mut dyn Timeline {
        match &mut self.phase {
            Phase::Live(live) => &mut **live,
            Phase::Following(replayer, _) => &mut **replayer,
        }
    }
}

impl<S: LogSource> Timeline for Standby<S> {
    fn read_time(&mut self, standing: Standing) -> Result<VirtualTime, TimelineError> {
        let time = self.ask(standing.now, |timeline| timeline.read_time(standing))?;
        Ok(match (&mut self.astray, &self.phase) {
            (Some(astray), Phase::Following(..)) => astray.answer(standing.exit, time),
            _ => time,
        })
    }

    fn next_arrival(&mut self, standing: Standing) -> Result<Option<Arrival>, TimelineError> {
        self.ask(standing.now, |timeline| timeline.next_arrival(standing))
    }

    fn random_bytes(&mut self, standing: Standing, byte_count: usize) -> Result<Vec<u8>, TimelineError> {
        self.ask(standing.now, |timeline| {
            timeline.random_bytes(standing, byte_count)
        })
    }

    fn sleep(&mut self, standing: Standing) -> Result<Rest, TimelineError> {
        self.ask(standing.now, |timeline| timeline.sleep(standing))
    }

    fn enter_guest(&mut self, standing: Standing) -> Result<Turn, TimelineError> {
        self.ask(standing.now, |timeline| timeline.enter_guest(standing))
    }

    fn leave_guest(&mut self) {
        self.present().leave_guest();
    }

    fn kicked(&mut self, standing: Standing) -> Result<Kick, TimelineError> {
        self.present().kicked(standing)
    }

    fn is_worth_preempting(&mut self, standing: Standing, page_count: usize) -> Result<bool, TimelineError> {
        self.present().is_worth_preempting(standing, page_count)
    }

    fn disturbed(&mut self, disturbance: Disturbance, has_happened: bool) {
        self.present().disturbed(disturbance, has_happened);
    }

    fn preempted(&mut self, standing: Standing, done: Resumption) -> Result<(), TimelineError> {
        self.present().preempted(standing, done)
    }

    fn begins_epoch(&mut self, standing: Standing) -> Result<bool, TimelineError> {
        self.ask(standing.now, |timeline| timeline.begins_epoch(standing))
    }

    fn epoch_ended(&mut self, standing: Standing, digests: EpochDigests) -> Result<(), TimelineError> {
        self.present().epoch_ended(standing, digests)
    }

    fn posted(&mut self, write: &PostedWrite) {
        self.present().posted(write);
    }

    fn exited(&mut self, trace: &ExitTrace<'_>) -> Result<(), TimelineError> {
        if let Phase::Following(..) = self.phase {
            self.position.store(trace.ordinal.get(), Ordering::Relaxed);
        }
        // A guest is entered only when the log reaches past its exit, so its next exit is always covered.
        self.present().exited(trace)
    }

    fn flush(&mut self, standing: Standing) -> Result<(), TimelineError> {
        self.ask(standing.now, |timeline| timeline.flush(standing))
    }

    /// A frame that the primary may have shown already is not shown again; what comes after the log's end is.
    fn output(&mut self, standing: Standing, output: Output<'_>) -> Result<Release, TimelineError> {
        let release = self.ask(standing.now, |timeline| timeline.output(standing, output))?;
        Ok(match (&self.phase, release) {
            (Phase::Following(..), _) => Release::Never,
            (Phase::Live(_), release) => release,
        })
    }
}
