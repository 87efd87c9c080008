//! A second failure while a protection is being made again, in each phase of it. After the stun the pairing may be
//! confirmed already, and then the other site may claim.

use super::super::plan::{Fault, Live, Moment, Scenario, Step, Who, scenario};
use super::SOON;
use Fault::{Power, TiebreakerLeader, Wan};
use Step::{Break, Mend, Protected, Until, Wait};
use Who::{Live as TheLive, Other};

/// The site that is to be the backup again is lost again.
const fn returning_is_lost(moment: Moment) -> [Step; 9] {
    [
        SOON,
        Break(Power(Other)),
        Wait(1_000, 3_000),
        Mend(Power(Other)),
        Until(moment),
        Break(Power(Other)),
        Wait(1_000, 4_000),
        Mend(Power(Other)),
        Protected,
    ]
}

/// The site that makes the other one its backup again is lost.
const fn live_is_lost(moment: Moment) -> [Step; 9] {
    [
        SOON,
        Break(Power(Other)),
        Wait(1_000, 3_000),
        Mend(Power(Other)),
        Until(moment),
        Break(Power(TheLive)),
        Wait(2_000, 4_000),
        Mend(Power(TheLive)),
        Protected,
    ]
}
const LEADER_IS_LOST: &[Step] = &[
    Break(TiebreakerLeader),
    Wait(2_000, 4_000),
    Mend(TiebreakerLeader),
];
const WAN_IS_CUT: &[Step] = &[Break(Wan), Wait(4_000, 7_000), Mend(Wan)];

/// Its scenarios. The way between the sites is cut in the other phases, too: see `sites_and_ways`.
pub(super) const ALL: &[Scenario] = &[
    scenario(
        "rebuild-returning-lost-in-disk-sync",
        Live::Stays,
        &returning_is_lost(Moment::Syncing),
    ),
    scenario(
        "rebuild-returning-lost-in-pre-copy",
        Live::Stays,
        &returning_is_lost(Moment::Cloning),
    ),
    scenario(
        "rebuild-returning-lost-in-stun",
        Live::Stays,
        &returning_is_lost(Moment::Stunned),
    ),
    scenario(
        "rebuild-returning-lost-in-pairing",
        Live::Stays,
        &returning_is_lost(Moment::Pairing),
    ),
    scenario(
        "rebuild-live-lost-in-disk-sync",
        Live::Stays,
        &live_is_lost(Moment::Syncing),
    )
    .outage(),
    scenario(
        "rebuild-live-lost-in-pre-copy",
        Live::Stays,
        &live_is_lost(Moment::Cloning),
    )
    .outage(),
    scenario(
        "rebuild-live-lost-in-stun",
        Live::Either,
        &live_is_lost(Moment::Stunned),
    )
    .outage(),
    scenario(
        "rebuild-live-lost-in-pairing",
        Live::Either,
        &live_is_lost(Moment::Pairing),
    )
    .outage(),
    scenario("rebuild-leader-lost-in-disk-sync", Live::Stays, LEADER_IS_LOST).when(Moment::Syncing),
    scenario("rebuild-leader-lost-in-pre-copy", Live::Stays, LEADER_IS_LOST).when(Moment::Cloning),
    scenario("rebuild-leader-lost-in-stun", Live::Stays, LEADER_IS_LOST).when(Moment::Stunned),
    scenario("rebuild-leader-lost-in-pairing", Live::Stays, LEADER_IS_LOST).when(Moment::Pairing),
    scenario("wan-cut-in-pairing", Live::Either, WAN_IS_CUT).when(Moment::Pairing),
];
