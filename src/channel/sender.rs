//! The primary's end of the log: what is on its way, what is held, and how far the backup is (P1, P2, P3).
//!
//! ```text
//!   push ──▶ sent, its bytes held ──Ack.received──▶ held by the backup, bytes given up ──Ack.replayed──▶ gone
//!                  ▲
//!                  └── resume: sent again over a new connection, from where the backup's log ends
//! ```
//!
//! - Both stages count against one buffer ([`LOG_BUFFER_BYTES_MAX`]), because both are in some host's memory and both
//!   are lag. Where it is full the VM waits ([`Sender::room`]), but not with what repairs its copy, which makes no room
//!   before it has that: up to [`LOG_HELD_BYTES_MAX`] is taken.
//! - An acknowledgement stands for everything before it. It never goes back, is never ahead of what was sent, and never
//!   tells of a position that what was received does not reach: a backup that says so is not in lockstep, and nothing
//!   that it says releases an output any more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::fault::Misbehaviour;
use super::frame::{Ack, LogFrame};
use super::hello::Refusal;
use super::session::LogSeq;
use crate::base::limits::{
    LOG_BUFFER_BYTES_MAX, LOG_FRAME_BYTES_MAX, LOG_FRAME_OVERHEAD_BYTES, LOG_HELD_BYTES_MAX,
};
use crate::base::units::ExitOrdinal;

/// What a frame with a batch of `bytes` takes of the buffer, at either end.
pub(super) const fn cost_of(bytes: usize) -> usize {
    bytes + LOG_FRAME_OVERHEAD_BYTES
}

#[derive(Debug)]
struct Held {
    through: ExitOrdinal,
    cost: usize,
    urgent: bool,
    pushed_at: Duration,
    /// Given up once the backup has it.
    batch: Option<Arc<[u8]>>,
}

/// How far the backup's replay is behind (P3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Bytes of log that it has not replayed, with what each frame costs beside its batch.
    pub bytes: usize,
    /// Counted exits that the log tells of and it has not reached.
    pub exits: u64,
    /// How long ago the oldest frame was pushed that it is not known to have replayed: half a round trip or more while
    /// the guest runs.
    pub age: Duration,
}

/// A frame that there is no room for: the VM waits, and it is offered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full(pub Vec<u8>);

/// The primary's end of the log.
#[derive(Debug)]
pub struct Sender {
    /// Those that the backup has not replayed, the oldest first.
    held: VecDeque<Held>,
    held_bytes: usize,
    /// The number of the last one.
    last: LogSeq,
    last_through: ExitOrdinal,
    acknowledged: Ack,
    /// Where the last received frame ends.
    received_through: ExitOrdinal,
}

impl Sender {
    /// Before the first frame of a session whose lockstep begins at exit `start`, with the backup's replica durable there.
    #[must_use]
    pub fn new(start: ExitOrdinal) -> Self {
        Self {
            held: VecDeque::new(),
            held_bytes: 0,
            last: LogSeq::NONE,
            last_through: start,
            acknowledged: Ack {
                received: LogSeq::NONE,
                executed: LogSeq::NONE,
                replayed: start,
                durable: start,
            },
            received_through: start,
        }
    }

    /// Bytes of log that wait for the backup's replay, with what each frame costs beside its batch.
    #[must_use]
    pub const fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Bytes of log that there is room for. At 0 the VM waits.
    #[must_use]
    pub const fn room(&self) -> usize {
        LOG_BUFFER_BYTES_MAX.saturating_sub(self.held_bytes)
    }

    /// Takes the next batch, which ends at exit `through`; `urgent` if an output waits for it. Answers with what is to be
    /// sent; while there is no connection that may be dropped, since [`Self::resume`] sends it.
    ///
    /// # Errors
    /// [`Full`], with the batch, where [`LOG_HELD_BYTES_MAX`] are held.
    ///
    /// # Panics
    /// Where the batch is empty, longer than [`LOG_FRAME_BYTES_MAX`], or ends before the one before it: the recorder makes
    /// none such.
    pub fn push(
        &mut self,
        now: Duration,
        through: ExitOrdinal,
        urgent: bool,
        batch: Vec<u8>,
    ) -> Result<LogFrame, Full> {
        assert!((1..=LOG_FRAME_BYTES_MAX).contains(&batch.len()));
        assert!(through >= self.last_through, "a log goes forwards");
        if self.held_bytes >= LOG_HELD_BYTES_MAX {
            return Err(Full(batch));
        }
        let cost = cost_of(batch.len());
        let batch: Arc<[u8]> = batch.into();
        self.held.push_back(Held {
            through,
            cost,
            urgent,
            pushed_at: now,
            batch: Some(Arc::clone(&batch)),
        });
        self.held_bytes += cost;
        self.last = self.last.next();
        self.last_through = through;
        Ok(LogFrame {
            seq: self.last,
            urgent,
            batch,
        })
    }

    /// Takes what the backup says. Outputs up to [`Ack::received`] may leave once this has returned well (P1).
    ///
    /// # Errors
    /// Where it cannot be true: then nothing has changed here.
    pub fn acknowledge(&mut self, ack: Ack) -> Result<(), Misbehaviour> {
        let before = self.acknowledged;
        if ack.received > self.last {
            return Err(Misbehaviour::Unsent {
                sent: self.last,
                acknowledged: ack.received,
            });
        }
        let goes_back = [
            (ack.received < before.received, "what it has received"),
            (ack.executed < before.executed, "what it has executed"),
            (ack.replayed < before.replayed, "what it has replayed"),
            (ack.durable < before.durable, "what it has made durable"),
        ];
        if let Some((_, what)) = goes_back.into_iter().find(|(back, _)| *back) {
            return Err(Misbehaviour::Backwards { what });
        }
        if ack.executed > ack.received {
            return Err(Misbehaviour::Unsent {
                sent: ack.received,
                acknowledged: ack.executed,
            });
        }
        let reached = self.through_of(ack.received);
        let claims = [
            ("replayed", ack.replayed, reached),
            ("made durable", ack.durable, ack.replayed),
        ];
        if let Some((what, claimed, reached)) = claims.into_iter().find(|(_, at, most)| at > most) {
            return Err(Misbehaviour::Impossible {
                what,
                claimed,
                reached,
            });
        }
        let newly = self.index_after(before.received)..self.index_after(ack.received);
        self.held.range_mut(newly).for_each(|held| held.batch = None);
        self.received_through = reached;
        self.acknowledged = ack;
        self.give_up_replayed();
        Ok(())
    }

    fn give_up_replayed(&mut self) {
        while let Some(oldest) = self.held.front()
            && oldest.batch.is_none()
            && oldest.through <= self.acknowledged.replayed
        {
            self.held_bytes -= oldest.cost;
            self.held.pop_front();
        }
    }

    /// How far the backup is, as far as is known.
    #[must_use]
    pub const fn acknowledged(&self) -> Ack {
        self.acknowledged
    }

    /// The last frame, for [`super::Hello::reached`].
    #[must_use]
    pub const fn last(&self) -> LogSeq {
        self.last
    }

    /// What is sent first over a new connection whose other end has everything up to `reached`.
    ///
    /// # Errors
    /// [`Refusal::LogGone`] where it lacks what it has acknowledged, or has what was never sent.
    pub fn resume(&mut self, reached: LogSeq) -> Result<Vec<LogFrame>, Refusal> {
        let known = Ack {
            received: reached,
            ..self.acknowledged
        };
        self.acknowledge(known).map_err(|_| Refusal::LogGone)?;
        let first = self.index_after(reached);
        let mut seq = reached;
        let frames = self.held.range(first..).filter_map(|held| {
            seq = seq.next();
            let batch = held.batch.clone()?;
            Some(LogFrame {
                seq,
                urgent: held.urgent,
                batch,
            })
        });
        Ok(frames.collect())
    }

    /// How far the backup is behind at `now`.
    #[must_use]
    pub fn lag(&self, now: Duration) -> Lag {
        let oldest = self.held.front().map_or(now, |held| held.pushed_at);
        Lag {
            bytes: self.held_bytes,
            exits: self.last_through.get() - self.acknowledged.replayed.get(),
            age: now.saturating_sub(oldest),
        }
    }

    /// Since when an output waits for the word that what tells of it was received, if one does (P4).
    #[must_use]
    pub fn output_waits_since(&self) -> Option<Duration> {
        let unreceived = self.held.range(self.index_after(self.acknowledged.received)..);
        let oldest = unreceived.into_iter().find(|held| held.urgent);
        oldest.map(|held| held.pushed_at)
    }

    /// The place in `held` of the first frame after `seq`, a frame that was sent.
    fn index_after(&self, seq: LogSeq) -> usize {
        let after = usize::try_from(self.last.0 - seq.0).unwrap_or(usize::MAX);
        self.held.len().saturating_sub(after)
    }

    /// Where frame `seq` ends: one that was sent, and is no older than the last that was received.
    fn through_of(&self, seq: LogSeq) -> ExitOrdinal {
        if seq == self.acknowledged.received {
            return self.received_through;
        }
        self.held[self.index_after(seq) - 1].through
    }
}
