//! A VM process: a role, its output rule, and a guest that is nothing but its outputs.

use std::collections::VecDeque;
use std::time::Duration;

use antipode_tiebreaker::{Answer, Boot, Operation, PairingId, State};

use super::Flaw;
use super::checker::History;
use super::guest::since;
use super::repairing::Differing;
use super::world::{Happening, Logged, Message, World, site_name};
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::machine::workers::FlushGate;
use crate::protocol::detector::Waits;
use crate::protocol::lag::Lag;
use crate::protocol::limits::FAILURE_TIMEOUT_FLOOR;
use crate::protocol::mode::{CheckpointEvent, Checkpointer};
use crate::protocol::moment::Moment;
use crate::protocol::output_rule::{Gate, OutputRule};
use crate::protocol::reprotect::Reprotect;
use crate::protocol::role::{
    Ask, Cause, Command, Effect, Event, Gauges, Notes, Phase, ReplayId, Replica, Role, Settings, Side,
};

#[derive(Debug)]
pub(super) struct Process {
    /// Even at site 0, odd at site 1.
    pub(super) id: u64,
    pub(super) boot: Boot,
    pub(super) role: Role,
    pub(super) rule: OutputRule<usize>,
    pub(super) memory: History,
    /// The guest executes, and is no copy.
    pub(super) runs: bool,
    /// Outputs are logged to the other site.
    pub(super) lockstep: bool,
    pub(super) logged: u64,
    pub(super) channel_open: bool,
    /// Received, not replayed.
    pub(super) inbox: VecDeque<Logged>,
    pub(super) received: u64,
    /// Whose frames the channel lets through, and all that this copy has logged in it.
    pub(super) pairing: PairingId,
    pub(super) sent: Vec<Logged>,
    /// It came to the mark in the log that the primary stands still.
    pub(super) stands: bool,
    /// Flushes that wait for the other site: of the disk at this length, and of an output that follows it in this frame.
    pub(super) flushes: FlushGate<(usize, u64)>,
    /// The pairing has them wait.
    pub(super) flushes_wait: bool,
    /// The guest waits for one.
    pub(super) flushing: bool,
    /// How far the copy's own disk is durable.
    pub(super) durable: usize,
    pub(super) heard_at: u64,
    /// The copy is another machine.
    pub(super) differs: Option<Differing>,
    /// A copy that becomes checkpoints.
    pub(super) rests: bool,
    /// A replay to the end that was asked of it meanwhile.
    pub(super) wanted: Option<ReplayId>,
    pub(super) checkpointer: Checkpointer,
    pub(super) reprotect: Reprotect,
}

impl Process {
    fn destroy(&mut self) {
        self.runs = false;
        self.memory.clear();
        self.inbox.clear();
        self.stands = false;
        (self.differs, self.rests, self.wanted) = (None, false, None);
        self.flushes.open();
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
        if self.flaw == Flaw::ForgetNotes {
            host.notes = Notes::default();
        }
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
            pairing: PairingId(0),
            sent: Vec::new(),
            stands: false,
            flushes: FlushGate::default(),
            flushes_wait: false,
            flushing: false,
            durable: 0,
            heard_at: at,
            differs: None,
            rests: false,
            wanted: None,
            checkpointer: Checkpointer::default(),
            reprotect: Reprotect::new(true, host.is_protected),
        });
        self.after(1, Happening::Tick(id));
        self.after(5, Happening::Guest(id));
        self.step(site, Event::OutputsVerified(self.verifies));
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
        let by_reading = matches!(event, Event::RecordRead { .. });
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
        self.watch_protection(site);
        let process = self.process(site);
        let after = process.role.phase();
        let cause = process.role.view().cause;
        if (before, after, cause)
            == (
                Phase::Claiming(Side::Primary),
                Phase::Alone,
                Some(Cause::Unprotected),
            )
        {
            self.checker.commands(site, false);
        } else if matches!(after, Phase::Primary | Phase::Backup) {
            self.checker.commands(site, true);
        }
        self.mark(before, after, cause);
        if (before, after, by_reading) == (Phase::Poised, Phase::Primary, true) {
            self.seen.insert("turned by reading");
        }
        self.drain(site);
    }

    fn mark(&mut self, before: Phase, after: Phase, cause: Option<Cause>) {
        let seen = match (before, after) {
            (before, after) if before == after => return,
            (Phase::Swapping, Phase::Backup) => "swapped",
            (Phase::Poised, Phase::Primary) => "turned",
            (Phase::Yielding, Phase::Primary) => "stayed",
            (Phase::Suspecting(Side::Backup), Phase::Primary) => "turned in suspicion",
            (Phase::Swapping, Phase::Stale) => "taken over while swapping",
            (_, Phase::Primary) => "protected",
            (Phase::Claiming(Side::Backup), Phase::Alone) => {
                self.takeovers += 1;
                if self.takeovers > 1 {
                    "went live again"
                } else {
                    "went live"
                }
            }
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
    pub(super) fn drain(&mut self, site: usize) {
        let now = self.moment_at(site);
        let Some(process) = &mut self.hosts[site].process else {
            return;
        };
        let waits_for_copy = self.verifies && matches!(process.rule.gate(), Gate::Held(_));
        while let Some((index, ..)) = process.rule.take(now) {
            if waits_for_copy {
                self.checker.verified(process.memory[index]);
            }
            self.checker.leaves(&process.memory[..=index]);
        }
    }

    pub(super) fn tick(&mut self, site: usize, id: u64) {
        let now = self.now;
        // The copy replays what it has, some of it later.
        for _ in 0..2 {
            self.replay_one(site);
        }
        self.watch_mode(site);
        let process = self.process(site);
        let waits = Waits {
            output_since: process.rule.waits_since(),
            flush_since: process
                .flushes
                .waits_since()
                .map(|since| Moment::default() + since),
        };
        let gauges = Gauges {
            logged: LogSeq::new(process.logged),
            position: ExitOrdinal::new(process.memory.len() as u64),
            lag: Lag::default(),
            waits,
            checkpoint: None,
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

    pub(super) fn receive(&mut self, site: usize, message: Message) {
        let now = self.now;
        let process = self.process(site);
        match message {
            Message::Word(word) => self.step(site, Event::PeerSaid(word)),
            Message::Log { pairing, seq, logged } => {
                let follows = process.channel_open && process.pairing == pairing;
                if follows && seq == process.received + 1 {
                    process.heard_at = now;
                    process.received = seq;
                    process.inbox.push_back(logged);
                    self.step(site, Event::ChannelHeard);
                    self.acknowledge(site);
                }
            }
            Message::Ack(pairing, acknowledged) => {
                if process.channel_open && process.pairing == pairing {
                    process.heard_at = now;
                    self.carry(site, CheckpointEvent::Executed(acknowledged.executed));
                    self.step(site, Event::Acked(acknowledged));
                }
            }
            Message::Machine {
                pairing,
                history,
                disk,
            } => {
                if process.role.phase() == Phase::Joining {
                    history.iter().for_each(|output| self.checker.copy_makes(*output));
                    let process = self.hosts[site].process.as_mut().unwrap();
                    process.durable = history.len();
                    process.memory = history;
                    process.pairing = pairing;
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
            Effect::ReleaseFlushes(at) => {
                let told = self.process(site).flushes.durable(since(now), at);
                self.tell_flushed(site, told);
            }
            Effect::OpenOutputs => self.open(site),
            Effect::DiscardOutputs => self.process(site).rule.discard(),
            Effect::BeginDiskSync(pairing) => self.begin_sync(site, pairing),
            Effect::BeginRamCopy => {
                let delay = self.random.between(30, 400);
                self.after(delay, Happening::Role(id, Event::RamInSync));
            }
            Effect::Stun => self.stun(site),
            Effect::BeginLockstep(flush) => self.begin_lockstep(site, flush),
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
                self.carry(site, CheckpointEvent::Stands);
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
            Effect::Tell(word) => self.tell(site, word),
            Effect::StandStill => self.stand_still(site),
            Effect::GoOn => self.go_on(site),
            Effect::ExpectTurned(_) => {}
            Effect::Lead(pairing, flush) => self.lead(site, pairing, flush),
            Effect::Follow(pairing) => self.follow(site, pairing),
            Effect::Announce => assert_eq!(self.process(site).rule.gate(), Gate::Open, "{now:?}"),
            Effect::Throttle(_) | Effect::Refuse(_) | Effect::Report => {}
        }
    }

    fn ask(&mut self, site: usize, ask: &Ask) {
        let process = self.process(site);
        let backup = process.role.phase() == Phase::Claiming(Side::Backup);
        let (id, boot) = (process.id, process.boot);
        if backup && matches!(ask.operation, Operation::Claim { pairing, .. } if pairing != process.pairing) {
            self.seen.insert("claimed the turned one");
        }
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
            (Operation::Swap { .. }, Flaw::OpenBeforeSwapped) => self.open(site),
            (Operation::Swap { .. }, Flaw::ResumeInDoubt) => self.refuse_in_doubt(site, ask),
            _ => {}
        }
        self.send_ask(site, ask);
    }

    fn open(&mut self, site: usize) {
        let process = self.process(site);
        let boot = process.boot;
        process.rule.open();
        process.lockstep = false;
        process.flushes_wait = false;
        let told = process.flushes.open();
        let renounced = self.hosts[1 - site].notes.renounced;
        self.checker.opens(site, boot, self.record.as_ref(), renounced);
        self.tell_flushed(site, told);
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
        let pairing = self.process(site).role.pairing().unwrap();
        let disk = self.hosts[site].disk.clone();
        self.send(
            site,
            Message::Machine {
                pairing,
                history,
                disk,
            },
        );
    }
}
