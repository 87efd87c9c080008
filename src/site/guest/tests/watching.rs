//! Both copies begin to watch their disks at one position, and go on (D5).

use antipode_disk_sync::online::Slice;

use super::*;
use crate::machine::workers::Round;

/// What the copy watches next.
fn watched(copy: &mut Copy) -> Round {
    loop {
        match copy.next() {
            FromVcpu::Watches(round) => return round,
            FromVcpu::Ended(how) => panic!("{how:?}"),
            _ => {}
        }
    }
}

#[test]
fn kvm_both_copies_watch_at_one_place_and_go_on() {
    if !has_kvm() {
        return;
    }
    let mut primary = started(60_000);
    let (mut backup, feeder, mut deframer) = cloned(&primary, &Arc::default(), Checks::default());
    let slices =
        [(0, 1), (3, u64::MAX), (u64::MAX, 1 << 63)].map(|(extent, leaves)| Slice { extent, leaves });
    let mut here = Vec::new();
    for slice in slices {
        primary.handle.order(Order::Verify { slice });
        while here.last().is_none_or(|round: &Round| round.slice != slice) {
            match primary.next() {
                FromVcpu::Logged { seq, frame, .. } => {
                    feeder.feed(seq, deframer.batch(&frame).expect("the frame is whole"));
                }
                FromVcpu::Watches(round) => here.push(round),
                FromVcpu::Ended(how) => panic!("{how:?}"),
                _ => {}
            }
        }
    }
    let how = loop {
        match primary.next() {
            FromVcpu::Logged { seq, frame, .. } => {
                feeder.feed(seq, deframer.batch(&frame).expect("the frame is whole"));
            }
            FromVcpu::Ended(how) => break how,
            _ => {}
        }
    };
    let there: Vec<Round> = slices.iter().map(|_| watched(&mut backup)).collect();
    assert_eq!(here, there);
    assert!(here.is_sorted_by_key(|round| round.at), "{here:?}");
    let (shown, there) = backup.ended();
    assert_eq!(shown, b"");
    assert!(matches!(how, Ok((Outcome::PowerOff, _))), "{how:?}");
    assert_eq!(how.ok().map(|(_, at)| at), there.ok().map(|(_, at)| at));
}

#[test]
fn kvm_a_copy_that_does_not_lead_watches_nothing_by_order() {
    if !has_kvm() {
        return;
    }
    let alone = started(20_000);
    alone.handle.order(Order::Verify {
        slice: Slice { extent: 0, leaves: 1 },
    });
    let mut alone = alone;
    loop {
        match alone.next() {
            FromVcpu::Watches(round) => panic!("{round:?}"),
            FromVcpu::Ended(how) => {
                assert!(matches!(how, Ok((Outcome::PowerOff, _))), "{how:?}");
                break;
            }
            _ => {}
        }
    }
}
