//! A copy that becomes another machine, and is made the same again, or not (H2).

use super::Flaw;
use super::world::{Happening, World};
use crate::protocol::role::{Event, Phase, ReplayId};

/// What no primary has put out.
const ASTRAY: u64 = 0xA57A;

/// A copy that differs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Differing {
    /// A replay to the end that was asked for meanwhile.
    wanted: Option<ReplayId>,
}

impl World {
    /// The copy at `site` becomes another machine, which is noticed.
    pub(super) fn lead_astray(&mut self, site: usize) {
        let Some(process) = &mut self.hosts[site].process else {
            return;
        };
        let stands = process.stands || process.rests;
        if process.role.phase() != Phase::Backup || process.differs.is_some() || stands {
            return;
        }
        process.memory.push(ASTRAY);
        process.differs = Some(Differing { wanted: None });
        let id = process.id;
        let delay = match self.random.between(0, 10) {
            0 => self.random.between(4_000, 7_000),
            _ => self.random.between(10, 400),
        };
        let done = self.random.percent(80);
        self.after(delay, Happening::Repaired { process: id, done });
        self.tell_primary(site, Event::RepairBegins);
    }

    fn tell_primary(&mut self, site: usize, event: Event) {
        if let Some(primary) = &self.hosts[1 - site].process {
            let id = primary.id;
            let delay = self.random.between(5, 60);
            self.after(delay, Happening::Role(id, event));
        }
    }

    /// What repairs the copy has come whole; or it never will.
    pub(super) fn repaired(&mut self, site: usize, done: bool) {
        let process = self.process(site);
        let Some(differing) = process.differs else { return };
        if !done {
            return self.step(site, Event::ReplayDiverged);
        }
        process.differs = None;
        process.memory.pop();
        let is_claiming = process.role.phase() == Phase::Closing;
        self.seen.insert(if is_claiming {
            "repaired before a claim"
        } else {
            "repaired"
        });
        self.tell_primary(site, Event::RepairEnds);
        self.acknowledge(site);
        if let Some(replay) = differing.wanted {
            self.replay_to_end(site, replay);
        }
    }

    /// Whether a replay to the end has to wait, because the copy differs.
    pub(super) fn waits_for_repair(&mut self, site: usize, replay: ReplayId) -> bool {
        let flaw = self.flaw;
        let process = self.process(site);
        match &mut process.differs {
            Some(differing) if flaw != Flaw::ClaimsThoughItDiffers => {
                differing.wanted = Some(replay);
                true
            }
            differs => {
                *differs = None;
                false
            }
        }
    }
}
