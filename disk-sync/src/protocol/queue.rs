//! What waits between the threads of a session, and for how much there is room.
//!
//! ```text
//!   reader ──frames──▶ ┌───────┐
//!   hashers ─found───▶ │ Inbox │──▶ the session's thread ──▶ Outbox ──▶ writer
//!                      └───────┘
//! ```
//!
//! Why it cannot lock up: a source's reader never waits, since what a target may send unasked is bounded by
//! [`Inbox::put_found`], which lets a target's hashers run only so far ahead of what the source has compared. So a
//! target's writer gets on, so does the target, and a source's writer in turn. A target's reader may wait.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::frame::Frame;
use super::session::Event;
use crate::limits::{
    FOUND_BYTES_WAITING_MAX, RECEIVED_BYTES_WAITING_MAX, REGIONS_AHEAD_MAX, SENT_BYTES_WAITING_MAX,
};
use crate::tree::{Found, HashError};

/// What the session's thread is told.
#[derive(Debug)]
pub(crate) enum Told {
    Event(Event),
    HashFailed(HashError),
    LinkFailed(io::Error),
    /// The peer sent what is no frame.
    NoFrame(&'static str),
}

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<(Told, usize)>,
    received_bytes: usize,
    found_bytes: usize,
    /// Regions put in, and regions that the peer has compared.
    told: u64,
    compared: u64,
    is_closed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Inbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `may` and answers whether the inbox is still open.
    fn wait_until(&self, may: impl Fn(&Waiting) -> bool) -> Option<MutexGuard<'_, Waiting>> {
        let waiting = self
            .changed
            .wait_while(self.waiting(), |waiting| !waiting.is_closed && !may(waiting))
            .unwrap_or_else(PoisonError::into_inner);
        (!waiting.is_closed).then_some(waiting)
    }

    /// Puts in a frame that took `bytes`; waits for room if `may_wait`. Answers whether to go on.
    pub(crate) fn put_frame(&self, frame: Frame, bytes: usize, may_wait: bool) -> bool {
        let has_room = |waiting: &Waiting| waiting.received_bytes < RECEIVED_BYTES_WAITING_MAX;
        let Some(mut waiting) = self.wait_until(|waiting| !may_wait || has_room(waiting)) else {
            return false;
        };
        let fits = has_room(&waiting);
        waiting.received_bytes += bytes;
        waiting.queue.push_back(if fits {
            (Told::Event(Event::Peer(frame)), bytes)
        } else {
            (Told::NoFrame("more than may wait here"), bytes)
        });
        self.changed.notify_all();
        fits
    }

    /// Puts in what hashing found, when there is room; if `is_told`, when the peer has kept up too. Answers whether to
    /// go on.
    pub(crate) fn put_found(&self, found: Found, is_told: bool) -> bool {
        let bytes = match &found {
            Found::Zeros(_) => size_of::<Found>(),
            Found::Hashed { regions, .. } => regions.iter().map(|region| 96 + region.leaves.len() * 32).sum(),
        };
        let keeps_up = |waiting: &Waiting| waiting.told.saturating_sub(waiting.compared) < REGIONS_AHEAD_MAX;
        let may = |waiting: &Waiting| {
            waiting.found_bytes < FOUND_BYTES_WAITING_MAX && (!is_told || keeps_up(waiting))
        };
        let Some(mut waiting) = self.wait_until(may) else {
            return false;
        };
        if is_told {
            waiting.told += found.regions().count;
        }
        waiting.found_bytes += bytes;
        waiting
            .queue
            .push_back((Told::Event(Event::Hashed(found)), bytes));
        self.changed.notify_all();
        true
    }

    /// Puts in what is small and rare.
    pub(crate) fn put(&self, told: Told) {
        self.waiting().queue.push_back((told, 0));
        self.changed.notify_all();
    }

    /// The peer has compared so many regions.
    pub(crate) fn peer_compared(&self, regions: u64) {
        self.waiting().compared = regions;
        self.changed.notify_all();
    }

    /// Takes out what came first.
    pub(crate) fn take(&self) -> Told {
        let mut waiting = self
            .changed
            .wait_while(self.waiting(), |waiting| waiting.queue.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let Some((told, bytes)) = waiting.queue.pop_front() else {
            return Told::LinkFailed(io::ErrorKind::Interrupted.into());
        };
        match &told {
            Told::Event(Event::Hashed(_)) => waiting.found_bytes -= bytes,
            _ => waiting.received_bytes -= bytes,
        }
        self.changed.notify_all();
        told
    }

    /// Lets nobody wait any more.
    pub(crate) fn close(&self) {
        self.waiting().is_closed = true;
        self.changed.notify_all();
    }
}

/// What the writer is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ToLeave {
    /// A frame's body, and whether it is the last for now.
    Frame(Vec<u8>, bool),
    /// Nothing has come for some time.
    Nothing,
    /// Nothing will come any more.
    End,
}

#[derive(Debug, Default)]
struct Leaving {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    is_closed: bool,
    has_failed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    leaving: Mutex<Leaving>,
    changed: Condvar,
}

impl Outbox {
    fn leaving(&self) -> MutexGuard<'_, Leaving> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts in a frame's body when there is room. Answers whether the line still stands.
    pub(crate) fn put(&self, body: Vec<u8>) -> bool {
        let mut leaving = self
            .changed
            .wait_while(self.leaving(), |leaving| {
                !leaving.has_failed && leaving.bytes >= SENT_BYTES_WAITING_MAX
            })
            .unwrap_or_else(PoisonError::into_inner);
        if leaving.has_failed {
            return false;
        }
        leaving.bytes += body.len();
        leaving.frames.push_back(body);
        self.changed.notify_all();
        true
    }

    /// Takes out the next frame; waits for it at most so long.
    pub(crate) fn take(&self, patience: Duration) -> ToLeave {
        let (mut leaving, _) = self
            .changed
            .wait_timeout_while(self.leaving(), patience, |leaving| {
                leaving.frames.is_empty() && !leaving.is_closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        let Some(body) = leaving.frames.pop_front() else {
            return if leaving.is_closed {
                ToLeave::End
            } else {
                ToLeave::Nothing
            };
        };
        leaving.bytes -= body.len();
        self.changed.notify_all();
        ToLeave::Frame(body, leaving.frames.is_empty())
    }

    /// Waits, at most so long, for nothing to be worth waiting for any more.
    pub(crate) fn pause(&self, span: Duration) {
        let _ = self
            .changed
            .wait_timeout_while(self.leaving(), span, |leaving| !leaving.is_closed);
    }

    /// Nothing more will be put in.
    pub(crate) fn close(&self) {
        self.leaving().is_closed = true;
        self.changed.notify_all();
    }

    /// The line is gone.
    pub(crate) fn fail(&self) {
        self.leaving().has_failed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source's reader does not wait, so what may wait behind it has an end.
    #[test]
    fn an_inbox_that_nobody_empties_takes_so_much_and_no_more() {
        let inbox = Inbox::default();
        let bytes = 1024 * 1024;
        let frame = || Frame::Abort(String::new());
        let taken = (0..1000)
            .take_while(|_| inbox.put_frame(frame(), bytes, false))
            .count();
        assert_eq!(taken * bytes, RECEIVED_BYTES_WAITING_MAX);
        // What came before is heard; then why it ends.
        for _ in 0..taken {
            assert!(matches!(inbox.take(), Told::Event(Event::Peer(_))));
        }
        assert!(matches!(inbox.take(), Told::NoFrame(_)));
        assert!(inbox.put_frame(frame(), bytes, false));
    }

    #[test]
    fn an_outbox_tells_nothing_for_now_from_nothing_more() {
        let outbox = Outbox::default();
        assert_eq!(outbox.take(Duration::ZERO), ToLeave::Nothing);
        assert!(outbox.put(vec![1]));
        assert!(outbox.put(vec![2]));
        assert_eq!(outbox.take(Duration::ZERO), ToLeave::Frame(vec![1], false));
        outbox.close();
        assert_eq!(outbox.take(Duration::ZERO), ToLeave::Frame(vec![2], true));
        assert_eq!(outbox.take(Duration::ZERO), ToLeave::End);
    }
}
