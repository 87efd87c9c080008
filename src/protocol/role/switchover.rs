//! The roles turn round by command, without a new copy (P7).
//!
//! ```text
//!   primary                                             backup
//!   Switchover, the lag small, the record read  ── guest runs on
//!   Yielding    StandStill, all logged ──── Turning ──▶ Taking    the copy stands there, digests agree: MakeDurable
//!      │ all acknowledged          ◀──────── Poised ─── Poised    frozen
//!   Swapping    `swap` asked, frozen
//!      │ granted                   ──────── Turned ───▶ Primary of the turned pairing: Lead
//!   Backup of it: Follow           ◀───── Confirmed ───
//! ```
//!
//! Until `swap` is asked the primary may go on as it was: by command, after a while, when the backup is suspected. From
//! there on only the tiebreaker's answer, or the word of a backup that leads by its grant, says how it goes on.
//!
//! A backup that is poised and hears of its primary no more claims the *old* pairing, as any other. Refused because the
//! swap had been granted, it is the primary of the turned one, and claims that. If it hears a primary that is not told
//! the outcome, it reads the record itself, and claims after a while.

use antipode_tiebreaker::{Generation, Operation, PairingId, Record, State};

use super::{Acknowledged, Cause, Effect, Gate, Phase, Purpose, Refused, Role, Side, Standing, Word, backup};
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::protocol::detector::Level;
use crate::protocol::limits::{
    ASK_AGAIN, CATCHING_UP_PATIENCE, LAG_TARGET, POISED_PATIENCE, YIELDING_PATIENCE,
};
use crate::protocol::moment::Moment;

/// A switchover that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// The pairing that it makes.
    pub(super) turned: PairingId,
    /// Of a primary: the other site's operator asked for it.
    by_peer: bool,
    /// Where the primary stands, and the last log frame that it has written; of a backup, where the primary says it does.
    stands: Option<(ExitOrdinal, LogSeq)>,
    /// Of a primary: whether it has the head start as a backup too, because an operator has said so.
    preferred: bool,
    /// Of a backup: since when it has confirmed.
    poised: Option<Moment>,
    /// Of a backup: it has slept since, and what it is told may be as old as that.
    slept: bool,
}

impl Turn {
    const fn into(turned: PairingId) -> Self {
        Self {
            turned,
            by_peer: false,
            stands: None,
            preferred: false,
            poised: None,
            slept: false,
        }
    }

    /// Of a backup: whether it has confirmed.
    pub(super) const fn is_poised(&self) -> bool {
        self.poised.is_some()
    }
}

/// A switchover that was asked for while the backup was too far behind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    turn: Turn,
    since: Moment,
}

/// The primary's part.
impl Role {
    /// The other site is to go on, and this one to follow; `turned` names the pairing that there will be.
    pub(super) fn switch_over(&mut self, turned: PairingId) {
        match (self.phase, self.pairing) {
            (Phase::Backup, Some(pairing)) => {
                self.emit(Effect::Tell(Word::PleaseSwitch { pairing, turned }));
            }
            _ => self.begin_turn(turned, false),
        }
    }

    /// The other site's operator wants it.
    pub(super) fn asked_to_switch(&mut self, turned: PairingId) {
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
    pub(super) fn begin_waiting_turn(&mut self) {
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
            .lag
            .time
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
    pub(super) fn drop_turn(&mut self, why: Refused) {
        if let Some(turn) = self.turn.take() {
            self.refuse_turn(turn, why);
        }
    }

    /// The tiebreaker answers, so the two will not be frozen for long.
    pub(super) fn switchover_read(&mut self, record: Option<&Record>) {
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
    pub(super) fn stood_still(&mut self, position: ExitOrdinal, logged: LogSeq) {
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

    pub(super) fn tick_yielding(&mut self) {
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
    pub(super) fn stay(&mut self) {
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
    pub(super) fn yield_no_more(&mut self) {
        if self.phase == Phase::Yielding {
            self.turn_no_more(Refused::Busy);
        }
    }

    /// The backup stands at the same place, is the same machine, and its replica is durable.
    pub(super) fn backup_poised(&mut self, position: ExitOrdinal) {
        let (Phase::Yielding, Some(turn), Some(pairing)) = (self.phase, self.turn, self.pairing) else {
            return;
        };
        let Some((stands, logged)) = turn.stands else {
            return;
        };
        // What is not acknowledged yet could not leave here any more.
        if stands != position || self.acknowledged.received < logged || self.doubt.is_some() {
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

    pub(super) fn swap_answered(&mut self, granted: bool, standing: Standing, state: Option<&State>) {
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
    pub(super) fn peer_leads(&mut self, pairing: PairingId, generation: Generation) {
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

    fn begin_turned(&mut self, side: Side) {
        self.detector.begin(self.now);
        self.doubt = None;
        self.reading = None;
        self.acknowledged = Acknowledged::default();
        match (side, self.pairing) {
            (Side::Primary, Some(pairing)) => {
                self.enter(Phase::Primary, None);
                self.emit(Effect::Lead(pairing, self.flush));
            }
            (Side::Backup, Some(pairing)) => {
                self.enter(Phase::Backup, None);
                self.emit(Effect::Follow(pairing));
            }
            (_, None) => {}
        }
    }

    /// Whether `state` is the pairing that this switchover makes, with this site on `side` of it.
    fn is_turned_in(&self, state: Option<&State>, side: Side) -> bool {
        let own = &self.settings.own;
        match (state, self.turn) {
            (
                Some(State::Paired {
                    primary,
                    backup,
                    pairing,
                    ..
                }),
                Some(turn),
            ) => *pairing == turn.turned && own == if side == Side::Primary { primary } else { backup },
            _ => false,
        }
    }
}

/// The backup's part.
impl Role {
    pub(super) fn primary_turns(&mut self, turned: PairingId, position: ExitOrdinal) {
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
    pub(super) fn be_poised_if_ready(&mut self) {
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
    pub(super) fn primary_goes_on(&mut self) {
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
    pub(super) fn tick_poised(&mut self) {
        if self.reading.is_none() {
            self.read_later(Purpose::Turned);
        }
    }

    pub(super) fn turned_read(&mut self, record: Option<&Record>) {
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
    pub(super) fn told_turned(&mut self, generation: Generation, sender_preferred: bool) {
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
    pub(super) fn sleep_in_turn(&mut self) {
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
    pub(super) fn claims_turned(&mut self, state: Option<&State>) -> bool {
        let is_turned = self.is_turned_in(state, Side::Primary);
        if is_turned && let Some(turn) = self.turn.take() {
            self.pairing = Some(turn.turned);
            self.ask_claim();
        }
        is_turned
    }

    /// The other site's primary could not do what an operator asked for here.
    pub(super) fn not_switched(&mut self, why: Refused) {
        self.emit(Effect::Refuse(why));
    }

    /// Whether a copy that follows again is in a switchover.
    pub(super) const fn turning_phase(&self) -> Option<Phase> {
        match &self.turn {
            Some(turn) if turn.is_poised() => Some(Phase::Poised),
            Some(_) => Some(Phase::Taking),
            None => None,
        }
    }
}
