//! How long a guest that computes is left alone (H1), and how long written pages are logged before the log of them
//! starts anew.
//!
//! ```text
//!            pre-empted                          an epoch without a pre-emption
//!   calm ───────────────▶ short epochs ───────────────────────────────────────▶ calm, twice as long, up to a bound
//! ```
//!
//! - *Waiting*: a pre-emption costs the capture of its pages, and how many there are is known before. Where that is dear,
//!   the guest is left alone for longer, so that it takes a tenth of the guest's time at most: a second for one that fills
//!   memory, [`PREEMPT_AFTER_MIN`] for one that computes in few pages.
//!   Whoever measures may have it be [the same](Patience::always) for all.
//! - *Epochs*: each new start costs the guest a fault for each page that it writes again. Where nobody is pre-empted that
//!   is all it does, so epochs grow. After a pre-emption they are short, or each next one would carry ever more pages.

use std::time::Duration;

use crate::base::units::VirtualTime;

/// Bounds of the wait before a pre-emption.
const PREEMPT_AFTER_MIN: Duration = Duration::from_millis(20);
const PREEMPT_AFTER_MAX: Duration = Duration::from_secs(1);
/// How many times its own cost a pre-emption waits at least.
const PREEMPT_AFTER_COSTS: u32 = 10;
/// The part of the newest cost in the mean is one in so many.
const COST_SMOOTHING: u32 = 4;

/// Bounds of an epoch.
const EPOCH_MIN: Duration = Duration::from_millis(400);
const EPOCH_MAX: Duration = Duration::from_secs(16);

/// How patient a recorder is.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// How long it waits whatever it costs, if that is said.
    always: Option<Duration>,
    /// Mean of what a pre-emption costs for each of its pages.
    cost_per_page: Duration,
    /// The first begins at once.
    epoch_began: Option<VirtualTime>,
    /// Its span, if not the least.
    epoch_span: Duration,
    was_preempted: bool,
}

impl Patience {
    /// That waits for `always` before each pre-emption, if that is said.
    pub(super) fn always(always: Option<Duration>) -> Self {
        Self {
            always,
            ..Self::default()
        }
    }

    /// How long something waits at least before a guest is pre-empted.
    pub(super) fn preempt_after_least(&self) -> Duration {
        self.always.unwrap_or(PREEMPT_AFTER_MIN)
    }

    /// How long something waits before a guest is pre-empted that has written `page_count` pages.
    pub(super) fn preempt_after(&self, page_count: usize) -> Duration {
        if let Some(always) = self.always {
            return always;
        }
        let page_count = u32::try_from(page_count).unwrap_or(u32::MAX);
        let costs = self
            .cost_per_page
            .saturating_mul(page_count)
            .saturating_mul(PREEMPT_AFTER_COSTS);
        costs.clamp(PREEMPT_AFTER_MIN, PREEMPT_AFTER_MAX)
    }

    /// A pre-emption with `page_count` pages has cost this.
    pub(super) fn preempted(&mut self, page_count: usize, cost: Duration) {
        let cost = cost / u32::try_from(page_count).unwrap_or(u32::MAX).max(1);
        self.cost_per_page = (self.cost_per_page * (COST_SMOOTHING - 1) + cost) / COST_SMOOTHING;
        self.was_preempted = true;
        self.epoch_span = EPOCH_MIN;
    }

    /// Whether an epoch begins `now`, at a counted exit.
    pub(super) fn begins_epoch(&mut self, now: VirtualTime) -> bool {
        let span = self.epoch_span.max(EPOCH_MIN);
        if self.epoch_began.is_some_and(|began| now - began < span) {
            return false;
        }
        self.epoch_began = Some(now);
        let was_preempted = std::mem::take(&mut self.was_preempted);
        self.epoch_span = if was_preempted {
            EPOCH_MIN
        } else {
            (span * 2).min(EPOCH_MAX)
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs_until(patience: &mut Patience, from: VirtualTime, span: Duration) -> usize {
        let moments = (0..span.as_millis()).map(|_| Duration::from_millis(1));
        let mut now = from;
        moments
            .filter(|step| {
                now = now + *step;
                patience.begins_epoch(now)
            })
            .count()
    }

    #[test]
    fn a_dear_pre_emption_waits_longer_within_bounds() {
        let mut patience = Patience::default();
        assert_eq!(patience.preempt_after(1000), PREEMPT_AFTER_MIN);
        for _ in 0..100 {
            patience.preempted(100, Duration::from_millis(1));
        }
        assert_eq!(patience.preempt_after(100), PREEMPT_AFTER_MIN);
        let thousand = patience.preempt_after(1000);
        assert!(
            thousand > Duration::from_millis(95) && thousand <= Duration::from_millis(100),
            "{thousand:?}"
        );
        assert_eq!(patience.preempt_after(usize::MAX), PREEMPT_AFTER_MAX);
        patience.always = Some(Duration::from_millis(4));
        assert_eq!(patience.preempt_after(usize::MAX), patience.preempt_after_least());
    }

    #[test]
    fn epochs_grow_in_calm_and_are_short_after_a_pre_emption() {
        let mut patience = Patience::default();
        // At once, then after 0.8 + 1.6 + 3.2 + 6.4 + 12.8 s, then every 16 s.
        assert_eq!(
            epochs_until(&mut patience, VirtualTime::ZERO, Duration::from_secs(60)),
            8
        );
        patience.preempted(0, Duration::ZERO);
        let from = VirtualTime::ZERO + Duration::from_secs(60);
        assert_eq!(epochs_until(&mut patience, from, Duration::from_millis(900)), 2);
    }
}
