//! A host that is there and not well: its disk, its processor, the processes on it.

use super::super::plan::{Fault, Live, Scenario, Step, Who, scenario};
use super::{SOON, all_is_dark, for_a_while};
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
        &for_a_while(SOMETIME, Unflushed(TheLive), 1_000, 4_000),
    ),
    scenario(
        "power-cut-backup-unflushed",
        Live::Stays,
        &for_a_while(SOMETIME, Unflushed(Other), 1_000, 4_000),
    ),
    scenario(
        "total-outage-live-first-unflushed",
        Live::Stays,
        &all_is_dark(SOMETIME, Unflushed(TheLive), Unflushed(Other), TheLive),
    )
    .outage(),
    scenario(
        "total-outage-backup-first-unflushed",
        Live::Moves,
        &all_is_dark(SOMETIME, Unflushed(TheLive), Unflushed(Other), Other),
    )
    .flushed_at_both()
    .outage(),
    // A backup whose disk does not get on leaves, and the VM goes on.
    scenario(
        "disk-hangs-backup",
        Live::Stays,
        &for_a_while(SOON, DiskHangs(Other), 8_000, 12_000),
    ),
    scenario(
        "disk-hangs-backup-for-good",
        Live::Stays,
        &[SOON, Break(DiskHangs(Other)), Wait(12_000, 16_000)],
    ),
    scenario(
        "disk-hangs-backup-flush-both",
        Live::Stays,
        &for_a_while(SOON, DiskHangs(Other), 8_000, 12_000),
    )
    .flushed_at_both(),
    scenario(
        "disk-slow-backup",
        Live::Stays,
        &for_a_while(SOON, DiskSlow(Other, SLOW_MS), 8_000, 10_000),
    ),
    scenario(
        "disk-slow-live",
        Live::Stays,
        &for_a_while(SOON, DiskSlow(TheLive, SLOW_MS), 8_000, 10_000),
    ),
    scenario(
        "disk-fails-backup",
        Live::Stays,
        &for_a_while(SOON, DiskFails(Other), 6_000, 9_000),
    ),
    // The guest is told of no error: where its disk works it goes on.
    scenario(
        "disk-fails-live",
        Live::Moves,
        &for_a_while(SOON, DiskFails(TheLive), 6_000, 9_000),
    ),
    // Until the guest writes where its image has a hole, it needs no room.
    scenario(
        "disk-full-backup",
        Live::Stays,
        &for_a_while(SOON, DiskFull(Other), 8_000, 10_000),
    ),
    scenario(
        "disk-full-live",
        Live::Either,
        &for_a_while(SOON, DiskFull(TheLive), 8_000, 10_000),
    ),
    // Its heartbeats say that it is well, and its copy stands still.
    scenario(
        "backup-stuck-heartbeat-alive",
        Live::Stays,
        &for_a_while(SOON, Vcpu(Other), 8_000, 12_000),
    ),
    scenario(
        "backup-slow",
        Live::Stays,
        &for_a_while(SOON, VcpuSlow(Other), 8_000, 10_000),
    ),
    scenario(
        "vm-process-stopped-backup",
        Live::Stays,
        &for_a_while(SOON, VmStops(Other), 4_000, 7_000),
    ),
    scenario(
        "vm-process-stopped-live",
        Live::Moves,
        &for_a_while(SOON, VmStops(TheLive), 4_000, 7_000),
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
