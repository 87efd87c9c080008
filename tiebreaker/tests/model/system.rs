//! What two sites, the tiebreaker and the network between them are at one moment, and what each step makes of it.

use antipode_certs::{Identity, Name};
use antipode_tiebreaker::{
    Answer, Boot, Flush, Generation, Hold, Operation, PairingId, Position, Reason, Record, Request,
    RequestId, State, decide,
};

use super::Flaw;

/// What a site does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    Down,
    /// Up, with a disk and no VM.
    Idle,
    /// Live, alone.
    Solo,
    /// Live, alone; a pairing that was renounced may yet be granted, and is being done away with.
    Settling,
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
    /// Was primary; stopped until `swap` is answered.
    Swapping,
    /// Was backup; stopped while the other one swaps.
    Turning,
    /// Was live; stopped until `park` is answered.
    Parking,
    /// Was backup; stopped in order at the position of the other one.
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Site {
    pub(crate) mode: Mode,
    pub(crate) boot: Boot,
    /// The generation of the record that it acts in.
    pub(crate) generation: Generation,
    pub(crate) pairing: PairingId,
    /// The pairing that a swap under way would make.
    pub(crate) turned: Option<PairingId>,
    /// The pairing that this site will never act in, by its durable notes.
    pub(crate) renounced: Option<PairingId>,
    /// The outputs that its guest has passed.
    pub(crate) memory: Vec<u8>,
    /// Those whose flush is durable.
    pub(crate) disk: Vec<u8>,
    pub(crate) requests_sent: u64,
    /// The answer to the last request, on its way.
    pub(crate) answer: Option<Answer>,
    /// Whether its own notes say that it was solo.
    pub(crate) was_solo: bool,
}

/// An operator's override.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Forced {
    No,
    /// Granted to this site, which has not started. What it lacks is lost by the operator's word.
    Granted(usize),
    /// It has started.
    Started,
}

/// Whose requests: a site's, or the operator's.
pub(crate) const OPERATOR: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct System {
    pub(crate) sites: [Site; 2],
    pub(crate) record: Record,
    /// The record before its last change, for a tiebreaker that forgets.
    pub(crate) record_before: Option<Record>,
    /// Every request that was ever sent, by sender: any may arrive at any time.
    pub(crate) sent: [Vec<Request>; 3],
    /// The best acknowledgement that was ever sent, with its pairing.
    pub(crate) acknowledged: Option<(PairingId, usize)>,
    /// What clients have seen.
    pub(crate) shown: Vec<u8>,
    pub(crate) forced: Forced,
    pub(crate) crashes: u8,
    /// Whether whoever showed outputs, or went live, held all that was shown before.
    pub(crate) sound: bool,
}

pub(crate) fn name(site: usize) -> Name {
    ["a", "b"][site].parse().unwrap()
}

fn identity(sender: usize) -> Identity {
    let uri = ["antipode://site/a", "antipode://site/b", "antipode://operator/o"][sender];
    Identity::from_uri(uri).unwrap()
}

/// The history tells how a state was reached, and would make one state many.
fn without_history(mut record: Record) -> Record {
    record.history.clear();
    record
}

impl System {
    /// Site a runs the VM alone; in a new record.
    pub(crate) fn solo(flush: Flush) -> Self {
        let register = request(0, Generation::NONE, Operation::Register { boot: Boot(1) });
        let mut record = without_history(decide(None, &register, &identity(0)).record.unwrap());
        record.settings.flush = flush;
        let idle = Site {
            mode: Mode::Idle,
            boot: Boot(1),
            generation: record.generation,
            pairing: PairingId(0),
            turned: None,
            renounced: None,
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
        Self {
            sites: [solo, idle],
            record,
            record_before: None,
            sent: [Vec::new(), Vec::new(), Vec::new()],
            acknowledged: None,
            shown: Vec::new(),
            forced: Forced::No,
            crashes: 0,
            sound: true,
        }
    }

    /// Site a runs the VM with site b as its backup, and both know it.
    pub(crate) fn paired(flush: Flush) -> Self {
        let mut system = Self::solo(flush);
        system.pair(0, flush);
        system.arrive(0, 0, Flaw::None);
        let answer = system.sites[0].answer.take().unwrap();
        system.hear(0, &answer);
        system
    }

    /// `site` asks the tiebreaker for `operation`.
    fn ask(&mut self, site: usize, mode: Mode, operation: Operation) {
        let asking = &mut self.sites[site];
        asking.requests_sent += 1;
        asking.answer = None;
        asking.mode = mode;
        let request = request(asking.requests_sent, asking.generation, operation);
        self.sent[site].push(request);
    }

    pub(crate) fn arrive(&mut self, sender: usize, index: usize, flaw: Flaw) {
        let request = &self.sent[sender][index];
        let outcome = decide(Some(self.record.clone()), request, &identity(sender));
        let record = without_history(outcome.record.unwrap());
        let changed = record.generation != self.record.generation;
        if flaw == Flaw::Forgetful && changed {
            self.record_before = Some(self.record.clone());
        }
        self.record = record;
        match &request.operation {
            Operation::Force { site, .. } if changed => {
                self.forced = Forced::Granted(usize::from(*site == name(1)));
            }
            Operation::Force { .. } => {}
            // An answer to an older request is dropped by the site.
            _ if self.sites[sender].waits() && request.id.0 == self.sites[sender].requests_sent => {
                self.sites[sender].answer = Some(outcome.answer);
            }
            _ => {}
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
        live.turned = None;
        if self.forced == Forced::Granted(site) {
            self.forced = Forced::Started;
            self.shown = live.memory.clone();
        }
        self.sound &= live.memory.starts_with(&self.shown);
    }

    /// `site` has no VM any more.
    pub(crate) fn give_up(&mut self, site: usize) {
        let loser = &mut self.sites[site];
        loser.mode = Mode::Idle;
        loser.memory = loser.disk.clone();
        loser.was_solo = false;
        loser.turned = None;
    }

    pub(crate) fn hear(&mut self, site: usize, answer: &Answer) {
        let granted = answer.verdict.is_ok();
        let hearing = &mut self.sites[site];
        hearing.generation = answer.generation;
        let primary_of = match &answer.state {
            Some(State::Paired { primary, pairing, .. }) if *primary == name(site) => Some(*pairing),
            _ => None,
        };
        let paired = primary_of == Some(hearing.pairing);
        match hearing.mode {
            // Granted; or the `pair` that was given up had been granted before: it is paired after all.
            Mode::Pairing | Mode::Cancelling if paired => {
                hearing.mode = Mode::Primary;
                hearing.was_solo = false;
            }
            Mode::Settling if granted => hearing.mode = Mode::Solo,
            // The renounced pairing was granted in the meantime; nobody else will ever claim it.
            Mode::Settling if paired => {
                let Site { pairing, boot, .. } = *hearing;
                self.ask(site, Mode::Settling, Operation::Claim { pairing, boot });
            }
            Mode::Swapping if granted => {
                hearing.mode = Mode::Backup;
                hearing.pairing = hearing.turned.take().unwrap();
            }
            // Its claim came too late: the swap that it was stopped for had been granted.
            Mode::Claiming if hearing.turned.is_some() && primary_of == hearing.turned => {
                hearing.mode = Mode::Primary;
                hearing.pairing = hearing.turned.take().unwrap();
            }
            Mode::Cancelling | Mode::Claiming | Mode::Starting if granted => self.go_live_alone(site),
            // Parked, or refused: either way without a VM.
            _ => self.give_up(site),
        }
    }

    pub(crate) fn output(&mut self, site: usize, flaw: Flaw) {
        let live = &mut self.sites[site];
        let token = u8::try_from(live.generation.0 * 2).unwrap() + u8::from(site == 1);
        live.memory.push(token);
        live.disk = live.memory.clone();
        let at_once = matches!(live.mode, Mode::Solo | Mode::Settling)
            || (live.mode == Mode::Pairing && flaw == Flaw::OutputBeforePair);
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

    pub(crate) fn replicate(&mut self, flush: Flush, flaw: Flaw) -> Option<()> {
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

    pub(crate) fn release(&mut self, site: usize) -> Option<()> {
        let (pairing, length) = self.acknowledged?;
        let primary = &self.sites[site];
        if primary.mode != Mode::Primary || primary.pairing != pairing {
            return None;
        }
        let outputs = primary.memory.get(..length)?.to_vec();
        self.show(&outputs);
        Some(())
    }

    /// A pairing's name that was never used before.
    fn new_pairing(&self, site: usize) -> PairingId {
        PairingId(self.sites[site].requests_sent * 2 + site as u64 + 2)
    }

    pub(crate) fn pair(&mut self, site: usize, flush: Flush) {
        let peer = 1 - site;
        let pairing = self.new_pairing(site);
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

    pub(crate) fn give_up_pairing(&mut self, site: usize, flaw: Flaw) {
        if flaw == Flaw::NoCancel {
            self.sites[site].mode = Mode::Solo;
            return;
        }
        let boot = self.sites[site].boot;
        self.ask(site, Mode::Cancelling, Operation::CancelPair { boot });
    }

    /// The new backup promises never to act in the pairing whose `pair` is unanswered.
    pub(crate) fn renounce(&mut self, site: usize, flaw: Flaw) {
        let promising = &mut self.sites[site];
        promising.renounced = Some(promising.pairing);
        if flaw != Flaw::RenounceAndFollow {
            self.give_up(site);
        }
    }

    /// The promise reaches the site that waits for `pair`.
    pub(crate) fn go_on_without(&mut self, site: usize) -> Option<()> {
        let promise = self.sites[1 - site].renounced;
        let waiting = &mut self.sites[site];
        if waiting.mode != Mode::Pairing || promise != Some(waiting.pairing) {
            return None;
        }
        let boot = waiting.boot;
        let outputs = waiting.memory.clone();
        self.ask(site, Mode::Settling, Operation::CancelPair { boot });
        self.show(&outputs);
        Some(())
    }

    pub(crate) fn suspect(&mut self, site: usize, flaw: Flaw) {
        let suspecting = &mut self.sites[site];
        if flaw != Flaw::ClaimBeforeDurable {
            suspecting.disk = suspecting.memory.clone();
        }
        let Site { pairing, boot, .. } = *suspecting;
        self.ask(site, Mode::Claiming, Operation::Claim { pairing, boot });
    }

    /// The primary has stopped; the backup has replayed all, made it durable and confirmed it.
    fn stop_both(&mut self, primary: usize, backup: Mode, flaw: Flaw) -> Option<()> {
        let (found, other) = self.primary_and_backup()?;
        if found != primary || self.sites[primary].mode != Mode::Primary {
            return None;
        }
        let memory = self.sites[primary].memory.clone();
        let stopped = &mut self.sites[other];
        stopped.mode = backup;
        if flaw != Flaw::HandOverBeforeDurable {
            stopped.disk = memory.clone();
        }
        stopped.memory = memory;
        Some(())
    }

    pub(crate) fn swap(&mut self, site: usize, flaw: Flaw) -> Option<()> {
        self.stop_both(site, Mode::Turning, flaw)?;
        let turned = self.new_pairing(site);
        self.sites.iter_mut().for_each(|site| site.turned = Some(turned));
        let pairing = self.sites[site].pairing;
        self.ask(site, Mode::Swapping, Operation::Swap { pairing, turned });
        Some(())
    }

    /// The new backup tells the new primary that the swap was granted.
    pub(crate) fn turn(&mut self, site: usize) -> Option<()> {
        let told = self.sites[1 - site].mode == Mode::Backup
            && Some(self.sites[1 - site].pairing) == self.sites[site].turned;
        let generation = self.sites[1 - site].generation;
        let turning = &mut self.sites[site];
        if turning.mode != Mode::Turning || !told {
            return None;
        }
        turning.mode = Mode::Primary;
        turning.pairing = turning.turned.take()?;
        turning.generation = generation;
        Some(())
    }

    pub(crate) fn park(&mut self, site: usize, flaw: Flaw) -> Option<()> {
        let hold = if self.sites[site].mode == Mode::Solo {
            Hold::Boot(self.sites[site].boot)
        } else {
            self.stop_both(site, Mode::Stopped, flaw)?;
            Hold::Pairing(self.sites[site].pairing)
        };
        let position = Position(self.sites[site].memory.len() as u64);
        self.ask(site, Mode::Parking, Operation::Park { hold, position });
        Some(())
    }

    /// With an unknown outcome both go on as they were: what must not be.
    pub(crate) fn resume(&mut self, site: usize) -> Option<()> {
        let frozen = [self.sites[site].mode, self.sites[1 - site].mode];
        if !matches!(
            frozen,
            [Mode::Swapping, Mode::Turning] | [Mode::Parking, Mode::Stopped]
        ) {
            return None;
        }
        self.sites[site].mode = Mode::Primary;
        self.sites[1 - site].mode = Mode::Backup;
        Some(())
    }

    pub(crate) fn crash(&mut self, site: usize, flaw: Flaw) {
        self.crashes += 1;
        let down = &mut self.sites[site];
        down.mode = Mode::Down;
        down.memory = down.disk.clone();
        down.answer = None;
        down.turned = None;
        if flaw == Flaw::RenounceNotDurable {
            down.renounced = None;
        }
    }

    pub(crate) fn restart(&mut self, site: usize, flaw: Flaw) {
        let up = &mut self.sites[site];
        up.boot = Boot(up.boot.0 + 1);
        up.mode = Mode::Idle;
        if flaw == Flaw::StartWithoutGrant && up.was_solo {
            self.go_live_alone(site);
        }
    }

    pub(crate) fn cold_start(&mut self, site: usize) -> Option<()> {
        // It reads the record first; what it read may be old when its request arrives.
        if let State::Paired { pairing, .. } = self.record.state
            && self.sites[site].renounced == Some(pairing)
        {
            return None;
        }
        self.sites[site].generation = self.record.generation;
        let boot = self.sites[site].boot;
        self.ask(site, Mode::Starting, Operation::ColdStart { boot });
        Some(())
    }

    /// The operator knows that the other site is down, and says that this one may start with what it has.
    pub(crate) fn force(&mut self, site: usize) {
        let operation = Operation::Force {
            site: name(site),
            reason: Reason::new("gone").unwrap(),
        };
        self.sent[OPERATOR].push(request(1, self.record.generation, operation));
    }
}

impl Site {
    /// Whether its guest runs and is not a copy.
    pub(crate) const fn is_live(&self) -> bool {
        matches!(
            self.mode,
            Mode::Solo | Mode::Settling | Mode::Pairing | Mode::Primary
        )
    }

    /// Whether it waits for an answer.
    const fn waits(&self) -> bool {
        matches!(
            self.mode,
            Mode::Settling
                | Mode::Pairing
                | Mode::Cancelling
                | Mode::Claiming
                | Mode::Starting
                | Mode::Swapping
                | Mode::Parking
        )
    }
}

const fn request(id: u64, expected: Generation, operation: Operation) -> Request {
    Request {
        id: RequestId(id),
        expected,
        operation,
        at_unix_seconds: 0,
    }
}
