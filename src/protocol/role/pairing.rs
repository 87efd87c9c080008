//! From a VM that runs alone to a pairing, and back from one that was not confirmed (P6).

use antipode_certs::Name;
use antipode_tiebreaker::{Operation, PairingId, Record};

use super::{Acknowledged, Cause, Effect, Gate, Phase, Purpose, Refused, Role, Standing, Word};
use crate::protocol::detector::{Level, Suspicion};
use crate::protocol::limits::{PAIR_PATIENCE, RECORD_FRESH, STUN_MAX, STUN_SILENCE_MAX};
use crate::protocol::moment::Moment;

impl Role {
    /// Whether [`Command::Protect`](super::Command::Protect) would begin.
    #[must_use]
    pub fn may_protect(&self) -> bool {
        self.phase == Phase::Alone && self.doubt.is_none() && !self.stop_wanted
    }

    /// Protection is by another site from now on. Only while [`Self::may_protect`]: whoever holds a place in a pairing is
    /// none that can be put away by a word.
    ///
    /// # Panics
    /// If a protection could not begin now.
    pub fn replace_peer(&mut self, peer: Name) {
        assert!(self.may_protect(), "{:?} has another site", self.phase);
        self.settings.peer = peer;
    }

    pub(super) fn protect(&mut self, pairing: PairingId) {
        if self.phase != Phase::Alone {
            return self.emit(Effect::Refuse(Refused::State));
        }
        if !self.may_protect() {
            return self.emit(Effect::Refuse(Refused::Busy));
        }
        self.pairing = Some(pairing);
        self.enter(Phase::Syncing, None);
        self.emit(Effect::BeginDiskSync(pairing));
    }

    pub(super) fn disk_in_sync(&mut self) {
        if self.phase == Phase::Syncing {
            self.enter(Phase::Cloning, None);
            self.emit(Effect::BeginRamCopy);
        }
    }

    /// Before the guest is stopped it must be known that the tiebreaker answers.
    pub(super) fn ram_in_sync(&mut self) {
        if self.phase == Phase::Cloning {
            self.read_record(Purpose::Stun);
        }
    }

    pub(super) fn stun_read(&mut self, record: Option<&Record>, asked_at: Moment) {
        if self.phase != Phase::Cloning {
            return;
        }
        if self.now.saturating_since(asked_at) > RECORD_FRESH {
            return self.read_later(Purpose::Stun);
        }
        let Some(record) = record.filter(|record| self.standing(Some(&record.state)) == Standing::Alone)
        else {
            self.emit(Effect::AbortTransfer);
            return self.lose(Cause::Lost);
        };
        self.take_settings(record);
        self.generation = record.generation;
        self.detector.begin(self.now);
        self.enter(Phase::Stunned, None);
        self.set_gate(Gate::Closed);
        self.emit(Effect::Stun);
    }

    pub(super) fn tick_stunned(&mut self) {
        if self.detector.silence(self.now) >= STUN_SILENCE_MAX {
            self.give_transfer_up(Cause::PeerLost(Suspicion::Silence));
        } else if self.now.saturating_since(self.since) >= STUN_MAX {
            self.give_transfer_up(Cause::StunTooLong);
        }
    }

    pub(super) fn transfer_failed(&mut self) {
        match self.phase {
            Phase::Syncing | Phase::Cloning | Phase::Stunned => self.give_transfer_up(Cause::TransferFailed),
            Phase::Joining => self.leave_backup(super::Leaving::TransferFailed),
            _ => {}
        }
    }

    /// Nothing was asked for yet, so there is nothing to take back: the VM runs on as it was.
    pub(super) fn give_transfer_up(&mut self, cause: Cause) {
        self.reading = None;
        if let Some(doubt) = self.doubt {
            self.doubt = Some(doubt.alone());
            self.read_record(Purpose::Wake);
        }
        self.emit(Effect::AbortTransfer);
        self.enter(Phase::Alone, Some(cause));
        self.set_gate(Gate::Open);
        self.stop_if_wanted();
    }

    pub(super) fn peer_ready(&mut self) {
        if self.phase != Phase::Stunned {
            return;
        }
        let Some(pairing) = self.pairing else { return };
        self.acknowledged = Acknowledged::default();
        self.channel_open = true;
        self.disk_fails = false;
        self.backup_differs = false;
        self.detector.begin(self.now);
        self.enter(Phase::Pairing, None);
        self.emit(Effect::BeginLockstep(self.flush));
        self.ask(Operation::Pair {
            boot: self.settings.boot,
            backup: self.settings.peer.clone(),
            pairing,
            flush: self.flush,
        });
    }

    pub(super) fn tick_pairing(&mut self) {
        if self.phase == Phase::Pairing
            && let Level::Suspect(suspicion) = self.detector.of_primary(self.now)
        {
            return self.cancel(Cause::PeerLost(suspicion));
        }
        let waited = self.now.saturating_since(self.pleaded_at.unwrap_or(self.since));
        if waited >= PAIR_PATIENCE
            && let Some(pairing) = self.pairing
        {
            self.pleaded_at = Some(self.now);
            self.emit(Effect::Tell(Word::PleaseRenounce { pairing }));
        }
    }

    /// The pairing that was asked for is taken back. Until that is granted a `pair` may still be on its way, and with it
    /// a backup that may claim: outputs stay held.
    pub(super) fn cancel(&mut self, cause: Cause) {
        self.close_channel();
        self.enter(Phase::Cancelling, Some(cause));
        self.ask(Operation::CancelPair {
            boot: self.settings.boot,
        });
    }

    pub(super) fn pair_answered(&mut self, granted: bool, standing: Standing) {
        match standing {
            Standing::Primary => self.paired(),
            Standing::Alone => {
                assert!(!granted, "a granted `pair` leaves a pairing");
                self.cancel(Cause::PairingRefused);
            }
            _ => self.lose(Cause::Lost),
        }
    }

    fn paired(&mut self) {
        self.enter(Phase::Primary, None);
        self.tell_confirmed();
        self.set_gate(Gate::Acknowledged);
        self.stop_if_wanted();
    }

    pub(super) fn tell_confirmed(&mut self) {
        if let Some(pairing) = self.pairing {
            self.emit(Effect::Tell(Word::Confirmed {
                pairing,
                generation: self.generation,
                sender_preferred: self.preferred,
                flush: self.flush,
            }));
        }
    }

    pub(super) fn cancel_answered(&mut self, granted: bool, standing: Standing) {
        match standing {
            Standing::Alone if granted => self.alone_again(),
            Standing::Alone => self.ask(Operation::CancelPair {
                boot: self.settings.boot,
            }),
            // It had been granted before: it is ended like any other.
            Standing::Primary => self.claim(super::Side::Primary, self.cause),
            _ => self.lose(Cause::Lost),
        }
    }

    /// Only this site is left in the record.
    pub(super) fn alone_again(&mut self) {
        let cause = self.cause;
        self.enter(Phase::Alone, cause);
        self.set_gate(Gate::Open);
        self.stop_if_wanted();
    }

    /// The backup will never act in the pairing: nobody can claim it, even if `pair` is granted yet.
    pub(super) fn peer_renounced(&mut self) {
        match self.phase {
            Phase::Pairing => {
                self.cancel(Cause::Renounced);
                self.settle();
            }
            Phase::Cancelling => self.settle(),
            _ => {}
        }
    }

    fn settle(&mut self) {
        let cause = self.cause;
        self.enter(Phase::Settling, cause);
        self.set_gate(Gate::Open);
    }

    pub(super) fn settle_answered(&mut self, granted: bool, standing: Standing) {
        match standing {
            Standing::Alone if granted => self.alone_again(),
            Standing::Alone => self.ask(Operation::CancelPair {
                boot: self.settings.boot,
            }),
            // The late `pair` came first. Nobody else will ever claim it, but it must go before there is another.
            Standing::Primary => self.ask_claim(),
            _ => self.lose(Cause::Lost),
        }
    }
}
