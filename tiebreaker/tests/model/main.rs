//! Two sites, a tiebreaker and a network that loses, repeats and reorders, explored exhaustively within bounds (T3).
//!
//! ```text
//!   site a ──request──▶ tiebreaker ──answer──▶ site a        a sent request may arrive never, late, or many times
//!     │  entries, acknowledgements      ▲
//!     ▼                                 └── operator          either site may crash, suspect or give up at any time
//!   site b
//! ```
//!
//! The tiebreaker is `decide` itself. Sites follow the protocol as far as the record is concerned: clone and `pair`;
//! `cancel_pair`; on suspicion first a durable replica, then `claim` (P5); `cold_start` after a crash; a backup that
//! renounces an unanswered pairing (P6); `swap` and `park`, after which both are frozen until the outcome is known (P7);
//! `force`, by an operator who knows that the other site is down (T4). What a guest does is a list of outputs; each is
//! also the acknowledgement of a flush, so what was shown must be on a disk that the VM may start from.
//!
//! Rules that the model settles, where the specification leaves room:
//! - A backup that was frozen for a `swap` whose caller is gone claims the *old* pairing. If the swap had been granted,
//!   the refusal says so, and it is the primary of the turned one; else it is granted, and the swap never will be.
//! - A backup that was stopped for a `park` may do the same, or stay stopped: its replica is durable.
//! - A site that goes on alone because its backup has renounced must do away with the pairing before it makes another:
//!   `cancel_pair`; if that is refused because the late `pair` came first, `claim`. It stays live meanwhile.
//! - A site that has renounced a pairing does not cold-start out of it either, whatever the record would grant.
//!
//! Checked in every state: whoever shows outputs or goes live holds all that clients have seen, and at most one site
//! runs alone. A model that cannot fail proves nothing: rules of the protocol are left out one by one ([`Flaw`]), and
//! each time the checker must find the harm. That each thing does happen is demanded too.
//!
//! Bounds: two outputs, one crash or two ([`Scope::crashes_max`]), one override, two requests a site ([`requests_per_site_max`]) and what must follow on
//! them. A [`Scope`] says which operations are explored together.
#![expect(clippy::unwrap_used, reason = "a test: what fails is shown where it fails")]

mod system;

use antipode_tiebreaker::{Boot, Flush, Request, State};
use stateright::{Checker, HasDiscoveries, Model, Property};
use system::{Forced, Mode, OPERATOR, Site, System};

const OUTPUTS_MAX: usize = 2;

/// A rule of the protocol that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// A pairing is given up without `cancel_pair`.
    NoCancel,
    /// Outputs are shown, as by a solo site, while `pair` is unanswered.
    OutputBeforePair,
    /// A site that was solo when it last knew starts again without asking.
    StartWithoutGrant,
    /// The tiebreaker can lose its last change.
    Forgetful,
    /// The backup claims first and makes its replica durable when it has won. If it crashes in between, it is the
    /// solo site, and may start from a disk that lacks what it has acknowledged.
    ClaimBeforeDurable,
    /// The backup acknowledges what is not yet durable, in a pairing that says it is.
    AckNotDurable,
    /// The primary swaps or parks before the backup's replica is durable.
    HandOverBeforeDurable,
    /// A `swap` or `park` without an answer is taken for refused: both go on as they were.
    ResumeInDoubt,
    /// An operator overrides while the other site is up.
    ForceBlindly,
    /// A backup that has renounced its pairing goes on following, and may claim it.
    RenounceAndFollow,
    /// A crash makes a site forget what it has renounced.
    RenounceNotDurable,
}

/// Which operations meet, and how far the story goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// From a solo site: pairing, cancelling, takeover, cold start.
    Takeover,
    /// The same, where the new backup may renounce.
    Renounce,
    /// From a pairing: the roles turn round, or a site takes over.
    Swap,
    /// From a pairing: the VM is parked and started again.
    Park,
    /// From a pairing: an operator overrides.
    Force,
}

impl Scope {
    /// Two, so that both sites are down at once, where who may start then is the question.
    const fn crashes_max(self) -> u8 {
        match self {
            Self::Takeover | Self::Park => 2,
            Self::Renounce | Self::Swap | Self::Force => 1,
        }
    }
}

/// Requests that each site may send; `ANTIPODE_MODEL_REQUESTS` says another number. A story that begins with a pairing
/// has used one.
fn requests_per_site_max() -> u64 {
    std::env::var("ANTIPODE_MODEL_REQUESTS").map_or(2, |number| number.parse().unwrap())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The guest makes an output.
    Output(usize),
    /// Log entries reach the backup.
    Replicate,
    /// An acknowledgement reaches the primary.
    Release(usize),
    /// The peer is cloned and `pair` sent.
    Pair(usize),
    GiveUpPairing(usize),
    /// The new backup renounces the pairing.
    Renounce(usize),
    /// The site that waits for `pair` learns that its backup has renounced.
    GoOnWithout(usize),
    Suspect(usize),
    Swap(usize),
    /// The new primary learns of the swap from the new backup.
    Turn(usize),
    Park(usize),
    /// A backup that has stopped in order keeps its disk and no VM.
    Disband(usize),
    /// What [`Flaw::ResumeInDoubt`] does.
    Resume(usize),
    Crash(usize),
    Restart(usize),
    ColdStart(usize),
    /// An operator says that this site may start.
    Force(usize),
    /// A request reaches the tiebreaker, for the first time or again.
    Arrive(usize, usize),
    /// The answer reaches the site.
    Hear(usize),
    /// The tiebreaker loses its last change.
    Forget,
}

struct Protocol {
    scope: Scope,
    flush: Flush,
    flaw: Flaw,
    requests_per_site_max: u64,
}

impl Protocol {
    fn new(scope: Scope, flush: Flush, flaw: Flaw) -> Self {
        Self {
            scope,
            flush,
            flaw,
            requests_per_site_max: requests_per_site_max(),
        }
    }

    /// What holds, and happens, in every scope.
    fn properties_of_all(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("one history", |_, system: &System| system.sound),
            Property::always("one site alone", |_, system: &System| {
                let alone = |site: &&Site| matches!(site.mode, Mode::Solo | Mode::Settling);
                system.sites.iter().filter(alone).count() <= 1
            }),
            Property::sometimes("takeover", |_, system: &System| {
                let heir = &system.sites[1];
                (heir.mode, heir.boot) == (Mode::Solo, Boot(1)) && !system.shown.is_empty()
            }),
            Property::sometimes("cold start", |_, system: &System| {
                system.sites[0].mode == Mode::Solo && system.sites[0].boot > Boot(1)
            }),
        ];
        if self.scope.crashes_max() > 1 {
            properties.push(Property::sometimes("both down", |_, system: &System| {
                system.sites.iter().all(|site| site.mode == Mode::Down)
            }));
        }
        properties
    }

    /// What `site` may do next.
    fn steps_of(&self, system: &System, site: usize, steps: &mut Vec<Step>) {
        let peer = &system.sites[1 - site];
        let own = &system.sites[site];
        let may_ask = own.requests_sent < self.requests_per_site_max;
        if own.is_live() && own.memory.len() < OUTPUTS_MAX {
            steps.push(Step::Output(site));
        }
        match own.mode {
            Mode::Down => steps.push(Step::Restart(site)),
            Mode::Solo if may_ask && peer.mode == Mode::Idle => steps.push(Step::Pair(site)),
            Mode::Pairing => steps.extend([Step::GiveUpPairing(site), Step::GoOnWithout(site)]),
            Mode::Idle if may_ask => steps.push(Step::ColdStart(site)),
            Mode::Primary => steps.push(Step::Release(site)),
            Mode::Turning => steps.push(Step::Turn(site)),
            Mode::Stopped => steps.push(Step::Disband(site)),
            _ => {}
        }
        let doubts = matches!(
            own.mode,
            Mode::Primary | Mode::Backup | Mode::Turning | Mode::Stopped
        );
        if doubts && may_ask {
            steps.push(Step::Suspect(site));
        }
        match self.scope {
            Scope::Takeover => {}
            Scope::Renounce if own.mode == Mode::Backup && peer.mode == Mode::Pairing => {
                steps.push(Step::Renounce(site));
            }
            Scope::Swap if own.mode == Mode::Primary && may_ask => steps.push(Step::Swap(site)),
            Scope::Park if matches!(own.mode, Mode::Primary | Mode::Solo) && may_ask => {
                steps.push(Step::Park(site));
            }
            Scope::Force
                if system.sent[OPERATOR].is_empty()
                    && !own.is_live()
                    && (peer.mode == Mode::Down || self.flaw == Flaw::ForceBlindly) =>
            {
                steps.push(Step::Force(site));
            }
            _ => {}
        }
        if self.flaw == Flaw::ResumeInDoubt {
            steps.push(Step::Resume(site));
        }
        if own.mode != Mode::Down && system.crashes < self.scope.crashes_max() {
            steps.push(Step::Crash(site));
        }
        if own.answer.is_some() {
            steps.push(Step::Hear(site));
        }
    }
}

impl Model for Protocol {
    type State = System;
    type Action = Step;

    fn init_states(&self) -> Vec<System> {
        vec![match self.scope {
            Scope::Takeover | Scope::Renounce => System::solo(self.flush),
            Scope::Swap | Scope::Park | Scope::Force => System::paired(self.flush),
        }]
    }

    fn actions(&self, system: &System, steps: &mut Vec<Step>) {
        steps.push(Step::Replicate);
        self.steps_of(system, 0, steps);
        self.steps_of(system, 1, steps);
        for (sender, sent) in system.sent.iter().enumerate() {
            steps.extend((0..sent.len()).map(|index| Step::Arrive(sender, index)));
        }
        if system.record_before.is_some() {
            steps.push(Step::Forget);
        }
    }

    fn next_state(&self, system: &System, step: Step) -> Option<System> {
        let Self { flush, flaw, .. } = *self;
        let mut next = system.clone();
        match step {
            Step::Output(site) => next.output(site, flaw),
            Step::Replicate => next.replicate(flush, flaw)?,
            Step::Release(site) => next.release(site)?,
            Step::Pair(site) => next.pair(site, flush),
            Step::GiveUpPairing(site) => next.give_up_pairing(site, flaw),
            Step::Renounce(site) => next.renounce(site, flaw),
            Step::GoOnWithout(site) => next.go_on_without(site)?,
            Step::Suspect(site) => next.suspect(site, flaw),
            Step::Swap(site) => next.swap(site, flaw)?,
            Step::Turn(site) => next.turn(site)?,
            Step::Park(site) => next.park(site, flaw)?,
            Step::Disband(site) => next.give_up(site),
            Step::Resume(site) => next.resume(site)?,
            Step::Crash(site) => next.crash(site, flaw),
            Step::Restart(site) => next.restart(site, flaw),
            Step::ColdStart(site) => next.cold_start(site)?,
            Step::Force(site) => next.force(site),
            Step::Arrive(sender, index) => next.arrive(sender, index, flaw),
            Step::Hear(site) => {
                let answer = next.sites[site].answer.take()?;
                next.hear(site, &answer);
            }
            Step::Forget => next.record = next.record_before.take()?,
        }
        (next != *system).then_some(next)
    }

    /// Beyond the bound on requests lies nothing of interest; a site that gives up a pairing may still overstep it by
    /// one, and by two where that pairing has to be claimed.
    fn within_boundary(&self, system: &System) -> bool {
        let slack = if self.scope == Scope::Renounce { 2 } else { 1 };
        let most = self.requests_per_site_max + slack;
        system.sites.iter().all(|site| site.requests_sent <= most)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = self.properties_of_all();
        properties.extend(match self.scope {
            Scope::Takeover => vec![Property::sometimes(
                "new pairing after a takeover",
                |_, system: &System| system.sites[1].mode == Mode::Primary,
            )],
            Scope::Renounce => vec![
                Property::sometimes(
                    "goes on while the late pairing is granted",
                    |_, system: &System| {
                        system.sites[0].mode == Mode::Settling
                            && system.sites[1].renounced == Some(system.sites[0].pairing)
                            && matches!(system.record.state, State::Paired { .. })
                            && !system.shown.is_empty()
                    },
                ),
                Property::sometimes("settles", |_, system: &System| {
                    system.sites[0].mode == Mode::Solo && system.sites[1].renounced.is_some()
                }),
            ],
            Scope::Swap => vec![
                Property::sometimes("roles turned", |_, system: &System| {
                    let [a, b] = &system.sites;
                    (a.mode, b.mode) == (Mode::Backup, Mode::Primary) && a.pairing == b.pairing
                }),
                Property::sometimes("turned though the caller died", |_, system: &System| {
                    let [a, b] = &system.sites;
                    (a.mode, b.mode) == (Mode::Down, Mode::Primary)
                        && !system.sent[1].is_empty()
                        && a.boot == Boot(1)
                }),
                Property::sometimes("taken over before the swap", |_, system: &System| {
                    let [a, b] = &system.sites;
                    (a.mode, b.mode) == (Mode::Swapping, Mode::Solo)
                }),
            ],
            Scope::Park => vec![
                Property::sometimes("started at the other site", |_, system: &System| {
                    let [a, b] = &system.sites;
                    (a.mode, b.mode) == (Mode::Idle, Mode::Solo) && system.crashes == 0
                }),
                Property::sometimes("parked though the caller died", |_, system: &System| {
                    matches!(system.record.state, State::Parked { .. }) && system.sites[0].mode == Mode::Down
                }),
            ],
            Scope::Force => vec![
                Property::sometimes("forced start", |_, system: &System| {
                    system.forced == Forced::Started && system.sites[1].mode == Mode::Solo
                }),
                Property::sometimes("too late to force", |_, system: &System| {
                    let late = |force: &Request| force.expected < system.record.generation;
                    system.forced == Forced::No && system.sent[OPERATOR].first().is_some_and(late)
                }),
            ],
        });
        properties
    }
}

#[track_caller]
fn holds(scope: Scope) {
    for flush in [Flush::Site, Flush::Both] {
        let checker = Protocol::new(scope, flush, Flaw::None)
            .checker()
            .threads(2)
            .spawn_bfs()
            .join();
        let (states, depth) = (checker.unique_state_count(), checker.max_depth());
        println!("{scope:?}, {flush:?}: {states} states to depth {depth}");
        checker.assert_properties();
    }
}

/// The checker finds the harm that `flaw` does.
#[track_caller]
fn is_caught(scope: Scope, flush: Flush, flaw: Flaw) {
    let harms = ["one history", "one site alone"];
    let checker = Protocol::new(scope, flush, flaw)
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyOf(harms.into_iter().collect()))
        .spawn_bfs()
        .join();
    let Some(path) = harms.into_iter().find_map(|harm| checker.discovery(harm)) else {
        panic!("{flaw:?} does no harm in {} states", checker.unique_state_count());
    };
    println!("{flaw:?}: {:?}", path.into_actions());
}

#[test]
fn pairings_and_takeovers_hold() {
    holds(Scope::Takeover);
}

#[test]
fn renouncing_a_pairing_holds() {
    holds(Scope::Renounce);
}

#[test]
fn a_swap_of_unknown_outcome_holds() {
    holds(Scope::Swap);
}

#[test]
fn a_park_of_unknown_outcome_holds() {
    holds(Scope::Park);
}

#[test]
fn an_override_of_unknown_outcome_holds() {
    holds(Scope::Force);
}

#[test]
fn giving_up_a_pairing_without_cancelling_it_is_caught() {
    is_caught(Scope::Takeover, Flush::Site, Flaw::NoCancel);
}

#[test]
fn an_output_before_the_pairing_is_confirmed_is_caught() {
    is_caught(Scope::Takeover, Flush::Site, Flaw::OutputBeforePair);
}

#[test]
fn a_start_without_a_granted_change_is_caught() {
    is_caught(Scope::Takeover, Flush::Site, Flaw::StartWithoutGrant);
}

#[test]
fn a_tiebreaker_that_forgets_is_caught() {
    is_caught(Scope::Takeover, Flush::Site, Flaw::Forgetful);
}

#[test]
fn a_claim_before_the_replica_is_durable_is_caught() {
    is_caught(Scope::Takeover, Flush::Site, Flaw::ClaimBeforeDurable);
}

#[test]
fn an_acknowledgement_that_is_not_durable_is_caught() {
    is_caught(Scope::Takeover, Flush::Both, Flaw::AckNotDurable);
}

#[test]
fn a_swap_before_the_replica_is_durable_is_caught() {
    is_caught(Scope::Swap, Flush::Site, Flaw::HandOverBeforeDurable);
}

#[test]
fn a_park_before_the_replica_is_durable_is_caught() {
    is_caught(Scope::Park, Flush::Site, Flaw::HandOverBeforeDurable);
}

#[test]
fn a_swap_in_doubt_that_is_taken_for_refused_is_caught() {
    is_caught(Scope::Swap, Flush::Site, Flaw::ResumeInDoubt);
}

#[test]
fn a_park_in_doubt_that_is_taken_for_refused_is_caught() {
    is_caught(Scope::Park, Flush::Site, Flaw::ResumeInDoubt);
}

#[test]
fn an_override_while_the_other_site_is_up_is_caught() {
    is_caught(Scope::Force, Flush::Site, Flaw::ForceBlindly);
}

#[test]
fn a_backup_that_renounces_and_follows_is_caught() {
    is_caught(Scope::Renounce, Flush::Site, Flaw::RenounceAndFollow);
}

#[test]
fn a_renouncement_that_a_crash_forgets_is_caught() {
    is_caught(Scope::Renounce, Flush::Both, Flaw::RenounceNotDurable);
}
