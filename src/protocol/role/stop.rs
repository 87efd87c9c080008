//! The end of a VM's run: in order, so that either site may start it later (P7), or by an error.

use antipode_tiebreaker::{Hold, Operation, Position};

use super::{Cause, Effect, Leaving, Phase, Refused, Role, Side, Standing, Word};
use crate::base::units::ExitOrdinal;
use crate::protocol::limits::ASK_AGAIN;

impl Role {
    pub(super) fn stop(&mut self) {
        match self.phase {
            Phase::Primary if self.turn.is_some() => self.emit(Effect::Refuse(Refused::Busy)),
            Phase::Alone | Phase::Primary if self.doubt.is_none() && !self.stop_wanted => {
                self.stop_wanted = true;
                self.reading = None;
                self.enter(Phase::Stopping, self.cause);
                self.emit(Effect::StopGuest);
            }
            Phase::Syncing | Phase::Cloning if self.doubt.is_none() => {
                self.tell_left(Leaving::Unprotected);
                self.give_transfer_up(Cause::Unprotected);
                self.stop();
            }
            phase if phase.is_live() => self.emit(Effect::Refuse(Refused::Busy)),
            _ => self.emit(Effect::Refuse(Refused::State)),
        }
    }

    pub(super) fn guest_stopped(&mut self, position: ExitOrdinal) {
        if !self.phase.is_live() {
            self.backup.ended_at = Some(position);
            return;
        }
        self.stopped_at = Some(position);
        self.stop_wanted = true;
        match self.phase {
            Phase::Syncing | Phase::Cloning => {
                self.tell_left(Leaving::Unprotected);
                self.give_transfer_up(Cause::Unprotected);
            }
            Phase::Alone | Phase::Primary | Phase::Stopping => self.stop_if_wanted(),
            // It ended before it came to stand.
            Phase::Yielding => self.yield_no_more(),
            // What is being asked for is answered first.
            _ => {}
        }
    }

    /// A new state was reached, and the guest has stopped, or shall.
    pub(super) fn stop_if_wanted(&mut self) {
        if self.stopped_at.is_none() && !self.stop_wanted {
            return;
        }
        if self.phase != Phase::Stopping {
            self.enter(Phase::Stopping, self.cause);
        }
        if self.stopped_at.is_none() {
            self.emit(Effect::StopGuest);
        } else {
            self.confirm_stop();
        }
    }

    /// The guest stands; a backup is told where, and is waited for.
    pub(super) fn confirm_stop(&mut self) {
        let (Some(position), Phase::Stopping) = (self.stopped_at, self.phase) else {
            return;
        };
        match self.pairing.filter(|_| self.channel_open) {
            Some(pairing) => self.emit(Effect::Tell(Word::Stopping { pairing, position })),
            None => self.park(Hold::Boot(self.settings.boot), position),
        }
    }

    /// The word may have been lost.
    pub(super) fn confirm_stop_again(&mut self) {
        if self.now.saturating_since(self.pleaded_at.unwrap_or(self.since)) >= ASK_AGAIN {
            self.pleaded_at = Some(self.now);
            self.confirm_stop();
        }
    }

    pub(super) fn backup_stopped(&mut self, position: ExitOrdinal) {
        if self.phase == Phase::Stopping
            && self.stopped_at == Some(position)
            && let Some(pairing) = self.pairing.filter(|_| self.channel_open)
        {
            self.park(Hold::Pairing(pairing), position);
        }
    }

    fn park(&mut self, hold: Hold, position: ExitOrdinal) {
        self.enter(Phase::Parking, None);
        self.ask(Operation::Park {
            hold,
            position: Position(position.get()),
        });
    }

    pub(super) fn park_answered(&mut self, granted: bool, standing: Standing) {
        let position = self.stopped_at.unwrap_or_default();
        match standing {
            Standing::Parked => {
                if let Some(pairing) = self.pairing.filter(|_| self.channel_open) {
                    self.emit(Effect::Tell(Word::Parked { pairing }));
                }
                self.close_channel();
                self.emit(Effect::DestroyVm);
                self.end(Phase::Stopped, Cause::Stopped);
            }
            Standing::Alone if !granted => self.park(Hold::Boot(self.settings.boot), position),
            Standing::Primary if !granted => {
                if let Some(pairing) = self.pairing {
                    self.park(Hold::Pairing(pairing), position);
                }
            }
            _ => self.lose(Cause::Lost),
        }
    }

    /// The VM here is gone, not in order. The other site takes over, if it follows.
    pub(super) fn vm_failed(&mut self) {
        // The replica of a site that has claimed is durable: if the claim is granted, it may start from it.
        let claims = self.phase == Phase::Claiming(Side::Backup);
        if !claims && (self.phase.follows() || self.phase == Phase::Joining) {
            return self.leave_backup(Leaving::VmFailed);
        }
        if !claims && !self.phase.is_live() {
            return;
        }
        if matches!(self.phase, Phase::Syncing | Phase::Cloning | Phase::Stunned) {
            self.emit(Effect::AbortTransfer);
        }
        self.discard();
        self.tell_left(Leaving::VmFailed);
        self.close_channel();
        self.emit(Effect::DestroyVm);
        self.end(Phase::Stopped, Cause::VmFailed);
    }
}
