//! Two roles, a real tiebreaker's decisions, and everything between them that can go wrong (T3).
//!
//! ```text
//!    site 0: Role, OutputRule ◀── ordered channel, words, heartbeats ──▶ site 1: Role, OutputRule
//!         │          may be cut either way, delayed, lost                      │
//!         └───── requests and answers: lost, late, many times ──▶ decide() ◀───┘
//! ```
//!
//! First a while of faults drawn from the seed: hosts crash and start again, freeze and thaw; links are cut in one or
//! both directions; the tiebreaker is out of reach; copies diverge, and are repaired or not, replicas fail, VM processes end;
//! operators start, stop, protect, unprotect, switch over at either site, override, and put empty hosts in the place of lost
//! ones. A VM that has lost its backup is protected again by
//! itself, and a host that has power again goes on with what ran there: histories of failure, return and failure. Then all
//! is healed, and within a minute the VM must be protected again.
//!
//! A guest is the list of outputs that it has made, each written and flushed before it is made: to the disk of the live
//! site, with half of the seeds to both. What leaves is what clients have seen. [`Checker`](checker::Checker) says what must
//! hold at every moment. The driver can break a rule that it is told to keep ([`Flaw`]): then the checker must find the harm.

mod checker;
mod checkpoints;
mod driver;
mod faults;
mod guest;
mod protection;
mod repairing;
mod turning;
mod world;

use std::collections::BTreeSet;

use checker::Harm;
use world::{Outcome, World};

/// A rule that the driver, or the tiebreaker's client, does not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// Outputs leave as soon as lockstep begins.
    OutputBeforePair,
    /// `cancel_pair` is taken for granted and never sent.
    NoCancel,
    /// A backup's `claim` is taken for granted.
    LiveBeforeClaim,
    /// A `claim` without an answer is taken for granted.
    GuessUnknown,
    /// The replica is said to be durable and is not.
    NotDurable,
    /// The replay to the end leaves out what is not replayed yet.
    ReplayNotToEnd,
    /// Notes end with the process that made them.
    ForgetNotes,
    /// Nobody says that a request got no answer.
    SilentClient,
    /// A host's clock stands still with it.
    SleepUnnoticed,
    /// Every replica is said to be whole.
    TrustReplica,
    /// The guest is told of a flush when its own site's disk has it.
    FlushAlone,
    /// That an operator has ended the protection is not noted.
    ForgetUnprotect,
    /// A copy says that its disk has what it has replayed, though no flush has ended.
    NotFlushed,
    /// A primary that is to yield opens its outputs, and goes on, before it knows the outcome of its `swap`.
    OpenBeforeSwapped,
    /// A `swap` without an answer is taken for refused.
    ResumeInDoubt,
    /// A backup leads as soon as it has confirmed.
    LeadBeforeSwapped,
    /// A guest that is to stand still makes outputs that the other site never gets.
    RunsOn,
    /// A copy says that it has made what it has received.
    MadeWhenReceived,
    /// Under checkpoints outputs leave by what the copy has received.
    CheckpointsByReceipt,
    /// A copy that is another machine comes to the end of its replay all the same.
    ClaimsThoughItDiffers,
}

fn run(seed: u64, flaw: Flaw) -> Outcome {
    World::new(seed, flaw).run()
}

/// Seeds in the ordinary test run; `ANTIPODE_PROTOCOL_SEEDS` says another number.
fn seeds() -> u64 {
    std::env::var("ANTIPODE_PROTOCOL_SEEDS").map_or(1500, |number| number.parse().unwrap())
}

#[test]
fn no_seed_does_harm_and_each_runs_twice_alike() {
    let mut seen = BTreeSet::new();
    for seed in 0..seeds() {
        let first = run(seed, Flaw::None);
        assert_eq!(first.harm, None, "seed {seed}\n{}", first.story.join("\n"));
        let second = run(seed, Flaw::None);
        assert_eq!(first.digest, second.digest, "seed {seed} runs in two ways");
        seen.extend(first.seen);
    }
    let wanted = [
        "protected",
        "went live",
        "lost",
        "cancelled",
        "renounced",
        "cold start",
        "parked",
        "left",
        "awoke",
        "unprotected",
        "forced",
        "cold start of a backup",
        "swapped",
        "turned",
        "turned by reading",
        "turned in suspicion",
        "stayed",
        "taken over while swapping",
        "claimed the turned one",
        "protected by itself",
        "went live again",
        "resumed",
        "repaired",
        "repaired before a claim",
        "replaced",
        "became a checkpoint",
        "dropped a checkpoint",
    ];
    let missing: Vec<&&str> = wanted.iter().filter(|what| !seen.contains(*what)).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
}

/// The checker finds the harm that `flaw` does, of one of these kinds.
#[track_caller]
fn is_caught(flaw: Flaw, kinds: &[Harm]) {
    is_caught_besides(flaw, kinds, &[]);
}

/// The same, of a flaw that does other harm too: that alone is not enough.
#[track_caller]
fn is_caught_besides(flaw: Flaw, kinds: &[Harm], others: &[Harm]) {
    let mut harms = (0..20_000).filter_map(|seed| run(seed, flaw).harm.map(|harm| (seed, harm)));
    let Some((seed, harm)) = harms.find(|(_, harm)| !others.contains(harm)) else {
        panic!("{flaw:?} does no such harm");
    };
    assert!(kinds.contains(&harm), "{flaw:?}: {harm:?} at seed {seed}");
}

const SPLIT: [Harm; 4] = [
    Harm::TwoOpen,
    Harm::OpenUnwon,
    Harm::OutputLost,
    Harm::TwoHistories,
];

#[test]
fn outputs_before_the_pairing_is_confirmed_are_caught() {
    is_caught(Flaw::OutputBeforePair, &SPLIT);
}

#[test]
fn a_pairing_that_is_not_taken_back_is_caught() {
    // The record may also keep that pairing, which neither site believes in: both give up, and neither may start.
    is_caught_besides(Flaw::NoCancel, &SPLIT, &[Harm::NeverProtected]);
}

#[test]
fn going_live_before_the_claim_is_granted_is_caught() {
    is_caught(Flaw::LiveBeforeClaim, &SPLIT);
}

#[test]
fn guessing_an_unknown_outcome_is_caught() {
    is_caught(Flaw::GuessUnknown, &SPLIT);
}

#[test]
fn a_replica_that_is_not_durable_is_caught() {
    is_caught(Flaw::NotDurable, &[Harm::OutputLost]);
}

#[test]
fn a_replay_that_leaves_something_out_is_caught() {
    is_caught(Flaw::ReplayNotToEnd, &[Harm::OutputLost]);
}

#[test]
fn notes_that_end_with_their_process_are_caught() {
    is_caught(
        Flaw::ForgetNotes,
        &[Harm::NeverProtected, Harm::OpenUnwon, Harm::OutputLost],
    );
}

#[test]
fn a_sleep_that_nobody_notices_is_caught() {
    is_caught(Flaw::SleepUnnoticed, &SPLIT);
}

#[test]
fn a_start_from_a_replica_that_is_not_whole_is_caught() {
    is_caught(Flaw::TrustReplica, &[Harm::LiveFromStale, Harm::OutputLost]);
}

#[test]
fn a_flush_that_does_not_wait_for_the_other_site_is_caught() {
    is_caught(Flaw::FlushAlone, &[Harm::FlushLost]);
}

#[test]
fn a_copy_that_says_it_is_durable_before_it_is_is_caught() {
    is_caught(Flaw::NotFlushed, &[Harm::FlushLost]);
}

#[test]
fn an_old_primary_that_opens_before_the_outcome_is_known_is_caught() {
    is_caught(Flaw::OpenBeforeSwapped, &SPLIT);
}

#[test]
fn a_swap_in_doubt_that_is_taken_for_refused_is_caught() {
    // The record has them the other way round: whoever asks it next gives up.
    is_caught(Flaw::ResumeInDoubt, &[Harm::OutputLost, Harm::NeverProtected]);
}

#[test]
fn a_new_primary_that_goes_live_before_the_swap_is_granted_is_caught() {
    is_caught(Flaw::LeadBeforeSwapped, &[Harm::LedUngranted]);
}

#[test]
fn a_guest_that_does_not_stand_still_is_caught() {
    is_caught(
        Flaw::RunsOn,
        &[
            Harm::FlushLost,
            Harm::OutputLost,
            Harm::TwoHistories,
            Harm::TwoOpen,
        ],
    );
}

#[test]
fn a_copy_that_claims_though_it_differs_is_caught() {
    is_caught(
        Flaw::ClaimsThoughItDiffers,
        &[Harm::OutputLost, Harm::TwoHistories, Harm::FlushLost],
    );
}

#[test]
fn an_output_that_leaves_before_its_checkpoint_is_there_is_caught() {
    is_caught(
        Flaw::CheckpointsByReceipt,
        &[Harm::OutputLost, Harm::TwoHistories],
    );
}

#[test]
fn an_output_that_leaves_before_its_copy_has_made_it_is_caught() {
    is_caught(Flaw::MadeWhenReceived, &[Harm::Unverified]);
}

#[test]
fn a_protection_that_is_restored_against_an_operator_s_word_is_caught() {
    is_caught(Flaw::ForgetUnprotect, &[Harm::ProtectedUnasked]);
}

#[test]
fn each_checker_finds_something() {
    let flaws = [
        Flaw::OutputBeforePair,
        Flaw::NoCancel,
        Flaw::LiveBeforeClaim,
        Flaw::GuessUnknown,
        Flaw::NotDurable,
        Flaw::ForgetNotes,
        Flaw::SilentClient,
        Flaw::SleepUnnoticed,
        Flaw::TrustReplica,
        Flaw::FlushAlone,
        Flaw::LeadBeforeSwapped,
        Flaw::ForgetUnprotect,
    ];
    let mut found = BTreeSet::new();
    for flaw in flaws {
        found.extend((0..150).flat_map(|seed| run(seed, flaw).found));
    }
    let all = [
        Harm::TwoOpen,
        Harm::OpenUnwon,
        Harm::OutputLost,
        Harm::TwoHistories,
        Harm::FlushLost,
        Harm::LiveFromStale,
        Harm::LedUngranted,
        Harm::ProtectedUnasked,
        Harm::NeverProtected,
    ];
    let silent: Vec<&Harm> = all.iter().filter(|harm| !found.contains(harm)).collect();
    assert!(silent.is_empty(), "never found: {silent:?}");
}
