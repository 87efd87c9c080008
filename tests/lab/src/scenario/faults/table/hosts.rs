//! A host that is there and not well: its disk, its processor, the processes on it.

use super::super::plan::{Fault, Live, Scenario, Step, Who, scenario};
use super::SOON;
use Fault::{DiskFails, DiskFull, DiskHangs, DiskSlow, Power, Unflushed, Vcpu, VcpuSlow, VmStops};
use Step::{Break, Mend, Protected, Wait};
use Who::{Live as TheLive, Other};

/// At any moment of a while of lockstep, so that many seeds are many moments.
const SOMETIME: Step = Wait(0, 6_000);

/// A slow disk's time for each request, in milliseconds: an old disk under somebody else's load.
const SLOW_MS: u64 = 40;

/// Its scenarios.
pub(super) const ALL: &[Scenario] = &[
    // Of what the host wrote, and its disk did not flush, any part may be gone: what was said to be durable is not.
    scenario(
        "power-cut-live-unflushed",
        Live::Moves,
        &[
            SOMETIME,
            Break(Unflushed(TheLive)),
            Wait(1_000, 4_000),
            Mend(Unflushed(TheLive)),
            Protected,
        ],
    ),
    scenario(
        "power-cut-backup-unflushed",
        Live::Stays,
        &[
            SOMETIME,
            Break(Unflushed(Other)),
            Wait(1_000, 4_000),
            Mend(Unflushed(Other)),
            Protected,
        ],
    ),
    scenario(
        "total-outage-live-first-unflushed",
        Live::Stays,
        ALL_IS_DARK_AND_THE_LIVE_IS_FIRST,
    )
    .outage(),
    scenario(
        "total-outage-backup-first-unflushed",
        Live::Moves,
        ALL_IS_DARK_AND_THE_BACKUP_IS_FIRST,
    )
    .flushed_at_both()
    .outage(),
    // A backup whose disk does not get on leaves, and the VM goes on.
    scenario(
        "disk-hangs-backup",
        Live::Stays,
        &[
            SOON,
            Break(DiskHangs(Other)),
            Wait(8_000, 12_000),
            Mend(DiskHangs(Other)),
            Protected,
        ],
    ),
    scenario(
        "disk-hangs-backup-for-good",
        Live::Stays,
        &[SOON, Break(DiskHangs(Other)), Wait(12_000, 16_000)],
    ),
    scenario(
        "disk-hangs-backup-flush-both",
        Live::Stays,
        &[
            SOON,
            Break(DiskHangs(Other)),
            Wait(8_000, 12_000),
            Mend(DiskHangs(Other)),
            Protected,
        ],
    )
    .flushed_at_both(),
    scenario(
        "disk-slow-backup",
        Live::Stays,
        &[
            SOON,
            Break(DiskSlow(Other, SLOW_MS)),
            Wait(8_000, 10_000),
            Mend(DiskSlow(Other, SLOW_MS)),
            Protected,
        ],
    ),
    scenario(
        "disk-slow-live",
        Live::Stays,
        &[
            SOON,
            Break(DiskSlow(TheLive, SLOW_MS)),
            Wait(8_000, 10_000),
            Mend(DiskSlow(TheLive, SLOW_MS)),
            Protected,
        ],
    ),
    scenario(
        "disk-fails-backup",
        Live::Stays,
        &[
            SOON,
            Break(DiskFails(Other)),
            Wait(6_000, 9_000),
            Mend(DiskFails(Other)),
            Protected,
        ],
    ),
    // The guest is told of no error: where its disk works it goes on.
    scenario(
        "disk-fails-live",
        Live::Moves,
        &[
            SOON,
            Break(DiskFails(TheLive)),
            Wait(6_000, 9_000),
            Mend(DiskFails(TheLive)),
            Protected,
        ],
    ),
    // Until the guest writes where its image has a hole, it needs no room.
    scenario(
        "disk-full-backup",
        Live::Stays,
        &[
            SOON,
            Break(DiskFull(Other)),
            Wait(8_000, 10_000),
            Mend(DiskFull(Other)),
            Protected,
        ],
    ),
    scenario(
        "disk-full-live",
        Live::Either,
        &[
            SOON,
            Break(DiskFull(TheLive)),
            Wait(8_000, 10_000),
            Mend(DiskFull(TheLive)),
            Protected,
        ],
    ),
    // Its heartbeats say that it is well, and its copy stands still.
    scenario(
        "backup-stuck-heartbeat-alive",
        Live::Stays,
        &[
            SOON,
            Break(Vcpu(Other)),
            Wait(8_000, 12_000),
            Mend(Vcpu(Other)),
            Protected,
        ],
    ),
    scenario(
        "backup-slow",
        Live::Stays,
        &[
            SOON,
            Break(VcpuSlow(Other)),
            Wait(8_000, 10_000),
            Mend(VcpuSlow(Other)),
            Protected,
        ],
    ),
    scenario(
        "vm-process-stopped-backup",
        Live::Stays,
        &[
            SOON,
            Break(VmStops(Other)),
            Wait(4_000, 7_000),
            Mend(VmStops(Other)),
            Protected,
        ],
    ),
    scenario(
        "vm-process-stopped-live",
        Live::Moves,
        &[
            SOON,
            Break(VmStops(TheLive)),
            Wait(4_000, 7_000),
            Mend(VmStops(TheLive)),
            Protected,
        ],
    ),
    // One failure after the other: what is left is not left too.
    scenario(
        "disk-hangs-backup-and-it-loses-power",
        Live::Stays,
        &[
            SOON,
            Break(DiskHangs(Other)),
            Wait(2_000, 4_000),
            Break(Power(Other)),
            Mend(DiskHangs(Other)),
            Mend(Power(Other)),
            Protected,
        ],
    ),
];

const ALL_IS_DARK_AND_THE_LIVE_IS_FIRST: &[Step] = &[
    SOMETIME,
    Break(Unflushed(TheLive)),
    Break(Unflushed(Other)),
    Wait(500, 3_000),
    Mend(Unflushed(TheLive)),
    Wait(1_000, 12_000),
    Mend(Unflushed(Other)),
    Protected,
];
const ALL_IS_DARK_AND_THE_BACKUP_IS_FIRST: &[Step] = &[
    SOMETIME,
    Break(Unflushed(TheLive)),
    Break(Unflushed(Other)),
    Wait(500, 3_000),
    Mend(Unflushed(Other)),
    Wait(12_000, 16_000),
    Mend(Unflushed(TheLive)),
    Protected,
];
