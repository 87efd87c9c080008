//! From nothing to a live VM: `register` or `cold_start` is granted before anything runs.

use antipode_tiebreaker::{Answer, Flush, Operation, Record, Refusal, State};

use super::{Cause, Effect, Gate, Phase, Purpose, Refused, Replica, Role, Standing};
use crate::protocol::limits::COLD_START_GRACE;

impl Role {
    pub(super) fn start(&mut self, replica: Replica) {
        if self.phase != Phase::Idle {
            return self.emit(Effect::Refuse(Refused::State));
        }
        self.replica = replica;
        self.enter(Phase::Starting, None);
        self.read_record(Purpose::Start);
    }

    /// After an outage: what an operator has stopped, or given up, stays so.
    pub(super) fn resume(&mut self, replica: Replica) {
        self.resumes = self.phase == Phase::Idle;
        self.start(replica);
    }

    /// Nothing runs here and nothing will, in this process.
    pub(super) fn end(&mut self, phase: Phase, cause: Cause) {
        if phase == Phase::Stale {
            self.emit(Effect::MarkStale);
        }
        self.enter(phase, Some(cause));
    }

    pub(super) fn start_read(&mut self, record: Option<&Record>) {
        let state = record.map(|record| &record.state);
        match state {
            None | Some(State::Retired) if self.resumes => return self.end(Phase::Stopped, Cause::NotASite),
            Some(State::Parked { .. }) if self.resumes => return self.end(Phase::Stopped, Cause::Stopped),
            _ => {}
        }
        let Some(record) = record else {
            return self.register();
        };
        self.generation = record.generation;
        self.take_settings(record);
        let own = &self.settings.own;
        match &record.state {
            State::Retired => self.register(),
            // What this very start had asked for was granted, and the answer was lost.
            State::Solo { site, boot } if site == own && *boot == Some(self.settings.boot) => self.started(),
            State::Solo { site, boot: None } if site == own => self.start_by_force(),
            State::Solo { site, .. } if site == own => self.cold_start(),
            State::Solo { .. } => self.end(Phase::Stale, Cause::Lost),
            State::Paired { primary, backup, .. } if primary != own && backup != own => {
                self.end(Phase::Stale, Cause::NotASite);
            }
            State::Paired { pairing, .. } if self.notes.renounced == Some(*pairing) => {
                self.end(Phase::Stale, Cause::Renounced);
            }
            State::Paired { primary, flush, .. } if primary != own && *flush == Flush::Site => {
                self.end(Phase::Stopped, Cause::OnlyPrimaryMayStart);
            }
            // The other site may run, and is about to claim: it has all of memory, this one only a disk.
            State::Paired { .. } if self.now.saturating_since(self.since) < COLD_START_GRACE => {
                self.read_later(Purpose::Start);
            }
            State::Paired { .. } => self.cold_start(),
            state @ State::Parked { .. } if state.names(own) => self.cold_start(),
            State::Parked { .. } => self.end(Phase::Stopped, Cause::NotASite),
        }
    }

    fn register(&mut self) {
        let boot = self.settings.boot;
        self.ask_if_clean(Operation::Register { boot });
    }

    fn cold_start(&mut self) {
        let boot = self.settings.boot;
        self.ask_if_clean(Operation::ColdStart { boot });
    }

    /// An operator says that this site starts with what it has. Half of a sync is not a disk, whoever says so (D5).
    fn start_by_force(&mut self) {
        if self.replica == Replica::Stale {
            self.emit(Effect::AdoptReplica);
            self.replica = Replica::Clean;
        }
        self.cold_start();
    }

    fn ask_if_clean(&mut self, operation: Operation) {
        if self.replica == Replica::Clean {
            self.ask(operation);
        } else {
            self.end(Phase::Stopped, Cause::ReplicaNotClean);
        }
    }

    pub(super) fn start_answered(&mut self, granted: bool, standing: Standing, answer: &Answer) {
        if granted || standing == Standing::Alone {
            return self.started();
        }
        match answer.verdict {
            // Another change came first: what it is decides.
            Err(Refusal::Generation | Refusal::Registered | Refusal::Unknown) => {
                self.read_record(Purpose::Start)
            }
            _ => self.end(Phase::Stopped, Cause::StartRefused),
        }
    }

    fn started(&mut self) {
        self.emit(Effect::StartGuest);
        self.enter(Phase::Alone, None);
        self.announces = true;
        self.set_gate(Gate::Open);
    }
}
