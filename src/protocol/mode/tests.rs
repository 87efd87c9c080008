//! Each row of the table, and that no guest makes the modes swing.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::policy::{Bound, ROWS};
use super::*;
use crate::protocol::limits::{MODE_LASTS, MODE_STAY_MAX, MODE_STAY_MIN};
use crate::protocol::moment::Moment;

const CALM: Rates = Rates {
    repairs: 0,
    preemptions: 0,
    state: 0,
    hold: 0,
};
const LEAKS: Rates = Rates { repairs: 6, ..CALM };
const COMPUTES: Rates = Rates {
    preemptions: 20,
    ..CALM
};

fn at(seconds: u64) -> Moment {
    Moment::from_nanos(seconds * 1_000_000_000)
}

/// The mode that is, what is measured, and what follows. Each pair of lines lies on both sides of a bound.
fn cases() -> Vec<(Mode, Rates, Option<Cause>)> {
    use Mode::{Checkpoint, Replay};
    let with = |preemptions, state, hold| Rates {
        preemptions,
        state,
        hold,
        ..CALM
    };
    let repairs = |repairs| Rates { repairs, ..CALM };
    vec![
        (Replay, repairs(6), Some(Cause::Differs)),
        (Replay, repairs(5), None),
        (Replay, with(20, 8192, 0), Some(Cause::Computes)),
        (Replay, with(19, 8192, 0), None),
        (Replay, with(20, 8191, 499), None),
        (Replay, with(20, 0, 500), Some(Cause::OutputsWait)),
        (Replay, with(19, 0, 500), None),
        (Replay, with(0, 1_000_000, 1_000_000), None),
        (Checkpoint, with(20, 49_152, 0), Some(Cause::Dear)),
        (Checkpoint, with(20, 49_151, 1999), None),
        (Checkpoint, with(20, 0, 2000), Some(Cause::Slow)),
        (Checkpoint, with(9, 0, 0), Some(Cause::Calm)),
        (Checkpoint, with(10, 0, 0), None),
        (Checkpoint, repairs(60), Some(Cause::Calm)),
    ]
}

#[test]
fn each_row_is_decided_as_it_says_and_each_is_asked() {
    let mut asked = BTreeSet::new();
    for (mode, rates, cause) in cases() {
        let decision = answer(mode, &rates);
        assert_eq!(decision.cause, cause, "{mode:?} {rates:?}");
        assert_eq!(decision.mode == mode, cause.is_none());
        asked.extend(ROWS.iter().position(|row| row.fits(mode, &rates)));
    }
    let all: BTreeSet<usize> = (0..ROWS.len()).collect();
    assert_eq!(asked, all, "a row that no case leads to");
    let named: BTreeSet<Cause> = ROWS.iter().filter_map(|row| row.decision.cause).collect();
    assert_eq!(named, Cause::OF_TABLE.iter().copied().collect());
}

/// Between what leads into checkpoints and what leads out of them lies a gap.
#[test]
fn what_leads_in_and_what_leads_out_do_not_touch() {
    let bounds = |mode| {
        let rows = ROWS.iter().filter(move |row| row.mode == mode);
        rows.map(|row| row.preemptions)
    };
    let least = bounds(Mode::Replay).filter_map(|bound| match bound {
        Bound::AtLeast(least) => Some(least),
        Bound::Any | Bound::Below(_) => None,
    });
    let below = bounds(Mode::Checkpoint).filter_map(|bound| match bound {
        Bound::Below(below) => Some(below),
        Bound::Any | Bound::AtLeast(_) => None,
    });
    let (least, below) = (least.min().unwrap(), below.max().unwrap());
    assert!(below * 2 <= least, "leaves below {below}, comes at {least}");
}

/// Each change in `seconds`, when the guest is measured as said in each mode.
fn changes(seconds: u64, in_replay: &Rates, in_checkpoint: &Rates) -> Vec<(u64, Mode, Cause)> {
    let mut policy = Policy::new(at(0), Choice::Auto);
    let step = |second| {
        let rates = match policy.mode() {
            Mode::Replay => in_replay,
            Mode::Checkpoint => in_checkpoint,
        };
        let mode = policy.step(at(second), || *rates)?;
        Some((second, mode, policy.cause().unwrap()))
    };
    (0..seconds).filter_map(step).collect()
}

#[test]
fn a_guest_that_leaks_for_ever_is_tried_ever_more_rarely() {
    let changes = changes(4 * 3600, &LEAKS, &CALM);
    let expected = [
        (60, Mode::Checkpoint, Cause::Differs),
        (120, Mode::Replay, Cause::Calm),
        (180, Mode::Checkpoint, Cause::Differs),
        (300, Mode::Replay, Cause::Calm),
        (360, Mode::Checkpoint, Cause::Differs),
        (600, Mode::Replay, Cause::Calm),
    ];
    assert_eq!(changes[..6], expected);
    let longest = changes.windows(2).map(|pair| pair[1].0 - pair[0].0).max();
    assert_eq!(longest, Some(MODE_STAY_MAX.as_secs()));
    assert!(changes.len() < 20, "{changes:?}");
}

#[test]
fn what_has_lasted_was_no_try_that_failed() {
    let mut policy = Policy::new(at(0), Choice::Auto);
    let mut now = 0;
    let mut after = |span: u64, rates: &Rates| {
        now += span;
        policy.step(at(now), || *rates).map(|_| policy.stay().as_secs())
    };
    let stay = MODE_STAY_MIN.as_secs();
    let lasts = MODE_LASTS.as_secs();
    assert_eq!(after(stay - 1, &LEAKS), None);
    assert_eq!(after(1, &LEAKS), Some(stay));
    assert_eq!(after(stay, &CALM), Some(stay));
    assert_eq!(after(stay, &LEAKS), Some(2 * stay));
    assert_eq!(after(2 * stay, &CALM), Some(stay));
    assert_eq!(after(stay + lasts - 1, &LEAKS), Some(4 * stay));
    assert_eq!(after(4 * stay, &CALM), Some(stay));
    assert_eq!(after(stay + lasts, &LEAKS), Some(stay), "it has lasted");
}

#[test]
fn checkpoints_that_are_worse_are_not_tried_again_soon() {
    let computes = Rates {
        state: 8192,
        ..COMPUTES
    };
    let dear = Rates {
        state: 49_152,
        ..COMPUTES
    };
    let changes: Vec<u64> = changes(1000, &computes, &dear)
        .iter()
        .map(|change| change.0)
        .collect();
    // Replay for 60, checkpoints for 60, replay for 120; then checkpoints for 120, as replay came to nothing as well.
    assert_eq!(changes, [60, 120, 240, 360, 600, 840]);
}

#[test]
fn what_an_operator_chooses_counts_at_once_and_stays() {
    for (mode, rates) in [(Mode::Checkpoint, CALM), (Mode::Replay, LEAKS)] {
        let mut policy = Policy::new(at(0), Choice::Always(mode));
        let first = policy.step(at(0), || rates);
        assert_eq!(first, (mode != Mode::Replay).then_some(mode));
        assert_eq!(policy.cause(), first.map(|_| Cause::Chosen));
        assert!((1..10_000).all(|second| policy.step(at(second), || rates).is_none()));
        assert_eq!(policy.mode(), mode);
    }
}

fn rates() -> impl Strategy<Value = Rates> {
    (0..12_u64, 0..40_u64, 0..100_000_u64, 0..4_000_u64).prop_map(|(repairs, preemptions, state, hold)| {
        Rates {
            repairs,
            preemptions,
            state,
            hold,
        }
    })
}

proptest! {
    #[test]
    fn no_mode_is_left_before_its_stay(
        steps in prop::collection::vec((1..90_u64, rates()), 1..400),
    ) {
        let mut policy = Policy::new(at(0), Choice::Auto);
        let (mut now, mut changed, mut stay) = (0, 0, MODE_STAY_MIN);
        for (span, rates) in steps {
            now += span;
            let before = policy.mode();
            if let Some(mode) = policy.step(at(now), || rates) {
                prop_assert!(mode != before && mode == policy.mode());
                prop_assert!(Duration::from_secs(now - changed) >= stay);
                prop_assert!(policy.cause().is_some());
                (changed, stay) = (now, policy.stay());
            }
            prop_assert!((MODE_STAY_MIN..=MODE_STAY_MAX).contains(&policy.stay()));
        }
    }

    #[test]
    fn a_guest_that_is_always_the_same_is_asked_ever_more_rarely(
        in_replay in rates(),
        in_checkpoint in rates(),
    ) {
        let day = 24 * 3600;
        let changes = changes(day, &in_replay, &in_checkpoint);
        // Six times the stay doubles, and from then on each lasts for an hour, with a short try in between.
        prop_assert!(changes.len() <= 2 * (7 + 24), "{:?}", changes);
    }

    #[test]
    fn every_question_has_an_answer(rates in rates()) {
        for mode in Mode::ALL {
            let decision = answer(*mode, &rates);
            prop_assert_eq!(decision.cause.is_none(), decision.mode == *mode);
        }
    }
}
