//! The scenarios, as data.
//!
//! - `sites_and_ways`: a site that is lost, and what lies between. - `hosts`: a host that is there and not well. - `rebuild`:
//!   a second failure while a protection is being made. - `operator`: what people do.

mod hosts;
mod operator;
mod rebuild;
mod sites_and_ways;

use super::plan::{Fault, Scenario, Step, Who};

/// At any moment of lockstep.
const SOON: Step = Step::Wait(0, 2_000);

/// It is broken between so many milliseconds and so many, and the VM is protected again afterwards.
const fn for_a_while(begins: Step, fault: Fault, least: u64, most: u64) -> [Step; 5] {
    [
        begins,
        Step::Break(fault),
        Step::Wait(least, most),
        Step::Mend(fault),
        Step::Protected,
    ]
}

/// Both sites are lost at once, each by its fault, and come back one after the other, `first` the first.
const fn all_is_dark(begins: Step, live: Fault, other: Fault, first: Who) -> [Step; 8] {
    let (returns, alone, follows) = match first {
        Who::Live => (live, Step::Wait(1_000, 12_000), other),
        Who::Other => (other, Step::Wait(12_000, 16_000), live),
    };
    [
        begins,
        Step::Break(live),
        Step::Break(other),
        Step::Wait(500, 3_000),
        Step::Mend(returns),
        alone,
        Step::Mend(follows),
        Step::Protected,
    ]
}

/// Every scenario.
pub(super) fn all() -> impl Iterator<Item = &'static Scenario> {
    [sites_and_ways::ALL, hosts::ALL, rebuild::ALL, operator::ALL]
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::super::plan::Moment;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_scenario_has_its_own_name_and_does_something() {
        let names: BTreeSet<_> = all().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(names.len() >= 60, "{} scenarios", names.len());
        for scenario in all() {
            let parks = matches!(scenario.moment, Moment::Parked(_) | Moment::Forced);
            assert!(
                parks
                    || scenario
                        .steps
                        .iter()
                        .any(|step| matches!(step, Step::Break(_) | Step::Switch(_) | Step::Restart(_))),
                "{}",
                scenario.name
            );
        }
    }

    #[test]
    fn the_subset_for_every_change_stays_small() {
        assert!(all().filter(|scenario| scenario.quick).count() <= 14);
    }

    #[test]
    fn what_is_mended_was_broken_before() {
        for scenario in all() {
            for (index, step) in scenario.steps.iter().enumerate() {
                if let Step::Mend(fault) = step {
                    assert!(
                        scenario.steps[..index].contains(&Step::Break(*fault)),
                        "{}: {fault:?}",
                        scenario.name
                    );
                }
            }
        }
    }

    #[test]
    fn a_seed_repeats_its_choices_and_another_makes_others() {
        let scenario = all().find(|scenario| scenario.name == "wan-flaps").unwrap();
        assert_eq!(scenario.drawn(1), scenario.drawn(1));
        assert_ne!(scenario.drawn(1), scenario.drawn(2));
        for (step, drawn) in scenario.steps.iter().zip(scenario.drawn(3)) {
            if let (Step::Wait(least, most), Step::Wait(drawn, same)) = (step, drawn) {
                assert!((*least..=*most).contains(&drawn));
                assert_eq!(drawn, same);
            }
        }
    }

    #[test]
    fn a_moment_that_was_missed_begins_the_steps_all_the_same() {
        assert_eq!(Moment::Stunned.roles()[0], "stunned");
        assert!(!Moment::Stunned.roles().contains(&"cloning"));
        for moment in [Moment::Syncing, Moment::Cloning, Moment::Pairing] {
            assert!(moment.roles().contains(&"primary"), "{moment:?}");
        }
    }
}
