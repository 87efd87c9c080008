//! A VM process: a role, its output rule, and a guest that is nothing but its outputs.

use std::collections::VecDeque;
use std::time::Duration;

use antipode_tiebreaker::{Answer, Boot, Operation, PairingId, State};

use super::Flaw;
use super::checker::History;
use super::world::{Happening, Message, World, site_name};
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::protocol::lag::Lag;
use crate::protocol::limits::FAILURE_TIMEOUT_FLOOR;
use crate::protocol::output_rule::{Gate, OutputRule};
use crate::protocol::role::{
    Ask, Cause, Command, Effect, Event, Gauges, Phase, ReplayId, Replica, Role, Settings, Side,
};

#[derive(Debug)]
pub(super) struct Process {
    /// Even at site 0, odd at site 1.
    pub(super) id: u64,
    pub(super) boot: Boot,
    pub(super) role: Role,
    rule: OutputRule<usize>,
    pub(super) memory: History,
    /// The guest executes, and is no copy.
    runs: bool,
    /// Outputs are logged to the other site.
    lockstep: bool,
    logged: u64,
    pub(super) channel_open: bool,
    /// Received, not replayed.
    inbox: VecDeque<u64>,
    received: u64,
    pub(super) heard_at: u64,
}

impl Process {
    fn destroy(&mut self) {
        self.runs = false;
        self.memory.clear();
        self.inbox.clear();
        if self.rule.gate() != Gate::Discarded {
            self.rule.hold();
        }
    }
}

impl World {
    pub(super) fn process(&mut self, site: usize) -> &mut Process {
        self.hosts[site].process.as_mut().unwrap()
    }

    /// A new VM process at a site that has none, with its first command.
    pub(super) fn begin_process(&mut self, site: usize, command: Command) {
        self.processes += 1;
        let now = self.moment_at(site);
        let at = self.now;
        let host = &mut self.hosts[site];
        host.boots += 1;
        // Never used before, over all sites.
        let boot = Boot(host.boots * 2 + site as u64);
        let settings = Settings {
            own: site_name(site),
            peer: site_name(1 - site),
            boot,
            failure_timeout_floor: FAILURE_TIMEOUT_FLOOR,
        };
        let id = self.processes * 2 + site as u64;
        host.process = Some(Process {
            id,
            boot,
            role: Role::new(now, settings, host.notes.clone()),
            rule: OutputRule::new(Duration::from_secs(1)),
            memory: History::new(),
            runs: false,
            lockstep: false,
            logged: 0,
            channel_open: false,
            inbox: VecDeque::new(),
            received: 0,
            heard_at: at,
        });
        self.after(1, Happening::Tick(id));
        self.after(5, Happening::Guest(id));
        self.step(site, Event::Command(command));
    }

    pub(super) const fn new_pairing(&mut self) -> PairingId {
        self.processes += 1;
        PairingId(self.processes)
    }

    /// Whether this site would show an output now.
    pub(super) fn is_open(&self, site: usize) -> bool {
        let host = &self.hosts[site];
        host.frozen_until <= self.now
            && host.process.as_ref().is_some_and(|process| {
                process.rule.gate() == Gate::Open && process.rule.leaves_at(self.moment_at(site))
            })
    }

    pub(super) fn step(&mut self, site: usize, event: Event) {
        let now = self.moment_at(site);
        let before = self.process(site).role.phase();
        let told = format!("{} {site} {before:?}: {event:?}", self.now);
        let effects = self.process(site).role.step(now, event);
        if effects.iter().any(|effect| *effect != Effect::Report) {
            self.note(told);
        }
        for effect in effects {
            self.hash(&(site, &effect));
            self.perform(site, effect);
        }
        let Some(process) = &mut self.hosts[site].process else {
            return;
        };
        process.rule.role_acted(now, process.role.gap_max());
        let after = process.role.phase();
        let cause = process.role.view().cause;
        self.mark(before, after, cause);
        self.drain(site);
    }

    fn mark(&mut self, before: Phase, after: Phase, cause: Option<Cause>) {
        let seen = match (before, after) {
            (before, after) if before == after => return,
            (_, Phase::Primary) => "protected",
            (Phase::Claiming(Side::Backup), Phase::Alone) => "went live",
            (_, Phase::Stale) if cause == Some(Cause::Lost) => "lost",
            (_, Phase::Stale) => "left",
            (Phase::Cancelling, Phase::Alone) => "cancelled",
            (_, Phase::Settling) => "renounced",
            (Phase::Starting, Phase::Alone) if self.processes > 1 => "cold start",
            (Phase::Parking, Phase::Stopped) => "parked",
            (Phase::Claiming(_), Phase::Alone) if cause == Some(Cause::Unprotected) => "unprotected",
            _ => return,
        };
        self.seen.insert(seen);
    }

    /// Shows what may leave.
    fn drain(&mut self, site: usize) {
        let now = self.moment_at(site);
        let Some(process) = &mut self.hosts[site].process else {
            return;
        };
        while let Some((index, _)) = process.rule.take(now) {
            self.checker.leaves(&process.memory[..=index]);
        }
    }

    pub(super) fn tick(&mut self, site: usize, id: u64) {
        let now = self.now;
        let waits_since = self.process(site).rule.waits_since();
        let process = self.process(site);
        // The copy replays what it has, some of it later.
        for _ in 0..2 {
            if let Some(output) = process.inbox.pop_front() {
                process.memory.push(output);
            }
        }
        let gauges = Gauges {
            logged: LogSeq::new(process.logged),
            position: ExitOrdinal::new(process.memory.len() as u64),
            lag: Lag::default(),
            output_waits_since: waits_since,
        };
        let joins = process.role.phase() == Phase::Joining;
        let open = process.channel_open;
        let interval = process.role.heartbeat_interval();
        if joins && !now.is_multiple_of(3) && self.peer_transfers(site) {
            self.step(site, Event::ChannelHeard);
        }
        self.step(site, Event::Tick(gauges));
        if open {
            let heard = self.heartbeat_of(site);
            self.send_heartbeat(site, heard);
        }
        let interval = u64::try_from(interval.as_millis()).unwrap();
        self.after(interval, Happening::Tick(id));
    }

    /// Whether the other site sends its machine to the copy here, and not to one that it would make.
    fn peer_transfers(&self, site: usize) -> bool {
        let peer = &self.hosts[1 - site];
        let pairing = |process: &Process| process.role.view().pairing;
        let joins = self.hosts[site].process.as_ref().and_then(pairing);
        peer.frozen_until <= self.now
            && peer.process.as_ref().is_some_and(|process| {
                matches!(
                    process.role.phase(),
                    Phase::Syncing | Phase::Cloning | Phase::Stunned
                ) && pairing(process) == joins
            })
    }

    /// The guest makes an output: on disk first, then logged, then submitted.
    pub(super) fn guest(&mut self, site: usize, id: u64) {
        let delay = self.random.between(20, 80);
        self.after(delay, Happening::Guest(id));
        let now = self.moment_at(site);
        if !self.process(site).runs {
            return;
        }
        let process = self.process(site);
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
        let index = process.memory.len() - 1;
        process.rule.submit(now, index, LogSeq::new(written));
        let logs = process.lockstep && process.channel_open;
        self.write_disk(site, index + 1);
        if logs {
            let seq = written;
            self.send(site, Message::Log { seq, output });
        }
        self.drain(site);
    }

    fn write_disk(&mut self, site: usize, length: usize) {
        let host = &mut self.hosts[site];
        let Some(process) = &host.process else { return };
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

    pub(super) fn receive(&mut self, site: usize, message: Message) {
        let now = self.now;
        let process = self.process(site);
        match message {
            Message::Word(word) => self.step(site, Event::PeerSaid(word)),
            Message::Log { seq, output } => {
                if process.channel_open && seq == process.received + 1 {
                    process.heard_at = now;
                    process.received = seq;
                    process.inbox.push_back(output);
                    let acknowledged = Self::received(process.memory.len(), seq);
                    self.step(site, Event::ChannelHeard);
                    self.send(site, Message::Ack(acknowledged));
                }
            }
            Message::Ack(acknowledged) => {
                if process.channel_open {
                    process.heard_at = now;
                    self.step(site, Event::Acked(acknowledged));
                }
            }
            Message::Machine { history, disk } => {
                if process.role.phase() == Phase::Joining {
                    process.memory = history;
                    process.channel_open = true;
                    process.heard_at = now;
                    self.hosts[site].disk = disk;
                    self.hosts[site].replica = Some(Replica::Clean);
                    self.step(site, Event::Joined);
                    self.send(site, Message::Ready);
                }
            }
            Message::Ready => self.step(site, Event::PeerReady),
        }
    }

    fn perform(&mut self, site: usize, effect: Effect) {
        let now = self.moment_at(site);
        let at = self.now;
        let id = self.process(site).id;
        match effect {
            Effect::Persist(notes) => self.hosts[site].notes = notes,
            Effect::AdoptReplica => self.hosts[site].replica = Some(Replica::Clean),
            Effect::MarkStale => self.hosts[site].replica = Some(Replica::Stale),
            Effect::AskTiebreaker(ask) => self.ask(site, &ask),
            Effect::ReadRecord(read) => {
                if self.process(site).role.phase().is_live() {
                    self.seen.insert("awoke");
                }
                self.send_read(site, read);
            }
            Effect::HoldOutputs => self.process(site).rule.hold(),
            Effect::ReleaseThrough(seq) => {
                if self.process(site).rule.gate() != Gate::Open || self.flaw == Flaw::None {
                    self.process(site).rule.release_through(seq);
                }
            }
            Effect::OpenOutputs => self.open(site),
            Effect::DiscardOutputs => self.process(site).rule.discard(),
            Effect::BeginDiskSync(pairing) => self.begin_sync(site, pairing),
            Effect::BeginRamCopy => {
                let delay = self.random.between(30, 400);
                self.after(delay, Happening::Role(id, Event::RamInSync));
            }
            Effect::Stun => self.stun(site),
            Effect::BeginLockstep => {
                let process = self.process(site);
                (process.runs, process.lockstep, process.channel_open) = (true, true, true);
                (process.logged, process.heard_at) = (0, at);
                if self.flaw == Flaw::OutputBeforePair {
                    self.process(site).rule.open();
                }
            }
            Effect::AbortTransfer => self.process(site).runs = true,
            Effect::ReplayToEnd(replay) => self.replay_to_end(site, replay),
            Effect::MakeDurable => {
                let length = self.process(site).memory.len();
                let delay = self.random.between(1, 40);
                self.after(delay, Happening::Durable { process: id, length });
            }
            Effect::GoLive => {
                self.process(site).rule.go_live();
                self.run_guest(site);
            }
            Effect::StartGuest => {
                self.process(site).memory = self.hosts[site].disk.clone();
                self.run_guest(site);
            }
            Effect::StopGuest => {
                self.process(site).runs = false;
                let position = ExitOrdinal::new(self.process(site).memory.len() as u64);
                self.after(5, Happening::Role(id, Event::GuestStopped { position }));
            }
            Effect::DestroyVm => self.process(site).destroy(),
            Effect::CloseChannel => {
                let process = self.process(site);
                process.channel_open = false;
                process.lockstep = process.runs;
            }
            Effect::Tell(word) => self.send(site, Message::Word(word)),
            Effect::Announce => assert_eq!(self.process(site).rule.gate(), Gate::Open, "{now:?}"),
            Effect::Throttle(_) | Effect::Refuse(_) | Effect::Report => {}
        }
    }

    fn ask(&mut self, site: usize, ask: &Ask) {
        let process = self.process(site);
        let backup = process.role.phase() == Phase::Claiming(Side::Backup);
        let (id, boot) = (process.id, process.boot);
        let forged = Answer {
            verdict: Ok(()),
            generation: ask.expected.next(),
            state: Some(State::Solo {
                site: site_name(site),
                boot: Some(boot),
            }),
        };
        let forged = Event::Answered {
            id: ask.id,
            answer: Some(Box::new(forged)),
        };
        match (&ask.operation, self.flaw) {
            (Operation::CancelPair { .. }, Flaw::NoCancel) => {
                return self.after(1, Happening::Role(id, forged));
            }
            (Operation::Claim { .. }, Flaw::LiveBeforeClaim) if backup => {
                self.after(0, Happening::Role(id, forged));
            }
            (Operation::Claim { .. }, Flaw::GuessUnknown) => self.after(240, Happening::Role(id, forged)),
            _ => {}
        }
        self.send_ask(site, ask);
    }

    fn open(&mut self, site: usize) {
        let process = self.process(site);
        let boot = process.boot;
        process.rule.open();
        process.lockstep = false;
        let renounced = self.hosts[1 - site].notes.renounced;
        self.checker.opens(site, boot, self.record.as_ref(), renounced);
    }

    fn run_guest(&mut self, site: usize) {
        let replica = self.hosts[site].replica.unwrap_or(Replica::Stale);
        let process = self.hosts[site].process.as_mut().unwrap();
        process.runs = true;
        self.checker.goes_live(site, &process.memory, replica);
    }

    /// The other site makes a process for the copy, if it can.
    fn begin_sync(&mut self, site: usize, pairing: PairingId) {
        let id = self.process(site).id;
        let generation = self.process(site).role.generation();
        let peer = &mut self.hosts[1 - site];
        let terminal = peer
            .process
            .as_ref()
            .is_some_and(|process| process.role.phase().is_terminal());
        if terminal {
            peer.process = None;
        }
        let free = peer.up && peer.frozen_until <= self.now && peer.process.is_none();
        if free {
            peer.replica = Some(Replica::Syncing);
            self.begin_process(1 - site, Command::Join { pairing, generation });
            let delay = self.random.between(50, 800);
            self.after(delay, Happening::Role(id, Event::DiskInSync));
            // Whatever breaks later is noticed by somebody, some time.
            let delay = self.random.between(2_000, 4_000);
            if self.random.percent(20) {
                self.after(delay, Happening::Role(id, Event::TransferFailed));
            }
        } else {
            self.after(100, Happening::Role(id, Event::TransferFailed));
        }
    }

    fn stun(&mut self, site: usize) {
        self.process(site).runs = false;
        let history = self.process(site).memory.clone();
        let disk = self.hosts[site].disk.clone();
        self.send(site, Message::Machine { history, disk });
    }

    fn replay_to_end(&mut self, site: usize, replay: ReplayId) {
        let flaw = self.flaw;
        let process = self.process(site);
        if flaw == Flaw::ReplayNotToEnd {
            process.inbox.clear();
        }
        let Process { memory, inbox, .. } = process;
        memory.extend(inbox.drain(..));
        let event = Event::ReplayReachedEnd {
            replay,
            position: ExitOrdinal::new(memory.len() as u64),
            agrees: true,
        };
        let id = process.id;
        let delay = self.random.between(0, 20);
        self.after(delay, Happening::Role(id, event));
    }
}
