//! A copy that executes nothing becomes what its primary is, at each checkpoint (H4).

use super::pair::Pair;
use super::*;
use crate::protocol::mode::Step;
use crate::replay::Entry;

impl Pair {
    /// Has it logged, and hands on all up to there but for entries that `keep` does not want; answers with where that is.
    fn log(&mut self, step: Step, mut keep: impl FnMut(&Entry) -> bool) -> ExitOrdinal {
        self.leader.handle.order(Order::Checkpoint(step));
        let done = self.hand_on(|entries| {
            entries.retain(|(_, entry)| keep(entry));
            true
        });
        match done {
            Some(FromVcpu::Checkpointed { step: done, outcome }) => {
                assert_eq!(done, step);
                outcome.expect("there is little to carry").0
            }
            other => panic!("{other:?}"),
        }
    }

    /// Where the copy says that it rests next; none if it follows instead.
    fn rests(&mut self) -> Option<ExitOrdinal> {
        loop {
            match self.follower.next() {
                FromVcpu::Rests { position } => return Some(position),
                FromVcpu::Follows => return None,
                FromVcpu::Ended(how) => panic!("{how:?}"),
                _ => {}
            }
        }
    }
}

#[test]
fn kvm_a_copy_becomes_each_checkpoint_and_follows_again() {
    if !has_kvm() {
        return;
    }
    let mut pair = Pair::of(150_000);
    for _ in 0..2 {
        let begun = pair.log(Step::Begin, |_| true);
        assert_eq!(pair.rests(), Some(begun));
        let mut last = begun;
        for _ in 0..3 {
            let at = pair.log(Step::Take, |entry| {
                assert!(
                    matches!(entry, Entry::Output { .. } | Entry::Repair(_) | Entry::Verify(_)),
                    "what enters is told to nobody: {}",
                    entry.name()
                );
                true
            });
            assert_eq!(pair.rests(), Some(at));
            assert!(at >= last);
            last = at;
        }
        let end = pair.log(Step::End, |_| true);
        assert_eq!(pair.rests(), Some(end));
        assert_eq!(pair.rests(), None, "it follows");
    }
    pair.end();
}

#[test]
fn kvm_a_copy_becomes_what_its_guest_was_at_its_end() {
    if !has_kvm() {
        return;
    }
    let mut pair = Pair::of(60_000);
    pair.log(Step::Begin, |_| true);
    pair.log(Step::Take, |_| true);
    pair.end();
}

#[test]
fn kvm_a_copy_goes_live_from_the_last_whole_checkpoint() {
    if !has_kvm() {
        return;
    }
    let mut pair = Pair::of(60_000);
    pair.log(Step::Begin, |_| true);
    let whole = pair.log(Step::Take, |_| true);
    // Of the next one all comes but the last pieces. The guest may be where it was.
    let mut partial = whole;
    while partial == whole {
        let mut pieces = 0;
        partial = pair.log(Step::Take, |entry| {
            pieces += u32::from(matches!(entry, Entry::Repair(_)));
            pieces < 5
        });
        assert!(pieces > 5, "{pieces}");
    }
    assert!(partial > whole);
    pair.feeder.give_up();
    let mut rested = Vec::new();
    while rested.len() < 3 {
        rested.extend(pair.rests());
    }
    assert_eq!(rested[1..], [whole, whole], "what is not whole is dropped");
    pair.room.open();
    pair.leader.handle.destroy();
    pair.feeder.end();
    let (shown, how) = pair.follower.ended();
    assert!(matches!(how, Ok((Outcome::PowerOff, _))), "{how:?}");
    assert!(!shown.is_empty(), "it goes on from there, and shows it");
}
