//! The vCPU thread's ends of a log that travels: where a primary's recorder puts its batches, and where a backup's
//! replayer takes them from.
//!
//! ```text
//!   recorder ─▶ Outgoing ──FromVcpu::Logged──▶ driver ══ channel ══▶ driver ─▶ Incoming ─▶ replayer
//!                  ▲ waits while there is no Room ◀── acknowledged ──┘            └─ drained, consumed ─▶ driver
//! ```
//!
//! What repairs the other copy waits for no room: it makes none before it has that.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::kept_frames::{Kept, KeptFrames};
use super::orders::FromVcpu;
use crate::base::clock::thread_cpu_time;
use crate::base::limits::LOG_BUFFER_BYTES_MAX;
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::machine::kvm::VcpuWaker;
use crate::machine::{HeldOutput, OutputKeeper, Release, TimelineError};
use crate::replay::{Batch, Cadence, Carried, Entry, Feed, Framer, LogSink, LogSource};

/// A guest that runs is never further ahead of what was sent.
const BATCH_SPAN_AWAKE: Duration = Duration::from_millis(20);
/// One that sleeps most of the time has little to tell, and each batch costs some bytes of its own (R6).
const BATCH_SPAN_ASLEEP: Duration = Duration::from_millis(500);

/// A guest that is slowed stands no longer at once: what is asked of its thread waits meanwhile.
const PAUSE_MAX: Duration = Duration::from_millis(100);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much of the log may wait for the other site (P3).
#[derive(Debug, Default)]
pub(crate) struct Room {
    used: Mutex<Used>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Used {
    bytes: usize,
    /// Nobody takes the log any more: there is room for all of it.
    is_open: bool,
    /// The part of its time that the guest may use, in percent; 0 means all.
    share: u8,
}

impl Room {
    /// Waits until there is room, unless it `repairs` the other copy, and takes `bytes` of it.
    fn take(&self, bytes: usize, repairs: bool) {
        let mut used = locked(&self.used);
        while used.bytes >= LOG_BUFFER_BYTES_MAX && !used.is_open && !repairs {
            used = self.changed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        used.bytes += bytes;
    }

    /// What waits now.
    pub(crate) fn set_used(&self, bytes: usize) {
        locked(&self.used).bytes = bytes;
        self.changed.notify_all();
    }

    /// From now on the guest may use so much of its time, in percent (P3).
    pub(crate) fn set_share(&self, percent: u8) {
        locked(&self.used).share = percent;
    }

    /// Lets a guest wait that has run for `span`, so that it comes to its share.
    fn give_share(&self, span: Duration) {
        let used = locked(&self.used);
        let share = u32::from(used.share);
        if (1..100).contains(&share) {
            let pause = (span * (100 - share) / share).min(PAUSE_MAX);
            drop(self.changed.wait_timeout_while(used, pause, |used| !used.is_open));
        }
    }

    /// The log goes nowhere from here on: whoever waits goes on.
    pub(crate) fn open(&self) {
        locked(&self.used).is_open = true;
        self.changed.notify_all();
    }
}

/// Where a primary's batches go.
#[derive(Debug)]
pub(crate) struct Outgoing {
    framer: Framer,
    next: LogSeq,
    room: Arc<Room>,
    /// The guest's flushes wait for the other site.
    flushes_wait: bool,
    reports: UnboundedSender<FromVcpu>,
    /// Processor time of the vCPU's thread when the last batch was closed.
    ran_until: Duration,
}

impl Outgoing {
    /// The log of a pairing whose both ends know `anchor`, and whose flushes wait for the other site or do not.
    pub(crate) fn anchored_to(
        anchor: &[u8],
        room: Arc<Room>,
        flushes_wait: bool,
        reports: UnboundedSender<FromVcpu>,
    ) -> Self {
        Self {
            framer: Framer::anchored_to(anchor),
            next: LogSeq::default().next(),
            room,
            flushes_wait,
            reports,
            ran_until: thread_cpu_time(),
        }
    }
}

impl LogSink for Outgoing {
    fn append(&mut self, batch: &Batch, resumed: Duration) -> std::io::Result<()> {
        let frame = self.framer.frame(batch)?;
        let carried = Carried::of(batch, resumed);
        self.room.take(frame.len(), carried.repair_bytes > 0);
        let has_output = |(_, entry): &(ExitOrdinal, Entry)| matches!(entry, Entry::Output { .. });
        let is_epoch = |(_, entry): &&(ExitOrdinal, Entry)| matches!(entry, Entry::Epoch(_));
        let logged = FromVcpu::Logged {
            seq: self.next,
            through: batch.through,
            is_urgent: batch.entries.iter().any(has_output),
            epochs: u32::try_from(batch.entries.iter().filter(is_epoch).count()).unwrap_or(u32::MAX),
            carried,
            frame,
        };
        self.next = self.next.next();
        // Without a driver the process is about to end.
        let _ = self.reports.send(logged);
        // What waits for the batch does not wait for the guest.
        let ran_until = thread_cpu_time();
        self.room
            .give_share(ran_until.saturating_sub(std::mem::replace(&mut self.ran_until, ran_until)));
        Ok(())
    }

    fn cadence(&self) -> Cadence {
        Cadence {
            at_outputs: true,
            at_flushes: self.flushes_wait,
            awake: BATCH_SPAN_AWAKE,
            asleep: BATCH_SPAN_ASLEEP,
        }
    }

    fn release(&self) -> Release {
        Release::After(self.next)
    }
}

/// What waits for a backup's replay.
#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<(LogSeq, Batch)>,
    /// Nothing more will come, and this copy goes on alone.
    has_ended: bool,
    /// A copy that waits to be repaired waits for no more than is there.
    is_given_up: bool,
}

/// The driver's end of a backup's log.
#[derive(Debug, Clone)]
pub(crate) struct Feeder {
    waiting: Arc<Mutex<Waiting>>,
    waker: VcpuWaker,
}

impl Feeder {
    /// Hands over the next batch.
    pub(crate) fn feed(&self, seq: LogSeq, batch: Batch) {
        locked(&self.waiting).batches.push_back((seq, batch));
        self.waker.wake();
    }

    /// Ends the log: the copy goes live once it has executed all of it.
    pub(crate) fn end(&self) {
        locked(&self.waiting).has_ended = true;
        self.waker.wake();
    }

    /// Nothing more will come: a copy that waits to be repaired, and is not by what is there, never will be (H2). For any
    /// other it changes nothing.
    pub(crate) fn give_up(&self) {
        locked(&self.waiting).is_given_up = true;
        self.waker.wake();
    }
}

/// Where a backup's batches come from.
#[derive(Debug)]
pub(crate) struct Incoming {
    waiting: Arc<Mutex<Waiting>>,
    begins_at: ExitOrdinal,
    /// The batch that was taken last.
    taken: LogSeq,
    reports: UnboundedSender<FromVcpu>,
}

impl Incoming {
    /// Both ends of the log of a pairing that goes on from exit `begins_at`, on the thread that `waker` wakes.
    pub(crate) fn beginning_at(
        begins_at: ExitOrdinal,
        waker: VcpuWaker,
        reports: UnboundedSender<FromVcpu>,
    ) -> (Self, Feeder) {
        let waiting = Arc::<Mutex<Waiting>>::default();
        let feeder = Feeder {
            waiting: Arc::clone(&waiting),
            waker,
        };
        let incoming = Self {
            waiting,
            begins_at,
            taken: LogSeq::default(),
            reports,
        };
        (incoming, feeder)
    }
}

impl LogSource for Incoming {
    fn begins_at(&self) -> ExitOrdinal {
        self.begins_at
    }

    fn next(&mut self) -> Result<Feed, TimelineError> {
        let mut waiting = locked(&self.waiting);
        let next = waiting.batches.pop_front();
        let has_ended = waiting.has_ended;
        drop(waiting);
        // Whoever asks for more has executed all that it had.
        let _ = self.reports.send(FromVcpu::Consumed { seq: self.taken });
        Ok(match next {
            Some((seq, batch)) => {
                self.taken = seq;
                Feed::Batch(Box::new(batch))
            }
            None if has_ended => Feed::Ended,
            None => Feed::Waiting,
        })
    }

    fn is_given_up(&self) -> bool {
        locked(&self.waiting).is_given_up
    }
}

/// Passes outputs to the driver, which knows when they may leave.
#[derive(Debug)]
pub(crate) struct ToDriver {
    /// The way to it.
    pub(crate) reports: UnboundedSender<FromVcpu>,
    /// Where the guest's frames are kept besides, if they are.
    pub(crate) kept: Option<KeptFrames>,
}

impl ToDriver {
    fn note(&mut self, position: ExitOrdinal, frame: Kept<'_>) {
        if let Some(kept) = &mut self.kept
            && let Err(error) = kept.note(position, frame)
        {
            tracing::warn!(%error, "the guest's frames are kept no more");
            self.kept = None;
        }
    }
}

impl OutputKeeper for ToDriver {
    fn keep(&mut self, position: ExitOrdinal, release: Release, output: HeldOutput) {
        match &output {
            HeldOutput::Frame(frame) if release == Release::Never => {
                self.note(position, Kept::Replayed(&frame.0));
            }
            HeldOutput::Frame(frame) => self.note(position, Kept::Live(&frame.0)),
            HeldOutput::Console(_) => {}
        }
        let seq = match release {
            Release::Never => return,
            Release::Now => LogSeq::NONE,
            Release::After(seq) => seq,
        };
        let _ = self.reports.send(FromVcpu::Output { seq, output });
    }

    fn left_out(&mut self, position: ExitOrdinal, digest: u64) {
        self.note(position, Kept::Told(digest));
    }
}
