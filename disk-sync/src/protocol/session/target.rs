//! The end that is overwritten.

use super::{
    Agreement, Effect, Event, Finish, Listing, Opening, SessionError, Step, Tally, in_frames, leaves_of,
};
use crate::decision::Outcome;
use crate::leaf_set::LeafSet;
use crate::limits::LEAVES_ASKED_MAX;
use crate::protocol::frame::Frame;
use crate::replica::State;
use crate::tree::{ContentRoot, Found, Tree, Value, Wanted};
use crate::units::{REGION_LEAVES, Run, in_memory, on_disk};

/// The core of the target.
#[derive(Debug)]
pub(crate) struct Target {
    opening: Opening,
    phase: Phase,
    work: LeafSet,
    tree: Tree,
    is_hashed: Vec<bool>,
    /// What was written to: it is hashed again at the end.
    written: LeafSet,
    /// Whether the replica says `syncing`.
    has_begun: bool,
    /// What the source says is equal, while it still says so.
    settled: LeafSet,
    /// Of work, and of what is settled.
    list: Listing,
    /// Regions that are hashed again for the source, which has asked for their leaves.
    answering: usize,
    /// Hashing that was asked for and has not ended. The end of the first may come after all has arrived.
    passes_under_way: u32,
    tally: Tally,
}

#[derive(Debug)]
enum Phase {
    Greeting,
    /// The source tells what both compare.
    Listing(Agreement),
    Serving(Agreement),
    /// All has arrived; what was written is being hashed.
    Verifying(Agreement, ContentRoot),
    Ended,
}

impl Target {
    pub(crate) fn new(opening: Opening) -> Self {
        let length = opening.length;
        Self {
            phase: Phase::Greeting,
            work: LeafSet::none(length),
            tree: Tree::of_zeros(length, Wanted::Content),
            is_hashed: vec![false; in_memory(length.regions())],
            written: LeafSet::none(length),
            has_begun: false,
            settled: LeafSet::none(length),
            list: Listing::default(),
            answering: 0,
            passes_under_way: 0,
            tally: Tally::default(),
            opening,
        }
    }

    pub(crate) const fn tally(&self) -> Tally {
        self.tally
    }

    /// What follows from `event`.
    ///
    /// # Errors
    /// [`SessionError`]: the session has ended.
    pub(crate) fn step(&mut self, event: Event, effects: &mut Vec<Effect>) -> Step {
        match event {
            Event::Start => effects.push(Effect::Send(self.opening.hello())),
            Event::Hashed(found) => self.hashed(found, effects),
            Event::HashingEnded => self.hashing_ended(effects)?,
            Event::OwnLeaves { region, values } => {
                self.answering -= 1;
                effects.push(Effect::Send(Frame::Leaves { region, values }));
            }
            Event::Peer(frame) => self.peer(frame, effects)?,
        }
        Ok(())
    }

    fn peer(&mut self, frame: Frame, effects: &mut Vec<Effect>) -> Step {
        match (&self.phase, frame) {
            (_, Frame::Abort(reason)) => return Err(SessionError::Aborted(reason)),
            (Phase::Greeting, Frame::Hello(hello)) => {
                let agreement = self.opening.agree(&hello)?;
                self.agreed(agreement, effects);
            }
            (Phase::Listing(agreement), Frame::Work { runs, last }) => {
                let agreement = agreement.clone();
                self.list.take_into(&mut self.work, &runs, last)?;
                if last {
                    self.look_again(&agreement, effects);
                    self.hash(Some(self.work.clone()), effects);
                    self.serve_from_now(agreement);
                }
            }
            (Phase::Serving(_), Frame::Ask(regions)) => {
                for region in regions {
                    self.answer(region, effects)?;
                }
            }
            (Phase::Serving(_), Frame::Compared(regions)) => {
                if !(self.tally.regions_settled..=self.tally.regions_compared).contains(&regions) {
                    return Err(SessionError::Breach("a count of regions that cannot be"));
                }
                self.tally.regions_settled = regions;
                effects.push(Effect::Compared(regions));
            }
            (Phase::Serving(agreement), Frame::End(root)) => {
                let agreement = agreement.clone();
                self.verify(agreement, root, effects);
            }
            (Phase::Serving(agreement), frame) if !agreement.dry_run => {
                let agreement = agreement.clone();
                self.change(frame, &agreement, effects)?;
            }
            (_, frame) => return Err(SessionError::Misplaced(frame.name())),
        }
        Ok(())
    }

    fn agreed(&mut self, agreement: Agreement, effects: &mut Vec<Effect>) {
        match agreement.outcome() {
            Outcome::Nothing | Outcome::Refuse => self.finish(&agreement, None, effects),
            Outcome::Partial => {
                let marks: Vec<Run> = self.opening.marks.runs().collect();
                let frames = in_frames(&marks, |runs, last| Frame::Marks { runs, last });
                effects.extend(frames.into_iter().map(Effect::Send));
                self.phase = Phase::Listing(agreement);
            }
            Outcome::Full => {
                self.work = LeafSet::all(self.opening.length);
                self.look_again(&agreement, effects);
                self.hash(None, effects);
                self.serve_from_now(agreement);
            }
        }
    }

    /// Of a sync that was interrupted, the host may hold in memory what it could not write.
    fn look_again(&self, agreement: &Agreement, effects: &mut Vec<Effect>) {
        let summary = self.opening.summary.as_ref();
        let is_interrupted = summary.is_some_and(|summary| matches!(summary.state, State::Syncing(_)));
        if is_interrupted && !agreement.dry_run {
            effects.extend([Effect::Flush, Effect::Forget(self.work.clone())]);
        }
    }

    fn hash(&mut self, work: Option<LeafSet>, effects: &mut Vec<Effect>) {
        self.passes_under_way += 1;
        effects.push(Effect::Hash(work));
    }

    fn serve_from_now(&mut self, agreement: Agreement) {
        self.tally.regions = self.work.regions();
        self.phase = Phase::Serving(agreement);
    }

    fn finish(&mut self, agreement: &Agreement, root: Option<ContentRoot>, effects: &mut Vec<Effect>) {
        effects.push(Effect::Finished(Finish {
            decision: agreement.decision(),
            tally: self.tally,
            root,
            dry_run: agreement.dry_run,
        }));
        self.phase = Phase::Ended;
    }

    fn hashed(&mut self, found: Found, effects: &mut Vec<Effect>) {
        self.tree.set(&found);
        if !matches!(self.phase, Phase::Serving(_)) {
            return;
        }
        let regions = found.regions();
        self.is_hashed[in_memory(regions.first)..in_memory(regions.end())].fill(true);
        self.tally.regions_hashed += regions.count;
        self.tally.regions_compared += regions.count;
        effects.push(Effect::Send(match found {
            Found::Zeros(regions) => Frame::Zeros(regions),
            Found::Hashed { first, regions } => Frame::Regions {
                first,
                values: regions.into_iter().map(|region| region.content).collect(),
            },
        }));
    }

    fn answer(&mut self, region: u64, effects: &mut Vec<Effect>) -> Step {
        if !self
            .is_hashed
            .get(in_memory(region))
            .is_some_and(|hashed| *hashed)
        {
            return Err(SessionError::Breach(
                "a question about a region that was not told",
            ));
        }
        if let Some(values) = self.tree.leaves_of(region).map(<[Value]>::to_vec) {
            effects.push(Effect::Send(Frame::Leaves { region, values }));
            return Ok(());
        }
        self.answering += 1;
        if self.answering > LEAVES_ASKED_MAX {
            return Err(SessionError::Breach("more questions than may wait for an answer"));
        }
        effects.push(Effect::OwnLeaves(region));
        Ok(())
    }

    /// The source wants the image changed.
    fn change(&mut self, frame: Frame, agreement: &Agreement, effects: &mut Vec<Effect>) -> Step {
        match frame {
            Frame::Data {
                leaves,
                compressed,
                bytes,
            } => {
                self.may_write(&leaves)?;
                let per_region = on_disk(REGION_LEAVES);
                if leaves.first / per_region != (leaves.end() - 1) / per_region {
                    return Err(SessionError::Breach("data over the edge of a region"));
                }
                self.begin(agreement, effects);
                self.tally.leaves_sent += leaves.count;
                self.written.insert(&leaves);
                effects.push(Effect::Write {
                    leaves,
                    compressed,
                    bytes,
                });
            }
            Frame::Clear(leaves) => {
                self.may_write(&leaves)?;
                self.begin(agreement, effects);
                self.tally.leaves_cleared += leaves.count;
                self.written.insert(&leaves);
                effects.push(Effect::Clear(leaves));
            }
            Frame::Settled { regions, last } => {
                self.list.take(&regions, last, self.opening.length.regions())?;
                for run in &regions {
                    if !run.indices().all(|region| self.is_hashed[in_memory(region)]) {
                        return Err(SessionError::Breach("a region settled that was not told"));
                    }
                    self.settled.insert(&leaves_of(run));
                }
                if last {
                    let nothing = LeafSet::none(self.opening.length);
                    let settled = std::mem::replace(&mut self.settled, nothing);
                    // Before the first write the marks are the old state's, and stay.
                    if self.has_begun {
                        effects.extend([Effect::Flush, Effect::Settle(settled)]);
                    }
                }
            }
            frame => return Err(SessionError::Misplaced(frame.name())),
        }
        Ok(())
    }

    /// Whether work was agreed on there, and what is there has been hashed.
    fn may_write(&self, leaves: &Run) -> Step {
        if leaves.count == 0 || leaves.end() > self.opening.length.leaves() {
            return Err(SessionError::Breach("a run outside the image"));
        }
        let per_region = on_disk(REGION_LEAVES);
        let mut regions = leaves.first / per_region..leaves.end().div_ceil(per_region);
        if regions.all(|region| self.is_hashed[in_memory(region)]) {
            Ok(())
        } else {
            Err(SessionError::Breach("data for a region that was not told"))
        }
    }

    fn begin(&mut self, agreement: &Agreement, effects: &mut Vec<Effect>) {
        if !self.has_begun
            && let Some(plan) = &agreement.plan
        {
            self.has_begun = true;
            effects.push(Effect::BeginSync(plan.key, self.work.clone()));
        }
    }

    fn verify(&mut self, agreement: Agreement, root: ContentRoot, effects: &mut Vec<Effect>) {
        self.tally.regions_settled = self.tally.regions;
        if agreement.dry_run {
            effects.push(Effect::Send(Frame::Equal(root)));
            self.finish(&agreement, Some(root), effects);
            return;
        }
        // Even if nothing was sent: what was found equal may be in the host's memory only.
        effects.extend([Effect::Flush, Effect::Forget(self.written.clone())]);
        self.hash(Some(self.written.clone()), effects);
        self.phase = Phase::Verifying(agreement, root);
    }

    fn hashing_ended(&mut self, effects: &mut Vec<Effect>) -> Step {
        self.passes_under_way -= 1;
        let Phase::Verifying(agreement, root) = &self.phase else {
            return Ok(());
        };
        if self.passes_under_way > 0 {
            return Ok(());
        }
        let (agreement, root) = (agreement.clone(), *root);
        if self.tree.root_of(&self.work) != root {
            return Err(SessionError::Unequal);
        }
        if let Some(plan) = &agreement.plan {
            effects.push(Effect::FinishSync(plan.lineage.clone()));
        }
        effects.push(Effect::Send(Frame::Equal(root)));
        self.finish(&agreement, Some(root), effects);
        Ok(())
    }
}
