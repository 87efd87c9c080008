//! The roles of two copies turn round, and turn round again (P7).

use super::*;
use crate::replay::Entry;

/// Two copies in lockstep: what the first one logs, the second one executes.
struct Lockstep {
    leader: Copy,
    follower: Copy,
    feeder: Feeder,
    deframer: Deframer,
    /// What left, of whichever copy led.
    shown: Vec<u8>,
    pairings: u8,
}

/// What ended a wait.
#[derive(Debug)]
enum Came {
    Stand(ExitOrdinal),
    End(Result<(Outcome, ExitOrdinal), Ending>),
}

impl Lockstep {
    fn of(rounds: u64) -> Self {
        let leader = started(rounds);
        let (follower, feeder, deframer) = cloned(&leader, &Arc::default(), Checks::default());
        Self {
            leader,
            follower,
            feeder,
            deframer,
            shown: Vec::new(),
            pairings: 0,
        }
    }

    /// Hands on what is logged until the leader has logged so many frames, or tells of something else.
    fn run(&mut self, mut frames: u64) -> Option<Came> {
        while frames > 0 {
            match self.leader.next() {
                FromVcpu::Logged { seq, frame, .. } => {
                    self.feeder
                        .feed(seq, self.deframer.batch(&frame).expect("the frame is whole"));
                    frames -= 1;
                }
                FromVcpu::Output {
                    output: HeldOutput::Console(bytes),
                    ..
                } => self.shown.extend(bytes),
                FromVcpu::Stands { position } => return Some(Came::Stand(position)),
                FromVcpu::Ended(how) => return Some(Came::End(how)),
                _ => {}
            }
        }
        None
    }

    /// What the follower tells next, but for how far it is.
    fn follower_tells(&mut self) -> Came {
        loop {
            match self.follower.next() {
                FromVcpu::Stands { position } => return Came::Stand(position),
                FromVcpu::Ended(how) => return Came::End(how),
                FromVcpu::Output { seq, output } => panic!("a copy that follows shows {output:?} in {seq}"),
                _ => {}
            }
        }
    }

    /// Both stand still, at the same place.
    fn stand(&mut self) -> ExitOrdinal {
        self.leader.handle.order(Order::StandStill);
        let Some(Came::Stand(here)) = self.run(u64::MAX) else {
            panic!("the leader stands still")
        };
        match self.follower_tells() {
            Came::Stand(there) => assert_eq!(there, here),
            Came::End(how) => panic!("{how:?}"),
        }
        here
    }

    /// The roles turn round where both stand.
    fn turn(&mut self) {
        let position = self.stand();
        self.pairings += 1;
        let anchor = [b't', self.pairings];
        self.follower.handle.order(Order::Lead {
            anchor: anchor.to_vec(),
            room: Arc::default(),
            flushes_wait: false,
        });
        self.feeder = self.leader.handle.follow(position);
        self.deframer = Deframer::anchored_to(&anchor, position);
        std::mem::swap(&mut self.leader, &mut self.follower);
    }
}

/// All that the program writes.
fn bytes_of(rounds: u64) -> u64 {
    rounds + rounds / 16
}

#[test]
fn kvm_roles_turn_round_and_back_and_nothing_is_shown_twice_or_lost() {
    if !has_kvm() {
        return;
    }
    let rounds = 60_000;
    let mut lockstep = Lockstep::of(rounds);
    for _ in 0..5 {
        assert!(lockstep.run(20).is_none(), "it is far from its end");
        lockstep.turn();
    }
    let Some(Came::End(how)) = lockstep.run(u64::MAX) else {
        panic!("it ends")
    };
    assert!(matches!(how, Ok((Outcome::PowerOff, _))), "{how:?}");
    let Came::End(there) = lockstep.follower_tells() else {
        panic!("its copy ends too")
    };
    assert!(matches!(there, Ok((Outcome::PowerOff, _))), "{there:?}");
    assert_eq!(how.ok().map(|(_, at)| at), there.ok().map(|(_, at)| at));
    assert_eq!(lockstep.shown.len() as u64, bytes_of(rounds));
}

#[test]
fn kvm_a_primary_that_has_yielded_goes_live_again_where_the_log_ends() {
    if !has_kvm() {
        return;
    }
    let rounds = 60_000;
    let mut lockstep = Lockstep::of(rounds);
    assert!(lockstep.run(10).is_none());
    lockstep.turn();
    assert!(lockstep.run(25).is_none());
    // The site where it is live now is lost.
    lockstep.leader.handle.destroy();
    assert!(matches!(lockstep.leader.ended().1, Ok((Outcome::Stopped, _))));
    lockstep.feeder.end();
    let mut live = lockstep.follower;
    loop {
        match live.next() {
            FromVcpu::Live(_) => break,
            FromVcpu::Ended(how) => panic!("{how:?}"),
            _ => {}
        }
    }
    let (rest, how) = live.ended();
    assert!(matches!(how, Ok((Outcome::PowerOff, _))), "{how:?}");
    let all = lockstep.shown.len() as u64 + rest.len() as u64;
    // What the last frames had shown, their copy shows no more.
    assert!(
        all <= bytes_of(rounds) + 17 && all + 17 >= bytes_of(rounds),
        "{all}"
    );
}

#[test]
fn kvm_copies_that_stand_still_go_on_as_they_were() {
    if !has_kvm() {
        return;
    }
    let rounds = 40_000;
    let mut lockstep = Lockstep::of(rounds);
    for _ in 0..3 {
        assert!(lockstep.run(10).is_none());
        lockstep.stand();
        lockstep.leader.handle.order(Order::GoOn);
        lockstep.follower.handle.order(Order::GoOn);
    }
    // A copy that stands, and whose primary is lost there.
    lockstep.stand();
    lockstep.feeder.end();
    lockstep.follower.handle.order(Order::GoOn);
    lockstep.leader.handle.destroy();
    assert!(matches!(lockstep.leader.ended().1, Ok((Outcome::Stopped, _))));
    let (rest, how) = lockstep.follower.ended();
    assert!(matches!(how, Ok((Outcome::PowerOff, _))), "{how:?}");
    assert_eq!((lockstep.shown.len() + rest.len()) as u64, bytes_of(rounds));
}

#[test]
fn kvm_a_copy_that_differs_where_both_stand_is_found_out() {
    if !has_kvm() {
        return;
    }
    let mut lockstep = Lockstep::of(60_000);
    assert!(lockstep.run(10).is_none());
    lockstep.leader.handle.order(Order::StandStill);
    let mut changed = None;
    while changed.is_none() {
        match lockstep.leader.next() {
            FromVcpu::Logged { seq, frame, .. } => {
                let mut batch = lockstep.deframer.batch(&frame).expect("the frame is whole");
                for (_, entry) in &mut batch.entries {
                    if let Entry::Stand(digests) = entry {
                        digests.registers[1] ^= 1;
                        changed = Some(());
                    }
                }
                lockstep.feeder.feed(seq, batch);
            }
            FromVcpu::Ended(how) => panic!("{how:?}"),
            _ => {}
        }
    }
    let Came::End(Err(Ending::Diverged(why))) = lockstep.follower_tells() else {
        panic!("it is not the same machine")
    };
    assert!(why.contains("where both stand still, RBX was"), "{why}");
    lockstep.leader.handle.destroy();
    lockstep.leader.ended().1.expect("it is stopped");
}
