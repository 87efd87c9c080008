//! Heartbeats: what an authentic one tells, and what becomes of all others.

use std::time::Duration;

use proptest::prelude::*;

use super::{ms, other_session, session};
use crate::base::units::ExitOrdinal;
use crate::channel::{Datagrams, Dropped, HEARTBEAT_BYTES, HeartbeatKeys, Heartbeats, LogSeq, Side, Vitals};

fn keys(seed: u8) -> HeartbeatKeys {
    HeartbeatKeys {
        primary: [seed; 32],
        backup: [seed ^ 0x80; 32],
    }
}

fn ends() -> (Heartbeats, Heartbeats) {
    (
        Heartbeats::new(&session(), Side::Primary, keys(1)),
        Heartbeats::new(&session(), Side::Backup, keys(1)),
    )
}

fn vitals(received: u64) -> Vitals {
    Vitals {
        received: LogSeq(received),
        replayed: ExitOrdinal::new(received * 10),
        busy: received % 2 == 1,
    }
}

#[test]
fn a_heartbeat_tells_how_its_sender_is() {
    let (mut primary, mut backup) = ends();
    for received in 0..10 {
        let datagram = backup.next(ms(received), vitals(received));
        let heard = primary.receive(ms(50), &datagram).unwrap();
        assert_eq!(heard.vitals, Some(vitals(received)));
        assert_eq!(heard.round_trip, None);
    }
    assert_eq!(primary.dropped(), Dropped::default());
}

#[test]
fn round_trips_are_measured_on_one_clock() {
    let (mut primary, mut backup) = ends();
    // The backup's clock is a day ahead; a datagram takes 20 ms there and 30 ms back, and is held for 7 ms.
    let day = Duration::from_secs(86_400);
    let there = primary.next(ms(1000), vitals(0));
    backup.receive(day + ms(1020), &there).unwrap();
    let back = backup.next(day + ms(1027), vitals(0));
    let heard = primary.receive(ms(1057), &back).unwrap();
    assert_eq!(heard.round_trip, Some(ms(50)));
    // Each stamp is echoed once.
    let back = backup.next(day + ms(1030), vitals(0));
    assert_eq!(primary.receive(ms(1060), &back).unwrap().round_trip, None);
}

#[test]
fn an_echo_that_cannot_be_true_measures_nothing() {
    let (mut primary, mut backup) = ends();
    backup.receive(ms(5), &primary.next(ms(1000), vitals(0))).unwrap();
    // It is heard before the moment that it echoes, and says that it held longer than there was time.
    let back = backup.next(ms(6), vitals(0));
    assert_eq!(primary.receive(ms(900), &back).unwrap().round_trip, None);
    backup.receive(ms(7), &primary.next(ms(2000), vitals(0))).unwrap();
    let back = backup.next(ms(507), vitals(0));
    assert_eq!(primary.receive(ms(2400), &back).unwrap().round_trip, None);
}

#[test]
fn every_flipped_bit_and_every_other_length_is_dropped() {
    let (mut primary, mut backup) = ends();
    let datagram = backup.next(ms(1), vitals(3));
    for bit in 0..HEARTBEAT_BYTES * 8 {
        let mut flipped = datagram;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(primary.receive(ms(2), &flipped), None, "bit {bit}");
    }
    assert_eq!(primary.dropped().total(), HEARTBEAT_BYTES as u64 * 8);
    for length in 0..HEARTBEAT_BYTES {
        assert_eq!(primary.receive(ms(2), &datagram[..length]), None);
    }
    assert_eq!(primary.receive(ms(2), &[&datagram[..], &[0]].concat()), None);
    // None of that has used its number up.
    assert!(primary.receive(ms(2), &datagram).is_some());
}

#[test]
fn what_is_dropped_is_counted_by_its_reason() {
    let (mut primary, mut backup) = ends();
    let datagram = backup.next(ms(1), vitals(1));
    primary.receive(ms(1), &datagram).unwrap();
    assert_eq!(primary.receive(ms(1), &datagram), None);
    assert_eq!(primary.receive(ms(1), b"knock knock"), None);
    let mut other_version = datagram;
    other_version[0] = 2;
    assert_eq!(primary.receive(ms(1), &other_version), None);
    let own = primary.next(ms(1), vitals(1));
    assert_eq!(primary.receive(ms(1), &own), None);
    let mut stranger = Heartbeats::new(&session(), Side::Backup, keys(9));
    assert_eq!(primary.receive(ms(1), &stranger.next(ms(1), vitals(1))), None);
    let mut of_another = Heartbeats::new(&other_session(), Side::Backup, keys(1));
    assert_eq!(primary.receive(ms(1), &of_another.next(ms(1), vitals(1))), None);
    let expected = Dropped {
        malformed: 2,
        foreign: 1,
        reflected: 1,
        forged: 1,
        replayed: 1,
    };
    assert_eq!(primary.dropped(), expected);
    assert_eq!(expected.total(), 6);
}

#[test]
fn late_ones_count_once_within_the_window_and_say_nothing_old() {
    let (mut primary, mut backup) = ends();
    let datagrams: Vec<_> = (0..100)
        .map(|number| backup.next(ms(number), vitals(number)))
        .collect();
    assert!(primary.receive(ms(0), &datagrams[99]).unwrap().vitals.is_some());
    for number in (0..99).rev() {
        let heard = primary.receive(ms(0), &datagrams[number]);
        // The highest and the 63 before it.
        assert_eq!(heard.is_some(), number > 99 - 64, "{number}");
        assert!(heard.is_none_or(|heard| heard.vitals.is_none()));
    }
    assert_eq!(primary.dropped().replayed, 36);
    for datagram in &datagrams {
        assert_eq!(primary.receive(ms(0), datagram), None);
    }
    // Further ahead than the window is wide.
    for _ in 0..200 {
        backup.next(ms(0), vitals(0));
    }
    assert!(primary.receive(ms(0), &backup.next(ms(0), vitals(0))).is_some());
    assert_eq!(primary.receive(ms(0), &datagrams[99]), None);
}

#[test]
fn keys_of_the_last_connection_count_until_the_new_ones_are_used() {
    let (mut primary, mut backup) = ends();
    let kept_back = backup.next(ms(0), vitals(0));
    primary.rekey(keys(2));
    // The backup has not seen the new connection yet.
    let last = backup.next(ms(1), vitals(1));
    assert!(primary.receive(ms(1), &last).is_some());
    backup.rekey(keys(2));
    assert!(primary.receive(ms(2), &backup.next(ms(2), vitals(2))).is_some());
    // From now on the old ones are as good as a stranger's; and no number counts twice, whatever the keys.
    assert_eq!(primary.receive(ms(3), &kept_back), None);
    assert_eq!(primary.dropped().forged, 1);
    assert!(backup.receive(ms(3), &primary.next(ms(3), vitals(3))).is_some());
}

#[tokio::test]
async fn datagrams_cross_the_loopback() {
    let any = "127.0.0.1:0".parse().unwrap();
    let mut here = Datagrams::bind(any, any).unwrap();
    let mut there = Datagrams::bind(any, here.address().unwrap()).unwrap();
    let (mut primary, mut backup) = ends();
    there.send(&backup.next(ms(1), vitals(1)));
    let received = here.receive().await.unwrap();
    assert!(primary.receive(ms(2), received.bytes()).is_some());
    // One that is too long is seen to be.
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let long = [&backup.next(ms(1), vitals(1))[..], b"and more than that"].concat();
    socket.send_to(&long, here.address().unwrap()).await.unwrap();
    let received = here.receive().await.unwrap();
    assert_eq!(primary.receive(ms(2), received.bytes()), None);
    assert_eq!(primary.dropped().malformed, 1);
    // Port 0 is nowhere: what the host does not take is counted, and no error.
    here.send(&primary.next(ms(3), vitals(1)));
    assert_eq!((here.unsent(), there.unsent()), (1, 0));
}

proptest! {
    #[test]
    fn any_datagram_is_dropped(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (mut primary, _) = ends();
        prop_assert_eq!(primary.receive(ms(1), &bytes), None);
        prop_assert_eq!(primary.dropped().total(), 1);
    }

    #[test]
    fn each_number_counts_once_in_whatever_order(order in proptest::collection::vec(0_usize..150, 1..300)) {
        let (mut primary, mut backup) = ends();
        let datagrams: Vec<_> = (0..150).map(|number| backup.next(ms(number), vitals(number))).collect();
        let mut seen = std::collections::BTreeSet::new();
        let mut highest = 0;
        for number in order {
            let expected = number + 64 > highest && seen.insert(number);
            prop_assert_eq!(primary.receive(ms(1), &datagrams[number]).is_some(), expected, "{}", number);
            highest = highest.max(number);
        }
    }
}
