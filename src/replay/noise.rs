//! Noise on purpose: what a busy host does to a VM at moments of its own. No position may move by it (E5), and no byte.
//!
//! ```text
//!   a thread ── signal every 1 to 20 ms ──▶ the vCPU leaves the guest, and one time in four its memory is disturbed:
//!               the page log off and on │ a chunk of RAM to the swap │ a chunk moved into a huge page
//!   the log's batches are cut at other exits than they were written at
//! ```

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::batch::Batch;
use crate::machine::kvm::{Disturbance, VcpuWaker};

/// Bounds of the span between two signals.
const SPAN_US: std::ops::Range<u64> = 1_000..20_000;

/// One kick in so many disturbs memory too.
const KICKS_PER_DISTURBANCE: u64 = 4;

/// What noise has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NoiseCounts {
    /// The page log was switched off and on.
    pub page_log_restarts: u64,
    /// Chunks of RAM were offered to the host's swap.
    pub page_outs: u64,
    /// Chunks of RAM were moved.
    pub moves: u64,
    /// Batches were cut in two.
    pub cut_batches: u64,
}

/// Disturbs a replay until it is dropped.
#[derive(Debug)]
pub(super) struct Noise {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    random: SplitMix,
    counts: NoiseCounts,
}

impl Noise {
    /// Disturbs the thread of `vcpu` at moments that follow from `seed`.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub(super) fn start(vcpu: VcpuWaker, seed: u64) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let disturb = move || {
            let mut random = SplitMix(seed);
            while stopped.recv_timeout(random.span()) == Err(RecvTimeoutError::Timeout) {
                vcpu.disturb();
            }
        };
        let thread = std::thread::Builder::new().name("noise".into()).spawn(disturb)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
            random: SplitMix(!seed),
            counts: NoiseCounts::default(),
        })
    }

    pub(super) fn counts(&self) -> NoiseCounts {
        self.counts
    }

    /// What shall happen to memory at this kick, if anything.
    pub(super) fn disturbance(&mut self) -> Option<Disturbance> {
        if !self.random.next().is_multiple_of(KICKS_PER_DISTURBANCE) {
            return None;
        }
        let chunk = self.random.next() >> 2;
        Some(match self.random.next() % 3 {
            0 => Disturbance::RestartPageLog,
            1 => Disturbance::PageOut { chunk },
            _ => Disturbance::Move { chunk },
        })
    }

    /// Takes note of a disturbance in which the host took part.
    pub(super) fn has_happened(&mut self, disturbance: Disturbance) {
        let count = match disturbance {
            Disturbance::RestartPageLog => &mut self.counts.page_log_restarts,
            Disturbance::PageOut { .. } => &mut self.counts.page_outs,
            Disturbance::Move { .. } => &mut self.counts.moves,
        };
        *count += 1;
    }

    /// Cuts `batch` after an exit in the middle of it, and answers what comes later. A batch of one exit stays whole.
    pub(super) fn cut(&mut self, batch: &mut Batch) -> Option<Batch> {
        let exits = u64::try_from(batch.checks.len()).ok()?;
        if exits < 2 {
            return None;
        }
        self.counts.cut_batches += 1;
        Some(batch.split_off(1 + self.random.next() % (exits - 1)))
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A noise that died is a quiet one.
            let _ = thread.join();
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn span(&mut self) -> Duration {
        Duration::from_micros(SPAN_US.start + self.next() % (SPAN_US.end - SPAN_US.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_follow_from_the_seed_and_stay_in_bounds() {
        let spans = |seed: u64| {
            let mut random = SplitMix(seed);
            (0..1000).map(|_| random.span()).collect::<Vec<_>>()
        };
        assert_eq!(spans(1), spans(1));
        assert_ne!(spans(1), spans(2));
        let bounds = Duration::from_micros(SPAN_US.start)..Duration::from_micros(SPAN_US.end);
        assert!(spans(3).iter().all(|span| bounds.contains(span)));
    }
}
