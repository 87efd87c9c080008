//! A site that is lost, the ways between the sites, the tiebreaker; switchovers, and both sites at once.

use super::super::plan::{Fault, HELD_MS, Live, Moment, Scenario, Step, Who, scenario};
use Fault::{Daemon, Freeze, Loss, Node, Power, Tiebreaker, TiebreakerLeader, VmProcess, Wan, WanFrom};
use Step::{Break, Mend, Protected, Switch, Switched, Wait};
use Who::{Live as TheLive, Other};

use super::{SOON, all_is_dark, for_a_while};

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

/// At any step of a switchover that was asked for just before.
const IN_ANY_STEP: Step = Wait(0, 500);

/// Its scenarios.
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
    // A comparison finds what nothing else would, and nothing besides, while the client writes.
    scenario(
        "verify-finds-a-byte",
        Live::Stays,
        &[
            Step::Verify(TheLive, 0),
            Break(Fault::Byte(Other)),
            Step::Verify(Other, 1),
            Step::Verify(TheLive, 0),
        ],
    ),
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
    // The tiebreaker hears of `pair` when its sender has long given up, and the backup of neither.
    scenario(
        "late-pair",
        Live::Either,
        &[
            Break(Tiebreaker),
            Wait(200, 1_500),
            Break(Wan),
            Wait(4_000, 7_000),
            Mend(Tiebreaker),
            Wait(0, 1_000),
            Mend(Wan),
        ],
    )
    .when(Moment::Stunned),
    // Both sites ask for the VM, neither hears, both ask again over new connections.
    scenario(
        "booth-asked-again-after-a-reconnect",
        Live::Either,
        &[
            SOON,
            Break(Wan),
            Wait(0, 900),
            Break(Tiebreaker),
            Wait(2_000, 4_000),
            Mend(Tiebreaker),
            Wait(0, 300),
            Break(Tiebreaker),
            Wait(500, 2_000),
            Mend(Tiebreaker),
            Mend(Wan),
        ],
    ),
    // The nodes lose their majority while the VM is asked for, and start again one by one.
    scenario(
        "booth-restart-without-a-majority",
        Live::Moves,
        &[
            SOON,
            Break(Power(TheLive)),
            Wait(0, 900),
            Break(Node(0)),
            Break(Node(1)),
            Break(Node(2)),
            Wait(500, 2_000),
            Mend(Node(1)),
            Wait(1_000, 3_000),
            Break(Node(1)),
            Mend(Node(2)),
            Wait(500, 2_000),
            Mend(Node(0)),
            Wait(2_000, 4_000),
            Mend(Node(1)),
        ],
    ),
    scenario("switchover", Live::Moves, &[SOON, Switch(TheLive), Switched]).quick(),
    scenario(
        "switchover-from-backup",
        Live::Moves,
        &[SOON, Switch(Other), Switched],
    ),
    scenario(
        "switchover-and-back",
        Live::Returns,
        &[SOON, Switch(TheLive), Switched, SOON, Switch(TheLive), Switched],
    ),
    // What was asked for may be done, given up, or overtaken by a claim: whichever it is, one site goes on.
    scenario(
        "wan-cut-in-switchover",
        Live::Either,
        &[
            SOON,
            Switch(TheLive),
            IN_ANY_STEP,
            Break(Wan),
            Wait(4_000, 7_000),
            Mend(Wan),
        ],
    )
    .quick(),
    scenario(
        "wan-cut-from-live-in-switchover",
        Live::Either,
        &[
            SOON,
            Switch(TheLive),
            IN_ANY_STEP,
            Break(WanFrom(TheLive)),
            Wait(4_000, 7_000),
            Mend(WanFrom(TheLive)),
        ],
    ),
    scenario(
        "wan-cut-from-backup-in-switchover",
        Live::Either,
        &[
            SOON,
            Switch(TheLive),
            IN_ANY_STEP,
            Break(WanFrom(Other)),
            Wait(4_000, 7_000),
            Mend(WanFrom(Other)),
        ],
    ),
    scenario(
        "wan-flaps-in-switchover",
        Live::Either,
        &[
            SOON,
            Switch(TheLive),
            IN_ANY_STEP,
            Break(Wan),
            Wait(50, 300),
            Mend(Wan),
            Wait(2_000, 2_000),
        ],
    ),
    scenario(
        "tiebreaker-lost-in-switchover",
        Live::Either,
        &[
            SOON,
            Switch(TheLive),
            IN_ANY_STEP,
            Break(Tiebreaker),
            Wait(4_000, 7_000),
            Mend(Tiebreaker),
        ],
    ),
    scenario(
        "power-cut-live-in-switchover",
        Live::Moves,
        &[SOON, Switch(TheLive), IN_ANY_STEP, Break(Power(TheLive))],
    ),
    // The one that was live takes it back, if it was handed over already.
    scenario(
        "power-cut-backup-in-switchover",
        Live::MayReturn,
        &[SOON, Switch(TheLive), IN_ANY_STEP, Break(Power(Other))],
    ),
    scenario(
        "kill-vm-backup-in-switchover",
        Live::MayReturn,
        &[SOON, Switch(TheLive), IN_ANY_STEP, Break(VmProcess(Other))],
    ),
    scenario("stop-and-start", Live::Stays, &[]).when(Moment::Parked(TheLive)),
    scenario("stop-and-start-at-the-other-site", Live::Moves, &[])
        .when(Moment::Parked(Other))
        .quick(),
    scenario(
        "power-cut-live-and-back",
        Live::Moves,
        &for_a_while(SOON, Power(TheLive), 2_000, 4_000),
    ),
    scenario(
        "power-cut-backup-and-back",
        Live::Stays,
        &for_a_while(SOON, Power(Other), 2_000, 4_000),
    ),
    scenario(
        "wan-cut-and-back",
        Live::Either,
        &for_a_while(SOON, Wan, 4_000, 7_000),
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
    // The client's writes are acknowledged when they are durable where it is live, and only there it may start.
    scenario(
        "total-outage-live-first",
        Live::Stays,
        &all_is_dark(SOON, Power(TheLive), Power(Other), TheLive),
    )
    .outage(),
    scenario(
        "total-outage-backup-first",
        Live::Stays,
        &all_is_dark(SOON, Power(TheLive), Power(Other), Other),
    )
    .outage(),
    // Or at both, and either may start.
    scenario(
        "total-outage-live-first-flush-both",
        Live::Stays,
        &all_is_dark(SOON, Power(TheLive), Power(Other), TheLive),
    )
    .flushed_at_both()
    .outage(),
    scenario(
        "total-outage-backup-first-flush-both",
        Live::Moves,
        &all_is_dark(SOON, Power(TheLive), Power(Other), Other),
    )
    .flushed_at_both()
    .outage(),
    // The one that was lost first lacks what the other one acknowledged alone.
    scenario(
        "total-outage-one-after-the-other",
        Live::Moves,
        &[
            SOON,
            Break(Power(TheLive)),
            Wait(4_000, 6_000),
            Break(Power(Other)),
            Wait(500, 3_000),
            Mend(Power(TheLive)),
            Wait(12_000, 16_000),
            Mend(Power(Other)),
            Protected,
        ],
    )
    .outage(),
];
