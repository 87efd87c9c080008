//! One pairing as the driver holds it: its session, the log's end here, and the connection of the moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::line::Line;
use super::log_ends::{Feeder, Room};
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::channel::{
    Ack, Arrival, Heartbeats, Hello, LogFrame, Message, Misbehaviour, Receiver, Sender, Session, Side, Tag,
    Turning, Vitals, Writer,
};
use crate::protocol::lag::LagMeter;
use crate::protocol::moment::Moment;
use crate::protocol::role::ReplayId;
use crate::replay::{Batch, Deframer};

/// The end of the log here.
#[derive(Debug)]
pub(super) enum LogEnd {
    /// Lockstep has not begun.
    None,
    /// This copy writes it.
    Sending {
        sender: Box<Sender>,
        room: Arc<Room>,
        meter: LagMeter,
        bytes: u64,
        through: ExitOrdinal,
    },
    /// This copy follows it.
    Following {
        receiver: Box<Receiver>,
        deframer: Box<Deframer>,
        feeder: Feeder,
        /// What has arrived and is not with the replay yet.
        unfed: Vec<(LogSeq, Batch)>,
        position: Arc<AtomicU64>,
        /// Where each frame ends that the replay has not come to the end of.
        ends: BTreeMap<LogSeq, ExitOrdinal>,
        /// The last frame that the replay has come to the end of, and where that is.
        consumed: (LogSeq, ExitOrdinal),
        /// A replay to the end that was asked for: up to which frame.
        wanted: Option<(ReplayId, LogSeq)>,
    },
}

impl LogEnd {
    /// Of a copy that leads from `position` on.
    pub(super) fn sending_from(position: ExitOrdinal, room: &Arc<Room>) -> Self {
        Self::Sending {
            sender: Box::new(Sender::new(position)),
            room: Arc::clone(room),
            meter: LagMeter::default(),
            bytes: 0,
            through: position,
        }
    }

    /// Of a copy that follows from `at` on, in a session with that tag; where it is, it tells in `position`.
    pub(super) fn following_from(
        at: ExitOrdinal,
        anchor: &[u8],
        feeder: Feeder,
        position: &Arc<AtomicU64>,
    ) -> Self {
        position.store(at.get(), Ordering::Relaxed);
        Self::Following {
            receiver: Box::new(Receiver::new(at)),
            deframer: Box::new(Deframer::anchored_to(anchor, at)),
            feeder,
            unfed: Vec::new(),
            position: Arc::clone(position),
            ends: BTreeMap::new(),
            consumed: (LogSeq::NONE, at),
            wanted: None,
        }
    }
}

/// A pairing.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) side: Side,
    pub(super) hello: watch::Sender<Hello>,
    pub(super) wanted: Arc<Notify>,
    pub(super) line: Option<Line>,
    /// Numbers the connections, so that what is told of an old one is not taken for the present one's.
    pub(super) connection: u64,
    pub(super) reader: Option<JoinHandle<()>>,
    pub(super) heartbeats: Option<Heartbeats>,
    /// Told which session may follow over the connection.
    pub(super) turning: Option<Turning>,
    pub(super) log: LogEnd,
    /// Nothing goes out or comes in any more.
    pub(super) is_closed: bool,
}

impl Pair {
    /// The session whose frames are this pairing's.
    pub(super) fn tag(&self) -> Tag {
        self.hello.borrow().session.tag()
    }

    /// The roles turn round: from now on it is about `session`, with this end as `side` of it, and `log` is its log.
    pub(super) fn turn(&mut self, session: Session, side: Side, log: LogEnd) {
        self.heartbeats = self
            .heartbeats
            .take()
            .map(|heartbeats| heartbeats.turned(&session));
        self.hello.send_modify(|hello| {
            hello.session = session;
            hello.side = side;
            hello.reached = LogSeq::NONE;
        });
        self.side = side;
        self.log = log;
    }

    /// Whether there is log that the replay has not come to.
    pub(super) fn log_goes_on(&self) -> bool {
        matches!(&self.log, LogEnd::Following { ends, .. } if !ends.is_empty())
    }

    /// What this end says of itself from now on.
    pub(super) fn update_hello(&self) {
        let reached = match &self.log {
            LogEnd::None => LogSeq::NONE,
            LogEnd::Sending { sender, .. } => sender.last(),
            LogEnd::Following { receiver, .. } => receiver.reached().received,
        };
        self.hello.send_modify(|hello| hello.reached = reached);
    }

    /// Sends what the other end lacks over a connection that has just begun.
    pub(super) fn resume(
        &mut self,
        now: Duration,
        theirs: &Hello,
        writer: &mut Writer,
    ) -> Result<(), String> {
        match &mut self.log {
            LogEnd::None => {}
            LogEnd::Sending { sender, .. } => {
                let frames = sender
                    .resume(theirs.reached)
                    .map_err(|refusal| refusal.to_string())?;
                frames
                    .into_iter()
                    .for_each(|frame| writer.put(Message::Log(frame)));
            }
            LogEnd::Following { receiver, .. } => receiver.resumed(now),
        }
        Ok(())
    }

    /// Takes a frame of the log.
    pub(super) fn take(&mut self, now: Duration, frame: &LogFrame) -> Result<(), String> {
        let LogEnd::Following {
            receiver,
            deframer,
            unfed,
            ends,
            ..
        } = &mut self.log
        else {
            return Err("a log came before the machine that it is of".to_owned());
        };
        match receiver
            .log(now, frame)
            .map_err(|fault: Misbehaviour| fault.to_string())?
        {
            Arrival::Duplicate => {}
            Arrival::New => {
                let batch = deframer.batch(&frame.batch).map_err(|error| error.to_string())?;
                ends.insert(frame.seq, batch.through);
                unfed.push((frame.seq, batch));
            }
        }
        Ok(())
    }

    /// Hands what has arrived to the replay.
    pub(super) fn feed_replay(&mut self) {
        if let LogEnd::Following { feeder, unfed, .. } = &mut self.log {
            for (seq, batch) in unfed.drain(..) {
                feeder.feed(seq, batch);
            }
        }
    }

    /// The guest of this copy has ended at `position`: what the log says up to there needs nobody to execute it.
    /// Answers a replay to the end that is over, and where.
    ///
    /// # Errors
    /// The log goes on after it, to the exit that is given: this is not the guest that it tells of.
    pub(super) fn guest_ended(
        &mut self,
        now: Duration,
        position: ExitOrdinal,
    ) -> Result<Option<(ReplayId, ExitOrdinal)>, ExitOrdinal> {
        let LogEnd::Following { ends, .. } = &self.log else {
            return Ok(None);
        };
        match ends.last_key_value() {
            Some((_, through)) if *through > position => Err(*through),
            Some((seq, _)) => Ok(self.consumed(now, *seq)),
            None => Ok(None),
        }
    }

    /// The replay has come to the end of frame `seq`. Answers a replay to the end that is over, and where.
    pub(super) fn consumed(&mut self, now: Duration, seq: LogSeq) -> Option<(ReplayId, ExitOrdinal)> {
        let LogEnd::Following {
            receiver,
            ends,
            consumed,
            ..
        } = &mut self.log
        else {
            return None;
        };
        while let Some(first) = ends.first_entry()
            && *first.key() <= seq
        {
            *consumed = first.remove_entry();
        }
        receiver.consumed(seq);
        receiver.replayed(now, consumed.1);
        self.replay_over()
    }

    /// The replica is durable at `position`, to which the replay has come.
    pub(super) fn durable(&mut self, now: Duration, position: ExitOrdinal) {
        if let LogEnd::Following { receiver, .. } = &mut self.log {
            receiver.durable(now, position);
        }
    }

    /// The replay that was asked for, if it is over.
    pub(super) fn replay_over(&mut self) -> Option<(ReplayId, ExitOrdinal)> {
        let LogEnd::Following { consumed, wanted, .. } = &mut self.log else {
            return None;
        };
        let (replay, _) = wanted.take_if(|(_, upto)| *upto <= consumed.0)?;
        Some((replay, consumed.1))
    }

    /// How far the backup has come, as it says.
    pub(super) fn acknowledge(&mut self, ack: Ack) -> Result<(), Misbehaviour> {
        if let LogEnd::Sending {
            sender, room, meter, ..
        } = &mut self.log
        {
            sender.acknowledge(ack)?;
            meter.replayed(ack.replayed);
            room.set_used(sender.held_bytes());
        }
        Ok(())
    }

    /// An Ack that is due, of a backup.
    pub(super) fn ack(&mut self, now: Duration) -> Option<Ack> {
        match &mut self.log {
            LogEnd::Following { receiver, .. } => receiver.ack(now),
            _ => None,
        }
    }

    /// When an Ack is due.
    pub(super) fn ack_due(&self) -> Option<Duration> {
        match &self.log {
            LogEnd::Following { receiver, .. } => receiver.ack_due(),
            _ => None,
        }
    }

    /// The next heartbeat.
    pub(super) fn vitals(&self) -> Vitals {
        match &self.log {
            LogEnd::None => Vitals::default(),
            LogEnd::Sending { sender, through, .. } => Vitals {
                received: sender.last(),
                replayed: *through,
                busy: false,
            },
            LogEnd::Following {
                receiver,
                position,
                ends,
                ..
            } => Vitals {
                received: receiver.reached().received,
                replayed: ExitOrdinal::new(position.load(Ordering::Relaxed)),
                busy: !ends.is_empty(),
            },
        }
    }

    /// Takes what the recorder has made; answers what is to be sent.
    pub(super) fn push(
        &mut self,
        now: Moment,
        through: ExitOrdinal,
        is_urgent: bool,
        frame: Vec<u8>,
    ) -> Option<LogFrame> {
        let LogEnd::Sending {
            sender,
            room,
            meter,
            bytes,
            through: reached,
        } = &mut self.log
        else {
            return None;
        };
        *bytes += frame.len() as u64;
        *reached = through;
        meter.logged(now, through, *bytes);
        // The recorder waits for room before it makes a frame, so there is some; one frame more does no harm.
        let pushed = sender
            .push(Duration::from_nanos(now.as_nanos()), through, is_urgent, frame)
            .ok();
        room.set_used(sender.held_bytes());
        pushed
    }
}
