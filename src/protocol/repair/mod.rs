//! A copy that has become another machine is made the same again, at one position, while the guest runs (H2).
//!
//! ```text
//!          backup                                                        primary
//!   same                                                          resting
//!    │ Differs: no acknowledgement from here on,                     │
//!    │ its disk is marked, durably                                   │
//!    ▼                                                               ▼
//!   wishing ═══ Wish: where, why, what it may have written ═════▶ capturing     its outputs wait; the backup is excused
//!    │                                                               │ held at exit P, its disk drained: all that either has
//!    │                                                               │ written since both were the same, and what it is at P
//!    │ Staged: whole, and nothing of it is applied yet ◀══ the log ══╡
//!    ▼                                                               ▼
//!   becoming    disk, durable; RAM, devices, vCPU;                 sent
//!    │          all digests of P compared                            │
//!    │ Repaired: its disk is clean, durably; it acknowledges again   │
//!    ▼                                                               ▼
//!   same ═══ Repaired ══════════════════════════════════════════▶ resting
//!
//!   wishing ── Refused, or nothing in time ─▶ Leave: the pairing ends, as for a copy that nothing can repair
//!   becoming ── it fails ─▶ Leave
//! ```
//!
//! What each step prevents:
//!
//! - *No acknowledgement from the moment that it is known.* Else outputs leave that nobody could repeat: those of the log
//!   behind the difference. What the repaired copy acknowledges lies before P or is replayed from there.
//! - *Marked durably before anything is told, let alone overwritten.* Else the site comes back from a power cut with a disk
//!   that two machines have written to, and calls it whole.
//! - *The union of what both have written, since a position at which both were compared.* Else what only one of them wrote
//!   stays as it is in the other.
//! - *Staged whole before any of it is applied.* Else a site that is lost halfway leaves a mixture.
//! - *Compared before it is clean, clean before it acknowledges.* Else a copy is trusted that is none.
//!
//! While it differs, a copy does not come to the end of any replay, so it never claims ([`crate::protocol::role`]): if its
//! primary is lost then, it is made the same by what has come of the repair, or it leaves.
//!
//! Both parts are pure.

mod cause;
mod report;
mod trust;
mod wish;

#[cfg(test)]
mod tests;

pub use self::cause::{Cause, Evidence};
pub use self::report::{Repairs, Shown};
pub use self::trust::{Shown as Output, Trust, TrustEvent};
pub use self::wish::{NoWish, Runs, Wish, Word};
use super::limits::REPAIR_PATIENCE;
use super::moment::Moment;
use crate::base::units::ExitOrdinal;

/// A copy that was made the same again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Done {
    /// Which of its wishes was answered.
    pub number: u64,
    /// The exit at which both were the same again.
    pub position: u64,
    /// What was carried of RAM and disk.
    pub byte_count: u64,
    /// Why it was another one.
    pub cause: Cause,
}

/// What happens to a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyEvent {
    /// It is another machine than the one that it follows.
    Differs(Wish),
    /// What it wishes for is there, whole.
    Staged {
        /// Which of its wishes that answers.
        number: u64,
    },
    /// It is the same again, and its disk is durable.
    Repaired(Done),
    /// The other site has nothing to repair it with.
    Refused {
        /// Which of its wishes that answers.
        number: u64,
    },
    /// What is told is told over a new connection from here on.
    Reconnected,
    /// Its disk could not be marked.
    Failed,
    /// Time goes by.
    Tick,
}

/// What is to be done with a copy, in this order. Where one cannot be done, the rest is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyEffect {
    /// Nothing is acknowledged from here on, and no replay comes to its end.
    HoldAcknowledgements,
    /// Its disk is another machine's, durably; ends in [`CopyEvent::Failed`] if that cannot be said.
    MarkDisk,
    /// Tell the other site.
    Tell(Word),
    /// Become what was staged; ends in [`CopyEvent::Repaired`], or the VM's end.
    BeRepaired,
    /// Its disk is this machine's again, durably; as [`Self::MarkDisk`].
    ClearDisk,
    /// Acknowledge what it holds now, and that its disk is durable at this exit: it may be past that.
    Acknowledge(ExitOrdinal),
    /// It can follow no more.
    Leave,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum CopyState {
    #[default]
    Same,
    Wishing {
        wish: Wish,
        since: Moment,
    },
    Becoming {
        wish: Wish,
    },
    Left,
}

/// The backup's part.
#[derive(Debug, Default)]
pub struct Copy {
    state: CopyState,
    /// The last that was done, for an end that may not have heard of it.
    done: Option<Done>,
}

impl Copy {
    /// Whether it is another machine, as far as is known.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.state != CopyState::Same
    }

    /// What it wishes for.
    #[must_use]
    pub fn wish(&self) -> Option<&Wish> {
        match &self.state {
            CopyState::Wishing { wish, .. } | CopyState::Becoming { wish } => Some(wish),
            CopyState::Same | CopyState::Left => None,
        }
    }

    /// What follows from `event`.
    pub fn step(&mut self, now: Moment, event: CopyEvent) -> Vec<CopyEffect> {
        match (event, std::mem::take(&mut self.state)) {
            (CopyEvent::Differs(wish), CopyState::Same) => {
                self.state = CopyState::Wishing {
                    wish: wish.clone(),
                    since: now,
                };
                vec![
                    CopyEffect::HoldAcknowledgements,
                    CopyEffect::MarkDisk,
                    CopyEffect::Tell(Word::Wish(wish)),
                ]
            }
            (CopyEvent::Staged { number }, CopyState::Wishing { wish, .. }) if wish.number == number => {
                self.state = CopyState::Becoming { wish };
                vec![CopyEffect::BeRepaired]
            }
            (CopyEvent::Repaired(done), CopyState::Becoming { wish }) if wish.number == done.number => {
                self.done = Some(done);
                vec![
                    CopyEffect::ClearDisk,
                    CopyEffect::Acknowledge(ExitOrdinal::new(done.position)),
                    CopyEffect::Tell(Word::Repaired(done)),
                ]
            }
            (CopyEvent::Refused { number }, CopyState::Wishing { wish, .. }) if wish.number == number => {
                self.leave()
            }
            (CopyEvent::Tick, CopyState::Wishing { since, .. })
                if now.saturating_since(since) > REPAIR_PATIENCE =>
            {
                self.leave()
            }
            (CopyEvent::Failed, CopyState::Same | CopyState::Wishing { .. } | CopyState::Becoming { .. }) => {
                self.leave()
            }
            (CopyEvent::Reconnected, state) => {
                let word = match &state {
                    CopyState::Wishing { wish, .. } => Some(Word::Wish(wish.clone())),
                    CopyState::Same => self.done.map(Word::Repaired),
                    CopyState::Becoming { .. } | CopyState::Left => None,
                };
                self.state = state;
                word.into_iter().map(CopyEffect::Tell).collect()
            }
            (_, state) => {
                self.state = state;
                Vec::new()
            }
        }
    }

    fn leave(&mut self) -> Vec<CopyEffect> {
        self.state = CopyState::Left;
        vec![CopyEffect::Leave]
    }
}

/// What happens to a primary, of its copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MendEvent {
    /// The copy wishes to be repaired, and whether this site is one that can.
    Wished(Wish, bool),
    /// It is in the log; or there is nothing to repair it with.
    Captured {
        /// Which wish that answers.
        number: u64,
        /// Where, or why not.
        outcome: Result<ExitOrdinal, String>,
    },
    /// The copy is the same again.
    Repaired(Done),
    /// There is no copy any more, or it is another one.
    Over,
}

/// What is to be done for a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MendEffect {
    /// It is not to be suspected for what it does not acknowledge meanwhile, for [`REPAIR_PATIENCE`].
    Excuse,
    /// It is, from here on.
    ExcuseNoMore,
    /// Put into the log what it wishes for.
    Capture(Wish),
    /// Tell it.
    Tell(Word),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum MendState {
    #[default]
    Resting,
    Capturing {
        wish: Wish,
    },
    Sent {
        wish: Wish,
        at: ExitOrdinal,
    },
}

/// The primary's part.
#[derive(Debug, Default)]
pub struct Mender {
    state: MendState,
    /// The last wish that is over: told again, it is none.
    over: u64,
}

impl Mender {
    /// The wish that it is about.
    #[must_use]
    pub const fn wish(&self) -> Option<&Wish> {
        match &self.state {
            MendState::Capturing { wish } | MendState::Sent { wish, .. } => Some(wish),
            MendState::Resting => None,
        }
    }

    /// What follows from `event`.
    pub fn step(&mut self, event: MendEvent) -> Vec<MendEffect> {
        match (event, std::mem::take(&mut self.state)) {
            (MendEvent::Wished(wish, can), state) => self.wished(wish, can, state),
            (MendEvent::Captured { number, outcome }, MendState::Capturing { wish })
                if wish.number == number =>
            {
                match outcome {
                    Ok(at) => {
                        self.state = MendState::Sent { wish, at };
                        Vec::new()
                    }
                    Err(why) => self.refuse(number, why),
                }
            }
            (MendEvent::Repaired(done), MendState::Sent { wish, at })
                if wish.number == done.number && at.get() == done.position =>
            {
                self.over = done.number;
                vec![MendEffect::ExcuseNoMore]
            }
            (MendEvent::Over, MendState::Resting) => {
                self.over = 0;
                Vec::new()
            }
            (MendEvent::Over, _) => {
                self.over = 0;
                vec![MendEffect::ExcuseNoMore]
            }
            (_, state) => {
                self.state = state;
                Vec::new()
            }
        }
    }

    fn wished(&mut self, wish: Wish, can: bool, state: MendState) -> Vec<MendEffect> {
        let number = wish.number;
        let is_known = match &state {
            MendState::Capturing { wish } | MendState::Sent { wish, .. } => number <= wish.number,
            MendState::Resting => number <= self.over,
        };
        if is_known {
            self.state = state;
            return Vec::new();
        }
        if !can {
            return self.refuse(
                number,
                "this site does not lead a confirmed pairing now".to_owned(),
            );
        }
        self.state = MendState::Capturing { wish: wish.clone() };
        vec![MendEffect::Excuse, MendEffect::Capture(wish)]
    }

    fn refuse(&mut self, number: u64, why: String) -> Vec<MendEffect> {
        self.over = number;
        let refused = Word::Refused { number, why };
        vec![MendEffect::ExcuseNoMore, MendEffect::Tell(refused)]
    }
}
