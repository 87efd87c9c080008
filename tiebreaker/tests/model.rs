//! Two sites, a tiebreaker and a network that loses, repeats and reorders, explored exhaustively within bounds (T3).
//!
//! ```text
//!   site a ──request──▶ tiebreaker ──answer──▶ site a        a sent request may arrive never, late, or many times
//!     │  entries, acknowledgements
//!     ▼
//!   site b                                                    either site may crash, suspect or give up at any time
//! ```
//!
//! The tiebreaker is `decide` itself. Sites follow the protocol as far as the record is concerned: clone and `pair`;
//! `cancel_pair`; on suspicion first a durable replica, then `claim` (P5); `cold_start` after a crash. What a guest
//! does is a list of outputs; each is also the acknowledgement of a flush, so what was shown must be on a disk that
//! the VM may start from.
//!
//! Checked in every state: whoever shows outputs or goes live holds all that clients have seen, and at most one site
//! runs alone. A model that cannot fail proves nothing: rules of the protocol are left out one by one ([`Flaw`]), and
//! each time the checker must find the harm. That takeovers, new pairings and cold starts do happen is demanded too.
//!
//! Bounds: two outputs, one crash, two requests a site, one more to cancel. Left out: `swap`, `park`, `force`, and
//! renouncing a pairing (P6).
#![expect(clippy::unwrap_used, reason = "a test: what fails is shown where it fails")]

use antipode_certs::{Identity, Name};
use antipode_tiebreaker::{
    Answer, Boot, Flush, Generation, Operation, PairingId, Record, Request, RequestId, State, decide,
};
use stateright::{Checker, Model, Property};

const OUTPUTS_MAX: usize = 2;
const CRASHES_MAX: u8 = 1;
const REQUESTS_PER_SITE_MAX: u64 = 2;

/// A rule of the protocol that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// A pairing is given up without `cancel_pair`.
    NoCancel,
    /// Outputs are shown, as by a solo site, while `pair` is unanswered.
    OutputBeforePair,
    /// A site that was solo when it last knew starts again without asking.
    StartWithoutGrant,
    /// The tiebreaker can lose its last change.
    Forgetful,
    /// The backup claims first and makes its replica durable when it has won. If it crashes in between, it is the
    /// solo site, and may start from a disk that lacks what it has acknowledged.
    ClaimBeforeDurable,
    /// The backup acknowledges what is not yet durable, in a pairing that says it is.
    AckNotDurable,
}

/// What a site does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mode {
    Down,
    /// Up, with a disk and no VM.
    Idle,
    /// Live, alone.
    Solo,
    /// Live; the peer has been cloned, `pair` is unanswered, outputs are held.
    Pairing,
    /// Stopped until `cancel_pair` is answered.
    Cancelling,
    /// Live; outputs wait for acknowledgements.
    Primary,
    /// Follows.
    Backup,
    /// Stopped until `claim` is answered.
    Claiming,
    /// Stopped until `cold_start` is answered.
    Starting,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Site {
    mode: Mode,
    boot: Boot,
    /// The generation of the record that it acts in.
    generation: Generation,
    pairing: PairingId,
    /// The outputs that its guest has passed.
    memory: Vec<u8>,
    /// Those whose flush is durable.
    disk: Vec<u8>,
    requests_sent: u64,
    /// The answer to the last request, on its way.
    answer: Option<Answer>,
    /// Whether its own notes say that it was solo.
    was_solo: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct System {
    sites: [Site; 2],
    record: Record,
    /// The record before its last change, for a tiebreaker that forgets.
    record_before: Option<Record>,
    /// Every request that was ever sent, by site: any may arrive at any time.
    sent: [Vec<Request>; 2],
    /// The best acknowledgement that was ever sent, with its pairing.
    acknowledged: Option<(PairingId, usize)>,
    /// What clients have seen.
    shown: Vec<u8>,
    crashes: u8,
    /// Whether whoever showed outputs, or went live, held all that was shown before.
    sound: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The guest makes an output.
    Output(usize),
    /// Log entries reach the backup.
    Replicate,
    /// An acknowledgement reaches the primary.
    Release(usize),
    /// The peer is cloned and `pair` sent.
    Pair(usize),
    GiveUpPairing(usize),
    Suspect(usize),
    Crash(usize),
    Restart(usize),
    ColdStart(usize),
    /// A request reaches the tiebreaker, for the first time or again.
    Arrive(usize, usize),
    /// The answer reaches the site.
    Hear(usize),
    /// The tiebreaker loses its last change.
    Forget,
}

struct Protocol {
    flush: Flush,
    flaw: Flaw,
}

fn name(site: usize) -> Name {
    ["a", "b"][site].parse().unwrap()
}

fn identity(site: usize) -> Identity {
    Identity::from_uri(&format!("antipode://site/{}", name(site))).unwrap()
}

/// The history tells how a state was reached, and would make one state many.
fn without_history(mut record: Record) -> Record {
    record.history.clear();
    record
}

impl System {
    /// `site` asks the tiebreaker for `operation`.
    fn ask(&mut self, site: usize, mode: Mode, operation: Operation) {
        let asking = &mut self.sites[site];
        asking.requests_sent += 1;
        asking.answer = None;
        asking.mode = mode;
        let request = Request {
            id: RequestId(asking.requests_sent),
            expected: asking.generation,
            operation,
            at_unix_seconds: 0,
        };
        self.sent[site].push(request);
    }

    fn arrive(&mut self, site: usize, index: usize, flaw: Flaw) {
        let request = &self.sent[site][index];
        let outcome = decide(Some(self.record.clone()), request, &identity(site));
        let record = without_history(outcome.record.unwrap());
        if flaw == Flaw::Forgetful && record.generation != self.record.generation {
            self.record_before = Some(self.record.clone());
        }
        self.record = record;
        // An answer to an older request is dropped by the site.
        let asking = &mut self.sites[site];
        let waits = matches!(
            asking.mode,
            Mode::Pairing | Mode::Cancelling | Mode::Claiming | Mode::Starting
        );
        if waits && request.id.0 == asking.requests_sent {
            asking.answer = Some(outcome.answer);
        }
    }

    /// Clients see `outputs`, or have seen them already.
    fn show(&mut self, outputs: &[u8]) {
        self.sound &= outputs.starts_with(&self.shown) || self.shown.starts_with(outputs);
        if outputs.len() > self.shown.len() {
            self.shown = outputs.to_vec();
        }
    }

    fn go_live_alone(&mut self, site: usize) {
        let live = &mut self.sites[site];
        live.mode = Mode::Solo;
        live.disk = live.memory.clone();
        live.was_solo = true;
        self.sound &= live.memory.starts_with(&self.shown);
    }

    /// `site` has no VM any more.
    fn give_up(&mut self, site: usize) {
        let loser = &mut self.sites[site];
        loser.mode = Mode::Idle;
        loser.memory = loser.disk.clone();
        loser.was_solo = false;
    }

    fn hear(&mut self, site: usize, answer: &Answer) {
        let granted = answer.verdict.is_ok();
        let hearing = &mut self.sites[site];
        hearing.generation = answer.generation;
        let paired = matches!(&answer.state, Some(State::Paired { primary, pairing, .. })
            if *primary == name(site) && *pairing == hearing.pairing);
        match hearing.mode {
            // Granted; or the `pair` that was given up had been granted before: it is paired after all.
            Mode::Pairing | Mode::Cancelling if paired => {
                hearing.mode = Mode::Primary;
                hearing.was_solo = false;
            }
            Mode::Cancelling | Mode::Claiming | Mode::Starting if granted => self.go_live_alone(site),
            _ => self.give_up(site),
        }
    }

    fn output(&mut self, site: usize, flaw: Flaw) {
        let live = &mut self.sites[site];
        let token = u8::try_from(live.generation.0 * 2).unwrap() + u8::from(site == 1);
        live.memory.push(token);
        live.disk = live.memory.clone();
        let at_once =
            live.mode == Mode::Solo || (live.mode == Mode::Pairing && flaw == Flaw::OutputBeforePair);
        if at_once {
            let outputs = live.memory.clone();
            self.show(&outputs);
        }
    }

    /// A live primary and its backup, if both are up and know it.
    fn primary_and_backup(&self) -> Option<(usize, usize)> {
        [(0, 1), (1, 0)].into_iter().find(|&(primary, backup)| {
            let (primary, backup) = (&self.sites[primary], &self.sites[backup]);
            matches!(primary.mode, Mode::Primary | Mode::Pairing)
                && backup.mode == Mode::Backup
                && primary.pairing == backup.pairing
        })
    }

    fn replicate(&mut self, flush: Flush, flaw: Flaw) -> Option<()> {
        let (primary, backup) = self.primary_and_backup()?;
        let memory = self.sites[primary].memory.clone();
        let backup = &mut self.sites[backup];
        if flush == Flush::Both && flaw != Flaw::AckNotDurable {
            backup.disk = memory.clone();
        }
        self.acknowledged = Some((backup.pairing, memory.len()));
        backup.memory = memory;
        Some(())
    }

    fn release(&mut self, site: usize) -> Option<()> {
        let (pairing, length) = self.acknowledged?;
        let primary = &self.sites[site];
        if primary.mode != Mode::Primary || primary.pairing != pairing {
            return None;
        }
        let outputs = primary.memory.get(..length)?.to_vec();
        self.show(&outputs);
        Some(())
    }

    fn pair(&mut self, site: usize, flush: Flush) {
        let peer = 1 - site;
        let pairing = PairingId(self.sites[site].requests_sent * 2 + site as u64);
        self.sites[site].pairing = pairing;
        let source = self.sites[site].clone();
        let clone = &mut self.sites[peer];
        clone.mode = Mode::Backup;
        clone.pairing = pairing;
        clone.generation = source.generation.next();
        clone.memory = source.memory;
        clone.disk = source.disk;
        let operation = Operation::Pair {
            boot: source.boot,
            backup: name(peer),
            pairing,
            flush,
        };
        self.ask(site, Mode::Pairing, operation);
    }

    fn give_up_pairing(&mut self, site: usize, flaw: Flaw) {
        if flaw == Flaw::NoCancel {
            self.sites[site].mode = Mode::Solo;
            return;
        }
        let boot = self.sites[site].boot;
        self.ask(site, Mode::Cancelling, Operation::CancelPair { boot });
    }

    fn suspect(&mut self, site: usize, flaw: Flaw) {
        let suspecting = &mut self.sites[site];
        if flaw != Flaw::ClaimBeforeDurable {
            suspecting.disk = suspecting.memory.clone();
        }
        let Site { pairing, boot, .. } = *suspecting;
        self.ask(site, Mode::Claiming, Operation::Claim { pairing, boot });
    }

    fn crash(&mut self, site: usize) {
        self.crashes += 1;
        let down = &mut self.sites[site];
        down.mode = Mode::Down;
        down.memory = down.disk.clone();
        down.answer = None;
    }

    fn restart(&mut self, site: usize, flaw: Flaw) {
        let up = &mut self.sites[site];
        up.boot = Boot(up.boot.0 + 1);
        up.mode = Mode::Idle;
        if flaw == Flaw::StartWithoutGrant && up.was_solo {
            self.go_live_alone(site);
        }
    }

    fn cold_start(&mut self, site: usize) {
        // It reads the record first; what it read may be old when its request arrives.
        self.sites[site].generation = self.record.generation;
        let boot = self.sites[site].boot;
        self.ask(site, Mode::Starting, Operation::ColdStart { boot });
    }

    /// What `site` may do next.
    fn steps_of(&self, site: usize, steps: &mut Vec<Step>) {
        let Site {
            mode,
            memory,
            answer,
            requests_sent,
            ..
        } = &self.sites[site];
        let may_ask = *requests_sent < REQUESTS_PER_SITE_MAX;
        if matches!(mode, Mode::Solo | Mode::Pairing | Mode::Primary) && memory.len() < OUTPUTS_MAX {
            steps.push(Step::Output(site));
        }
        match mode {
            Mode::Down => steps.push(Step::Restart(site)),
            Mode::Solo if may_ask && self.sites[1 - site].mode == Mode::Idle => steps.push(Step::Pair(site)),
            Mode::Pairing => steps.push(Step::GiveUpPairing(site)),
            Mode::Idle if may_ask => steps.push(Step::ColdStart(site)),
            Mode::Primary => steps.push(Step::Release(site)),
            _ => {}
        }
        if matches!(mode, Mode::Primary | Mode::Backup) && may_ask {
            steps.push(Step::Suspect(site));
        }
        if *mode != Mode::Down && self.crashes < CRASHES_MAX {
            steps.push(Step::Crash(site));
        }
        steps.extend((0..self.sent[site].len()).map(|index| Step::Arrive(site, index)));
        if answer.is_some() {
            steps.push(Step::Hear(site));
        }
    }
}

impl Model for Protocol {
    type State = System;
    type Action = Step;

    fn init_states(&self) -> Vec<System> {
        let register = Request {
            id: RequestId(0),
            expected: Generation::NONE,
            operation: Operation::Register { boot: Boot(1) },
            at_unix_seconds: 0,
        };
        let mut record = without_history(decide(None, &register, &identity(0)).record.unwrap());
        record.settings.flush = self.flush;
        let idle = Site {
            mode: Mode::Idle,
            boot: Boot(1),
            generation: record.generation,
            pairing: PairingId(0),
            memory: Vec::new(),
            disk: Vec::new(),
            requests_sent: 0,
            answer: None,
            was_solo: false,
        };
        let solo = Site {
            mode: Mode::Solo,
            was_solo: true,
            ..idle.clone()
        };
        vec![System {
            sites: [solo, idle],
            record,
            record_before: None,
            sent: [Vec::new(), Vec::new()],
            acknowledged: None,
            shown: Vec::new(),
            crashes: 0,
            sound: true,
        }]
    }

    fn actions(&self, system: &System, steps: &mut Vec<Step>) {
        steps.push(Step::Replicate);
        system.steps_of(0, steps);
        system.steps_of(1, steps);
        if system.record_before.is_some() {
            steps.push(Step::Forget);
        }
    }

    fn next_state(&self, system: &System, step: Step) -> Option<System> {
        let mut next = system.clone();
        match step {
            Step::Output(site) => next.output(site, self.flaw),
            Step::Replicate => next.replicate(self.flush, self.flaw)?,
            Step::Release(site) => next.release(site)?,
            Step::Pair(site) => next.pair(site, self.flush),
            Step::GiveUpPairing(site) => next.give_up_pairing(site, self.flaw),
            Step::Suspect(site) => next.suspect(site, self.flaw),
            Step::Crash(site) => next.crash(site),
            Step::Restart(site) => next.restart(site, self.flaw),
            Step::ColdStart(site) => next.cold_start(site),
            Step::Arrive(site, index) => next.arrive(site, index, self.flaw),
            Step::Hear(site) => {
                let answer = next.sites[site].answer.take()?;
                next.hear(site, &answer);
            }
            Step::Forget => next.record = next.record_before.take()?,
        }
        (next != *system).then_some(next)
    }

    /// Beyond the bound on requests lies nothing of interest; a site that gives up may still overstep it by one.
    fn within_boundary(&self, system: &System) -> bool {
        system
            .sites
            .iter()
            .all(|site| site.requests_sent <= REQUESTS_PER_SITE_MAX + 1)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one history", |_, system: &System| system.sound),
            Property::always("one site alone", |_, system: &System| {
                system.sites.iter().filter(|site| site.mode == Mode::Solo).count() <= 1
            }),
            Property::sometimes("takeover", |_, system: &System| {
                let heir = &system.sites[1];
                (heir.mode, heir.boot) == (Mode::Solo, Boot(1)) && !system.shown.is_empty()
            }),
            Property::sometimes("new pairing after a takeover", |_, system: &System| {
                system.sites[1].mode == Mode::Primary
            }),
            Property::sometimes("cold start", |_, system: &System| {
                system.sites[0].mode == Mode::Solo && system.sites[0].boot > Boot(1)
            }),
        ]
    }
}

#[track_caller]
fn holds(flush: Flush) {
    let protocol = Protocol {
        flush,
        flaw: Flaw::None,
    };
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!("{flush:?}: {} states", checker.unique_state_count());
    checker.assert_properties();
}

/// The checker finds the harm that `flaw` does.
#[track_caller]
fn is_caught(flush: Flush, flaw: Flaw) {
    let checker = Protocol { flush, flaw }.checker().threads(2).spawn_bfs().join();
    let harm = ["one history", "one site alone"].map(|property| checker.discovery(property));
    assert!(
        harm.iter().any(Option::is_some),
        "{flaw:?} does no harm in {} states",
        checker.unique_state_count()
    );
}

#[test]
fn the_protocol_holds_with_flushes_at_one_site() {
    holds(Flush::Site);
}

#[test]
fn the_protocol_holds_with_flushes_at_both_sites() {
    holds(Flush::Both);
}

#[test]
fn giving_up_a_pairing_without_cancelling_it_is_caught() {
    is_caught(Flush::Site, Flaw::NoCancel);
}

#[test]
fn an_output_before_the_pairing_is_confirmed_is_caught() {
    is_caught(Flush::Site, Flaw::OutputBeforePair);
}

#[test]
fn a_start_without_a_granted_change_is_caught() {
    is_caught(Flush::Site, Flaw::StartWithoutGrant);
}

#[test]
fn a_tiebreaker_that_forgets_is_caught() {
    is_caught(Flush::Site, Flaw::Forgetful);
}

#[test]
fn a_claim_before_the_replica_is_durable_is_caught() {
    is_caught(Flush::Site, Flaw::ClaimBeforeDurable);
}

#[test]
fn an_acknowledgement_that_is_not_durable_is_caught() {
    is_caught(Flush::Both, Flaw::AckNotDurable);
}
