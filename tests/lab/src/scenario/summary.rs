//! What `antipode run --json` says at the end.

use serde::Deserialize;
use std::collections::BTreeMap;

/// Its last line. Keys that the lab does not use are left aside.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RunSummary {
    /// Whether the guest switched itself off.
    pub ok: bool,
    /// As the process ended.
    pub exit_code: u8,
    /// The code's name.
    pub exit_name: String,
    /// How the VM ended.
    pub outcome: String,
    /// VM exits by kind.
    pub exits: BTreeMap<String, u64>,
    /// Their sum.
    pub exits_total: u64,
    /// Of the whole run.
    pub exits_per_second: u64,
    /// Virtual time that passed.
    pub guest_seconds: f64,
    /// Host time that passed.
    pub wall_seconds: f64,
    /// Processor time of the process, the guest's included.
    pub cpu_seconds: f64,
    /// RDTSC instructions of the kernel that were rewritten.
    pub rewritten_rdtsc: u64,
    /// RDTSC instructions of programs that were answered.
    pub user_rdtsc: u64,
    /// Times the guest was stopped by a signal.
    #[serde(default)]
    pub kicks: u64,
    /// Of a record: bytes of its log.
    #[serde(default)]
    pub log_bytes: u64,
    /// Of a record: times its guest was stopped while it computed.
    #[serde(default)]
    pub preemptions: u64,
    /// Of a record: timer expiries in its log.
    #[serde(default)]
    pub log_expiries: u64,
    /// Of a record: time that the digests of epochs took.
    #[serde(default)]
    pub digest_seconds: f64,
    /// Of a disturbed replay: what was done to it.
    #[serde(default)]
    pub noise: Noise,
}

/// What a replay was disturbed by, besides signals.
#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
pub struct Noise {
    /// The page log was switched off and on.
    pub page_log_restarts: u64,
    /// Chunks of RAM were offered to the host's swap.
    pub page_outs: u64,
    /// Chunks of RAM were moved.
    pub moves: u64,
    /// Batches were cut in two.
    pub cut_batches: u64,
}

impl RunSummary {
    /// Finds it in everything that antipode wrote to standard output: the guest's console, then one line of JSON.
    /// The guest may have left the cursor within a line.
    #[must_use]
    pub fn find(output: &str) -> Option<Self> {
        Self::split(output).map(|(_, summary)| summary)
    }

    /// The guest's console without it, and it.
    pub fn split(output: &str) -> Option<(&str, Self)> {
        let output = output.trim_end();
        let line_start = output.rfind('\n').map_or(0, |end| end + 1);
        let starts = output[line_start..].match_indices('{');
        starts.map(|(start, _)| line_start + start).find_map(|start| {
            let summary = serde_json::from_str(&output[start..]).ok()?;
            Some((&output[..start], summary))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"exit_code":0,"exit_name":"done","exits":{"hlt":7},"exits_per_second":9,"exits_total":7,"guest_seconds":1.5,"interrupts":1,"ok":true,"outcome":"power-off","rewritten_rdtsc":80,"user_rdtsc":5,"cpu_seconds":1.0,"wall_seconds":2.0,"what":"the guest {x} off"}"#;

    #[test]
    fn it_is_found_behind_whatever_the_guest_wrote() {
        for console in ["", "boot\r\n", "a { b }\r\n", "no newline {"] {
            let summary = RunSummary::find(&format!("{console}{LINE}\n")).unwrap();
            assert_eq!((summary.exits_total, summary.exits["hlt"]), (7, 7));
            assert_eq!(
                RunSummary::split(&format!("{console}{LINE}\n")).unwrap().0,
                console
            );
        }
        assert_eq!(RunSummary::find("boot\r\n{\"ok\":true}\n"), None);
        assert_eq!(RunSummary::find(""), None);
    }
}
