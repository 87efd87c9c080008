//! From samples to figures and bounds. Pure.

use super::super::summary::Bound;
use super::HEARTBEAT_MS;
use super::records::Figures;
use crate::scenario::report::{median, rounded};
use crate::tiebreaker::town::ELECTION_HEARTBEATS;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// All that was measured.
#[derive(Debug, Default)]
pub(super) struct Samples {
    pub(super) claims: Vec<Duration>,
    pub(super) transactions: Vec<Duration>,
    pub(super) syncs: Vec<Duration>,
    pub(super) round_trips: Vec<Duration>,
    pub(super) bare_commits: Vec<Duration>,
    pub(super) claims_per_s: Vec<f64>,
    pub(super) transactions_per_s: Vec<f64>,
    pub(super) leader_kills: Vec<Duration>,
    pub(super) leader_freezes: Vec<Duration>,
    pub(super) records: Figures,
}

/// A figure's name, its value, and what it must be, if anything.
#[derive(Debug, Clone, PartialEq)]
struct Figure {
    name: &'static str,
    value: f64,
    bound: Option<Bound>,
}

/// What the samples say.
#[derive(Debug)]
pub(super) struct Report(Vec<Figure>);

impl Report {
    pub(super) fn of(samples: &Samples) -> Self {
        let at = |samples: &[Duration], part| milliseconds(percentile(samples, part));
        let (sync, round_trip) = (at(&samples.syncs, 50), at(&samples.round_trips, 50));
        let needed = at(&samples.bare_commits, 50);
        let parts = round_trip + 2.0 * sync;
        let claim = [50, 99].map(|part| at(&samples.claims, part));
        let transaction = [50, 99].map(|part| at(&samples.transactions, part));
        let rates = [&samples.claims_per_s, &samples.transactions_per_s].map(|rates| median(rates));
        let longest = |losses: &[Duration]| milliseconds(losses.iter().max().copied().unwrap_or_default());
        let election = ELECTION_HEARTBEATS * HEARTBEAT_MS;
        #[expect(clippy::cast_precision_loss, reason = "of numbers far below 2^53")]
        let (resident, election) = (samples.records.resident_bytes as f64, election as f64);
        let records = &samples.records;
        let free = |name, value| Figure {
            name,
            value,
            bound: None,
        };
        let bounded = |name, value, most| Figure {
            name,
            value,
            bound: Some(Bound::AtMost(most)),
        };
        Self(vec![
            free("round_trip_ms", round_trip),
            free("sync_ms", sync),
            free("raft_needs_ms", needed),
            free("claim_ms_p50", claim[0]),
            free("claim_ms_p99", claim[1]),
            bounded("claim_vs_needs", claim[0] / needed, 1.2),
            bounded("claim_vs_parts", claim[0] / parts, 1.2),
            free("etcd_ms_p50", transaction[0]),
            free("etcd_ms_p99", transaction[1]),
            free("latency_vs_etcd_p50", claim[0] / transaction[0]),
            free("latency_vs_etcd_p99", claim[1] / transaction[1]),
            free("changes_per_s", rates[0]),
            free("etcd_per_s", rates[1]),
            free("throughput_vs_etcd", rates[0] / rates[1]),
            bounded(
                "leader_kill_ms_max",
                longest(&samples.leader_kills),
                2.0 * election,
            ),
            bounded(
                "leader_freeze_ms_max",
                longest(&samples.leader_freezes),
                2.0 * election,
            ),
            free("records", f64::from(records.count)),
            bounded("status_ms", milliseconds(records.status), 200.0),
            bounded("snapshot_ms", milliseconds(records.snapshot), 1000.0),
            bounded("start_ms", milliseconds(records.start), 2000.0),
            bounded("resident_mib", resident / f64::from(1 << 20), 100.0),
        ])
    }

    /// Those out of their bounds. What could not be computed is.
    pub(super) fn broken(&self) -> Vec<&'static str> {
        let kept = |figure: &Figure| figure.bound.is_none_or(|bound| bound.holds(figure.value));
        self.0
            .iter()
            .filter(|figure| !kept(figure))
            .map(|figure| figure.name)
            .collect()
    }

    pub(super) fn to_json(&self) -> Value {
        let mut line = Map::new();
        let broken = self.broken();
        line.insert("ok".to_owned(), json!(broken.is_empty()));
        line.insert("out_of_bounds".to_owned(), json!(broken));
        for figure in &self.0 {
            line.insert(figure.name.to_owned(), json!(rounded(figure.value)));
        }
        Value::Object(line)
    }

    pub(super) fn show(&self) {
        let broken = self.broken();
        for figure in &self.0 {
            let verdict = if broken.contains(&figure.name) {
                "BROKEN"
            } else {
                "kept"
            };
            let bound = figure
                .bound
                .map_or_else(String::new, |bound| format!("  {bound}: {verdict}"));
            println!("{:<24}{:>12.3}{bound}", figure.name, figure.value);
        }
    }
}

fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

/// The sample that so many of a hundred are below; zero of none.
fn percentile(samples: &[Duration], part: usize) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort();
    sorted.get(sorted.len() * part / 100).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Samples {
        let ms = Duration::from_millis;
        Samples {
            claims: vec![ms(4), ms(3), ms(9)],
            transactions: vec![ms(2)],
            syncs: vec![ms(2)],
            round_trips: vec![ms(1)],
            bare_commits: vec![ms(4)],
            claims_per_s: vec![300.0, 100.0, 200.0],
            transactions_per_s: vec![400.0],
            leader_kills: vec![ms(1100), ms(1300)],
            leader_freezes: vec![ms(1600)],
            records: Figures {
                count: 10,
                start: ms(20),
                status: ms(199),
                snapshot: ms(300),
                resident_bytes: 50 << 20,
            },
        }
    }

    #[test]
    fn figures_are_ours_against_theirs_and_against_what_raft_needs() {
        let report = Report::of(&samples());
        assert_eq!(report.broken(), Vec::<&str>::new());
        let line = report.to_json();
        let expected = [
            ("raft_needs_ms", 4.0),
            ("claim_vs_needs", 1.0),
            ("claim_vs_parts", 0.8),
            ("latency_vs_etcd_p50", 2.0),
            ("latency_vs_etcd_p99", 4.5),
            ("throughput_vs_etcd", 0.5),
            ("leader_kill_ms_max", 1300.0),
            ("leader_freeze_ms_max", 1600.0),
            ("resident_mib", 50.0),
        ];
        for (name, value) in expected {
            assert_eq!(line[name], value, "{name}");
        }
    }

    #[test]
    fn each_bound_is_told_when_it_is_broken() {
        let mut slow = samples();
        slow.claims = vec![Duration::from_millis(7)];
        slow.leader_kills.push(Duration::from_millis(2001));
        slow.records.resident_bytes = 101 << 20;
        let broken = [
            "claim_vs_needs",
            "claim_vs_parts",
            "leader_kill_ms_max",
            "resident_mib",
        ];
        assert_eq!(Report::of(&slow).broken(), broken);
        assert!(
            !Report::of(&Samples::default()).broken().is_empty(),
            "nothing measured is no pass"
        );
    }
}
