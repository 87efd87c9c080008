//! What a role shows of itself (O3).

use antipode_tiebreaker::Flush;

use super::{Cause, Gate, Phase, PhaseName, Role, Side};
use crate::protocol::detector::Level;
use crate::protocol::status::View;

impl Role {
    /// What is to be shown now.
    #[must_use]
    pub fn view(&self) -> View {
        let role = self.shown_role();
        let cause = self.shown_cause(role);
        let round_trip = self.detector.round_trip_p50();
        let transfers = matches!(self.phase, Phase::Syncing | Phase::Cloning | Phase::Stunned);
        View {
            role,
            green: self.is_green(),
            cause,
            since: self.since,
            generation: self.generation,
            pairing: self.pairing.filter(|_| self.in_pairing()),
            flush: self.shown_flush(),
            position: self.gauges.position,
            lag: self.gauges.lag,
            round_trip: (!round_trip.is_zero()).then_some(round_trip),
            progress: transfers.then_some(self.progress),
            cpu_share_percent: self.lag.share().percent(),
        }
    }

    fn is_green(&self) -> bool {
        let level = match self.phase {
            Phase::Primary => self.detector.of_backup(self.now),
            Phase::Backup => self.detector.of_primary(self.now),
            _ => return false,
        };
        level == Level::Fine && self.doubt.is_none() && !self.is_unread()
    }

    const fn in_pairing(&self) -> bool {
        !matches!(
            self.phase,
            Phase::Idle | Phase::Starting | Phase::Alone | Phase::Stale | Phase::Stopped
        )
    }

    /// How flushes are made in the pairing. It is not known before the stun, or before the primary has said so.
    fn shown_flush(&self) -> Option<Flush> {
        let is_known = match self.phase {
            Phase::Syncing | Phase::Cloning => false,
            phase if phase.is_live() => self.in_pairing(),
            phase => phase.follows() && self.backup.confirmed,
        };
        is_known.then_some(self.flush)
    }

    /// Whether outputs wait for the tiebreaker alone.
    fn is_frozen(&self) -> bool {
        let unanswered = self
            .asked
            .as_ref()
            .is_some_and(|asked| asked.unknown_since.is_some());
        let closed = match self.gate {
            Gate::Closed => self.phase != Phase::Starting,
            Gate::Acknowledged => !self.channel_open,
            Gate::Open => false,
        };
        unanswered && closed || self.doubt.is_some() && self.is_unread()
    }

    fn shown_role(&self) -> PhaseName {
        let after_loss = matches!(self.cause, Some(Cause::PeerLost(_) | Cause::PeerLeft(_)));
        match self.phase {
            _ if self.is_frozen() => PhaseName::Frozen,
            Phase::Alone if after_loss => PhaseName::Solo,
            Phase::Claiming(Side::Primary) if self.cause == Some(Cause::Unprotected) => PhaseName::Primary,
            phase => phase.name(),
        }
    }

    fn shown_cause(&self, role: PhaseName) -> Option<Cause> {
        if self.doubt.is_some() {
            Some(Cause::Awoken)
        } else if role == PhaseName::Frozen || self.is_unread() {
            Some(Cause::TiebreakerSilent)
        } else {
            self.cause
        }
    }
}
