//! A switchover: the guest stands still, both copies at the same place, and the log turns round.

use antipode_tiebreaker::{Answer, Flush, PairingId, State};

use super::Flaw;
use super::world::{Happening, Logged, Message, World, site_name};
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::protocol::mode::CheckpointEvent;
use crate::protocol::role::{Ask, Event, Word};

impl World {
    /// Sends what was logged last; its number is counted already.
    pub(super) fn send_log(&mut self, site: usize, logged: Logged) {
        let process = self.process(site);
        process.sent.push(logged);
        let (pairing, seq) = (process.pairing, process.logged);
        self.send(site, Message::Log { pairing, seq, logged });
    }

    pub(super) fn stand_still(&mut self, site: usize) {
        self.carry(site, CheckpointEvent::Stands);
        let flaw = self.flaw;
        let process = self.process(site);
        process.runs = flaw == Flaw::RunsOn;
        let id = process.id;
        let delay = self.random.between(0, 10);
        self.after(delay, Happening::Stood(id));
    }

    /// The guest of a primary stands, if it is still to.
    pub(super) fn stood(&mut self, site: usize) {
        let process = self.process(site);
        if !process.lockstep || !process.channel_open {
            return;
        }
        process.logged += 1;
        let position = ExitOrdinal::new(process.memory.len() as u64);
        let logged = LogSeq::new(process.logged);
        if self.flaw == Flaw::RunsOn {
            // What comes now is nobody's but this site's.
            self.process(site).rule.open();
        }
        self.send_log(site, Logged::Stand);
        self.step(site, Event::StoodStill { position, logged });
    }

    /// The copy has come to where the primary stands.
    pub(super) fn stands(&mut self, site: usize) {
        let process = self.process(site);
        process.stands = true;
        let id = process.id;
        let position = ExitOrdinal::new(process.memory.len() as u64);
        let logged = LogSeq::default();
        let delay = self.random.between(0, 10);
        self.after(delay, Happening::Role(id, Event::StoodStill { position, logged }));
    }

    pub(super) fn go_on(&mut self, site: usize) {
        self.process(site).runs = true;
    }

    pub(super) fn lead(&mut self, site: usize, pairing: PairingId, flush: Flush) {
        self.checker.leads(site, pairing);
        let stands = self.process(site).stands;
        assert!(stands || self.flaw != Flaw::None, "it leads from where it stands");
        let process = self.process(site);
        process.stands = false;
        process.inbox.clear();
        process.rule.go_live();
        self.begin_lockstep(site, flush);
        self.run_guest(site);
    }

    pub(super) fn follow(&mut self, site: usize, pairing: PairingId) {
        let at = self.now;
        let process = self.process(site);
        (process.runs, process.lockstep, process.flushing) = (false, false, false);
        (process.pairing, process.received, process.heard_at) = (pairing, 0, at);
        process.flushes_wait = false;
        process.durable = process.memory.len();
        (process.rests, process.wanted) = (false, None);
        process.inbox.clear();
        process.flushes.open();
        // What a primary that had learnt it before has logged comes over the next connection.
        let missed = self.hosts[1 - site].process.as_ref();
        let missed = missed.filter(|peer| peer.pairing == pairing && peer.lockstep);
        let missed = missed.map(|peer| peer.sent.clone()).unwrap_or_default();
        for (seq, logged) in (1..).zip(missed) {
            self.send(1 - site, Message::Log { pairing, seq, logged });
        }
    }

    pub(super) fn tell(&mut self, site: usize, word: Word) {
        if let (Word::Poised { pairing, .. }, Flaw::LeadBeforeSwapped) = (&word, self.flaw) {
            let process = self.process(site);
            let (id, generation) = (process.id, process.role.generation().next());
            let forged = Word::Turned {
                pairing: *pairing,
                generation,
                sender_preferred: false,
            };
            self.after(1, Happening::Role(id, Event::PeerSaid(forged)));
        }
        self.send(site, Message::Word(word));
    }

    /// That there is no answer is taken for a refusal.
    pub(super) fn refuse_in_doubt(&mut self, site: usize, ask: &Ask) {
        let process = self.process(site);
        let id = process.id;
        let state = State::Paired {
            primary: site_name(site),
            backup: site_name(1 - site),
            pairing: process.pairing,
            flush: self.flush,
        };
        let answer = Answer {
            verdict: Err(antipode_tiebreaker::Refusal::State),
            generation: ask.expected,
            state: Some(state),
        };
        let answer = Some(Box::new(answer));
        self.after(240, Happening::Role(id, Event::Answered { id: ask.id, answer }));
    }
}
