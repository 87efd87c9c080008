//! When a guest is told that its disk is durable (P8).
//!
//! ```text
//!                                                  open ──────────────────────────────▶ the guest
//!   a worker has flushed ──▶ [`FlushGate`] ──┬─────────▲─────────────────────────────────▲
//!                │                           └ closed ─┴─▶ waits ── the other site is durable there,
//!                └──▶ whoever asked to be told             or the gate opens ────────────┘
//! ```
//!
//! A primary whose pairing has it so closes the gate before its first exit is led; it opens when this site is alone. A VM
//! that follows tells its flushes to the driver instead, which says so to the primary. A flush that failed promises
//! nothing, so the guest sees that at once.
//!
//! What waits here is no request under way: to whoever drains the disk it is done, and it is.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Event, Inbox};
use crate::base::clock::{HostClock, SystemClock};
use crate::base::spans::Spans;
use crate::base::units::ExitOrdinal;
use crate::devices::{DiskCompletion, DiskOutcome, Input};

/// Holds flushes that are durable here until they are at the other site too. A flush at exit n covers the writes whose
/// completion the guest had seen by then, so a site that is durable at n or later is durable for all that it promises.
#[derive(Debug)]
pub struct FlushGate<T> {
    /// How far the other site is durable; none while the gate is open.
    durable: Option<ExitOrdinal>,
    /// Each with its exit, and since when it waits.
    waiting: Vec<(ExitOrdinal, Duration, T)>,
    /// How long each has waited since the gate was closed.
    waits: Spans,
}

impl<T> Default for FlushGate<T> {
    /// An open one.
    fn default() -> Self {
        Self {
            durable: None,
            waiting: Vec::new(),
            waits: Spans::default(),
        }
    }
}

impl<T> FlushGate<T> {
    /// From here on flushes wait for the other site, which is durable at exit `at`.
    pub fn close(&mut self, at: ExitOrdinal) {
        self.durable = Some(at);
        self.waits = Spans::default();
    }

    /// The flush that was asked for at exit `at` is done here. Answers with it, if the guest may be told.
    pub fn done(&mut self, now: Duration, at: ExitOrdinal, flush: T) -> Option<T> {
        match self.durable {
            None => Some(flush),
            Some(durable) if at <= durable => {
                self.waits.add(Duration::ZERO);
                Some(flush)
            }
            Some(_) => {
                self.waiting.push((at, now, flush));
                None
            }
        }
    }

    /// The other site is durable at exit `at`: what the guest may be told now, in the order in which it was done here.
    pub fn durable(&mut self, now: Duration, at: ExitOrdinal) -> Vec<T> {
        let Some(before) = self.durable else {
            return Vec::new();
        };
        let durable = before.max(at);
        self.durable = Some(durable);
        let (released, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(at, ..)| *at <= durable);
        self.waiting = waiting;
        for (_, since, _) in &released {
            self.waits.add(now.saturating_sub(*since));
        }
        flushes(released)
    }

    /// This site is alone: nothing waits from here on. What has waited is the answer.
    pub fn open(&mut self) -> Vec<T> {
        self.durable = None;
        flushes(std::mem::take(&mut self.waiting))
    }

    /// Since when the oldest one waits.
    #[must_use]
    pub fn waits_since(&self) -> Option<Duration> {
        self.waiting.iter().map(|(_, since, _)| *since).min()
    }

    /// What so many percent of the last ones have not waited longer than, since the gate was closed.
    #[must_use]
    pub fn waited(&self, percent: usize) -> Option<Duration> {
        self.waits.percentile(percent)
    }
}

fn now() -> Duration {
    Duration::from_nanos(SystemClock.monotonic_ns())
}

fn flushes<T>(waiting: Vec<(ExitOrdinal, Duration, T)>) -> Vec<T> {
    waiting.into_iter().map(|(_, _, flush)| flush).collect()
}

/// Takes what a flush of a VM that follows came to, and at which exit it was asked for.
type Listener = Box<dyn Fn(ExitOrdinal, DiskOutcome) + Send>;

#[derive(Default)]
struct State {
    gate: FlushGate<DiskCompletion>,
    listener: Option<Listener>,
}

/// The flushes of a disk in service, between its workers and the guest.
pub struct Flushes {
    state: Mutex<State>,
    inbox: Inbox,
}

impl fmt::Debug for Flushes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gate = &self.state().gate;
        formatter.debug_tuple("Flushes").field(gate).finish()
    }
}

impl Flushes {
    /// The guest is told by `inbox`.
    pub(super) fn new(inbox: Inbox) -> Self {
        Self {
            state: Mutex::default(),
            inbox,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker has ended a flush that was asked for at exit `at`.
    pub(super) fn ended(&self, at: ExitOrdinal, completion: DiskCompletion) {
        let mut state = self.state();
        if let Some(listener) = &state.listener {
            listener(at, completion.outcome.clone());
        }
        let told = match completion.outcome {
            DiskOutcome::Done => state.gate.done(now(), at, completion),
            DiskOutcome::Failed | DiskOutcome::Read(_) => Some(completion),
        };
        self.tell(told);
    }

    /// The guest is told of what its requests came to.
    pub(super) fn tell(&self, completions: impl IntoIterator<Item = DiskCompletion>) {
        let events = completions
            .into_iter()
            .map(|done| Event::Device(Input::Disk(done)));
        let mut events = events.peekable();
        if events.peek().is_some() {
            self.inbox.post(events);
        }
    }

    /// As [`FlushGate::close`]. No flush may be under way.
    pub fn close(&self, at: ExitOrdinal) {
        self.state().gate.close(at);
    }

    /// As [`FlushGate::durable`]; the guest is told.
    pub fn durable(&self, at: ExitOrdinal) {
        self.tell(self.state().gate.durable(now(), at));
    }

    /// As [`FlushGate::open`]; the guest is told.
    pub fn open(&self) {
        self.tell(self.state().gate.open());
    }

    /// Since when the oldest flush waits for the other site, by the host's clock.
    #[must_use]
    pub fn wait_since(&self) -> Option<Duration> {
        self.state().gate.waits_since()
    }

    /// As [`FlushGate::waited`].
    #[must_use]
    pub fn waited(&self, percent: usize) -> Option<Duration> {
        self.state().gate.waited(percent)
    }

    /// Has each flush told to `listener` as it ends, or to nobody any more. It must not wait.
    pub fn tell_to(&self, listener: Option<Listener>) {
        self.state().listener = listener;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Disk, DiskFile, DiskWorkers};
    use super::*;
    use crate::base::guest_memory::GuestMemory;
    use crate::devices::{DiskOperation, DiskRequest, DiskRequestId};
    use crate::machine::kvm::KvmHost;

    fn exit(ordinal: u64) -> ExitOrdinal {
        ExitOrdinal::new(ordinal)
    }

    fn ms(span: u64) -> Duration {
        Duration::from_millis(span)
    }

    #[test]
    fn an_open_gate_holds_nothing() {
        let mut gate = FlushGate::default();
        assert_eq!(gate.done(ms(1), exit(5), 'a'), Some('a'));
        assert_eq!(gate.durable(ms(1), exit(9)), []);
        assert_eq!(gate.done(ms(2), exit(10), 'b'), Some('b'));
        assert_eq!((gate.waits_since(), gate.waited(100)), (None, None));
        assert_eq!(gate.open(), []);
    }

    #[test]
    fn a_closed_gate_lets_through_what_the_other_site_has_and_no_more() {
        let mut gate = FlushGate::default();
        gate.close(exit(10));
        // The copy began from a disk that was durable there.
        assert_eq!(gate.done(ms(1), exit(10), 'a'), Some('a'));
        assert_eq!(gate.done(ms(2), exit(30), 'c'), None);
        assert_eq!(gate.done(ms(3), exit(20), 'b'), None);
        assert_eq!(gate.waits_since(), Some(ms(2)));
        assert_eq!(gate.durable(ms(4), exit(19)), []);
        assert_eq!(gate.durable(ms(13), exit(20)), ['b']);
        assert_eq!((gate.waited(50), gate.waited(100)), (Some(ms(0)), Some(ms(10))));
        // The other site was first.
        assert_eq!(gate.done(ms(14), exit(20), 'd'), Some('d'));
        // What is told late says nothing new.
        assert_eq!(gate.durable(ms(14), exit(12)), []);
        assert_eq!(gate.done(ms(15), exit(20), 'e'), Some('e'));
        assert_eq!(gate.durable(ms(22), exit(99)), ['c']);
        assert_eq!((gate.waits_since(), gate.waited(100)), (None, Some(ms(20))));
    }

    #[test]
    fn a_site_that_is_alone_waits_for_nobody_and_another_pairing_begins_anew() {
        let mut gate = FlushGate::default();
        gate.close(exit(10));
        assert_eq!(gate.done(ms(1), exit(11), 'a'), None);
        assert_eq!(gate.done(ms(2), exit(12), 'b'), None);
        assert_eq!(gate.open(), ['a', 'b']);
        assert_eq!(gate.done(ms(3), exit(13), 'c'), Some('c'));
        gate.close(exit(20));
        assert_eq!(gate.done(ms(4), exit(21), 'd'), None);
        // How far the last backup was is forgotten.
        gate.open();
        gate.close(exit(20));
        assert_eq!(gate.done(ms(5), exit(21), 'e'), None);
    }

    /// Hands in a flush of that name at that exit, and waits until the disk has nothing more to do.
    fn flush(workers: &DiskWorkers, name: u64, at: u64) {
        let request = DiskRequest {
            id: DiskRequestId(name),
            operation: DiskOperation::Flush,
        };
        workers.submit(exit(at), [request]);
        workers.drain();
    }

    /// What the guest is told.
    fn told(inbox: &Inbox) -> Vec<u64> {
        let events = inbox.take().into_iter().map(|event| match event {
            Event::Device(Input::Disk(DiskCompletion {
                id,
                outcome: DiskOutcome::Done,
            })) => id.0,
            other => panic!("{other:?}"),
        });
        events.collect()
    }

    #[test]
    fn kvm_the_workers_hold_a_flush_for_the_other_site_and_no_drain_waits_for_that() {
        let Ok(host) = KvmHost::open() else {
            return eprintln!("skipped: there is no KVM");
        };
        let vm = host
            .create_vm(GuestMemory::allocate(1 << 20).unwrap(), false)
            .unwrap();
        let vcpu = vm.create_vcpu().unwrap();
        let inbox = Inbox::new(vcpu.kicker().waker());
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let disk: Disk = DiskFile::open(file.path(), None, false)
            .unwrap()
            .into_service()
            .unwrap();
        let workers = DiskWorkers::start(disk, &inbox).unwrap();
        let handle = workers.handle().unwrap();
        let (listener, heard) = std::sync::mpsc::channel();
        handle.flushes().tell_to(Some(Box::new(move |at, outcome| {
            listener.send((at, outcome)).unwrap();
        })));
        flush(&workers, 1, 5);
        assert_eq!(told(&inbox), [1], "an open gate holds nothing");
        handle.flushes().close(exit(10));
        flush(&workers, 2, 11);
        flush(&workers, 3, 12);
        handle.settle().unwrap();
        assert_eq!(told(&inbox), [0; 0]);
        assert!(handle.flushes().wait_since().is_some());
        handle.flushes().durable(exit(11));
        assert_eq!(told(&inbox), [2]);
        handle.flushes().open();
        assert_eq!(told(&inbox), [3]);
        let told: Vec<_> = heard.try_iter().collect();
        let done = |at| (exit(at), DiskOutcome::Done);
        assert_eq!(told, [done(5), done(11), done(12)], "whoever asked hears of each");
        handle.flushes().tell_to(None);
        flush(&workers, 4, 13);
        assert!(heard.try_recv().is_err());
    }
}
