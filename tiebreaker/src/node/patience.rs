//! How long a node waits for its leader. raft-rs would draw it from the thread's own chance; a range of one value pins it.

use antipode_certs::Name;

use crate::limits::{ELECTION_TICKS, HEARTBEAT_TICKS, PATIENCE_STEP_TICKS};

/// Ticks without a leader after which a node stands for election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Patience(usize);

impl Patience {
    /// That of `own` among `priorities`: the higher a node's priority, the sooner it stands. `seed` moves it within its
    /// step, so that clusters of one configuration do not all move at once.
    #[must_use]
    pub fn draw<'a>(own: &Name, priorities: impl IntoIterator<Item = (&'a Name, u32)>, seed: u64) -> Self {
        let mut order: Vec<(std::cmp::Reverse<u32>, &Name)> = priorities
            .into_iter()
            .map(|(name, priority)| (std::cmp::Reverse(priority), name))
            .collect();
        order.sort();
        let rank = order
            .iter()
            .position(|(_, name)| *name == own)
            .unwrap_or(order.len());
        // An odd multiplier spreads neighbouring seeds over the upper bits.
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        let jitter = usize::try_from(mixed).unwrap_or(0) % HEARTBEAT_TICKS;
        Self(ELECTION_TICKS + rank * PATIENCE_STEP_TICKS + jitter)
    }

    /// In ticks.
    #[must_use]
    pub const fn ticks(self) -> usize {
        self.0
    }
}
