//! What was found in one scenario, and what of it breaks a promise. Pure.

use super::super::sites::{Site, VmStatus};
use super::plan::{Live, Scenario};
use crate::judge::live::Judgement;
use crate::load::watch::Report;
use antipode_tiebreaker::Flush;
use std::time::Duration;

/// What may pass between a fault and its being noticed, and between its end and the first answer, in a held scenario.
const HELD_MARGIN: Duration = Duration::from_secs(2);

/// What was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Who was live when the scenario began.
    pub(super) before: Site,
    /// Who was granted to be live, in order, from `before` on.
    pub(super) granted: Vec<Site>,
    /// The switch's frames.
    pub(super) judgement: Judgement,
    /// The client's account.
    pub(super) client: Report,
    /// From the first fault to the last step.
    pub(super) lasted: Duration,
    /// What the live site said before, if it was protected.
    pub(super) told: Option<VmStatus>,
    /// Why the other site was refused to go live, if it was: nobody was, and the guest has booted again where it had been.
    pub(super) refused: Option<String>,
}

impl Found {
    /// What breaks a promise.
    pub(super) fn violations(&self, scenario: &Scenario) -> Vec<String> {
        let mut found = match scenario.outage || self.refused.is_some() {
            true => self.client.violations_beside_a_boot(),
            false => self.client.violations(),
        };
        let (granted, changes) = (&self.granted, self.judgement.changes());
        found.extend(self.judgement.violations());
        // A site that is lost right after a switchover to it may have let nothing out.
        let was_silent = scenario.live == Live::MayReturn && granted.len() == 3 && changes == 0;
        if changes != (granted.len() as u64).saturating_sub(1) && !was_silent {
            found.push(format!(
                "the switch saw {changes} changes of the live site, and the tiebreaker granted {granted:?}"
            ));
        }
        let after = granted.last().copied().unwrap_or(self.before);
        let moved = after != self.before;
        match (scenario.live, granted.len()) {
            (Live::Moves | Live::Either | Live::Returns, 1) if self.refused.is_some() => {}
            _ if self.refused.is_some() => found.push(format!(
                "a site was refused to go live, and who was granted to be is {granted:?}"
            )),
            (Live::Stays, 1)
            | (Live::Moves, 2)
            | (Live::Either, 1 | 2)
            | (Live::Returns, 3)
            | (Live::MayReturn, 1 | 3) => {}
            // A switchover, and what happens to it then.
            (Live::Either, 3) if scenario.switches() => {}
            (Live::Stays, _) => found.push(format!("a failover that nothing asked for: {granted:?}")),
            (Live::Moves, _) if !moved => found.push("the other site did not take over".to_owned()),
            _ => found.push(format!("more than one failover: {granted:?}")),
        }
        found.extend(self.told.as_ref().and_then(|told| wrong_rule(scenario, told)));
        let silence = Duration::from_millis(self.client.sequence.gap_ms_max);
        if scenario.held && silence + HELD_MARGIN < self.lasted {
            found.push(format!(
                "answers left while nobody could know who may be live: silence of {silence:?}, and the fault lasted {:?}",
                self.lasted
            ));
        }
        found
    }
}

/// What is not told as it is of when flushes are complete.
fn wrong_rule(scenario: &Scenario, told: &VmStatus) -> Option<String> {
    let rule = match scenario.flush {
        Flush::Site => "site",
        Flush::Both => "both",
    };
    // The client's writes were flushed before it was asked.
    let has_waited = told.flush_hold_ms_p50.is_some();
    let is_right = told.flush.as_deref() == Some(rule) && (has_waited || scenario.flush == Flush::Site);
    (!is_right).then(|| {
        format!(
            "flushes are complete by the rule {rule:?}; the status tells {:?}, and that half of them waited {:?} ms",
            told.flush, told.flush_hold_ms_p50
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::table;
    use super::*;
    use crate::judge::frames::Sighting;
    use crate::judge::live::{Winner, judge};
    use crate::load::watch::ledger::Ledger;
    use crate::load::watch::probe::Probe;

    fn scenario(name: &str) -> &'static Scenario {
        table::all().find(|scenario| scenario.name == name).unwrap()
    }

    /// A sound client, and one frame of each of these sites.
    fn found(granted: &[Site], frames: &[Site]) -> Found {
        let mut ledger = Ledger::default();
        for (head, at) in [(0, 0), (1, 9_500)] {
            ledger.begin();
            ledger.acknowledge(head, Duration::from_millis(at));
        }
        ledger.compare(&[1, 2].into());
        let sightings: Vec<Sighting> = frames
            .iter()
            .zip(0..)
            .map(|(site, nanos)| Sighting {
                port: site.lan_port().to_owned(),
                nanos,
                frame: nanos.to_string().into_bytes(),
            })
            .collect();
        let ports: Vec<&str> = granted.iter().map(|site| site.lan_port()).collect();
        Found {
            before: granted[0],
            granted: granted.to_vec(),
            judgement: judge(&sightings, &ports, Winner::default()),
            client: Report {
                sequence: ledger.verdict(),
                connection_survived: true,
                error: None,
                probe: Probe::default().verdict(),
                milliseconds: 1,
            },
            lasted: Duration::from_secs(9),
            told: None,
            refused: None,
        }
    }

    fn violation(name: &str, found: &Found) -> String {
        let violations = found.violations(scenario(name));
        assert_eq!(violations.len(), 1, "{name}: {violations:?}");
        violations.concat()
    }

    const A: Site = Site::A;
    const B: Site = Site::B;

    #[test]
    fn what_was_promised_is_no_violation() {
        for (name, granted) in [
            ("power-cut-live", &[A, B][..]),
            ("power-cut-live", &[B, A]),
            ("power-cut-backup", &[A]),
            ("wan-cut", &[A]),
            ("wan-cut", &[A, B]),
            ("tiebreaker-and-live-lost", &[A, B]),
        ] {
            let found = found(granted, granted);
            assert_eq!(found.violations(scenario(name)), Vec::<String>::new(), "{name}");
        }
    }

    #[test]
    fn connections_break_where_both_sites_were_down_and_what_was_acknowledged_is_there() {
        let broken = |granted: &[Site]| {
            let mut found = found(granted, granted);
            found.client.connection_survived = false;
            found
        };
        let outage = scenario("total-outage-live-first");
        assert_eq!(broken(&[A]).violations(outage), Vec::<String>::new());
        let mut lost = broken(&[A]);
        lost.client.sequence.lost = Some(1);
        assert!(violation("total-outage-live-first", &lost).contains("are lost"));
        assert!(violation("power-cut-backup", &broken(&[A])).contains("did not survive"));
    }

    #[test]
    fn a_planted_failover_that_nothing_asked_for_is_found() {
        assert!(violation("power-cut-backup", &found(&[A, B], &[A, B])).contains("nothing asked for"));
        assert!(violation("wan-cut", &found(&[A, B, A], &[A, B, A])).contains("more than one"));
    }

    #[test]
    fn a_planted_site_that_does_not_take_over_is_found() {
        assert!(violation("power-cut-live", &found(&[A], &[A])).contains("did not take over"));
    }

    #[test]
    fn one_that_is_refused_to_takes_nothing_that_was_acknowledged_with_it() {
        let refused = |granted: &[Site]| {
            let mut found = found(granted, granted);
            found.client.connection_survived = false;
            found.refused = Some("differed at exit 7".to_owned());
            found
        };
        let live = scenario("power-cut-live");
        assert_eq!(refused(&[A]).violations(live), Vec::<String>::new());
        let mut lost = refused(&[A]);
        lost.client.sequence.lost = Some(1);
        assert!(violation("power-cut-live", &lost).contains("are lost"));
        for (name, granted) in [
            ("power-cut-live", &[A, B][..]),
            ("power-cut-live", &[A, B, A]),
            ("power-cut-backup", &[A]),
        ] {
            assert!(
                violation(name, &refused(granted)).contains("was refused"),
                "{name}"
            );
        }
    }

    #[test]
    fn planted_frames_of_a_loser_are_found() {
        assert!(violation("power-cut-live", &found(&[A, B], &[A, B, A])).contains("live no more"));
    }

    #[test]
    fn a_planted_change_that_the_switch_did_not_see_is_found() {
        assert!(violation("power-cut-live", &found(&[A, B], &[A, A])).contains("the switch saw 0 changes"));
    }

    #[test]
    fn a_site_that_is_lost_before_it_lets_anything_out_is_not_seen() {
        let name = "kill-vm-backup-in-switchover";
        for frames in [&[B][..], &[B, A, B]] {
            assert_eq!(
                found(&[B, A, B], frames).violations(scenario(name)),
                Vec::<String>::new()
            );
        }
        assert!(violation(name, &found(&[B, A, B], &[B, A])).contains("the switch saw 1 changes"));
        assert!(
            violation("power-cut-live-and-back", &found(&[A, B], &[A])).contains("the switch saw 0 changes")
        );
    }

    #[test]
    fn a_planted_rule_for_flushes_that_is_not_kept_or_not_told_is_found() {
        let with = |name, status: &str| {
            let mut found = found(&[A], &[A]);
            found.told = Some(serde_json::from_str(status).unwrap());
            found.violations(scenario(name))
        };
        let (site, both) = ("power-cut-backup", "power-cut-backup-flush-both");
        let told = r#"{"role":"primary","flush":"both","flush_hold_ms_p50":40.0}"#;
        assert_eq!(with(both, told), Vec::<String>::new());
        assert!(with(site, told).concat().contains("\"site\""));
        let told = r#"{"role":"primary","flush":"site"}"#;
        assert_eq!(with(site, told), Vec::<String>::new());
        assert!(with(both, told).concat().contains("\"both\""));
        assert_eq!(
            with(both, r#"{"role":"primary","flush":"both"}"#).len(),
            1,
            "none has waited"
        );
    }

    #[test]
    fn a_planted_loss_is_found() {
        let mut found = found(&[A, B], &[A, B]);
        found.client.sequence.lost = Some(1);
        assert!(violation("power-cut-live", &found).contains("lost"));
    }

    #[test]
    fn a_planted_answer_that_should_have_been_held_is_found() {
        let mut found = found(&[A, B], &[A, B]);
        found.client.sequence.gap_ms_max = 900;
        assert!(violation("tiebreaker-and-live-lost", &found).contains("answers left"));
    }
}
