//! Protection that restores itself: when to protect a VM again that has lost its backup, and when not to.
//!
//! ```text
//!               runs alone, and is to be protected
//!   Resting ───────────────────────────────────────▶ Waiting ── call ──▶ the other site: is it there, and free?
//!      ▲                                              ▲  │  ▲               │ no: again in a while
//!      │ what it is here is none of this              │  │  └───────────────┘
//!      │                                              │  │ yes, and not too soon after a failure
//!      └───────────────────────────── Trying ◀────────┼──┘
//!                                      │  └─ failed ──┘
//!                                      └─ primary ──▶ Protected ── lost its backup ──▶ Waiting
//! ```
//!
//! A VM is to be protected from the first time that it was until an operator ends that; it is noted, so that it outlives
//! the process. A VM that never was is an operator's to protect.
//!
//! Failures put the next try off, twice as long each time, up to a limit. A protection that did not last counts as one: a
//! backup that is there and cannot follow costs the guest a stun each time. A try that an operator asked for puts nothing
//! off: the operator sees what came of it. A site that was out of reach and is back has changed, so nothing is put off any
//! more.
//!
//! Pure: what is seen is handed in with each step, what is wanted comes back.

use std::time::Duration;

use serde::Serialize;

use super::limits::{CALL_EVERY, CALL_PATIENCE, PROTECTED_FOR_GOOD, RETRY_FIRST, RETRY_MAX};
use super::moment::Moment;
use super::role::Phase;

/// What the other site said, or why it said nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Called {
    /// It can take a copy.
    Free,
    /// It is there and cannot, and why.
    Busy(String),
    /// It could not be reached, and why.
    Away(String),
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Ask the other site whether it could take a copy; the answer names this number.
    Call(u64),
    /// Protect the VM.
    Protect,
}

/// What is seen of the VM here.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Its state.
    pub phase: Phase,
    /// A protection could begin in it.
    pub is_free: bool,
    /// It runs alone because an operator has ended its protection.
    pub is_by_command: bool,
    /// Why it runs alone, in words.
    pub because: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Resting,
    Waiting,
    Trying,
    Protected { since: Moment },
}

/// Watches one VM's protection at one site.
#[derive(Debug)]
pub struct Reprotect {
    /// The site's configuration has it on.
    is_on: bool,
    /// The VM is to be protected.
    wanted: bool,
    stage: Stage,
    /// The last try, or the one under way, was not asked for by an operator.
    tries_by_itself: bool,
    failures: u32,
    not_before: Moment,
    next_call: Moment,
    calls: u64,
    /// The call without an answer, and since when.
    calling: Option<(u64, Moment)>,
    /// The last answer that was no.
    waits_for: Option<String>,
    was_away: bool,
    last_failure: Option<(Moment, String)>,
}

/// What is shown of it (O3).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownReprotect {
    /// Whether the VM is protected again by itself.
    pub on: bool,
    /// What that waits for.
    pub waits_for: Option<String>,
    /// Tries in a row that came to nothing.
    pub failures: u32,
    /// What the last one came to.
    pub last_failure: Option<String>,
    /// Seconds since that.
    pub last_failure_s: Option<u64>,
    /// Seconds until the next try at the earliest.
    pub next_try_s: Option<u64>,
}

impl Reprotect {
    /// Of a VM that is to be protected if `wanted`, at a site that does so by itself if `is_on`.
    #[must_use]
    pub const fn new(is_on: bool, wanted: bool) -> Self {
        Self {
            is_on,
            wanted,
            stage: Stage::Resting,
            tries_by_itself: false,
            failures: 0,
            not_before: Moment::from_nanos(0),
            next_call: Moment::from_nanos(0),
            calls: 0,
            calling: None,
            waits_for: None,
            was_away: false,
            last_failure: None,
        }
    }

    /// Whether the VM is to be protected: to be noted.
    #[must_use]
    pub const fn wanted(&self) -> bool {
        self.wanted
    }

    /// An operator ends the protection. Answers whether the VM was to be protected.
    pub fn unwanted(&mut self) -> bool {
        self.last_failure = None;
        self.failures = 0;
        std::mem::take(&mut self.wanted)
    }

    /// What is seen of the VM here now.
    pub fn step(&mut self, now: Moment, seen: &Seen<'_>) -> Option<Deed> {
        match seen.phase {
            Phase::Primary => {
                if !matches!(self.stage, Stage::Protected { .. }) {
                    self.wanted = true;
                    self.stage = Stage::Protected { since: now };
                }
            }
            // What goes on alone after the other one's end was protected by it.
            Phase::Candidate | Phase::Backup => {
                self.wanted = true;
                self.stage = Stage::Resting;
            }
            Phase::Alone => return self.alone(now, seen),
            phase if phase.is_live() => {
                if !matches!(self.stage, Stage::Protected { .. }) {
                    self.stage = Stage::Trying;
                }
            }
            _ => self.stage = Stage::Resting,
        }
        None
    }

    fn alone(&mut self, now: Moment, seen: &Seen<'_>) -> Option<Deed> {
        match self.stage {
            Stage::Waiting => {}
            _ if seen.is_by_command => {
                self.unwanted();
                self.wait(now);
            }
            Stage::Resting => self.wait(now),
            Stage::Trying if std::mem::take(&mut self.tries_by_itself) => self.failed(now, seen.because),
            Stage::Trying => {
                let not_before = self.not_before;
                self.wait(now);
                self.not_before = not_before;
                self.last_failure = Some((now, seen.because.to_owned()));
            }
            Stage::Protected { since } if now.saturating_since(since) < PROTECTED_FOR_GOOD => {
                self.failed(now, seen.because);
            }
            Stage::Protected { .. } => {
                self.failures = 0;
                self.wait(now);
            }
        }
        seen.is_free.then(|| self.call_if_due(now)).flatten()
    }

    fn wait(&mut self, now: Moment) {
        self.stage = Stage::Waiting;
        self.not_before = now;
        self.next_call = now;
        self.calling = None;
        self.waits_for = None;
        self.was_away = false;
    }

    fn failed(&mut self, now: Moment, trouble: &str) {
        self.wait(now);
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + RETRY_FIRST.saturating_mul(1 << doublings).min(RETRY_MAX);
        self.last_failure = Some((now, trouble.to_owned()));
    }

    fn call_if_due(&mut self, now: Moment) -> Option<Deed> {
        if !self.is_on || !self.wanted {
            return None;
        }
        if let Some((number, since)) = self.calling {
            if now.saturating_since(since) < CALL_PATIENCE {
                return None;
            }
            self.called(now, number, Called::Away("it does not answer".to_owned()));
        }
        if now < self.next_call {
            return None;
        }
        self.calls += 1;
        self.calling = Some((self.calls, now));
        self.next_call = now + CALL_EVERY;
        Some(Deed::Call(self.calls))
    }

    /// What came of call `number`; what came of one before it says nothing of now.
    pub fn called(&mut self, now: Moment, number: u64, said: Called) -> Option<Deed> {
        self.calling.take_if(|(calling, _)| *calling == number)?;
        if self.stage != Stage::Waiting || !self.wanted {
            return None;
        }
        match said {
            Called::Away(why) => {
                self.was_away = true;
                self.waits_for = Some(why);
                None
            }
            Called::Busy(why) => {
                self.waits_for = Some(why);
                self.if_it_was_away(now);
                None
            }
            Called::Free => {
                self.waits_for = None;
                self.if_it_was_away(now);
                self.tries_by_itself = now >= self.not_before;
                self.tries_by_itself.then_some(Deed::Protect)
            }
        }
    }

    /// The other site is back: whatever put the next try off may be over.
    fn if_it_was_away(&mut self, now: Moment) {
        if std::mem::take(&mut self.was_away) {
            self.failures = 0;
            self.not_before = now;
        }
    }

    /// What an operator is shown; none of a VM that is not to be protected.
    #[must_use]
    pub fn shown(&self, now: Moment) -> Option<ShownReprotect> {
        let waits = self.is_on && self.stage == Stage::Waiting;
        let until_next = self.not_before.saturating_since(now);
        self.wanted.then(|| ShownReprotect {
            on: self.is_on,
            waits_for: self.waits_for.clone().filter(|_| waits),
            failures: self.failures,
            last_failure: self.last_failure.as_ref().map(|(_, why)| why.clone()),
            last_failure_s: self
                .last_failure
                .as_ref()
                .map(|(at, _)| now.saturating_since(*at).as_secs()),
            next_try_s: waits.then(|| up(until_next)),
        })
    }
}

/// Whole seconds, never too few.
fn up(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::role::Side;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn seen(phase: Phase, because: &str) -> Seen<'_> {
        Seen {
            phase,
            is_free: true,
            is_by_command: false,
            because,
        }
    }

    /// A VM that was protected, has lost its backup and runs alone from `lost_ms` on.
    fn lonely(lost_ms: u64) -> Reprotect {
        let mut core = Reprotect::new(true, false);
        assert_eq!(core.step(at(0), &seen(Phase::Primary, "")), None);
        core.step(at(lost_ms), &seen(Phase::Claiming(Side::Primary), ""));
        core
    }

    fn away() -> Called {
        Called::Away("no route".into())
    }

    /// Steps from `from_ms` to `to_ms`, each call answered with `said`; when a protection was wanted.
    fn lives(core: &mut Reprotect, from_ms: u64, to_ms: u64, said: &Called) -> Option<u64> {
        for now in (from_ms..to_ms).step_by(40) {
            if let Some(Deed::Call(number)) = core.step(at(now), &seen(Phase::Alone, "lost"))
                && core.called(at(now + 30), number, said.clone()) == Some(Deed::Protect)
            {
                return Some(now + 30);
            }
        }
        None
    }

    #[test]
    fn a_peer_that_is_back_is_taken_within_five_seconds_however_often_it_failed_before() {
        let mut core = lonely(1_000);
        for tries in 0..8 {
            let from = 1_100 + tries * 400_000;
            let now = lives(&mut core, from, from + 390_000, &Called::Free).expect("tried");
            core.step(at(now), &seen(Phase::Syncing, ""));
        }
        let from = 4_000_000;
        assert_eq!(lives(&mut core, from, from + 60_000, &away()), None);
        assert_eq!(
            core.shown(at(from + 60_000)).unwrap().waits_for.unwrap(),
            "no route"
        );
        let began = lives(&mut core, from + 60_000, from + 90_000, &Called::Free).expect("tried");
        assert!(began <= from + 65_000, "{began}");
    }

    #[test]
    fn failures_put_the_next_try_off_twice_as_long_each_time_up_to_a_limit() {
        let mut core = Reprotect::new(true, true);
        let mut now = lives(&mut core, 0, 10_000, &Called::Free).expect("tried");
        let mut gaps = Vec::new();
        for _ in 0..12 {
            core.step(at(now), &seen(Phase::Cloning, ""));
            let next = lives(&mut core, now, now + 1_000_000, &Called::Free).expect("tried again");
            gaps.push(Duration::from_millis(next - now));
            now = next;
        }
        for (gap, wanted) in gaps.iter().zip([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]) {
            let wanted = Duration::from_secs(wanted);
            assert!(
                *gap >= wanted && *gap <= wanted + CALL_EVERY + Duration::from_millis(100),
                "{gaps:?}"
            );
        }
        let shown = core.shown(at(now)).unwrap();
        assert_eq!(
            (shown.failures, shown.last_failure.as_deref()),
            (12, Some("lost"))
        );
    }

    #[test]
    fn a_try_that_an_operator_asked_for_puts_nothing_off() {
        let mut core = Reprotect::new(true, true);
        let now = lives(&mut core, 0, 10_000, &Called::Free).expect("tried");
        core.step(at(now), &seen(Phase::Syncing, ""));
        core.step(at(now), &seen(Phase::Alone, "its disk failed"));
        for _ in 0..5 {
            core.step(at(now + 10), &seen(Phase::Syncing, ""));
            core.step(at(now + 20), &seen(Phase::Alone, "it is busy"));
        }
        let shown = core.shown(at(now + 20)).unwrap();
        assert_eq!(
            (shown.failures, shown.last_failure.as_deref(), shown.next_try_s),
            (1, Some("it is busy"), Some(1))
        );
        let next = lives(&mut core, now + 30, now + 10_000, &Called::Free).expect("tried");
        assert!(next >= now + 1_000, "{next}");
    }

    #[test]
    fn a_protection_that_does_not_last_is_a_failure_and_one_that_does_is_none() {
        let mut core = lonely(5_000);
        core.step(at(5_100), &seen(Phase::Alone, "its replay stood still"));
        assert_eq!(core.shown(at(5_100)).unwrap().failures, 1);
        assert_eq!(core.shown(at(5_100)).unwrap().next_try_s, Some(1));
        core.step(at(7_000), &seen(Phase::Primary, ""));
        let long = 7_001 + u64::try_from(PROTECTED_FOR_GOOD.as_millis()).unwrap();
        core.step(at(long), &seen(Phase::Alone, ""));
        assert_eq!(core.shown(at(long)).unwrap().failures, 0);
    }

    #[test]
    fn nobody_is_protected_against_an_operator_s_word() {
        let mut core = lonely(1_000);
        assert!(core.unwanted());
        assert!(!core.unwanted());
        assert_eq!(lives(&mut core, 1_100, 60_000, &Called::Free), None);
        assert_eq!(core.shown(at(2_000)), None);
        let mut never = Reprotect::new(true, false);
        assert_eq!(
            lives(&mut never, 0, 60_000, &Called::Free),
            None,
            "it was never protected"
        );
        let mut ended = lonely(1_000);
        let by_command = Seen {
            is_by_command: true,
            ..seen(Phase::Alone, "")
        };
        assert_eq!(ended.step(at(1_100), &by_command), None);
        assert!(!ended.wanted());
        let mut off = Reprotect::new(false, true);
        assert_eq!(
            lives(&mut off, 0, 60_000, &Called::Free),
            None,
            "the site's file says so"
        );
        assert!(!off.shown(at(0)).unwrap().on);
    }

    #[test]
    fn an_answer_that_comes_too_late_or_to_another_state_is_none() {
        let mut core = lonely(1_000);
        let Some(Deed::Call(first)) = core.step(at(400_000), &seen(Phase::Alone, "")) else {
            panic!("it calls at once");
        };
        assert_eq!(
            core.step(at(400_040), &seen(Phase::Alone, "")),
            None,
            "one at a time"
        );
        let late = 400_000 + u64::try_from(CALL_PATIENCE.as_millis()).unwrap();
        let Some(Deed::Call(second)) = core.step(at(late), &seen(Phase::Alone, "")) else {
            panic!("it calls again");
        };
        assert_eq!(core.called(at(late), first, Called::Free), None);
        assert_eq!(
            core.shown(at(late)).unwrap().waits_for.unwrap(),
            "it does not answer"
        );
        core.step(at(late), &seen(Phase::Syncing, ""));
        assert_eq!(
            core.called(at(late), second, Called::Free),
            None,
            "somebody else was first"
        );
    }

    #[test]
    fn a_site_that_is_there_and_busy_changes_nothing_that_was_put_off() {
        let mut core = lonely(1_000);
        core.step(at(1_100), &seen(Phase::Alone, ""));
        let busy = Called::Busy("its copy is suspecting".into());
        assert_eq!(lives(&mut core, 1_140, 1_900, &busy), None);
        assert_eq!(core.shown(at(1_900)).unwrap().failures, 1);
        let began = lives(&mut core, 1_940, 9_000, &Called::Free).unwrap();
        assert!(began >= 2_100, "{began}");
    }

    #[test]
    fn a_site_in_doubt_does_not_call() {
        let mut core = lonely(400_000);
        let doubts = Seen {
            is_free: false,
            ..seen(Phase::Alone, "")
        };
        assert_eq!(core.step(at(400_100), &doubts), None);
        assert!(
            core.step(at(400_200), &seen(Phase::Alone, "")).is_some(),
            "it waited"
        );
    }
}
