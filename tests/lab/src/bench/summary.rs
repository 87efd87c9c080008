//! From rounds to ratios. Pure.

use super::contestant::Contestant;
use super::trial::Trial;
use crate::scenario::report::rounded;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;

/// Median, least and greatest of a figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` without values.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self {
            median: f64::midpoint(low, high),
            min,
            max,
        })
    }
}

/// One figure of both machines.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Figure {
    pub(super) antipode: Spread,
    pub(super) qemu: Spread,
    /// Of the medians, Antipode's ÷ QEMU's.
    pub(super) ratio: f64,
}

/// Which side of a bound is good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    /// Whether `value` is on its good side. What could not be computed is not.
    pub(super) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least && value.is_finite(),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(formatter, "at most {most}"),
            Self::AtLeast(least) => write!(formatter, "at least {least}"),
        }
    }
}

/// How a bench ends whose figures `broken` are out of their bounds.
pub(super) fn exit_code(broken: &[&str]) -> ExitCode {
    if broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What is promised, in the order in which it is shown.
pub(super) const BOUNDS: &[(&str, Bound)] = &[
    ("ratio_boot", Bound::AtMost(1.5)),
    ("ratio_idle", Bound::AtMost(1.5)),
    ("memory_beyond_guest_mib", Bound::AtMost(40.0)),
    ("ratio_blk_seq", Bound::AtLeast(0.5)),
    ("ratio_blk_rand", Bound::AtLeast(0.5)),
    ("ratio_net_tx", Bound::AtLeast(0.5)),
    ("ratio_net_rx", Bound::AtLeast(0.5)),
];

/// Every figure by name.
pub(super) fn figures(trials: &[Trial]) -> BTreeMap<&'static str, Figure> {
    let mut figures = BTreeMap::new();
    let mut add = |name, value: &dyn Fn(&Trial) -> Option<f64>| {
        if let Some(figure) = figure(trials, value) {
            figures.insert(name, figure);
        }
    };
    add("boot_s", &|trial| Some(trial.boot_s));
    add("idle_cpu_permille", &|trial| Some(trial.idle_cpu_permille));
    add("memory_beyond_guest_mib", &|trial| {
        Some(trial.memory_beyond_guest_mib)
    });
    for (name, _) in super::trial::loads() {
        add(name, &|trial| Some(trial.loads.get(name)?.mib_per_s));
    }
    figures
}

fn figure(trials: &[Trial], value: &dyn Fn(&Trial) -> Option<f64>) -> Option<Figure> {
    let spread = |contestant| {
        let own = trials.iter().filter(|trial| trial.contestant == contestant);
        Spread::of(own.filter_map(value).collect())
    };
    let (antipode, qemu) = (spread(Contestant::Antipode)?, spread(Contestant::Qemu)?);
    Some(Figure {
        antipode,
        qemu,
        ratio: antipode.median / qemu.median,
    })
}

/// The figures that have bounds. Where several loads stand for one, the worst of them does.
pub(super) fn bounded(figures: &BTreeMap<&'static str, Figure>) -> BTreeMap<&'static str, f64> {
    let ratio = |names: &[&str]| {
        let ratios = names.iter().filter_map(|name| Some(figures.get(name)?.ratio));
        ratios.fold(f64::INFINITY, f64::min)
    };
    let memory = figures
        .get("memory_beyond_guest_mib")
        .map_or(f64::INFINITY, |figure| figure.antipode.median);
    let all = [
        ("ratio_boot", ratio(&["boot_s"])),
        ("ratio_idle", ratio(&["idle_cpu_permille"])),
        ("memory_beyond_guest_mib", memory),
        ("ratio_blk_seq", ratio(&["seq_read", "seq_write"])),
        (
            "ratio_blk_rand",
            ratio(&["rand_read", "rand_write", "rand_read_4", "rand_write_4"]),
        ),
        ("ratio_net_tx", ratio(&["net_tx"])),
        ("ratio_net_rx", ratio(&["net_rx"])),
    ];
    all.into_iter()
        .map(|(name, value)| (name, rounded(value)))
        .collect()
}

/// The names of what is out of bounds.
pub(super) fn out_of_bounds(bounded: &BTreeMap<&'static str, f64>) -> Vec<&'static str> {
    broken(BOUNDS, bounded)
}

/// Those of `bounds` that `figures` do not keep, or do not have.
pub(super) fn broken(
    bounds: &[(&'static str, Bound)],
    figures: &BTreeMap<&'static str, f64>,
) -> Vec<&'static str> {
    let is_kept = |name: &str, bound: &Bound| figures.get(name).is_some_and(|value| bound.holds(*value));
    let broken = bounds.iter().filter(|(name, bound)| !is_kept(name, bound));
    broken.map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::trial::Load;

    fn trial(contestant: Contestant, boot_s: f64, speed: f64) -> Trial {
        let load = Load {
            mib_per_s: speed,
            requests_per_s: 1.0,
            cpu_us_per_request: 1.0,
            kvm_per_request: BTreeMap::new(),
        };
        let loads = crate::bench::trial::loads().into_iter();
        Trial {
            contestant,
            boot_s,
            idle_cpu_permille: boot_s,
            idle_kvm_per_s: BTreeMap::new(),
            memory_beyond_guest_mib: 10.0,
            loads: loads.map(|(name, _)| (name, load.clone())).collect(),
            summary: None,
        }
    }

    #[test]
    fn ratios_are_of_medians() {
        let mut trials = Vec::new();
        for (ours, theirs) in [(2.0, 1.0), (100.0, 2.0), (4.0, 50.0)] {
            trials.push(trial(Contestant::Antipode, ours, ours));
            trials.push(trial(Contestant::Qemu, theirs, theirs));
        }
        let figures = figures(&trials);
        let boot = figures["boot_s"];
        assert_eq!(
            (boot.antipode.median, boot.qemu.median, boot.ratio),
            (4.0, 2.0, 2.0)
        );
        assert_eq!((boot.antipode.min, boot.antipode.max), (2.0, 100.0));
        assert_eq!(out_of_bounds(&bounded(&figures)), ["ratio_boot", "ratio_idle"]);
    }

    #[test]
    fn the_worst_load_stands_for_the_disk() {
        let ours = trial(Contestant::Antipode, 1.0, 10.0);
        let mut theirs = trial(Contestant::Qemu, 1.0, 10.0);
        theirs.loads.get_mut("rand_write_4").unwrap().mib_per_s = 40.0;
        let bounded = bounded(&figures(&[ours, theirs]));
        assert_eq!((bounded["ratio_blk_rand"], bounded["ratio_blk_seq"]), (0.25, 1.0));
        assert_eq!(out_of_bounds(&bounded), ["ratio_blk_rand"]);
    }

    #[test]
    fn nothing_measured_keeps_no_bound() {
        assert_eq!(out_of_bounds(&bounded(&BTreeMap::new())).len(), BOUNDS.len());
    }
}
