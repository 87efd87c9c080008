//! The end that is copied from.

use std::collections::{BTreeMap, BTreeSet};

use super::{Agreement, Effect, Event, Finish, Listing, Opening, SessionError, Step, Tally, cut, in_frames};
use crate::decision::Outcome;
use crate::leaf_set::LeafSet;
use crate::limits::{
    FRAME_REGIONS_MAX, HOLE_SPAN_REGIONS_MAX, LEAVES_ASKED_MAX, REGIONS_PER_RECEIPT, REGIONS_UNCOMPARED_MAX,
};
use crate::protocol::frame::Frame;
use crate::tree::{ContentRoot, Found, Tree, Value, Wanted};
use crate::units::{LEAF_BYTES, Run, in_memory, on_disk};

/// The core of the source.
#[derive(Debug)]
pub(crate) struct Source {
    opening: Opening,
    phase: Phase,
    work: LeafSet,
    tree: Tree,
    is_hashed: Vec<bool>,
    /// Regions whose values the target has told: each is told once, and so is in one of the lists below at most.
    is_told: Vec<bool>,
    marks: Listing,
    /// What the target said of regions that are not hashed here yet.
    theirs: BTreeMap<u64, Value>,
    /// Regions that differ and are to be asked about.
    to_ask: BTreeSet<u64>,
    /// Regions that were asked about.
    asked: BTreeSet<u64>,
    /// Regions whose leaves differ from these, or from zeros if there are none, and are to be hashed again here.
    to_rehash: BTreeMap<u64, Vec<Value>>,
    /// Regions that are hashed again.
    rehashing: BTreeMap<u64, Vec<Value>>,
    /// Regions that are equal once what was sent is flushed, since the last such message.
    settled: Vec<u64>,
    bytes_since_settled: u64,
    /// Leaves that differ, found so far.
    differing: LeafSet,
    /// What the target says of its length.
    peer_bytes: u64,
    tally: Tally,
}

#[derive(Debug)]
enum Phase {
    Greeting,
    /// The target tells what it has marked.
    Listing(Agreement),
    Comparing(Agreement),
    /// All was sent.
    Verifying(Agreement, ContentRoot),
    Ended,
}

impl Source {
    pub(crate) fn new(opening: Opening) -> Self {
        let length = opening.length;
        Self {
            phase: Phase::Greeting,
            work: LeafSet::none(length),
            tree: Tree::of_zeros(length, Wanted::Content),
            is_hashed: vec![false; in_memory(length.regions())],
            is_told: vec![false; in_memory(length.regions())],
            marks: Listing::default(),
            theirs: BTreeMap::new(),
            to_ask: BTreeSet::new(),
            asked: BTreeSet::new(),
            to_rehash: BTreeMap::new(),
            rehashing: BTreeMap::new(),
            settled: Vec::new(),
            bytes_since_settled: 0,
            differing: LeafSet::none(length),
            peer_bytes: 0,
            tally: Tally::default(),
            opening,
        }
    }

    /// Where two images differ that were compared.
    pub(crate) fn comparison(self) -> Comparison {
        Comparison {
            lengths: [self.opening.length.bytes(), self.peer_bytes],
            content: self.tree.content_root(),
            differing: self.differing,
        }
    }

    pub(crate) const fn tally(&self) -> Tally {
        self.tally
    }

    /// Regions of which something is kept that the target told.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.theirs.len()
            + self.to_ask.len()
            + self.asked.len()
            + self.to_rehash.len()
            + self.rehashing.len()
            + self.settled.len()
    }

    /// What follows from `event`.
    ///
    /// # Errors
    /// [`SessionError`]: the session has ended.
    pub(crate) fn step(&mut self, event: Event, effects: &mut Vec<Effect>) -> Step {
        match event {
            Event::Start => effects.push(Effect::Send(self.opening.hello())),
            Event::Hashed(found) => self.hashed(&found, effects),
            Event::HashingEnded => {}
            Event::OwnLeaves { region, values } => {
                let theirs = self.rehashing.remove(&region);
                let theirs = theirs.ok_or(SessionError::Breach("leaves that nobody asked for"))?;
                self.compare_leaves(region, &values, &theirs, effects);
            }
            Event::Peer(frame) => self.peer(frame, effects)?,
        }
        self.proceed(effects);
        Ok(())
    }

    fn peer(&mut self, frame: Frame, effects: &mut Vec<Effect>) -> Step {
        match (&self.phase, frame) {
            (_, Frame::Abort(reason)) => return Err(SessionError::Aborted(reason)),
            (Phase::Greeting, Frame::Hello(hello)) => {
                let agreement = self.opening.agree(&hello)?;
                self.peer_bytes = hello.length;
                self.agreed(agreement, effects);
            }
            (Phase::Listing(agreement), Frame::Marks { runs, last }) => {
                let agreement = agreement.clone();
                self.marks.take_into(&mut self.work, &runs, last)?;
                if last {
                    self.work.unite(&self.opening.marks);
                    let runs: Vec<Run> = self.work.runs().collect();
                    let frames = in_frames(&runs, |runs, last| Frame::Work { runs, last });
                    effects.extend(frames.into_iter().map(Effect::Send));
                    effects.push(Effect::Hash(Some(self.work.clone())));
                    self.compare_from_now(agreement);
                }
            }
            (Phase::Comparing(_), Frame::Regions { first, values }) => {
                for (region, value) in (first..).zip(values) {
                    self.told(region, value, effects)?;
                }
            }
            (Phase::Comparing(_), Frame::Zeros(regions)) => {
                if regions.count > HOLE_SPAN_REGIONS_MAX {
                    return Err(SessionError::Breach("more zeros than are told at once"));
                }
                for region in regions.indices() {
                    self.told(region, Value::ZERO, effects)?;
                }
            }
            (Phase::Comparing(_), Frame::Leaves { region, values }) => {
                let was_asked = self.asked.remove(&region);
                // Only a region that was asked about is known to be one of the image.
                if !was_asked || values.len() != in_memory(self.opening.length.leaves_of(region).count) {
                    return Err(SessionError::Breach("leaves that nobody asked for"));
                }
                self.differs(region, values, effects);
            }
            (Phase::Verifying(agreement, root), Frame::Equal(theirs)) => {
                if *root != theirs {
                    return Err(SessionError::Unequal);
                }
                let (decision, root, dry_run) = (agreement.decision(), *root, agreement.dry_run);
                if !dry_run {
                    effects.extend([Effect::Flush, Effect::PeerIsEqual]);
                }
                let tally = self.tally;
                effects.push(Effect::Finished(Finish {
                    decision,
                    tally,
                    root: Some(root),
                    dry_run,
                }));
                self.phase = Phase::Ended;
            }
            (_, frame) => return Err(SessionError::Misplaced(frame.name())),
        }
        Ok(())
    }

    fn agreed(&mut self, agreement: Agreement, effects: &mut Vec<Effect>) {
        match agreement.outcome() {
            Outcome::Nothing | Outcome::Refuse => {
                effects.push(Effect::Finished(Finish {
                    decision: agreement.decision(),
                    tally: self.tally,
                    root: None,
                    dry_run: agreement.dry_run,
                }));
                self.phase = Phase::Ended;
            }
            Outcome::Partial => self.phase = Phase::Listing(agreement),
            Outcome::Full => {
                self.work = LeafSet::all(self.opening.length);
                effects.push(Effect::Hash(None));
                self.compare_from_now(agreement);
            }
        }
    }

    fn compare_from_now(&mut self, agreement: Agreement) {
        self.tally.regions = self.work.regions();
        self.phase = Phase::Comparing(agreement);
    }

    fn hashed(&mut self, found: &Found, effects: &mut Vec<Effect>) {
        self.tree.set(found);
        for region in found.regions().indices() {
            self.is_hashed[in_memory(region)] = true;
            self.tally.regions_hashed += 1;
            if let Some(theirs) = self.theirs.remove(&region) {
                self.compare(region, theirs, effects);
            }
        }
    }

    /// The target has told the value of a region.
    fn told(&mut self, region: u64, value: Value, effects: &mut Vec<Effect>) -> Step {
        if region >= self.opening.length.regions() || !self.work.touches(region) {
            return Err(SessionError::Breach("a region that is not compared"));
        }
        if std::mem::replace(&mut self.is_told[in_memory(region)], true) {
            return Err(SessionError::Breach("a region told twice"));
        }
        if self.is_hashed[in_memory(region)] {
            self.compare(region, value, effects);
            return Ok(());
        }
        self.theirs.insert(region, value);
        if on_disk(self.theirs.len()) > REGIONS_UNCOMPARED_MAX {
            return Err(SessionError::Breach("more regions than may be told ahead"));
        }
        Ok(())
    }

    fn compare(&mut self, region: u64, theirs: Value, effects: &mut Vec<Effect>) {
        self.tally.regions_compared += 1;
        let ours = self.tree.region(region);
        let leaves = self.opening.length.leaves_of(region);
        if ours == theirs {
            self.done_with(region, effects);
        } else if ours.is_zero() {
            self.clear(leaves, effects);
            self.done_with(region, effects);
        } else if theirs.is_zero() {
            self.differs(region, Vec::new(), effects);
        } else {
            self.to_ask.insert(region);
        }
    }

    /// The region's leaves differ from `theirs`, or from zeros if those are none.
    fn differs(&mut self, region: u64, theirs: Vec<Value>, effects: &mut Vec<Effect>) {
        match self.tree.leaves_of(region).map(<[Value]>::to_vec) {
            Some(ours) => self.compare_leaves(region, &ours, &theirs, effects),
            None => drop(self.to_rehash.insert(region, theirs)),
        }
    }

    fn compare_leaves(&mut self, region: u64, ours: &[Value], theirs: &[Value], effects: &mut Vec<Effect>) {
        let first = self.opening.length.leaves_of(region).first;
        let zeros = std::iter::repeat_n(&Value::ZERO, ours.len().saturating_sub(theirs.len()));
        let kinds = ours
            .iter()
            .zip(theirs.iter().chain(zeros))
            .map(|(ours, theirs)| match ours == theirs {
                true => Kind::Equal,
                false if ours.is_zero() => Kind::Zeros,
                false => Kind::Data,
            });
        let mut runs: Vec<(Kind, Run)> = Vec::new();
        for (leaf, kind) in (first..).zip(kinds) {
            match runs.last_mut() {
                Some((last, run)) if *last == kind => run.count += 1,
                _ => runs.push((kind, Run::new(leaf, 1))),
            }
        }
        for (kind, run) in runs {
            match kind {
                Kind::Equal => {}
                Kind::Zeros => self.clear(run, effects),
                Kind::Data => {
                    self.differing.insert(&run);
                    self.tally.leaves_sent += run.count;
                    self.bytes_since_settled += run.count * LEAF_BYTES;
                    effects.push(Effect::Transfer(run));
                }
            }
        }
        self.done_with(region, effects);
        // Here and not once a step: a target that is one hole tells of it all at once.
        if self.bytes_since_settled >= self.opening.checkpoint_bytes {
            self.settle(effects);
        }
    }

    /// The region is equal once all that was sent has arrived.
    fn done_with(&mut self, region: u64, effects: &mut Vec<Effect>) {
        self.settled.push(region);
        self.tally.regions_settled += 1;
        if self.tally.regions_settled.is_multiple_of(REGIONS_PER_RECEIPT) {
            effects.push(Effect::Send(Frame::Compared(self.tally.regions_settled)));
        }
    }

    fn clear(&mut self, leaves: Run, effects: &mut Vec<Effect>) {
        self.differing.insert(&leaves);
        self.tally.leaves_cleared += leaves.count;
        // Neighbours go as one range.
        if let Some(Effect::Send(Frame::Clear(last))) = effects.last_mut()
            && last.end() == leaves.first
        {
            last.count += leaves.count;
            return;
        }
        effects.push(Effect::Send(Frame::Clear(leaves)));
    }

    /// What is due whatever has happened.
    fn proceed(&mut self, effects: &mut Vec<Effect>) {
        let Phase::Comparing(agreement) = &self.phase else {
            return;
        };
        let agreement = agreement.clone();
        while self.rehashing.len() < LEAVES_ASKED_MAX
            && let Some((region, theirs)) = self.to_rehash.pop_first()
        {
            self.rehashing.insert(region, theirs);
            effects.push(Effect::OwnLeaves(region));
        }
        // What is answered while this end cannot keep up would pile up here.
        while !self.to_ask.is_empty() && self.to_rehash.is_empty() && self.asked.len() < LEAVES_ASKED_MAX {
            let room = (LEAVES_ASKED_MAX - self.asked.len()).min(FRAME_REGIONS_MAX);
            let regions: Vec<u64> = (0..room).map_while(|_| self.to_ask.pop_first()).collect();
            self.asked.extend(&regions);
            effects.push(Effect::Send(Frame::Ask(regions)));
        }
        let has_compared_all = self.tally.regions_compared == self.tally.regions;
        let waits = !(self.to_ask.is_empty()
            && self.asked.is_empty()
            && self.to_rehash.is_empty()
            && self.rehashing.is_empty());
        if has_compared_all && !waits {
            let root = self.tree.root_of(&self.work);
            effects.push(Effect::Send(Frame::End(root)));
            self.phase = Phase::Verifying(agreement, root);
        }
        if let Phase::Comparing(agreement) | Phase::Verifying(agreement, _) = &self.phase
            && agreement.dry_run
        {
            let is_plan = agreement.plan.is_some();
            effects.retain(|effect| match effect {
                Effect::Send(Frame::Clear(_) | Frame::Settled { .. }) => false,
                // What would be sent of a replica is packed, to know how much that is.
                Effect::Transfer(_) => is_plan,
                _ => true,
            });
        }
    }

    fn settle(&mut self, effects: &mut Vec<Effect>) {
        self.bytes_since_settled = 0;
        let mut regions = std::mem::take(&mut self.settled);
        regions.sort_unstable();
        let mut runs: Vec<Run> = Vec::new();
        for region in regions {
            match runs.last_mut() {
                Some(run) if run.end() == region => run.count += 1,
                _ => runs.push(Run::new(region, 1)),
            }
        }
        let runs: Vec<Run> = runs.into_iter().flat_map(|run| cut(run, 1 << 24)).collect();
        let frames = in_frames(&runs, |regions, last| Frame::Settled { regions, last });
        effects.extend(frames.into_iter().map(Effect::Send));
    }
}

/// What came of a comparison of two images.
#[derive(Debug)]
pub struct Comparison {
    /// Bytes of the one here and of the other one. If these differ, nothing was compared.
    pub lengths: [u64; 2],
    /// Leaves in which they differ.
    pub differing: LeafSet,
    /// What names the content of the one here.
    pub content: ContentRoot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Equal,
    Zeros,
    Data,
}
