//! A site that takes its peer for lost: suspicion, claim, going live (P4, P5).

use antipode_tiebreaker::{Operation, State};

use super::{Cause, Effect, Gate, Phase, Role, Side, Standing};
use crate::protocol::role::Leaving;

impl Role {
    /// Claims, if this site has the head start or has waited for the other one's.
    pub(super) fn claim_when_due(&mut self, side: Side) {
        let Some(suspected_at) = self.suspected_at else {
            return;
        };
        if !self.preferred && self.now.saturating_since(suspected_at) < self.detector.head_start() {
            return;
        }
        match side {
            Side::Primary => self.claim(Side::Primary, self.cause),
            Side::Backup => self.close_to_claim(),
        }
    }

    /// From here on there is no way back into the pairing but the tiebreaker's answer.
    pub(super) fn claim(&mut self, side: Side, cause: Option<Cause>) {
        self.close_channel();
        self.enter(Phase::Claiming(side), cause);
        self.ask_claim();
    }

    pub(super) fn ask_claim(&mut self) {
        if let Some(pairing) = self.pairing {
            self.ask(Operation::Claim {
                pairing,
                boot: self.settings.boot,
            });
        }
    }

    pub(super) fn claim_answered(
        &mut self,
        side: Side,
        granted: bool,
        standing: Standing,
        state: Option<&State>,
    ) {
        if self.claims_turned(state) {
            return;
        }
        match (standing, side) {
            (Standing::Alone, Side::Primary) => {
                if self.cause == Some(Cause::Unprotected) {
                    self.tell_left(Leaving::Unprotected);
                }
                self.close_channel();
                self.alone_again();
            }
            (Standing::Alone, Side::Backup) => self.go_live(),
            // Another change came first, and the pairing stands.
            (Standing::Primary | Standing::Backup, _) => {
                assert!(!granted, "a granted claim leaves one site alone");
                self.ask_claim();
            }
            (Standing::Parked, Side::Backup) if self.stopped_at.is_some() => {
                self.discard();
                self.emit(Effect::DestroyVm);
                self.end(Phase::Stopped, Cause::Stopped);
            }
            _ => self.lose(Cause::Lost),
        }
    }

    fn go_live(&mut self) {
        let cause = self.cause;
        self.turn = None;
        if self.stopped_at.is_some() {
            // There is no guest to run on: what is left to do is to park.
            self.enter(Phase::Alone, cause);
            return self.stop_if_wanted();
        }
        self.emit(Effect::GoLive);
        self.announces = true;
        self.enter(Phase::Alone, cause);
        self.set_gate(Gate::Open);
    }
}
