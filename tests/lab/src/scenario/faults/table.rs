//! The scenarios, as data.

use crate::switch::random::Random;
use antipode_tiebreaker::Flush;
use std::time::Duration;

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
    /// The host stands still.
    Freeze(Who),
    /// The VM's own process is killed.
    VmProcess(Who),
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
    /// Neither site reaches the tiebreaker.
    Tiebreaker,
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
}

/// When the steps begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// In lockstep, some time after the protection is confirmed.
    Protected,
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
            Self::Protected => &ORDER[4..],
        }
    }

    /// How wide the way between the sites is meanwhile, in bits per second: what is copied must take its time to be
    /// interrupted. A stun is not made longer: that would be another fault.
    pub(super) const fn bandwidth_bps(self) -> Option<u64> {
        match self {
            Self::Syncing | Self::Cloning => Some(60_000_000),
            Self::Protected | Self::Stunned | Self::Pairing => None,
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
}

impl Scenario {
    /// The steps with their waits drawn.
    pub(super) fn drawn(&self, seed: u64) -> Vec<Drawn> {
        let mut random = Random::new(seed, self.name);
        self.steps
            .iter()
            .map(|step| match *step {
                Break(fault) => Drawn::Break(fault),
                Mend(fault) => Drawn::Mend(fault),
                Protected => Drawn::Protected,
                Wait(least, most) => Drawn::Wait(Duration::from_millis(
                    least + random.up_to(most.saturating_sub(least)),
                )),
            })
            .collect()
    }
}

/// A step whose chance is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drawn {
    Break(Fault),
    Mend(Fault),
    Wait(Duration),
    Protected,
}

/// How long nobody may be live where that is asked for: longer than detecting, replaying and claiming take.
pub(super) const HELD_MS: (u64, u64) = (8_000, 10_000);

use Fault::{Daemon, Freeze, Loss, Power, Tiebreaker, TiebreakerLeader, VmProcess, Wan, WanFrom};
use Step::{Break, Mend, Protected, Wait};
use Who::{Live as TheLive, Other};

const fn scenario(name: &'static str, live: Live, steps: &'static [Step]) -> Scenario {
    Scenario {
        name,
        quick: false,
        moment: Moment::Protected,
        steps,
        live,
        held: false,
        flush: Flush::Site,
    }
}

impl Scenario {
    const fn quick(mut self) -> Self {
        self.quick = true;
        self
    }

    const fn held(mut self) -> Self {
        self.held = true;
        self
    }

    const fn flushed_at_both(mut self) -> Self {
        self.flush = Flush::Both;
        self
    }

    const fn when(mut self, moment: Moment) -> Self {
        self.moment = moment;
        self
    }
}

/// At any moment of lockstep.
const SOON: Step = Wait(0, 2_000);

// What is done under either rule for flushes.
const LIVE_LOSES_POWER: &[Step] = &[SOON, Break(Power(TheLive))];
const BACKUP_LOSES_POWER: &[Step] = &[SOON, Break(Power(Other))];
const BACKUP_FREEZES: &[Step] = &[
    SOON,
    Break(Freeze(Other)),
    Wait(4_000, 7_000),
    Mend(Freeze(Other)),
    Wait(2_000, 2_000),
];

/// Every scenario.
pub(super) const ALL: &[Scenario] = &[
    scenario("power-cut-live", Live::Moves, LIVE_LOSES_POWER).quick(),
    scenario("power-cut-backup", Live::Stays, BACKUP_LOSES_POWER).quick(),
    scenario(
        "freeze-live",
        Live::Moves,
        &[
            SOON,
            Break(Freeze(TheLive)),
            Wait(4_000, 7_000),
            Mend(Freeze(TheLive)),
            Wait(2_000, 2_000),
        ],
    )
    .quick(),
    scenario("freeze-backup", Live::Stays, BACKUP_FREEZES),
    // The client's writes are acknowledged when they are flushed, so these say that nothing which both disks were said to
    // hold is lost, and that flushes go on when the other disk is gone.
    scenario("power-cut-live-flush-both", Live::Moves, LIVE_LOSES_POWER)
        .flushed_at_both()
        .quick(),
    scenario("power-cut-backup-flush-both", Live::Stays, BACKUP_LOSES_POWER).flushed_at_both(),
    scenario("freeze-backup-flush-both", Live::Stays, BACKUP_FREEZES).flushed_at_both(),
    scenario("kill-vm-live", Live::Moves, &[SOON, Break(VmProcess(TheLive))]),
    scenario("kill-vm-backup", Live::Stays, &[SOON, Break(VmProcess(Other))]).quick(),
    scenario(
        "kill-site-run-live",
        Live::Stays,
        &[
            SOON,
            Break(Daemon(TheLive)),
            Wait(1_000, 3_000),
            Mend(Daemon(TheLive)),
        ],
    ),
    scenario(
        "kill-site-run-backup",
        Live::Stays,
        &[
            SOON,
            Break(Daemon(Other)),
            Wait(1_000, 3_000),
            Mend(Daemon(Other)),
        ],
    ),
    scenario(
        "wan-cut",
        Live::Either,
        &[SOON, Break(Wan), Wait(4_000, 7_000), Mend(Wan)],
    )
    .quick(),
    scenario(
        "wan-cut-from-live",
        Live::Either,
        &[
            SOON,
            Break(WanFrom(TheLive)),
            Wait(4_000, 7_000),
            Mend(WanFrom(TheLive)),
        ],
    ),
    scenario(
        "wan-cut-from-backup",
        Live::Either,
        &[
            SOON,
            Break(WanFrom(Other)),
            Wait(4_000, 7_000),
            Mend(WanFrom(Other)),
        ],
    ),
    scenario(
        "wan-flaps",
        Live::Either,
        &[
            SOON,
            Break(Wan),
            Wait(50, 900),
            Mend(Wan),
            Wait(50, 900),
            Break(Wan),
            Wait(50, 900),
            Mend(Wan),
            Wait(50, 900),
            Break(Wan),
            Wait(50, 900),
            Mend(Wan),
        ],
    ),
    scenario(
        "wan-loss",
        Live::Stays,
        &[Break(Loss(50_000)), Wait(8_000, 10_000), Mend(Loss(50_000))],
    )
    .quick(),
    scenario(
        "tiebreaker-leader-lost",
        Live::Stays,
        &[
            SOON,
            Break(TiebreakerLeader),
            Wait(2_000, 4_000),
            Mend(TiebreakerLeader),
        ],
    ),
    scenario(
        "tiebreaker-leader-and-live-lost",
        Live::Moves,
        &[
            SOON,
            Break(TiebreakerLeader),
            Wait(0, 400),
            Break(Power(TheLive)),
            Wait(4_000, 4_000),
            Mend(TiebreakerLeader),
        ],
    ),
    scenario(
        "tiebreaker-lost",
        Live::Stays,
        &[SOON, Break(Tiebreaker), Wait(4_000, 7_000), Mend(Tiebreaker)],
    ),
    scenario(
        "tiebreaker-and-backup-lost",
        Live::Stays,
        &[
            Break(Tiebreaker),
            Break(Power(Other)),
            Wait(HELD_MS.0, HELD_MS.1),
            Mend(Tiebreaker),
        ],
    )
    .held()
    .quick(),
    scenario(
        "tiebreaker-and-live-lost",
        Live::Moves,
        &[
            Break(Tiebreaker),
            Break(Power(TheLive)),
            Wait(HELD_MS.0, HELD_MS.1),
            Mend(Tiebreaker),
        ],
    )
    .held(),
    scenario(
        "tiebreaker-lost-before-stun",
        Live::Stays,
        &[Break(Tiebreaker), Wait(4_000, 7_000), Mend(Tiebreaker)],
    )
    .when(Moment::Cloning),
    scenario(
        "tiebreaker-lost-in-stun",
        Live::Stays,
        &[Break(Tiebreaker), Wait(4_000, 7_000), Mend(Tiebreaker)],
    )
    .when(Moment::Stunned),
    scenario(
        "tiebreaker-lost-after-stun",
        Live::Stays,
        &[Break(Tiebreaker), Wait(4_000, 7_000), Mend(Tiebreaker)],
    )
    .when(Moment::Pairing),
    scenario(
        "wan-cut-in-disk-sync",
        Live::Stays,
        &[Break(Wan), Wait(4_000, 7_000), Mend(Wan)],
    )
    .when(Moment::Syncing),
    scenario(
        "wan-cut-in-pre-copy",
        Live::Stays,
        &[Wait(0, 1_000), Break(Wan), Wait(4_000, 7_000), Mend(Wan)],
    )
    .when(Moment::Cloning)
    .quick(),
    // After the stun the pairing may be confirmed already, and then both may claim.
    scenario(
        "wan-cut-in-stun",
        Live::Either,
        &[Break(Wan), Wait(4_000, 7_000), Mend(Wan)],
    )
    .when(Moment::Stunned),
    scenario(
        "power-cut-backup-in-pre-copy",
        Live::Stays,
        &[Wait(0, 1_000), Break(Power(Other))],
    )
    .when(Moment::Cloning),
    scenario(
        "power-cut-live-and-back",
        Live::Moves,
        &[
            SOON,
            Break(Power(TheLive)),
            Wait(2_000, 4_000),
            Mend(Power(TheLive)),
            Protected,
        ],
    ),
    scenario(
        "power-cut-backup-and-back",
        Live::Stays,
        &[
            SOON,
            Break(Power(Other)),
            Wait(2_000, 4_000),
            Mend(Power(Other)),
            Protected,
        ],
    ),
    scenario(
        "wan-cut-and-back",
        Live::Either,
        &[SOON, Break(Wan), Wait(4_000, 7_000), Mend(Wan), Protected],
    ),
    // The second cut comes while the disk, or the memory, is on its way again.
    scenario(
        "power-cut-backup-while-it-returns",
        Live::Stays,
        &[
            SOON,
            Break(Power(Other)),
            Wait(2_000, 4_000),
            Mend(Power(Other)),
            Wait(2_000, 9_000),
            Break(Power(Other)),
            Wait(1_000, 4_000),
            Mend(Power(Other)),
            Protected,
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_scenario_has_its_own_name_and_breaks_something() {
        let names: BTreeSet<_> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.len() >= 20, "{} scenarios", ALL.len());
        for scenario in ALL {
            assert!(
                scenario.steps.iter().any(|step| matches!(step, Break(_))),
                "{}",
                scenario.name
            );
        }
    }

    #[test]
    fn what_is_mended_was_broken_before() {
        for scenario in ALL {
            for (index, step) in scenario.steps.iter().enumerate() {
                if let Mend(fault) = step {
                    assert!(
                        scenario.steps[..index].contains(&Break(*fault)),
                        "{}: {fault:?}",
                        scenario.name
                    );
                }
            }
        }
    }

    #[test]
    fn a_seed_repeats_its_choices_and_another_makes_others() {
        let scenario = ALL.iter().find(|scenario| scenario.name == "wan-flaps").unwrap();
        assert_eq!(scenario.drawn(1), scenario.drawn(1));
        assert_ne!(scenario.drawn(1), scenario.drawn(2));
        for (step, drawn) in scenario.steps.iter().zip(scenario.drawn(3)) {
            if let (Wait(least, most), Drawn::Wait(span)) = (step, drawn) {
                assert!((*least..=*most).contains(&u64::try_from(span.as_millis()).unwrap()));
            }
        }
    }

    #[test]
    fn a_moment_that_was_missed_begins_the_steps_all_the_same() {
        assert_eq!(Moment::Stunned.roles()[0], "stunned");
        assert!(!Moment::Stunned.roles().contains(&"cloning"));
        for moment in [Moment::Syncing, Moment::Cloning, Moment::Pairing] {
            assert!(moment.roles().contains(&"primary"), "{moment:?}");
        }
    }
}
