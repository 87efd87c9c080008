//! Frames and Hellos: what is written is read, and nothing else is.

use antipode_tiebreaker::{Generation, Incarnation, PairingId};
use proptest::prelude::*;

use super::{hello, session};
use crate::base::limits::{CHANNEL_READ_BYTES, LOG_FRAME_BYTES_MAX};
use crate::base::units::ExitOrdinal;
use crate::channel::{
    Ack, ByeReason, Deframer, Frame, FrameError, HEAD_BYTES, Hello, HelloError, LogFrame, LogSeq, Message,
    Outbox, Refusal, Session, Side,
};

fn frame(message: Message) -> Frame {
    Frame {
        tag: session().tag(),
        message,
    }
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

fn log(seq: u64, urgent: bool, batch: &[u8]) -> Message {
    Message::Log(LogFrame {
        seq: LogSeq(seq),
        urgent,
        batch: batch.into(),
    })
}

fn ack(received: u64, replayed: u64, durable: u64) -> Ack {
    Ack {
        received: LogSeq(received),
        executed: LogSeq(received / 2),
        replayed: ExitOrdinal::new(replayed),
        durable: ExitOrdinal::new(durable),
    }
}

/// One of each kind.
fn samples() -> Vec<Frame> {
    let messages = [
        Message::Hello(hello(Side::Primary)),
        Message::Hello(Hello {
            claimed: true,
            reached: LogSeq(12),
            ..hello(Side::Backup)
        }),
        log(3, true, b"a batch"),
        Message::Ack(ack(3, 1000, 900)),
        Message::Ping(77),
        Message::Pong(78),
        Message::Bye(ByeReason::Ended),
        Message::Bye(ByeReason::Refused(Refusal::LogGone)),
    ];
    messages.into_iter().map(frame).collect()
}

fn deframer(bytes: &[u8]) -> Deframer {
    let mut deframer = Deframer::default();
    deframer.input().extend_from_slice(bytes);
    deframer
}

#[track_caller]
fn fault_of(bytes: &[u8]) -> FrameError {
    deframer(bytes).frame().unwrap_err()
}

#[test]
fn every_kind_is_read_as_it_was_written() {
    for sample in samples() {
        let mut deframer = deframer(&bytes_of(&sample));
        assert_eq!(deframer.frame(), Ok(Some(sample)));
        assert_eq!(deframer.frame(), Ok(None));
        assert!(!deframer.is_within_frame());
    }
}

#[test]
fn every_truncated_prefix_waits_for_the_rest() {
    for sample in samples() {
        let bytes = bytes_of(&sample);
        for end in 0..bytes.len() {
            let mut deframer = deframer(&bytes[..end]);
            assert_eq!(deframer.frame(), Ok(None), "{end} bytes of {sample:?}");
            assert_eq!(deframer.is_within_frame(), end > 0);
            deframer.input().extend_from_slice(&bytes[end..]);
            assert_eq!(deframer.frame(), Ok(Some(sample.clone())));
        }
    }
}

#[test]
fn every_flipped_bit_makes_another_frame_or_none() {
    for sample in samples() {
        let bytes = bytes_of(&sample);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut deframer = deframer(&flipped);
            if let Ok(Some(read)) = deframer.frame() {
                assert_ne!(read, sample, "bit {bit}");
                assert!(
                    flipped.starts_with(&bytes_of(&read)),
                    "bit {bit} is not looked at"
                );
            }
        }
    }
}

#[test]
fn over_long_frames_are_refused_by_their_head_alone() {
    let most = [
        (1, 205),
        (2, 9 + LOG_FRAME_BYTES_MAX),
        (3, 24),
        (4, 8),
        (5, 8),
        (6, 1),
    ];
    for (kind, most) in most {
        for length in [most + 1, u32::MAX as usize] {
            let mut head = u32::try_from(length).unwrap().to_le_bytes().to_vec();
            head.push(kind);
            head.extend_from_slice(&[0; 16]);
            assert_eq!(fault_of(&head), FrameError::Length { kind, length });
        }
    }
}

#[test]
fn kinds_and_fields_that_are_none_are_refused() {
    let mut unknown = bytes_of(&frame(Message::Ping(1)));
    unknown[4] = 10;
    assert_eq!(fault_of(&unknown), FrameError::Kind(10));
    let mut urgency = bytes_of(&frame(log(1, true, b"x")));
    urgency[HEAD_BYTES + 8] = 2;
    assert_eq!(fault_of(&urgency), FrameError::Field("urgency"));
    for code in [0, 4, 16, 27, 255] {
        let mut bye = bytes_of(&frame(Message::Bye(ByeReason::Ended)));
        bye[HEAD_BYTES] = code;
        assert_eq!(fault_of(&bye), FrameError::Field("reason for leaving"), "{code}");
    }
    let no_batch = [&9_u32.to_le_bytes()[..], &[2], &[0; 25]].concat();
    assert_eq!(fault_of(&no_batch), FrameError::Length { kind: 2, length: 9 });
}

#[test]
fn memory_is_taken_as_bytes_come() {
    let longest = bytes_of(&frame(log(1, false, &vec![1; LOG_FRAME_BYTES_MAX])));
    let mut deframer = deframer(&longest[..HEAD_BYTES + 1]);
    assert_eq!(deframer.frame(), Ok(None));
    assert!(deframer.input().capacity() <= 4 * CHANNEL_READ_BYTES);
    deframer.input().extend_from_slice(&longest[HEAD_BYTES + 1..]);
    assert_eq!(
        deframer.frame(),
        Ok(Some(frame(log(1, false, &vec![1; LOG_FRAME_BYTES_MAX]))))
    );
}

/// A Hello whose body `change` has changed.
fn changed_hello(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = bytes_of(&frame(Message::Hello(hello(Side::Primary)))).split_off(HEAD_BYTES);
    change(&mut body);
    let length = u32::try_from(body.len()).unwrap();
    [&length.to_le_bytes()[..], &[1], &[0; 16], &body].concat()
}

#[test]
fn hellos_that_are_none_are_refused() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(Change, HelloError); 11] = [
        (|body| body[0] ^= 1, HelloError::Magic),
        (|body| body[8] = 2, HelloError::Version(2)),
        (|body| body.truncate(9), HelloError::Length),
        (|body| body.truncate(75), HelloError::Length),
        (|body| body.push(0), HelloError::Length),
        (|body| body.truncate(body.len() - 1), HelloError::Length),
        (|body| body[10] = 3, HelloError::Field("side")),
        (|body| body[11] = 2, HelloError::Field("flags")),
        (|body| body[77] = 0xFF, HelloError::Field("text")),
        (
            |body| drop(body.splice(76..92, [0])),
            HelloError::Field("CPU profile"),
        ),
        (
            |body| *body.last_mut().unwrap() = b'W',
            HelloError::Field("VM's name"),
        ),
    ];
    for (index, (change, fault)) in cases.into_iter().enumerate() {
        assert_eq!(fault_of(&changed_hello(change)), fault.into(), "case {index}");
    }
    // What follows is not looked at in another version, whatever it is.
    let later = changed_hello(|body| {
        body[8] = 9;
        body.truncate(10);
    });
    assert_eq!(fault_of(&later), HelloError::Version(9).into());
}

#[test]
fn two_ends_belong_together_only_if_everything_agrees() {
    let (primary, backup) = (hello(Side::Primary), hello(Side::Backup));
    assert_eq!(Hello::judge(&primary, &backup), Ok(()));
    assert_eq!(Hello::judge(&backup, &primary), Ok(()));
    let with = |session| Hello {
        session,
        ..primary.clone()
    };
    let mut other_profile = primary.clone();
    other_profile.common.cpu_profile = "deterministic-2".to_owned();
    let mut other_recipe = primary.clone();
    other_recipe.common.recipe[31] ^= 1;
    let cases = [
        (
            with(Session {
                vm: "db".parse().unwrap(),
                ..session()
            }),
            Refusal::Vm,
        ),
        (
            with(Session {
                incarnation: Incarnation(2),
                ..session()
            }),
            Refusal::Incarnation,
        ),
        (
            with(Session {
                generation: Generation(8),
                ..session()
            }),
            Refusal::Generation,
        ),
        (
            with(Session {
                pairing: PairingId(1),
                ..session()
            }),
            Refusal::Pairing,
        ),
        (backup.clone(), Refusal::Side),
        (other_profile, Refusal::CpuProfile),
        (other_recipe, Refusal::Recipe),
        (
            Hello {
                claimed: true,
                ..primary.clone()
            },
            Refusal::Claimed,
        ),
    ];
    for (theirs, refusal) in cases {
        assert_eq!(Hello::judge(&backup, &theirs), Err(refusal));
        // Both ends come to the same verdict, whoever says what.
        assert_eq!(Hello::judge(&theirs, &backup), Err(refusal));
    }
    let ahead = Hello {
        reached: LogSeq(5),
        ..backup
    };
    assert_eq!(Hello::judge(&ahead, &primary), Err(Refusal::LogGone));
    let names: std::collections::BTreeSet<&str> = Refusal::ALL.iter().map(|refusal| refusal.name()).collect();
    assert_eq!(names.len(), Refusal::ALL.len());
}

#[test]
fn what_waits_to_be_sent_is_bounded_and_in_order() {
    let mut outbox = Outbox::new(session().tag());
    assert!(outbox.is_empty());
    let big = vec![5; 100_000];
    outbox.put(log(1, false, &big));
    outbox.put(log(2, true, b"two"));
    for count in 1..=1000 {
        outbox.put(Message::Ack(ack(count, 0, 0)));
        outbox.put(Message::Ping(count));
        outbox.put(Message::Pong(count));
    }
    outbox.put(Message::Bye(ByeReason::Failed));
    outbox.put(log(3, false, b"too late"));
    let mut deframer = Deframer::default();
    outbox.take_into(deframer.input());
    let expected = [
        Message::Ack(ack(1000, 0, 0)),
        Message::Ping(1000),
        Message::Pong(1000),
        log(1, false, &big),
    ];
    for message in expected {
        assert_eq!(deframer.frame(), Ok(Some(frame(message))));
    }
    // The long frame has filled the portion.
    assert_eq!(deframer.frame(), Ok(None));
    assert!(!outbox.is_empty());
    outbox.take_into(deframer.input());
    assert_eq!(deframer.frame(), Ok(Some(frame(log(2, true, b"two")))));
    assert_eq!(deframer.frame(), Ok(Some(frame(Message::Bye(ByeReason::Failed)))));
    assert_eq!(deframer.frame(), Ok(None));
    assert!(outbox.is_empty());
}

fn any_message() -> impl Strategy<Value = Message> {
    let any_hello = (
        ("[a-z0-9]{1,63}", any::<[u64; 4]>()),
        (".{1,16}", any::<[u8; 32]>(), any::<bool>(), any::<bool>()),
    );
    let hellos = any_hello.prop_map(|((vm, numbers), (cpu_profile, recipe, is_primary, claimed))| {
        let side = if is_primary { Side::Primary } else { Side::Backup };
        Message::Hello(Hello {
            session: Session {
                vm: vm.parse().unwrap(),
                incarnation: Incarnation(numbers[0]),
                generation: Generation(numbers[1]),
                pairing: PairingId(numbers[2]),
            },
            side,
            common: crate::channel::Common { cpu_profile, recipe },
            reached: LogSeq(numbers[3]),
            claimed,
        })
    });
    let logs = (
        any::<u64>(),
        any::<bool>(),
        proptest::collection::vec(any::<u8>(), 1..600),
    );
    prop_oneof![
        hellos,
        logs.prop_map(|(seq, urgent, batch)| log(seq, urgent, &batch)),
        any::<[u64; 3]>()
            .prop_map(|[received, replayed, durable]| Message::Ack(ack(received, replayed, durable))),
        any::<u64>().prop_map(Message::Ping),
        any::<u64>().prop_map(Message::Pong),
    ]
}

proptest! {
    #[test]
    fn frames_survive_however_the_line_cuts_them(
        messages in proptest::collection::vec(any_message(), 1..8),
        cuts in proptest::collection::vec(1_usize..200, 1..40),
    ) {
        let frames: Vec<Frame> = messages.into_iter().map(frame).collect();
        let bytes: Vec<u8> = frames.iter().flat_map(bytes_of).collect();
        let (mut deframer, mut read, mut rest) = (Deframer::default(), Vec::new(), bytes.as_slice());
        for cut in cuts.iter().cycle() {
            let (piece, later) = rest.split_at((*cut).min(rest.len()));
            deframer.input().extend_from_slice(piece);
            while let Some(frame) = deframer.frame().unwrap() {
                read.push(frame);
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(read, frames);
        prop_assert!(!deframer.is_within_frame());
    }

    #[test]
    fn any_bytes_are_frames_written_the_one_way_or_none(
        kind in 0_u8..10,
        length in prop_oneof![0_u32..160, any::<u32>()],
        rest in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [&length.to_le_bytes()[..], &[kind], &rest].concat();
        let mut deframer = deframer(&bytes);
        let mut again = Vec::new();
        while let Ok(Some(frame)) = deframer.frame() {
            frame.encode(&mut again);
        }
        prop_assert!(bytes.starts_with(&again));
    }

    #[test]
    fn any_change_of_a_hello_is_read_or_refused(
        at in 0_usize..96,
        with in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let bytes = changed_hello(|body| {
            let at = at.min(body.len());
            body.truncate(at);
            body.extend_from_slice(&with);
        });
        if let Ok(Some(read)) = deframer(&bytes).frame() {
            let mut again = Vec::new();
            read.encode(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }
}
