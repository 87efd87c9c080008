//! `policy.txt`, decided row by row.

use antipode_certs::{Identity, Name};

use crate::*;

const TABLE: &str = include_str!("../policy.txt");

/// The generation of every record in the table.
const PRESENT: Generation = Generation(5);

fn number(word: &str) -> u64 {
    word.parse().unwrap()
}

fn name(word: &str) -> Name {
    word.parse().unwrap()
}

fn named(word: &str) -> Option<Name> {
    (word != "-").then(|| name(word))
}

fn flush(word: &str) -> Flush {
    match word {
        "site" => Flush::Site,
        "both" => Flush::Both,
        other => panic!("{other} is no way to flush"),
    }
}

fn state(text: &str) -> State {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        ["solo", site, boot] => State::Solo {
            site: name(site),
            boot: (boot != "-").then(|| Boot(number(boot))),
        },
        ["paired", primary, backup, pairing, how] => State::Paired {
            primary: name(primary),
            backup: name(backup),
            pairing: PairingId(number(pairing)),
            flush: flush(how),
        },
        ["parked", primary, backup] => State::Parked {
            primary: name(primary),
            backup: named(backup),
            position: Position(9),
        },
        ["retired"] => State::Retired,
        _ => panic!("{text} is no record"),
    }
}

fn record(text: &str) -> Option<Record> {
    let (text, wanted) = text.split_once(" wants ").unwrap_or((text, "site"));
    (text != "absent").then(|| Record {
        incarnation: Incarnation(1),
        generation: PRESENT,
        state: state(text),
        settings: Settings {
            preferred: None,
            flush: flush(wanted),
        },
        history: Vec::new(),
        remembered: Vec::new(),
    })
}

fn operation(text: &str) -> Operation {
    let words: Vec<&str> = text.split_whitespace().collect();
    let boot = |word| Boot(number(word));
    let pairing = |word| PairingId(number(word));
    let reason = || Reason::new("the row says so").unwrap();
    match words[..] {
        ["register", start] => Operation::Register { boot: boot(start) },
        ["claim", held, start] => Operation::Claim {
            pairing: pairing(held),
            boot: boot(start),
        },
        ["pair", start, backup, new, how] => Operation::Pair {
            boot: boot(start),
            backup: name(backup),
            pairing: pairing(new),
            flush: flush(how),
        },
        ["cancel_pair", start] => Operation::CancelPair { boot: boot(start) },
        ["swap", held, turned] => Operation::Swap {
            pairing: pairing(held),
            turned: pairing(turned),
        },
        ["park", by, held] => Operation::Park {
            hold: match by {
                "boot" => Hold::Boot(boot(held)),
                _ => Hold::Pairing(pairing(held)),
            },
            position: Position(9),
        },
        ["cold_start", start] => Operation::ColdStart { boot: boot(start) },
        ["configure", preferred, how] => Operation::Configure {
            preferred: named(preferred),
            flush: flush(how),
        },
        ["force", site] => Operation::Force {
            site: name(site),
            reason: reason(),
        },
        ["retire"] => Operation::Retire { reason: reason() },
        _ => panic!("{text} is no operation"),
    }
}

/// What the table should say, given what was decided.
fn told(before: Option<&Record>, outcome: &Outcome) -> String {
    let after = outcome.record.as_ref();
    let generation = |record: Option<&Record>| record.map_or(Generation::NONE, |record| record.generation);
    match outcome.answer.verdict {
        Err(refusal) => {
            assert_eq!(
                after.map(|record| &record.state),
                before.map(|record| &record.state)
            );
            assert_eq!(generation(after), generation(before));
            format!("no: {}", refusal.name())
        }
        Ok(()) if generation(after) == generation(before) => "unchanged".to_owned(),
        Ok(()) => {
            assert_eq!(generation(after), generation(before).next());
            let state = after.unwrap().state.clone();
            let or_dash = |name: Option<String>| name.unwrap_or_else(|| "-".to_owned());
            match state {
                State::Solo { site, boot } => format!("solo {site} {}", or_dash(boot.map(|b| b.to_string()))),
                State::Paired {
                    primary,
                    backup,
                    pairing,
                    flush,
                } => {
                    let how = if flush == Flush::Both { "both" } else { "site" };
                    format!("paired {primary} {backup} {pairing} {how}")
                }
                State::Parked {
                    primary,
                    backup,
                    position,
                } => {
                    assert_eq!(position, Position(9));
                    format!("parked {primary} {}", or_dash(backup.map(|b| b.to_string())))
                }
                State::Retired => "retired".to_owned(),
            }
        }
    }
}

#[test]
fn every_row_is_decided_as_it_says() {
    let rows: Vec<(usize, &str)> = TABLE
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .collect();
    assert!(rows.len() > 80, "only {} rows were read", rows.len());
    let mut wrong = Vec::new();
    for (line, row) in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [before, asked, caller, expected] = cells[..] else {
            panic!("policy.txt:{line}: {row}")
        };
        let before = record(before);
        let (old, asked) = asked
            .strip_prefix("@old ")
            .map_or((false, asked), |asked| (true, asked));
        let present = before
            .as_ref()
            .map_or(Generation::NONE, |record| record.generation);
        let request = Request {
            id: RequestId(1),
            expected: if old { Generation(4) } else { present },
            operation: operation(asked),
            at_unix_seconds: 0,
        };
        let caller = Identity::from_uri(&format!("antipode://{caller}")).unwrap();
        let outcome = decide(before.clone(), &request, &caller);
        assert_eq!(
            outcome.answer.state,
            outcome.record.as_ref().map(|record| record.state.clone())
        );
        let decided = told(before.as_ref(), &outcome);
        if decided != expected {
            wrong.push(format!("policy.txt:{line}: {row}\n    decided: {decided}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A row for each operation by each kind of caller in each state it is meant for is a matter of reading; that none
/// is forgotten altogether is checked.
#[test]
fn every_operation_and_every_refusal_of_the_state_has_a_row() {
    for word in [
        "register",
        "claim",
        "pair",
        "cancel_pair",
        "swap",
        "park",
        "cold_start",
        "configure",
        "force",
        "retire",
    ] {
        let asked = |line: &str| {
            line.split('|')
                .nth(1)
                .is_some_and(|cell| cell.split_whitespace().any(|first| first == word))
        };
        assert!(TABLE.lines().any(asked), "{word}");
    }
    for refusal in [
        Refusal::Role,
        Refusal::Unknown,
        Refusal::Registered,
        Refusal::Generation,
        Refusal::NotASite,
        Refusal::State,
        Refusal::Pairing,
        Refusal::Boot,
        Refusal::NotPrimary,
        Refusal::NotDurable,
        Refusal::Flush,
    ] {
        assert!(TABLE.contains(&format!("no: {}\n", refusal.name())), "{refusal}");
    }
}
