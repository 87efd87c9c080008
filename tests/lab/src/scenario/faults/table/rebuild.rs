//! A second failure while a protection is being made again, in each phase of it. After the stun the pairing may be
//! confirmed already, and then the other site may claim.

use super::super::plan::{Fault, Live, Moment, Scenario, Step, Who, scenario};
use super::SOON;
use Fault::{Power, TiebreakerLeader, Wan};
use Step::{Break, Mend, Protected, Until, Wait};
use Who::{Live as TheLive, Other};

/// A site that was lost is made the backup again, and when that has come so far, `who` is lost: that site once more, or the
/// one that makes it the backup.
const fn is_lost_in(moment: Moment, who: Who) -> [Step; 9] {
    let least = match who {
        TheLive => 2_000,
        Other => 1_000,
    };
    [
        SOON,
        Break(Power(Other)),
        Wait(1_000, 3_000),
        Mend(Power(Other)),
        Until(moment),
        Break(Power(who)),
        Wait(least, 4_000),
        Mend(Power(who)),
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
        &is_lost_in(Moment::Syncing, Other),
    ),
    scenario(
        "rebuild-returning-lost-in-pre-copy",
        Live::Stays,
        &is_lost_in(Moment::Cloning, Other),
    ),
    scenario(
        "rebuild-returning-lost-in-stun",
        Live::Stays,
        &is_lost_in(Moment::Stunned, Other),
    ),
    scenario(
        "rebuild-returning-lost-in-pairing",
        Live::Stays,
        &is_lost_in(Moment::Pairing, Other),
    ),
    scenario(
        "rebuild-live-lost-in-disk-sync",
        Live::Stays,
        &is_lost_in(Moment::Syncing, TheLive),
    )
    .outage(),
    scenario(
        "rebuild-live-lost-in-pre-copy",
        Live::Stays,
        &is_lost_in(Moment::Cloning, TheLive),
    )
    .outage(),
    scenario(
        "rebuild-live-lost-in-stun",
        Live::Either,
        &is_lost_in(Moment::Stunned, TheLive),
    )
    .outage(),
    scenario(
        "rebuild-live-lost-in-pairing",
        Live::Either,
        &is_lost_in(Moment::Pairing, TheLive),
    )
    .outage(),
    scenario("rebuild-leader-lost-in-disk-sync", Live::Stays, LEADER_IS_LOST).when(Moment::Syncing),
    scenario("rebuild-leader-lost-in-pre-copy", Live::Stays, LEADER_IS_LOST).when(Moment::Cloning),
    scenario("rebuild-leader-lost-in-stun", Live::Stays, LEADER_IS_LOST).when(Moment::Stunned),
    scenario("rebuild-leader-lost-in-pairing", Live::Stays, LEADER_IS_LOST).when(Moment::Pairing),
    scenario("wan-cut-in-pairing", Live::Either, WAN_IS_CUT).when(Moment::Pairing),
];
