//! What people do, while a client writes.

use super::super::plan::{Fault, Live, Moment, Scenario, Step, Who, scenario};
use super::SOON;
use Fault::{Node, Power, Wan};
use Step::{Break, Mend, Protected, Renew, Replace, Restart, Switch, Switched, Wait};
use Who::{Live as TheLive, Other};

/// Its scenarios.
pub(super) const ALL: &[Scenario] = &[
    scenario(
        "rolling-restart",
        Live::Returns,
        &[
            Restart(Other),
            SOON,
            Restart(TheLive),
            SOON,
            Break(Node(0)),
            SOON,
            Mend(Node(0)),
            SOON,
            Break(Node(1)),
            SOON,
            Mend(Node(1)),
            SOON,
            Break(Node(2)),
            SOON,
            Mend(Node(2)),
            SOON,
            // What runs a VM is left by a switchover.
            Switch(TheLive),
            Switched,
            Restart(TheLive),
            Switch(Other),
            Switched,
            Restart(Other),
            Protected,
        ],
    ),
    // Every connection of afterwards is made with the new ones: nobody trusts the old CA any more.
    scenario(
        "certificates-replaced",
        Live::Either,
        &[Renew, SOON, Break(Wan), Wait(4_000, 7_000), Mend(Wan), Protected],
    ),
    scenario(
        "backup-replaced",
        Live::Stays,
        &[
            SOON,
            Break(Power(Other)),
            Replace(Other),
            Protected,
            SOON,
            Break(Power(Other)),
            Replace(Other),
            Protected,
        ],
    ),
    scenario("forced-and-discarded", Live::Moves, &[])
        .when(Moment::Forced)
        .outage(),
];
