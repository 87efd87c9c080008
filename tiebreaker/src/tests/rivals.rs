//! Mistakes that others have made with such records, each by its name.

use super::histories::{caller, request};
use crate::{Boot, Flush, Generation, Operation, Outcome, PairingId, Record, Refusal, State, decide};

const FIRST: PairingId = PairingId(7);

fn register(boot: u64) -> Operation {
    Operation::Register { boot: Boot(boot) }
}

fn pair(boot: u64, backup: &str, pairing: PairingId) -> Operation {
    Operation::Pair {
        boot: Boot(boot),
        backup: backup.parse().unwrap(),
        pairing,
        flush: Flush::Site,
    }
}

fn claim(boot: u64, pairing: PairingId) -> Operation {
    let boot = Boot(boot);
    Operation::Claim { pairing, boot }
}

/// Site a asks, by this number, for the change of that generation.
fn by_a(record: Option<Record>, id: u64, expected: u64, operation: Operation) -> Outcome {
    decide(record, &request(id, expected, operation), &caller("site/a"))
}

fn by_b(record: Option<Record>, id: u64, expected: u64, operation: Operation) -> Outcome {
    decide(record, &request(id, expected, operation), &caller("site/b"))
}

/// Site a is the primary, b its backup, in generation 2.
fn paired() -> Option<Record> {
    let record = by_a(None, 1, 0, register(1)).record;
    let outcome = by_a(record, 2, 1, pair(1, "b", FIRST));
    assert_eq!(outcome.answer.verdict, Ok(()));
    outcome.record
}

fn holder(record: Option<&Record>) -> Option<(String, Generation)> {
    match &record?.state {
        State::Solo { site, .. } => Some((site.to_string(), record?.generation)),
        _ => None,
    }
}

/// booth: two sites ask for a ticket, the connection breaks before either hears, both ask again, and both have it.
#[test]
fn booth_a_ticket_is_not_granted_twice_after_a_reconnect() {
    let won = by_b(paired(), 1, 2, claim(5, FIRST));
    assert_eq!(won.answer.verdict, Ok(()));
    // Over its new connection a asks for the first time, and b again, in either order and as often as they like.
    let lost = by_a(won.record.clone(), 3, 2, claim(1, FIRST));
    assert_eq!(lost.answer.verdict, Err(Refusal::Generation));
    let mut record = lost.record;
    for _ in 0..3 {
        let again = by_b(record, 1, 2, claim(5, FIRST));
        assert_eq!(again.answer, won.answer);
        let again = by_a(again.record, 3, 2, claim(1, FIRST));
        assert_eq!(again.answer, lost.answer);
        record = again.record;
    }
    // Nor does a have it by the generation that it has learnt: the pairing is over.
    let informed = by_a(record, 4, 3, claim(1, FIRST));
    assert!(informed.answer.verdict.is_err());
    assert_eq!(
        holder(informed.record.as_ref()),
        Some(("b".to_owned(), Generation(3)))
    );
}

/// booth: a ticket's holder asks for its renewal, that arrives late, and takes the ticket back from whoever has it since.
#[test]
fn booth_a_late_copy_of_what_was_granted_takes_nothing_back() {
    let won = by_b(paired(), 1, 2, claim(5, FIRST));
    let turned = by_b(won.record, 2, 3, pair(5, "a", PairingId(8)));
    assert_eq!(turned.answer.verdict, Ok(()));
    let taken = by_a(turned.record, 3, 4, claim(6, PairingId(8)));
    assert_eq!(taken.answer.verdict, Ok(()));
    let late = by_b(taken.record.clone(), 1, 2, claim(5, FIRST));
    assert_eq!(late.record, taken.record);
    assert_eq!(
        holder(late.record.as_ref()),
        Some(("a".to_owned(), Generation(5)))
    );
}

/// booth: nodes start again without a majority while a ticket is being given away, and it is nobody's for ever. Here what
/// was not decided is asked again, by whoever is there.
#[test]
fn booth_a_ticket_is_never_nobody_s_after_a_restart_in_the_middle() {
    // The claim was lost with its majority: the record is as it was, and each of the two may have it still.
    for winner in ["a", "b"] {
        let asked = match winner {
            "a" => by_a(paired(), 3, 2, claim(1, FIRST)),
            _ => by_b(paired(), 1, 2, claim(5, FIRST)),
        };
        assert_eq!(asked.answer.verdict, Ok(()));
        assert_eq!(holder(asked.record.as_ref()).unwrap().0, winner);
    }
    // Or it was granted, and only its answer was lost, and both the holder's memory with it: it starts by its disk.
    let won = by_b(paired(), 1, 2, claim(5, FIRST));
    let anew = by_b(won.record, 2, 3, Operation::ColdStart { boot: Boot(6) });
    assert_eq!(anew.answer.verdict, Ok(()));
}

/// A `pair` that arrives when its sender has gone on alone lets a backup claim that lacks what was shown since.
#[test]
fn late_pair_that_was_taken_back_is_refused() {
    let record = by_a(None, 1, 0, register(1)).record;
    let cancelled = by_a(record, 3, 1, Operation::CancelPair { boot: Boot(1) });
    assert_eq!(cancelled.answer.verdict, Ok(()));
    let late = by_a(cancelled.record, 2, 1, pair(1, "b", FIRST));
    assert!(late.answer.verdict.is_err());
    let claimed = by_b(late.record, 1, 2, claim(5, FIRST));
    assert!(claimed.answer.verdict.is_err());
    assert_eq!(holder(claimed.record.as_ref()).unwrap().0, "a");
}

/// The other order: it comes first, and whoever wanted to take it back learns so before anything is shown.
#[test]
fn late_pair_that_comes_first_is_told_to_whoever_takes_it_back() {
    let refused = by_a(paired(), 3, 1, Operation::CancelPair { boot: Boot(1) });
    assert_eq!(refused.answer.verdict, Err(Refusal::Generation));
    assert!(matches!(refused.answer.state, Some(State::Paired { .. })));
    let claimed = by_a(refused.record, 4, 2, claim(1, FIRST));
    assert_eq!(claimed.answer.verdict, Ok(()));
    assert!(
        by_b(claimed.record, 1, 2, claim(5, FIRST))
            .answer
            .verdict
            .is_err()
    );
}
