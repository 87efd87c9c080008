//! The decision about one request.
//!
//! In this order: may this role ask for it at all; is it a copy of an earlier request; is the generation the present
//! one; does the state allow it to this caller. `policy.txt` beside this file lists the outcomes, row by row.

use antipode_certs::{Identity, Name, Role};

use crate::record::{
    Boot, Flush, Generation, HistoryEntry, Incarnation, Outcome, Record, Remembered, Settings, State,
};
use crate::request::{Answer, Hold, Operation, Reason, Refusal, Request};

/// What is granted.
enum Grant {
    /// Another holder: the generation rises.
    State(State),
    /// The same holder: the generation stays.
    Settings(Settings),
}

/// What becomes of `record` when `caller` makes `request`, and what it is told. `caller` comes from the certificate
/// of the connection, never from the request.
#[must_use]
pub fn decide(record: Option<Record>, request: &Request, caller: &Identity) -> Outcome {
    let role = if request.operation.is_operators() {
        Role::Operator
    } else {
        Role::Site
    };
    if caller.role != role {
        return refused(record, Refusal::Role);
    }
    let Some(record) = record else {
        return match register_first(request, caller) {
            Ok(state) => granted(newborn(), Grant::State(state), request, caller),
            Err(refusal) => refused(None, refusal),
        };
    };
    if let Some(last) = record.remembered_of(caller) {
        let same = (last.expected, &last.operation) == (request.expected, &request.operation);
        let repeated = match request.id.cmp(&last.id) {
            std::cmp::Ordering::Greater => None,
            std::cmp::Ordering::Equal if same => Some(last.answer.clone()),
            std::cmp::Ordering::Equal => Some(answer(Some(&record), Err(Refusal::NumberReused))),
            std::cmp::Ordering::Less => Some(answer(Some(&record), Err(Refusal::Superseded))),
        };
        if let Some(answer) = repeated {
            return Outcome {
                record: Some(record),
                answer,
            };
        }
    }
    match judge(&record, request, caller) {
        Ok(grant) => granted(record, grant, request, caller),
        Err(refusal) => refused_known(record, refusal, request, caller),
    }
}

fn register_first(request: &Request, caller: &Identity) -> Result<State, Refusal> {
    match request.operation {
        Operation::Register { boot } if request.expected == Generation::NONE => Ok(solo(&caller.name, boot)),
        Operation::Register { .. } => Err(Refusal::Generation),
        _ => Err(Refusal::Unknown),
    }
}

/// The record of a name that was never registered, before its first change.
fn newborn() -> Record {
    Record {
        incarnation: Incarnation(0),
        generation: Generation::NONE,
        state: State::Retired,
        settings: Settings {
            preferred: None,
            flush: Flush::Site,
        },
        history: Vec::new(),
        remembered: Vec::new(),
    }
}

fn judge(record: &Record, request: &Request, caller: &Identity) -> Result<Grant, Refusal> {
    let retired = record.state == State::Retired;
    if matches!(request.operation, Operation::Register { .. }) && !retired {
        return Err(Refusal::Registered);
    }
    if request.expected != record.generation {
        return Err(Refusal::Generation);
    }
    match &request.operation {
        Operation::Register { boot } => Ok(Grant::State(solo(&caller.name, *boot))),
        _ if retired => Err(Refusal::State),
        Operation::Configure { preferred, flush } => Ok(Grant::Settings(Settings {
            preferred: preferred.clone(),
            flush: *flush,
        })),
        Operation::Force { site, .. } => Ok(Grant::State(State::Solo {
            site: site.clone(),
            boot: None,
        })),
        Operation::Retire { .. } => match record.state {
            // A protected VM is not given up by one word: it is parked first, or one site claims.
            State::Paired { .. } => Err(Refusal::State),
            _ => Ok(Grant::State(State::Retired)),
        },
        _ if !record.state.names(&caller.name) => Err(Refusal::NotASite),
        operation => judge_site(&record.state, &record.settings, operation, &caller.name).map(Grant::State),
    }
}

/// What `caller`, a site of the VM, may make of `state`.
fn judge_site(
    state: &State,
    settings: &Settings,
    operation: &Operation,
    caller: &Name,
) -> Result<State, Refusal> {
    match (operation, state) {
        (Operation::Claim { pairing, boot }, State::Paired { pairing: held, .. }) => {
            require(pairing == held, Refusal::Pairing)?;
            Ok(solo(caller, *boot))
        }
        (
            Operation::Pair {
                boot,
                backup,
                pairing,
                flush,
            },
            State::Solo { boot: held, .. },
        ) => {
            require(*held == Some(*boot), Refusal::Boot)?;
            require(backup != caller, Refusal::NotASite)?;
            require(*flush == settings.flush, Refusal::Flush)?;
            Ok(State::Paired {
                primary: caller.clone(),
                backup: backup.clone(),
                pairing: *pairing,
                flush: *flush,
            })
        }
        (Operation::CancelPair { boot }, State::Solo { boot: held, .. }) => {
            require(*held == Some(*boot), Refusal::Boot)?;
            Ok(state.clone())
        }
        (
            Operation::Swap { pairing, turned },
            State::Paired {
                primary,
                backup,
                pairing: held,
                flush,
            },
        ) => {
            require(primary == caller, Refusal::NotPrimary)?;
            require(pairing == held && turned != held, Refusal::Pairing)?;
            Ok(State::Paired {
                primary: backup.clone(),
                backup: primary.clone(),
                pairing: *turned,
                flush: *flush,
            })
        }
        (Operation::Park { hold, position }, _) => {
            let backup = judge_hold(state, *hold, caller)?;
            Ok(State::Parked {
                primary: caller.clone(),
                backup,
                position: *position,
            })
        }
        (Operation::ColdStart { boot }, _) => judge_start(state, *boot, caller),
        _ => Err(Refusal::State),
    }
}

/// Whether `caller` is live in `state`, by `hold`; answers with its backup.
fn judge_hold(state: &State, hold: Hold, caller: &Name) -> Result<Option<Name>, Refusal> {
    match (state, hold) {
        (State::Solo { boot, .. }, Hold::Boot(named)) => {
            require(*boot == Some(named), Refusal::Boot).map(|()| None)
        }
        (
            State::Paired {
                primary,
                backup,
                pairing,
                ..
            },
            Hold::Pairing(named),
        ) => {
            require(primary == caller, Refusal::NotPrimary)?;
            require(*pairing == named, Refusal::Pairing).map(|()| Some(backup.clone()))
        }
        _ => Err(Refusal::State),
    }
}

/// Whether `caller` may start from its disk when nobody is live. Nobody here can know that; what is known is whose
/// disk holds all that clients were told: the live site's, the backup's if flushes waited for it, both if parked.
fn judge_start(state: &State, boot: Boot, caller: &Name) -> Result<State, Refusal> {
    match state {
        State::Solo { boot: held, .. } => require(*held != Some(boot), Refusal::Boot)?,
        State::Paired { primary, flush, .. } => {
            require(primary == caller || *flush == Flush::Both, Refusal::NotDurable)?;
        }
        State::Parked { .. } => {}
        State::Retired => return Err(Refusal::State),
    }
    Ok(solo(caller, boot))
}

fn require(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal) }
}

fn solo(site: &Name, boot: Boot) -> State {
    State::Solo {
        site: site.clone(),
        boot: Some(boot),
    }
}

fn granted(mut record: Record, grant: Grant, request: &Request, caller: &Identity) -> Outcome {
    let before = record.generation;
    match grant {
        Grant::State(state) => {
            if record.state == State::Retired {
                record.incarnation = Incarnation(record.incarnation.0 + 1);
            }
            record.generation = before.next();
            record.state = state;
        }
        Grant::Settings(settings) => record.settings = settings,
    }
    assert!(
        request.expected == before,
        "a request is granted in the generation that it names alone"
    );
    record.note(HistoryEntry {
        generation: record.generation,
        by: caller.clone(),
        operation: request.operation.name(),
        site: match &request.operation {
            Operation::Force { site, .. } => Some(site.clone()),
            _ => None,
        },
        reason: reason_of(&request.operation).cloned(),
        at_unix_seconds: request.at_unix_seconds,
    });
    let answer = answer(Some(&record), Ok(()));
    record.remember(remembered(request, caller, &answer));
    Outcome {
        record: Some(record),
        answer,
    }
}

fn refused(record: Option<Record>, refusal: Refusal) -> Outcome {
    let answer = answer(record.as_ref(), Err(refusal));
    Outcome { record, answer }
}

/// A refusal is remembered too, so that a late copy is not granted after all. Of strangers nothing is kept: they
/// would push out the answers of those who matter.
fn refused_known(mut record: Record, refusal: Refusal, request: &Request, caller: &Identity) -> Outcome {
    let answer = answer(Some(&record), Err(refusal));
    let known = caller.role == Role::Operator
        || record.state.names(&caller.name)
        || record.remembered_of(caller).is_some();
    if known {
        record.remember(remembered(request, caller, &answer));
    }
    Outcome {
        record: Some(record),
        answer,
    }
}

fn remembered(request: &Request, caller: &Identity, answer: &Answer) -> Remembered {
    Remembered {
        by: caller.clone(),
        id: request.id,
        expected: request.expected,
        operation: request.operation.clone(),
        answer: answer.clone(),
    }
}

fn answer(record: Option<&Record>, verdict: Result<(), Refusal>) -> Answer {
    Answer {
        verdict,
        generation: record.map_or(Generation::NONE, |record| record.generation),
        state: record.map(|record| record.state.clone()),
    }
}

fn reason_of(operation: &Operation) -> Option<&Reason> {
    match operation {
        Operation::Force { reason, .. } | Operation::Retire { reason } => Some(reason),
        _ => None,
    }
}
