//! What people do, and what goes wrong.

use antipode_certs::Identity;
use antipode_tiebreaker::{Operation, Reason, Request, RequestId, State, decide};

use super::Flaw;
use super::world::{FAULTS_END, Happening, Host, World, site_name};
use crate::protocol::limits::ALONE_GAP_MAX;
use crate::protocol::role::{Command, Event, Phase, Replica};

/// A site that stands still for so long finds out when it wakes.
#[expect(clippy::cast_possible_truncation, reason = "a few seconds")]
const STANDS_STILL: u64 = ALONE_GAP_MAX.as_millis() as u64;

impl World {
    /// What a person, or a supervisor, does now and then.
    pub(super) fn operate(&mut self) {
        let delay = self.random.between(100, 700);
        self.after(delay, Happening::Operator);
        for site in [0, 1] {
            let host = &mut self.hosts[site];
            if host
                .process
                .as_ref()
                .is_some_and(|own| own.role.phase().is_terminal())
            {
                host.process = None;
            }
            self.force(site);
            let host = &self.hosts[site];
            let (up, replica) = (host.up, host.replica);
            let phase = host.process.as_ref().map(|own| own.role.phase());
            match phase {
                None if up && self.random.percent(20) => {
                    let trusts = self.flaw == Flaw::TrustReplica;
                    let replica = replica.filter(|_| !trusts).unwrap_or(if trusts {
                        Replica::Clean
                    } else {
                        Replica::Stale
                    });
                    self.begin_process(site, Command::Start { replica });
                }
                // What was protected once is protected again by itself; some do not wait for that.
                Some(Phase::Alone)
                    if (!self.hosts[site].is_protected || self.now < FAULTS_END)
                        // Who has ended the protection has a reason, for a while.
                        && self.random.percent(if self.checker.is_ended(site) { 10 } else { 60 }) =>
                {
                    let pairing = self.new_pairing();
                    self.checker.commands(site, true);
                    self.command(site, Command::Protect { pairing });
                }
                Some(Phase::Primary | Phase::Backup) if self.now < FAULTS_END && self.random.percent(12) => {
                    let turned = self.new_pairing();
                    self.command(site, Command::SwitchOver { turned });
                    self.break_a_step();
                }
                Some(Phase::Yielding | Phase::Swapping) if self.random.percent(20) => {
                    self.command(site, Command::Stay);
                }
                Some(_) if self.now < FAULTS_END && self.random.percent(3) => {
                    let stops = self.random.percent(40);
                    self.command(site, if stops { Command::Stop } else { Command::Unprotect });
                }
                _ => {}
            }
        }
    }

    pub(super) fn command(&mut self, site: usize, command: Command) {
        let process = self.process(site).id;
        self.after(0, Happening::Role(process, Event::Command(command)));
    }

    /// What was down has power again, and goes on with what ran there.
    pub(super) fn restart(&mut self) {
        for site in [0, 1] {
            let was_down = !std::mem::replace(&mut self.hosts[site].up, true);
            if was_down && self.is_spare(site) && self.random.percent(20) {
                self.replace(site);
            }
            let replica = self.hosts[site].replica;
            if let Some(replica) = replica.filter(|_| was_down && self.hosts[site].process.is_none()) {
                self.seen.insert("resumed");
                self.begin_process(site, Command::Resume { replica });
            }
        }
    }

    /// The record names the other site alone.
    fn is_spare(&self, site: usize) -> bool {
        let state = self.record.as_ref().map(|record| &record.state);
        matches!(state, Some(State::Solo { site: live, .. }) if *live == site_name(1 - site))
    }

    /// An empty host takes the place of one that nobody depends on, under its name.
    fn replace(&mut self, site: usize) {
        let host = &mut self.hosts[site];
        *host = Host {
            up: true,
            // Which start it is, chance says; never one that was.
            boots: host.boots,
            ..Host::default()
        };
        self.note(format!("{} an empty host takes the place of {site}", self.now));
        self.seen.insert("replaced");
    }

    pub(super) fn fault(&mut self) {
        if self.now >= FAULTS_END {
            // Healed: cuts and frosts end, whatever is down starts.
            self.cut_until = [0; 4];
            self.hosts.iter_mut().for_each(|host| host.frozen_until = 0);
            self.after(0, Happening::Restart);
            return self.after(0, Happening::CutEnds);
        }
        let next = self.random.between(50, 1_500).min(FAULTS_END - self.now);
        self.after(next, Happening::Fault);
        self.break_something();
    }

    /// One fault, drawn from the seed.
    pub(super) fn break_something(&mut self) {
        let site = usize::try_from(self.random.between(0, 2)).unwrap();
        let kind = self.random.between(0, 14);
        let told = format!("{} fault {kind} at {site}", self.now);
        self.note(told);
        match kind {
            0 | 1 => self.crash(site),
            2 | 3 => {
                let span = self.random.between(50, 8_000);
                self.freeze(site, span);
            }
            4 | 5 => self.cut(&[0, 1]),
            6 => self.cut(&[site]),
            7 | 8 => self.cut(&[2 + site]),
            9 => self.cut(&[2, 3]),
            10 => self.cut(&[0, 1, 2, 3]),
            11 | 12 => self.lead_astray(site),
            _ => {
                let failures = [
                    Event::ReplayDiverged,
                    Event::ReplicaFailed,
                    Event::VmFailed,
                    Event::DiskFailed,
                ];
                let failure = failures[usize::try_from(self.random.between(0, 4)).unwrap()].clone();
                if let Some(process) = &self.hosts[site].process {
                    let id = process.id;
                    self.after(0, Happening::Role(id, failure));
                }
            }
        }
    }

    /// Something goes wrong at some step of the switchover that has just begun.
    fn break_a_step(&mut self) {
        if self.random.percent(50) {
            let soon = self.random.between(1, 250);
            self.after(soon, Happening::Break);
        }
    }

    fn freeze(&mut self, site: usize, span: u64) {
        let host = &mut self.hosts[site];
        if host.up && host.frozen_until <= self.now {
            host.frozen_since = self.now;
            host.frozen_until = self.now + span;
            if self.flaw == Flaw::SleepUnnoticed {
                host.slept += span;
            }
        }
    }

    /// An operator sees that one site has not moved for long, and puts the other one in.
    fn force(&mut self, site: usize) {
        let [own, peer] = [&self.hosts[site], &self.hosts[1 - site]];
        let peer_stands_still = peer.frozen_until > self.now && self.now - peer.frozen_since > STANDS_STILL;
        let may_start =
            own.up && own.process.is_none() && own.replica.is_some_and(|own| own != Replica::Syncing);
        let Some(expected) = self.record.as_ref().map(|record| record.generation) else {
            return;
        };
        if !peer_stands_still || !may_start || !self.random.percent(30) {
            return;
        }
        let request = Request {
            id: RequestId(self.now),
            expected,
            operation: Operation::Force {
                site: site_name(site),
                reason: Reason::new("it does not move").unwrap(),
            },
            at_unix_seconds: 0,
        };
        let operator = Identity::from_uri("antipode://operator/o").unwrap();
        let outcome = decide(self.record.take(), &request, &operator);
        self.record = outcome.record;
        if outcome.answer.verdict.is_ok() {
            self.note(format!("{} operator: force {site}", self.now));
            self.checker.forces(site);
            self.seen.insert("forced");
        }
    }

    pub(super) fn cut(&mut self, ways: &[usize]) {
        let span = self.random.between(30, 4_000);
        for &way in ways {
            self.cut_until[way] = self.cut_until[way].max(self.now + span);
        }
        if ways[0] < 2 && span > 700 && self.random.percent(60) {
            self.reported_down = true;
            self.tell_both(&Event::ChannelLost);
        }
        self.after(span + 1, Happening::CutEnds);
    }

    /// Power off: what is in memory is gone.
    pub(super) fn crash(&mut self, site: usize) {
        let host = &mut self.hosts[site];
        host.up = false;
        host.frozen_until = 0;
        host.process = None;
        let delay = self.random.between(200, 5_000);
        self.after(delay, Happening::Restart);
    }
}
