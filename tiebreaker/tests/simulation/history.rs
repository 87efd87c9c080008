//! What clients asked and were told, and whether one record that does one thing at a time could have told them so.
//!
//! The search is that of Wing and Gong with Lowe's memory of states seen: an operation may be next if it was asked before
//! any other open one was answered; what was never answered may have happened at any time after it was asked, or never.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use antipode_certs::{Identity, Name};
use antipode_tiebreaker::{Answer, Generation, Record, Request, RequestId, decide};

/// One operation of one client on one VM.
#[derive(Debug, Clone)]
pub(crate) struct Deed {
    pub(crate) vm: Name,
    pub(crate) asked: u64,
    pub(crate) answered: Option<u64>,
    pub(crate) what: What,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    Change(Identity, Request, Option<Answer>),
    Read(Option<Record>),
}

/// Who won each generation of each VM, by what its winner was told.
pub(crate) fn winners(deeds: &[Deed]) -> Result<(), String> {
    let mut won: BTreeMap<(Name, Generation), (Identity, RequestId)> = BTreeMap::new();
    for deed in deeds {
        let What::Change(by, request, Some(answer)) = &deed.what else {
            continue;
        };
        if answer.verdict.is_err() || answer.generation == request.expected {
            continue;
        }
        let winner = (by.clone(), request.id);
        let key = (deed.vm.clone(), answer.generation);
        let first = won.entry(key).or_insert_with(|| winner.clone());
        if *first != winner {
            return Err(format!(
                "generation {} of {} was won by {first:?} and by {winner:?}",
                answer.generation, deed.vm
            ));
        }
    }
    Ok(())
}

/// Whether the deeds on each VM are linearizable.
pub(crate) fn linearizable(deeds: &[Deed]) -> Result<(), String> {
    let names: BTreeSet<&Name> = deeds.iter().map(|deed| &deed.vm).collect();
    for vm in names {
        // What was read without an answer tells nothing.
        let of_vm: Vec<&Deed> = deeds
            .iter()
            .filter(|deed| deed.vm == *vm)
            .filter(|deed| deed.answered.is_some() || matches!(deed.what, What::Change(..)))
            .collect();
        assert!(
            of_vm.len() <= 128,
            "the search has room for 128 deeds, here are {}",
            of_vm.len()
        );
        let mut search = Search {
            deeds: &of_vm,
            seen: BTreeSet::new(),
        };
        if !search.goes_on(0, None) {
            return Err(format!(
                "no order of one thing at a time explains what was told about {vm}:\n{of_vm:#?}"
            ));
        }
    }
    Ok(())
}

struct Search<'d> {
    deeds: &'d [&'d Deed],
    seen: BTreeSet<(u128, u64)>,
}

impl Search<'_> {
    /// Whether the deeds that are not in the set `done` can follow on `record`.
    fn goes_on(&mut self, done: u128, record: Option<&Record>) -> bool {
        let open = |index: usize| done & (1 << index) == 0;
        let rest = || (0..self.deeds.len()).filter(|index| open(*index));
        let Some(first_answer) = rest().filter_map(|index| self.deeds[index].answered).min() else {
            return true;
        };
        let mut hasher = DefaultHasher::new();
        record.hash(&mut hasher);
        if !self.seen.insert((done, hasher.finish())) {
            return false;
        }
        let candidates: Vec<usize> = rest()
            .filter(|index| self.deeds[*index].asked < first_answer)
            .collect();
        candidates.into_iter().any(|index| match &self.deeds[index].what {
            What::Read(told) => told.as_ref() == record && self.goes_on(done | 1 << index, record),
            What::Change(by, request, told) => {
                let outcome = decide(record.cloned(), request, by);
                told.as_ref().is_none_or(|told| *told == outcome.answer)
                    && self.goes_on(done | 1 << index, outcome.record.as_ref())
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use antipode_tiebreaker::{Boot, Operation, PairingId, State};

    use super::*;

    fn by(site: &str) -> Identity {
        Identity::from_uri(&format!("antipode://site/{site}")).unwrap()
    }

    fn change(site: &str, span: (u64, u64), id: u64, expected: u64, operation: Operation) -> Deed {
        let request = Request {
            id: RequestId(id),
            expected: Generation(expected),
            operation,
            at_unix_seconds: 0,
        };
        Deed {
            vm: "vm".parse().unwrap(),
            asked: span.0,
            answered: Some(span.1),
            what: What::Change(by(site), request, None),
        }
    }

    fn told(mut deed: Deed, record: &mut Option<Record>) -> Deed {
        if let What::Change(by, request, answer) = &mut deed.what {
            let outcome = decide(record.clone(), request, by);
            *record = outcome.record;
            *answer = Some(outcome.answer);
        }
        deed
    }

    fn registered() -> (Vec<Deed>, Option<Record>) {
        let mut record = None;
        let register = change("a", (0, 1), 1, 0, Operation::Register { boot: Boot(1) });
        let pair = Operation::Pair {
            boot: Boot(1),
            backup: "b".parse().unwrap(),
            pairing: PairingId(7),
            flush: antipode_tiebreaker::Flush::Site,
        };
        let first = told(register, &mut record);
        let second = told(change("a", (2, 3), 2, 1, pair), &mut record);
        (vec![first, second], record)
    }

    fn claim(site: &str, span: (u64, u64), id: u64) -> Deed {
        let claim = Operation::Claim {
            pairing: PairingId(7),
            boot: Boot(1),
        };
        change(site, span, id, 2, claim)
    }

    #[test]
    fn what_one_record_did_is_explained_even_where_answers_cross() {
        let (mut deeds, mut record) = registered();
        let won = told(claim("b", (4, 9), 1), &mut record);
        let lost = told(claim("a", (5, 6), 3), &mut record);
        deeds.extend([lost, won]);
        assert_eq!(linearizable(&deeds), Ok(()));
        assert_eq!(winners(&deeds), Ok(()));
    }

    #[test]
    fn planted_two_winners_are_found() {
        let (mut deeds, record) = registered();
        deeds.push(told(claim("b", (4, 9), 1), &mut record.clone()));
        deeds.push(told(claim("a", (5, 6), 3), &mut record.clone()));
        assert!(winners(&deeds).unwrap_err().contains("generation 3"));
        assert!(linearizable(&deeds).is_err());
    }

    #[test]
    fn a_planted_read_of_the_past_is_found() {
        let (mut deeds, mut record) = registered();
        let before = record.clone();
        deeds.push(told(claim("b", (4, 5), 1), &mut record));
        let read = |asked, told: Option<Record>| Deed {
            vm: "vm".parse().unwrap(),
            asked,
            answered: Some(asked + 2),
            what: What::Read(told),
        };
        deeds.push(read(4, before.clone()));
        assert_eq!(linearizable(&deeds), Ok(()), "it may have been before the claim");
        deeds.push(read(6, before));
        assert!(linearizable(&deeds).is_err());
    }

    #[test]
    fn a_planted_loss_of_what_was_granted_is_found() {
        let (mut deeds, record) = registered();
        assert!(matches!(record.as_ref().unwrap().state, State::Paired { .. }));
        let mut forgotten = None;
        let again = change("b", (8, 9), 1, 0, Operation::Register { boot: Boot(2) });
        deeds.push(told(again, &mut forgotten));
        assert!(linearizable(&deeds).is_err());
    }
}
