//! Live in a pairing: outputs leave as they are acknowledged (P1), the guest is slowed for its backup (P3), the backup
//! is watched (P4).

use std::time::Duration;

use antipode_tiebreaker::{Flush, Record};

use super::{
    Acknowledged, Cause, Effect, Gate, Leaving, Phase, Purpose, Refused, Role, Side, Standing, Word,
};
use crate::base::units::LogSeq;
use crate::protocol::detector::Level;
use crate::protocol::limits::REPAIR_PATIENCE;

impl Role {
    pub(super) fn acked(&mut self, acknowledged: Acknowledged) {
        self.detector.channel_heard(self.now);
        if !self.channel_open || !self.phase.is_live() {
            return;
        }
        self.detector.replayed(self.now, acknowledged.replayed);
        let received = acknowledged.received.max(self.acknowledged.received);
        let durable = acknowledged.durable.max(self.acknowledged.durable);
        let released = self.releasable();
        let flushed = durable > self.acknowledged.durable;
        self.acknowledged = Acknowledged {
            executed: acknowledged.executed.max(self.acknowledged.executed),
            received,
            replayed: acknowledged.replayed.max(self.acknowledged.replayed),
            durable,
        };
        // What two disks hold stays true, whoever will be live: this waits neither for `pair` nor for the end of a doubt.
        if flushed && self.flush == Flush::Both {
            self.emit(Effect::ReleaseFlushes(durable));
        }
        if self.gate == Gate::Acknowledged {
            if self.doubt.is_some() {
                self.reassured_by(received);
            } else if self.releasable() > released {
                self.emit(Effect::ReleaseThrough(self.releasable()));
            }
        }
    }

    /// Outputs in log frames up to this one may leave: by the backup's word that it has received them, or has made them (H3).
    pub(super) const fn releasable(&self) -> LogSeq {
        if self.verifies_outputs {
            self.acknowledged.executed
        } else {
            self.acknowledged.received
        }
    }

    pub(super) fn verify_outputs(&mut self, are_verified: bool) {
        self.verifies_outputs = are_verified;
        // What may leave by the other word leaves now; what has left stays so.
        if self.phase.is_live() && self.gate == Gate::Acknowledged && self.doubt.is_none() {
            self.apply_gate();
        }
    }

    pub(super) fn tick_primary(&mut self) {
        if !self.channel_open {
            return;
        }
        let gauges = self.gauges;
        self.detector.waits(self.now, gauges.position, gauges.waits);
        // The way there and back is in what this site sees, and a slower guest makes it no shorter.
        let behind = gauges.lateness().saturating_sub(self.detector.round_trip_p50());
        if let Some(share) = self.lag.step(self.now, behind) {
            self.emit(Effect::Throttle(share));
        }
        let suspecting = self.phase == Phase::Suspecting(Side::Primary);
        match self.detector.of_backup(self.now) {
            Level::Suspect(suspicion) if !suspecting => {
                self.enter(Phase::Suspecting(Side::Primary), Some(Cause::PeerLost(suspicion)));
                self.suspected_at = Some(self.now);
                self.claim_when_due(Side::Primary);
            }
            Level::Suspect(_) => self.claim_when_due(Side::Primary),
            _ if suspecting => self.go_on_as_primary(),
            Level::Fine if self.may_leave_it_to_the_backup() => self.leave_it_to_the_backup(),
            _ => self.confirm_stop_again(),
        }
    }

    fn go_on_as_primary(&mut self) {
        let phase = if self.stop_wanted {
            Phase::Stopping
        } else {
            Phase::Primary
        };
        self.enter(phase, None);
        self.confirm_stop();
    }

    /// The backup's copy is another machine, or is that no more. Until it is the same again it is not suspected for what it
    /// does not acknowledge, for a while (H2).
    pub(super) fn backup_differs(&mut self, differs: bool) {
        self.backup_differs = differs;
        let patience = if differs { REPAIR_PATIENCE } else { Duration::ZERO };
        self.detector.excuse_until(self.now + patience);
    }

    fn may_leave_it_to_the_backup(&self) -> bool {
        self.disk_fails && self.stopped_at.is_none() && !self.backup_differs
    }

    /// The backup's disk has done, or will do, what this site's has failed: the VM goes on there, and its guest is told of
    /// no failure. A backup that is in doubt, or whose copy differs, is waited for, or claimed from: an error is better than
    /// no VM.
    fn leave_it_to_the_backup(&mut self) {
        let why = Leaving::DiskFailed;
        self.discard();
        self.tell_left(why);
        self.close_channel();
        self.emit(Effect::DestroyVm);
        self.end(Phase::Stopped, Cause::SelfLeft(why));
    }

    /// The other role has left the pairing.
    pub(super) fn peer_left(&mut self, why: Leaving) {
        let cause = Cause::PeerLeft(why);
        match self.phase {
            // The transfer itself says so too, and what it was: that is what an operator must hear.
            Phase::Syncing | Phase::Cloning | Phase::Stunned if why == Leaving::TransferFailed => {}
            Phase::Syncing | Phase::Cloning | Phase::Stunned => self.give_transfer_up(cause),
            Phase::Pairing => self.cancel(cause),
            Phase::Yielding => {
                self.yield_no_more();
                self.peer_left(why);
            }
            Phase::Primary | Phase::Stopping | Phase::Suspecting(Side::Primary) if self.channel_open => {
                self.claim(Side::Primary, Some(cause));
            }
            Phase::Joining
            | Phase::Candidate
            | Phase::Backup
            | Phase::Halting
            | Phase::Halted
            | Phase::Taking
            | Phase::Poised
            | Phase::Suspecting(Side::Backup) => self.primary_left(why),
            _ => {}
        }
    }

    pub(super) fn unprotect(&mut self) {
        match self.phase {
            Phase::Syncing | Phase::Cloning | Phase::Stunned => {
                self.tell_left(Leaving::Unprotected);
                self.give_transfer_up(Cause::Unprotected);
            }
            Phase::Pairing => {
                self.tell_left(Leaving::Unprotected);
                self.cancel(Cause::Unprotected);
            }
            Phase::Primary if self.doubt.is_none() && self.reading.is_none() => {
                self.read_record(Purpose::Unprotect);
            }
            Phase::Primary
            | Phase::Suspecting(Side::Primary)
            | Phase::Stopping
            | Phase::Yielding
            | Phase::Swapping => {
                self.emit(Effect::Refuse(Refused::Busy));
            }
            _ => self.emit(Effect::Refuse(Refused::State)),
        }
    }

    /// The tiebreaker answers, so the claim will not take long; the backup follows until it is granted, so that outputs
    /// go on leaving.
    pub(super) fn unprotect_read(&mut self, record: Option<&Record>) {
        if self.phase != Phase::Primary {
            return;
        }
        if self.standing(record.map(|record| &record.state)) != Standing::Primary {
            return self.lose(Cause::Lost);
        }
        self.enter(Phase::Claiming(Side::Primary), Some(Cause::Unprotected));
        self.ask_claim();
    }

    pub(super) fn tell_left(&mut self, why: Leaving) {
        if let Some(pairing) = self.pairing {
            self.emit(Effect::Tell(Word::Left { pairing, why }));
        }
    }
}
