//! What the two ends of a verification may say, and what of it is nothing.

use antipode_disk_sync::online::Slice;
use antipode_disk_sync::units::LEAF_BYTES;

use super::session;
use crate::base::units::ExitOrdinal;
use crate::channel::{Check, Deframer, Frame, FrameError, Gate, HEAD_BYTES, Message, Misbehaviour, Side};
use crate::machine::workers::{Hashes, Round};

fn round() -> Round {
    Round {
        at: ExitOrdinal::new(700),
        slice: Slice {
            extent: 3,
            leaves: 0b1011,
        },
    }
}

fn of_the_backup() -> Vec<Check> {
    vec![
        Check::Want { cancel: true },
        Check::Hashes(round(), Hashes::new(0b1001, vec![[1; 32], [2; 32]]).unwrap()),
        Check::Mended(round(), 3, true),
    ]
}

fn of_the_primary() -> Vec<Check> {
    vec![
        Check::Mend(round(), 1, vec![7; usize::try_from(LEAF_BYTES).unwrap()]),
        Check::Told(b"{}".to_vec()),
    ]
}

fn frame(check: Check) -> Frame {
    Frame {
        tag: session().tag(),
        message: Message::Check(check),
    }
}

fn read(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
    let mut deframer = Deframer::default();
    deframer.input().extend_from_slice(bytes);
    deframer.frame()
}

#[test]
fn each_comes_back_as_it_was_said_and_only_from_the_end_that_may_say_it() {
    for (checks, from) in [(of_the_backup(), Side::Backup), (of_the_primary(), Side::Primary)] {
        for check in checks {
            let mut bytes = Vec::new();
            frame(check.clone()).encode(&mut bytes);
            assert_eq!(read(&bytes), Ok(Some(frame(check.clone()))));
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), Ok(None), "{check:?} cut off at {end}");
            }
            let admitted = |from| Gate::new(session().tag(), from).admit(frame(check.clone()));
            assert_eq!(admitted(from), Ok(Some(Message::Check(check.clone()))));
            assert_eq!(admitted(from.other()), Err(Misbehaviour::OutOfPlace("Check")));
        }
    }
}

#[test]
fn what_cannot_be_said_is_refused() {
    let mut bytes = Vec::new();
    frame(of_the_backup().swap_remove(1)).encode(&mut bytes);
    let head = bytes[..HEAD_BYTES].to_vec();
    let body = &bytes[HEAD_BYTES..];
    let said = |body: &[u8]| {
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        read(&[&length, &head[4..], body].concat())
    };
    assert!(said(body).is_ok());
    let changed = |at: usize, byte: u8| {
        let mut changed = body.to_vec();
        changed[at] = byte;
        changed
    };
    let of_round = |what: u8, rest: &[u8]| [&[what], &body[1..25], rest].concat();
    for (nothing, why) in [
        (changed(0, 9), "no such word"),
        (changed(25, 0b1101), "a leaf that is not of the slice"),
        (changed(25, 0b1), "more hashes than leaves"),
        (body[..body.len() - 1].to_vec(), "a part of a hash"),
        (body[..20].to_vec(), "a part of a round"),
        (of_round(3, &[2, 7]), "content of a leaf that is not of the slice"),
        (of_round(3, &[255, 7]), "content of a leaf that no extent has"),
        (of_round(3, &[1; 65_538]), "more content than a leaf has"),
        (of_round(4, &[1, 2]), "neither done nor not"),
        (of_round(4, &[1, 1, 1]), "something left over"),
        (vec![1], "neither wanted nor not"),
        (vec![1, 2], "neither wanted nor not"),
    ] {
        assert_eq!(
            said(&nothing),
            Err(FrameError::Field("word of a verification")),
            "{why}"
        );
    }
}
