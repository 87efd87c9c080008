//! Hosts, links, tiebreaker and time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use antipode_certs::{Identity, Name};
use antipode_tiebreaker::{Flush, Operation, PairingId, Record, Request, RequestId, State, decide};

use super::Flaw;
use super::checker::{Checker, Harm, History};
use super::driver::Process;
use crate::base::units::ExitOrdinal;
use crate::protocol::detector::Heard;
use crate::protocol::mode::Step;
use crate::protocol::moment::Moment;
use crate::protocol::reprotect::Called;
use crate::protocol::role::{Acknowledged, Ask, Command, Event, Notes, Phase, ReadId, Replica, Word};

pub(super) const FAULTS_END: u64 = 15_000;
const PATIENCE: u64 = 60_000;
/// How long a story goes on after the first harm, to see what else it does.
const AFTERMATH: u64 = 1_000;
/// How long the client of the tiebreaker waits before it says that the outcome is unknown.
const ANSWER_TIMEOUT: u64 = 250;

/// `SplitMix64`.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    /// True `times` in 100.
    pub(super) fn percent(&mut self, times: u64) -> bool {
        self.next() % 100 < times
    }
}

pub(super) fn site_name(site: usize) -> Name {
    ["a", "b"][site].parse().unwrap()
}

/// What a log frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logged {
    Output(u64),
    /// The guest stands still.
    Stand,
    /// The copy executes nothing from here on, becomes what this site is, or follows again.
    Checkpoint(Step),
}

/// What goes over the ordered connection between two processes.
#[derive(Debug)]
pub(super) enum Message {
    Log {
        pairing: PairingId,
        seq: u64,
        logged: Logged,
    },
    Ack(PairingId, Acknowledged),
    Word(Word),
    /// The whole machine, at the stun.
    Machine {
        pairing: PairingId,
        history: History,
        disk: History,
    },
    /// The machine stands at the other side.
    Ready,
}

#[derive(Debug)]
pub(super) enum Happening {
    Role(u64, Event),
    Tick(u64),
    /// The guest of a primary stands still.
    Stood(u64),
    Guest(u64),
    Durable {
        process: u64,
        length: usize,
    },
    /// The copy's own flush of the disk at this length is done.
    Flushed {
        process: u64,
        length: usize,
    },
    /// A copy that differs is the same again, or will never be.
    Repaired {
        process: u64,
        done: bool,
    },
    Heartbeat(u64, Heard),
    Pump(usize),
    Arrive(u64, Ask),
    Read(u64, ReadId),
    Called(u64, u64, Called),
    Operator,
    Fault,
    /// The same, besides.
    Break,
    Restart,
    CutEnds,
}

/// One host: what survives a crash, and its VM process.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) up: bool,
    pub(super) frozen_since: u64,
    pub(super) frozen_until: u64,
    /// How long its clock stood still.
    pub(super) slept: u64,
    pub(super) notes: Notes,
    pub(super) replica: Option<Replica>,
    pub(super) disk: History,
    /// The VM is to be protected: noted, as the notes are.
    pub(super) is_protected: bool,
    pub(super) boots: u64,
    pub(super) process: Option<Process>,
}

/// How one seed's story went.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) harm: Option<Harm>,
    pub(super) found: BTreeSet<Harm>,
    pub(super) digest: u64,
    pub(super) seen: BTreeSet<&'static str>,
    pub(super) story: Vec<String>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) flaw: Flaw,
    pub(super) hosts: [Host; 2],
    pub(super) record: Option<Record>,
    pub(super) checker: Checker,
    pub(super) digest: DefaultHasher,
    pub(super) seen: BTreeSet<&'static str>,
    pub(super) story: VecDeque<String>,
    pub(super) processes: u64,
    /// How often a backup went live.
    pub(super) takeovers: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    scheduled: u64,
    /// From site to the other one, in order.
    wires: [VecDeque<(u64, u64, Message)>; 2],
    /// Until when: the way from site 0, from site 1, site 0's to the tiebreaker, site 1's.
    pub(super) cut_until: [u64; 4],
    pub(super) reported_down: bool,
    preferred: Option<usize>,
    pub(super) flush: Flush,
    /// Outputs leave when the copy has made them too (H3).
    pub(super) verifies: bool,
    /// Copies are kept the same by checkpoints, now and then (H4).
    pub(super) carries: bool,
}

impl World {
    pub(super) fn new(seed: u64, flaw: Flaw) -> Self {
        let mut world = Self {
            now: 1_000,
            random: Random(seed),
            flaw,
            hosts: [Host::default(), Host::default()],
            record: None,
            checker: Checker::default(),
            digest: DefaultHasher::new(),
            seen: BTreeSet::new(),
            story: VecDeque::new(),
            processes: 0,
            takeovers: 0,
            queue: BTreeMap::new(),
            scheduled: 0,
            wires: [VecDeque::new(), VecDeque::new()],
            cut_until: [0; 4],
            reported_down: false,
            preferred: [None, Some(0), Some(1)][usize::try_from(seed % 3).unwrap()],
            flush: [Flush::Site, Flush::Both][usize::try_from(seed / 3 % 2).unwrap()],
            verifies: seed / 6 % 2 == 1,
            carries: seed / 12 % 2 == 1,
        };
        world.hosts.iter_mut().for_each(|host| host.up = true);
        world.hosts[0].replica = Some(Replica::Clean);
        world.begin_process(
            0,
            Command::Start {
                replica: Replica::Clean,
            },
        );
        world.after(300, Happening::Operator);
        world.after(2_000, Happening::Fault);
        world
    }

    pub(super) fn run(mut self) -> Outcome {
        let mut harmed_at = None;
        while !self.is_protected_after_all() {
            let Some(((at, _), happening)) = self.queue.pop_first() else {
                break;
            };
            self.now = at;
            if self.checker.harm.is_some() && at > *harmed_at.get_or_insert(at) + AFTERMATH {
                break;
            }
            if self.now > FAULTS_END + PATIENCE {
                self.checker.blame(Harm::NeverProtected);
            }
            self.happen(happening);
            let open = [0, 1].into_iter().filter(|&site| self.is_open(site)).count();
            self.checker.open_sites(open);
        }
        Outcome {
            harm: self.checker.harm,
            found: self.checker.found,
            digest: self.digest.finish(),
            seen: self.seen,
            story: self.story.into(),
        }
    }

    fn is_protected_after_all(&self) -> bool {
        let phase = |site: usize| {
            self.hosts[site]
                .process
                .as_ref()
                .map(|process| process.role.phase())
        };
        let phases = [phase(0), phase(1)];
        self.now > FAULTS_END
            && phases.contains(&Some(Phase::Primary))
            && phases.contains(&Some(Phase::Backup))
    }

    /// By the clock of this host.
    pub(super) const fn moment_at(&self, site: usize) -> Moment {
        Moment::from_nanos(self.now.saturating_sub(self.hosts[site].slept) * 1_000_000)
    }

    pub(super) fn after(&mut self, ms: u64, happening: Happening) {
        self.scheduled += 1;
        self.queue.insert((self.now + ms, self.scheduled), happening);
    }

    pub(super) fn site_of(&self, process: u64) -> Option<usize> {
        self.hosts
            .iter()
            .position(|host| host.process.as_ref().is_some_and(|own| own.id == process))
    }

    /// The process's host, or the moment at which it thaws.
    fn awake(&self, process: u64) -> Result<Option<usize>, u64> {
        match self.site_of(process) {
            Some(site) if self.hosts[site].frozen_until > self.now => Err(self.hosts[site].frozen_until),
            site => Ok(site),
        }
    }

    fn happen(&mut self, happening: Happening) {
        let process = match &happening {
            Happening::Role(process, _)
            | Happening::Tick(process)
            | Happening::Guest(process)
            | Happening::Stood(process)
            | Happening::Durable { process, .. }
            | Happening::Flushed { process, .. }
            | Happening::Repaired { process, .. }
            | Happening::Heartbeat(process, _)
            | Happening::Called(process, ..) => Some(*process),
            _ => None,
        };
        let site = match process.map(|process| self.awake(process)) {
            // A frozen host finds it all when it thaws, in order.
            Some(Err(thaw)) => return self.after(thaw - self.now, happening),
            Some(Ok(None)) => return,
            Some(Ok(Some(site))) => site,
            None => 0,
        };
        match happening {
            Happening::Role(_, event) => self.step(site, event),
            Happening::Tick(process) => self.tick(site, process),
            Happening::Guest(process) => self.guest(site, process),
            Happening::Stood(_) => self.stood(site),
            Happening::Durable { length, .. } => self.durable(site, length),
            Happening::Flushed { length, .. } => self.flushed(site, length),
            Happening::Repaired { done, .. } => self.repaired(site, done),
            Happening::Heartbeat(_, heard) => {
                if self.process(site).channel_open {
                    self.step(site, Event::PeerHeard(heard));
                }
            }
            Happening::Called(_, number, said) => self.called(site, number, said),
            Happening::Pump(from) => self.pump(from),
            Happening::Arrive(process, ask) => self.arrive(process, &ask),
            Happening::Read(process, read) => self.read(process, read),
            Happening::Operator => self.operate(),
            Happening::Fault => self.fault(),
            Happening::Break if self.now < FAULTS_END => self.break_something(),
            Happening::Break => {}
            Happening::Restart => self.restart(),
            Happening::CutEnds => {
                if self.reported_down && !self.is_cut(0) && !self.is_cut(1) {
                    self.reported_down = false;
                    self.tell_both(&Event::ChannelResumed);
                }
            }
        }
    }

    pub(super) fn tell_both(&mut self, event: &Event) {
        for site in [0, 1] {
            if let Some(process) = self.hosts[site].process.as_ref().filter(|own| own.channel_open) {
                let id = process.id;
                self.after(0, Happening::Role(id, event.clone()));
            }
        }
    }

    pub(super) fn is_cut(&self, way: usize) -> bool {
        self.cut_until[way] > self.now
    }

    /// Sends to the other site's process, in order.
    pub(super) fn send(&mut self, from: usize, message: Message) {
        let Some(to) = self.hosts[1 - from].process.as_ref().map(|process| process.id) else {
            return;
        };
        let at = self.now + self.random.between(5, 30);
        let last = self.wires[from].back().map_or(0, |last| last.0);
        if self.wires[from].is_empty() {
            self.after(at - self.now, Happening::Pump(from));
        }
        self.wires[from].push_back((at.max(last), to, message));
    }

    pub(super) fn send_heartbeat(&mut self, from: usize, heard: Heard) {
        let Some(to) = self.hosts[1 - from].process.as_ref().map(|process| process.id) else {
            return;
        };
        if !self.is_cut(from) && !self.random.percent(5) {
            let delay = self.random.between(5, 40);
            self.after(delay, Happening::Heartbeat(to, heard));
        }
    }

    fn pump(&mut self, from: usize) {
        while let Some(&(at, to, _)) = self.wires[from].front() {
            if at > self.now {
                return self.after(at - self.now, Happening::Pump(from));
            }
            if self.is_cut(from) || self.awake(to).is_err() {
                return self.after(40, Happening::Pump(from));
            }
            let Some((_, to, message)) = self.wires[from].pop_front() else {
                return;
            };
            if self.site_of(to) == Some(1 - from) {
                self.receive(1 - from, message);
            }
        }
    }

    fn reaches_tiebreaker(&mut self, site: usize) -> bool {
        !self.is_cut(2 + site) && !self.random.percent(5)
    }

    /// Some copies arrive, now or much later, or none; if no answer comes in time, its outcome is unknown.
    pub(super) fn send_ask(&mut self, site: usize, ask: &Ask) {
        let process = self.process(site).id;
        let id = ask.id;
        if self.reaches_tiebreaker(site) {
            let delay = self.random.between(2, 60);
            self.after(delay, Happening::Arrive(process, ask.clone()));
        }
        if self.random.percent(15) {
            let delay = self.random.between(50, 4_000);
            self.after(delay, Happening::Arrive(process, ask.clone()));
        }
        if self.flaw == Flaw::SilentClient {
            return;
        }
        self.after(
            ANSWER_TIMEOUT,
            Happening::Role(process, Event::Answered { id, answer: None }),
        );
    }

    fn arrive(&mut self, process: u64, ask: &Ask) {
        // The process may be gone; its requests are not. An odd one is of site 1.
        let site = usize::try_from(process % 2).unwrap();
        let request = Request {
            id: RequestId(ask.id.0),
            expected: ask.expected,
            operation: ask.operation.clone(),
            at_unix_seconds: 0,
        };
        let caller = Identity::from_uri(["antipode://site/a", "antipode://site/b"][site]).unwrap();
        let own = site_name(site);
        let of_another = matches!(
            (&self.record.as_ref().map(|record| &record.state), &ask.operation),
            (Some(State::Paired { primary, .. }), Operation::ColdStart { .. }) if *primary != own
        );
        let outcome = decide(self.record.take(), &request, &caller);
        if of_another && outcome.answer.verdict.is_ok() {
            self.seen.insert("cold start of a backup");
        }
        self.record = outcome.record;
        if let (Operation::Swap { turned, .. }, Ok(())) = (&ask.operation, outcome.answer.verdict) {
            self.checker.swapped(1 - site, *turned);
        }
        if let Some(record) = &mut self.record {
            record.history.clear();
            record.settings.preferred = self.preferred.map(site_name);
            record.settings.flush = self.flush;
        }
        let told = format!(
            "{} tiebreaker: {} of {caller} {:?}",
            self.now,
            ask.operation.name(),
            outcome.answer.verdict
        );
        self.note(told);
        if self.reaches_tiebreaker(site) {
            let delay = self.random.between(2, 60);
            let answer = Some(Box::new(outcome.answer));
            self.after(
                delay,
                Happening::Role(process, Event::Answered { id: ask.id, answer }),
            );
        }
    }

    pub(super) fn send_read(&mut self, site: usize, read: ReadId) {
        let process = self.process(site).id;
        if self.reaches_tiebreaker(site) {
            let delay = self.random.between(2, 60);
            self.after(delay, Happening::Read(process, read));
        }
        let unknown = Event::RecordRead { read, record: None };
        self.after(ANSWER_TIMEOUT, Happening::Role(process, unknown));
    }

    fn read(&mut self, process: u64, read: ReadId) {
        let record = Some(self.record.clone().map(Box::new));
        let delay = self.random.between(2, 60);
        self.after(
            delay,
            Happening::Role(process, Event::RecordRead { read, record }),
        );
    }

    pub(super) fn note(&mut self, line: String) {
        if self.story.len() == 3000 {
            self.story.pop_front();
        }
        self.story.push_back(line);
    }

    pub(super) fn heartbeat_of(&self, site: usize) -> Heard {
        let process = self.hosts[site].process.as_ref();
        let (heard_at, position) = process.map_or((0, 0), |own| (own.heard_at, own.memory.len()));
        Heard {
            round_trip: Some(Duration::from_millis(40)),
            deaf_for: Duration::from_millis(self.now.saturating_sub(heard_at)),
            replayed: ExitOrdinal::new(position as u64),
        }
    }

    pub(super) fn hash(&mut self, thing: &impl Hash) {
        (self.now, thing).hash(&mut self.digest);
    }
}
