//! Both replicas are compared while the guest runs (D5): what the core wants, done; and the backup's part.

use std::time::Duration;

use antipode_disk_sync::image::Image;
use serde_json::{Value, json};

use super::super::happening::Happening;
use super::super::orders::Order;
use super::super::pair::LogEnd;
use super::super::refusals::Fault;
use super::Driver;
use crate::base::clock::wall_clock_unix_seconds;
use crate::channel::{Check, Message};
use crate::machine::workers::{Hashes, Round};
use crate::protocol::limits::VERIFY_TOLD_EVERY;
use crate::protocol::moment::Moment;
use crate::protocol::role::{Event, Phase, Side};
use crate::protocol::verify::{self, Effect, Ended, Report, State, Verifier};

/// Verifications of one VM, seen from one site.
#[derive(Debug)]
pub(super) struct Verifying {
    core: Verifier,
    /// Where the clock's start lies, in seconds since 1970.
    origin: i64,
    /// What the other site has told of its own.
    told: Option<Report>,
    next_word: Duration,
    /// What the other site was told last.
    said: Option<Report>,
    /// Since when this site leads.
    leads_since: Option<Moment>,
    /// A leaf is being mended here. The other site waits for the answer before it sends another.
    mends: bool,
}

impl Verifying {
    pub(super) fn new(now: Moment) -> Self {
        let since_origin = now.saturating_since(Moment::default()).as_secs();
        Self {
            core: Verifier::default(),
            origin: wall_clock_unix_seconds().saturating_sub_unsigned(since_origin),
            told: None,
            next_word: Duration::ZERO,
            said: None,
            leads_since: None,
            mends: false,
        }
    }

    /// How this site's own last one went.
    fn report(&self) -> Option<Report> {
        self.core.report(self.origin)
    }

    /// Over a new connection everything is told again.
    pub(super) fn tell_anew(&mut self) {
        self.said = None;
    }

    /// The other site will tell no more of what it was about.
    fn hear_no_more(&mut self, why: Ended) {
        if let Some(told) = self.told.as_mut().filter(|told| told.state == State::Running) {
            told.state = State::Ended;
            told.because = Some(why);
            told.ended = Some(wall_clock_unix_seconds());
        }
    }
}

impl Driver {
    /// An operator, or the other site's, wants the disks compared, or not any more.
    pub(super) fn verify(&mut self, cancel: bool) -> Value {
        match self.try_to_verify(cancel) {
            Ok(()) => json!({ "ok": true }),
            Err(why) => json!({ "ok": false, "error": why }),
        }
    }

    fn try_to_verify(&mut self, cancel: bool) -> Result<(), &'static str> {
        let length = self
            .disk()
            .ok_or("no disk of the VM is in use here")?
            .image()
            .length();
        match self.parts.role.phase() {
            Phase::Primary if cancel && self.verifying.core.is_running() => {
                self.end_verification(Ended::Cancelled);
                Ok(())
            }
            Phase::Primary if cancel => Err("no verification is under way"),
            Phase::Primary => {
                self.step_verification(verify::Event::Begin(length));
                Ok(())
            }
            Phase::Backup => {
                let writer = self
                    .writer
                    .as_mut()
                    .ok_or("the other site is not reached just now")?;
                writer.put(Message::Check(Check::Want { cancel }));
                Ok(())
            }
            _ => Err("the VM has no two disks in lockstep now; its status says why"),
        }
    }

    /// Now and then: does it get on, is one due, and does the other site know?
    pub(super) fn watch_verification(&mut self, now: Duration) {
        let phase = self.parts.role.phase();
        let leads = matches!(phase, Phase::Primary | Phase::Suspecting(Side::Primary));
        if !leads {
            self.verifying.leads_since = None;
            self.end_verification(Ended::PairingOver);
        }
        if phase != Phase::Backup {
            self.verifying.hear_no_more(Ended::PairingOver);
        }
        if !leads {
            return;
        }
        let moment = self.moment();
        let since = *self.verifying.leads_since.get_or_insert(moment);
        self.step_verification(verify::Event::Tick);
        let last = self.verifying.core.last_began();
        if let (Phase::Primary, Some(every)) = (phase, self.parts.config.verify_every)
            && verify::is_due(moment, every, since, last)
            && let Some(length) = self.disk().map(|disk| disk.image().length())
        {
            tracing::info!("the two disks are compared, as they are now and then");
            self.step_verification(verify::Event::Begin(length));
        }
        if now >= self.verifying.next_word {
            self.verifying.next_word = now + VERIFY_TOLD_EVERY;
            self.tell_of_verification();
        }
    }

    fn tell_of_verification(&mut self) {
        let report = self.verifying.report();
        if report != self.verifying.said
            && let (Some(writer), Ok(bytes)) = (&mut self.writer, serde_json::to_vec(&report))
        {
            writer.put(Message::Check(Check::Told(bytes)));
            self.verifying.said = report;
        }
    }

    /// What an operator is shown: the latest one, whichever site it is of.
    pub(super) fn verification(&self) -> Option<Report> {
        let own = self.verifying.report();
        let told = self.verifying.told.clone();
        [own, told]
            .into_iter()
            .flatten()
            .max_by_key(|report| report.began)
    }

    /// The connection over which it goes is lost.
    pub(super) fn lose_verification(&mut self) {
        self.end_verification(Ended::ChannelLost);
        self.verifying.hear_no_more(Ended::ChannelLost);
    }

    fn end_verification(&mut self, why: Ended) {
        if self.verifying.core.is_running() {
            tracing::warn!("the comparison of the two disks has ended: {why}");
            self.step_verification(verify::Event::End(why));
        }
    }

    fn step_verification(&mut self, event: verify::Event) {
        let moment = self.moment();
        let was_running = self.verifying.core.is_running();
        let effect = self.verifying.core.step(moment, event);
        if was_running && !self.verifying.core.is_running() {
            if let Some(disk) = self.disk() {
                disk.unwatch();
            }
            self.verifying.next_word = Duration::ZERO;
        }
        match (effect, &self.running) {
            (None, _) | (_, None) => {}
            (Some(Effect::Watch(slice)), Some(running)) => {
                running.handle.order(Order::Verify { slice });
            }
            (Some(Effect::Mend(round, place)), Some(running)) => {
                let (disk, happenings) = (running.disk.clone(), self.parts.happenings.clone());
                tokio::task::spawn_blocking(move || {
                    let content = disk.and_then(|disk| disk.as_it_was(round, place));
                    // Without a driver nobody waits.
                    let _ = happenings.send(Happening::LeafRead(round, place, content));
                });
            }
        }
    }

    /// The guest here is where the round begins: its disk is read from now on.
    pub(super) fn watches(&mut self, round: Round) {
        let (Some(disk), happenings) = (self.disk().cloned(), self.parts.happenings.clone()) else {
            return;
        };
        tokio::task::spawn_blocking(move || {
            let _ = happenings.send(Happening::SliceRead(round, disk.hashes(round)));
        });
        if self.leads_log() {
            self.step_verification(verify::Event::Watched(round));
        }
    }

    /// This site writes the log of a pairing.
    pub(super) fn leads_log(&self) -> bool {
        let log = self.pair.as_ref().map(|pair| &pair.log);
        matches!(log, Some(LogEnd::Sending { .. }))
    }

    pub(super) fn slice_read(&mut self, round: Round, hashes: Hashes) {
        if self.leads_log() {
            self.step_verification(verify::Event::Hashed(round, hashes));
        } else {
            self.say(Check::Hashes(round, hashes));
        }
    }

    /// What a leaf held that is to be mended at the other site, if that can still be told.
    pub(super) fn leaf_read(&mut self, round: Round, place: u8, content: Option<Vec<u8>>) {
        match content {
            Some(content) => self.say(Check::Mend(round, place, content)),
            None => self.step_verification(verify::Event::Mended(round, place, false)),
        }
    }

    /// What came of a leaf's mending here.
    pub(super) fn leaf_mended(&mut self, round: Round, place: u8, outcome: Result<bool, String>) {
        self.verifying.mends = false;
        match outcome {
            Ok(done) => self.say(Check::Mended(round, place, done)),
            Err(why) => {
                tracing::error!("this site's replica cannot be mended: {why}");
                self.todo.push_back(Event::ReplicaFailed);
            }
        }
    }

    fn say(&mut self, check: Check) {
        if let Some(writer) = &mut self.writer {
            writer.put(Message::Check(check));
        }
    }

    /// The other site speaks of a verification. What it says of a round that is over counts for nothing.
    pub(super) fn checked(&mut self, check: Check) -> Result<(), Fault> {
        match check {
            Check::Want { cancel } => {
                if let Err(why) = self.try_to_verify(cancel) {
                    tracing::warn!("the other site's operator asked for a verification: {why}");
                }
            }
            Check::Hashes(round, hashes) => self.step_verification(verify::Event::PeerHashed(round, hashes)),
            Check::Mended(round, place, done) => {
                self.step_verification(verify::Event::Mended(round, place, done));
            }
            Check::Mend(round, place, content) => self.mend(round, place, content),
            Check::Told(report) => {
                let report = serde_json::from_slice(&report)
                    .map_err(|error| Fault::refused("no-word", format!("a report that is none: {error}")))?;
                self.verifying.told = report;
            }
        }
        Ok(())
    }

    fn mend(&mut self, round: Round, place: u8, content: Vec<u8>) {
        let disk = self.disk().filter(|_| !self.verifying.mends).cloned();
        let Some(disk) = disk else {
            return self.say(Check::Mended(round, place, false));
        };
        self.verifying.mends = true;
        let happenings = self.parts.happenings.clone();
        tokio::task::spawn_blocking(move || {
            let mended = disk
                .mend(round, place, &content)
                .map_err(|error| error.to_string());
            let _ = happenings.send(Happening::LeafMended(round, place, mended));
        });
    }
}
