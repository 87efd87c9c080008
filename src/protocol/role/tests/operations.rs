//! Starting, stopping, ending protection, refusing, and what is shown.

use antipode_tiebreaker::{Answer, Incarnation, Operation, Refusal, RequestId, State};

use super::*;

#[test]
fn a_primary_whose_disk_fails_leaves_the_vm_to_a_backup_that_is_heard() {
    let mut story = Story::primary();
    story.tell(Event::DiskFailed);
    assert_eq!(story.effects(), [""; 0], "the next tick looks at the backup");
    story.pass_hearing(Duration::from_millis(40));
    assert_eq!(
        story.effects(),
        ["DiscardOutputs", "tell Left", "CloseChannel", "DestroyVm"]
    );
    let cause = Cause::SelfLeft(Leaving::DiskFailed);
    assert_eq!(
        (story.role.phase(), story.role.view().cause),
        (Phase::Stopped, Some(cause))
    );
}

#[test]
fn a_primary_whose_disk_fails_keeps_the_vm_if_there_is_no_backup_to_take_it() {
    let mut story = Story::primary();
    story.pass(Duration::from_millis(200));
    story.tell(Event::DiskFailed);
    story.pass(Duration::from_millis(200));
    assert_eq!(story.role.phase(), Phase::Claiming(Side::Primary));
    story.answer();
    assert_eq!(story.role.phase(), Phase::Alone);
    assert!(story.effects().contains(&"OpenOutputs".to_owned()));
    // What failed then was told to the guest: a pairing that comes later has nothing to do with it.
    story.pass_hearing(Duration::from_millis(40));
    assert_eq!(story.role.phase(), Phase::Alone);
}

#[test]
fn a_primary_whose_disk_fails_does_not_leave_the_vm_to_a_copy_that_differs() {
    let mut story = Story::primary();
    story.tell(Event::RepairBegins);
    story.tell(Event::DiskFailed);
    story.pass_hearing(Duration::from_millis(400));
    assert_eq!(story.effects(), [""; 0]);
    assert_eq!(story.role.phase(), Phase::Primary);
    story.tell(Event::RepairEnds);
    story.pass_hearing(Duration::from_millis(40));
    assert_eq!(story.role.phase(), Phase::Stopped);
    assert!(story.effects().contains(&"tell Left".to_owned()));
}

#[test]
fn a_backup_takes_over_what_it_is_left() {
    let mut story = Story::backup();
    let why = Leaving::DiskFailed;
    story.tell(Event::PeerSaid(Word::Left {
        pairing: PAIRING,
        why,
    }));
    assert_eq!(story.role.phase(), Phase::Closing);
    story.replayed(1, true);
    story.durable(1);
    assert_eq!(story.role.phase(), Phase::Claiming(Side::Backup));
    assert_eq!(story.role.view().cause, Some(Cause::PeerLeft(why)));
}

#[test]
fn a_vm_is_registered_before_it_starts_and_starts_before_it_is_seen() {
    let mut story = Story::of("a", "b", None);
    story.tell(Event::Command(Command::Start {
        replica: Replica::Clean,
    }));
    story.read();
    assert_eq!(story.effects(), ["ReadRecord", "Persist", "ask 1 register"]);
    story.done.push(Effect::AskTiebreaker(Ask {
        id: RequestId(1),
        expected: Generation::NONE,
        operation: Operation::Register { boot: Boot(5) },
    }));
    story.answer();
    assert_eq!(
        story.effects(),
        ["ask 1 register", "StartGuest", "OpenOutputs", "Announce"]
    );
}

#[test]
fn a_clean_stop_parks_when_the_backup_is_durable_there() {
    let mut story = Story::primary();
    story.tell(Event::Command(Command::Stop));
    let position = ExitOrdinal::new(50);
    story.tell(Event::GuestStopped { position });
    assert_eq!(story.effects(), ["StopGuest", "tell Stopping"]);
    story.tell(Event::PeerSaid(Word::StoppedAt {
        pairing: PAIRING,
        position,
    }));
    assert_eq!(story.effects(), ["Persist", "ask 3 park"]);
    story.recall_asked();
    story.answer();
    assert_eq!(story.effects()[1..], ["tell Parked", "CloseChannel", "DestroyVm"]);
    assert_eq!(story.role.phase(), Phase::Stopped);
}

#[test]
fn a_backup_confirms_a_stop_when_it_is_durable_at_its_position() {
    let mut story = Story::backup();
    let pairing = PAIRING;
    let position = ExitOrdinal::new(50);
    story.tell(Event::PeerSaid(Word::Stopping { pairing, position }));
    story.replayed(49, true);
    assert_eq!(story.effects(), ["ReplayToEnd"]);
    story.pass_hearing(Duration::from_millis(40));
    story.replayed(50, true);
    story.durable(50);
    assert_eq!(story.effects()[1..], ["MakeDurable", "tell StoppedAt"]);
    story.tell(Event::PeerSaid(Word::Parked { pairing }));
    assert_eq!(story.effects(), ["CloseChannel", "DestroyVm"]);
    assert_eq!(story.role.phase(), Phase::Stopped);
}

#[test]
fn a_backup_whose_guest_has_ended_parks_for_a_primary_that_is_lost_before_it_says_so() {
    let mut story = Story::backup();
    story.tell(Event::GuestStopped {
        position: ExitOrdinal::new(50),
    });
    story.pass(Duration::from_millis(160));
    story.replayed(50, true);
    story.durable(50);
    story.pass(Duration::from_millis(210));
    story.replayed(50, true);
    let ask = story.asked();
    story.effects();
    story.done.push(Effect::AskTiebreaker(ask));
    story.answer();
    assert_eq!(story.effects()[1..], ["Persist", "ask 2 park"]);
}

#[test]
fn a_lone_vm_stops_and_parks() {
    let mut story = Story::alone();
    story.tell(Event::Command(Command::Stop));
    let position = ExitOrdinal::new(8);
    story.tell(Event::GuestStopped { position });
    assert_eq!(story.effects(), ["StopGuest", "Persist", "ask 2 park"]);
}

#[test]
fn ending_protection_keeps_outputs_flowing_until_it_is_granted() {
    let mut story = Story::primary();
    story.tell(Event::Command(Command::Unprotect));
    story.read();
    story.acked(4);
    assert_eq!(
        story.effects(),
        ["ReadRecord", "Persist", "ask 3 claim", "release 4"]
    );
    story.recall_asked();
    story.answer();
    assert_eq!(story.effects()[1..], ["tell Left", "CloseChannel", "OpenOutputs"]);

    let mut deaf = Story::primary();
    deaf.tell(Event::Command(Command::Unprotect));
    let read = deaf.role.reads;
    deaf.tell(Event::RecordRead { read, record: None });
    assert_eq!(deaf.done.last(), Some(&Effect::Refuse(Refused::TiebreakerSilent)));
    assert_eq!(deaf.role.phase(), Phase::Primary);
    // Nothing waits for the tiebreaker any more.
    assert_eq!(deaf.role.view().cause, None);
}

#[test]
fn a_site_goes_on_by_itself_with_what_runs_by_the_record_and_with_nothing_else() {
    let resumed = |record: Option<Record>| {
        let mut story = Story::of("a", "b", record);
        story.role.settings.boot = Boot(6);
        story.tell(Event::Command(Command::Resume {
            replica: Replica::Clean,
        }));
        story.read();
        (story.effects(), story.role.phase(), story.role.view().cause)
    };
    let (effects, phase, _) = resumed(Story::alone().record);
    assert_eq!(effects, ["ReadRecord", "Persist", "ask 2 cold_start"]);
    assert_eq!(phase, Phase::Starting);
    let (_, phase, cause) = resumed(None);
    assert_eq!((phase, cause), (Phase::Stopped, Some(Cause::NotASite)));
    let of = |state: State| Story::alone().record.map(|record| Record { state, ..record });
    let (_, phase, cause) = resumed(of(State::Retired));
    assert_eq!((phase, cause), (Phase::Stopped, Some(Cause::NotASite)));
    let parked = State::Parked {
        primary: "a".parse().unwrap(),
        backup: None,
        position: antipode_tiebreaker::Position(8),
    };
    let (_, phase, cause) = resumed(of(parked));
    assert_eq!((phase, cause), (Phase::Stopped, Some(Cause::Stopped)));
}

#[test]
fn another_site_is_named_in_the_next_pairing() {
    let mut story = Story::alone();
    assert!(story.role.may_protect() && !Story::primary().role.may_protect());
    story.role.replace_peer("c".parse().unwrap());
    story.tell(Event::Command(Command::Protect { pairing: PAIRING }));
    story.tell(Event::DiskInSync);
    story.tell(Event::RamInSync);
    story.read();
    story.tell(Event::PeerReady);
    let asked = story.done.iter().rev().find_map(|effect| match effect {
        Effect::AskTiebreaker(ask) => Some(ask.operation.clone()),
        _ => None,
    });
    assert!(
        matches!(&asked, Some(Operation::Pair { backup, .. }) if backup.as_str() == "c"),
        "{asked:?}"
    );
}

#[test]
fn a_start_out_of_a_standing_pairing_waits_for_the_other_site() {
    let record = Story::primary().record;
    let start = Event::Command(Command::Start {
        replica: Replica::Clean,
    });
    let mut taken = Story::of("a", "b", record.clone());
    taken.role.settings.boot = Boot(6);
    taken.tell(start.clone());
    taken.read();
    taken.taken_by("b");
    taken.pass(Duration::from_millis(200));
    taken.read();
    assert_eq!(taken.role.phase(), Phase::Stale);

    let mut alone = Story::of("a", "b", record.clone());
    alone.role.settings.boot = Boot(6);
    alone.role.notes.last_request = 10;
    alone.tell(start.clone());
    alone.read();
    while alone.role.asked.is_none() {
        alone.pass(Duration::from_millis(100));
        alone.read();
    }
    assert!(alone.now.saturating_since(alone.role.since) >= COLD_START_GRACE);
    alone.answer();
    assert_eq!(alone.role.phase(), Phase::Alone);

    let mut backup = Story::of("b", "a", record);
    backup.tell(start);
    backup.read();
    assert_eq!(backup.role.view().cause, Some(Cause::OnlyPrimaryMayStart));
}

#[test]
fn a_replica_that_is_not_whole_is_not_started_from() {
    let record = Story::alone().record;
    let mut story = Story::of("a", "b", record);
    story.role.settings.boot = Boot(6);
    story.tell(Event::Command(Command::Start {
        replica: Replica::Syncing,
    }));
    story.read();
    assert_eq!(story.role.view().cause, Some(Cause::ReplicaNotClean));
}

#[test]
fn an_operators_word_starts_a_stale_disk_but_no_half_made_one() {
    let mut record = Story::alone().record.unwrap();
    record.state = State::Solo {
        site: "b".parse().unwrap(),
        boot: None,
    };
    for (replica, asks) in [(Replica::Stale, true), (Replica::Syncing, false)] {
        let mut story = Story::of("b", "a", Some(record.clone()));
        story.tell(Event::Command(Command::Start { replica }));
        story.read();
        assert_eq!(story.done.contains(&Effect::AdoptReplica), asks);
        assert_eq!(story.role.phase() == Phase::Starting, asks);
    }
}

#[test]
fn a_retired_name_is_registered_as_the_next_incarnation() {
    let mut record = Story::alone().record.unwrap();
    record.state = State::Retired;
    let mut story = Story::of("b", "a", Some(record));
    story.tell(Event::Command(Command::Start {
        replica: Replica::Clean,
    }));
    story.read();
    story.answer();
    assert_eq!(story.role.phase(), Phase::Alone);
    assert_eq!(story.record.unwrap().incarnation, Incarnation(2));
}

#[test]
fn a_record_that_another_change_reached_first_is_read_again() {
    let mut story = Story::of("a", "b", None);
    story.tell(Event::Command(Command::Start {
        replica: Replica::Clean,
    }));
    story.read();
    story.done.clear();
    let answer = Answer {
        verdict: Err(Refusal::Registered),
        generation: Generation(4),
        state: None,
    };
    story.tell(Event::Answered {
        id: RequestId(1),
        answer: Some(Box::new(answer)),
    });
    assert_eq!(story.effects(), ["ReadRecord"]);
}

#[test]
fn only_a_standing_pairing_is_green() {
    assert!(Story::primary().role.view().green);
    assert!(Story::backup().role.view().green);
    for story in [Story::alone(), Story::pairing(), Story::candidate(true)] {
        assert!(!story.role.view().green, "{:?}", story.role.phase());
    }
    let mut silent = Story::backup();
    silent.pass(Duration::from_millis(160));
    assert!(!silent.role.view().green);
}

#[test]
fn a_command_that_does_not_fit_is_refused() {
    let cases = [
        (
            Story::primary(),
            Command::Protect { pairing: PAIRING },
            Refused::State,
        ),
        (Story::pairing(), Command::Stop, Refused::Busy),
        (Story::backup(), Command::Unprotect, Refused::State),
        (Story::backup(), Command::Stop, Refused::State),
        (Story::alone(), Command::Unprotect, Refused::State),
    ];
    for (mut story, command, refused) in cases {
        story.done.clear();
        story.tell(Event::Command(command));
        assert_eq!(story.done, [Effect::Refuse(refused)]);
    }
}
