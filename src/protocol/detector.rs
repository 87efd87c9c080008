//! Is the other site there, and well (P4)?
//!
//! Silence counts only where both ways are silent: heartbeats and the channel. Beyond silence the primary suspects a
//! backup that does not hear it, does not acknowledge what an output waits for, does not get on with its replay or with a
//! flush, or whose channel stays down: packets that arrive prove no health. A backup suspects on silence alone; whether a
//! primary that talks is well is the primary's own affair.
//!
//! The timeout is four times the 99th percentile of the measured round trips, and a margin; never below a floor.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits::{
    BACKUP_STALL, FAILURE_TIMEOUT_MARGIN, HEAD_START_MARGIN, HEARTBEAT_INTERVAL_MIN, HEARTBEATS_PER_TIMEOUT,
    ROUND_TRIPS_MAX,
};
use super::moment::Moment;
use crate::base::units::ExitOrdinal;

/// Why the other site is suspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suspicion {
    /// Nothing was heard of it, neither heartbeat nor channel.
    Silence,
    /// It says that it has heard nothing from here.
    Deaf,
    /// An output has waited too long for its acknowledgement.
    AckTimeout,
    /// Its replay has not moved though there is work.
    Stall,
    /// A flush has waited too long for its disk.
    FlushTimeout,
    /// The channel is down and did not come back.
    ChannelDown,
}

/// How much the other site is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It was heard.
    Fine,
    /// Half of the timeout has passed in silence: what takes time is prepared.
    Uneasy,
    /// It is taken for lost.
    Suspect(Suspicion),
}

/// What a heartbeat tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// The round trip that its echo measures.
    pub round_trip: Option<Duration>,
    /// How long the sender had heard nothing from here when it sent this.
    pub deaf_for: Duration,
    /// How far the sender's copy is.
    pub replayed: ExitOrdinal,
}

/// What a primary waits for, of its backup: since when the oldest has waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waits {
    /// An output, for its acknowledgement.
    pub output_since: Option<Moment>,
    /// A flush that is durable here, for the other disk.
    pub flush_since: Option<Moment>,
}

/// Watches the other site.
#[derive(Debug, Clone)]
pub struct Detector {
    floor: Duration,
    round_trips: VecDeque<Duration>,
    /// Median and 99th percentile of them.
    round_trip_p50: Duration,
    round_trip_p99: Duration,
    heard_at: Moment,
    deaf_for: Duration,
    channel_down_since: Option<Moment>,
    replayed: ExitOrdinal,
    /// When the replay last moved, or last had nothing to do.
    moved_at: Moment,
    waits: Waits,
    /// What has waited since before counts from here on.
    begun_at: Moment,
}

impl Detector {
    /// With a timeout of at least `floor`.
    #[must_use]
    pub const fn new(floor: Duration) -> Self {
        Self {
            floor,
            round_trips: VecDeque::new(),
            round_trip_p50: Duration::ZERO,
            round_trip_p99: Duration::ZERO,
            heard_at: Moment::from_nanos(0),
            deaf_for: Duration::ZERO,
            channel_down_since: None,
            replayed: ExitOrdinal::new(0),
            moved_at: Moment::from_nanos(0),
            waits: Waits {
                output_since: None,
                flush_since: None,
            },
            begun_at: Moment::from_nanos(0),
        }
    }

    /// The other site is given the benefit of the doubt from `now` on: a pairing begins, or this site was asleep
    /// itself. Measured round trips stay.
    pub fn begin(&mut self, now: Moment) {
        self.heard_at = now;
        self.deaf_for = Duration::ZERO;
        self.channel_down_since = None;
        self.moved_at = now;
        self.waits = Waits::default();
        self.begun_at = now;
    }

    /// A heartbeat arrived.
    pub fn heartbeat(&mut self, now: Moment, heard: &Heard) {
        self.heard_at = now;
        self.deaf_for = heard.deaf_for;
        if let Some(round_trip) = heard.round_trip {
            // Sorted at each heartbeat, not at each question: there are many more of those.
            if self.round_trips.len() == ROUND_TRIPS_MAX {
                self.round_trips.pop_front();
            }
            self.round_trips.push_back(round_trip);
            self.take_percentiles();
        }
        self.replayed(now, heard.replayed);
    }

    /// What the other site does not acknowledge, and that its replay stands, counts from `from` on, later than now or not:
    /// its copy is being repaired, or is that no more (H2).
    pub fn excuse_until(&mut self, from: Moment) {
        self.begun_at = from;
        self.moved_at = from;
        self.waits = Waits::default();
    }

    /// Something arrived on the channel.
    pub const fn channel_heard(&mut self, now: Moment) {
        self.heard_at = now;
    }

    /// The channel is down, or up again.
    pub const fn channel(&mut self, now: Moment, up: bool) {
        self.channel_down_since = match (up, self.channel_down_since) {
            (true, _) => None,
            (false, Some(since)) => Some(since),
            (false, None) => Some(now),
        };
    }

    /// How far the other copy is.
    pub fn replayed(&mut self, now: Moment, position: ExitOrdinal) {
        if position > self.replayed {
            self.replayed = position;
            self.moved_at = now;
        }
    }

    /// What this side waits for: the end of what was logged, and `waits`.
    pub fn waits(&mut self, now: Moment, logged_to: ExitOrdinal, waits: Waits) {
        if logged_to <= self.replayed {
            self.moved_at = self.moved_at.max(now);
        }
        let counted = |since: Option<Moment>| since.map(|since| since.max(self.begun_at));
        self.waits = Waits {
            output_since: counted(waits.output_since),
            flush_since: counted(waits.flush_since),
        };
    }

    /// The 99th percentile of the measured round trips; zero before the first.
    #[must_use]
    pub const fn round_trip_p99(&self) -> Duration {
        self.round_trip_p99
    }

    /// The median of the measured round trips; zero before the first.
    #[must_use]
    pub const fn round_trip_p50(&self) -> Duration {
        self.round_trip_p50
    }

    fn take_percentiles(&mut self) {
        let mut sorted: Vec<Duration> = self.round_trips.iter().copied().collect();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let at = |permille: usize| sorted.get((last * permille).div_ceil(1000)).copied();
        self.round_trip_p50 = at(500).unwrap_or_default();
        self.round_trip_p99 = at(990).unwrap_or_default();
    }

    /// The silence that is taken for a failure.
    #[must_use]
    pub fn failure_timeout(&self) -> Duration {
        self.floor.max(self.round_trip_p99() * 4 + FAILURE_TIMEOUT_MARGIN)
    }

    /// How long an output may wait for its acknowledgement, and a channel for its return.
    #[must_use]
    pub fn ack_timeout(&self) -> Duration {
        self.failure_timeout() * 2
    }

    /// How often to send a heartbeat.
    #[must_use]
    pub fn heartbeat_interval(&self) -> Duration {
        (self.failure_timeout() / HEARTBEATS_PER_TIMEOUT).max(HEARTBEAT_INTERVAL_MIN)
    }

    /// How long the site that is not preferred waits before it claims (P5).
    #[must_use]
    pub fn head_start(&self) -> Duration {
        self.round_trip_p50() * 2 + HEAD_START_MARGIN
    }

    /// For how long nothing was heard of the other site.
    #[must_use]
    pub fn silence(&self, now: Moment) -> Duration {
        now.saturating_since(self.heard_at)
    }

    /// What a backup makes of its primary.
    #[must_use]
    pub fn of_primary(&self, now: Moment) -> Level {
        let silent_for = self.silence(now);
        let timeout = self.failure_timeout();
        if silent_for >= timeout {
            Level::Suspect(Suspicion::Silence)
        } else if silent_for >= timeout / 2 {
            Level::Uneasy
        } else {
            Level::Fine
        }
    }

    /// What a primary makes of its backup.
    #[must_use]
    pub fn of_backup(&self, now: Moment) -> Level {
        let since = |moment: Option<Moment>| moment.map_or(Duration::ZERO, |at| now.saturating_since(at));
        let ack_timeout = self.ack_timeout();
        if self.deaf_for >= self.failure_timeout() {
            Level::Suspect(Suspicion::Deaf)
        } else if since(self.waits.output_since) >= ack_timeout {
            Level::Suspect(Suspicion::AckTimeout)
        } else if since(self.channel_down_since) >= ack_timeout {
            Level::Suspect(Suspicion::ChannelDown)
        } else if now.saturating_since(self.moved_at) >= BACKUP_STALL {
            Level::Suspect(Suspicion::Stall)
        } else if since(self.waits.flush_since) >= BACKUP_STALL {
            Level::Suspect(Suspicion::FlushTimeout)
        } else {
            self.of_primary(now)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Happening = fn(&mut Detector);

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn detector() -> Detector {
        let mut detector = Detector::new(Duration::from_millis(300));
        detector.begin(at(1000));
        detector
    }

    fn heartbeat(round_trip_ms: u64) -> Heard {
        Heard {
            round_trip: Some(Duration::from_millis(round_trip_ms)),
            ..Heard::default()
        }
    }

    #[test]
    fn the_timeout_follows_the_worst_round_trips_and_has_a_floor() {
        let mut detector = detector();
        assert_eq!(detector.failure_timeout(), Duration::from_millis(300));
        for _ in 0..98 {
            detector.heartbeat(at(1000), &heartbeat(40));
        }
        assert_eq!(detector.failure_timeout(), Duration::from_millis(300));
        assert_eq!(detector.head_start(), Duration::from_millis(130));
        detector.heartbeat(at(1000), &heartbeat(100));
        detector.heartbeat(at(1000), &heartbeat(100));
        assert_eq!(detector.failure_timeout(), Duration::from_millis(500));
        assert_eq!(detector.heartbeat_interval(), Duration::from_micros(62_500));
    }

    #[test]
    fn either_way_of_hearing_ends_the_silence() {
        let mut detector = detector();
        assert_eq!(detector.of_primary(at(1149)), Level::Fine);
        assert_eq!(detector.of_primary(at(1150)), Level::Uneasy);
        assert_eq!(detector.of_primary(at(1300)), Level::Suspect(Suspicion::Silence));
        detector.channel_heard(at(1300));
        assert_eq!(detector.of_primary(at(1300)), Level::Fine);
        detector.heartbeat(at(1500), &heartbeat(1));
        assert_eq!(detector.of_primary(at(1600)), Level::Fine);
    }

    #[test]
    fn packets_that_arrive_prove_no_health() {
        let waits = |detector: &mut Detector| {
            let waits = Waits {
                output_since: Some(at(4400)),
                flush_since: None,
            };
            detector.waits(at(5000), ExitOrdinal::new(0), waits);
        };
        let flushes = |detector: &mut Detector| {
            let waits = Waits {
                output_since: None,
                flush_since: Some(at(1000)),
            };
            detector.replayed(at(6000), ExitOrdinal::new(1));
            detector.waits(at(6000), ExitOrdinal::new(0), waits);
        };
        let deaf = |detector: &mut Detector| {
            let deaf_for = Duration::from_millis(300);
            detector.heartbeat(
                at(5000),
                &Heard {
                    deaf_for,
                    ..Heard::default()
                },
            );
        };
        let down = |detector: &mut Detector| {
            detector.channel(at(4400), false);
            detector.channel(at(4900), false);
        };
        let stalls = |detector: &mut Detector| {
            detector.waits(at(1000), ExitOrdinal::new(9), Waits::default());
            detector.waits(at(5900), ExitOrdinal::new(9), Waits::default());
        };
        let cases: [(Happening, u64, Suspicion); 5] = [
            (waits, 5000, Suspicion::AckTimeout),
            (deaf, 5000, Suspicion::Deaf),
            (down, 5000, Suspicion::ChannelDown),
            (stalls, 6000, Suspicion::Stall),
            (flushes, 6000, Suspicion::FlushTimeout),
        ];
        for (happens, when, suspicion) in cases {
            let mut detector = detector();
            happens(&mut detector);
            detector.channel_heard(at(when));
            assert_eq!(detector.of_backup(at(when)), Level::Suspect(suspicion));
            assert_eq!(detector.of_primary(at(when)), Level::Fine);
        }
    }

    #[test]
    fn a_backup_without_work_does_not_stall() {
        let mut detector = detector();
        detector.replayed(at(1000), ExitOrdinal::new(9));
        detector.waits(at(9000), ExitOrdinal::new(9), Waits::default());
        detector.channel_heard(at(9000));
        assert_eq!(detector.of_backup(at(9000)), Level::Fine);
    }

    #[test]
    fn a_copy_that_is_repaired_is_excused_for_a_while_and_no_longer() {
        let mut detector = detector();
        let waits = Waits {
            output_since: Some(at(1000)),
            flush_since: Some(at(1000)),
        };
        detector.excuse_until(at(6000));
        for now in [2000, 6000, 6500] {
            detector.waits(at(now), ExitOrdinal::new(9), waits);
            detector.channel_heard(at(now));
            assert_eq!(detector.of_backup(at(now)), Level::Fine, "{now}");
        }
        detector.channel_heard(at(6700));
        assert_eq!(
            detector.of_backup(at(6700)),
            Level::Suspect(Suspicion::AckTimeout)
        );
        detector.channel_heard(at(7000));
        detector.excuse_until(at(7000));
        assert_eq!(detector.of_backup(at(7000)), Level::Fine);
        assert_eq!(
            detector.of_primary(at(7300)),
            Level::Suspect(Suspicion::Silence),
            "one that is not heard is not excused"
        );
    }

    #[test]
    fn a_site_that_was_asleep_gives_the_other_a_new_chance() {
        let mut detector = detector();
        detector.channel(at(1000), false);
        let waits = Waits {
            output_since: Some(at(1000)),
            flush_since: Some(at(1000)),
        };
        detector.waits(at(1000), ExitOrdinal::new(9), waits);
        detector.begin(at(60_000));
        detector.waits(at(60_000), ExitOrdinal::new(9), waits);
        assert_eq!(detector.of_backup(at(60_100)), Level::Fine);
    }
}
