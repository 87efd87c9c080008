//! A copy that executes nothing and becomes what checkpoints say (H4), by the product's own core.

use super::Flaw;
use super::world::{Happening, Logged, World};
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::protocol::mode::{CheckpointEffect, CheckpointEvent, Mode, Step};
use crate::protocol::role::{Event, Phase, ReplayId};

impl World {
    /// Now and then the copy of a site that leads is to be kept the same otherwise.
    pub(super) fn watch_mode(&mut self, site: usize) {
        if !self.carries {
            return;
        }
        if !self.process(site).lockstep {
            return self.carry(site, CheckpointEvent::Over);
        }
        if self.process(site).role.phase() == Phase::Primary && self.random.percent(2) {
            let mode = if self.random.percent(60) {
                Mode::Checkpoint
            } else {
                Mode::Replay
            };
            self.carry(site, CheckpointEvent::Wanted(mode));
        }
        self.carry(site, CheckpointEvent::Tick);
    }

    pub(super) fn carry(&mut self, site: usize, event: CheckpointEvent) {
        if !self.carries {
            return;
        }
        let now = self.moment_at(site);
        for effect in self.process(site).checkpointer.step(now, event) {
            match effect {
                CheckpointEffect::ByExecuted(on) if self.flaw != Flaw::CheckpointsByReceipt => {
                    self.step(site, Event::OutputsVerified(self.verifies || on));
                }
                CheckpointEffect::ByExecuted(_) => {}
                CheckpointEffect::Log(step) => {
                    let process = self.process(site);
                    if process.lockstep && process.channel_open {
                        self.log_checkpoint(site, step);
                    }
                }
            }
        }
    }

    fn log_checkpoint(&mut self, site: usize, step: Step) {
        self.process(site).logged += 1;
        self.send_log(site, Logged::Checkpoint(step));
        let last = LogSeq::new(self.process(site).logged);
        self.carry(site, CheckpointEvent::Logged(step, last));
    }

    /// A copy that rests becomes the next checkpoint, if that has come whole. False if it executes what it is told.
    pub(super) fn becomes_next(&mut self, site: usize) -> bool {
        let process = self.process(site);
        if !process.rests {
            return false;
        }
        let is_whole = |logged: &Logged| matches!(logged, Logged::Checkpoint(_));
        let Some(last) = process.inbox.iter().position(is_whole) else {
            return true;
        };
        let carried: Vec<Logged> = process.inbox.drain(..=last).collect();
        for logged in carried {
            match logged {
                Logged::Output(output) => {
                    self.process(site).memory.push(output);
                    self.checker.copy_makes(output);
                }
                Logged::Checkpoint(step) => self.process(site).rests = step != Step::End,
                Logged::Stand => {}
            }
        }
        self.seen.insert("became a checkpoint");
        let process = self.process(site);
        let length = process.memory.len();
        process.durable = length;
        let wanted = process.wanted.take();
        self.write_disk(site, length);
        self.acknowledge(site);
        if let Some(replay) = wanted {
            self.replay_to_end(site, replay);
        }
        true
    }

    /// It executes nothing more from here on.
    pub(super) fn begins_to_rest(&mut self, site: usize) {
        self.process(site).rests = true;
        self.acknowledge(site);
    }

    /// Whatever has come, as far as it can be had, is made or becomes this copy.
    pub(super) fn replay_to_end(&mut self, site: usize, replay: ReplayId) {
        if self.waits_for_repair(site, replay) {
            return;
        }
        let flaw = self.flaw;
        let process = self.process(site);
        if flaw == Flaw::ReplayNotToEnd {
            process.inbox.clear();
        }
        while !self.process(site).inbox.is_empty() {
            let before = self.process(site).inbox.len();
            self.replay_one(site);
            let process = self.process(site);
            if process.inbox.len() == before && process.channel_open {
                // The rest may come.
                process.wanted = Some(replay);
                return;
            }
            if process.inbox.len() == before {
                // What is not whole is dropped: nothing that it tells of has left.
                process.inbox.clear();
                self.seen.insert("dropped a checkpoint");
            }
        }
        let process = self.process(site);
        let (id, length) = (process.id, process.memory.len());
        let event = Event::ReplayReachedEnd {
            replay,
            position: ExitOrdinal::new(length as u64),
            agrees: true,
        };
        let delay = self.random.between(0, 20);
        self.after(delay, Happening::Role(id, event));
    }
}
