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
//!
//! - `primary`, `backup`: each one's part.

mod backup;
mod primary;

use antipode_tiebreaker::{PairingId, State};

use super::{Acknowledged, Effect, Phase, Role, Side};
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::protocol::moment::Moment;

/// A switchover that is under way.
#[derive(Debug, Clone, Copy)]
pub(in crate::protocol::role) struct Turn {
    /// The pairing that it makes.
    pub(in crate::protocol::role) turned: PairingId,
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
    pub(in crate::protocol::role) const fn is_poised(&self) -> bool {
        self.poised.is_some()
    }
}

/// A switchover that was asked for while the backup was too far behind.
#[derive(Debug, Clone, Copy)]
pub(in crate::protocol::role) struct Waiting {
    turn: Turn,
    since: Moment,
}

impl Role {
    fn begin_turned(&mut self, side: Side) {
        self.detector.begin(self.now);
        self.doubt = None;
        self.reading = None;
        self.acknowledged = Acknowledged::default();
        self.disk_fails = false;
        self.backup_differs = false;
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

    /// Whether a copy that follows again is in a switchover.
    pub(in crate::protocol::role) const fn turning_phase(&self) -> Option<Phase> {
        match &self.turn {
            Some(turn) if turn.is_poised() => Some(Phase::Poised),
            Some(_) => Some(Phase::Taking),
            None => None,
        }
    }
}
