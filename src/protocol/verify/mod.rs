//! Comparing the two replicas of a VM in lockstep while its guest runs (D5), and mending what differs (D3).
//!
//! ```text
//!            primary                                                 backup
//!   Watch(slice) ──▶ its guest is at P ══ Verify(slice) in the log ══▶ its guest is at P
//!        both begin to watch at P, and hash what is as it was there, each when it comes to it
//!   hashes of what is known ◀═══════════════ Hashes ═════════════════ hashes of what is known
//!        equal ─▶ settled          unknown to one of them ─▶ asked for again, in a later pass
//!        differs ─▶ named; its content at P ══ Mend ══▶ written, if it is as it was at P; durable ══ Mended ══▶ later compared again
//! ```
//!
//! A [`Round`] names position and slice, so nothing that is told of one is taken for another's. A leaf that the guest writes
//! to between P and its reading is *unknown*, at that site alone: neither is the guest held up, nor is what was read
//! judged ([`antipode_disk_sync::online::Watch`]). What is known at both sites is the content at one position: a busy disk
//! raises no false alarm. What the guest never leaves alone stays unknown, and is counted.
//!
//! The live site is right by definition: what its guest reads is what it goes on from. A mend carries content at P to a
//! copy that has not written there since P, and until it is done the copy's own writes to that leaf wait: so nothing newer is
//! ever overwritten, and nothing is shown before its time.
//!
//! ```text
//!   idle ── Begin ─▶ resting ─▶ asked ── Watched ─▶ comparing ─▶ mending, leaf by leaf
//!    ▲                  ▲ a pass is over              │ equal         │
//!    │                  └─────────────────────────────┴───────────────┘
//!    └── all is settled; or End: cancelled, the pairing or its channel is gone, the other site does not answer
//! ```
//!
//! Whatever ends it harms nothing: a watch that nobody asks about any more is replaced by the next one.
//!
//! Pure: this is the primary's part. The backup's is a rule without memory: it tells its hashes of each slice that the log
//! names, and writes what the rule above allows.

mod report;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use antipode_disk_sync::LeafSet;
use antipode_disk_sync::online::Slice;
use antipode_disk_sync::units::{EXTENT_LEAVES, ImageLength, Run};

pub use self::report::{Difference, Ended, Report, State};
use super::limits::{
    VERIFY_DIFFERENCES_MAX, VERIFY_MENDS_MAX, VERIFY_PASS_PAUSE, VERIFY_PASSES_MAX, VERIFY_PATIENCE,
};
use super::moment::Moment;
use crate::base::units::ExitOrdinal;
use crate::machine::workers::{Hashes, Round};

/// Leaves that are asked for at once when the guest has written to them before: the fewer, the sooner each is read.
const LEAVES_AT_ONCE_AGAIN: u32 = 8;

/// What happens to a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Compare a disk of this length.
    Begin(ImageLength),
    /// This site watches, and the other one is told where.
    Watched(Round),
    /// What this site knows of a round's slice.
    Hashed(Round, Hashes),
    /// What the other site knows of it.
    PeerHashed(Round, Hashes),
    /// A leaf of it, by its place in the extent, was mended; or could not be, now.
    Mended(Round, u8, bool),
    /// It is over, for this reason.
    End(Ended),
    /// Time goes by.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Put it into the log where the guest is, and watch from there.
    Watch(Slice),
    /// Send the other site what the leaf at that place held where the round began.
    Mend(Round, u8),
}

#[derive(Debug, Clone)]
enum Stage {
    Resting {
        until: Moment,
    },
    Asked {
        slice: Slice,
        since: Moment,
    },
    Comparing(Box<Comparing>),
    Mending {
        round: Round,
        place: u8,
        left: u64,
        since: Moment,
    },
}

#[derive(Debug, Clone)]
struct Comparing {
    round: Round,
    since: Moment,
    own: Option<Hashes>,
    theirs: Option<Hashes>,
}

/// A leaf that was found to differ.
#[derive(Debug, Clone, Copy)]
struct Found {
    position: ExitOrdinal,
    /// How often that was done in this verification.
    mends: u32,
    is_mended: bool,
}

#[derive(Debug, Clone)]
struct Running {
    stage: Stage,
    todo: LeafSet,
    again: LeafSet,
    pass: u32,
    settled: u64,
}

/// Compares one VM's replicas, at the primary.
#[derive(Debug, Default)]
pub struct Verifier {
    running: Option<Running>,
    length: Option<ImageLength>,
    began: Moment,
    /// How the last one ended, and when.
    ended: Option<(Moment, State, Option<Ended>)>,
    settled: u64,
    unknown: u64,
    /// What differs, or has differed in the last one.
    found: BTreeMap<u64, Found>,
}

impl Verifier {
    /// Whether one is under way.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// When the last one began, if there was one.
    #[must_use]
    pub fn last_began(&self) -> Option<Moment> {
        self.length.map(|_| self.began)
    }

    /// What follows from `event`.
    pub fn step(&mut self, now: Moment, event: Event) -> Option<Effect> {
        match event {
            Event::Begin(length) => self.begin(now, length),
            Event::End(why) => {
                self.end(now, State::Ended, Some(why));
                None
            }
            Event::Watched(round) => {
                self.watched(now, round);
                None
            }
            Event::Hashed(round, hashes) => self.hashed(now, round, |comparing| comparing.own = Some(hashes)),
            Event::PeerHashed(round, hashes) => {
                self.hashed(now, round, |comparing| comparing.theirs = Some(hashes))
            }
            Event::Mended(round, place, done) => self.mended(now, round, place, done),
            Event::Tick => self.tick(now),
        }
    }

    fn begin(&mut self, now: Moment, length: ImageLength) -> Option<Effect> {
        if self.is_running() {
            return None;
        }
        self.length = Some(length);
        self.began = now;
        self.ended = None;
        self.unknown = 0;
        self.settled = 0;
        // What still differs is told of until it is found to be equal.
        self.found.retain(|_, found| !found.is_mended);
        self.found.values_mut().for_each(|found| found.mends = 0);
        self.running = Some(Running {
            stage: Stage::Resting { until: now },
            todo: LeafSet::all(length),
            again: LeafSet::none(length),
            pass: 1,
            settled: 0,
        });
        self.tick(now)
    }

    fn end(&mut self, now: Moment, state: State, why: Option<Ended>) {
        if let Some(running) = self.running.take() {
            self.settled = running.settled;
            self.unknown = running.again.count();
            self.ended = Some((now, state, why));
        }
    }

    fn watched(&mut self, now: Moment, round: Round) {
        if let Some(running) = &mut self.running
            && let Stage::Asked { slice, .. } = running.stage
            && slice == round.slice
        {
            running.stage = Stage::Comparing(Box::new(Comparing {
                round,
                since: now,
                own: None,
                theirs: None,
            }));
        }
    }

    fn hashed(&mut self, now: Moment, round: Round, take: impl FnOnce(&mut Comparing)) -> Option<Effect> {
        let running = self.running.as_mut()?;
        let Stage::Comparing(comparing) = &mut running.stage else {
            return None;
        };
        if comparing.round != round {
            return None;
        }
        take(comparing);
        let (own, theirs) = comparing.own.clone().zip(comparing.theirs.clone())?;
        self.compare(now, round, &own, &theirs)
    }

    fn compare(&mut self, now: Moment, round: Round, own: &Hashes, theirs: &Hashes) -> Option<Effect> {
        let running = self.running.as_mut()?;
        let mut differ = 0;
        for (leaf, bit) in round.slice.numbers() {
            let run = Run::new(leaf, 1);
            running.todo.remove(&run);
            let (Some(here), Some(there)) = (own.of(bit), theirs.of(bit)) else {
                running.again.insert(&run);
                continue;
            };
            if here == there {
                running.settled += 1;
                if let Some(found) = self.found.get_mut(&leaf) {
                    found.is_mended = true;
                }
                continue;
            }
            let found = self.found.entry(leaf).or_insert(Found {
                position: round.at,
                mends: 0,
                is_mended: false,
            });
            found.position = round.at;
            found.is_mended = false;
            tracing::warn!(leaf, position = %round.at, "the other site's disk differs");
            if found.mends >= VERIFY_MENDS_MAX {
                // It was mended again and again, and stays named.
                running.settled += 1;
            } else {
                differ |= bit;
                running.again.insert(&run);
            }
        }
        if self.found.len() > VERIFY_DIFFERENCES_MAX {
            self.end(now, State::Ended, Some(Ended::TooDifferent));
            return None;
        }
        self.mend_next(now, round, differ)
    }

    fn mend_next(&mut self, now: Moment, round: Round, left: u64) -> Option<Effect> {
        if left == 0 {
            return self.next(now);
        }
        let place = u8::try_from(left.trailing_zeros()).ok()?;
        self.running.as_mut()?.stage = Stage::Mending {
            round,
            place,
            left: left & (left - 1),
            since: now,
        };
        Some(Effect::Mend(round, place))
    }

    fn mended(&mut self, now: Moment, of: Round, which: u8, done: bool) -> Option<Effect> {
        let Stage::Mending {
            round, place, left, ..
        } = self.running.as_ref()?.stage
        else {
            return None;
        };
        if (round, place) != (of, which) {
            return None;
        }
        if done
            && let Some((leaf, _)) = round.leaf(place)
            && let Some(found) = self.found.get_mut(&leaf)
        {
            found.mends += 1;
        }
        // Whether it was mended or not: it is compared again.
        self.mend_next(now, round, left)
    }

    /// Goes on to the next slice, the next pass, or the end.
    fn next(&mut self, now: Moment) -> Option<Effect> {
        let running = self.running.as_mut()?;
        let at_once = if running.pass == 1 {
            u32::try_from(EXTENT_LEAVES).unwrap_or(u32::MAX)
        } else {
            LEAVES_AT_ONCE_AGAIN
        };
        if let Some(slice) = running.todo.first_slice(at_once) {
            running.stage = Stage::Asked { slice, since: now };
            return Some(Effect::Watch(slice));
        }
        if running.again.is_empty() || running.pass == VERIFY_PASSES_MAX {
            self.end(now, State::Complete, None);
            return None;
        }
        running.pass += 1;
        std::mem::swap(&mut running.todo, &mut running.again);
        running.stage = Stage::Resting {
            until: now + VERIFY_PASS_PAUSE,
        };
        None
    }

    fn tick(&mut self, now: Moment) -> Option<Effect> {
        let since = match &self.running.as_ref()?.stage {
            Stage::Resting { until } if now >= *until => return self.next(now),
            Stage::Resting { .. } => return None,
            Stage::Comparing(comparing) => comparing.since,
            Stage::Asked { since, .. } | Stage::Mending { since, .. } => *since,
        };
        if now.saturating_since(since) > VERIFY_PATIENCE {
            self.end(now, State::Ended, Some(Ended::NoAnswer));
        }
        None
    }

    /// What an operator is shown, with `origin` being the clock's start in seconds since 1970; none where there was nothing to
    /// compare yet.
    #[must_use]
    pub fn report(&self, origin: i64) -> Option<Report> {
        let length = self.length?;
        let at = |moment: Moment| {
            let seconds = moment.saturating_since(Moment::default()).as_secs();
            origin.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX))
        };
        let (settled, pass) = self
            .running
            .as_ref()
            .map_or((self.settled, 0), |running| (running.settled, running.pass));
        let (state, because) = self
            .ended
            .map_or((State::Running, None), |(_, state, because)| (state, because));
        let count = |found: usize| u64::try_from(found).unwrap_or(u64::MAX);
        Some(Report {
            state,
            because,
            pass,
            total_bytes: length.bytes(),
            compared_bytes: report::bytes_of(length, settled),
            unknown_bytes: report::bytes_of(length, self.unknown),
            differed: count(self.found.len()),
            mended: count(self.found.values().filter(|found| found.is_mended).count()),
            differences: report::named(
                self.found
                    .iter()
                    .map(|(leaf, found)| (*leaf, found.position, found.is_mended)),
            ),
            began: at(self.began),
            ended: self.ended.map(|(ended, ..)| at(ended)),
        })
    }
}

/// When a site verifies by itself: so long after the last one began, or after lockstep did.
#[must_use]
pub fn is_due(now: Moment, every: Duration, lockstep_since: Moment, last_began: Option<Moment>) -> bool {
    let last = last_began.map_or(lockstep_since, |began| began.max(lockstep_since));
    now.saturating_since(last) >= every
}
