//! What an operator is shown of a VM at one site (O3): never green while a gap exists, and of each gap its cause, since
//! when, and what to do.
//!
//! Green is one thing only: this site is primary or backup of a confirmed pairing, the other one is heard, nothing is
//! in doubt. A VM that runs alone is not green, however well it runs.

use std::time::Duration;

use antipode_certs::Name;
use antipode_tiebreaker::{Flush, Generation, PairingId};
use serde::Serialize;

use super::lag::Lag;
use super::mode::Modes;
use super::moment::Moment;
use super::repair::{Output, Repairs};
use super::reprotect::ShownReprotect;
use super::role::{Cause, Leaving, PhaseName, Progress, Refused};
use super::verify::Report;
use crate::base::units::ExitOrdinal;
use crate::transfer::{MemorySent, Resync};

/// What the role knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The state.
    pub role: PhaseName,
    /// Whether there is no gap.
    pub green: bool,
    /// Why the state is not the one that is wished for.
    pub cause: Option<Cause>,
    /// Since when the state stands.
    pub since: Moment,
    /// The record's generation.
    pub generation: Generation,
    /// The pairing that stands or is being made.
    pub pairing: Option<PairingId>,
    /// How flushes are made in it, once that is known.
    pub flush: Option<Flush>,
    /// The end of what was logged, or how far this copy is.
    pub position: ExitOrdinal,
    /// How far the backup is behind.
    pub lag: Lag,
    /// The median round trip to the other site, once one was measured.
    pub round_trip: Option<Duration>,
    /// How far the transfer is, while there is one.
    pub progress: Option<Progress>,
    /// The part of a processor that the guest may use, in percent.
    pub cpu_share_percent: u8,
}

/// What the driver adds.
#[derive(Debug, Clone)]
pub struct Surroundings<'a> {
    /// The VM.
    pub vm: &'a Name,
    /// The other site.
    pub peer: &'a Name,
    /// Now, by the clock of the events.
    pub now: Moment,
    /// Now, in seconds since 1970.
    pub now_unix_seconds: i64,
    /// Why a transfer came to nothing, in the words of whoever gave it up.
    pub trouble: Option<&'a str>,
    /// Why the last command was not done.
    pub not_done: Option<Refused>,
    /// What the last transfer's disk needs, or took.
    pub resync: Option<Resync>,
    /// What the last transfer's memory took.
    pub memory_sent: Option<MemorySent>,
    /// What restores the protection by itself; none of a VM that is not to be protected.
    pub protect_again: Option<ShownReprotect>,
    /// What was measured.
    pub measured: Measured,
    /// How the last comparison of the two disks went, or goes.
    pub verification: Option<&'a Report>,
    /// The repairs of a copy that differed.
    pub repairs: Option<&'a Repairs>,
    /// By which word of the backup outputs leave.
    pub output: Output,
    /// What keeping the backup's copy the same has cost.
    pub modes: Option<Modes>,
    /// What was refused.
    pub refused: &'a [Refusal],
}

/// Something that was refused: of the other site, of whoever came in its place, or of this site by the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// What, as one word for scripts.
    pub what: &'static str,
    /// The same as a sentence, of the last time.
    pub because: String,
    /// How often, since this process began.
    pub count: u64,
    /// When last, in seconds since 1970.
    pub last: i64,
}

/// What the driver has measured of late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measured {
    /// The median time between an output's making and its leaving, since lockstep began.
    pub output_hold_p50: Option<Duration>,
    /// What 99 of 100 outputs were not held longer than.
    pub output_hold_p99: Option<Duration>,
    /// The median time that a flush which was durable here waited for the other site, since lockstep began.
    pub flush_hold_p50: Option<Duration>,
    /// What 99 of 100 flushes did not wait longer than.
    pub flush_hold_p99: Option<Duration>,
    /// The median time of an echo over the log's own connection.
    pub echo_p50: Option<Duration>,
    /// What 99 of 100 echoes did not exceed.
    pub echo_p99: Option<Duration>,
    /// Bytes of log that were handed to the connection since lockstep began.
    pub log_bytes: Option<u64>,
    /// The same in a second of late.
    pub log_bytes_per_second: Option<u64>,
    /// How long the guest stood still when it was protected.
    pub stun: Option<Duration>,
    /// When the other site was lost: from its last word to the question of who may be live.
    pub detection: Option<Duration>,
    /// From there to the tiebreaker's answer.
    pub claim: Option<Duration>,
    /// From there until outputs could leave here.
    pub going_live: Option<Duration>,
    /// Since when the tiebreaker has not answered, if that is long.
    pub tiebreaker_silence: Option<Duration>,
}

/// How far a transfer is, for JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownProgress {
    /// Bytes done in this phase.
    pub done_bytes: u64,
    /// Bytes of the phase, as known by now.
    pub total_bytes: u64,
    /// Seconds left, if it can be told.
    pub left_s: Option<f64>,
}

/// Why a command was not done, for JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NotDone {
    /// For scripts.
    pub reason: Refused,
    /// For people.
    pub because: String,
}

impl From<Refused> for NotDone {
    fn from(reason: Refused) -> Self {
        Self {
            reason,
            because: reason.to_string(),
        }
    }
}

/// The status, as `vm status --json` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// The VM.
    pub vm: Name,
    /// What this site is to it.
    pub role: PhaseName,
    /// The other site.
    pub peer: Name,
    /// The record's generation.
    pub generation: Generation,
    /// The pairing, if there is one.
    pub pairing: Option<PairingId>,
    /// How flushes are made in it, once that is known.
    pub flush: Option<Flush>,
    /// Counted exits.
    pub position: u64,
    /// How far the backup is behind, in milliseconds.
    pub lag_ms: f64,
    /// The same in bytes of log.
    pub lag_bytes: u64,
    /// The same in counted exits.
    pub lag_exits: u64,
    /// The median round trip to the other site.
    pub rtt_ms: Option<f64>,
    /// The median time that an output is held.
    pub output_hold_ms_p50: Option<f64>,
    /// What 99 of 100 outputs are not held longer than.
    pub output_hold_ms_p99: Option<f64>,
    /// The median time that a flush which is durable here waits for the other site.
    pub flush_hold_ms_p50: Option<f64>,
    /// What 99 of 100 flushes do not wait longer than.
    pub flush_hold_ms_p99: Option<f64>,
    /// The median time of an echo over the log's own connection.
    pub echo_ms_p50: Option<f64>,
    /// What 99 of 100 echoes do not exceed.
    pub echo_ms_p99: Option<f64>,
    /// Bytes of log that were handed to the connection since lockstep began.
    pub log_bytes: Option<u64>,
    /// The same in a second of late.
    pub log_bytes_per_second: Option<u64>,
    /// How long the guest stood still when it was protected.
    pub stun_ms: Option<f64>,
    /// When the other site was lost: from its last word to the claim.
    pub detection_ms: Option<f64>,
    /// From the claim to its grant.
    pub claim_ms: Option<f64>,
    /// From the grant until outputs could leave here.
    pub going_live_ms: Option<f64>,
    /// The part of a processor that the guest may use, in percent.
    pub cpu_share_percent: u8,
    /// How far the transfer is.
    pub progress: Option<ShownProgress>,
    /// What it took to make the other site's disk equal, when it was last copied from here.
    pub resync: Option<Resync>,
    /// What it took to copy its memory, the last time.
    pub memory_sent: Option<MemorySent>,
    /// What restores the protection by itself; none of a VM that is not to be protected.
    pub protect_again: Option<ShownReprotect>,
    /// How the last comparison of the two disks went, or goes.
    pub verify: Option<Report>,
    /// The repairs of a copy that differed; none if there was none.
    pub repairs: Option<Repairs>,
    /// By which word of the backup outputs leave.
    pub output: Output,
    /// What keeping the backup's copy the same has cost since this site leads; none if it does not.
    pub modes: Option<Modes>,
    /// What was refused. It harms nothing; so it makes nothing less green.
    pub refused: Vec<Refusal>,
    /// Whether there is no gap.
    pub green: bool,
    /// Why not, as one word for scripts: [`Cause`] in kebab case, and after a slash what it is about.
    pub cause: Option<String>,
    /// The same as a sentence.
    pub because: Option<String>,
    /// Why the last command was not done, as a word and as a sentence.
    pub not_done: Option<NotDone>,
    /// Since when the state stands, in seconds since 1970.
    pub since: i64,
    /// What to do about it; none where it mends itself or nothing is wrong.
    pub next: Option<String>,
}

impl Status {
    /// What `view` is to an operator.
    #[must_use]
    pub fn new(view: &View, around: Surroundings<'_>) -> Self {
        let measured = around.measured;
        // A role asks the tiebreaker only when it must; that it could not is a gap all the same.
        let away = measured.tiebreaker_silence.filter(|_| view.cause.is_none());
        let differ = around
            .verification
            .filter(|report| report.differs() && view.cause.is_none() && away.is_none());
        let repaired = around.repairs.is_some_and(|repairs| repairs.under_way.is_some());
        let cause = view
            .cause
            .or(repaired.then_some(Cause::CopyDiffers))
            .or(away.map(|_| Cause::TiebreakerAway))
            .or(differ.map(|_| Cause::DisksDiffer));
        let next = next(view, cause, &around);
        let stands_for = away
            .unwrap_or_else(|| around.now.saturating_since(view.since))
            .as_secs();
        let stands_for = i64::try_from(stands_for).unwrap_or(i64::MAX);
        Self {
            vm: around.vm.clone(),
            role: view.role,
            peer: around.peer.clone(),
            generation: view.generation,
            pairing: view.pairing,
            flush: view.flush,
            position: view.position.get(),
            lag_ms: milliseconds(view.lag.time),
            lag_bytes: view.lag.bytes,
            lag_exits: view.lag.exits,
            rtt_ms: view.round_trip.map(milliseconds),
            output_hold_ms_p50: measured.output_hold_p50.map(milliseconds),
            output_hold_ms_p99: measured.output_hold_p99.map(milliseconds),
            flush_hold_ms_p50: measured.flush_hold_p50.map(milliseconds),
            flush_hold_ms_p99: measured.flush_hold_p99.map(milliseconds),
            echo_ms_p50: measured.echo_p50.map(milliseconds),
            echo_ms_p99: measured.echo_p99.map(milliseconds),
            log_bytes: measured.log_bytes,
            log_bytes_per_second: measured.log_bytes_per_second,
            stun_ms: measured.stun.map(milliseconds),
            detection_ms: measured.detection.map(milliseconds),
            claim_ms: measured.claim.map(milliseconds),
            going_live_ms: measured.going_live.map(milliseconds),
            cpu_share_percent: view.cpu_share_percent,
            progress: view.progress.map(|progress| ShownProgress {
                done_bytes: progress.done_bytes,
                total_bytes: progress.total_bytes,
                left_s: progress.left.map(|left| left.as_secs_f64()),
            }),
            resync: around.resync,
            memory_sent: around.memory_sent,
            protect_again: around.protect_again,
            verify: around.verification.cloned(),
            repairs: around.repairs.cloned(),
            output: around.output,
            modes: around.modes,
            refused: around.refused.to_vec(),
            green: view.green && away.is_none() && differ.is_none() && !repaired,
            cause: cause.map(word),
            because: cause.map(|cause| because(cause, around.trouble)),
            not_done: around.not_done.map(NotDone::from),
            since: differ.map_or(around.now_unix_seconds.saturating_sub(stands_for), |report| {
                report.began
            }),
            next,
        }
    }
}

/// `cause` as a sentence, with what is known besides of a transfer's trouble.
#[must_use]
pub fn because(cause: Cause, trouble: Option<&str>) -> String {
    match (cause, trouble) {
        (Cause::TransferFailed | Cause::SelfLeft(Leaving::TransferFailed), Some(trouble)) => {
            format!("{cause}: {trouble}")
        }
        _ => cause.to_string(),
    }
}

/// Milliseconds with three places: more is noise in what people read.
pub(super) fn milliseconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

fn word(cause: Cause) -> String {
    use serde_json::Value;
    match serde_json::to_value(cause) {
        Ok(Value::String(word)) => word,
        Ok(Value::Object(about)) => {
            let parts = about
                .iter()
                .map(|(cause, of)| format!("{cause}/{}", of.as_str().unwrap_or_default()));
            parts.collect()
        }
        _ => cause.to_string(),
    }
}

fn next(view: &View, cause: Option<Cause>, around: &Surroundings<'_>) -> Option<String> {
    let Surroundings { vm, peer, .. } = around;
    match view.role {
        _ if cause == Some(Cause::TiebreakerAway) => Some("antipode tiebreaker status".to_owned()),
        _ if cause == Some(Cause::DisksDiffer) => Some(format!("antipode vm verify {vm}")),
        PhaseName::Unprotected | PhaseName::Solo => Some(match cause {
            Some(Cause::TiebreakerSilent | Cause::Awoken) => "antipode tiebreaker status".to_owned(),
            _ if around.protect_again.as_ref().is_some_and(|again| again.on) => return None,
            _ => format!("antipode vm protect {vm}"),
        }),
        PhaseName::Frozen => Some("antipode tiebreaker status".to_owned()),
        PhaseName::Stale => Some(format!("at {peer}: antipode vm protect {vm}")),
        PhaseName::Stopped => Some(match cause {
            Some(Cause::OnlyPrimaryMayStart) => format!("at {peer}: antipode vm start {vm}"),
            Some(Cause::ReplicaNotClean) => "antipode disk info".to_owned(),
            Some(Cause::NotASite | Cause::StartRefused) => format!("antipode tiebreaker vm show {vm}"),
            _ => format!("antipode vm start {vm}"),
        }),
        PhaseName::Idle => Some(format!("antipode vm start {vm}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use antipode_disk_sync::units::{ImageLength, LEAF_BYTES};

    use crate::base::units::LogSeq;
    use crate::machine::workers::{Hashes, Round};
    use crate::protocol::detector::Suspicion;
    use crate::protocol::mode::Account;
    use crate::protocol::verify::{Effect, Event, Verifier};
    use crate::replay::Carried;
    use crate::transfer::ResyncKind;

    fn view(role: PhaseName, cause: Option<Cause>) -> View {
        View {
            role,
            green: role == PhaseName::Primary && cause.is_none(),
            cause,
            since: Moment::from_nanos(1_000_000_000),
            generation: Generation(7),
            pairing: Some(PairingId(9)),
            flush: Some(Flush::Both),
            position: ExitOrdinal::new(123),
            lag: Lag {
                time: Duration::from_micros(12_345),
                bytes: 6,
                exits: 7,
            },
            round_trip: Some(Duration::from_millis(40)),
            progress: None,
            cpu_share_percent: 100,
        }
    }

    /// A second of replay, and one output.
    fn modes() -> Modes {
        let at = |ms: u64| Moment::from_nanos(ms * 1_000_000);
        let mut account = Account::from(at(0));
        account.logged(at(900), LogSeq::new(1), 700, &Carried::default());
        account.let_out(at(1000), LogSeq::new(1), Duration::from_micros(41_500));
        account.shown(None)
    }

    fn shown(view: &View) -> serde_json::Value {
        shown_with(view, Measured::default())
    }

    fn shown_with(view: &View, measured: Measured) -> serde_json::Value {
        shown_of(view, measured, None)
    }

    fn shown_of(view: &View, measured: Measured, verification: Option<&Report>) -> serde_json::Value {
        let around = Surroundings {
            vm: &"redis-1".parse().unwrap(),
            peer: &"west".parse().unwrap(),
            now: Moment::from_nanos(31_000_000_000),
            now_unix_seconds: 1_000_030,
            trouble: Some("the hosts differ"),
            not_done: None,
            resync: Some(Resync {
                kind: ResyncKind::Partial,
                planned_bytes: 1,
                changed_bytes: 3,
                sent_bytes: 2,
            }),
            memory_sent: Some(MemorySent {
                once_bytes: 4096,
                sent_bytes: 8192,
            }),
            protect_again: None,
            measured,
            verification,
            repairs: None,
            output: Output::default(),
            modes: Some(modes()),
            refused: &[Refusal {
                what: "log-gap",
                because: "log frame 4 came where 2 is due".to_owned(),
                count: 1,
                last: 1_000_007,
            }],
        };
        serde_json::to_value(Status::new(view, around)).unwrap()
    }

    #[test]
    fn a_healthy_primary_is_shown_in_full() {
        let nothing = serde_json::json!({
            "share": 0.0, "bytes": 0, "outputs": 0,
            "hold_ms_sum": 0.0, "hold_ms_p50": null, "hold_ms_p99": null,
        });
        let modes_shown = serde_json::json!({
            "mode": "replay", "cause": null, "preemptions": 0,
            "replay": {
                "share": 1.0, "bytes": 700, "outputs": 1,
                "hold_ms_sum": 41.5, "hold_ms_p50": 41.5, "hold_ms_p99": 41.5,
            },
            "resume": nothing, "repair": nothing, "checkpoint": nothing,
        });
        let expected = serde_json::json!({
            "vm": "redis-1", "role": "primary", "peer": "west", "generation": 7, "pairing": 9, "flush": "both",
            "position": 123,
            "lag_ms": 12.345, "lag_bytes": 6, "lag_exits": 7, "rtt_ms": 40.0,
            "output_hold_ms_p50": 41.5, "output_hold_ms_p99": null,
            "flush_hold_ms_p50": 40.2, "flush_hold_ms_p99": null, "echo_ms_p50": null, "echo_ms_p99": null,
            "log_bytes": 81_000, "log_bytes_per_second": 4_000,
            "stun_ms": null, "detection_ms": null, "claim_ms": null, "going_live_ms": null,
            "cpu_share_percent": 100, "progress": null,
            "resync": { "kind": "partial", "planned_bytes": 1, "changed_bytes": 3, "sent_bytes": 2 },
            "memory_sent": { "once_bytes": 4_096, "sent_bytes": 8_192 },
            "protect_again": null, "verify": null, "repairs": null,
            "output": { "verified": false, "chosen": false, "clean_epochs_left": 0 },
            "modes": modes_shown,
            "refused": [{
                "what": "log-gap", "because": "log frame 4 came where 2 is due", "count": 1, "last": 1_000_007,
            }],
            "green": true, "cause": null, "because": null, "not_done": null, "since": 1_000_000, "next": null,
        });
        let measured = Measured {
            output_hold_p50: Some(Duration::from_micros(41_500)),
            flush_hold_p50: Some(Duration::from_micros(40_200)),
            log_bytes: Some(81_000),
            log_bytes_per_second: Some(4_000),
            ..Measured::default()
        };
        assert_eq!(shown_with(&view(PhaseName::Primary, None), measured), expected);
    }

    #[test]
    fn without_a_tiebreaker_nothing_is_well() {
        let measured = Measured {
            tiebreaker_silence: Some(Duration::from_secs(12)),
            ..Measured::default()
        };
        let primary = shown_with(&view(PhaseName::Primary, None), measured);
        assert_eq!(
            (&primary["green"], &primary["cause"]),
            (&false.into(), &"tiebreaker-away".into())
        );
        assert_eq!(primary["since"], 1_000_018);
        assert_eq!(primary["next"], "antipode tiebreaker status");
        let solo = shown_with(&view(PhaseName::Solo, Some(Cause::Lost)), measured);
        assert_eq!(solo["cause"], "lost", "the nearer cause is told");
        let alone = shown(&view(PhaseName::Unprotected, Some(Cause::TransferFailed)));
        let because = alone["because"].as_str().unwrap();
        assert!(because.ends_with(": the hosts differ"), "{because}");
    }

    #[test]
    fn disks_that_are_known_to_differ_are_not_well() {
        let mut verifier = Verifier::default();
        let leaf = ImageLength::new(LEAF_BYTES).unwrap();
        let now = Moment::from_nanos(11_000_000_000);
        let Some(Effect::Watch(slice)) = verifier.step(now, Event::Begin(leaf)) else {
            panic!("it begins");
        };
        let round = Round {
            at: ExitOrdinal::new(5),
            slice,
        };
        let hashes = |byte| Hashes::new(1, vec![[byte; 32]]).unwrap();
        verifier.step(now, Event::Watched(round));
        verifier.step(now, Event::Hashed(round, hashes(1)));
        let well = verifier.report(999_999);
        verifier.step(now, Event::PeerHashed(round, hashes(2)));
        let differ = verifier.report(999_999);
        let primary = view(PhaseName::Primary, None);
        let status = |report: &Option<Report>| shown_of(&primary, Measured::default(), report.as_ref());
        assert_eq!(status(&well)["green"], true);
        assert_eq!(status(&well)["verify"]["state"], "running");
        let shown = status(&differ);
        assert_eq!(
            (&shown["green"], &shown["cause"]),
            (&false.into(), &"disks-differ".into())
        );
        assert_eq!(
            (&shown["since"], &shown["next"]),
            (&1_000_010.into(), &"antipode vm verify redis-1".into())
        );
        assert_eq!(shown["verify"]["differences"][0]["exit"], 5);
    }

    #[test]
    fn a_gap_has_its_cause_and_what_to_do() {
        let solo = shown(&view(
            PhaseName::Solo,
            Some(Cause::PeerLost(Suspicion::AckTimeout)),
        ));
        assert_eq!(solo["green"], false);
        assert_eq!(solo["cause"], "peer-lost/ack-timeout");
        assert_eq!(
            solo["because"],
            "the other site was lost: it did not acknowledge in time"
        );
        assert_eq!(solo["next"], "antipode vm protect redis-1");
        let stale = shown(&view(PhaseName::Stale, Some(Cause::Lost)));
        assert_eq!(stale["cause"], "lost");
        assert_eq!(stale["next"], "at west: antipode vm protect redis-1");
    }
}
