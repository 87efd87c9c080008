//! What a driver measures for whoever operates the VM (O3).

use std::collections::VecDeque;
use std::time::Duration;

use antipode_tiebreaker::Operation;

use crate::base::spans::Spans;
use crate::protocol::status::Measured;

/// How often the other site is asked for an echo over the log's own connection.
const ECHO_EVERY: Duration = Duration::from_millis(250);
/// The log's bytes are counted over so long.
const RATE_SPAN: Duration = Duration::from_secs(10);
/// As closely as this.
const RATE_STEP: Duration = Duration::from_secs(1);
/// A tiebreaker that has not answered for so long is silent.
const TIEBREAKER_SILENT_AFTER: Duration = Duration::from_secs(10);

/// A change of the live site, step by step.
#[derive(Debug, Clone, Copy)]
struct Takeover {
    /// The other site was last heard.
    heard: Duration,
    /// The tiebreaker was asked first.
    asked: Duration,
    /// It has granted.
    granted: Option<Duration>,
    /// Outputs may leave.
    live: Option<Duration>,
}

/// Bytes of log that were handed to the connection since lockstep began.
#[derive(Debug)]
struct LogBytes {
    total: u64,
    /// What it was at moments of the last while, and once before it.
    marks: VecDeque<(Duration, u64)>,
}

impl LogBytes {
    fn from(now: Duration) -> Self {
        Self {
            total: 0,
            marks: [(now, 0)].into(),
        }
    }

    fn mark(&mut self, now: Duration) {
        if self.marks.back().is_none_or(|(at, _)| now - *at >= RATE_STEP) {
            self.marks.push_back((now, self.total));
        }
        while self.marks.len() > 1 && now - self.marks[1].0 >= RATE_SPAN {
            self.marks.pop_front();
        }
    }

    fn per_second(&self, now: Duration) -> Option<u64> {
        let (since, before) = self.marks.front()?;
        let span = now.saturating_sub(*since);
        let bytes = u128::from(self.total - before);
        (span >= RATE_STEP).then(|| u64::try_from(bytes * 1000 / span.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Times since the driver's clock began.
#[derive(Debug, Default)]
pub(super) struct Figures {
    holds: Spans,
    echoes: Spans,
    next_echo: Duration,
    peer_heard: Duration,
    stun_begun: Option<Duration>,
    stun: Option<Duration>,
    takeover: Option<Takeover>,
    tiebreaker_heard: Duration,
    log: Option<LogBytes>,
}

impl Figures {
    /// From `now` on; the tiebreaker counts as heard.
    pub(super) fn from(now: Duration) -> Self {
        Self {
            tiebreaker_heard: now,
            ..Self::default()
        }
    }

    /// An output has left that was held for so long.
    pub(super) fn let_out(&mut self, held: Duration) {
        self.holds.add(held);
    }

    /// The guest is about to stand still for a copy.
    pub(super) fn stun_begins(&mut self, now: Duration) {
        self.stun_begun = Some(now);
    }

    /// It goes on, in lockstep: what is held from now on is held for the other site.
    pub(super) fn lockstep_begins(&mut self, now: Duration) {
        self.stun = self.stun_begun.take().map(|begun| now.saturating_sub(begun));
        self.holds = Spans::default();
        self.echoes = Spans::default();
        self.log = Some(LogBytes::from(now));
    }

    /// So many bytes of log were handed to the connection.
    pub(super) fn logged(&mut self, bytes: u64) {
        if let Some(log) = &mut self.log {
            log.total += bytes;
        }
    }

    /// Some time has passed.
    pub(super) fn ticked(&mut self, now: Duration) {
        if let Some(log) = &mut self.log {
            log.mark(now);
        }
    }

    /// The other site was heard.
    pub(super) fn peer_heard(&mut self, now: Duration) {
        self.peer_heard = now;
    }

    /// The stamp of an echo that is to be asked for now.
    pub(super) fn echo_due(&mut self, now: Duration) -> Option<u64> {
        if now < self.next_echo {
            return None;
        }
        self.next_echo = now + ECHO_EVERY;
        u64::try_from(now.as_nanos()).ok()
    }

    /// The echo of what was asked for with `stamp`. One that is later than now is none of ours.
    pub(super) fn echoed(&mut self, now: Duration, stamp: u64) {
        if let Some(span) = now.checked_sub(Duration::from_nanos(stamp)) {
            self.echoes.add(span);
        }
    }

    /// The tiebreaker is asked.
    pub(super) fn asked(&mut self, now: Duration, operation: &Operation) {
        let is_under_way = self.takeover.is_some_and(|takeover| takeover.granted.is_none());
        if matches!(operation, Operation::Claim { .. }) && !is_under_way {
            self.takeover = Some(Takeover {
                heard: self.peer_heard,
                asked: now,
                granted: None,
                live: None,
            });
        }
    }

    /// The tiebreaker has answered something.
    pub(super) fn tiebreaker_heard(&mut self, now: Duration) {
        self.tiebreaker_heard = now;
    }

    /// Nobody else may be live.
    pub(super) fn granted(&mut self, now: Duration) {
        if let Some(takeover) = &mut self.takeover {
            takeover.granted.get_or_insert(now);
        }
    }

    /// What the guest makes leaves.
    pub(super) fn live(&mut self, now: Duration) {
        if let Some(takeover) = &mut self.takeover
            && takeover.granted.is_some()
        {
            takeover.live.get_or_insert(now);
        }
    }

    /// For the status, of what is measured here.
    pub(super) fn measured(&self, now: Duration) -> Measured {
        let between = |from: Option<Duration>, to: Option<Duration>| Some(to?.saturating_sub(from?));
        let heard = self.takeover.map(|takeover| takeover.heard);
        let asked = self.takeover.map(|takeover| takeover.asked);
        let granted = self.takeover.and_then(|takeover| takeover.granted);
        let live = self.takeover.and_then(|takeover| takeover.live);
        let silence = now.saturating_sub(self.tiebreaker_heard);
        Measured {
            output_hold_p50: self.holds.percentile(50),
            output_hold_p99: self.holds.percentile(99),
            echo_p50: self.echoes.percentile(50),
            echo_p99: self.echoes.percentile(99),
            stun: self.stun,
            detection: between(heard, asked),
            claim: between(asked, granted),
            going_live: between(granted, live),
            log_bytes: self.log.as_ref().map(|log| log.total),
            log_bytes_per_second: self.log.as_ref().and_then(|log| log.per_second(now)),
            tiebreaker_silence: Some(silence).filter(|silence| *silence >= TIEBREAKER_SILENT_AFTER),
            ..Measured::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use antipode_tiebreaker::PairingId;

    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_takeover_is_measured_from_the_last_word_to_the_first_output() {
        let mut figures = Figures::from(at(0));
        figures.peer_heard(at(1_000));
        let claim = Operation::Claim {
            boot: antipode_tiebreaker::Boot(1),
            pairing: PairingId(1),
        };
        figures.asked(at(1_400), &claim);
        figures.asked(at(1_500), &claim);
        figures.granted(at(1_450));
        figures.live(at(1_480));
        figures.live(at(1_600));
        let measured = figures.measured(at(1_700));
        assert_eq!(
            (measured.detection, measured.claim, measured.going_live),
            (Some(at(400)), Some(at(50)), Some(at(30)))
        );
    }

    #[test]
    fn what_was_held_before_lockstep_does_not_count() {
        let mut figures = Figures::from(at(0));
        figures.let_out(at(0));
        figures.stun_begins(at(10));
        figures.lockstep_begins(at(300));
        figures.let_out(at(41));
        let measured = figures.measured(at(400));
        assert_eq!(
            (measured.output_hold_p50, measured.stun),
            (Some(at(41)), Some(at(290)))
        );
    }

    #[test]
    fn the_logs_bytes_are_counted_since_lockstep_and_by_the_second() {
        let mut figures = Figures::from(at(0));
        figures.logged(5_000);
        let measured = |figures: &Figures, ms| {
            let measured = figures.measured(at(ms));
            (measured.log_bytes, measured.log_bytes_per_second)
        };
        assert_eq!(measured(&figures, 900), (None, None), "there is no log yet");
        figures.lockstep_begins(at(1_000));
        figures.logged(600);
        assert_eq!(
            measured(&figures, 1_500),
            (Some(600), None),
            "it is too early to tell"
        );
        for second in 1..=20 {
            figures.ticked(at(1_000 + 1_000 * second));
            figures.logged(100);
        }
        assert_eq!(
            measured(&figures, 21_500),
            (Some(2_600), Some(1_100 * 1_000 / 10_500))
        );
        figures.ticked(at(40_000));
        figures.ticked(at(50_000));
        assert_eq!(measured(&figures, 50_500), (Some(2_600), Some(0)));
    }

    #[test]
    fn a_tiebreaker_is_silent_after_a_while() {
        let figures = Figures::from(at(0));
        assert_eq!(figures.measured(at(9_999)).tiebreaker_silence, None);
        assert_eq!(figures.measured(at(10_000)).tiebreaker_silence, Some(at(10_000)));
    }
}
