//! What a guest does, live or as a copy, and its disk.

use std::time::Duration;

use antipode_tiebreaker::Flush;

use super::Flaw;
use super::driver::Process;
use super::world::{Happening, Logged, Message, World};
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::protocol::mode::CheckpointEvent;
use crate::protocol::moment::Moment;
use crate::protocol::role::{Acknowledged, Event, Replica};

/// What a gate counts by.
pub(super) fn since(now: Moment) -> Duration {
    now.saturating_since(Moment::default())
}

impl Process {
    /// How far the copy is, as it says.
    fn acknowledged(&self, flaw: Flaw) -> Acknowledged {
        let replayed = ExitOrdinal::new(self.memory.len() as u64);
        let unexecuted = match flaw {
            Flaw::MadeWhenReceived => 0,
            _ => self.inbox.len() as u64,
        };
        let durable = ExitOrdinal::new(self.durable as u64);
        Acknowledged {
            received: LogSeq::new(self.received),
            executed: LogSeq::new(self.received - unexecuted),
            replayed,
            durable: if flaw == Flaw::NotFlushed {
                replayed
            } else {
                durable
            },
        }
    }
}

impl World {
    pub(super) fn run_guest(&mut self, site: usize) {
        let replica = self.hosts[site].replica.unwrap_or(Replica::Stale);
        let process = self.hosts[site].process.as_mut().unwrap();
        (process.runs, process.rests) = (true, false);
        self.checker.goes_live(site, &process.memory, replica);
    }

    pub(super) fn begin_lockstep(&mut self, site: usize, flush: Flush) {
        let (at, flaw) = (self.now, self.flaw);
        let process = self.process(site);
        let pairing = process.role.pairing().unwrap();
        process.flushes_wait = flush == Flush::Both;
        if process.flushes_wait {
            process
                .flushes
                .close(ExitOrdinal::new(process.memory.len() as u64));
        }
        (process.runs, process.lockstep, process.channel_open) = (true, true, true);
        (process.logged, process.heard_at) = (0, at);
        (process.pairing, process.received) = (pairing, 0);
        process.sent.clear();
        if flaw == Flaw::OutputBeforePair {
            process.rule.open();
        }
        self.carry(site, CheckpointEvent::Over);
    }

    /// The copy executes the next thing that it has received, its own flush too.
    pub(super) fn replay_one(&mut self, site: usize) {
        let process = self.process(site);
        if process.differs.is_some() || self.becomes_next(site) {
            return;
        }
        let output = match self.process(site).inbox.pop_front() {
            None => return,
            Some(Logged::Stand) => return self.stands(site),
            Some(Logged::Checkpoint(_)) => return self.begins_to_rest(site),
            Some(Logged::Output(output)) => output,
        };
        let process = self.process(site);
        process.stands = false;
        process.memory.push(output);
        self.checker.copy_makes(output);
        let process = self.process(site);
        let (process, length) = (process.id, process.memory.len());
        if self.flush == Flush::Both {
            let delay = self.random.between(1, 60);
            self.after(delay, Happening::Flushed { process, length });
        }
        if self.flush == Flush::Both || self.verifies {
            self.acknowledge(site);
        }
    }

    /// The copy's disk has ended a flush; the other site waits for that.
    pub(super) fn flushed(&mut self, site: usize, length: usize) {
        let process = self.process(site);
        if process.memory.len() < length || process.runs {
            return; // It was removed, or lives, meanwhile.
        }
        process.durable = process.durable.max(length);
        self.write_disk(site, length);
        self.acknowledge(site);
    }

    pub(super) fn acknowledge(&mut self, site: usize) {
        let flaw = self.flaw;
        let process = self.process(site);
        if process.channel_open && process.differs.is_none() {
            let acknowledged = process.acknowledged(flaw);
            let pairing = process.pairing;
            self.send(site, Message::Ack(pairing, acknowledged));
        }
    }

    /// The guest learns that its disk is durable, and makes the output that waited for it.
    pub(super) fn tell_flushed(&mut self, site: usize, told: impl IntoIterator<Item = (usize, u64)>) {
        let now = self.moment_at(site);
        for (length, written) in told {
            let other = &self.hosts[1 - site].disk;
            let process = self.hosts[site].process.as_mut().unwrap();
            process.flushing = false;
            process.rule.submit(now, length - 1, LogSeq::new(written));
            if process.flushes_wait {
                self.checker.flushed(&process.memory[..length], other);
            }
        }
    }

    /// The guest writes and flushes; the output follows when that is done.
    pub(super) fn guest(&mut self, site: usize, id: u64) {
        let delay = self.random.between(20, 80);
        self.after(delay, Happening::Guest(id));
        let now = self.moment_at(site);
        let flaw = self.flaw;
        let process = self.process(site);
        if !process.runs || process.flushing {
            return;
        }
        let last = process.memory.last().copied().unwrap_or(0);
        let output = last.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
            ^ (process.boot.0 << 20)
            ^ now.as_nanos();
        process.memory.push(output);
        let written = if process.lockstep {
            process.logged += 1;
            process.logged
        } else {
            0
        };
        let length = process.memory.len();
        let at = ExitOrdinal::new(length as u64);
        let flush = (length, written);
        let told = match flaw {
            Flaw::FlushAlone => Some(flush),
            _ => process.flushes.done(since(now), at, flush),
        };
        process.flushing = told.is_none();
        let logs = process.lockstep && process.channel_open;
        self.write_disk(site, length);
        if logs {
            self.send_log(site, Logged::Output(output));
            self.carry(site, CheckpointEvent::Waits);
        }
        self.tell_flushed(site, told);
        self.drain(site);
    }

    pub(super) fn write_disk(&mut self, site: usize, length: usize) {
        let host = &mut self.hosts[site];
        let Some(process) = &host.process else { return };
        if host.disk.get(length.wrapping_sub(1)) == process.memory[..length].last() {
            return; // A later flush was faster.
        }
        if host.disk.len() + 1 == length && host.disk.last() == process.memory[..length - 1].last() {
            host.disk.push(process.memory[length - 1]);
        } else {
            host.disk.clear();
            host.disk.extend_from_slice(&process.memory[..length]);
        }
    }

    pub(super) fn durable(&mut self, site: usize, length: usize) {
        if self.process(site).memory.len() < length {
            return; // The VM was removed meanwhile.
        }
        if self.flaw != Flaw::NotDurable {
            self.write_disk(site, length);
        }
        let position = ExitOrdinal::new(length as u64);
        self.step(site, Event::ReplicaDurable { position });
    }
}
