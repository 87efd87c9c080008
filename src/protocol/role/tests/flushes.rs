//! When a guest is told of its flushes, where they wait for both sites (P8).

use antipode_tiebreaker::Operation;

use super::*;

#[test]
fn lockstep_begins_with_the_flushes_that_are_asked_of_the_tiebreaker_and_shown() {
    for flush in [Flush::Site, Flush::Both] {
        let mut story = Story::pairing_of(flush);
        assert!(story.done.contains(&Effect::BeginLockstep(flush)));
        let Operation::Pair { flush: asked, .. } = story.asked().operation else {
            panic!("{:?}", story.asked());
        };
        assert_eq!((asked, story.role.view().flush), (flush, Some(flush)));
        story.answer();
        assert_eq!(story.role.phase(), Phase::Primary);
        let confirmed = story.done.iter().find_map(|effect| match effect {
            Effect::Tell(Word::Confirmed { flush, .. }) => Some(*flush),
            _ => None,
        });
        assert_eq!(confirmed, Some(flush));
    }
}

#[test]
fn a_flush_goes_with_what_the_other_disk_has_and_each_word_counts_once() {
    let mut story = Story::pairing_of(Flush::Both);
    story.done.clear();
    // Before `pair` is answered outputs are held; what two disks hold is true all the same.
    story.acked_durable(100);
    assert_eq!(story.effects(), ["flushed 100"]);
    story.recall_asked();
    story.answer();
    story.effects();
    story.acked_durable(100);
    story.acked_durable(90);
    assert_eq!(story.effects(), [""; 0]);
    story.acked_durable(120);
    assert_eq!(story.effects(), ["flushed 120"]);
}

#[test]
fn flushes_at_one_site_wait_for_no_acknowledgement() {
    let mut story = Story::pairing_of(Flush::Site);
    story.done.clear();
    story.acked_durable(100);
    assert_eq!(story.effects(), [""; 0]);
}

#[test]
fn a_flush_waits_until_the_claim_is_won() {
    let mut story = Story::pairing_of(Flush::Both);
    story.answer();
    story.pass(Duration::from_millis(400));
    assert_eq!(story.role.phase(), Phase::Claiming(Side::Primary));
    story.done.clear();
    // The channel is closed: what comes late is of a pairing that is over.
    story.acked_durable(200);
    assert_eq!(story.effects(), [""; 0]);
    story.recall_asked();
    story.answer();
    assert_eq!(story.done.last(), Some(&Effect::OpenOutputs));
    assert_eq!(story.role.view().flush, None);
}

#[test]
fn a_backup_whose_disk_does_not_flush_is_suspected() {
    let mut story = Story::pairing_of(Flush::Both);
    story.answer();
    let since = story.now;
    let waits = Waits {
        output_since: None,
        flush_since: Some(since),
    };
    while story.role.phase() == Phase::Primary {
        story.hear_while(waits);
        assert!(story.now.saturating_since(since) < Duration::from_secs(6));
    }
    assert_eq!(story.asked().operation.name(), "claim");
    assert_eq!(
        story.role.view().cause,
        Some(Cause::PeerLost(Suspicion::FlushTimeout))
    );
}

#[test]
fn a_backup_shows_the_flushes_that_its_primary_told_it_of() {
    let mut story = Story::candidate(true);
    assert_eq!(story.role.view().flush, None);
    let generation = story.record.as_ref().unwrap().generation;
    story.tell(Event::PeerSaid(Word::Confirmed {
        pairing: PAIRING,
        generation,
        sender_preferred: true,
        flush: Flush::Both,
    }));
    assert_eq!(story.role.view().flush, Some(Flush::Both));
}

#[test]
fn a_primary_that_slept_while_it_suspected_suspects_anew_and_claims() {
    let mut story = Story::pairing_of(Flush::Both);
    story.record.as_mut().unwrap().settings.preferred = Some("b".parse().unwrap());
    story.role.preferred = false;
    story.answer();
    let waits = Waits {
        output_since: Some(story.now),
        flush_since: Some(story.now),
    };
    let tick = Event::Tick(Gauges {
        waits,
        ..Gauges::default()
    });
    while story.role.phase() == Phase::Primary {
        story.now = story.now + Duration::from_millis(37);
        story.tell(tick.clone());
    }
    assert_eq!(story.role.phase(), Phase::Suspecting(Side::Primary));
    // Shorter than a gap that leads to a doubt, so nothing else takes it on.
    story.now = story.now + Duration::from_millis(290);
    story.tell(Event::ChannelLost);
    assert_eq!(story.role.suspected_at, None);
    for _ in 0..40 {
        story.now = story.now + Duration::from_millis(37);
        story.tell(tick.clone());
    }
    assert_eq!(story.role.phase(), Phase::Claiming(Side::Primary));
}
