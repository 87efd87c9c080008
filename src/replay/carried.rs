//! What a batch of the log is made of: what entered the VM, or what the VM has become (H4).

use std::time::Duration;

use super::batch::Batch;
use super::catalogue::Entry;

/// Bytes of an entry or of a check, besides content.
const ENTRY_BYTES: u64 = 4;

/// Of one batch; bytes before compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// All of it.
    pub bytes: u64,
    /// Pages and vCPU of a guest that was stopped while it computed (H1).
    pub resume_bytes: u64,
    /// Pieces of what makes a copy the same again (H2).
    pub repair_bytes: u64,
    /// How often a guest was so stopped.
    pub preemptions: u32,
    /// Its time that no replay executes for that.
    pub resumed: Duration,
}

impl Carried {
    /// Of `batch`, whose pre-empted stretches took so long.
    #[must_use]
    pub fn of(batch: &Batch, resumed: Duration) -> Self {
        let mut carried = Self {
            bytes: batch.checks.len() as u64,
            resumed,
            ..Self::default()
        };
        for (_, entry) in &batch.entries {
            let bytes = ENTRY_BYTES + entry.content_bytes() as u64;
            carried.bytes += bytes;
            match entry {
                Entry::Page { .. } => carried.resume_bytes += bytes,
                Entry::Resume { .. } => {
                    carried.resume_bytes += bytes;
                    carried.preemptions += 1;
                }
                Entry::Repair(_) => carried.repair_bytes += bytes,
                _ => {}
            }
        }
        carried
    }

    /// What falls to `part` of its bytes when all of it takes `sent` bytes.
    #[must_use]
    pub fn share_of(&self, part: u64, sent: u64) -> u64 {
        let share = u128::from(sent) * u128::from(part) / u128::from(self.bytes.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::{ExitOrdinal, VirtualTime};
    use crate::replay::RepairPiece;

    #[test]
    fn what_a_batch_carries_of_a_machine_is_told_from_what_entered_it() {
        let exit = ExitOrdinal::new(7);
        let mut batch = Batch::starting_at(exit);
        batch.checks = vec![0; 8];
        let page = Entry::Page {
            address: 0x1000,
            delta: vec![1; 96],
        };
        let resume = Entry::Resume {
            vcpu: vec![2; 196],
            posted: Vec::new(),
        };
        let leaf = Entry::Repair(RepairPiece::Leaf {
            number: 3,
            content: vec![3; 396],
        });
        let time = Entry::TimeRead(VirtualTime::ZERO);
        batch.entries = [page, resume, leaf, time].map(|entry| (exit, entry)).into();
        let carried = Carried::of(&batch, Duration::from_millis(20));
        let expected = Carried {
            bytes: 8 + 100 + 200 + 400 + 4,
            resume_bytes: 300,
            repair_bytes: 400,
            preemptions: 1,
            resumed: Duration::from_millis(20),
        };
        assert_eq!(carried, expected);
        assert_eq!(carried.share_of(carried.resume_bytes, 712), 300);
        assert_eq!(carried.share_of(carried.resume_bytes, 356), 150);
        assert_eq!(Carried::default().share_of(0, 40), 0);
    }
}
