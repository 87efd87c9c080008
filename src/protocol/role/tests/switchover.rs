//! The roles turn round: by command, to the end, or not after all.

use antipode_tiebreaker::State;

use super::*;
use crate::protocol::limits::{POISED_PATIENCE, YIELDING_PATIENCE};

const TURNED: PairingId = PairingId(78);

fn at(exit: u64) -> ExitOrdinal {
    ExitOrdinal::new(exit)
}

impl Story {
    fn stood(&mut self, exit: u64, logged: u64) {
        self.tell(Event::StoodStill {
            position: at(exit),
            logged: LogSeq::new(logged),
        });
    }

    fn said(&mut self, word: Word) {
        self.tell(Event::PeerSaid(word));
    }

    /// Site a, whose guest stands still at exit 50.
    fn yielding() -> Self {
        let mut story = Self::primary();
        story.tell(Event::Command(Command::SwitchOver { turned: TURNED }));
        story.read();
        story.stood(50, 3);
        assert_eq!(story.role.phase(), Phase::Yielding);
        story
    }

    /// Site a, with `swap` asked.
    fn swapping() -> Self {
        let mut story = Self::yielding();
        story.acked(3);
        story.said(POISED);
        assert_eq!(story.role.phase(), Phase::Swapping);
        story
    }

    /// Site b, which has confirmed.
    fn poised() -> Self {
        let mut story = Self::backup();
        story.said(TURNING);
        story.stood(50, 0);
        story.durable(50);
        assert_eq!(story.role.phase(), Phase::Poised);
        story
    }

    /// Site a's `swap` is granted.
    fn swap(&mut self) {
        let swap = Ask {
            id: RequestId(1_000),
            expected: self.record.as_ref().unwrap().generation,
            operation: Operation::Swap {
                pairing: PAIRING,
                turned: TURNED,
            },
        };
        assert_eq!(self.decide("a", &swap).verdict, Ok(()));
    }
}

const TURNING: Word = Word::Turning {
    pairing: PAIRING,
    turned: TURNED,
    position: ExitOrdinal::new(50),
};
const POISED: Word = Word::Poised {
    pairing: PAIRING,
    position: ExitOrdinal::new(50),
};

#[test]
fn a_primary_yields_when_all_is_acknowledged_and_follows_when_it_is_granted() {
    let mut story = Story::primary();
    story.tell(Event::Command(Command::SwitchOver { turned: TURNED }));
    assert_eq!(story.effects(), ["ReadRecord"], "the guest runs on meanwhile");
    story.done.push(Effect::ReadRecord(story.role.reads));
    story.read();
    story.stood(50, 3);
    assert_eq!(story.effects()[1..], ["StandStill", "tell Turning"]);
    story.said(POISED);
    assert_eq!(story.effects(), [""; 0], "an output could not leave any more");
    story.acked(3);
    story.said(POISED);
    assert_eq!(
        story.effects(),
        [
            "release 3",
            "HoldOutputs",
            "ExpectTurned",
            "Persist",
            "ask 3 swap"
        ]
    );
    story.recall_asked();
    story.no_answer();
    story.pass(Duration::from_millis(2_000));
    assert_eq!(story.role.phase(), Phase::Swapping, "nothing is guessed");
    assert_eq!(story.role.view().role, PhaseName::Frozen);
    assert_eq!(story.asked().id, RequestId(3));
    story.effects();
    story.recall_asked();
    story.answer();
    assert_eq!(story.effects()[1..], ["tell Turned", "DiscardOutputs", "Follow"]);
    assert_eq!(
        (story.role.phase(), story.role.pairing()),
        (Phase::Backup, Some(TURNED))
    );
    assert!(story.role.view().green);
}

#[test]
fn a_backup_is_poised_where_the_primary_stands_and_leads_when_it_is_told() {
    let mut story = Story::backup();
    story.said(TURNING);
    story.durable(50);
    assert_eq!(story.effects(), [""; 0], "its copy is not there yet");
    story.stood(50, 0);
    story.durable(50);
    assert_eq!(story.effects(), ["ExpectTurned", "tell Poised"]);
    story.said(TURNING);
    assert_eq!(story.effects(), ["tell Poised"], "the word may have been lost");
    story.swap();
    story.said(Word::Turned {
        pairing: PAIRING,
        generation: story.record.as_ref().unwrap().generation,
        sender_preferred: false,
    });
    assert_eq!(story.effects(), ["Lead", "tell Confirmed"]);
    assert_eq!(
        (story.role.phase(), story.role.pairing()),
        (Phase::Primary, Some(TURNED))
    );
    story.acked(2);
    assert_eq!(story.effects(), ["release 2"]);
}

#[test]
fn roles_that_have_turned_round_turn_back() {
    let mut story = Story::swapping();
    story.answer();
    story.done.clear();
    let turning = Word::Turning {
        pairing: TURNED,
        turned: PAIRING,
        position: at(90),
    };
    story.said(turning);
    story.stood(90, 0);
    story.durable(90);
    assert_eq!(
        story.effects(),
        ["MakeDurable", "ExpectTurned", "tell Poised"],
        "what it was as a primary is forgotten"
    );
}

#[test]
fn a_poised_backup_that_hears_of_its_primary_no_more_claims_whichever_pairing_there_is() {
    for is_swapped in [false, true] {
        let mut story = Story::poised();
        if is_swapped {
            story.swap();
        }
        story.pass(Duration::from_millis(400));
        story.replayed(50, true);
        story.durable(50);
        let claim = story.asked();
        let Operation::Claim { pairing, .. } = claim.operation else {
            panic!("{claim:?}");
        };
        assert_eq!(pairing, PAIRING);
        story.answer();
        if is_swapped {
            let claim = story.asked();
            assert!(matches!(
                claim.operation,
                Operation::Claim { pairing: TURNED, .. }
            ));
            story.answer();
        }
        assert_eq!(story.role.phase(), Phase::Alone);
        assert!(story.done.contains(&Effect::GoLive));
    }
}

#[test]
fn a_poised_backup_learns_of_a_lost_word_from_the_record() {
    let mut story = Story::poised();
    story.pass_hearing(Duration::from_millis(200));
    story.read();
    assert_eq!(story.role.phase(), Phase::Poised);
    story.swap();
    story.pass_hearing(Duration::from_millis(200));
    story.read();
    assert_eq!(story.role.phase(), Phase::Primary);
    assert!(
        story
            .done
            .iter()
            .any(|effect| matches!(effect, Effect::Lead(TURNED, _)))
    );
}

#[test]
fn a_poised_backup_that_slept_believes_the_record_alone() {
    let mut story = Story::poised();
    story.swap();
    let generation = story.record.as_ref().unwrap().generation;
    let before = story.role.reads;
    story.now = story.now + Duration::from_millis(900);
    story.done.clear();
    story.said(Word::Turned {
        pairing: PAIRING,
        generation,
        sender_preferred: false,
    });
    assert_eq!(story.effects(), ["ReadRecord"]);
    story.tell(Event::RecordRead {
        read: before,
        record: Some(story.record.clone().map(Box::new)),
    });
    assert_eq!(story.role.phase(), Phase::Poised, "that is as old as the sleep");
    story.done.push(Effect::ReadRecord(story.role.reads));
    story.read();
    assert_eq!(story.role.phase(), Phase::Primary);
}

#[test]
fn a_poised_backup_whose_primary_is_not_told_the_outcome_claims() {
    let mut story = Story::poised();
    let mut patience = POISED_PATIENCE;
    while story.role.phase() == Phase::Poised && !patience.is_zero() {
        story.pass_hearing(Duration::from_millis(250));
        story.read();
        patience = patience.saturating_sub(Duration::from_millis(200));
    }
    assert_eq!(story.role.phase(), Phase::Closing);
    assert_eq!(story.role.view().cause, Some(Cause::SwapUnknown));
}

#[test]
fn a_primary_whose_swap_came_too_late_ends_its_vm() {
    let mut story = Story::swapping();
    story.taken_by("b");
    story.answer();
    assert_eq!(story.role.phase(), Phase::Stale);
    assert!(story.done.contains(&Effect::MarkStale));
}

#[test]
fn a_backup_that_leads_says_so_before_the_tiebreaker_does() {
    let mut story = Story::swapping();
    story.done.clear();
    let swap = story.role.asked.as_ref().unwrap().ask.clone();
    let answer = story.decide("a", &swap);
    story.said(Word::Confirmed {
        pairing: TURNED,
        generation: answer.generation,
        sender_preferred: true,
        flush: Flush::Site,
    });
    assert_eq!(story.role.phase(), Phase::Backup);
    story.done.clear();
    story.tell(Event::Answered {
        id: swap.id,
        answer: Some(Box::new(answer)),
    });
    assert_eq!(story.effects(), [""; 0], "it was known");
}

#[test]
fn until_it_is_asked_for_a_primary_goes_on_as_it_was() {
    let mut cancelled = Story::yielding();
    cancelled.done.clear();
    cancelled.tell(Event::Command(Command::Stay));
    assert_eq!(cancelled.effects(), ["GoOn", "tell GoesOn", "Refuse"]);
    assert_eq!(cancelled.role.phase(), Phase::Primary);
    cancelled.said(POISED);
    assert_eq!(cancelled.role.phase(), Phase::Primary, "late");

    let mut late = Story::yielding();
    late.done.clear();
    late.pass_hearing(YIELDING_PATIENCE);
    assert!(late.done.contains(&Effect::GoOn));
    assert!(late.done.contains(&Effect::Refuse(Refused::SwitchTooLong)));

    let mut silent = Story::yielding();
    silent.done.clear();
    silent.pass(Duration::from_millis(160));
    assert!(silent.done.contains(&Effect::Refuse(Refused::PeerSilent)));
    assert_eq!(silent.role.phase(), Phase::Primary);

    let mut asked = Story::swapping();
    asked.done.clear();
    asked.tell(Event::Command(Command::Stay));
    assert_eq!(asked.done, [Effect::Refuse(Refused::TooLate)]);
}

#[test]
fn a_copy_goes_on_when_its_primary_does() {
    let mut story = Story::poised();
    story.done.clear();
    story.said(Word::GoesOn { pairing: PAIRING });
    assert_eq!(story.role.phase(), Phase::Backup);
    let mut missed = Story::poised();
    missed.said(Word::Confirmed {
        pairing: PAIRING,
        generation: missed.role.generation(),
        sender_preferred: true,
        flush: Flush::Site,
    });
    assert_eq!(missed.role.phase(), Phase::Backup, "over a new connection");
}

#[test]
fn a_guest_that_stands_too_late_is_said_to_go_on() {
    let mut story = Story::primary();
    story.tell(Event::Command(Command::SwitchOver { turned: TURNED }));
    story.read();
    story.tell(Event::Command(Command::Stay));
    story.done.clear();
    story.stood(50, 3);
    assert_eq!(story.effects(), ["tell GoesOn"]);
}

#[test]
fn a_backups_operator_asks_the_primary_and_is_told_why_not() {
    let mut backup = Story::backup();
    backup.tell(Event::Command(Command::SwitchOver { turned: TURNED }));
    assert_eq!(backup.effects(), ["tell PleaseSwitch"]);
    backup.said(Word::NotSwitched {
        pairing: PAIRING,
        why: Refused::LagTooHigh,
    });
    assert_eq!(backup.done, [Effect::Refuse(Refused::LagTooHigh)]);

    let mut primary = Story::primary();
    primary.said(Word::PleaseSwitch {
        pairing: PAIRING,
        turned: TURNED,
    });
    let read = primary.role.reads;
    primary.tell(Event::RecordRead { read, record: None });
    assert_eq!(
        primary.effects(),
        ["ReadRecord", "Refuse", "tell NotSwitched"],
        "the tiebreaker is silent, and the guest was not stopped for it"
    );
    assert_eq!(
        primary.role.view().cause,
        None,
        "nothing waits for the tiebreaker any more"
    );
}

#[test]
fn what_stands_in_the_way_of_a_switchover_is_named() {
    let mut silent = Story::primary();
    silent.pass(Duration::from_millis(160));
    let mut deaf = Story::backup();
    deaf.pass(Duration::from_millis(160));
    let cases = [
        (Story::alone(), Refused::NotProtected),
        (Story::pairing(), Refused::Busy),
        (Story::yielding(), Refused::Busy),
        (Story::candidate(true), Refused::Busy),
        (Story::of("a", "b", None), Refused::State),
        (silent, Refused::PeerSilent),
        (deaf, Refused::Busy),
    ];
    for (mut story, why) in cases {
        story.done.clear();
        story.tell(Event::Command(Command::SwitchOver { turned: TURNED }));
        assert_eq!(story.done, [Effect::Refuse(why)]);
    }
}

/// The other site is heard for so long, and its copy is so far behind.
fn hear_behind(story: &mut Story, lag: Duration, span: Duration) {
    let end = story.now + span;
    while story.now < end {
        story.now = end.min(story.now + story.role.heartbeat_interval());
        story.tell(Event::PeerHeard(Heard::default()));
        let mut gauges = Gauges::default();
        gauges.lag.time = lag;
        story.tell(Event::Tick(gauges));
    }
}

/// A primary that was asked to yield to a backup that is far behind: nothing has come of it yet.
fn asked_while_behind() -> Story {
    let mut story = Story::primary();
    hear_behind(&mut story, FAR, Duration::from_millis(10));
    story.done.clear();
    story.tell(Event::Command(Command::SwitchOver { turned: TURNED }));
    assert_eq!(story.done, []);
    story
}

const FAR: Duration = Duration::from_millis(900);

#[test]
fn a_switchover_waits_for_a_backup_that_is_behind_while_the_guest_runs() {
    let mut catches_up = asked_while_behind();
    hear_behind(&mut catches_up, Duration::ZERO, Duration::from_millis(10));
    assert_eq!(catches_up.effects(), ["ReadRecord"]);

    let mut carried = asked_while_behind();
    let mut gauges = Gauges {
        checkpoint: Some(Duration::ZERO),
        ..Gauges::default()
    };
    gauges.lag.time = FAR;
    carried.tell(Event::PeerHeard(Heard::default()));
    carried.tell(Event::Tick(gauges));
    assert_eq!(
        carried.effects(),
        ["ReadRecord"],
        "what lies between two checkpoints"
    );

    let mut never = asked_while_behind();
    hear_behind(&mut never, FAR, Duration::from_secs(9));
    assert!(!never.done.contains(&Effect::Refuse(Refused::LagTooHigh)));
    hear_behind(&mut never, FAR, Duration::from_secs(2));
    assert!(never.done.contains(&Effect::Refuse(Refused::LagTooHigh)));
    assert_eq!(never.role.phase, Phase::Primary);
}

#[test]
fn a_switchover_that_waits_may_be_cancelled_and_is_asked_for_once() {
    let mut twice = asked_while_behind();
    twice.tell(Event::Command(Command::SwitchOver { turned: TURNED }));
    assert_eq!(twice.done, [Effect::Refuse(Refused::Busy)]);

    let mut cancelled = asked_while_behind();
    cancelled.tell(Event::Command(Command::Stay));
    assert_eq!(cancelled.done, [Effect::Refuse(Refused::Cancelled)]);
    cancelled.done.clear();
    hear_behind(&mut cancelled, Duration::ZERO, Duration::from_millis(10));
    assert_eq!(cancelled.effects(), Vec::<String>::new());
}

#[test]
fn the_head_start_goes_with_the_primary_unless_an_operator_has_said_otherwise() {
    for (preferred, keeps) in [(None, false), (Some("a"), true), (Some("b"), false)] {
        let mut story = Story::primary();
        story.record.as_mut().unwrap().settings.preferred = preferred.map(|name| name.parse().unwrap());
        story.tell(Event::Command(Command::SwitchOver { turned: TURNED }));
        story.read();
        story.stood(50, 0);
        story.said(POISED);
        story.answer();
        assert_eq!(story.role.preferred, keeps, "{preferred:?}");
        assert!(matches!(
            story.record.unwrap().state,
            State::Paired { primary, .. } if primary.as_str() == "b"
        ));
    }
}
