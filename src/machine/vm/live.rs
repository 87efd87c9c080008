//! The timeline of a VM that lives here: the host's clock, its random bytes, and what the workers post.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::epoch::EpochDigests;
use super::timeline::{
    Arrival, ExitTrace, Kick, Output, Release, Rest, Resumption, Standing, Timeline, TimelineError, Turn,
};
use crate::base::clock::{SystemClock, VirtualClock};
use crate::base::entropy::EntropySource;
use crate::base::units::VirtualTime;
use crate::machine::kvm::{KickTimer, Kicker, PostedWrite};
use crate::machine::workers::{Event, HostEntropy, Inbox};

/// The span between two timer expiries of a guest that computes, in exits. Linux makes about eight exits an expiry
/// (its interrupt, acknowledgement, entropy and next deadline), so ticks take a fifth of its time at most. Where an
/// exit is so dear that this exceeds the tick's period, the guest gets fewer ticks and goes by its clock, as it does
/// after an idle spell; without the guard it would do nothing but tick.
const TIMER_GUARD_EXITS: u32 = 40;
/// Bounds of the span between two timer expiries of a guest that computes. The lower one guards against a guest that
/// programs its timer faster than a host can kick, the upper one keeps a slow host's guest in time.
const TIMER_GUARD_MIN: Duration = Duration::from_micros(20);
const TIMER_GUARD_MAX: Duration = Duration::from_millis(8);

/// A timeline from the host.
#[derive(Debug)]
pub struct Live {
    kicker: Kicker,
    inbox: Inbox,
    arrived: VecDeque<Arrival>,
    clock: VirtualClock<SystemClock>,
    entropy: HostEntropy,
    timer: KickTimer,
    timer_armed_for: Option<VirtualTime>,
    timer_guard: Duration,
    /// Until when a guest that has not slept since the last timer expiry is left alone.
    guarded_until: VirtualTime,
    /// The VM is to be held at the next position.
    hold_wanted: bool,
    /// Where it is told, for other threads, which exit was reached.
    position: Option<Arc<AtomicU64>>,
}

impl Live {
    /// A timeline that goes on from `now`. The calling thread is the vCPU's, `kicker` its own, and an exit costs `exit_cost`
    /// here.
    ///
    /// # Errors
    /// When the host refuses a timer.
    pub fn starting_at(
        now: VirtualTime,
        kicker: Kicker,
        inbox: Inbox,
        entropy: HostEntropy,
        exit_cost: Duration,
    ) -> std::io::Result<Self> {
        Ok(Self {
            kicker,
            inbox,
            arrived: VecDeque::new(),
            clock: VirtualClock::starting_at(now, SystemClock),
            entropy,
            timer: KickTimer::for_this_thread()?,
            timer_armed_for: None,
            timer_guard: (exit_cost * TIMER_GUARD_EXITS).clamp(TIMER_GUARD_MIN, TIMER_GUARD_MAX),
            guarded_until: VirtualTime::ZERO,
            hold_wanted: false,
            position: None,
        })
    }

    /// The same, telling in `position` which exit was reached.
    #[must_use]
    pub fn telling(self, position: Arc<AtomicU64>) -> Self {
        Self {
            position: Some(position),
            ..self
        }
    }

    /// The same, with what has arrived already.
    #[must_use]
    pub fn after(self, arrived: impl IntoIterator<Item = Arrival>) -> Self {
        Self {
            arrived: arrived.into_iter().collect(),
            ..self
        }
    }

    /// Holds the VM at the next position.
    pub fn want_hold(&mut self) {
        self.hold_wanted = true;
    }

    /// When the next timer shall expire: when it is due, but not before the guest has had time for the last one.
    fn next_expiry(&self, standing: Standing) -> Option<VirtualTime> {
        standing.deadline.map(|deadline| deadline.max(self.guarded_until))
    }

    /// Arms the host timer for the next deadline, unless it fires before that anyway.
    fn arm_timer(&mut self, standing: Standing) -> Result<(), TimelineError> {
        let Some(deadline) = self.next_expiry(standing) else {
            return Ok(());
        };
        // One that has fired without being noticed counts as none.
        let last = self.clock.last();
        if self
            .timer_armed_for
            .is_none_or(|armed| deadline < armed || armed <= last)
        {
            let span = self.clock.host_span_until(deadline);
            self.timer.arm(span).map_err(|source| TimelineError::Host {
                what: "arming the vCPU's timer",
                source,
            })?;
            self.timer_armed_for = Some(deadline);
        }
        Ok(())
    }

    /// Announces that this thread goes on in the guest. Whether something has come meanwhile is to be asked after this:
    /// what comes later kicks.
    pub fn reenter_guest(&self) {
        self.kicker.reenter_guest();
    }

    /// Whether something waits to enter the guest.
    pub fn has_arrival(&mut self, standing: Standing) -> bool {
        let is_due = |deadline| deadline <= self.clock.sample();
        !self.arrived.is_empty() || self.kicker.has_work() || standing.deadline.is_some_and(is_due)
    }

    /// The host's time, as the guest would be shown it.
    pub fn now(&mut self) -> VirtualTime {
        self.clock.sample()
    }

    /// Kicks the guest after `span`, whatever is due before.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn kick_after(&mut self, span: Duration) -> Result<(), TimelineError> {
        self.timer.arm(span).map_err(|source| TimelineError::Host {
            what: "arming the vCPU's timer",
            source,
        })?;
        self.timer_armed_for = Some(self.clock.last() + span);
        Ok(())
    }

    /// A guest that sleeps needs no kick, and the signal of one would cost more than this call.
    fn disarm_timer(&mut self) -> Result<(), TimelineError> {
        if self.timer_armed_for.take().is_some() {
            self.timer.disarm().map_err(|source| TimelineError::Host {
                what: "disarming the vCPU's timer",
                source,
            })?;
        }
        Ok(())
    }
}

impl Timeline for Live {
    fn read_time(&mut self, _: Standing) -> Result<VirtualTime, TimelineError> {
        Ok(self.clock.sample())
    }

    fn next_arrival(&mut self, standing: Standing) -> Result<Option<Arrival>, TimelineError> {
        if let Some(expiry) = self.next_expiry(standing) {
            let now = self.clock.sample();
            if expiry <= now {
                self.guarded_until = now + self.timer_guard;
                return Ok(Some(Arrival::Expiry(now)));
            }
        }
        if self.arrived.is_empty() && self.kicker.take_work() {
            for event in self.inbox.take() {
                match event {
                    Event::Device(input) => self.arrived.push_back(Arrival::Device(input)),
                    Event::Stop => self.arrived.push_back(Arrival::Stop),
                    Event::Hold => self.hold_wanted = true,
                }
            }
        }
        Ok(self.arrived.pop_front())
    }

    fn random_bytes(&mut self, _: Standing, byte_count: usize) -> Result<Vec<u8>, TimelineError> {
        let mut bytes = vec![0; byte_count];
        self.entropy
            .fill(&mut bytes)
            .map_err(|source| TimelineError::Host {
                what: "reading random bytes",
                source,
            })?;
        Ok(bytes)
    }

    fn sleep(&mut self, standing: Standing) -> Result<Rest, TimelineError> {
        if standing.is_at_exit && std::mem::take(&mut self.hold_wanted) {
            return Ok(Rest::Hold);
        }
        // It has halted, so it has done all that the last expiry gave it to do.
        self.guarded_until = VirtualTime::ZERO;
        let limit = standing
            .deadline
            .map(|deadline| self.clock.host_span_until(deadline));
        if limit.is_none_or(|limit| limit > Duration::ZERO) {
            self.disarm_timer()?;
            self.kicker.park(limit);
        }
        Ok(Rest::Over)
    }

    fn enter_guest(&mut self, standing: Standing) -> Result<Turn, TimelineError> {
        if standing.is_between_exits {
            self.reenter_guest();
            if self.kicker.has_work() {
                self.kick_after(Duration::ZERO)?;
            }
            return Ok(Turn::Run);
        }
        if standing.is_at_exit && std::mem::take(&mut self.hold_wanted) {
            return Ok(Turn::Hold);
        }
        self.arm_timer(standing)?;
        Ok(if self.kicker.enter_guest() {
            Turn::Run
        } else {
            Turn::Wait
        })
    }

    fn leave_guest(&mut self) {
        self.kicker.leave_guest();
    }

    fn kicked(&mut self, _: Standing) -> Result<Kick, TimelineError> {
        Ok(Kick::Arrival)
    }

    fn is_worth_preempting(&mut self, _: Standing, _: usize) -> Result<bool, TimelineError> {
        Ok(false)
    }

    fn preempted(&mut self, _: Standing, _: Resumption) -> Result<(), TimelineError> {
        Ok(())
    }

    fn begins_epoch(&mut self, _: Standing) -> Result<bool, TimelineError> {
        Ok(false)
    }

    fn epoch_ended(&mut self, _: Standing, _: EpochDigests) -> Result<(), TimelineError> {
        Ok(())
    }

    fn posted(&mut self, _: &PostedWrite) {}

    fn exited(&mut self, trace: &ExitTrace<'_>) -> Result<(), TimelineError> {
        if let Some(position) = &self.position {
            position.store(trace.ordinal.get(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn flush(&mut self, _: Standing) -> Result<(), TimelineError> {
        Ok(())
    }

    fn output(&mut self, _: Standing, _: Output<'_>) -> Result<Release, TimelineError> {
        Ok(Release::Now)
    }
}
