//! The roles turn round over the connection that there is (P7).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::ends::Town;
use super::{hello, ms, other_session, session};
use crate::base::units::ExitOrdinal;
use crate::channel::{Ack, HeartbeatKeys, Heartbeats, LogFrame, LogSeq, Message, Opened, Side, Vitals};

fn frame(seq: u64) -> Message {
    Message::Log(LogFrame {
        seq: LogSeq(seq),
        urgent: true,
        batch: Arc::from(vec![7; 9]),
    })
}

fn ack(received: u64) -> Message {
    Message::Ack(Ack {
        received: LogSeq(received),
        executed: LogSeq(0),
        replayed: ExitOrdinal::new(0),
        durable: ExitOrdinal::new(0),
    })
}

async fn opened() -> (Opened, Opened) {
    let town = Town::new();
    let (east, west) = town.greeted(&hello(Side::Primary), &hello(Side::Backup)).await;
    (east.unwrap(), west.unwrap())
}

#[tokio::test]
async fn a_log_runs_the_other_way_when_both_ends_have_turned() {
    let (mut east, mut west) = opened().await;
    east.reader.turning().expect(&other_session());
    west.reader.turning().expect(&other_session());
    // What waits when an end turns is of the session before.
    east.writer.put(frame(1));
    east.writer.put(Message::Word(b"turned".to_vec()));
    east.writer.turn(&other_session());
    east.writer.put(ack(0));
    east.writer.drain().await.unwrap();
    for (expected, tag) in [
        (frame(1), session().tag()),
        (Message::Word(b"turned".to_vec()), session().tag()),
        (ack(0), other_session().tag()),
    ] {
        assert_eq!(west.reader.next().await.unwrap(), expected);
        assert_eq!(west.reader.tag(), tag);
    }
    west.writer.put(ack(1));
    west.writer.turn(&other_session());
    west.writer.put(frame(1));
    west.writer.drain().await.unwrap();
    assert_eq!(east.reader.next().await.unwrap(), ack(1));
    assert_eq!(east.reader.next().await.unwrap(), frame(1));
    assert_eq!(east.reader.tag(), other_session().tag());
    // The one before is over.
    assert_eq!(east.reader.foreign().load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_end_that_is_not_told_to_expect_it_hears_nothing_of_another_session() {
    let (mut east, mut west) = opened().await;
    east.writer.turn(&other_session());
    east.writer.put(ack(0));
    east.writer.drain().await.unwrap();
    east.writer.turn(&session());
    east.writer.put(Message::Ping(3));
    east.writer.drain().await.unwrap();
    assert_eq!(west.reader.next().await.unwrap(), Message::Ping(3));
    assert_eq!(west.reader.foreign().load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_end_that_has_turned_may_say_what_its_new_side_says_and_no_more() {
    let (mut east, mut west) = opened().await;
    west.reader.turning().expect(&other_session());
    east.writer.turn(&other_session());
    east.writer.put(frame(1));
    east.writer.drain().await.unwrap();
    let error = west.reader.next().await.unwrap_err();
    assert!(error.is_fault_of_peer(), "{error}");
}

#[test]
fn heartbeats_turn_round_with_their_keys_and_those_of_before_count_no_more() {
    let keys = HeartbeatKeys {
        primary: [1; 32],
        backup: [2; 32],
    };
    let mut east = Heartbeats::new(&session(), Side::Primary, keys.clone());
    let mut west = Heartbeats::new(&session(), Side::Backup, keys);
    let before = east.next(ms(1), Vitals::default());
    let (mut turned_east, mut turned_west) = (east.turned(&other_session()), west.turned(&other_session()));
    assert!(west.receive(ms(2), &before).is_some());
    assert!(turned_west.receive(ms(2), &before).is_none());
    let there = turned_east.next(ms(3), Vitals::default());
    assert!(turned_west.receive(ms(4), &there).is_some());
    assert!(turned_west.receive(ms(4), &there).is_none(), "once");
    let back = turned_west.next(ms(5), Vitals::default());
    assert!(turned_east.receive(ms(6), &back).is_some());
    assert!(turned_east.receive(ms(6), &there).is_none(), "it is its own");
}
