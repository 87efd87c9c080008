//! Each row of the table from two replicas that lead to it, and every question that can be asked.

use std::collections::BTreeSet;

use super::*;
use crate::replica::{GenerationId, SyncKey};

fn id(byte: u8) -> GenerationId {
    GenerationId([byte; 16])
}

fn lineage(current: u8, base: Option<u8>, history: &[u8]) -> Option<Lineage> {
    Some(Lineage {
        current: id(current),
        base: base.map(id),
        history: history.iter().copied().map(id).collect(),
    })
}

fn summary(replica: u8, lineage: Option<Lineage>) -> Summary {
    Summary {
        vm: "vm".parse().unwrap(),
        replica: ReplicaId([replica; 16]),
        state: if lineage.is_some() {
            State::Clean
        } else {
            State::Stale
        },
        lineage,
        has_marks: false,
        was_changed_behind: false,
    }
}

/// A source that has gone on from generation 1 as 2.
fn source() -> Summary {
    summary(100, lineage(2, Some(1), &[1, 9]))
}

fn syncing(target: Summary, replica: u8, generation: u8) -> Summary {
    Summary {
        state: State::Syncing(SyncKey {
            source: ReplicaId([replica; 16]),
            generation: id(generation),
        }),
        ..target
    }
}

const NO: Consent = Consent {
    discard: false,
    compare_all: false,
};
const DISCARD: Consent = Consent {
    discard: true,
    compare_all: false,
};
const ALL: Consent = Consent {
    discard: true,
    compare_all: true,
};

/// Source, target, consent, the relation between them and the outcome. Each leads to a row of its own.
fn cases() -> Vec<(Summary, Summary, Consent, Relation, Outcome)> {
    use Outcome::{Full, Nothing, Partial, Refuse};
    let target = |current, base, history: &[u8]| summary(200, lineage(current, base, history));
    let same = || target(2, None, &[]);
    let marked = |mut one: Summary| {
        one.has_marks = true;
        one
    };
    let changed = |mut one: Summary| {
        one.was_changed_behind = true;
        one
    };
    let stale = |mut one: Summary| {
        one.state = State::Stale;
        one
    };
    let mut other = same();
    other.vm = "other".parse().unwrap();
    let blank = summary(200, None);
    let half = |generation| syncing(blank.clone(), 100, generation);
    vec![
        (source(), other, ALL, Relation::OtherVm, Refuse),
        (source(), source(), ALL, Relation::Itself, Refuse),
        (summary(100, None), same(), ALL, Relation::SourceBlank, Refuse),
        (stale(source()), same(), ALL, Relation::Same, Refuse),
        (source(), blank.clone(), NO, Relation::Blank, Full),
        (source(), half(1), NO, Relation::Mixture, Full),
        (changed(source()), half(2), NO, Relation::Resuming, Full),
        (source(), half(2), NO, Relation::Resuming, Partial),
        (source(), changed(same()), NO, Relation::Same, Full),
        (source(), same(), NO, Relation::Same, Nothing),
        (source(), stale(marked(same())), NO, Relation::Same, Full),
        (source(), marked(same()), NO, Relation::Same, Partial),
        (source(), changed(target(1, None, &[])), NO, Relation::Ahead, Full),
        (source(), target(1, None, &[]), NO, Relation::Ahead, Partial),
        (source(), target(9, None, &[]), NO, Relation::Ancestor, Full),
        (source(), target(3, Some(1), &[1]), NO, Relation::Fork, Refuse),
        (source(), target(3, Some(1), &[1]), ALL, Relation::Fork, Full),
        (
            source(),
            target(3, Some(1), &[1]),
            DISCARD,
            Relation::Fork,
            Partial,
        ),
        (
            source(),
            target(3, Some(2), &[2, 1]),
            NO,
            Relation::Behind,
            Refuse,
        ),
        (source(), target(3, Some(2), &[2, 1]), ALL, Relation::Behind, Full),
        (
            source(),
            target(3, Some(2), &[2, 1]),
            DISCARD,
            Relation::Behind,
            Partial,
        ),
        (source(), target(3, None, &[9]), NO, Relation::Cousin, Refuse),
        (source(), target(3, None, &[9]), DISCARD, Relation::Cousin, Full),
        (
            source(),
            target(3, Some(4), &[4]),
            ALL,
            Relation::Unrelated,
            Refuse,
        ),
    ]
}

#[test]
fn each_row_is_reached_by_two_replicas_of_its_kind() {
    let cases = cases();
    assert_eq!(cases.len(), TABLE_ROWS.len());
    for ((source, target, consent, kind, outcome), row) in cases.iter().zip(TABLE_ROWS.iter()) {
        let decision = decide(source, target, *consent);
        assert_eq!(
            (decision.relation, decision.outcome, decision.reason),
            (*kind, *outcome, row.reason),
            "{source:?} {target:?}"
        );
    }
}

#[test]
fn every_question_has_an_answer() {
    let mut answered = BTreeSet::new();
    for &relation in Relation::ALL {
        for bits in 0..32_u8 {
            let bit = |at: u8| bits >> at & 1 == 1;
            let question = Question {
                relation,
                source_is_clean: bit(0),
                target_is_clean: bit(1),
                has_marks: bit(2),
                marks_lie: bit(3),
                discard: bit(4),
            };
            let decision = answer(question);
            answered.insert(decision.reason);
            // What must hold whatever the table says.
            let overwrites = decision.outcome != Outcome::Refuse;
            assert!(!overwrites || question.source_is_clean, "{question:?}");
            let loses = [Relation::Fork, Relation::Behind, Relation::Cousin].contains(&relation);
            assert!(!(overwrites && loses) || question.discard, "{question:?}");
            let trusts_marks = [Outcome::Nothing, Outcome::Partial].contains(&decision.outcome);
            assert!(!(trusts_marks && question.marks_lie), "{question:?}");
            let is_equal = decision.outcome == Outcome::Nothing;
            assert!(
                !is_equal || question.target_is_clean && !question.has_marks,
                "{question:?}"
            );
            // The source has marked nothing for the sake of a target of its own generation.
            let is_unmarked = relation == Relation::Same && !question.target_is_clean;
            assert!(!(trusts_marks && is_unmarked), "{question:?}");
        }
    }
    assert_eq!(answered.len(), TABLE_ROWS.len(), "a row that answers nothing");
}
