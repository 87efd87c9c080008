//! The side that follows: joining, following, and what must be done before it may claim (P5, R4).

use antipode_tiebreaker::{Flush, Generation, Operation, PairingId, Record};

use super::{Cause, Effect, Leaving, Phase, Purpose, Refused, ReplayId, Role, Side, Standing, Word};
use crate::base::units::ExitOrdinal;
use crate::protocol::detector::{Level, Suspicion};
use crate::protocol::limits::JOIN_PATIENCE;

/// How far a copy that follows is with what it needs for a claim.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Following {
    /// The pairing is in the record.
    pub(super) confirmed: bool,
    /// Where the copy stood at the end of what was received, since the last suspicion began.
    replayed_to: Option<ExitOrdinal>,
    /// The replay that is waited for.
    replay: ReplayId,
    /// Where its replica was durable.
    pub(super) durable_at: Option<ExitOrdinal>,
    /// Where the primary has stopped in order, as it says.
    stops_at: Option<ExitOrdinal>,
    /// Where the copy's guest has stopped in order, which the primary's does there too.
    pub(super) ended_at: Option<ExitOrdinal>,
    /// Where the copy stands because the log says that the primary does.
    pub(super) stood_at: Option<ExitOrdinal>,
}

impl Role {
    pub(super) fn join(&mut self, pairing: PairingId, generation: Generation) {
        if self.phase != Phase::Idle || self.notes.renounced == Some(pairing) {
            return self.emit(Effect::Refuse(Refused::State));
        }
        self.pairing = Some(pairing);
        self.generation = generation;
        self.detector.begin(self.now);
        self.emit(Effect::DiscardOutputs);
        self.enter(Phase::Joining, None);
    }

    pub(super) fn joined(&mut self) {
        if self.phase == Phase::Joining {
            self.channel_open = true;
            self.detector.begin(self.now);
            self.enter(Phase::Candidate, None);
        }
    }

    pub(super) fn confirmed(&mut self, generation: Generation, preferred: bool, flush: Flush) {
        if matches!(self.phase, Phase::Taking | Phase::Poised) {
            // Over a new connection: the word that it goes on was lost.
            return self.primary_goes_on();
        }
        let candidate = matches!(self.phase, Phase::Candidate | Phase::Suspecting(Side::Backup));
        if !candidate || self.backup.confirmed {
            return;
        }
        self.backup.confirmed = true;
        self.generation = generation;
        self.preferred = preferred;
        self.flush = flush;
        if self.phase == Phase::Candidate {
            self.enter(Phase::Backup, None);
        }
    }

    pub(super) fn tick_backup(&mut self) {
        let level = self.detector.of_primary(self.now);
        match (self.phase, level) {
            (Phase::Joining, _) if self.detector.silence(self.now) >= JOIN_PATIENCE => {
                self.leave_backup(Leaving::TransferFailed);
            }
            (Phase::Joining, _) => {}
            (Phase::Suspecting(_), Level::Fine) => self.follow_on(),
            (Phase::Suspecting(_), Level::Suspect(suspicion)) => {
                if self.suspected_at.is_none() {
                    self.suspected_at = Some(self.now);
                    self.cause = Some(Cause::PeerLost(suspicion));
                }
                self.claim_when_due(Side::Backup);
            }
            (Phase::Halting, Level::Fine) => self.halt_again(),
            (Phase::Poised, Level::Fine) => self.tick_poised(),
            (Phase::Suspecting(_), Level::Uneasy) | (_, Level::Fine) => {}
            (_, Level::Uneasy | Level::Suspect(_)) => self.prepare(Cause::PeerLost(Suspicion::Silence)),
        }
    }

    /// What takes time is done while the timeout still runs; following goes on meanwhile.
    fn prepare(&mut self, cause: Cause) {
        self.backup.durable_at = None;
        self.enter(Phase::Suspecting(Side::Backup), Some(cause));
        self.replay_to_end();
    }

    fn follow_on(&mut self) {
        let halts = match (self.stopped_at, self.backup.stops_at, self.backup.confirmed) {
            (Some(_), ..) => Phase::Halted,
            (None, Some(_), _) => Phase::Halting,
            (None, None, true) => Phase::Backup,
            (None, None, false) => Phase::Candidate,
        };
        let phase = self.turning_phase().unwrap_or(halts);
        self.enter(phase, None);
        match phase {
            Phase::Halting => self.replay_to_end(),
            Phase::Taking | Phase::Poised => self.be_poised_if_ready(),
            _ => {}
        }
    }

    /// No frame comes in any more; what did come is replayed and made durable, then claimed.
    pub(super) fn close_to_claim(&mut self) {
        let cause = self.cause;
        self.close_channel();
        self.enter(Phase::Closing, cause);
        self.replay_to_end();
    }

    fn replay_to_end(&mut self) {
        self.backup.replay = ReplayId(self.backup.replay.0 + 1);
        self.backup.replayed_to = None;
        self.emit(Effect::ReplayToEnd(self.backup.replay));
    }

    /// An answer to an earlier replay says nothing of what came in since.
    pub(super) fn replay_reached_end(&mut self, replay: ReplayId, position: ExitOrdinal, agrees: bool) {
        if !self.phase.follows() || replay != self.backup.replay {
            return;
        }
        if !agrees {
            return self.leave_backup(Leaving::Diverged);
        }
        self.backup.replayed_to = Some(position);
        match self.phase {
            Phase::Closing if self.backup.durable_at == Some(position) => self.ready_to_claim(),
            // The rest is on its way; the next tick asks again.
            Phase::Halting if self.backup.stops_at.is_some_and(|stop| position < stop) => {}
            Phase::Closing | Phase::Halting | Phase::Suspecting(Side::Backup) => {
                self.emit(Effect::MakeDurable)
            }
            _ => {}
        }
    }

    pub(super) fn replica_durable(&mut self, position: ExitOrdinal) {
        if !self.phase.follows() {
            return;
        }
        self.backup.durable_at = Some(position);
        match self.phase {
            Phase::Closing if self.backup.replayed_to == Some(position) => self.ready_to_claim(),
            Phase::Halting if self.backup.stops_at == Some(position) => self.halted(position),
            Phase::Taking => self.be_poised_if_ready(),
            _ => {}
        }
    }

    fn ready_to_claim(&mut self) {
        let Following {
            stops_at,
            ended_at,
            durable_at,
            ..
        } = self.backup;
        if durable_at.is_some() && [stops_at, ended_at].contains(&durable_at) {
            self.stopped_at = durable_at;
        }
        if self.backup.confirmed {
            self.claim(Side::Backup, self.cause);
        } else {
            self.read_record(Purpose::Confirmation);
        }
    }

    /// Whether the pairing that this site was made for was ever granted.
    pub(super) fn confirmation_read(&mut self, record: Option<&Record>) {
        if self.phase != Phase::Closing {
            return;
        }
        if self.standing(record.map(|record| &record.state)) == Standing::Backup
            && let Some(record) = record
        {
            self.generation = record.generation;
            self.claim(Side::Backup, self.cause);
        } else {
            self.lose(Cause::NeverConfirmed);
        }
    }

    pub(super) fn primary_stops(&mut self, position: ExitOrdinal) {
        let suspecting = self.phase == Phase::Suspecting(Side::Backup);
        if matches!(self.phase, Phase::Backup | Phase::Candidate) || suspecting {
            self.backup.stops_at = Some(position);
            if !suspecting {
                self.enter(Phase::Halting, None);
                self.replay_to_end();
            }
        } else if let Some(stopped) = self.stopped_at.filter(|_| self.phase == Phase::Halted) {
            // The word was lost, or is asked for again.
            self.tell_stopped_at(stopped);
        }
    }

    /// The end of the log was not there yet.
    fn halt_again(&mut self) {
        if self.backup.replayed_to.is_some() && self.backup.replayed_to < self.backup.stops_at {
            self.replay_to_end();
        }
    }

    fn halted(&mut self, position: ExitOrdinal) {
        self.stopped_at = Some(position);
        self.enter(Phase::Halted, None);
        self.tell_stopped_at(position);
    }

    fn tell_stopped_at(&mut self, position: ExitOrdinal) {
        if let Some(pairing) = self.pairing {
            self.emit(Effect::Tell(Word::StoppedAt { pairing, position }));
        }
    }

    pub(super) fn primary_parked(&mut self) {
        if self.phase == Phase::Halted {
            self.close_channel();
            self.emit(Effect::DestroyVm);
            self.end(Phase::Stopped, Cause::Stopped);
        }
    }

    /// The primary has left: by command the copy is not needed any more; else it is taken over at once.
    pub(super) fn primary_left(&mut self, why: Leaving) {
        let cause = Cause::PeerLeft(why);
        match why {
            Leaving::VmFailed | Leaving::DiskFailed if self.phase != Phase::Joining => {
                self.prepare(cause);
                self.close_to_claim();
            }
            _ => self.lose(cause),
        }
    }

    /// This copy can follow no more, and must never be started from: durably, before anybody is told (R4).
    pub(super) fn leave_backup(&mut self, why: Leaving) {
        let may_leave = self.phase == Phase::Joining
            || (self.phase.follows()
                && self.phase != Phase::Claiming(Side::Backup)
                && self.stopped_at.is_none());
        if !may_leave {
            return;
        }
        self.emit(Effect::MarkStale);
        self.tell_left(why);
        self.close_channel();
        self.discard();
        self.emit(Effect::DestroyVm);
        self.enter(Phase::Stale, Some(Cause::SelfLeft(why)));
    }

    /// The primary waits for an answer to `pair` that does not come. Whoever has not claimed that pairing may promise
    /// never to, and this site's own start out of it is barred too. A claim that an earlier process sent may yet be
    /// granted: then there is nothing to promise.
    pub(super) fn asked_to_renounce(&mut self, pairing: PairingId) {
        let told = Effect::Tell(Word::Renounced { pairing });
        if self.notes.renounced == Some(pairing) {
            return self.emit(told);
        }
        let here = self.pairing == Some(pairing);
        let follows = here
            && !self.backup.confirmed
            && matches!(
                self.phase,
                Phase::Joining | Phase::Candidate | Phase::Suspecting(Side::Backup) | Phase::Closing
            );
        let claimed = self.notes.asked.as_ref().is_some_and(|asked| {
            matches!(asked.operation, Operation::Claim { pairing: claimed, .. } if claimed == pairing)
        });
        let has_none = matches!(self.phase, Phase::Idle | Phase::Stale) && !claimed;
        if !follows && !has_none {
            return;
        }
        self.notes.renounced = Some(pairing);
        self.emit(Effect::Persist(self.notes.clone()));
        if follows {
            self.lose(Cause::Renounced);
        } else {
            self.emit(Effect::MarkStale);
        }
        self.emit(told);
    }
}

#[cfg(test)]
impl Role {
    pub(super) const fn backup_replay(&self) -> ReplayId {
        self.backup.replay
    }
}
