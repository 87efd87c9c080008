//! The backup takes over: it stands where the primary does, confirms, and leads.

use antipode_tiebreaker::{Generation, PairingId, Record, State};

use super::super::{Cause, Effect, Gate, Phase, Purpose, Refused, Role, Side, Word, backup};
use super::Turn;
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::protocol::limits::POISED_PATIENCE;

impl Role {
    pub(in crate::protocol::role) fn primary_turns(&mut self, turned: PairingId, position: ExitOrdinal) {
        let suspecting = self.phase == Phase::Suspecting(Side::Backup);
        if !self.backup.confirmed
            || !(suspecting || matches!(self.phase, Phase::Backup | Phase::Taking | Phase::Poised))
        {
            return;
        }
        if self.turn.is_none_or(|turn| turn.turned != turned) {
            self.backup.durable_at = None;
            self.turn = Some(Turn {
                stands: Some((position, LogSeq::default())),
                ..Turn::into(turned)
            });
            if !suspecting {
                self.enter(Phase::Taking, None);
            }
        }
        self.be_poised_if_ready();
    }

    /// What is missing of what the primary waits for is asked for; what was confirmed is said again.
    pub(in crate::protocol::role) fn be_poised_if_ready(&mut self) {
        let (Some(pairing), Some(turn)) = (self.pairing, self.turn) else {
            return;
        };
        let Some((position, _)) = turn.stands else { return };
        match self.phase {
            Phase::Poised => self.emit(Effect::Tell(Word::Poised { pairing, position })),
            // Its digests agreed when it came to stand there.
            Phase::Taking if self.backup.stood_at != Some(position) => {}
            Phase::Taking if self.backup.durable_at != Some(position) => self.emit(Effect::MakeDurable),
            Phase::Taking => {
                self.turn = Some(Turn {
                    poised: Some(self.now),
                    ..turn
                });
                self.enter(Phase::Poised, None);
                self.emit(Effect::ExpectTurned(turn.turned));
                self.emit(Effect::Tell(Word::Poised { pairing, position }));
            }
            _ => {}
        }
    }

    /// The primary has given the switchover up.
    pub(in crate::protocol::role) fn primary_goes_on(&mut self) {
        if self.phase.follows() {
            self.backup.stood_at = None;
            self.turn = None;
            if matches!(self.phase, Phase::Taking | Phase::Poised) {
                self.reading = None;
                self.enter(Phase::Backup, None);
            }
        }
    }

    /// The outcome is frozen here until it is known: it is asked for too.
    pub(in crate::protocol::role) fn tick_poised(&mut self) {
        if self.reading.is_none() {
            self.read_later(Purpose::Turned);
        }
    }

    pub(in crate::protocol::role) fn turned_read(&mut self, record: Option<&Record>) {
        let suspecting = self.phase == Phase::Suspecting(Side::Backup);
        let Some(turn) = self.turn.filter(|_| suspecting || self.phase == Phase::Poised) else {
            return;
        };
        let state = record.map(|record| &record.state);
        if self.is_turned_in(state, Side::Primary)
            && let Some(record) = record
        {
            self.take_settings(record);
            return self.lead_turned(record.generation);
        }
        let waited = turn
            .poised
            .map_or_else(Default::default, |since| self.now.saturating_since(since));
        if self.phase == Phase::Poised && waited >= POISED_PATIENCE {
            self.cause = Some(Cause::SwapUnknown);
            self.close_to_claim();
        }
    }

    /// The primary says that the swap was granted. It may have claimed since, if this site has slept, or has heard nothing
    /// for as long as that takes: then the record is asked.
    pub(in crate::protocol::role) fn told_turned(&mut self, generation: Generation, sender_preferred: bool) {
        let Some(turn) = self.turn.filter(Turn::is_poised) else {
            return;
        };
        match self.phase {
            Phase::Poised if !turn.slept => {
                self.preferred = !sender_preferred;
                self.lead_turned(generation);
            }
            Phase::Poised | Phase::Suspecting(Side::Backup) => self.read_record(Purpose::Turned),
            _ => {}
        }
    }

    /// This site has slept: what was read before does not count either.
    pub(in crate::protocol::role) fn sleep_in_turn(&mut self) {
        if let Some(turn) = &mut self.turn
            && self.phase.follows()
        {
            turn.slept = true;
            self.reading = None;
        }
    }

    fn lead_turned(&mut self, generation: Generation) {
        let Some(turn) = self.turn.take() else { return };
        self.generation = generation;
        self.pairing = Some(turn.turned);
        self.backup = backup::Following::default();
        self.announces = false;
        self.begin_turned(Side::Primary);
        self.tell_confirmed();
        self.set_gate(Gate::Acknowledged);
    }

    /// A claim of the old pairing came too late if the swap had been granted: then the turned one is claimed.
    pub(in crate::protocol::role) fn claims_turned(&mut self, state: Option<&State>) -> bool {
        let is_turned = self.is_turned_in(state, Side::Primary);
        if is_turned && let Some(turn) = self.turn.take() {
            self.pairing = Some(turn.turned);
            self.ask_claim();
        }
        is_turned
    }

    /// The other site's primary could not do what an operator asked for here.
    pub(in crate::protocol::role) fn not_switched(&mut self, why: Refused) {
        self.emit(Effect::Refuse(why));
    }
}
