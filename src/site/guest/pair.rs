//! One pairing as the driver holds it: its session, the log's end here, and the connection of the moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::line::Line;
use super::log_ends::{Feeder, Room};
use super::refusals::Fault;
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::channel::{
    Ack, Arrival, Common, Heartbeats, Hello, LogFrame, Message, Misbehaviour, Receiver, Sender, Session,
    Side, Tag, Turning, Vitals, Writer,
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
        /// The copy is another machine: it acknowledges nothing, and comes to the end of no replay (H2).
        differs: bool,
        /// The copy executes nothing and becomes what checkpoints say (H4): the last frame that has come of the next one.
        rests: Option<LogSeq>,
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
            differs: false,
            rests: None,
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
    /// Frames of other pairings that came over the connection, as they are counted on; and how many are told of.
    pub(super) foreign: (Arc<AtomicU64>, u64),
    /// Told which session may follow over the connection.
    pub(super) turning: Option<Turning>,
    pub(super) log: LogEnd,
    /// Nothing goes out or comes in any more.
    pub(super) is_closed: bool,
}

impl Pair {
    /// A pairing that is being made.
    pub(super) fn new(session: Session, side: Side, common: Common) -> Self {
        let hello = Hello {
            session,
            side,
            common,
            reached: LogSeq::NONE,
            claimed: false,
        };
        Self {
            side,
            hello: watch::Sender::new(hello),
            wanted: Arc::new(Notify::new()),
            line: None,
            connection: 0,
            reader: None,
            heartbeats: None,
            foreign: (Arc::default(), 0),
            turning: None,
            log: LogEnd::None,
            is_closed: false,
        }
    }

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
    pub(super) fn resume(&mut self, now: Duration, theirs: &Hello, writer: &mut Writer) -> Result<(), Fault> {
        match &mut self.log {
            LogEnd::None => {}
            LogEnd::Sending { sender, .. } => {
                let frames = sender
                    .resume(theirs.reached)
                    .map_err(|refusal| Fault::refused(refusal.name(), refusal))?;
                frames
                    .into_iter()
                    .for_each(|frame| writer.put(Message::Log(frame)));
            }
            LogEnd::Following { receiver, .. } => receiver.resumed(now),
        }
        Ok(())
    }

    /// Takes a frame of the log.
    pub(super) fn take(&mut self, now: Duration, frame: &LogFrame) -> Result<(), Fault> {
        let LogEnd::Following {
            receiver,
            deframer,
            unfed,
            ends,
            ..
        } = &mut self.log
        else {
            return Err(Fault::refused(
                "out-of-place",
                "a log came before the machine that it is of",
            ));
        };
        match receiver.log(now, frame)? {
            Arrival::Duplicate => {}
            Arrival::New => {
                let batch = deframer.batch(&frame.batch);
                let batch = batch.map_err(|error| Fault::refused("no-batch", error))?;
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
        let LogEnd::Following { ends, rests, .. } = &mut self.log else {
            return Ok(None);
        };
        // No checkpoint is waited for any more.
        *rests = None;
        let last = ends.last_key_value().map(|(seq, through)| (*seq, *through));
        match last {
            Some((_, through)) if through > position => Err(through),
            Some((seq, _)) => Ok(self.consumed(now, seq)),
            None => Ok(None),
        }
    }

    /// The replay has come to the end of frame `seq`. Answers a replay to the end that is over, and where.
    pub(super) fn consumed(&mut self, now: Duration, seq: LogSeq) -> Option<(ReplayId, ExitOrdinal)> {
        let LogEnd::Following {
            ends,
            consumed,
            rests,
            ..
        } = &mut self.log
        else {
            return None;
        };
        if let Some(staged) = rests {
            // It is executed when the copy has become what it tells.
            *staged = seq;
            return None;
        }
        let last = ends.range(..=seq).next_back();
        let (seq, position) = last.map_or(*consumed, |(seq, through)| (*seq, *through));
        self.has_come_to(now, seq, position)
    }

    /// The copy executes nothing. It is what the primary was at `position`, durably unless it has only begun to rest, and waits for
    /// nothing of what has come. Answers a replay to the end that is over, and where.
    pub(super) fn rests_at(
        &mut self,
        now: Duration,
        position: ExitOrdinal,
    ) -> Option<(ReplayId, ExitOrdinal)> {
        let LogEnd::Following { consumed, rests, .. } = &mut self.log else {
            return None;
        };
        let Some(staged) = *rests else {
            *rests = Some(consumed.0);
            return self.replay_over();
        };
        let over = self.has_come_to(now, staged, position);
        self.durable(now, position);
        over
    }

    /// This copy is at the end of frame `seq`, which is at `position`. Answers a replay to the end that is over, and where.
    fn has_come_to(
        &mut self,
        now: Duration,
        seq: LogSeq,
        position: ExitOrdinal,
    ) -> Option<(ReplayId, ExitOrdinal)> {
        if let LogEnd::Following {
            receiver,
            ends,
            consumed,
            ..
        } = &mut self.log
        {
            while let Some(first) = ends.first_entry()
                && *first.key() <= seq
            {
                first.remove();
            }
            *consumed = (seq, position);
            receiver.consumed(now, seq);
            receiver.replayed(now, position);
        }
        self.replay_over()
    }

    /// The copy executes again what the log tells.
    pub(super) fn follows(&mut self) {
        if let LogEnd::Following { rests, .. } = &mut self.log {
            *rests = None;
        }
    }

    /// The replica is durable at `position`, to which the replay has come.
    pub(super) fn durable(&mut self, now: Duration, position: ExitOrdinal) {
        if let LogEnd::Following { receiver, .. } = &mut self.log {
            receiver.durable(now, position);
        }
    }

    /// The replay that was asked for, if it is over.
    pub(super) fn replay_over(&mut self) -> Option<(ReplayId, ExitOrdinal)> {
        let LogEnd::Following {
            consumed,
            wanted,
            differs: false,
            ..
        } = &mut self.log
        else {
            return None;
        };
        let (replay, _) = wanted.take_if(|(_, upto)| *upto <= consumed.0)?;
        Some((replay, consumed.1))
    }

    /// How far the backup has come, as it says. False where there is no log that it could tell of.
    pub(super) fn acknowledge(&mut self, ack: Ack) -> Result<bool, Misbehaviour> {
        let LogEnd::Sending {
            sender, room, meter, ..
        } = &mut self.log
        else {
            return Ok(false);
        };
        sender.acknowledge(ack)?;
        meter.replayed(ack.replayed);
        room.set_used(sender.held_bytes());
        Ok(true)
    }

    /// How many more frames of other pairings have come.
    pub(super) fn newly_foreign(&mut self) -> u64 {
        let (counted, told) = &mut self.foreign;
        let count = counted.load(Ordering::Relaxed);
        count - std::mem::replace(told, count)
    }

    /// An Ack that is due, of a backup.
    pub(super) fn ack(&mut self, now: Duration) -> Option<Ack> {
        match &mut self.log {
            LogEnd::Following {
                receiver,
                differs: false,
                ..
            } => receiver.ack(now),
            _ => None,
        }
    }

    /// When an Ack is due.
    pub(super) fn ack_due(&self) -> Option<Duration> {
        match &self.log {
            LogEnd::Following {
                receiver,
                differs: false,
                ..
            } => receiver.ack_due(),
            _ => None,
        }
    }

    /// The copy is another machine, or is that no more: then what it holds is said at once.
    pub(super) fn set_differs(&mut self, now: Duration, is_another: bool) {
        if let LogEnd::Following {
            receiver, differs, ..
        } = &mut self.log
        {
            *differs = is_another;
            receiver.resumed(now);
        }
    }

    /// Whether the primary is told at once what was executed that it waits for.
    pub(super) fn say_executed(&mut self, at_once: bool) {
        if let LogEnd::Following { receiver, .. } = &mut self.log {
            receiver.say_executed(at_once);
        }
    }

    /// Nothing more of the log will come: a copy that waits to be repaired by more waits in vain.
    pub(super) fn give_up_repair(&self) {
        if let LogEnd::Following { feeder, .. } = &self.log {
            feeder.give_up();
        }
    }

    /// Whether the copy executes nothing.
    pub(super) fn rests(&self) -> bool {
        matches!(self.log, LogEnd::Following { rests: Some(_), .. })
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
        // The recorder waits for room before it makes a frame, but for a repair, which is bounded; one frame more does no harm.
        let pushed = sender
            .push(Duration::from_nanos(now.as_nanos()), through, is_urgent, frame)
            .ok();
        room.set_used(sender.held_bytes());
        pushed
    }
}

#[cfg(test)]
mod tests {
    use antipode_tiebreaker::{Generation, Incarnation, PairingId};

    use super::*;

    fn exit(number: u64) -> ExitOrdinal {
        ExitOrdinal::new(number)
    }

    fn primary() -> Pair {
        let session = Session {
            vm: "redis-1".parse().unwrap(),
            incarnation: Incarnation(1),
            generation: Generation(7),
            pairing: PairingId(9),
        };
        let common = Common {
            cpu_profile: "deterministic-1".to_owned(),
            recipe: [7; 32],
        };
        Pair::new(session, Side::Primary, common)
    }

    #[test]
    fn a_backup_that_claims_what_cannot_be_moves_nothing() {
        let ack = |received, replayed, durable| Ack {
            received: LogSeq::new(received),
            executed: LogSeq::NONE,
            replayed: exit(replayed),
            durable: exit(durable),
        };
        let mut pair = primary();
        assert_eq!(pair.acknowledge(ack(9, 9, 9)), Ok(false), "there is no log yet");
        pair.log = LogEnd::Sending {
            sender: Box::new(Sender::new(exit(100))),
            room: Arc::default(),
            meter: LagMeter::default(),
            bytes: 0,
            through: exit(100),
        };
        let pushed = pair.push(Moment::default(), exit(120), true, b"a batch".to_vec());
        assert_eq!(pushed.unwrap().seq, LogSeq::new(1));
        for (impossible, named) in [
            (ack(2, 100, 100), "unsent-acknowledged"),
            (ack(1, 121, 100), "impossible-position"),
            (ack(0, 101, 100), "impossible-position"),
            (ack(1, 110, 111), "impossible-position"),
            (ack(0, 99, 99), "acknowledgement-taken-back"),
        ] {
            let fault = Fault::from(pair.acknowledge(impossible).unwrap_err());
            assert_eq!(fault.refusal, Some(named), "{impossible:?}");
            let LogEnd::Sending { sender, .. } = &pair.log else {
                panic!("it is still the primary");
            };
            assert_eq!(sender.acknowledged(), ack(0, 100, 100), "{impossible:?}");
        }
        assert_eq!(pair.acknowledge(ack(1, 120, 110)), Ok(true));
    }

    #[test]
    fn a_log_that_comes_before_its_machine_is_out_of_place() {
        let frame = LogFrame {
            seq: LogSeq::new(1),
            urgent: false,
            batch: b"a batch".as_slice().into(),
        };
        let fault = primary().take(Duration::ZERO, &frame).unwrap_err();
        assert_eq!(fault.refusal, Some("out-of-place"));
    }

    #[test]
    fn frames_of_other_pairings_are_told_of_once() {
        let mut pair = primary();
        pair.foreign.0.store(3, Ordering::Relaxed);
        assert_eq!((pair.newly_foreign(), pair.newly_foreign()), (3, 0));
    }
}
