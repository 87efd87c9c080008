//! Noise on purpose: signals at random moments, as a busy host has them. No position may move by it (E5).

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::machine::kvm::VcpuWaker;

/// Bounds of the span between two signals.
const SPAN_US: std::ops::Range<u64> = 1_000..20_000;

/// Disturbs a vCPU thread until it is dropped.
#[derive(Debug)]
pub struct Noise {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Noise {
    /// Disturbs the thread of `vcpu` at moments that follow from `seed`.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn start(vcpu: VcpuWaker, seed: u64) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let disturb = move || {
            let mut state = seed;
            while stopped.recv_timeout(next_span(&mut state)) == Err(RecvTimeoutError::Timeout) {
                vcpu.disturb();
            }
        };
        let thread = std::thread::Builder::new().name("noise".into()).spawn(disturb)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
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
fn next_span(state: &mut u64) -> Duration {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    Duration::from_micros(SPAN_US.start + mixed % (SPAN_US.end - SPAN_US.start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_follow_from_the_seed_and_stay_in_bounds() {
        let spans = |mut seed: u64| (0..1000).map(|_| next_span(&mut seed)).collect::<Vec<_>>();
        assert_eq!(spans(1), spans(1));
        assert_ne!(spans(1), spans(2));
        let bounds = Duration::from_micros(SPAN_US.start)..Duration::from_micros(SPAN_US.end);
        assert!(spans(3).iter().all(|span| bounds.contains(span)));
    }
}
