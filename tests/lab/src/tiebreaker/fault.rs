//! What goes wrong with the leader, when, and for how long.

use super::town::Town;
use crate::switch::random::Random;
use anyhow::Result;
use std::thread;
use std::time::Duration;

/// Something that happens to a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// It is killed, and started again.
    Kill,
    /// It is frozen, and thawed.
    Freeze,
    /// The others do not reach it, nor it them; clients do.
    CutOff,
}

impl Fault {
    const ALL: [Self; 3] = [Self::Kill, Self::Freeze, Self::CutOff];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::CutOff => "cut-off",
        }
    }
}

/// A fault with its times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) fault: Fault,
    /// From the round's beginning.
    begins: Duration,
    lasts: Duration,
}

impl Plan {
    pub(super) fn draw(random: &mut Random) -> Self {
        let last = Fault::ALL.len() as u64 - 1;
        Self {
            fault: Fault::ALL[usize::try_from(random.up_to(last)).unwrap_or(0)],
            begins: Duration::from_micros(random.up_to(4_000)),
            lasts: Duration::from_millis(200 + random.up_to(600)),
        }
    }

    /// Lets it happen to node `index`, the leader, and end.
    pub(super) fn happen(self, town: &mut Town, index: usize) -> Result<()> {
        thread::sleep(self.begins);
        match self.fault {
            Fault::Kill => town.kill(index)?,
            Fault::Freeze => town.freeze(index, true)?,
            Fault::CutOff => town.cut_off(index, true),
        }
        thread::sleep(self.lasts);
        match self.fault {
            Fault::Kill => town.start(index),
            Fault::Freeze => town.freeze(index, false),
            Fault::CutOff => {
                town.cut_off(index, false);
                Ok(())
            }
        }
    }
}
