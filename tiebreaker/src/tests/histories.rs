//! What holds for every sequence of requests, whoever makes them, repeats them or delivers them late (T3).

use std::collections::BTreeMap;

use antipode_certs::{Identity, Role};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::limits::{
    HISTORY_DECISIONS_MAX, HISTORY_MOVES_MAX, HISTORY_SETTINGS_MAX, REMEMBERED_PER_ROLE_MAX,
};
use crate::*;

const CALLERS: &[&str] = &[
    "antipode://site/a",
    "antipode://site/b",
    "antipode://site/c",
    "antipode://operator/o",
    "antipode://tiebreaker/t",
];

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// A new request, most often in the present generation.
    New {
        caller: usize,
        behind: u64,
        operation: Operation,
    },
    /// A copy of some earlier one arrives.
    Copy(Index),
}

/// Numbers are few, so that requests fit the record often.
fn operations() -> impl Strategy<Value = Operation> {
    let boot = || (1..3_u64).prop_map(Boot);
    let pairing = || (1..3_u64).prop_map(PairingId);
    let site = || prop::sample::select(vec!["a", "b", "c"]).prop_map(|word| word.parse().unwrap());
    let flush = || prop::sample::select(vec![Flush::Site, Flush::Both]);
    let hold = prop_oneof![boot().prop_map(Hold::Boot), pairing().prop_map(Hold::Pairing)];
    let reason = || Reason::new("drill").unwrap();
    prop_oneof![
        6 => boot().prop_map(|boot| Operation::Register { boot }),
        16 => (pairing(), boot()).prop_map(|(pairing, boot)| Operation::Claim { pairing, boot }),
        40 => (boot(), site(), pairing(), flush())
            .prop_map(|(boot, backup, pairing, flush)| Operation::Pair { boot, backup, pairing, flush }),
        4 => boot().prop_map(|boot| Operation::CancelPair { boot }),
        24 => (pairing(), pairing()).prop_map(|(pairing, turned)| Operation::Swap { pairing, turned }),
        8 => (hold, any::<u64>())
            .prop_map(|(hold, position)| Operation::Park { hold, position: Position(position) }),
        4 => boot().prop_map(|boot| Operation::ColdStart { boot }),
        2 => (prop::option::of(site()), flush())
            .prop_map(|(preferred, flush)| Operation::Configure { preferred, flush }),
        1 => site().prop_map(move |site| Operation::Force { site, reason: reason() }),
        1 => Just(Operation::Retire { reason: reason() }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let behind = prop_oneof![8 => Just(0), 1 => Just(1), 1 => Just(2)];
    let step = prop_oneof![
        4 => (prop::sample::select(vec![0, 0, 0, 1, 1, 1, 2, 3, 4]), behind, operations()).prop_map(|(caller, behind, operation)| {
            // An operator's operation is an operator's most of the time, or runs would hold few of them.
            let caller = if operation.is_operators() && caller < 2 { 3 } else { caller };
            Step::New { caller, behind, operation }
        }),
        1 => any::<Index>().prop_map(Step::Copy),
    ];
    let registered = Step::New {
        caller: 0,
        behind: 0,
        operation: Operation::Register { boot: Boot(1) },
    };
    // Most runs begin with a VM; the others come to one by chance.
    (prop::bool::weighted(0.9), prop::collection::vec(step, 0..100)).prop_map(move |(begun, mut steps)| {
        if begun {
            steps.insert(0, registered.clone());
        }
        steps
    })
}

/// A run so far.
#[derive(Default)]
struct Run {
    record: Option<Record>,
    sent: Vec<(Identity, Request)>,
    /// Who was granted the change to each generation.
    winners: BTreeMap<Generation, (Identity, RequestId)>,
    granted: BTreeMap<&'static str, u64>,
}

impl Run {
    fn take(&mut self, step: &Step) {
        let (caller, request) = match step {
            Step::New {
                caller,
                behind,
                operation,
            } => {
                let present = self.record.as_ref().map_or(0, |record| record.generation.0);
                let request = Request {
                    id: RequestId(self.sent.len() as u64),
                    expected: Generation(present.saturating_sub(*behind)),
                    operation: operation.clone(),
                    at_unix_seconds: 0,
                };
                let caller = Identity::from_uri(CALLERS[*caller]).unwrap();
                self.sent.push((caller.clone(), request.clone()));
                (caller, request)
            }
            Step::Copy(_) if self.sent.is_empty() => return,
            Step::Copy(index) => self.sent[index.index(self.sent.len())].clone(),
        };
        self.deliver(&caller, &request);
    }

    fn deliver(&mut self, caller: &Identity, request: &Request) {
        let before = self.record.clone();
        let last = before
            .as_ref()
            .and_then(|record| record.remembered_of(caller))
            .cloned();
        let outcome = decide(before.clone(), request, caller);
        check_copies(last.as_ref(), before.as_ref(), request, &outcome);
        let is_new = last.is_none_or(|last| request.id > last.id);
        match outcome.answer.verdict {
            Ok(()) if is_new => self.check_grant(before.as_ref(), caller, request, &outcome),
            _ => assert_eq!(lasting(before.as_ref()), lasting(outcome.record.as_ref())),
        }
        if let Some(record) = &outcome.record {
            check_bounds(record);
            if record.remembered_of(caller).is_some() {
                assert_eq!(
                    decide(Some(record.clone()), request, caller).record,
                    outcome.record
                );
                let again = decide(Some(record.clone()), request, caller).answer;
                assert!(again == outcome.answer || again.verdict == Err(Refusal::Superseded));
            }
        }
        self.record = outcome.record;
    }

    fn check_grant(
        &mut self,
        before: Option<&Record>,
        caller: &Identity,
        request: &Request,
        outcome: &Outcome,
    ) {
        let record = outcome.record.as_ref().unwrap();
        *self.granted.entry(request.operation.name()).or_default() += 1;
        assert_eq!(request.operation.is_operators(), caller.role == Role::Operator);
        assert_ne!(caller.role, Role::Tiebreaker);
        if matches!(request.operation, Operation::Configure { .. }) {
            assert_eq!(Some(&record.state), before.map(|before| &before.state));
            assert_eq!(record.generation, request.expected);
            return;
        }
        assert_eq!(record.generation, request.expected.next());
        let winner = (caller.clone(), request.id);
        assert_eq!(
            self.winners.insert(record.generation, winner),
            None,
            "two winners"
        );
        if caller.role == Role::Site {
            check_own_place(
                before.map(|before| &before.state),
                &record.state,
                caller,
                &request.operation,
            );
        }
    }
}

/// A copy of the last request is answered as that was, an older one is refused, and neither changes anything.
fn check_copies(last: Option<&Remembered>, before: Option<&Record>, request: &Request, outcome: &Outcome) {
    let Some(last) = last.filter(|last| request.id <= last.id) else {
        return;
    };
    assert_eq!(outcome.record.as_ref(), before);
    if request.id == last.id {
        assert_eq!(outcome.answer, last.answer);
    } else {
        let verdict = outcome.answer.verdict;
        assert!(
            matches!(verdict, Err(Refusal::Superseded | Refusal::Role)),
            "{verdict:?}"
        );
    }
}

/// All of a record but the answers that it remembers.
fn lasting(record: Option<&Record>) -> Option<Record> {
    record.cloned().map(|record| Record {
        remembered: Vec::new(),
        ..record
    })
}

/// A site moves itself alone: it ends up live or stopped by its own word, or hands over to its backup.
fn check_own_place(before: Option<&State>, after: &State, caller: &Identity, operation: &Operation) {
    match after {
        State::Solo { site, boot } => {
            assert_eq!(site, &caller.name);
            assert!(boot.is_some());
        }
        State::Parked { primary, .. } => assert_eq!(primary, &caller.name),
        State::Paired { primary, backup, .. } => {
            let own = if matches!(operation, Operation::Swap { .. }) {
                backup
            } else {
                primary
            };
            assert_eq!(own, &caller.name);
        }
        State::Retired => panic!("a site has retired a VM"),
    }
    if let (Operation::ColdStart { .. }, Some(State::Paired { primary, flush, .. })) = (operation, before) {
        assert!(
            primary == &caller.name || *flush == Flush::Both,
            "a backup without the data has started"
        );
    }
}

fn check_bounds(record: &Record) {
    assert!(record.history.len() <= HISTORY_MOVES_MAX + HISTORY_SETTINGS_MAX + HISTORY_DECISIONS_MAX);
    assert_eq!(record.check(), Ok(()));
    for role in Role::ALL {
        let count = record
            .remembered
            .iter()
            .filter(|last| last.by.role == role)
            .count();
        assert!(count <= REMEMBERED_PER_ROLE_MAX);
    }
    assert!(record.history.is_sorted_by_key(|entry| entry.generation));
}

proptest! {
    #[test]
    fn the_rules_hold_in_every_history(steps in steps()) {
        let mut run = Run::default();
        for step in &steps {
            run.take(step);
        }
    }
}

/// Or the test above would pass by refusing everything.
#[test]
fn the_histories_hold_every_operation() {
    let mut runner = TestRunner::deterministic();
    let mut granted: BTreeMap<&'static str, u64> = BTreeMap::new();
    for _ in 0..300 {
        let mut run = Run::default();
        for step in steps().new_tree(&mut runner).unwrap().current() {
            run.take(&step);
        }
        for (name, count) in run.granted {
            *granted.entry(name).or_default() += count;
        }
    }
    assert_eq!(granted.len(), 10, "{granted:?}");
    assert!(granted.values().all(|&count| count >= 10), "{granted:?}");
}

#[test]
fn more_requesters_than_are_kept_push_out_the_most_silent_of_their_role() {
    let mut record = decide(
        None,
        &request(1, 0, Operation::Register { boot: Boot(1) }),
        &caller("site/a"),
    )
    .record;
    let configure = || Operation::Configure {
        preferred: None,
        flush: Flush::Site,
    };
    for name in ["o1", "o2", "o3", "o4", "o1", "o5"] {
        let id = record.as_ref().unwrap().history.len() as u64 + 1;
        record = decide(
            record,
            &request(id, 1, configure()),
            &caller(&format!("operator/{name}")),
        )
        .record;
    }
    let record = record.unwrap();
    let kept: Vec<String> = record
        .remembered
        .iter()
        .map(|last| last.by.name.to_string())
        .collect();
    assert_eq!(kept, ["a", "o3", "o4", "o1", "o5"]);
}

/// The generation is still the present one and the settings have changed so that it would be granted: but its sender
/// was told no, and has gone on.
#[test]
fn a_late_copy_of_a_refused_request_is_not_granted() {
    let register = Operation::Register { boot: Boot(1) };
    let record = decide(None, &request(1, 0, register), &caller("site/a")).record;
    let pair = Operation::Pair {
        boot: Boot(1),
        backup: "b".parse().unwrap(),
        pairing: PairingId(7),
        flush: Flush::Both,
    };
    let refused = decide(record, &request(2, 1, pair.clone()), &caller("site/a"));
    assert_eq!(refused.answer.verdict, Err(Refusal::Flush));
    let configure = Operation::Configure {
        preferred: None,
        flush: Flush::Both,
    };
    let record = decide(refused.record, &request(1, 1, configure), &caller("operator/o")).record;
    let late = decide(record.clone(), &request(2, 1, pair.clone()), &caller("site/a"));
    assert_eq!(late.answer, refused.answer);
    let anew = decide(record, &request(3, 1, pair), &caller("site/a"));
    assert_eq!(anew.answer.verdict, Ok(()));
}

#[test]
fn a_number_is_not_used_for_two_requests() {
    let record = decide(
        None,
        &request(1, 0, Operation::Register { boot: Boot(1) }),
        &caller("site/a"),
    )
    .record;
    let other = decide(
        record.clone(),
        &request(1, 1, Operation::ColdStart { boot: Boot(2) }),
        &caller("site/a"),
    );
    assert_eq!(other.answer.verdict, Err(Refusal::NumberReused));
    assert_eq!(other.record, record);
}

#[test]
fn a_loser_learns_by_whom() {
    let mut record = decide(
        None,
        &request(1, 0, Operation::Register { boot: Boot(1) }),
        &caller("site/a"),
    )
    .record;
    let pair = Operation::Pair {
        boot: Boot(1),
        backup: "b".parse().unwrap(),
        pairing: PairingId(7),
        flush: Flush::Site,
    };
    record = decide(record, &request(2, 1, pair), &caller("site/a")).record;
    let claim = |boot| Operation::Claim {
        pairing: PairingId(7),
        boot: Boot(boot),
    };
    let won = decide(record, &request(1, 2, claim(5)), &caller("site/b"));
    let lost = decide(won.record, &request(3, 2, claim(6)), &caller("site/a"));
    assert_eq!(
        (won.answer.verdict, lost.answer.verdict),
        (Ok(()), Err(Refusal::Generation))
    );
    let holder = State::Solo {
        site: "b".parse().unwrap(),
        boot: Some(Boot(5)),
    };
    assert_eq!(
        (lost.answer.generation, lost.answer.state),
        (Generation(3), Some(holder))
    );
}

#[test]
fn an_override_leaves_who_and_why() {
    let record = decide(
        None,
        &request(1, 0, Operation::Register { boot: Boot(1) }),
        &caller("site/a"),
    )
    .record;
    let force = Operation::Force {
        site: "b".parse().unwrap(),
        reason: Reason::new("a burnt down").unwrap(),
    };
    let record = decide(record, &request(1, 1, force), &caller("operator/o"))
        .record
        .unwrap();
    let entry = record.history.last().unwrap();
    assert_eq!((entry.operation, &entry.by), ("force", &caller("operator/o")));
    assert_eq!(entry.reason.as_ref().unwrap().to_string(), "a burnt down");
    assert!(Reason::new("").is_err() && Reason::new("two\nlines").is_err());
}

pub(super) fn caller(path: &str) -> Identity {
    Identity::from_uri(&format!("antipode://{path}")).unwrap()
}

pub(super) fn request(id: u64, expected: u64, operation: Operation) -> Request {
    Request {
        id: RequestId(id),
        expected: Generation(expected),
        operation,
        at_unix_seconds: 0,
    }
}
