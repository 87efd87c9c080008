//! A host in the place of one of its name (P6), which knows nothing of what that one had asked for.

use super::*;

/// Site `by` has asked for something under this number, which was refused and is remembered.
fn asked_before(story: &mut Story, by: &str, number: u64) {
    let old = Ask {
        id: RequestId(number),
        expected: Generation::NONE,
        operation: Operation::ColdStart { boot: Boot(3) },
    };
    assert!(story.decide(by, &old).verdict.is_err());
}

#[test]
fn it_starts_with_the_next_number() {
    let mut story = Story::alone();
    asked_before(&mut story, "a", 7);
    let mut anew = Story::of("a", "b", story.record.take());
    let replica = Replica::Clean;
    anew.tell(Event::Command(Command::Start { replica }));
    anew.role.settings.boot = Boot(6);
    anew.read();
    assert_eq!(anew.effects()[1..], ["Persist", "ask 8 cold_start"]);
    anew.recall_asked();
    anew.answer();
    assert_eq!(anew.role.phase(), Phase::Alone);
}

#[test]
fn its_claim_is_asked_again_with_the_next_number() {
    for used in [1, 12] {
        let mut story = Story::backup();
        asked_before(&mut story, "b", used);
        let generation = story.record.as_ref().unwrap().generation;
        story.role.claim(Side::Backup, None);
        assert_eq!(story.role.phase(), Phase::Claiming(Side::Backup));
        story.recall_asked();
        story.answer();
        // The tiebreaker is silent for a while.
        story.tell(Event::RecordRead {
            read: story.role.reads,
            record: None,
        });
        story.pass(Duration::from_millis(150));
        story.read();
        let asked = story.asked();
        assert_eq!((asked.id.0, asked.expected), (used + 1, generation));
        story.answer();
        assert_eq!(story.role.phase(), Phase::Alone, "{used}");
    }
}
