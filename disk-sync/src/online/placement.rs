//! The rule of positions, as two pure cores. [The module](super) argues it.

use std::collections::{BTreeMap, BTreeSet};

use crate::replica::GenerationId;

/// Units that may be under way: what bounds the memory of either end.
const UNDER_WAY_MAX: usize = 256;

/// A point of the log: guest writes are numbered by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// What is moved or compared: a leaf of the image, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit(pub u64);

/// A unit's content, or what names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carried {
    /// To be written.
    Data(Vec<u8>),
    /// To be compared.
    Hash([u8; 32]),
}

/// What the source tells the target of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Of which unit.
    pub unit: Unit,
    /// In which generation.
    pub generation: GenerationId,
    /// It holds every guest write up to here, and none after.
    pub read_at: Position,
    /// No order that is still to come was or will be read before this.
    pub horizon: Position,
    /// What the unit holds.
    pub carried: Carried,
}

/// What the target answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Used, and durable.
    Done {
        /// Which unit.
        unit: Unit,
        /// Where it was read.
        read_at: Position,
    },
    /// The target's guest has written to it since: read it again.
    Again(Unit),
}

/// The source's part: which units to read, and when their marks may go.
#[derive(Debug)]
pub struct Mover {
    generation: GenerationId,
    /// To be read.
    marked: BTreeSet<Unit>,
    /// Read, and not answered.
    under_way: BTreeMap<Unit, Position>,
}

impl Mover {
    /// Moves `units` in this generation.
    #[must_use]
    pub fn new(generation: GenerationId, units: impl IntoIterator<Item = Unit>) -> Self {
        Self {
            generation,
            marked: units.into_iter().collect(),
            under_way: BTreeMap::new(),
        }
    }

    /// The next unit to read, if one may be under way.
    #[must_use]
    pub fn next(&self) -> Option<Unit> {
        let next = self
            .marked
            .iter()
            .find(|unit| !self.under_way.contains_key(*unit));
        next.copied().filter(|_| self.under_way.len() < UNDER_WAY_MAX)
    }

    /// `unit` was read at `now`, with every guest write up to there and none after.
    #[must_use]
    pub fn read(&mut self, unit: Unit, now: Position, carried: Carried) -> Order {
        self.marked.remove(&unit);
        self.under_way.insert(unit, now);
        Order {
            unit,
            generation: self.generation,
            read_at: now,
            horizon: self.under_way.values().copied().min().unwrap_or(now),
            carried,
        }
    }

    /// The unit may differ (again), for a reason that lockstep does not heal: what is under way does not settle that.
    pub fn mark(&mut self, unit: Unit) {
        self.marked.insert(unit);
    }

    /// The target has answered. An answer to an earlier read counts for nothing.
    pub fn answered(&mut self, reply: Reply) {
        match reply {
            Reply::Done { unit, read_at } => {
                if self.under_way.get(&unit) == Some(&read_at) {
                    self.under_way.remove(&unit);
                }
            }
            Reply::Again(unit) => {
                if self.under_way.remove(&unit).is_some() {
                    self.marked.insert(unit);
                }
            }
        }
    }

    /// Whether nothing is left to be moved or answered.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.marked.is_empty() && self.under_way.is_empty()
    }
}

/// What the target does with a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// Write or compare it now, before the guest goes on; make it durable, then answer [`Reply::Done`].
    Now(Order),
    /// Ask for it again.
    Again(Unit),
}

/// The target's part: when what was carried may be used.
#[derive(Debug)]
pub struct Placer {
    generation: GenerationId,
    /// Every guest write up to here has been executed.
    reached: Position,
    /// The last guest write to each unit, as far as orders that are still to come may be older.
    written: BTreeMap<Unit, Position>,
    /// What is of a position that the guest has not reached.
    staged: BTreeMap<(Position, Unit), Order>,
    dropped: u64,
}

impl Placer {
    /// Takes in units of this generation; the guest has executed all writes up to `reached`.
    #[must_use]
    pub fn new(generation: GenerationId, reached: Position) -> Self {
        Self {
            generation,
            reached,
            written: BTreeMap::new(),
            staged: BTreeMap::new(),
            dropped: 0,
        }
    }

    /// The target's guest writes to `unit` at `at`: to be called before it does. What comes back is used first.
    #[must_use]
    pub fn guest_writes(&mut self, unit: Unit, at: Position) -> Vec<Use> {
        let before = self.reached(Position(at.0.saturating_sub(1)));
        self.written.insert(unit, at);
        before
    }

    /// The target's guest has executed all writes up to `position`. What comes back is used before it goes on.
    #[must_use]
    pub fn reached(&mut self, position: Position) -> Vec<Use> {
        self.reached = self.reached.max(position);
        let after = self.staged.split_off(&(Position(self.reached.0 + 1), Unit(0)));
        let due = std::mem::replace(&mut self.staged, after);
        due.into_values().map(|order| self.judge(order)).collect()
    }

    /// An order has arrived.
    #[must_use]
    pub fn arrived(&mut self, order: Order) -> Option<Use> {
        if order.generation != self.generation {
            self.dropped += 1;
            return None;
        }
        self.written.retain(|_, at| *at > order.horizon);
        if order.read_at > self.reached && self.staged.len() < UNDER_WAY_MAX {
            self.staged.insert((order.read_at, order.unit), order);
            return None;
        }
        if order.read_at > self.reached {
            // A source that keeps to its limit never comes here.
            return Some(Use::Again(order.unit));
        }
        Some(self.judge(order))
    }

    fn judge(&self, order: Order) -> Use {
        match self.written.get(&order.unit) {
            Some(at) if *at > order.read_at => Use::Again(order.unit),
            _ => Use::Now(order),
        }
    }

    /// Orders of other generations that came and were dropped.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}
