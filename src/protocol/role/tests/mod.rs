//! Orders of effects, one story each. What holds whatever happens is the simulation's.

mod flushes;
mod numbers;
mod operations;
mod switchover;

use antipode_tiebreaker::{Answer, Generation, Operation, Request, RequestId, decide};

use super::*;
use crate::protocol::detector::{Heard, Suspicion, Waits};
use crate::protocol::limits::{ALONE_GAP_MAX, COLD_START_GRACE, FAILURE_TIMEOUT_FLOOR, PAIR_PATIENCE};

const PAIRING: PairingId = PairingId(77);

/// A role, a tiebreaker that answers when it is told to, and a clock.
struct Story {
    role: Role,
    record: Option<Record>,
    now: Moment,
    done: Vec<Effect>,
}

fn settings(own: &str, peer: &str) -> Settings {
    Settings {
        own: own.parse().unwrap(),
        peer: peer.parse().unwrap(),
        boot: Boot(5),
        failure_timeout_floor: FAILURE_TIMEOUT_FLOOR,
    }
}

impl Story {
    fn of(own: &str, peer: &str, record: Option<Record>) -> Self {
        let now = Moment::from_nanos(1_000_000_000);
        Self {
            role: Role::new(now, settings(own, peer), Notes::default()),
            record,
            now,
            done: Vec::new(),
        }
    }

    /// Site a, alone.
    fn alone() -> Self {
        let mut story = Self::of("a", "b", None);
        story.tell(Event::Command(Command::Start {
            replica: Replica::Clean,
        }));
        story.read();
        story.answer();
        assert_eq!(story.role.phase(), Phase::Alone);
        story.done.clear();
        story
    }

    /// Site a, with `pair` asked.
    fn pairing() -> Self {
        Self::pairing_of(Flush::Site)
    }

    /// The same, of a VM whose flushes the operator wants as `flush`.
    fn pairing_of(flush: Flush) -> Self {
        let mut story = Self::alone();
        story.record.as_mut().unwrap().settings.flush = flush;
        story.tell(Event::Command(Command::Protect { pairing: PAIRING }));
        story.tell(Event::DiskInSync);
        story.tell(Event::RamInSync);
        story.read();
        story.tell(Event::PeerReady);
        assert_eq!(story.role.phase(), Phase::Pairing);
        story
    }

    /// Site a as primary.
    fn primary() -> Self {
        let mut story = Self::pairing();
        story.answer();
        assert_eq!(story.role.phase(), Phase::Primary);
        story.done.clear();
        story
    }

    /// Site b as a candidate of a pairing that the record has, or has not.
    fn candidate(paired: bool) -> Self {
        let primary = if paired { Self::primary() } else { Self::alone() };
        let generation = primary.role.generation();
        let mut story = Self::of("b", "a", primary.record);
        let pairing = PAIRING;
        story.tell(Event::Command(Command::Join { pairing, generation }));
        story.tell(Event::Joined);
        assert_eq!(story.role.phase(), Phase::Candidate);
        story.done.clear();
        story
    }

    /// Site b as backup.
    fn backup() -> Self {
        let mut story = Self::candidate(true);
        let generation = story.record.as_ref().unwrap().generation;
        story.tell(Event::PeerSaid(Word::Confirmed {
            pairing: PAIRING,
            generation,
            sender_preferred: true,
            flush: Flush::Site,
        }));
        assert_eq!(story.role.phase(), Phase::Backup);
        story.done.clear();
        story
    }

    fn tell(&mut self, event: Event) {
        let mut effects = self.role.step(self.now, event);
        effects.retain(|effect| *effect != Effect::Report);
        self.done.extend(effects);
    }

    /// Time passes in ticks of a heartbeat interval, in silence.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = end.min(self.now + self.role.heartbeat_interval());
            self.tell(Event::Tick(Gauges::default()));
        }
    }

    /// The same, with the other site's heartbeats.
    fn pass_hearing(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = end.min(self.now + self.role.heartbeat_interval());
            self.tell(Event::PeerHeard(Heard::default()));
            self.tell(Event::Tick(Gauges::default()));
        }
    }

    /// A tick later the other site is heard, and something has waited for it.
    fn hear_while(&mut self, waits: Waits) {
        self.now = self.now + Duration::from_millis(37);
        self.tell(Event::PeerHeard(Heard::default()));
        self.tell(Event::Tick(Gauges {
            waits,
            ..Gauges::default()
        }));
    }

    /// What waits for its answer is what was asked last, though what was done is forgotten.
    fn recall_asked(&mut self) {
        let ask = self.role.asked.as_ref().unwrap().ask.clone();
        self.done.push(Effect::AskTiebreaker(ask));
    }

    fn asked(&self) -> Ask {
        let asked = self.done.iter().rev().find_map(|effect| match effect {
            Effect::AskTiebreaker(ask) => Some(ask.clone()),
            _ => None,
        });
        asked.expect("something was asked")
    }

    /// The tiebreaker decides about what was asked last, as if `by` had asked.
    fn decide(&mut self, by: &str, ask: &Ask) -> Answer {
        let caller = antipode_certs::Identity::from_uri(&format!("antipode://site/{by}")).unwrap();
        let request = Request {
            id: ask.id,
            expected: ask.expected,
            operation: ask.operation.clone(),
            at_unix_seconds: 0,
        };
        let outcome = decide(self.record.take(), &request, &caller);
        self.record = outcome.record;
        outcome.answer
    }

    fn answer(&mut self) {
        let ask = self.asked();
        let own = self.role.settings.own.to_string();
        let answer = self.decide(&own, &ask);
        self.tell(Event::Answered {
            id: ask.id,
            answer: Some(Box::new(answer)),
        });
    }

    fn no_answer(&mut self) {
        let id = self.asked().id;
        self.tell(Event::Answered { id, answer: None });
    }

    fn read(&mut self) {
        let read = self.done.iter().rev().find_map(|effect| match effect {
            Effect::ReadRecord(read) => Some(*read),
            _ => None,
        });
        self.tell(Event::RecordRead {
            read: read.expect("something is read"),
            record: Some(self.record.clone().map(Box::new)),
        });
    }

    /// The other site's claim is granted.
    fn taken_by(&mut self, by: &str) {
        let claim = Ask {
            id: RequestId(1_000),
            expected: self.record.as_ref().unwrap().generation,
            operation: Operation::Claim {
                pairing: PAIRING,
                boot: Boot(9),
            },
        };
        assert_eq!(self.decide(by, &claim).verdict, Ok(()));
    }

    fn replayed(&mut self, position: u64, agrees: bool) {
        let replay = self.done.iter().rev().find_map(|effect| match effect {
            Effect::ReplayToEnd(replay) => Some(*replay),
            _ => None,
        });
        self.tell(Event::ReplayReachedEnd {
            replay: replay.expect("a replay is asked for"),
            position: ExitOrdinal::new(position),
            agrees,
        });
    }

    fn durable(&mut self, position: u64) {
        let position = ExitOrdinal::new(position);
        self.tell(Event::ReplicaDurable { position });
    }

    fn acked(&mut self, received: u64) {
        self.tell(Event::Acked(Acknowledged {
            received: LogSeq::new(received),
            ..Acknowledged::default()
        }));
    }

    /// The other site's disk has all up to that exit.
    fn acked_durable(&mut self, exit: u64) {
        let durable = ExitOrdinal::new(exit);
        self.tell(Event::Acked(Acknowledged {
            replayed: durable,
            durable,
            ..Acknowledged::default()
        }));
    }

    /// The names of the effects since the last call.
    fn effects(&mut self) -> Vec<String> {
        self.done.drain(..).map(|effect| short(&effect)).collect()
    }
}

fn short(effect: &Effect) -> String {
    match effect {
        Effect::AskTiebreaker(ask) => format!("ask {} {}", ask.id.0, ask.operation.name()),
        Effect::ReleaseThrough(seq) => format!("release {}", seq.get()),
        Effect::ReleaseFlushes(exit) => format!("flushed {}", exit.get()),
        Effect::Tell(word) => {
            let word = format!("{word:?}");
            format!("tell {}", word.split(' ').next().unwrap())
        }
        other => {
            let name = format!("{other:?}");
            name.split(['(', ' ']).next().unwrap().to_owned()
        }
    }
}

#[test]
fn protecting_goes_through_its_phases_and_shows_nothing_before_it_is_confirmed() {
    let mut story = Story::alone();
    story.tell(Event::Command(Command::Protect { pairing: PAIRING }));
    story.tell(Event::DiskInSync);
    story.tell(Event::RamInSync);
    assert_eq!(story.effects(), ["BeginDiskSync", "BeginRamCopy", "ReadRecord"]);
    story.done.push(Effect::ReadRecord(story.role.reads));
    story.read();
    story.tell(Event::PeerReady);
    assert_eq!(
        story.effects()[1..],
        ["HoldOutputs", "Stun", "BeginLockstep", "Persist", "ask 2 pair"]
    );
    story.acked(3);
    assert_eq!(story.effects(), [""; 0], "acknowledged, but not confirmed");
    story.recall_asked();
    story.answer();
    assert_eq!(story.effects()[1..], ["tell Confirmed", "release 3"]);
    story.acked(4);
    story.acked(4);
    assert_eq!(story.effects(), ["release 4"]);
}

#[test]
fn a_reading_that_is_not_fresh_does_not_allow_the_stun() {
    let mut story = Story::alone();
    story.tell(Event::Command(Command::Protect { pairing: PAIRING }));
    story.tell(Event::DiskInSync);
    story.tell(Event::RamInSync);
    let first = story.role.reads;
    story.pass(Duration::from_millis(1100));
    story.done.push(Effect::ReadRecord(first));
    story.read();
    assert_eq!(story.role.phase(), Phase::Cloning);
    story.pass(Duration::from_millis(150));
    story.read();
    assert_eq!(story.role.phase(), Phase::Stunned);
}

#[test]
fn a_guest_stands_still_for_no_long_and_for_no_site_that_is_lost() {
    let stunned = || {
        let mut story = Story::alone();
        story.tell(Event::Command(Command::Protect { pairing: PAIRING }));
        story.tell(Event::DiskInSync);
        story.tell(Event::RamInSync);
        story.read();
        assert_eq!(story.role.phase(), Phase::Stunned);
        story.done.clear();
        story
    };
    let mut lost = stunned();
    lost.pass_hearing(Duration::from_millis(900));
    lost.pass(Duration::from_millis(900));
    assert_eq!(lost.effects(), [""; 0]);
    lost.pass(Duration::from_millis(200));
    assert_eq!(lost.effects(), ["AbortTransfer", "OpenOutputs"]);
    assert_eq!(lost.role.view().cause, Some(Cause::PeerLost(Suspicion::Silence)));
    let mut slow = stunned();
    slow.pass_hearing(Duration::from_millis(4_900));
    assert_eq!(slow.role.phase(), Phase::Stunned);
    slow.pass_hearing(Duration::from_millis(200));
    assert_eq!(slow.role.view().cause, Some(Cause::StunTooLong));
}

#[test]
fn a_pairing_is_taken_back_before_outputs_open() {
    let mut story = Story::pairing();
    story.done.clear();
    story.tell(Event::Command(Command::Unprotect));
    assert_eq!(
        story.effects(),
        ["tell Left", "CloseChannel", "Persist", "ask 3 cancel_pair"]
    );
    story.acked(9);
    story.recall_asked();
    story.answer();
    assert_eq!(story.effects()[1..], ["OpenOutputs"]);
    assert_eq!(story.role.phase(), Phase::Alone);
}

#[test]
fn a_pairing_that_was_granted_before_it_was_taken_back_is_claimed() {
    let mut story = Story::pairing();
    let pair = story.asked();
    story.decide("a", &pair);
    story.pass(Duration::from_millis(400));
    assert_eq!(story.role.phase(), Phase::Cancelling);
    story.answer();
    assert_eq!(story.role.phase(), Phase::Claiming(Side::Primary));
    story.answer();
    assert_eq!(story.role.phase(), Phase::Alone);
    assert_eq!(story.done.last(), Some(&Effect::OpenOutputs));
}

#[test]
fn before_the_pairing_was_asked_for_there_is_nothing_to_take_back() {
    let mut story = Story::alone();
    story.tell(Event::Command(Command::Protect { pairing: PAIRING }));
    story.tell(Event::DiskInSync);
    story.tell(Event::RamInSync);
    story.read();
    story.done.clear();
    // The other site's word says that it failed; the transfer says what did.
    story.tell(Event::PeerSaid(Word::Left {
        pairing: PAIRING,
        why: Leaving::TransferFailed,
    }));
    assert_eq!(story.effects(), [""; 0]);
    story.tell(Event::TransferFailed);
    assert_eq!(story.effects(), ["AbortTransfer", "OpenOutputs"]);
    assert_eq!(story.role.view().cause, Some(Cause::TransferFailed));
}

#[test]
fn an_unanswered_request_is_sent_again_with_its_number_and_nothing_is_guessed() {
    let mut story = Story::pairing();
    story.done.clear();
    for _ in 0..3 {
        story.pass_hearing(Duration::from_millis(200));
        story.recall_asked();
        story.no_answer();
    }
    let names = story.effects();
    assert!(names.iter().all(|name| name == "ask 2 pair"), "{names:?}");
    assert_eq!(story.role.view().role, PhaseName::Frozen);
    assert_eq!(story.role.view().cause, Some(Cause::TiebreakerSilent));
}

#[test]
fn an_unanswered_pairing_may_be_renounced_and_then_the_vm_goes_on() {
    let mut story = Story::pairing();
    story.no_answer();
    story.pass_hearing(PAIR_PATIENCE);
    assert!(
        story
            .done
            .contains(&Effect::Tell(Word::PleaseRenounce { pairing: PAIRING }))
    );
    story.done.clear();
    story.tell(Event::PeerSaid(Word::Renounced { pairing: PAIRING }));
    assert_eq!(
        story.effects(),
        ["CloseChannel", "Persist", "ask 3 cancel_pair", "OpenOutputs"]
    );
    assert_eq!(story.role.phase(), Phase::Settling);
}

#[test]
fn a_backup_renounces_durably_before_it_says_so() {
    let mut story = Story::candidate(false);
    story.tell(Event::PeerSaid(Word::PleaseRenounce { pairing: PAIRING }));
    assert_eq!(
        story.effects(),
        [
            "Persist",
            "DiscardOutputs",
            "CloseChannel",
            "DestroyVm",
            "MarkStale",
            "tell Renounced"
        ]
    );
    story.tell(Event::PeerSaid(Word::PleaseRenounce { pairing: PAIRING }));
    assert_eq!(story.effects(), ["tell Renounced"]);
}

#[test]
fn a_site_whose_claim_may_yet_be_granted_does_not_renounce() {
    let claim = Ask {
        id: RequestId(8),
        expected: Generation(2),
        operation: Operation::Claim {
            pairing: PAIRING,
            boot: Boot(1),
        },
    };
    let notes = Notes {
        last_request: 8,
        asked: Some(claim),
        renounced: None,
    };
    let now = Moment::from_nanos(1);
    let mut role = Role::new(now, settings("b", "a"), notes);
    let effects = role.step(now, Event::PeerSaid(Word::PleaseRenounce { pairing: PAIRING }));
    assert_eq!(effects, []);
    let mut confirmed = Story::backup();
    confirmed.tell(Event::PeerSaid(Word::PleaseRenounce { pairing: PAIRING }));
    assert_eq!(confirmed.effects(), [""; 0]);
}

#[test]
fn a_backup_replays_and_makes_durable_in_the_timeout_and_goes_live_by_a_grant() {
    let mut story = Story::backup();
    story.pass(Duration::from_millis(160));
    assert_eq!(story.effects(), ["ReplayToEnd"]);
    story.done.push(Effect::ReplayToEnd(story.role.backup_replay()));
    story.replayed(40, true);
    story.durable(40);
    assert_eq!(story.effects()[1..], ["MakeDurable"]);
    story.pass(Duration::from_millis(150));
    assert_eq!(story.effects(), [""; 0], "the primary has the head start");
    story.pass(Duration::from_millis(60));
    assert_eq!(story.effects(), ["CloseChannel", "ReplayToEnd"]);
    story.done.push(Effect::ReplayToEnd(story.role.backup_replay()));
    story.replayed(40, true);
    assert_eq!(story.effects()[1..], ["Persist", "ask 1 claim"]);
    story.recall_asked();
    story.answer();
    assert_eq!(story.effects()[1..], ["GoLive", "OpenOutputs", "Announce"]);
    assert_eq!(story.role.view().role, PhaseName::Solo);
}

#[test]
fn what_came_in_after_the_preparation_is_made_durable_too() {
    let mut story = Story::backup();
    story.pass(Duration::from_millis(160));
    story.replayed(40, true);
    story.durable(40);
    let early = story.role.backup_replay();
    story.pass(Duration::from_millis(210));
    story.done.clear();
    story.tell(Event::ReplayReachedEnd {
        replay: early,
        position: ExitOrdinal::new(40),
        agrees: true,
    });
    assert_eq!(story.effects(), [""; 0], "an old answer says nothing of the rest");
    story.done.push(Effect::ReplayToEnd(story.role.backup_replay()));
    story.replayed(44, true);
    assert_eq!(story.effects()[1..], ["MakeDurable"]);
    story.durable(44);
    assert_eq!(story.effects(), ["Persist", "ask 1 claim"]);
}

#[test]
fn a_primary_that_is_heard_again_goes_on() {
    let mut story = Story::backup();
    story.pass(Duration::from_millis(200));
    assert_eq!(story.role.phase(), Phase::Suspecting(Side::Backup));
    story.pass_hearing(Duration::from_millis(50));
    assert_eq!(story.role.phase(), Phase::Backup);
}

#[test]
fn a_candidate_claims_only_what_was_confirmed() {
    for (paired, phase) in [(true, Phase::Claiming(Side::Backup)), (false, Phase::Stale)] {
        let mut story = Story::candidate(paired);
        story.pass(Duration::from_millis(400));
        story.replayed(1, true);
        story.durable(1);
        story.read();
        assert_eq!(story.role.phase(), phase);
    }
}

#[test]
fn a_copy_that_differs_or_cannot_be_written_never_claims() {
    let mut diverged = Story::backup();
    diverged.tell(Event::ReplayDiverged);
    let expected = [
        "MarkStale",
        "tell Left",
        "CloseChannel",
        "DiscardOutputs",
        "DestroyVm",
    ];
    assert_eq!(diverged.effects(), expected);
    let mut late = Story::backup();
    late.pass(Duration::from_millis(400));
    late.replayed(1, false);
    assert_eq!(late.role.phase(), Phase::Stale);
    let mut failed = Story::backup();
    failed.tell(Event::ReplicaFailed);
    assert_eq!(failed.effects(), expected);
}

#[test]
fn a_primary_claims_when_its_backup_leaves_and_opens_when_it_is_granted() {
    let mut story = Story::primary();
    let why = Leaving::Diverged;
    story.tell(Event::PeerSaid(Word::Left {
        pairing: PAIRING,
        why,
    }));
    assert_eq!(story.effects(), ["CloseChannel", "Persist", "ask 3 claim"]);
    story.acked(9);
    story.recall_asked();
    story.answer();
    assert_eq!(story.effects()[1..], ["OpenOutputs"]);
    assert_eq!(story.role.view().cause, Some(Cause::PeerLeft(why)));
    assert!(!story.role.view().green);
}

#[test]
fn a_primary_that_loses_ends_its_vm() {
    let mut story = Story::primary();
    story.pass(Duration::from_millis(400));
    story.taken_by("b");
    story.answer();
    let names = story.effects();
    assert_eq!(
        names[names.len() - 3..],
        ["DiscardOutputs", "DestroyVm", "MarkStale"]
    );
    assert_eq!(story.role.view().cause, Some(Cause::Lost));
}

#[test]
fn a_sick_backup_is_suspected_though_it_is_heard() {
    let mut story = Story::primary();
    let waits = Waits {
        output_since: Some(story.now),
        flush_since: None,
    };
    for _ in 0..20 {
        story.hear_while(waits);
    }
    assert_eq!(story.asked().operation.name(), "claim");
    assert_eq!(
        story.role.view().cause,
        Some(Cause::PeerLost(Suspicion::AckTimeout))
    );
}

#[test]
fn a_primary_that_slept_shows_nothing_until_it_is_confirmed() {
    let logged = |seq| {
        Event::Tick(Gauges {
            logged: LogSeq::new(seq),
            ..Gauges::default()
        })
    };
    let mut story = Story::primary();
    story.acked(5);
    story.done.clear();
    story.now = story.now + Duration::from_secs(60);
    story.tell(logged(6));
    assert_eq!(story.effects(), ["HoldOutputs", "ReadRecord"]);
    story.acked(6);
    assert_eq!(story.effects(), [""; 0]);
    story.acked(7);
    assert_eq!(story.effects(), ["release 7"]);

    // Frame 6 was logged after the last gauge and before the sleep.
    let mut replaced = Story::primary();
    replaced.tell(logged(5));
    replaced.taken_by("b");
    replaced.now = replaced.now + Duration::from_secs(60);
    replaced.acked(6);
    replaced.tell(logged(6));
    replaced.acked(6);
    assert_eq!(
        replaced.done,
        [Effect::HoldOutputs, Effect::ReadRecord(replaced.role.reads)],
        "what was acknowledged may have been so before the sleep"
    );
    replaced.read();
    assert_eq!(replaced.role.phase(), Phase::Stale);
}

#[test]
fn a_solo_site_that_slept_opens_when_the_record_still_names_it() {
    let mut story = Story::alone();
    story.now = story.now + ALONE_GAP_MAX + Duration::from_millis(1);
    story.tell(Event::Tick(Gauges::default()));
    assert_eq!(story.effects(), ["HoldOutputs", "ReadRecord"]);
    assert!(!story.role.view().green);
    story.done.push(Effect::ReadRecord(story.role.reads));
    story.read();
    assert_eq!(story.effects()[1..], ["OpenOutputs"]);
}

#[test]
fn an_answer_from_before_a_sleep_does_not_count() {
    let mut story = Story::backup();
    story.pass(Duration::from_millis(400));
    story.replayed(1, true);
    story.durable(1);
    let claim = story.asked();
    let granted = story.decide("b", &claim);
    story.done.clear();
    story.now = story.now + Duration::from_secs(60);
    story.tell(Event::Answered {
        id: claim.id,
        answer: Some(Box::new(granted)),
    });
    assert_eq!(story.effects(), ["Persist", "ask 2 claim"]);
    story.recall_asked();
    story.answer();
    assert_eq!(
        story.effects()[1..],
        ["GoLive", "OpenOutputs", "Announce"],
        "the record says that the first one was granted"
    );
}

#[test]
fn with_neither_peer_nor_tiebreaker_nothing_leaves_and_the_question_stays() {
    for mut story in [Story::primary(), Story::backup()] {
        story.acked(3);
        story.pass(Duration::from_millis(500));
        if story.role.phase() == Phase::Closing {
            story.replayed(1, true);
            story.durable(1);
        }
        let first = story.asked();
        story.done.clear();
        for _ in 0..50 {
            story.tell(Event::Answered {
                id: first.id,
                answer: None,
            });
            story.pass(Duration::from_millis(200));
        }
        assert_eq!(story.role.view().role, PhaseName::Frozen);
        assert!(story.done.len() >= 49, "it is asked again");
        let again = Effect::AskTiebreaker(first);
        assert!(
            story.done.iter().all(|effect| *effect == again),
            "{:?}",
            story.done
        );
    }
}

#[test]
fn the_preferred_site_claims_first() {
    let mut waits = Vec::new();
    for primary_preferred in [true, false] {
        let mut story = Story::candidate(true);
        let generation = story.record.as_ref().unwrap().generation;
        story.tell(Event::PeerSaid(Word::Confirmed {
            pairing: PAIRING,
            generation,
            sender_preferred: primary_preferred,
            flush: Flush::Site,
        }));
        let lost_at = story.now;
        while story.role.phase() != Phase::Closing {
            story.pass(Duration::from_millis(1));
        }
        waits.push(story.now.saturating_since(lost_at));
    }
    let [after_primary, first] = waits[..] else {
        unreachable!()
    };
    assert!(first < Duration::from_millis(305), "{first:?}");
    assert_eq!(after_primary - first, Duration::from_millis(50));
}
