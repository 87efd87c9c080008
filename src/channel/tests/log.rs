//! The two ends of the log against each other, without a line between them.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::ms;
use crate::base::limits::{
    ACK_DELAY_MS_MAX, LOG_BUFFER_BYTES_MAX, LOG_FRAME_BYTES_MAX, LOG_FRAME_OVERHEAD_BYTES, LOG_HELD_BYTES_MAX,
};
use crate::base::units::ExitOrdinal;
use crate::channel::{Ack, Arrival, Full, LogFrame, LogSeq, Misbehaviour, Receiver, Refusal, Sender};

const START: ExitOrdinal = ExitOrdinal::new(100);

const fn exit(number: u64) -> ExitOrdinal {
    ExitOrdinal::new(number)
}

const fn ack(received: u64, replayed: u64, durable: u64) -> Ack {
    Ack {
        received: LogSeq(received),
        executed: LogSeq::NONE,
        replayed: exit(replayed),
        durable: exit(durable),
    }
}

/// A sender that has sent three frames, which end at 110, 120 and 130; the second is urgent.
fn sender_of_three() -> Sender {
    let mut sender = Sender::new(START);
    for (number, through) in [(1, 110), (2, 120), (3, 130)] {
        let frame = sender
            .push(ms(number), exit(through), number == 2, vec![7; 100])
            .unwrap();
        assert_eq!(frame.seq, LogSeq(number));
    }
    sender
}

#[test]
fn what_is_executed_is_said_at_once_where_it_is_waited_for() {
    for at_once in [false, true] {
        let mut sender = Sender::new(START);
        let mut receiver = Receiver::new(START);
        receiver.say_executed(at_once);
        for (number, urgent) in [(1, true), (2, false)] {
            let frame = sender
                .push(ms(0), exit(100 + number), urgent, vec![7; 100])
                .unwrap();
            receiver.log(ms(0), &frame).unwrap();
        }
        let said = receiver.ack(ms(0)).unwrap();
        assert_eq!((said.received, said.executed), (LogSeq(2), LogSeq::NONE));
        receiver.consumed(ms(50), LogSeq(1));
        let due = if at_once {
            ms(50)
        } else {
            ms(50 + ACK_DELAY_MS_MAX)
        };
        assert_eq!(receiver.ack_due(), Some(due));
        assert_eq!(receiver.ack(due).unwrap().executed, LogSeq(1));
        receiver.consumed(ms(80), LogSeq(2));
        assert_eq!(
            receiver.ack_due(),
            Some(ms(80 + ACK_DELAY_MS_MAX)),
            "nobody waits for it"
        );
    }
}

#[test]
fn what_was_executed_is_no_more_than_was_received_and_is_not_taken_back() {
    let mut sender = sender_of_three();
    let said = |received, executed| Ack {
        executed: LogSeq(executed),
        ..ack(received, 100, 100)
    };
    assert!(matches!(
        sender.acknowledge(said(1, 2)),
        Err(Misbehaviour::Unsent { .. })
    ));
    sender.acknowledge(said(2, 2)).unwrap();
    assert!(matches!(
        sender.acknowledge(said(3, 1)),
        Err(Misbehaviour::Backwards { .. })
    ));
}

#[test]
fn acknowledgements_are_cumulative_and_free_what_was_replayed() {
    let mut sender = sender_of_three();
    let cost = 100 + LOG_FRAME_OVERHEAD_BYTES;
    assert_eq!(sender.room(), LOG_BUFFER_BYTES_MAX - 3 * cost);
    assert_eq!(sender.output_waits_since(), Some(ms(2)));
    sender.acknowledge(ack(2, 100, 100)).unwrap();
    assert_eq!(sender.output_waits_since(), None);
    // Received is not replayed: it is lag still.
    let lag = sender.lag(ms(51));
    assert_eq!((lag.bytes, lag.exits, lag.age), (3 * cost, 30, ms(50)));
    sender.acknowledge(ack(2, 119, 100)).unwrap();
    let lag = sender.lag(ms(51));
    assert_eq!((lag.bytes, lag.exits, lag.age), (2 * cost, 11, ms(49)));
    sender.acknowledge(ack(3, 130, 130)).unwrap();
    let lag = sender.lag(ms(51));
    assert_eq!((lag.bytes, lag.exits, lag.age), (0, 0, ms(0)));
    assert_eq!(sender.room(), LOG_BUFFER_BYTES_MAX);
    assert_eq!(sender.acknowledged(), ack(3, 130, 130));
    // The same again says nothing new, and is no fault.
    sender.acknowledge(ack(3, 130, 130)).unwrap();
}

#[test]
fn what_cannot_be_true_is_misbehaviour_and_changes_nothing() {
    let mut sender = sender_of_three();
    sender.acknowledge(ack(2, 115, 110)).unwrap();
    let before = (sender.acknowledged(), sender.lag(ms(9)), sender.room());
    let impossible = |what, claimed, reached| Misbehaviour::Impossible {
        what,
        claimed: exit(claimed),
        reached: exit(reached),
    };
    let cases = [
        (
            ack(4, 115, 110),
            Misbehaviour::Unsent {
                sent: LogSeq(3),
                acknowledged: LogSeq(4),
            },
        ),
        (
            ack(u64::MAX, 115, 110),
            Misbehaviour::Unsent {
                sent: LogSeq(3),
                acknowledged: LogSeq(u64::MAX),
            },
        ),
        (
            ack(1, 115, 110),
            Misbehaviour::Backwards {
                what: "what it has received",
            },
        ),
        (
            ack(2, 114, 110),
            Misbehaviour::Backwards {
                what: "what it has replayed",
            },
        ),
        (
            ack(2, 115, 109),
            Misbehaviour::Backwards {
                what: "what it has made durable",
            },
        ),
        (ack(2, 121, 110), impossible("replayed", 121, 120)),
        (ack(3, u64::MAX, 110), impossible("replayed", u64::MAX, 130)),
        (ack(3, 125, 126), impossible("made durable", 126, 125)),
    ];
    for (ack, fault) in cases {
        assert_eq!(sender.acknowledge(ack), Err(fault));
        assert_eq!((sender.acknowledged(), sender.lag(ms(9)), sender.room()), before);
    }
}

#[test]
fn a_full_buffer_refuses_and_hands_the_batch_back() {
    let mut sender = Sender::new(START);
    let mut pushed = 0_u64;
    let refused = loop {
        match sender.push(ms(0), exit(101 + pushed), false, vec![1; LOG_FRAME_BYTES_MAX]) {
            Ok(_) => pushed += 1,
            Err(full) => break full,
        }
    };
    assert_eq!(refused, Full(vec![1; LOG_FRAME_BYTES_MAX]));
    assert_eq!(sender.room(), 0);
    assert_eq!(sender.last(), LogSeq(pushed));
    assert!(
        sender.held_bytes() >= LOG_HELD_BYTES_MAX,
        "a repair waits for no room"
    );
    // A receiver holds all that a sender may send, and one frame more is a flood.
    let mut receiver = Receiver::new(START);
    let frames = sender.resume(LogSeq::NONE).unwrap();
    assert_eq!(frames.len() as u64, pushed);
    for frame in &frames {
        assert_eq!(receiver.log(ms(0), frame), Ok(Arrival::New));
    }
    let more = |seq, length: usize| LogFrame {
        seq: LogSeq(seq),
        urgent: false,
        batch: vec![1; length].into(),
    };
    assert!(matches!(
        receiver.log(ms(0), &more(pushed + 1, LOG_FRAME_BYTES_MAX)),
        Err(Misbehaviour::Flood(_))
    ));
    // Once one is replayed another one is taken again, at both ends.
    receiver.consumed(ms(0), LogSeq(1));
    sender.acknowledge(ack(pushed, 101, 100)).unwrap();
    let next = sender.push(ms(1), exit(1000), false, vec![2; LOG_FRAME_BYTES_MAX]);
    assert_eq!(receiver.log(ms(1), &next.unwrap()), Ok(Arrival::New));
}

#[test]
fn there_is_room_again_once_a_frame_is_acknowledged() {
    let mut sender = Sender::new(START);
    let mut pushed = 0_u64;
    while sender.room() > 0 {
        pushed += 1;
        let batch = vec![1; LOG_FRAME_BYTES_MAX];
        sender.push(ms(0), exit(100 + pushed), false, batch).unwrap();
    }
    sender.acknowledge(ack(pushed, 101, 100)).unwrap();
    assert!(sender.room() > 0);
}

#[test]
fn tiny_frames_fill_the_buffer_too() {
    let mut sender = Sender::new(START);
    let mut count = 0_usize;
    while sender.push(ms(0), START, false, vec![1]).is_ok() {
        count += 1;
    }
    assert_eq!(count, LOG_HELD_BYTES_MAX.div_ceil(1 + LOG_FRAME_OVERHEAD_BYTES));
}

#[test]
fn a_resume_sends_what_the_backup_lacks_and_nothing_else() {
    let mut sender = sender_of_three();
    sender.acknowledge(ack(1, 100, 100)).unwrap();
    // It had received the second as well; its acknowledgement was lost.
    let again = sender.resume(LogSeq(2)).unwrap();
    assert_eq!(
        again.iter().map(|frame| frame.seq).collect::<Vec<_>>(),
        [LogSeq(3)]
    );
    assert_eq!(sender.acknowledged().received, LogSeq(2));
    assert_eq!(sender.resume(LogSeq(3)).unwrap(), []);
    // It lacks what it has acknowledged: its copy is another one than was told.
    assert_eq!(sender.resume(LogSeq(2)), Err(Refusal::LogGone));
    assert_eq!(sender.resume(LogSeq(4)), Err(Refusal::LogGone));
}

#[test]
fn a_receiver_takes_each_frame_once_and_in_order() {
    let mut sender = sender_of_three();
    let frames = sender.resume(LogSeq::NONE).unwrap();
    let mut receiver = Receiver::new(START);
    assert_eq!(receiver.log(ms(0), &frames[0]), Ok(Arrival::New));
    assert_eq!(receiver.log(ms(0), &frames[0]), Ok(Arrival::Duplicate));
    assert_eq!(
        receiver.log(ms(0), &frames[2]),
        Err(Misbehaviour::Gap {
            expected: LogSeq(2),
            found: LogSeq(3)
        })
    );
    assert_eq!(receiver.log(ms(0), &frames[1]), Ok(Arrival::New));
    assert_eq!(receiver.log(ms(0), &frames[2]), Ok(Arrival::New));
    assert_eq!(receiver.duplicates(), 1);
    assert_eq!(receiver.held_bytes(), 3 * (100 + LOG_FRAME_OVERHEAD_BYTES));
    receiver.consumed(ms(0), LogSeq(2));
    assert_eq!(receiver.held_bytes(), 100 + LOG_FRAME_OVERHEAD_BYTES);
    // Number 0 is before the first frame: no sender sends it, and it is nothing new.
    let zero = LogFrame {
        seq: LogSeq::NONE,
        ..frames[0].clone()
    };
    assert_eq!(receiver.log(ms(0), &zero), Ok(Arrival::Duplicate));
}

#[test]
fn acknowledgements_are_due_at_once_where_somebody_waits_and_soon_otherwise() {
    let mut sender = sender_of_three();
    let frames = sender.resume(LogSeq::NONE).unwrap();
    let mut receiver = Receiver::new(START);
    assert_eq!((receiver.ack_due(), receiver.ack(ms(5))), (None, None));
    receiver.log(ms(5), &frames[0]).unwrap();
    let soon = ms(5 + ACK_DELAY_MS_MAX);
    assert_eq!(receiver.ack_due(), Some(soon));
    // Progress does not put it off.
    receiver.replayed(ms(9), exit(104));
    assert_eq!(receiver.ack_due(), Some(soon));
    assert_eq!(receiver.ack(ms(14)), None);
    assert_eq!(receiver.ack(soon), Some(ack(1, 104, 100)));
    assert_eq!((receiver.ack_due(), receiver.ack(ms(99))), (None, None));
    // An output waits for the second.
    receiver.log(ms(20), &frames[1]).unwrap();
    assert_eq!(receiver.ack(ms(20)), Some(ack(2, 104, 100)));
    receiver.replayed(ms(30), exit(120));
    assert_eq!(receiver.ack_due(), Some(ms(30 + ACK_DELAY_MS_MAX)));
    // A flush may wait for this.
    receiver.durable(ms(31), exit(120));
    assert_eq!(receiver.ack(ms(31)), Some(ack(2, 120, 120)));
    // One that is ahead of what the replay has told is said with it, and an older one is none.
    receiver.durable(ms(32), exit(125));
    receiver.durable(ms(32), exit(110));
    assert_eq!(receiver.ack_due(), None);
    receiver.replayed(ms(33), exit(123));
    assert_eq!(receiver.ack(ms(33)), Some(ack(2, 123, 123)));
    receiver.replayed(ms(34), exit(130));
    assert_eq!(receiver.ack(ms(34)), Some(ack(2, 130, 125)));
    // Nothing new is nothing to say, until a new connection stands.
    receiver.replayed(ms(40), exit(130));
    receiver.durable(ms(40), exit(125));
    assert_eq!(receiver.ack_due(), None);
    receiver.resumed(ms(41));
    assert_eq!(receiver.ack(ms(41)), Some(ack(2, 130, 125)));
}

/// What happens next in a made-up session.
#[derive(Debug, Clone, Copy)]
enum Step {
    Push { exits: u64, bytes: usize, urgent: bool },
    DeliverLog,
    DeliverAck,
    Replay(u64),
    Sync,
    Pass(u64),
    Cut,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u64..5, 1_usize..50, any::<bool>())
            .prop_map(|(exits, bytes, urgent)| Step::Push { exits, bytes, urgent }),
        6 => Just(Step::DeliverLog),
        4 => Just(Step::DeliverAck),
        3 => (1_u64..4).prop_map(Step::Replay),
        1 => Just(Step::Sync),
        2 => (1_u64..20).prop_map(Step::Pass),
        1 => Just(Step::Cut),
    ]
}

/// Both ends and what is on the line between them.
struct World {
    now: u64,
    sender: Sender,
    receiver: Receiver,
    log_line: VecDeque<LogFrame>,
    ack_line: VecDeque<Ack>,
    /// Content and end of everything that was pushed.
    pushed: Vec<(Vec<u8>, u64)>,
    /// Content of everything that arrived as new.
    arrived: Vec<Vec<u8>>,
    replayed: u64,
}

impl World {
    fn new() -> Self {
        Self {
            now: 0,
            sender: Sender::new(START),
            receiver: Receiver::new(START),
            log_line: VecDeque::new(),
            ack_line: VecDeque::new(),
            pushed: Vec::new(),
            arrived: Vec::new(),
            replayed: START.get(),
        }
    }

    fn through_of(&self, frames: usize) -> u64 {
        frames
            .checked_sub(1)
            .map_or(START.get(), |last| self.pushed[last].1)
    }

    fn step(&mut self, step: Step) {
        let now = ms(self.now);
        match step {
            Step::Push { exits, bytes, urgent } => {
                let number = self.pushed.len();
                let through = self.through_of(number) + exits;
                let batch = vec![u8::try_from(number % 251).unwrap(); bytes];
                self.pushed.push((batch.clone(), through));
                self.log_line
                    .push_back(self.sender.push(now, exit(through), urgent, batch).unwrap());
            }
            Step::DeliverLog => {
                if let Some(frame) = self.log_line.pop_front()
                    && self.receiver.log(now, &frame).unwrap() == Arrival::New
                {
                    self.arrived.push(frame.batch.to_vec());
                }
            }
            Step::DeliverAck => {
                if let Some(ack) = self.ack_line.pop_front() {
                    self.sender.acknowledge(ack).unwrap();
                }
            }
            Step::Replay(exits) => {
                self.replayed = (self.replayed + exits).min(self.through_of(self.arrived.len()));
                self.receiver.replayed(now, exit(self.replayed));
                let ended = self.pushed.iter().take(self.arrived.len());
                let consumed = ended.filter(|(_, through)| *through <= self.replayed).count();
                self.receiver.consumed(now, LogSeq(consumed as u64));
            }
            Step::Sync => self.receiver.durable(now, exit(self.replayed)),
            Step::Pass(span) => self.now += span,
            Step::Cut => {
                self.log_line = self
                    .sender
                    .resume(self.receiver.reached().received)
                    .unwrap()
                    .into();
                self.ack_line.clear();
                self.receiver.resumed(now);
            }
        }
        self.ack_line.extend(self.receiver.ack(ms(self.now)));
        assert!(self.sender.acknowledged().received.0 <= self.arrived.len() as u64);
        assert!(self.sender.acknowledged().replayed.get() <= self.replayed);
    }
}

proptest! {
    #[test]
    fn cuts_lose_nothing_and_double_nothing(steps in proptest::collection::vec(any_step(), 1..200)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        // The line heals: everything arrives, and everything is told.
        world.step(Step::Cut);
        while !world.log_line.is_empty() {
            world.step(Step::DeliverLog);
        }
        world.step(Step::Replay(u64::from(u32::MAX)));
        world.step(Step::Sync);
        // What is not urgent is told after a while.
        world.step(Step::Pass(ACK_DELAY_MS_MAX));
        while !world.ack_line.is_empty() {
            world.step(Step::DeliverAck);
        }
        let pushed: Vec<Vec<u8>> = world.pushed.iter().map(|(batch, _)| batch.clone()).collect();
        prop_assert_eq!(&world.arrived, &pushed);
        let end = world.through_of(pushed.len());
        let all = LogSeq(pushed.len() as u64);
        prop_assert_eq!(world.sender.acknowledged(), Ack { executed: all, ..ack(all.0, end, end) });
        prop_assert_eq!(world.sender.room(), LOG_BUFFER_BYTES_MAX);
        prop_assert_eq!(world.receiver.held_bytes(), 0);
    }
}
