//! When to stop copying and stun (P6): passes over what was written meanwhile. Pure.

use std::time::Duration;

/// Passes after which the writer is slowed whatever the figures say: a rate may look good and lead nowhere.
const UNSLOWED_PASSES_MAX: u32 = 8;

/// How long the guest may stand still for the rest, of what it may stand still for at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StunBudget(pub Duration);

/// What to do after a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// What is left fits the stun.
    Stun,
    /// Another pass over what was written meanwhile. The writer may write so many bytes in a second, if it is limited.
    Pass {
        /// The writer's limit.
        writer_bytes_per_second: Option<u64>,
    },
}

/// Judges passes.
///
/// It converges: once the writer is limited to half of what the line carries, each pass leaves at most half of what
/// it sent, so that after `n` passes more at most `2^-n` of it is left.
#[derive(Debug, Clone, Copy)]
pub struct Passes {
    budget: StunBudget,
    passes: u32,
    is_slowed: bool,
}

impl Passes {
    /// Passes that shall end in a stun of at most `budget`.
    #[must_use]
    pub const fn new(budget: StunBudget) -> Self {
        Self {
            budget,
            passes: 0,
            is_slowed: false,
        }
    }

    /// A pass has sent `sent` bytes in `took`; meanwhile `left` bytes were written.
    #[must_use]
    pub fn after(&mut self, sent: u64, took: Duration, left: u64) -> Next {
        self.passes += 1;
        let nanoseconds = took.as_nanos().max(1);
        let rate = u128::from(sent.max(1)) * 1_000_000_000 / nanoseconds;
        // What is left takes left ÷ rate: compared without dividing, so that nothing is lost to rounding.
        let fits = u128::from(left) * nanoseconds <= u128::from(sent.max(1)) * self.budget.0.as_nanos();
        if left == 0 || fits {
            return Next::Stun;
        }
        // Slowed once, slowed until the stun: a writer let go would be back at once.
        self.is_slowed |= left > sent / 2 || self.passes >= UNSLOWED_PASSES_MAX;
        let half = u64::try_from(rate / 2).unwrap_or(u64::MAX).max(1);
        Next::Pass {
            writer_bytes_per_second: self.is_slowed.then_some(half),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However fast the guest wants to write, and whatever the line does, it ends, within the budget.
        #[test]
        fn it_converges(image in 1_u64..1 << 42, line in 1_u64 << 20..1 << 32, wish in 0_u64..1 << 34, budget_ms in 50_u64..1000, jitter in any::<u64>()) {
            let mut passes = Passes::new(StunBudget(Duration::from_millis(budget_ms)));
            let (mut todo, mut limit) = (image, None);
            for pass in 0..80_u32 {
                // The line's rate wanders between all of it and three quarters.
                let rate = line - line / 4 * (jitter.rotate_left(pass * 7) & 3) / 3;
                let took = u128::from(todo) * 1_000_000_000 / u128::from(rate);
                let speed = limit.map_or(wish, |limit: u64| wish.min(limit));
                let left = u128::from(speed) * took / 1_000_000_000;
                let left = u64::try_from(left).unwrap_or(u64::MAX).min(image);
                let took = Duration::from_nanos(u64::try_from(took).unwrap_or(u64::MAX));
                match passes.after(todo, took, left) {
                    Next::Stun => {
                        // A thousandth more, for the rounding of the pass's own time.
                        let rest_us = u128::from(left) * 1_000_000 / u128::from(rate);
                        prop_assert!(rest_us <= u128::from(budget_ms) * 1_001 + 1, "{} us", rest_us);
                        return Ok(());
                    }
                    Next::Pass { writer_bytes_per_second } => {
                        prop_assert!(limit.is_none() || writer_bytes_per_second.is_some());
                        limit = writer_bytes_per_second;
                        todo = left;
                    }
                }
            }
            prop_assert!(false, "no end after 80 passes");
        }
    }

    #[test]
    fn a_writer_that_keeps_to_itself_is_never_slowed() {
        let mut passes = Passes::new(StunBudget(Duration::from_millis(100)));
        let quiet = passes.after(10 << 30, Duration::from_secs(100), 1 << 30);
        assert_eq!(
            quiet,
            Next::Pass {
                writer_bytes_per_second: None
            }
        );
        assert_eq!(
            passes.after(1 << 30, Duration::from_secs(10), 1 << 20),
            Next::Stun
        );
        let mut passes = Passes::new(StunBudget(Duration::from_millis(100)));
        let busy = passes.after(1 << 30, Duration::from_secs(10), 1 << 30);
        assert!(
            matches!(busy, Next::Pass { writer_bytes_per_second: Some(limit) } if limit == (1 << 30) / 20)
        );
    }
}
