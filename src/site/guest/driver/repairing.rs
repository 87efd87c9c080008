//! A copy that differs becomes the same again (H2): what the two cores want, done.

use std::time::Duration;

use antipode_disk_sync::LeafSet;

use super::super::orders::{Differs, Order};
use super::super::pair::Pair;
use super::super::refusals::Fault;
use super::Driver;
use crate::base::clock::wall_clock_unix_seconds;
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::channel::Message;
use crate::protocol::repair::{
    Copy, CopyEffect, CopyEvent, Done, MendEffect, MendEvent, Mender, Output, Repairs, Trust, TrustEvent,
    Wish, Word,
};
use crate::protocol::role::{Event, Phase, Side};

/// Repairs of one VM, seen from one site.
#[derive(Debug, Default)]
pub(super) struct Repairing {
    /// While this site follows.
    copy: Copy,
    /// While it leads.
    mender: Mender,
    trust: Trust,
    /// What the other site was told last of whether outputs are verified.
    told_verify: Option<bool>,
    /// The marks that this site's disk had when its copy was found to differ.
    marks: Option<LeafSet>,
    /// Since when a copy differs, this one or the other.
    since: Duration,
    repairs: Repairs,
}

impl Repairing {
    /// What an operator is shown; none where there was nothing.
    pub(super) fn shown(&self) -> Option<&Repairs> {
        (self.repairs != Repairs::default()).then_some(&self.repairs)
    }

    /// By which word outputs leave.
    pub(super) fn output(&self) -> Output {
        self.trust.shown()
    }

    /// Whether they wait until the copy has made them too.
    pub(super) fn verifies_outputs(&self) -> bool {
        self.trust.is_verified()
    }

    /// Another copy is here.
    pub(super) fn begin_anew(&mut self) {
        self.copy = Copy::default();
        self.marks = None;
        self.repairs.give_up();
    }
}

impl Driver {
    /// This copy is another machine.
    pub(super) fn copy_differs(&mut self, differs: &Differs) {
        let Differs {
            number,
            position,
            what,
            cause,
            touched,
        } = differs;
        tracing::error!(%position, %cause, "this copy is another machine than the one that it follows: {what}");
        let wish = Wish::new(*number, *position, *cause, what, touched);
        self.repairing.since = self.now();
        self.repairing.repairs.begin(&wish, wall_clock_unix_seconds());
        let is_needed = matches!(
            self.parts.role.phase(),
            Phase::Backup | Phase::Suspecting(Side::Backup)
        );
        self.step_copy(CopyEvent::Differs(wish));
        if !is_needed {
            self.step_copy(CopyEvent::Failed);
        }
    }

    /// All that makes it the same is there.
    pub(super) fn repair_staged(&mut self, number: u64) {
        self.step_copy(CopyEvent::Staged { number });
    }

    /// It waits in vain: what its primary has put out from there on nobody can repeat.
    pub(super) fn copy_unrepaired(&mut self, first_output: Option<ExitOrdinal>) {
        self.repairing.repairs.give_up();
        self.repairing
            .repairs
            .first_unverified(first_output.map(ExitOrdinal::get));
        if let Some(exit) = first_output {
            tracing::error!(%exit, "the other site's outputs from this exit on were not made here");
        }
    }

    /// It is the same again.
    pub(super) fn copy_repaired(&mut self, done: Done) {
        self.step_copy(CopyEvent::Repaired(done));
        if !self.repairing.copy.differs() {
            self.note_repair(&done);
        }
    }

    /// Over a new connection what matters is said again.
    pub(super) fn tell_of_repair_anew(&mut self) {
        self.repairing.told_verify = None;
        self.step_copy(CopyEvent::Reconnected);
    }

    /// Nothing comes in any more: a copy that differs is made the same by what is here, or never.
    pub(super) fn give_up_repair(&mut self) {
        let waits = |pair: &&Pair| self.repairing.copy.differs() || pair.rests();
        if let Some(pair) = self.pair.as_ref().filter(waits) {
            pair.give_up_repair();
        }
    }

    fn note_repair(&mut self, done: &Done) {
        let took = self.now().saturating_sub(self.repairing.since);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.repairing.repairs.end(done, took_ms);
        let Done {
            position,
            byte_count,
            cause,
            ..
        } = done;
        tracing::warn!(position, byte_count, %cause, took_ms, "the copy is the same machine again");
    }

    fn step_copy(&mut self, event: CopyEvent) {
        let moment = self.moment();
        for effect in self.repairing.copy.step(moment, event) {
            tracing::debug!(?effect);
            if let Err(error) = self.do_for_copy(effect) {
                tracing::error!("the repair of this copy cannot go on: {error}");
                return self.step_copy(CopyEvent::Failed);
            }
        }
    }

    fn do_for_copy(&mut self, effect: CopyEffect) -> Result<(), String> {
        let now = self.now();
        match effect {
            CopyEffect::HoldAcknowledgements => {
                if let Some(pair) = &mut self.pair {
                    pair.set_differs(now, true);
                }
            }
            CopyEffect::MarkDisk => {
                let marks = self.disk().and_then(|disk| disk.begin_repair());
                self.repairing.marks = marks.transpose().map_err(|error| error.to_string())?;
            }
            CopyEffect::Tell(word) => self.say_of_repair(&word),
            CopyEffect::BeRepaired => {
                if let Some(running) = &self.running {
                    running.handle.order(Order::BeRepaired);
                }
            }
            CopyEffect::ClearDisk => {
                if let (Some(disk), Some(marks)) = (self.disk(), self.repairing.marks.clone()) {
                    disk.end_repair(marks).map_err(|error| error.to_string())?;
                }
            }
            CopyEffect::Acknowledge(position) => self.acknowledge_after_repair(now, position),
            CopyEffect::Leave => {
                self.repairing.repairs.give_up();
                self.has_diverged = true;
                self.todo.push_back(Event::ReplayDiverged);
            }
        }
        Ok(())
    }

    /// What its guest has flushed by `position` is durable; a replay to the end may be over now.
    fn acknowledge_after_repair(&mut self, now: Duration, position: ExitOrdinal) {
        let over = self.pair.as_mut().and_then(|pair| {
            pair.set_differs(now, false);
            pair.durable(now, position);
            pair.replay_over()
        });
        self.replay_over(over);
    }

    fn say_of_repair(&mut self, word: &Word) {
        if let (Some(writer), Ok(bytes)) = (&mut self.writer, serde_json::to_vec(word)) {
            writer.put(Message::Repair(bytes));
        }
    }

    /// The other site speaks of a repair. What does not belong to its side is nobody's.
    pub(super) fn told_of_repair(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let no_word = |error: &dyn std::fmt::Display| {
            Fault::refused("no-word", format!("a word about a repair that is none: {error}"))
        };
        let word: Word = serde_json::from_slice(bytes).map_err(|error| no_word(&error))?;
        let leads = self.leads_log();
        match word {
            Word::Wish(wish) if leads => {
                wish.touched().map_err(|error| no_word(&error))?;
                let confirmed = matches!(
                    self.parts.role.phase(),
                    Phase::Primary | Phase::Suspecting(Side::Primary) | Phase::Stopping
                );
                // A guest that is being stopped runs on, until it has ended.
                let can = confirmed && self.running.is_some();
                self.step_mender(MendEvent::Wished(wish, can));
            }
            Word::Repaired(done) if leads => self.other_repaired(done),
            Word::Refused { number, why } if !leads => {
                tracing::error!("the other site cannot repair this copy: {why}");
                self.step_copy(CopyEvent::Refused { number });
            }
            Word::Verify { on } if !leads => {
                if let Some(pair) = &mut self.pair {
                    pair.say_executed(on);
                }
            }
            Word::Wish(_) | Word::Repaired(_) | Word::Refused { .. } | Word::Verify { .. } => {}
        }
        Ok(())
    }

    fn other_repaired(&mut self, done: Done) {
        let was_about = self.repairing.mender.wish().is_some();
        self.step_mender(MendEvent::Repaired(done));
        if was_about && self.repairing.mender.wish().is_none() {
            self.note_repair(&done);
            self.step_trust(TrustEvent::Repaired);
        }
    }

    /// So many epochs end in this frame of the log.
    pub(super) fn epochs_logged(&mut self, seq: LogSeq, epochs: u32) {
        self.step_trust(TrustEvent::Logged(seq, epochs));
    }

    /// The copy has come to the end of this frame, and was the same.
    pub(super) fn copy_executed(&mut self, seq: LogSeq) {
        self.step_trust(TrustEvent::Executed(seq));
        self.checkpoint_executed(seq);
    }

    /// The VM's definition says by which word outputs leave.
    pub(super) fn choose_output(&mut self, is_verified: bool) {
        self.repairing.trust = Trust::new(is_verified);
        self.todo.push_back(Event::OutputsVerified(is_verified));
    }

    pub(super) fn step_trust(&mut self, event: TrustEvent) {
        if self.repairing.trust.step(event) {
            let is_verified = self.repairing.trust.is_verified();
            tracing::warn!(
                is_verified,
                "outputs leave when the copy has made them too, or has what tells of them"
            );
            self.todo.push_back(Event::OutputsVerified(is_verified));
        }
        self.tell_of_verified_outputs();
    }

    /// The backup acknowledges at once what is waited for, if it knows that it is.
    fn tell_of_verified_outputs(&mut self) {
        let on = self.repairing.trust.is_verified();
        if self.leads_log() && self.writer.is_some() && self.repairing.told_verify.unwrap_or(false) != on {
            self.repairing.told_verify = Some(on);
            self.say_of_repair(&Word::Verify { on });
        }
    }

    /// What repairs the other copy is in the log, or there is nothing that could.
    pub(super) fn repair_captured(&mut self, number: u64, outcome: Result<(ExitOrdinal, u64), String>) {
        match &outcome {
            Ok((position, byte_count)) => {
                tracing::warn!(%position, byte_count, "the other site's copy differs; it is sent what this one is here");
            }
            Err(why) => tracing::error!("the other site's copy differs and cannot be repaired: {why}"),
        }
        let outcome = outcome.map(|(position, _)| position);
        self.step_mender(MendEvent::Captured { number, outcome });
    }

    /// Now and then: does it get on, and is there still somebody to be repaired?
    pub(super) fn watch_repair(&mut self) {
        let phase = self.parts.role.phase();
        if !matches!(
            phase,
            Phase::Primary | Phase::Suspecting(Side::Primary) | Phase::Stopping
        ) {
            self.step_mender(MendEvent::Over);
        }
        if !self.leads_log() {
            self.repairing.told_verify = None;
            self.step_trust(TrustEvent::Over);
        }
        self.tell_of_verified_outputs();
        self.step_copy(CopyEvent::Tick);
    }

    fn step_mender(&mut self, event: MendEvent) {
        if let MendEvent::Over = event
            && self.repairing.mender.wish().is_some()
        {
            self.repairing.repairs.give_up();
        }
        for effect in self.repairing.mender.step(event) {
            tracing::debug!(?effect);
            match effect {
                MendEffect::Excuse => {
                    self.account_of_repair(true);
                    self.todo.push_back(Event::RepairBegins);
                }
                MendEffect::ExcuseNoMore => {
                    self.account_of_repair(false);
                    self.todo.push_back(Event::RepairEnds);
                }
                MendEffect::Capture(wish) => self.capture(&wish),
                MendEffect::Tell(word) => {
                    self.repairing.repairs.give_up();
                    self.say_of_repair(&word);
                }
            }
        }
    }

    fn capture(&mut self, wish: &Wish) {
        tracing::warn!(
            exit = wish.at, cause = %wish.cause,
            "the other site's copy is another machine: {}", wish.what
        );
        self.repairing.since = self.now();
        self.repairing.repairs.begin(wish, wall_clock_unix_seconds());
        self.step_trust(TrustEvent::Differed);
        if let (Some(running), Ok(theirs)) = (&self.running, wish.touched()) {
            running.handle.order(Order::Repair {
                number: wish.number,
                theirs,
            });
        }
    }
}
