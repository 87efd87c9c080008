//! From samples to figures and bounds. Pure.

use super::super::figures::Figures;
use super::super::summary::Bound;
use super::load::Load;
use crate::image::Service;
use serde::Serialize;

/// What a stun may take at most.
const STUN_MS: f64 = 1_000.0;

/// Beyond noticing and claiming, what a gap may take where an echo takes as long as the way.
const GAP_MS: f64 = 500.0;

/// What is to be measured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) rtts_ms: Vec<u64>,
    pub(super) loads: Vec<Load>,
}

impl Plan {
    /// Those loads that take this guest.
    pub(super) fn of(&self, service: Service) -> Vec<Load> {
        let own = |load: &Load| load.service() == service;
        self.loads.iter().copied().filter(own).collect()
    }
}

/// One load in one round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Trial {
    pub(super) rtt_ms: u64,
    pub(super) load: Load,
    /// Requests a second, of the VM and of its twin.
    pub(super) unprotected_per_s: [f64; 2],
    /// Processor milliseconds by request.
    pub(super) unprotected_cpu_ms: f64,
    /// Absent if the protection did not last.
    pub(super) protected: Option<Protected>,
    pub(super) unasked_failovers: u64,
}

/// The part of it in lockstep.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Protected {
    pub(super) per_s: f64,
    pub(super) primary_cpu_ms: f64,
    pub(super) backup_cpu_ms: f64,
    pub(super) hold_ms_p50: Option<f64>,
    pub(super) hold_ms_p99: Option<f64>,
    pub(super) echo_ms_p50: Option<f64>,
    pub(super) echo_ms_p99: Option<f64>,
    pub(super) stun_ms: Option<f64>,
    pub(super) wan_kib_per_s: f64,
    /// Times that the guest was stopped while it computed, since lockstep began.
    pub(super) preemptions: u64,
}

impl Trial {
    fn unprotected(&self) -> f64 {
        let [first, twin] = self.unprotected_per_s;
        f64::midpoint(first, twin)
    }

    /// Protected by unprotected; nothing if the protection did not last.
    pub(super) fn ratio(&self) -> Option<f64> {
        Some(self.protected.as_ref()?.per_s / self.unprotected())
    }

    /// For whoever waits for the end.
    pub(super) fn in_words(&self) -> String {
        match (&self.protected, self.ratio()) {
            (Some(protected), Some(ratio)) => format!(
                "{:.1}/s protected, {:.1}/s not: {ratio:.2}",
                protected.per_s,
                self.unprotected()
            ),
            _ => format!("{:.1}/s unprotected", self.unprotected()),
        }
    }
}

impl Protected {
    /// Half of the outputs' holds by what they may be.
    fn half(&self) -> Option<f64> {
        Some(self.hold_ms_p50? / (1.25 * self.echo_ms_p50? + 1.0))
    }

    /// The same of 99 in 100.
    fn most(&self) -> Option<f64> {
        Some(self.hold_ms_p99? / (2.0 * self.echo_ms_p99?))
    }
}

/// One power cut.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Gap {
    pub(super) rtt_ms: u64,
    /// The longest silence of a guest that is probed every 20 ms.
    pub(super) probe_ms: u64,
    /// The longest silence of a connection.
    pub(super) connection_ms: u64,
    pub(super) detection_ms: Option<f64>,
    pub(super) claim_ms: Option<f64>,
    pub(super) going_live_ms: Option<f64>,
    /// Before the cut.
    pub(super) echo_ms_p50: Option<f64>,
    pub(super) unasked_failovers: u64,
}

impl Gap {
    /// What the silence may be.
    fn allowed_ms(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "at most hundreds")]
        let rtt_ms = self.rtt_ms as f64;
        // Without any way there is nothing to measure an echo by.
        let slowness = match self.rtt_ms {
            0 => 1.0,
            _ => self.echo_ms_p50? / rtt_ms,
        };
        Some(self.detection_ms? + self.claim_ms? + GAP_MS * slowness)
    }
}

/// All that was measured.
#[derive(Debug, Default)]
pub(super) struct Samples {
    pub(super) trials: Vec<Trial>,
    pub(super) gaps: Vec<Gap>,
    /// What could not be measured, and why.
    pub(super) failures: Vec<String>,
}

/// What the samples say.
#[derive(Debug)]
pub(super) struct Report(Figures);

impl Report {
    /// A figure for everything that was planned, measured or not.
    pub(super) fn of(plan: &Plan, samples: &Samples) -> Figures {
        let mut report = Self(Figures::default());
        for load in &plan.loads {
            for rtt_ms in &plan.rtts_ms {
                report.add_load(*load, *rtt_ms, samples);
            }
        }
        if !plan.of(Service::Redis).is_empty() {
            for rtt_ms in &plan.rtts_ms {
                report.add_gap(*rtt_ms, samples);
            }
        }
        report.add_counts(samples);
        report.0
    }

    fn add_load(&mut self, load: Load, rtt_ms: u64, samples: &Samples) {
        type Of<'a> = &'a dyn Fn(&Protected) -> Option<f64>;
        let own: Vec<&Trial> = samples
            .trials
            .iter()
            .filter(|trial| trial.load == load && trial.rtt_ms == rtt_ms)
            .collect();
        let every = |of: &dyn Fn(&Trial) -> Option<f64>| own.iter().filter_map(|trial| of(trial)).collect();
        let protected = |of: Of<'_>| every(&|trial| of(trial.protected.as_ref()?));
        let name = |what: &str| format!("{what}_{}_{rtt_ms}ms", load.name());
        self.0.bounded(name("ratio"), every(&Trial::ratio), load.bound());
        self.0.free(
            name("unprotected_per_s"),
            every(&|trial| Some(trial.unprotected())),
        );
        self.0.free(
            name("protected_per_s"),
            protected(&|protected| Some(protected.per_s)),
        );
        let cpu = |part: &str| name(&format!("cpu_ms_a_request_{part}"));
        self.0
            .free(cpu("unprotected"), every(&|trial| Some(trial.unprotected_cpu_ms)));
        self.0.free(
            cpu("primary"),
            protected(&|protected| Some(protected.primary_cpu_ms)),
        );
        self.0.free(
            cpu("backup"),
            protected(&|protected| Some(protected.backup_cpu_ms)),
        );
        let measured: [(&str, Of<'_>); 5] = [
            ("hold_ms_p50", &|protected| protected.hold_ms_p50),
            ("echo_ms_p50", &|protected| protected.echo_ms_p50),
            ("hold_ms_p99", &|protected| protected.hold_ms_p99),
            ("echo_ms_p99", &|protected| protected.echo_ms_p99),
            ("wan_kib_per_s", &|protected| Some(protected.wan_kib_per_s)),
        ];
        for (what, of) in measured {
            self.0.free(name(what), protected(of));
        }
        let by_allowed: [(&str, Of<'_>); 2] = [
            ("hold_p50_by_allowed", &Protected::half),
            ("hold_p99_by_allowed", &Protected::most),
        ];
        for (what, of) in by_allowed {
            self.0.bounded(name(what), protected(of), Bound::AtMost(1.0));
        }
        let stuns = protected(&|protected| protected.stun_ms);
        self.0.each(name("stun_ms"), stuns, Bound::AtMost(STUN_MS));
    }

    fn add_gap(&mut self, rtt_ms: u64, samples: &Samples) {
        let own: Vec<&Gap> = samples.gaps.iter().filter(|gap| gap.rtt_ms == rtt_ms).collect();
        let every = |of: &dyn Fn(&Gap) -> Option<f64>| own.iter().filter_map(|gap| of(gap)).collect();
        let name = |what: &str| format!("{what}_{rtt_ms}ms");
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of minutes")]
        let milliseconds = |count: u64| count as f64;
        let gap = |gap: &Gap| milliseconds(gap.probe_ms);
        self.0.free(name("gap_ms"), every(&|one| Some(gap(one))));
        self.0.free(name("gap_allowed_ms"), every(&Gap::allowed_ms));
        self.0.bounded(
            name("gap_by_allowed"),
            every(&|one| Some(gap(one) / one.allowed_ms()?)),
            Bound::AtMost(1.0),
        );
        self.0.free(
            name("gap_connection_ms"),
            every(&|one| Some(milliseconds(one.connection_ms))),
        );
        self.0.free(name("detection_ms"), every(&|one| one.detection_ms));
        self.0.free(name("claim_ms"), every(&|one| one.claim_ms));
        self.0
            .free(name("going_live_ms"), every(&|one| one.going_live_ms));
    }

    fn add_counts(&mut self, samples: &Samples) {
        let Samples {
            trials,
            gaps,
            failures,
        } = samples;
        let in_trials = trials.iter().map(|trial| trial.unasked_failovers);
        let unasked = in_trials.chain(gaps.iter().map(|gap| gap.unasked_failovers));
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let count = |number: u64| number as f64;
        // Where nothing was tried, nothing is known.
        let tried = !trials.is_empty();
        let known = |number: u64| tried.then_some(count(number)).into_iter().collect();
        let lost = trials.iter().filter(|trial| trial.protected.is_none()).count();
        self.0
            .bounded("unasked_failovers", known(unasked.sum()), Bound::AtMost(0.0));
        self.0
            .bounded("protections_lost", known(lost as u64), Bound::AtMost(0.0));
        self.0
            .bounded("failures", vec![count(failures.len() as u64)], Bound::AtMost(0.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn protected(per_s: f64) -> Protected {
        Protected {
            per_s,
            primary_cpu_ms: 2.0,
            backup_cpu_ms: 1.0,
            hold_ms_p50: Some(51.0),
            hold_ms_p99: Some(120.0),
            echo_ms_p50: Some(40.0),
            echo_ms_p99: Some(60.0),
            stun_ms: Some(400.0),
            wan_kib_per_s: 30.0,
            preemptions: 7,
        }
    }

    fn trial(unprotected_per_s: [f64; 2], per_s: f64) -> Trial {
        Trial {
            rtt_ms: 40,
            load: Load::Redis,
            unprotected_per_s,
            unprotected_cpu_ms: 1.5,
            protected: Some(protected(per_s)),
            unasked_failovers: 0,
        }
    }

    fn gap() -> Gap {
        Gap {
            rtt_ms: 40,
            probe_ms: 1_000,
            connection_ms: 1_300,
            detection_ms: Some(350.0),
            claim_ms: Some(50.0),
            going_live_ms: Some(20.0),
            echo_ms_p50: Some(48.0),
            unasked_failovers: 0,
        }
    }

    fn plan() -> Plan {
        Plan {
            rtts_ms: vec![40],
            loads: vec![Load::Redis],
        }
    }

    fn samples() -> Samples {
        Samples {
            trials: vec![
                trial([90.0, 110.0], 95.0),
                trial([100.0, 300.0], 190.0),
                trial([50.0, 50.0], 20.0),
            ],
            gaps: vec![gap()],
            failures: Vec::new(),
        }
    }

    #[test]
    fn a_ratio_is_of_one_round_and_against_the_mean_of_both() {
        let report = Report::of(&plan(), &samples());
        assert_eq!(report.broken(), Vec::<&str>::new());
        let figures = report.to_json();
        assert_eq!(
            figures["ratio_redis_40ms"],
            json!({ "value": 0.95, "median": 0.95, "min": 0.4, "max": 0.95, "bound": "at least 0.9", "kept": true })
        );
        assert_eq!(figures["unprotected_per_s_redis_40ms"]["max"], 200.0);
        assert_eq!(
            figures["hold_p50_by_allowed_redis_40ms"]["value"], 1.0,
            "1.25 × 40 + 1"
        );
        assert_eq!(figures["hold_p99_by_allowed_redis_40ms"]["value"], 1.0, "2 × 60");
        assert_eq!(
            figures["gap_allowed_ms_40ms"]["value"], 1_000.0,
            "350 + 50 + 500 × 48 ÷ 40"
        );
        assert_eq!(figures["gap_connection_ms_40ms"]["value"], 1_300.0);
    }

    #[test]
    fn each_bound_is_told_when_it_is_broken() {
        let mut bad = samples();
        for trial in &mut bad.trials {
            let slow = Protected {
                hold_ms_p50: Some(51.1),
                hold_ms_p99: Some(120.1),
                ..protected(1.0)
            };
            trial.protected = Some(slow);
        }
        // One long stun is one too many.
        bad.trials[1].protected.as_mut().unwrap().stun_ms = Some(1_001.0);
        bad.trials[2].unasked_failovers = 1;
        bad.gaps[0].probe_ms = 1_001;
        bad.failures
            .push("compute, 40 ms: the guest computes nothing".to_owned());
        let broken = [
            "ratio_redis_40ms",
            "hold_p50_by_allowed_redis_40ms",
            "hold_p99_by_allowed_redis_40ms",
            "stun_ms_redis_40ms",
            "gap_by_allowed_40ms",
            "unasked_failovers",
            "failures",
        ];
        assert_eq!(Report::of(&plan(), &bad).broken(), broken);
    }

    #[test]
    fn without_a_way_half_a_second_is_given() {
        let near = Gap {
            rtt_ms: 0,
            echo_ms_p50: Some(3.0),
            ..gap()
        };
        assert_eq!(near.allowed_ms(), Some(900.0));
        let unknown = Gap {
            claim_ms: None,
            ..near
        };
        assert_eq!(unknown.allowed_ms(), None);
    }

    #[test]
    fn what_was_not_measured_keeps_no_bound() {
        let mut lost = samples();
        for trial in &mut lost.trials {
            trial.protected = None;
        }
        lost.gaps[0].echo_ms_p50 = None;
        let broken = [
            "ratio_redis_40ms",
            "hold_p50_by_allowed_redis_40ms",
            "hold_p99_by_allowed_redis_40ms",
            "stun_ms_redis_40ms",
            "gap_by_allowed_40ms",
            "protections_lost",
        ];
        assert_eq!(Report::of(&plan(), &lost).broken(), broken);
        let all = Plan {
            rtts_ms: vec![0, 80],
            loads: Load::ALL.to_vec(),
        };
        let nothing = Report::of(&all, &Samples::default());
        let shown = nothing.to_json();
        let bounded = shown
            .as_object()
            .unwrap()
            .values()
            .filter(|figure| figure.get("bound").is_some())
            .count();
        assert_eq!(
            nothing.broken().len(),
            bounded - 1,
            "of nothing, nothing but failures is known"
        );
        assert_eq!(shown["ratio_compute_80ms"]["value"], Value::Null);
    }
}
