//! What a person watching sees: the sites, the line between them, the client, and what happens now. Pure.

use super::super::sites::{Site, VmStatus};
use crate::load::watch::Progress;
use std::time::Duration;

/// What is known of a site.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum SiteSeen {
    /// Its host is not up.
    NoPower,
    /// It has no VM yet, or does not answer.
    Nothing,
    /// What it said last.
    Status(Box<VmStatus>),
}

/// Everything on the board.
#[derive(Debug, Clone)]
pub(super) struct Board {
    pub(super) sites: [(Site, SiteSeen); 2],
    /// Between the sites, as the lab has laid it.
    pub(super) rtt: Duration,
    pub(super) client: Option<Progress>,
    pub(super) now: String,
}

impl Board {
    pub(super) fn new(rtt: Duration) -> Self {
        Self {
            sites: Site::ALL.map(|site| (site, SiteSeen::Nothing)),
            rtt,
            client: None,
            now: String::new(),
        }
    }

    pub(super) fn see(&mut self, site: Site, seen: SiteSeen) {
        for (known, place) in &mut self.sites {
            if *known == site {
                *place = seen.clone();
            }
        }
    }

    /// The lines to show, `at` after the beginning.
    pub(super) fn lines(&self, at: Duration) -> Vec<String> {
        let mut lines = vec![format!("{:6.1} s   now: {}", at.as_secs_f32(), self.now)];
        for (site, seen) in &self.sites {
            let words = match seen {
                SiteSeen::NoPower => "NO POWER".to_owned(),
                SiteSeen::Nothing => "-".to_owned(),
                SiteSeen::Status(status) => site_words(status),
            };
            lines.push(format!("  {:<8} {words}", site.name()));
        }
        lines.push(format!("  {:<8} {}", "line", self.line_words()));
        let client = match &self.client {
            None => "not there yet".to_owned(),
            Some(progress) => client_words(progress),
        };
        lines.push(format!("  {:<8} {client}", "client"));
        lines
    }

    fn line_words(&self) -> String {
        let laid = format!("{} ms there and back", self.rtt.as_millis());
        let measured = self.sites.iter().find_map(|(_, seen)| match seen {
            SiteSeen::Status(status) => status.rtt_ms,
            SiteSeen::NoPower | SiteSeen::Nothing => None,
        });
        match measured {
            Some(rtt) => format!("{laid}, {rtt:.1} ms as the product measures it"),
            None => laid,
        }
    }
}

/// A role, told to somebody who has not read the manual.
fn site_words(status: &VmStatus) -> String {
    let peer = status.peer.as_deref().unwrap_or("the other site");
    let mut words = match status.role.as_str() {
        "unprotected" => "LIVE, unprotected".to_owned(),
        "syncing" => format!("LIVE, its disk is being copied to {peer}"),
        "cloning" => format!("LIVE, its memory is being copied to {peer}"),
        "stunned" => format!("LIVE, stands still while the rest goes to {peer}"),
        "pairing" | "cancelling" | "settling" => "LIVE, waits for the tiebreaker's word".to_owned(),
        "primary" => format!("LIVE, followed by {peer}"),
        "solo" => "LIVE, alone".to_owned(),
        "joining" => "receives disk and memory".to_owned(),
        "candidate" => "follows, not confirmed yet".to_owned(),
        "backup" => format!("follows {peer}"),
        "suspecting" => format!("does not hear {peer}"),
        "claiming" => "asks the tiebreaker whether it may be live".to_owned(),
        "frozen" => "holds everything: it does not know whether it may be live".to_owned(),
        "stale" => "has lost; its copy is out of date".to_owned(),
        "stopped" => "stopped".to_owned(),
        other => other.to_owned(),
    };
    if let (Some(lag), "primary" | "backup") = (status.lag_ms, status.role.as_str()) {
        words.push_str(&format!(", {lag:.0} ms behind"));
    }
    if let Some(position) = status.position {
        words.push_str(&format!(", exit {}", grouped(position)));
    }
    if let Some(progress) = &status.progress {
        let percent = progress.done_bytes.saturating_mul(100) / progress.total_bytes.max(1);
        words.push_str(&format!(", {percent} % of {} MiB", progress.total_bytes >> 20));
    }
    if let Some(because) = &status.because {
        words.push_str(&format!(" ({because})"));
    }
    words
}

fn client_words(progress: &Progress) -> String {
    let seconds = |milliseconds: u64| Duration::from_millis(milliseconds).as_secs_f32();
    format!(
        "{} writes/s acknowledged, {} in all; last answer {:.1} s ago, longest silence {:.1} s",
        progress.acked_per_second,
        grouped(progress.acked),
        seconds(progress.silent_ms),
        seconds(progress.gap_ms_max),
    )
}

/// Thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(role: &str) -> SiteSeen {
        let text =
            format!(r#"{{"role":"{role}","peer":"site-b","position":1234567,"lag_ms":12.4,"rtt_ms":40.2}}"#);
        SiteSeen::Status(Box::new(serde_json::from_str(&text).unwrap()))
    }

    #[test]
    fn the_board_says_who_lives_who_follows_and_how_the_client_fares() {
        let mut board = Board::new(Duration::from_millis(40));
        board.see(Site::A, status("primary"));
        board.see(Site::B, SiteSeen::NoPower);
        board.client = Some(Progress {
            acked: 1_203,
            acked_per_second: 21,
            silent_ms: 40,
            gap_ms_max: 700,
            ..Progress::default()
        });
        "looking".clone_into(&mut board.now);
        let expected = [
            "   1.5 s   now: looking",
            "  site-a   LIVE, followed by site-b, 12 ms behind, exit 1,234,567",
            "  site-b   NO POWER",
            "  line     40 ms there and back, 40.2 ms as the product measures it",
            "  client   21 writes/s acknowledged, 1,203 in all; last answer 0.0 s ago, longest silence 0.7 s",
        ];
        assert_eq!(board.lines(Duration::from_millis(1_500)), expected);
    }

    #[test]
    fn a_role_that_is_new_here_is_shown_as_it_came() {
        let mut board = Board::new(Duration::ZERO);
        board.see(Site::B, status("pondering"));
        assert!(board.lines(Duration::ZERO)[2].contains("pondering, exit"));
    }

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
