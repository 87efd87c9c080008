//! A copy that is led astray becomes the same again (H2).

use super::super::orders::Differs;
use super::pair::Pair;
use super::*;
use crate::base::units::PAGE_SIZE;
use crate::protocol::repair::Done;
use crate::replay::{Entry, OutputKind, RepairPiece};

impl Pair {
    /// Shows the copy another time than its primary saw, some frames from now, and answers with what it says then.
    fn lead_astray(&mut self) -> Box<Differs> {
        let mut frames = 0;
        let came = self.hand_on(|entries| {
            frames += 1;
            let time = entries.iter_mut().rev().find_map(|(_, entry)| match entry {
                Entry::TimeRead(time) | Entry::Expiry(time) => Some(time),
                _ => None,
            });
            match time {
                Some(time) if frames > 5 => {
                    *time = *time + std::time::Duration::from_millis(700);
                    false
                }
                _ => true,
            }
        });
        assert!(came.is_none(), "it is far from its end");
        self.room.set_used(usize::MAX / 2);
        // A byte agrees by chance once in a while, and a time may not show before the next one is read: frame by frame.
        loop {
            match self.follower.next() {
                FromVcpu::Differs(differs) => return differs,
                FromVcpu::Ended(how) => panic!("{how:?}"),
                FromVcpu::Consumed { seq } if seq == self.fed => {
                    self.room.set_used(0);
                    let came = self.hand_on(|_| false);
                    self.room.set_used(usize::MAX / 2);
                    assert!(came.is_none(), "it is far from its end");
                }
                _ => {}
            }
        }
    }

    fn ask(&self, differs: &Differs) {
        self.leader.handle.order(Order::Repair {
            number: differs.number,
            theirs: differs.touched.clone(),
        });
        self.room.set_used(0);
    }

    /// The copy becomes the same again.
    fn be_repaired(&mut self) -> Done {
        loop {
            match self.follower.next() {
                FromVcpu::Staged { .. } => {
                    self.follower.handle.order(Order::BeRepaired);
                }
                FromVcpu::Repaired(done) => return done,
                FromVcpu::Ended(how) => panic!("{how:?}"),
                _ => {}
            }
        }
    }
}

#[test]
fn kvm_a_copy_that_is_led_astray_becomes_the_same_again_as_often_as_that_is() {
    if !has_kvm() {
        return;
    }
    let mut pair = Pair::of(150_000);
    for number in 1..=4 {
        let differs = pair.lead_astray();
        assert_eq!(differs.number, number);
        assert!(differs.position > differs.touched.since);
        pair.ask(&differs);
        let Some(FromVcpu::Captured {
            outcome: Ok((position, bytes)),
            ..
        }) = pair.hand_on(|_| true)
        else {
            panic!("it is in the log");
        };
        let done = pair.be_repaired();
        assert_eq!(
            (done.number, done.position, done.byte_count),
            (number, position.get(), bytes)
        );
        assert!(position > differs.position);
    }
    pair.end();
}

#[test]
fn kvm_a_frame_that_a_repair_leaves_out_is_kept_by_its_digest() {
    if !has_kvm() {
        return;
    }
    let mut pair = Pair::of(150_000);
    let differs = pair.lead_astray();
    pair.ask(&differs);
    let (mut digest, at) = (0x77, differs.position);
    let came = pair.hand_on(|entries| {
        let kinds = [OutputKind::Frame, OutputKind::Console];
        let outputs = kinds.map(|kind| (at, Entry::Output { kind, digest }));
        entries.splice(0..0, outputs);
        // What the guest puts out after its repair is its own again.
        digest += 1;
        digest < 0x79
    });
    assert!(came.is_none(), "it is not in the log so soon");
    let Some(FromVcpu::Captured { outcome: Ok(_), .. }) = pair.hand_on(|_| true) else {
        panic!("it is in the log");
    };
    pair.be_repaired();
    let kept = pair.kept("frames");
    let record = |digest: u64| {
        let position = at.get().to_le_bytes();
        [&position[..], &[2], &8_u32.to_le_bytes(), &digest.to_le_bytes()].concat()
    };
    assert_eq!(kept[16..], [record(0x77), record(0x78)].concat());
    pair.end();
}

#[test]
fn kvm_in_what_a_copy_differed_is_kept_as_often_as_is_asked_for() {
    if !has_kvm() {
        return;
    }
    let mut pair = Pair::of(150_000);
    let mut first = None;
    for _ in 0..2 {
        let differs = pair.lead_astray();
        pair.ask(&differs);
        let Some(FromVcpu::Captured { outcome: Ok(_), .. }) = pair.hand_on(|_| true) else {
            panic!("it is in the log");
        };
        pair.be_repaired();
        // It is written while the copy goes on.
        while !pair.keeps("differences/1") {
            std::thread::yield_now();
        }
        first.get_or_insert(differs);
    }
    let first = first.expect("there were two");
    let text = String::from_utf8(pair.kept("differences/1/what.txt")).expect("it is text");
    assert!(
        text.starts_with(&format!("The copy differs at exit {}: ", first.position)),
        "{text}"
    );
    assert!(text.contains(&format!("\ncause: {}\n", first.cause)), "{text}");
    let registers = String::from_utf8(pair.kept("differences/1/vcpu.txt")).expect("it is text");
    assert!(registers.contains("rip"), "{registers}");
    let pages = pair.kept("differences/1/pages.bin");
    assert!(!pages.is_empty() && pages.len().is_multiple_of(8 + 2 * PAGE_SIZE));
    let (own, theirs) = pages[8..8 + 2 * PAGE_SIZE].split_at(PAGE_SIZE);
    assert_ne!(own, theirs);
    let address = format!(
        "{:#x}: ",
        u64::from_le_bytes(*pages.first_chunk().expect("it is there"))
    );
    assert!(text.contains(&address), "{text}");
    assert!(!pair.keeps("differences/2"), "one was asked for");
    pair.end();
}

#[test]
fn kvm_a_repair_that_is_not_whole_is_none() {
    if !has_kvm() {
        return;
    }
    let mut pair = Pair::of(150_000);
    let differs = pair.lead_astray();
    pair.ask(&differs);
    // The site where it is live is lost before the last piece has come.
    let came = pair.hand_on(|entries| {
        let end = |entry: &Entry| matches!(entry, Entry::Repair(RepairPiece::End { .. }));
        let before = entries.len();
        entries.retain(|(_, entry)| !end(entry));
        entries.len() == before
    });
    assert!(came.is_none());
    pair.feeder.give_up();
    let how = loop {
        match pair.follower.next() {
            FromVcpu::Ended(how) => break how,
            FromVcpu::Staged { .. } | FromVcpu::Repaired(_) => panic!("it is not whole"),
            _ => {}
        }
    };
    assert!(matches!(how, Err(Ending::Diverged(_))), "{how:?}");
    pair.leader.handle.destroy();
    pair.leader.ended().1.expect("it is stopped");
}

#[test]
fn kvm_a_repair_that_has_come_is_made_though_its_sender_is_lost() {
    if !has_kvm() {
        return;
    }
    let mut pair = Pair::of(150_000);
    let differs = pair.lead_astray();
    pair.ask(&differs);
    let Some(FromVcpu::Captured { outcome: Ok(_), .. }) = pair.hand_on(|_| true) else {
        panic!("it is in the log");
    };
    pair.leader.handle.destroy();
    pair.leader.ended().1.expect("it is stopped");
    pair.feeder.give_up();
    loop {
        match pair.follower.next() {
            FromVcpu::Staged { .. } => {
                pair.follower.handle.order(Order::BeRepaired);
            }
            FromVcpu::Repaired(_) => break,
            FromVcpu::Ended(how) => panic!("{how:?}"),
            _ => {}
        }
    }
    pair.feeder.end();
    let how = pair.follower.ended().1;
    assert!(matches!(how, Ok((Outcome::PowerOff, _))), "{how:?}");
}

#[test]
fn kvm_what_nobody_remembers_or_has_is_refused() {
    if !has_kvm() {
        return;
    }
    let mut pair = Pair::of(150_000);
    let differs = pair.lead_astray();
    let mut theirs = differs.touched.clone();
    theirs.since = ExitOrdinal::new(1);
    let mut elsewhere = differs.touched.clone();
    elsewhere.pages.insert(1 << 45);
    for (theirs, why) in [(theirs, "not known any more"), (elsewhere, "has no RAM")] {
        pair.leader.handle.order(Order::Repair { number: 1, theirs });
        pair.room.set_used(0);
        let Some(FromVcpu::Captured {
            outcome: Err(said), ..
        }) = pair.hand_on(|_| true)
        else {
            panic!("it is refused");
        };
        assert!(said.contains(why), "{said}");
    }
    pair.follower.handle.destroy();
    assert!(matches!(pair.follower.ended().1, Err(Ending::Diverged(_))));
    pair.leader.handle.destroy();
    pair.leader.ended().1.expect("it is stopped");
}
