//! A client that keeps account: a checked sequence of writes over one TCP connection, and a probe beside it.
//!
//! ```text
//!   client: watch ── 1, 2, 3 … over one TCP connection ──▶ guest: Redis or PostgreSQL
//!              │  ◀─ each acknowledged, with the head before it
//!              └──── a datagram every 20 ms ─────────────▶ guest: echo
//! ```
//!
//! It ends when its standard input does; then it reads every number back, over the same connection if that still stands,
//! and says what came of it: acknowledged, lost, regressed, whether the connection survived, the longest silences.
//! Meanwhile it says every second how it is going. All of it is one JSON object a line ([`Line`]).
//!
//! - [`ledger`]: what was told and what was found. Pure. - [`probe`]: datagrams. - `run`: sockets, threads, the clock.

pub mod ledger;
pub mod probe;
mod run;

pub use run::watch;

use crate::image::Service;
use ledger::Verdict;
use probe::ProbeVerdict;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How that violation begins.
const BROKEN: &str = "the connection did not survive";

/// What is watched, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The service.
    pub service: Service,
    /// The guest.
    pub address: String,
    /// Tells this run's numbers from others': lower-case letters, digits and `-`.
    pub run: String,
    /// From one write to the next, if the service is that quick.
    pub every: Duration,
    /// How long the service may take to come up.
    pub ready_within: Duration,
    /// The port of the guest's [`probe::echo`].
    pub probe_port: u16,
    /// From one datagram to the next.
    pub probe_every: Duration,
    /// An answer that takes longer is none: the connection is given up.
    pub patience: Duration,
}

/// What a watch says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Line {
    /// The first write is about to be sent.
    Ready,
    /// Once a second.
    Progress(Progress),
    /// The last line.
    Report(Report),
}

/// How it is going.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// After the first write.
    pub at_ms: u64,
    /// Writes that were acknowledged.
    pub acked: u64,
    /// Of them, in the last second.
    pub acked_per_second: u64,
    /// Since the last acknowledgement.
    pub silent_ms: u64,
    /// The longest such time.
    pub gap_ms_max: u64,
    /// Datagrams answered.
    pub probes_answered: u64,
    /// Since the last answered datagram.
    pub probe_silent_ms: u64,
    /// The longest such time.
    pub probe_gap_ms_max: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Of the writes.
    pub sequence: Verdict,
    /// Whether one connection lasted to the end.
    pub connection_survived: bool,
    /// Why not, or why nothing could be read back.
    pub error: Option<String>,
    /// Of the probe.
    pub probe: ProbeVerdict,
    /// How long it wrote.
    pub milliseconds: u64,
}

impl Report {
    /// What is wrong with it: nothing acknowledged may be lost, nothing may go backwards, and the connection survives.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let sequence = &self.sequence;
        let mut found = Vec::new();
        match sequence.lost {
            Some(0) => {}
            Some(lost) => found.push(format!(
                "{lost} acknowledged writes are lost, the first {:?}",
                sequence.first_lost
            )),
            None => found.push("what was acknowledged could not be read back".to_owned()),
        }
        for (count, what) in [
            (
                sequence.regressed,
                "answers were from before what was acknowledged",
            ),
            (sequence.foreign, "values were written by nobody"),
        ] {
            if count > 0 {
                found.push(format!("{count} {what}"));
            }
        }
        if sequence.acked == 0 {
            found.push("not one write was acknowledged".to_owned());
        }
        if !self.connection_survived {
            let why = self.error.as_deref().unwrap_or("no reason known");
            found.push(format!("{BROKEN}: {why}"));
        }
        found
    }

    /// The same of a guest that has booted again meanwhile.
    #[must_use]
    pub fn violations_beside_a_boot(&self) -> Vec<String> {
        let mut found = self.violations();
        found.retain(|violation| !violation.starts_with(BROKEN));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Report {
        let mut ledger = ledger::Ledger::default();
        ledger.begin();
        ledger.acknowledge(0, Duration::ZERO);
        ledger.compare(&[1].into());
        Report {
            sequence: ledger.verdict(),
            connection_survived: true,
            error: None,
            probe: probe::Probe::default().verdict(),
            milliseconds: 1,
        }
    }

    #[test]
    fn a_sound_report_has_no_violation_and_each_planted_one_is_found() {
        assert_eq!(sound().violations(), Vec::<String>::new());
        let plant = |spoil: fn(&mut Report), word: &str| {
            let mut report = sound();
            spoil(&mut report);
            let found = report.violations();
            assert!(found.len() == 1 && found[0].contains(word), "{word}: {found:?}");
        };
        plant(|report| report.sequence.lost = Some(2), "lost");
        plant(|report| report.sequence.lost = None, "read back");
        plant(|report| report.sequence.regressed = 1, "from before");
        plant(|report| report.sequence.foreign = 1, "nobody");
        plant(|report| report.sequence.acked = 0, "not one");
        plant(|report| report.connection_survived = false, "survive");
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        for line in [
            Line::Ready,
            Line::Progress(Progress::default()),
            Line::Report(sound()),
        ] {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        }
    }
}
