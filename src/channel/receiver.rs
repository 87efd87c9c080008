//! The backup's end of the log: frames in their order, each once, and when to say how far it is (P2, P3).
//!
//! ```text
//!   log ──▶ New: hand it to the replay ──consumed──▶ gone
//!     ├──▶ Duplicate: it was sent again after a resume; dropped, counted
//!     └──▶ a gap, or more than the buffer may hold: the connection ends
//!
//!   new ──▶ Ack due in ACK_DELAY_MS_MAX; at once if an output waits, or a guest's flush may
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use super::fault::Misbehaviour;
use super::frame::{Ack, LogFrame};
use super::sender::cost_of;
use super::session::LogSeq;
use crate::base::limits::{ACK_DELAY_MS_MAX, LOG_FRAME_BYTES_MAX, LOG_HELD_BYTES_MAX};
use crate::base::units::ExitOrdinal;

/// What a sender may at most have under way: it takes a frame whole, if any.
const HELD_BYTES_MAX: usize = LOG_HELD_BYTES_MAX + cost_of(LOG_FRAME_BYTES_MAX);

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is the next one.
    New,
    /// It was there before.
    Duplicate,
}

/// The backup's end of the log.
#[derive(Debug)]
pub struct Receiver {
    reached: Ack,
    /// How far the replica is durable: it may know of an exit before the replay has told that it is there.
    durable: ExitOrdinal,
    /// What was said last.
    told: Ack,
    /// When the next Ack is due.
    due: Option<Duration>,
    /// Whether it is said at once that an output was made that the primary waits for (H3).
    says_executed: bool,
    /// Numbers and costs of what the replay has not consumed, and whether an output waits for it.
    held: VecDeque<(LogSeq, usize, bool)>,
    held_bytes: usize,
    duplicates: u64,
}

impl Receiver {
    /// Before the first frame of a session whose lockstep begins at exit `start`, with this replica durable there.
    #[must_use]
    pub const fn new(start: ExitOrdinal) -> Self {
        let reached = Ack {
            received: LogSeq::NONE,
            executed: LogSeq::NONE,
            replayed: start,
            durable: start,
        };
        Self {
            reached,
            durable: start,
            told: reached,
            due: None,
            says_executed: false,
            held: VecDeque::new(),
            held_bytes: 0,
            duplicates: 0,
        }
    }

    /// Takes a frame that has arrived; a new one is the caller's to hand to the replay.
    ///
    /// # Errors
    /// Where one is missing before it, or there are too many.
    pub fn log(&mut self, now: Duration, frame: &LogFrame) -> Result<Arrival, Misbehaviour> {
        if frame.seq <= self.reached.received {
            self.duplicates += 1;
            // Its sender may not know that it is here.
            self.due = Some(now);
            return Ok(Arrival::Duplicate);
        }
        let expected = self.reached.received.next();
        if frame.seq != expected {
            return Err(Misbehaviour::Gap {
                expected,
                found: frame.seq,
            });
        }
        let cost = cost_of(frame.batch.len());
        if self.held_bytes + cost > HELD_BYTES_MAX {
            return Err(Misbehaviour::Flood(self.held_bytes + cost));
        }
        self.held.push_back((frame.seq, cost, frame.urgent));
        self.held_bytes += cost;
        self.reached.received = frame.seq;
        let delay = if frame.urgent { 0 } else { ACK_DELAY_MS_MAX };
        self.due_in(now, delay);
        Ok(Arrival::New)
    }

    fn due_in(&mut self, now: Duration, delay_ms: u64) {
        let due = now + Duration::from_millis(delay_ms);
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// The replay has come to the end of frame `seq`, and so of those before it. To be told before [`Self::replayed`] is
    /// told of that end: the primary makes room by the latter, and fills it.
    pub fn consumed(&mut self, now: Duration, seq: LogSeq) {
        let mut is_awaited = false;
        while let Some(&(oldest, cost, urgent)) = self.held.front()
            && oldest <= seq
        {
            is_awaited |= urgent;
            self.held_bytes -= cost;
            self.held.pop_front();
        }
        if seq > self.reached.executed {
            self.reached.executed = seq;
            let delay = if is_awaited && self.says_executed {
                0
            } else {
                ACK_DELAY_MS_MAX
            };
            self.due_in(now, delay);
        }
    }

    /// Whether the primary lets outputs leave when they were made here too: then it is told of that at once.
    pub const fn say_executed(&mut self, at_once: bool) {
        self.says_executed = at_once;
    }

    /// The replay has reached exit `at`.
    pub fn replayed(&mut self, now: Duration, at: ExitOrdinal) {
        if at > self.reached.replayed {
            self.reached.replayed = at;
            self.due_in(now, ACK_DELAY_MS_MAX);
            self.say_durable(now);
        }
    }

    /// The replica is durable at exit `at`. It is said as far as the replay is told to have come: a primary believes no
    /// more. A flush of the guest may wait for it (P8).
    pub fn durable(&mut self, now: Duration, at: ExitOrdinal) {
        self.durable = self.durable.max(at);
        self.say_durable(now);
    }

    fn say_durable(&mut self, now: Duration) {
        let durable = self.durable.min(self.reached.replayed);
        if durable > self.reached.durable {
            self.reached.durable = durable;
            self.due_in(now, 0);
        }
    }

    /// When [`Self::ack`] has something to say.
    #[must_use]
    pub const fn ack_due(&self) -> Option<Duration> {
        self.due
    }

    /// What is to be said at `now`, if anything is due.
    pub fn ack(&mut self, now: Duration) -> Option<Ack> {
        self.due.take_if(|due| *due <= now)?;
        self.told = self.reached;
        Some(self.told)
    }

    /// A new connection stands, over which nothing was said yet: what could have been lost with the last one is said
    /// again.
    pub const fn resumed(&mut self, now: Duration) {
        self.due = Some(now);
    }

    /// How far this end is, for [`super::Hello::reached`] and for heartbeats.
    #[must_use]
    pub const fn reached(&self) -> Ack {
        self.reached
    }

    /// Bytes of log that wait for the replay.
    #[must_use]
    pub const fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// How many frames came twice.
    #[must_use]
    pub const fn duplicates(&self) -> u64 {
        self.duplicates
    }
}
