//! The primary yields: it stands still, asks for `swap`, and follows.

use antipode_tiebreaker::{Generation, Operation, PairingId, Record, State};

use super::super::{Cause, Effect, Gate, Phase, Purpose, Refused, Role, Side, Standing, Word, backup};
use super::{Turn, Waiting};
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::protocol::detector::Level;
use crate::protocol::limits::{ASK_AGAIN, CATCHING_UP_PATIENCE, LAG_TARGET, YIELDING_PATIENCE};

impl Role {
    /// The other site is to go on, and this one to follow; `turned` names the pairing that there will be.
    pub(in crate::protocol::role) fn switch_over(&mut self, turned: PairingId) {
        match (self.phase, self.pairing) {
            (Phase::Backup, Some(pairing)) => {
                self.emit(Effect::Tell(Word::PleaseSwitch { pairing, turned }));
            }
            _ => self.begin_turn(turned, false),
        }
    }

    /// The other site's operator wants it.
    pub(in crate::protocol::role) fn asked_to_switch(&mut self, turned: PairingId) {
        self.begin_turn(turned, true);
    }

    fn begin_turn(&mut self, turned: PairingId, by_peer: bool) {
        let turn = Turn {
            by_peer,
            ..Turn::into(turned)
        };
        let waiting = Waiting {
            turn,
            since: self.now,
        };
        match self.turn_waits {
            Some(_) => self.refuse_turn(turn, Refused::Busy),
            None => self.begin_turn_if_near(waiting),
        }
    }

    /// Begins what waits if it need not wait any more, or may not.
    pub(in crate::protocol::role) fn begin_waiting_turn(&mut self) {
        if let Some(waiting) = self.turn_waits.take() {
            self.begin_turn_if_near(waiting);
        }
    }

    fn begin_turn_if_near(&mut self, waiting: Waiting) {
        let waited = self.now.saturating_since(waiting.since);
        match self.why_not_turn() {
            Some(Refused::LagTooHigh) if waited < CATCHING_UP_PATIENCE => self.turn_waits = Some(waiting),
            Some(why) => self.refuse_turn(waiting.turn, why),
            None => {
                self.turn = Some(waiting.turn);
                self.read_record(Purpose::Switchover);
            }
        }
    }

    fn why_not_turn(&self) -> Option<Refused> {
        let behind = self
            .gauges
            .lateness()
            .saturating_sub(self.detector.round_trip_p50());
        match self.phase {
            Phase::Primary if self.doubt.is_some() || self.reading.is_some() || self.stop_wanted => {
                Some(Refused::Busy)
            }
            Phase::Primary if self.detector.of_backup(self.now) != Level::Fine => Some(Refused::PeerSilent),
            Phase::Primary if behind > LAG_TARGET => Some(Refused::LagTooHigh),
            Phase::Primary => None,
            Phase::Alone => Some(Refused::NotProtected),
            phase if phase.is_live() || phase.follows() => Some(Refused::Busy),
            _ => Some(Refused::State),
        }
    }

    fn refuse_turn(&mut self, turn: Turn, why: Refused) {
        self.emit(Effect::Refuse(why));
        if let Some(pairing) = self.pairing.filter(|_| turn.by_peer) {
            self.emit(Effect::Tell(Word::NotSwitched { pairing, why }));
        }
    }

    /// Nothing has begun, and nothing will.
    pub(in crate::protocol::role) fn drop_turn(&mut self, why: Refused) {
        if let Some(turn) = self.turn.take() {
            self.refuse_turn(turn, why);
        }
    }

    /// The tiebreaker answers, so the two will not be frozen for long.
    pub(in crate::protocol::role) fn switchover_read(&mut self, record: Option<&Record>) {
        if self.phase != Phase::Primary {
            return self.drop_turn(Refused::Busy);
        }
        let Some(record) = record.filter(|record| self.standing(Some(&record.state)) == Standing::Primary)
        else {
            return self.lose(Cause::Lost);
        };
        if let Some(turn) = &mut self.turn {
            turn.preferred = record.settings.preferred.as_ref() == Some(&self.settings.own);
        }
        self.enter(Phase::Yielding, None);
        self.emit(Effect::StandStill);
    }

    /// The guest stands; here, or in the copy that follows.
    pub(in crate::protocol::role) fn stood_still(&mut self, position: ExitOrdinal, logged: LogSeq) {
        if self.phase.follows() {
            self.backup.stood_at = Some(position);
            return self.be_poised_if_ready();
        }
        if self.phase == Phase::Yielding
            && let Some(turn) = &mut self.turn
        {
            turn.stands = Some((position, logged));
            self.tell_turning();
        } else if self.phase.is_live() {
            // It was given up before the guest stood; the log says by itself that it goes on.
            self.tell_goes_on();
        }
    }

    fn tell_turning(&mut self) {
        if let (Some(pairing), Some(turn)) = (self.pairing, self.turn)
            && let Some((position, _)) = turn.stands
        {
            self.pleaded_at = Some(self.now);
            self.emit(Effect::Tell(Word::Turning {
                pairing,
                turned: turn.turned,
                position,
            }));
        }
    }

    fn tell_goes_on(&mut self) {
        if let Some(pairing) = self.pairing {
            self.emit(Effect::Tell(Word::GoesOn { pairing }));
        }
    }

    pub(in crate::protocol::role) fn tick_yielding(&mut self) {
        self.detector
            .waits(self.now, self.gauges.position, self.gauges.waits);
        if self.now.saturating_since(self.since) >= YIELDING_PATIENCE {
            return self.turn_no_more(Refused::SwitchTooLong);
        }
        if self.detector.of_backup(self.now) != Level::Fine {
            self.turn_no_more(Refused::PeerSilent);
            return self.tick_primary();
        }
        // The word may have been lost.
        if self.now.saturating_since(self.pleaded_at.unwrap_or(self.since)) >= ASK_AGAIN {
            self.tell_turning();
        }
    }

    /// `swap` was not asked, or is refused for good: this site goes on as it was.
    fn turn_no_more(&mut self, why: Refused) {
        let Some(turn) = self.turn.take() else { return };
        self.enter(Phase::Primary, None);
        self.emit(Effect::GoOn);
        if turn.stands.is_some() {
            self.tell_goes_on();
        }
        self.refuse_turn(turn, why);
        self.set_gate(Gate::Acknowledged);
        self.stop_if_wanted();
    }

    /// By command, the primary is not to yield after all.
    pub(in crate::protocol::role) fn stay(&mut self) {
        match self.phase {
            Phase::Yielding => self.turn_no_more(Refused::Cancelled),
            Phase::Primary if self.turn_waits.is_some() => {
                if let Some(waiting) = self.turn_waits.take() {
                    self.refuse_turn(waiting.turn, Refused::Cancelled);
                }
            }
            Phase::Primary if self.turn.is_some() => {
                self.reading = None;
                self.drop_turn(Refused::Cancelled);
            }
            Phase::Swapping => self.emit(Effect::Refuse(Refused::TooLate)),
            _ => self.emit(Effect::Refuse(Refused::State)),
        }
    }

    /// A primary that yields has something more urgent to do; it goes on in its pairing first.
    pub(in crate::protocol::role) fn yield_no_more(&mut self) {
        if self.phase == Phase::Yielding {
            self.turn_no_more(Refused::Busy);
        }
    }

    /// The backup stands at the same place, is the same machine, and its replica is durable.
    pub(in crate::protocol::role) fn backup_poised(&mut self, position: ExitOrdinal) {
        let (Phase::Yielding, Some(turn), Some(pairing)) = (self.phase, self.turn, self.pairing) else {
            return;
        };
        let Some((stands, logged)) = turn.stands else {
            return;
        };
        // What is not acknowledged yet could not leave here any more.
        if stands != position || self.releasable() < logged || self.doubt.is_some() {
            return;
        }
        self.enter(Phase::Swapping, None);
        self.set_gate(Gate::Closed);
        self.emit(Effect::ExpectTurned(turn.turned));
        self.ask(Operation::Swap {
            pairing,
            turned: turn.turned,
        });
    }

    pub(in crate::protocol::role) fn swap_answered(
        &mut self,
        granted: bool,
        standing: Standing,
        state: Option<&State>,
    ) {
        if self.is_turned_in(state, Side::Backup) {
            return self.follow_turned();
        }
        match standing {
            Standing::Primary => {
                assert!(!granted, "a granted `swap` makes another pairing");
                self.turn_no_more(Refused::SwapRefused);
            }
            _ => self.lose(Cause::Lost),
        }
    }

    /// A backup that leads by the grant says so before the tiebreaker does.
    pub(in crate::protocol::role) fn peer_leads(&mut self, pairing: PairingId, generation: Generation) {
        if self.phase == Phase::Swapping && self.turn.is_some_and(|turn| turn.turned == pairing) {
            self.asked = None;
            self.notes.asked = None;
            self.generation = generation;
            self.follow_turned();
        }
    }

    /// `swap` is granted: this copy follows from where it stands.
    fn follow_turned(&mut self) {
        let (Some(turn), Some(pairing)) = (self.turn.take(), self.pairing) else {
            return;
        };
        self.preferred = turn.preferred;
        self.emit(Effect::Tell(Word::Turned {
            pairing,
            generation: self.generation,
            sender_preferred: self.preferred,
        }));
        self.pairing = Some(turn.turned);
        self.backup = backup::Following::default();
        self.backup.confirmed = true;
        self.discard();
        if let Some(share) = self.lag.release() {
            self.emit(Effect::Throttle(share));
        }
        self.begin_turned(Side::Backup);
    }
}
