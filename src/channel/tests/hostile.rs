//! A peer with the right certificate that keeps to nothing else: each thing that it does ends its own connection, with
//! the reason by its name.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ends::{Hostile, Town, bytes_of};
use super::{hello, ms, other_session, session};
use crate::base::limits::{CHANNEL_HANDSHAKES_MAX, LOG_FRAME_BYTES_MAX};
use crate::base::units::ExitOrdinal;
use crate::channel::{
    Ack, ByeReason, FrameError, HEAD_BYTES, HelloError, LogFrame, LogSeq, Message, Misbehaviour, Opened,
    Refusal, Sender, Side, TransportError,
};

fn ack(received: u64) -> Message {
    Message::Ack(Ack {
        received: LogSeq(received),
        ..Ack::default()
    })
}

fn log() -> Message {
    Message::Log(LogFrame {
        seq: LogSeq(1),
        urgent: false,
        batch: b"a batch".as_slice().into(),
    })
}

/// A hostile backup that has said a good Hello, and the primary's open end.
async fn opened(town: &Town) -> (Hostile, Opened) {
    let (mut hostile, connection) = town.with_hostile_east().await;
    hostile
        .say_frame(session().tag(), Message::Hello(hello(Side::Backup)))
        .await;
    let opened = connection.greet(&hello(Side::Primary)).await.unwrap();
    (hostile, opened)
}

/// How the primary's end ends when the backup, after a good Hello, says `bytes`.
async fn outcome_of(town: &Town, bytes: &[u8]) -> TransportError {
    let (mut hostile, mut opened) = opened(town).await;
    hostile.say(bytes).await;
    opened.reader.next().await.unwrap_err()
}

/// The same of a first frame.
async fn outcome_of_first(town: &Town, bytes: &[u8]) -> TransportError {
    let (mut hostile, connection) = town.with_hostile_east().await;
    hostile.say(bytes).await;
    connection.greet(&hello(Side::Primary)).await.unwrap_err()
}

#[tokio::test]
async fn what_is_no_frame_ends_the_connection() {
    let town = Town::new();
    let garbage = outcome_of(&town, &[0xA5; 300]).await;
    assert!(
        matches!(garbage, TransportError::Frame(FrameError::Kind(0xA5))),
        "{garbage}"
    );
    assert!(garbage.is_fault_of_peer());
    let length = 9 + LOG_FRAME_BYTES_MAX + 1;
    let mut head = u32::try_from(length).unwrap().to_le_bytes().to_vec();
    head.push(2);
    head.extend_from_slice(&[0; 16]);
    let over_long = outcome_of(&town, &head).await;
    let expected = FrameError::Length { kind: 2, length };
    assert!(
        matches!(over_long, TransportError::Frame(fault) if fault == expected),
        "{over_long}"
    );
}

#[tokio::test]
async fn what_is_no_hello_ends_the_connection() {
    let town = Town::new();
    let tag = session().tag();
    let mut bytes = bytes_of(tag, Message::Hello(hello(Side::Backup)));
    bytes[HEAD_BYTES] ^= 1;
    let magic = outcome_of_first(&town, &bytes).await;
    assert!(
        matches!(magic, TransportError::Frame(FrameError::Hello(HelloError::Magic))),
        "{magic}"
    );
    let mut later = bytes_of(tag, Message::Hello(hello(Side::Backup)));
    later[HEAD_BYTES + 8] = 4;
    let version = outcome_of_first(&town, &later).await;
    assert!(
        matches!(version, TransportError::Refused(Refusal::Version)),
        "{version}"
    );
    // Its frame says one session, its Hello another.
    let two_minds = bytes_of(other_session().tag(), Message::Hello(hello(Side::Backup)));
    for early in [two_minds, bytes_of(tag, ack(0)), bytes_of(tag, Message::Ping(1))] {
        let out_of_place = outcome_of_first(&town, &early).await;
        assert!(
            matches!(
                out_of_place,
                TransportError::Misbehaviour(Misbehaviour::OutOfPlace(_))
            ),
            "{out_of_place}"
        );
    }
    let left = outcome_of_first(&town, &bytes_of(tag, Message::Bye(ByeReason::Failed))).await;
    assert!(matches!(left, TransportError::Left(ByeReason::Failed)), "{left}");
}

#[tokio::test]
async fn what_only_the_other_end_may_say_ends_the_connection() {
    let town = Town::new();
    for (message, named) in [(log(), "Log"), (Message::Hello(hello(Side::Backup)), "Hello")] {
        let outcome = outcome_of(&town, &bytes_of(session().tag(), message)).await;
        assert!(
            matches!(outcome, TransportError::Misbehaviour(Misbehaviour::OutOfPlace(kind)) if kind == named),
            "{outcome}"
        );
    }
}

#[tokio::test]
async fn acknowledgements_of_another_pairing_are_dropped_and_counted() {
    let town = Town::new();
    let (mut hostile, mut opened) = opened(&town).await;
    for received in 1..=5 {
        hostile.say_frame(other_session().tag(), ack(received)).await;
    }
    hostile.say_frame(session().tag(), Message::Ping(3)).await;
    assert_eq!(opened.reader.next().await.unwrap(), Message::Ping(3));
    assert_eq!(opened.reader.foreign().load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn acknowledgements_from_the_future_release_nothing() {
    let town = Town::new();
    let (mut hostile, mut opened) = opened(&town).await;
    let mut sender = Sender::new(ExitOrdinal::default());
    sender
        .push(ms(0), ExitOrdinal::new(1), true, b"a batch".to_vec())
        .unwrap();
    hostile.say_frame(session().tag(), ack(2)).await;
    let Message::Ack(ack) = opened.reader.next().await.unwrap() else {
        panic!()
    };
    assert_eq!(
        sender.acknowledge(ack),
        Err(Misbehaviour::Unsent {
            sent: LogSeq(1),
            acknowledged: LogSeq(2)
        })
    );
    assert_eq!(sender.acknowledged().received, LogSeq::NONE);
    assert_eq!(sender.output_waits_since(), Some(ms(0)));
}

#[tokio::test]
async fn a_frame_that_trickles_counts_only_when_it_is_whole() {
    let town = Town::new();
    let (mut hostile, mut opened) = opened(&town).await;
    let bytes = bytes_of(session().tag(), ack(0));
    let (last, before) = bytes.split_last().unwrap();
    for byte in before {
        hostile.say(&[*byte]).await;
        // Given up and begun again at each byte: nothing of it is lost.
        let waited = timeout(ms(1), opened.reader.next()).await;
        assert!(waited.is_err(), "{waited:?}");
    }
    hostile.say(&[*last]).await;
    assert_eq!(opened.reader.next().await.unwrap(), ack(0));
}

#[tokio::test]
async fn an_end_without_a_word_is_told_from_a_cut() {
    let town = Town::new();
    let (mut hostile, mut open) = opened(&town).await;
    hostile.0.shutdown().await.unwrap();
    assert!(matches!(
        open.reader.next().await.unwrap_err(),
        TransportError::Closed
    ));
    let (mut hostile, mut open) = opened(&town).await;
    hostile.say(&bytes_of(session().tag(), ack(0))[..30]).await;
    drop(hostile);
    let cut = open.reader.next().await.unwrap_err();
    assert!(matches!(cut, TransportError::Io(_)), "{cut}");
    assert!(!cut.is_fault_of_peer());
}

#[tokio::test]
async fn a_hello_without_end_and_strangers_without_a_word_are_given_up() {
    let town = Town::new();
    let (mut hostile, connection) = town.with_hostile_east().await;
    let bytes = bytes_of(session().tag(), Message::Hello(hello(Side::Backup)));
    let trickling = async {
        for byte in &bytes {
            // Until nobody listens any more.
            if hostile.0.write_all(&[*byte]).await.is_err() || hostile.0.flush().await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    };
    let waiting = async {
        let late = connection.greet(&hello(Side::Primary)).await.unwrap_err();
        assert!(matches!(late, TransportError::Late), "{late}");
    };
    let crowded = async {
        let mut west = town.west();
        let to = west.address().unwrap();
        let mut silent = Vec::new();
        for _ in 1..CHANNEL_HANDSHAKES_MAX {
            silent.push(TcpStream::connect(to).await.unwrap());
        }
        // They do not hold up the one that is meant.
        let (east, accepted) = tokio::join!(town.east_to(to), west.accept());
        east.unwrap();
        accepted.unwrap();
        // And each is given up in its time.
        for _ in &silent {
            let late = west.accept().await.unwrap_err();
            assert!(matches!(late, TransportError::Late), "{late}");
        }
    };
    tokio::select! {
        () = async { tokio::join!(waiting, crowded); } => {}
        () = async { trickling.await; std::future::pending::<()>().await } => {}
    }
}
