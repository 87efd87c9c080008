//! What a scenario is made of, and the choices that a seed makes in it. Pure.

use antipode_tiebreaker::Flush;

use crate::switch::random::Random;

/// Which of the two sites, by what it was when the scenario began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// The one with the live copy.
    Live,
    /// The other one.
    Other,
}

/// Something that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The host's power is cut.
    Power(Who),
    /// The same, and what its disk had not flushed is lost: each sector of it, or not, as chance has it.
    Unflushed(Who),
    /// Its disk answers nothing.
    DiskHangs(Who),
    /// Its disk takes so many milliseconds more for each request.
    DiskSlow(Who, u64),
    /// Its disk fails every request. Mended, the host has its power anew.
    DiskFails(Who),
    /// There is no room on its disk.
    DiskFull(Who),
    /// The host stands still.
    Freeze(Who),
    /// The VM's own process is killed.
    VmProcess(Who),
    /// The VM's own process stands still.
    VmStops(Who),
    /// What executes its copy stands still, and what answers for it goes on.
    Vcpu(Who),
    /// What executes its copy gets little of its processor.
    VcpuSlow(Who),
    /// `site run` is killed.
    Daemon(Who),
    /// The way between the sites is cut both ways.
    Wan,
    /// What this site sends to the other is lost.
    WanFrom(Who),
    /// So many frames of a million between the sites are lost, each way.
    Loss(u32),
    /// The tiebreaker's leader is killed.
    TiebreakerLeader,
    /// A node of the tiebreaker is killed.
    Node(usize),
    /// Neither site reaches the tiebreaker.
    Tiebreaker,
    /// A byte of its replica is another, behind the product's back.
    Byte(Who),
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Break it.
    Break(Fault),
    /// Mend it.
    Mend(Fault),
    /// Wait for as long as the seed says, between so many milliseconds and so many.
    Wait(u64, u64),
    /// Wait until the VM is protected again, by itself.
    Protected,
    /// Begin a switchover, asked for at this site. Its end is awaited after all steps.
    Switch(Who),
    /// Wait until the switchover that has begun last is done, which it must be.
    Switched,
    /// Wait until a protection that is made again has come so far.
    Until(Moment),
    /// `site run` is stopped in order there, and started again.
    Restart(Who),
    /// The CA and all certificates are replaced.
    Renew,
    /// Another host, of another name and with an empty disk, takes the place of one that has no power; by `vm replace`.
    /// Done again, the first name is back.
    Replace(Who),
    /// Have the two disks compared, asked for at this site: so many leaves differ, and are mended.
    Verify(Who, u64),
}

/// When the steps begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// In lockstep, some time after the protection is confirmed.
    Protected,
    /// The VM is stopped in order out of lockstep, and started at this site: the steps.
    Parked(Who),
    /// The live site is lost when it was alone, and an operator has the other one start, by force: the steps.
    Forced,
    /// While `vm protect` copies the disk.
    Syncing,
    /// While it copies RAM.
    Cloning,
    /// While the guest stands still.
    Stunned,
    /// While the tiebreaker is asked to confirm.
    Pairing,
}

impl Moment {
    /// The role of the live site at which the steps begin. The product may be quicker than a question: any later one
    /// begins them too.
    pub(super) fn roles(self) -> &'static [&'static str] {
        const ORDER: &[&str] = &["syncing", "cloning", "stunned", "pairing", "primary"];
        match self {
            Self::Syncing => ORDER,
            Self::Cloning => &ORDER[1..],
            Self::Stunned => &ORDER[2..],
            Self::Pairing => &ORDER[3..],
            Self::Protected | Self::Parked(_) | Self::Forced => &ORDER[4..],
        }
    }

    /// How wide the way between the sites is meanwhile, in bits per second: what is copied must take its time to be
    /// interrupted. A stun is not made longer: that would be another fault.
    pub(super) const fn bandwidth_bps(self) -> Option<u64> {
        match self {
            Self::Syncing | Self::Cloning => Some(60_000_000),
            Self::Protected | Self::Parked(_) | Self::Forced | Self::Stunned | Self::Pairing => None,
        }
    }
}

/// Which site is live in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Live {
    /// The same: nothing has asked for a failover.
    Stays,
    /// The other one.
    Moves,
    /// One of the two: both may claim.
    Either,
    /// The other one, and then the same again.
    Returns,
    /// The same, throughout or again.
    MayReturn,
}

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// Whether it is part of the subset for every change.
    pub(super) quick: bool,
    pub(super) moment: Moment,
    pub(super) steps: &'static [Step],
    pub(super) live: Live,
    /// Nobody may be live with certainty while the steps last: the client hears nothing from the first to the last.
    pub(super) held: bool,
    /// When the guest's flushes are complete.
    pub(super) flush: Flush,
    /// Both sites are down meanwhile, and the guest boots again: connections break, and what was acknowledged is there.
    pub(super) outage: bool,
}

impl Scenario {
    /// Whether a switchover is asked for.
    pub(super) fn switches(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Switch(_)))
    }

    /// How wide the way between the sites is meanwhile, if that is bounded.
    pub(super) fn bandwidth_bps(&self) -> Option<u64> {
        let again = self.steps.iter().filter_map(|step| match step {
            Step::Until(moment) => moment.bandwidth_bps(),
            _ => None,
        });
        again.chain(self.moment.bandwidth_bps()).min()
    }

    /// The steps with their waits drawn: both ends of each are what it is.
    pub(super) fn drawn(&self, seed: u64) -> Vec<Step> {
        let mut random = Random::new(seed, self.name);
        let draw = |step: &Step| match *step {
            Step::Wait(least, most) => {
                let drawn = least + random.up_to(most.saturating_sub(least));
                Step::Wait(drawn, drawn)
            }
            step => step,
        };
        self.steps.iter().map(draw).collect()
    }
}

/// How long nobody may be live where that is asked for: longer than detecting, replaying and claiming take.
pub(super) const HELD_MS: (u64, u64) = (8_000, 10_000);

/// A scenario in lockstep.
pub(super) const fn scenario(name: &'static str, live: Live, steps: &'static [Step]) -> Scenario {
    Scenario {
        name,
        quick: false,
        moment: Moment::Protected,
        steps,
        live,
        held: false,
        flush: Flush::Site,
        outage: false,
    }
}

impl Scenario {
    /// It is one of the few for `--quick`.
    pub(super) const fn quick(mut self) -> Self {
        self.quick = true;
        self
    }

    /// Nobody may be live while the steps last.
    pub(super) const fn held(mut self) -> Self {
        self.held = true;
        self
    }

    /// The guest's flushes wait for both sites.
    pub(super) const fn flushed_at_both(mut self) -> Self {
        self.flush = Flush::Both;
        self
    }

    /// Both sites are down meanwhile.
    pub(super) const fn outage(mut self) -> Self {
        self.outage = true;
        self
    }

    /// When its steps begin.
    pub(super) const fn when(mut self, moment: Moment) -> Self {
        self.moment = moment;
        self
    }
}
