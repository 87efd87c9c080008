//! Asking the tiebreaker: one request and one reading at a time, each repeated until it is answered.
//!
//! Requests are numbered upward, and the tiebreaker keeps the last number of each site (T2). A host that takes the place of
//! one of its name (P6) begins with no notes: the record tells it which numbers are used.

use antipode_certs::Identity;
use antipode_tiebreaker::{Answer, Generation, Operation, Record, Refusal, RequestId, State};

use super::{Ask, Effect, Phase, ReadId, Refused, Role};
use crate::protocol::limits::ASK_AGAIN;
use crate::protocol::moment::Moment;

/// A request without an answer.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) ask: Ask,
    pub(super) sent_at: Moment,
    /// Since when the outcome is known to be unknown, and whether the request is on its way again.
    pub(super) unknown_since: Option<Moment>,
    pub(super) under_way: bool,
    /// Its number was used by another host of this site's name.
    pub(super) lacks_number: bool,
}

/// Why the record is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Start,
    Stun,
    Unprotect,
    /// Of a candidate whose primary is gone.
    Confirmation,
    Switchover,
    /// Of a poised backup.
    Turned,
    Wake,
    /// Of a request that lacks one.
    Number,
}

#[derive(Debug)]
pub(super) struct Reading {
    pub(super) id: ReadId,
    pub(super) purpose: Purpose,
    pub(super) asked_at: Moment,
    pub(super) under_way: bool,
    /// It was asked before, and the tiebreaker gave no answer.
    pub(super) is_unanswered: bool,
}

/// What the record makes of this site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It runs alone, by this very start.
    Alone,
    /// It is the primary of this very pairing.
    Primary,
    /// It is the backup of this very pairing.
    Backup,
    /// The VM is parked, and this site has a place in it.
    Parked,
    /// Anything else.
    Elsewhere,
}

impl Role {
    /// Sends a new request; whatever was asked before has lost its number.
    pub(super) fn ask(&mut self, operation: Operation) {
        self.ask_of(self.generation, operation);
    }

    fn ask_of(&mut self, expected: Generation, operation: Operation) {
        self.notes.last_request += 1;
        let ask = Ask {
            id: RequestId(self.notes.last_request),
            expected,
            operation,
        };
        self.notes.asked = Some(ask.clone());
        self.emit(Effect::Persist(self.notes.clone()));
        self.emit(Effect::AskTiebreaker(ask.clone()));
        self.asked = Some(Asked {
            ask,
            sent_at: self.now,
            unknown_since: None,
            under_way: true,
            lacks_number: false,
        });
    }

    pub(super) fn read_record(&mut self, purpose: Purpose) {
        self.reads = ReadId(self.reads.0 + 1);
        self.reading = Some(Reading {
            id: self.reads,
            purpose,
            asked_at: self.now,
            under_way: true,
            is_unanswered: self.is_unread(),
        });
        self.emit(Effect::ReadRecord(self.reads));
    }

    /// The same as [`Self::read_record`], after a while.
    pub(super) fn read_later(&mut self, purpose: Purpose) {
        self.reading = Some(Reading {
            id: self.reads,
            purpose,
            asked_at: self.now,
            under_way: false,
            is_unanswered: self.is_unread(),
        });
    }

    /// Whether something waits for a reading that the tiebreaker does not answer.
    pub(super) fn is_unread(&self) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.is_unanswered)
    }

    /// The same again of what got no answer.
    pub(super) fn ask_again(&mut self) {
        if let Some(asked) = &mut self.asked
            && !asked.under_way
            && !asked.lacks_number
            && self.now.saturating_since(asked.sent_at) >= ASK_AGAIN
        {
            asked.under_way = true;
            asked.sent_at = self.now;
            let ask = asked.ask.clone();
            self.emit(Effect::AskTiebreaker(ask));
        }
        if let Some(reading) = &self.reading
            && !reading.under_way
            && self.now.saturating_since(reading.asked_at) >= ASK_AGAIN
        {
            let purpose = reading.purpose;
            self.read_record(purpose);
        }
        self.read_number();
    }

    /// Reads which numbers are used, if a request needs to know.
    fn read_number(&mut self) {
        if self.reading.is_none() && self.asked.as_ref().is_some_and(|asked| asked.lacks_number) {
            self.read_record(Purpose::Number);
        }
    }

    /// Goes on from the last number that was used in this site's name, with what was refused for its own.
    fn take_number(&mut self, record: &Record) {
        let own = Identity {
            role: antipode_certs::Role::Site,
            name: self.settings.own.clone(),
        };
        let used = record.remembered_of(&own).map_or(0, |last| last.id.0);
        self.notes.last_request = self.notes.last_request.max(used);
        if let Some(asked) = self.asked.take_if(|asked| asked.lacks_number) {
            self.ask_of(asked.ask.expected, asked.ask.operation);
        }
    }

    pub(super) fn answered(&mut self, id: RequestId, answer: Option<Box<Answer>>) {
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.ask.id == id) else {
            return;
        };
        asked.under_way = false;
        let Some(answer) = answer else {
            if asked.unknown_since.is_none() {
                asked.unknown_since = Some(self.now);
                self.emit(Effect::Report);
            }
            return;
        };
        if let Err(Refusal::Superseded | Refusal::NumberReused) = answer.verdict {
            asked.lacks_number = true;
            return self.read_number();
        }
        self.asked = None;
        self.notes.asked = None;
        self.generation = answer.generation;
        let granted = answer.verdict.is_ok();
        let standing = self.standing(answer.state.as_ref());
        // What was asked for before this site slept was asked for anew: this answer is of now.
        if matches!(standing, Standing::Alone | Standing::Primary) {
            self.end_doubt();
        }
        match self.phase {
            Phase::Starting => self.start_answered(granted, standing, &answer),
            Phase::Pairing => self.pair_answered(granted, standing),
            Phase::Cancelling => self.cancel_answered(granted, standing),
            Phase::Settling => self.settle_answered(granted, standing),
            Phase::Claiming(side) => self.claim_answered(side, granted, standing, answer.state.as_ref()),
            Phase::Parking => self.park_answered(granted, standing),
            Phase::Swapping => self.swap_answered(granted, standing, answer.state.as_ref()),
            _ => {}
        }
    }

    pub(super) fn record_read(&mut self, read: ReadId, record: Option<Option<Box<Record>>>) {
        let Some(reading) = self.reading.as_mut().filter(|reading| reading.id == read) else {
            return;
        };
        reading.under_way = false;
        let (purpose, asked_at) = (reading.purpose, reading.asked_at);
        let was_unanswered = std::mem::replace(&mut reading.is_unanswered, record.is_none());
        let Some(record) = record else {
            match purpose {
                // They are not asked again by themselves, so nothing is waited for.
                Purpose::Unprotect => {
                    self.reading = None;
                    self.emit(Effect::Refuse(Refused::TiebreakerSilent));
                }
                Purpose::Switchover => {
                    self.reading = None;
                    self.drop_turn(Refused::TiebreakerSilent);
                }
                _ if was_unanswered => {}
                _ => self.emit(Effect::Report),
            }
            return;
        };
        self.reading = None;
        let record = record.as_deref();
        if let Some(record) = record {
            self.take_number(record);
        }
        match purpose {
            Purpose::Start => self.start_read(record),
            Purpose::Stun => self.stun_read(record, asked_at),
            Purpose::Unprotect => self.unprotect_read(record),
            Purpose::Confirmation => self.confirmation_read(record),
            Purpose::Switchover => self.switchover_read(record),
            Purpose::Turned => self.turned_read(record),
            Purpose::Wake => self.wake_read(record),
            Purpose::Number => {}
        }
    }

    pub(super) fn standing(&self, state: Option<&State>) -> Standing {
        let own = &self.settings.own;
        match state {
            Some(State::Solo { site, boot }) if site == own && *boot == Some(self.settings.boot) => {
                Standing::Alone
            }
            Some(State::Paired {
                primary,
                backup,
                pairing,
                ..
            }) if Some(*pairing) == self.pairing => {
                if primary == own {
                    Standing::Primary
                } else if backup == own {
                    Standing::Backup
                } else {
                    Standing::Elsewhere
                }
            }
            Some(state @ State::Parked { .. }) if state.names(own) => Standing::Parked,
            _ => Standing::Elsewhere,
        }
    }
}
