//! Frames, Hellos and messages: what is taken and what is not.

use antipode_certs::{Identity, Name};
use protobuf::Message as _;
use raft::eraftpb::{Entry, Message};

use super::*;
use crate::limits::FRAME_BYTES_MAX;
use crate::node::{NodeId, Seats};
use crate::store::Owner;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[test]
fn heads_are_taken_or_refused_by_their_five_bytes() {
    for kind in Kind::ALL {
        let frame = Head::frame(kind, b"payload");
        let head = Head::parse(*frame.first_chunk().unwrap()).unwrap();
        assert_eq!(head, Head { kind, length: 7 });
        assert_eq!(&frame[HEAD_BYTES..], b"payload");
    }
    assert_eq!(Head::parse([0, 0, 0, 0, 0]), Err(FrameError::Kind(0)));
    assert_eq!(Head::parse([0, 0, 0, 0, 7]), Err(FrameError::Kind(7)));
    let too_long = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes();
    let [a, b, c, d] = too_long;
    assert_eq!(
        Head::parse([a, b, c, d, 2]),
        Err(FrameError::TooLong(FRAME_BYTES_MAX + 1))
    );
    assert_eq!(
        Head::parse([0xff; 5]),
        Err(FrameError::TooLong(u32::MAX as usize))
    );
}

fn message(from: u64, to: u64, bytes: usize) -> Message {
    let entry = Entry {
        data: vec![7; bytes].into(),
        ..Entry::default()
    };
    Message {
        from,
        to,
        entries: vec![entry].into(),
        ..Message::default()
    }
}

fn assemble(frames: &[Vec<u8>]) -> Result<Vec<Message>, MessageError> {
    let mut assembler = Assembler::new(NodeId(1), NodeId(2));
    let mut found = Vec::new();
    for frame in frames {
        let head = Head::parse(*frame.first_chunk().unwrap()).unwrap();
        found.extend(assembler.take(head.kind, &frame[HEAD_BYTES..])?);
    }
    Ok(found)
}

#[test]
fn a_message_arrives_whole_or_in_parts() {
    for bytes in [0, 100, FRAME_BYTES_MAX, 3 * FRAME_BYTES_MAX] {
        let sent = message(1, 2, bytes);
        let frames: Vec<_> = parts_of(&sent).collect();
        assert_eq!(frames.len() > 1, bytes >= FRAME_BYTES_MAX);
        assert_eq!(assemble(&frames), Ok(vec![sent]));
    }
}

#[test]
fn messages_that_are_none_or_anothers_are_refused() {
    assert_eq!(
        assemble(&parts_of(&message(3, 2, 9)).collect::<Vec<_>>()),
        Err(MessageError::Sender(3))
    );
    assert_eq!(
        assemble(&parts_of(&message(1, 3, 9)).collect::<Vec<_>>()),
        Err(MessageError::Recipient(3))
    );
    let garbage = Head::frame(Kind::Message, &[0xff; 40]);
    assert_eq!(assemble(&[garbage]), Err(MessageError::Malformed));
    let reply = Head::frame(Kind::Reply, b"{}");
    assert_eq!(assemble(&[reply]), Err(MessageError::Kind(Kind::Reply)));
    let long: Vec<_> = parts_of(&message(1, 2, 2 * FRAME_BYTES_MAX)).collect();
    let whole: Vec<_> = parts_of(&message(1, 2, 9)).collect();
    assert_eq!(
        assemble(&[long[0].clone(), whole[0].clone()]),
        Err(MessageError::Interrupted)
    );
}

/// Every beginning of a message is refused or, where protobuf takes it for a shorter one, from nobody or less.
#[test]
fn cut_off_messages_are_no_others() {
    let sent = message(1, 2, 40);
    let bytes = sent.write_to_bytes().unwrap();
    for end in 0..bytes.len() {
        let frame = Head::frame(Kind::Message, &bytes[..end]);
        assert_ne!(assemble(&[frame]), Ok(vec![sent.clone()]), "{end}");
    }
}

#[test]
fn parts_without_end_are_refused() {
    let mut assembler = Assembler::new(NodeId(1), NodeId(2));
    let part = vec![0; FRAME_BYTES_MAX];
    let taken = (0..)
        .map(|_| assembler.take(Kind::Part, &part))
        .take_while(Result::is_ok)
        .count();
    assert_eq!(taken, crate::limits::SNAPSHOT_BYTES_MAX / FRAME_BYTES_MAX);
}

#[test]
fn a_hello_is_for_this_cluster_and_from_whom_it_says() {
    let seats = Seats::first(["a", "b", "c"].map(name));
    let own = Owner {
        cluster: name("x"),
        era: 0,
        name: name("a"),
        id: NodeId(1),
    };
    let identity = |path: &str| Identity::from_uri(&format!("antipode://{path}")).unwrap();
    let hello = |cluster: &str, node: Option<(u64, u64)>| Hello {
        version: PROTOCOL_VERSION,
        cluster: name(cluster),
        node: node.map(|(era, id)| (era, NodeId(id))),
    };
    let judge = |hello: Hello, from: &str| hello.admit(&identity(from), &own, &seats);
    assert_eq!(judge(hello("x", None), "site/berlin"), Ok(None));
    assert_eq!(
        judge(hello("x", Some((0, 2))), "tiebreaker/b"),
        Ok(Some(NodeId(2)))
    );
    // A new id of a seat, not known here yet.
    assert_eq!(
        judge(hello("x", Some((0, 9))), "tiebreaker/b"),
        Ok(Some(NodeId(9)))
    );
    assert_eq!(
        judge(hello("y", None), "site/berlin"),
        Err(HelloError::Cluster(name("y")))
    );
    assert_eq!(
        judge(hello("x", Some((1, 2))), "tiebreaker/b"),
        Err(HelloError::Era(1))
    );
    for (id, from) in [(3, "tiebreaker/b"), (9, "tiebreaker/d"), (2, "site/b")] {
        let refused = HelloError::NotTheNode(identity(from), NodeId(id));
        assert_eq!(judge(hello("x", Some((0, id))), from), Err(refused));
    }
    let ancient = Hello {
        version: 0,
        ..hello("x", None)
    };
    assert_eq!(judge(ancient, "site/berlin"), Err(HelloError::Version(0)));
    // What a later version adds is passed over.
    let later = r#"{"version":2,"cluster":"x","node":null,"colour":"blue"}"#;
    assert!(judge(serde_json::from_str(later).unwrap(), "site/berlin").is_ok());
}
