//! From samples to figures and bounds. Pure.

use super::super::figures::Figures;
use super::super::summary::Bound;
use serde::Serialize;

/// What may be sent, and what time it may take, by what must be.
const BY_NEEDED_MOST: f64 = 1.2;
const BY_NEEDED: Bound = Bound::AtMost(BY_NEEDED_MOST);

/// Beyond that, how many seconds a VM may be unprotected when its other site is there again.
const BEYOND_S: Bound = Bound::AtMost(2.0);

/// From the return of a site to the beginning of the protection, in seconds.
const START_S: Bound = Bound::AtMost(5.0);

/// What a switchover may take: so many ways there and back, and so many milliseconds where an echo takes as long as the way.
const GAP_RTTS: f64 = 4.0;
const GAP_MS: f64 = 200.0;

/// A site that was lost, and follows again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Return {
    /// From its first answer to the beginning of the protection.
    pub(super) start_s: f64,
    /// From there to a VM that is protected.
    pub(super) took_s: f64,
    /// Bytes that the live site sent it in all that time.
    pub(super) wire_bytes: u64,
    /// How long those take on the line.
    pub(super) line_s: f64,
    /// How long a host takes to hash what could differ.
    pub(super) hashing_s: f64,
    /// How much of the disk was looked at.
    pub(super) kind: String,
    pub(super) disk_changed_bytes: u64,
    pub(super) disk_sent_bytes: u64,
    pub(super) memory_once_bytes: u64,
    pub(super) memory_sent_bytes: u64,
}

impl Return {
    /// Seconds that it needs.
    fn needed_s(&self) -> f64 {
        self.line_s + self.hashing_s
    }

    /// Seconds without protection, beyond what it may take.
    fn beyond_s(&self) -> f64 {
        self.start_s + self.took_s - BY_NEEDED_MOST * self.needed_s()
    }
}

/// A switchover.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Switchover {
    pub(super) rtt_ms: f64,
    /// Before it.
    pub(super) echo_ms_p50: f64,
    /// The longest silence of a guest that is probed every 20 ms.
    pub(super) probe_ms: f64,
    /// The longest silence of a connection.
    pub(super) connection_ms: f64,
}

impl Switchover {
    fn allowed_ms(&self) -> f64 {
        (GAP_RTTS * self.rtt_ms + GAP_MS) * (self.echo_ms_p50 / self.rtt_ms)
    }
}

/// All that was measured.
#[derive(Debug, Default)]
pub(super) struct Samples {
    pub(super) returns: Vec<Return>,
    pub(super) switchovers: Vec<Switchover>,
    /// What could not be measured, and why.
    pub(super) failures: Vec<String>,
}

impl Samples {
    pub(super) fn figures(&self) -> Figures {
        let mut figures = Figures::default();
        let every = |of: &dyn Fn(&Return) -> f64| self.returns.iter().map(of).collect::<Vec<_>>();
        #[expect(clippy::cast_precision_loss, reason = "bytes of a VM are below 2^52")]
        let ratio = |part: u64, whole: u64| part as f64 / whole as f64;
        #[expect(clippy::cast_precision_loss, reason = "bytes of a VM are below 2^52")]
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        figures.each("start_s", every(&|one| one.start_s), START_S);
        figures.free("took_s", every(&|one| one.took_s));
        figures.free("line_s", every(&|one| one.line_s));
        figures.free("hashing_s", every(&|one| one.hashing_s));
        figures.bounded(
            "took_by_needed",
            every(&|one| one.took_s / one.needed_s()),
            BY_NEEDED,
        );
        figures.bounded("unprotected_beyond_s", every(&Return::beyond_s), BEYOND_S);
        figures.free("wire_mib", every(&|one| mebibytes(one.wire_bytes)));
        figures.free(
            "disk_changed_mib",
            every(&|one| mebibytes(one.disk_changed_bytes)),
        );
        figures.free("disk_sent_mib", every(&|one| mebibytes(one.disk_sent_bytes)));
        figures.each(
            "disk_sent_by_changed",
            every(&|one| ratio(one.disk_sent_bytes, one.disk_changed_bytes)),
            BY_NEEDED,
        );
        figures.free("memory_once_mib", every(&|one| mebibytes(one.memory_once_bytes)));
        figures.each(
            "memory_sent_by_once",
            every(&|one| ratio(one.memory_sent_bytes, one.memory_once_bytes)),
            BY_NEEDED,
        );
        let every = |of: &dyn Fn(&Switchover) -> f64| self.switchovers.iter().map(of).collect::<Vec<_>>();
        figures.free("switchover_gap_ms", every(&|one| one.probe_ms));
        figures.free("switchover_allowed_ms", every(&Switchover::allowed_ms));
        figures.free("switchover_connection_ms", every(&|one| one.connection_ms));
        figures.bounded(
            "switchover_gap_by_allowed",
            every(&|one| one.probe_ms / one.allowed_ms()),
            Bound::AtMost(1.0),
        );
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let failures = self.failures.len() as f64;
        figures.bounded("failures", vec![failures], Bound::AtMost(0.0));
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Samples {
        Samples {
            returns: vec![Return {
                start_s: 2.0,
                took_s: 13.0,
                wire_bytes: 10_000_000,
                line_s: 10.0,
                hashing_s: 1.0,
                kind: "partial".to_owned(),
                disk_changed_bytes: 100,
                disk_sent_bytes: 120,
                memory_once_bytes: 100,
                memory_sent_bytes: 120,
            }],
            switchovers: vec![Switchover {
                rtt_ms: 40.0,
                echo_ms_p50: 48.0,
                probe_ms: 432.0,
                connection_ms: 500.0,
            }],
            failures: Vec::new(),
        }
    }

    #[test]
    fn what_keeps_its_bounds_does() {
        assert_eq!(good().figures().broken(), Vec::<&str>::new());
    }

    #[test]
    fn each_bound_is_told_when_it_is_broken() {
        let mut bad = good();
        bad.returns[0] = Return {
            start_s: 5.1,
            took_s: 13.3,
            disk_sent_bytes: 121,
            memory_sent_bytes: 121,
            ..bad.returns[0].clone()
        };
        bad.switchovers[0].probe_ms = 433.0;
        bad.failures.push("site-b is not back".to_owned());
        let broken = [
            "start_s",
            "took_by_needed",
            "unprotected_beyond_s",
            "disk_sent_by_changed",
            "memory_sent_by_once",
            "switchover_gap_by_allowed",
            "failures",
        ];
        assert_eq!(bad.figures().broken(), broken);
    }

    #[test]
    fn what_was_not_measured_keeps_no_bound() {
        let nothing = Samples::default().figures();
        assert_eq!(nothing.broken().len(), 6);
    }
}
