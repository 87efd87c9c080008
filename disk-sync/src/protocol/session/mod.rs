//! A session between two replicas, as two pure cores (D2, D4, D5): events in, effects out, in an order that counts.
//!
//! ```text
//!        source                                             target
//!          │ ◀───────────────────── Hello ─────────────────────▶ │   both decide alike from both summaries
//!          │ ◀──────────────── Marks (if partial) ────────────── │
//!          │ ───────────────── Work  (if partial) ─────────────▶ │
//!   hashes │ ◀─────────── Regions, Zeros, as hashed ──────────── │ hashes, at the same time
//!          │ ───── Ask (regions that differ) ──────────────────▶ │
//!          │ ◀──────────────────── Leaves ────────────────────── │
//!          │ ───── Data, Clear (leaves that differ) ───────────▶ │ syncing, durably; then writes
//!          │ ───── Settled (now and then) ─────────────────────▶ │ flush; marks go
//!          │ ───── Compared (often) ───────────────────────────▶ │ knows how far it is
//!          │ ───── End(root) ──────────────────────────────────▶ │ flush; what was written is read from the disk and hashed
//!          │ ◀──────────────────── Equal(root) ───────────────── │ clean, durably
//!    marks go, durably
//! ```
//!
//! Nothing waits for a round trip but the leaves of the last region that differs: while regions are still hashed,
//! earlier ones are asked about and their data travels.
//!
//! What each rule prevents:
//! - The target says `syncing` durably *before* the first write: no half-new replica ever looks usable.
//! - It becomes `clean` only if the root over everything compared, with what was written read back after a flush,
//!   is the source's: no bug and no bad disk between the two ends makes them silently differ.
//! - What a target reads after an interruption, and at the end, comes from the disk as far as the host lets us: a host that
//!   could not write what it was given keeps that in memory, as if it had.
//! - The source's marks go only after that: a target that dies just before leaves them in place.
//! - Both ends decide from the same two summaries by the same table. Neither obeys the other.
//! - A target writes only where work was agreed, a source sends only what it was told differs.
//!
//! **Any two images** are compared by a session in which neither end brings a summary: all is compared, as in a dry run,
//! and nothing is sent. Two lengths are an answer then, and no mistake.

mod source;
mod target;
#[cfg(test)]
pub(crate) mod tests;

use super::frame::{Frame, Hello, Role, VERSION};
use crate::decision::{Consent, Decision, Outcome, Summary, decide};
use crate::leaf_set::LeafSet;
use crate::replica::{Lineage, SyncKey};
use crate::tree::{ContentRoot, Found, Value};
use crate::units::{ImageLength, REGION_LEAVES, Run, on_disk};

pub use source::Comparison;
pub(crate) use source::Source;
pub(crate) use target::Target;

/// What an end brings into a session.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub(crate) role: Role,
    /// What is known of the replica; none if any two images are compared, replicas or not.
    pub(crate) summary: Option<Summary>,
    pub(crate) length: ImageLength,
    pub(crate) marks: LeafSet,
    pub(crate) consent: Consent,
    pub(crate) dry_run: bool,
    /// Bytes after which the target is asked to make durable what it has.
    pub(crate) checkpoint_bytes: u64,
}

impl Opening {
    fn hello(&self) -> Frame {
        Frame::Hello(Box::new(Hello {
            version: VERSION,
            role: self.role,
            consent: self.consent,
            dry_run: self.dry_run,
            length: self.length.bytes(),
            summary: self.summary.clone(),
        }))
    }

    /// What follows from both introductions.
    fn agree(&self, peer: &Hello) -> Result<Agreement, SessionError> {
        if peer.role == self.role {
            return Err(SessionError::SameRole);
        }
        let (ours, theirs) = match (&self.summary, &peer.summary) {
            (Some(ours), Some(theirs)) => (ours, theirs),
            (None, None) => {
                return Ok(Agreement {
                    plan: None,
                    is_comparable: peer.length == self.length.bytes(),
                    dry_run: true,
                });
            }
            _ => {
                return Err(SessionError::Breach(
                    "one end brings a replica and the other any image",
                ));
            }
        };
        let (source, target) = match self.role {
            Role::Source => (ours, theirs),
            Role::Target => (theirs, ours),
        };
        let consent = Consent {
            discard: self.consent.discard || peer.consent.discard,
            compare_all: self.consent.compare_all || peer.consent.compare_all,
        };
        let decision = decide(source, target, consent);
        if decision.outcome == Outcome::Refuse {
            return Err(SessionError::Refused(decision));
        }
        if peer.length != self.length.bytes() {
            let (of_source, of_target) = match self.role {
                Role::Source => (self.length.bytes(), peer.length),
                Role::Target => (peer.length, self.length.bytes()),
            };
            return Err(SessionError::Lengths { of_source, of_target });
        }
        let lineage = source.lineage.clone().ok_or(SessionError::Refused(decision))?;
        let key = SyncKey {
            source: source.replica,
            generation: lineage.current,
        };
        Ok(Agreement {
            plan: Some(Plan {
                decision,
                key,
                lineage,
            }),
            is_comparable: true,
            dry_run: self.dry_run || peer.dry_run,
        })
    }
}

/// What both ends conclude from their introductions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// What is made of two replicas; none where any two images are compared.
    pub(crate) plan: Option<Plan>,
    /// Whether they are of one length.
    pub(crate) is_comparable: bool,
    pub(crate) dry_run: bool,
}

/// What follows from two replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) decision: Decision,
    pub(crate) key: SyncKey,
    /// The source's, which the target's will be.
    pub(crate) lineage: Lineage,
}

impl Agreement {
    fn decision(&self) -> Option<Decision> {
        self.plan.as_ref().map(|plan| plan.decision)
    }

    fn outcome(&self) -> Outcome {
        match self.decision() {
            Some(decision) => decision.outcome,
            None if self.is_comparable => Outcome::Full,
            None => Outcome::Nothing,
        }
    }
}

/// What happens to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The connection stands.
    Start,
    /// The peer said this.
    Peer(Frame),
    /// Hashing came to this.
    Hashed(Found),
    /// Hashing, as last asked for, is complete.
    HashingEnded,
    /// These are the leaves that [`Effect::OwnLeaves`] asked for.
    OwnLeaves { region: u64, values: Vec<Value> },
}

/// What a session wants done, in this order. If one fails, the session has failed and no later one is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Say this to the peer.
    Send(Frame),
    /// Hash all, or the regions that this set touches; tell as [`Event::Hashed`], then [`Event::HashingEnded`].
    Hash(Option<LeafSet>),
    /// Hash this region again, whose leaves are not kept.
    OwnLeaves(u64),
    /// Read these leaves, which lie in one region, and send them.
    Transfer(Run),
    /// The target is about to be overwritten: say so durably.
    BeginSync(SyncKey, LeafSet),
    /// Write this where the leaves lie.
    Write {
        leaves: Run,
        compressed: bool,
        bytes: Vec<u8>,
    },
    /// Make these leaves zeros.
    Clear(Run),
    /// Make the image durable.
    Flush,
    /// Have the host forget what it holds of these leaves in memory: what is durable is what is read.
    Forget(LeafSet),
    /// These leaves are equal now, durably: they need no marks.
    Settle(LeafSet),
    /// The peer is done with so many regions.
    Compared(u64),
    /// The target is equal to the source: it is clean, of this lineage.
    FinishSync(Lineage),
    /// The target is equal to this source: its marks are needless.
    PeerIsEqual,
    /// The session has ended well.
    Finished(Finish),
}

/// How a session ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finish {
    /// What was decided, and why; none where any two images were compared.
    pub decision: Option<Decision>,
    /// What was compared and found.
    pub tally: Tally,
    /// What names the content that was compared; none if there was nothing to do.
    pub root: Option<ContentRoot>,
    /// Whether it was only found out what would be done: one of the ends wanted no more.
    pub dry_run: bool,
}

/// What was done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Regions to compare.
    pub regions: u64,
    /// Of these, hashed here.
    pub regions_hashed: u64,
    /// Of these, compared; of a target: told.
    pub regions_compared: u64,
    /// Of these, done with: found equal, or all that they lack was sent; of a target: as far as the source has told.
    pub regions_settled: u64,
    /// Leaves that were or would be sent.
    pub leaves_sent: u64,
    /// Leaves that were or would be made zeros.
    pub leaves_cleared: u64,
}

/// Why a session ended badly. The target's state says what its replica is: its old self, or `syncing`.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Copying would do harm.
    #[error("refused: {}", .0.reason)]
    Refused(Decision),
    /// The images differ in length.
    #[error(
        "the source has {of_source} bytes and the target {of_target}: make the target of the source's length"
    )]
    Lengths {
        /// Bytes of the source.
        of_source: u64,
        /// Bytes of the target.
        of_target: u64,
    },
    /// Both want to play the same part.
    #[error("both ends want to be the same end")]
    SameRole,
    /// The peer has sent a frame that has no place where the session is.
    #[error("the peer broke the protocol: {0} has no place here")]
    Misplaced(&'static str),
    /// The peer has said something that cannot be.
    #[error("the peer broke the protocol: {0}")]
    Breach(&'static str),
    /// The peer has given up, and why.
    #[error("the other end gave up: {0}")]
    Aborted(String),
    /// What was written does not read back as what was sent.
    #[error(
        "after all was sent, the target is not equal to the source: one of the two disks does not keep what is \
         written to it, or was written to meanwhile"
    )]
    Unequal,
}

type Step = Result<(), SessionError>;

/// The frames that tell a list of runs, whatever its length.
fn in_frames(runs: &[Run], frame: impl Fn(Vec<Run>, bool) -> Frame) -> Vec<Frame> {
    let most = crate::limits::FRAME_RUNS_MAX;
    // A run's count has four bytes.
    let cut: Vec<Run> = runs
        .iter()
        .flat_map(|run| cut(*run, u64::from(u32::MAX)))
        .collect();
    let last = cut.len().div_ceil(most).max(1) - 1;
    (0..=last)
        .map(|index| {
            let chunk = cut.chunks(most).nth(index).unwrap_or_default();
            frame(chunk.to_vec(), index == last)
        })
        .collect()
}

/// A run in pieces of at most `most`.
fn cut(run: Run, most: u64) -> impl Iterator<Item = Run> {
    let pieces = run.count.div_ceil(most);
    (0..pieces).map(move |piece| {
        let first = run.first + piece * most;
        Run::new(first, (run.end() - first).min(most))
    })
}

/// A list of runs that a peer tells in pieces: in order, none twice, so that it has an end.
#[derive(Debug, Default)]
struct Listing {
    told_to: u64,
}

impl Listing {
    /// Takes a piece of it, of an image or a list that ends at `end`.
    fn take(&mut self, runs: &[Run], last: bool, end: u64) -> Step {
        if runs.is_empty() && !last {
            return Err(SessionError::Breach("a piece of a list that holds nothing"));
        }
        for run in runs {
            if run.count == 0 || run.end() > end {
                return Err(SessionError::Breach("a run outside the image"));
            }
            if run.first < self.told_to {
                return Err(SessionError::Breach("a list that is in no order"));
            }
            self.told_to = run.end();
        }
        if last {
            self.told_to = 0;
        }
        Ok(())
    }

    /// Takes a piece of a list of leaves, and adds them to `set`.
    fn take_into(&mut self, set: &mut LeafSet, runs: &[Run], last: bool) -> Step {
        self.take(runs, last, set.length().leaves())?;
        runs.iter().for_each(|run| set.insert(run));
        Ok(())
    }
}

/// The leaves of some regions.
fn leaves_of(regions: &Run) -> Run {
    let per_region = on_disk(REGION_LEAVES);
    Run::new(
        regions.first.saturating_mul(per_region),
        regions.count.saturating_mul(per_region),
    )
}
