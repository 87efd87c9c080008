//! Moving and comparing units while a guest writes (D3, D5).
//!
//! ```text
//!   before lockstep                        under lockstep
//!   passes: all │ what was written │ …     mover ── Data or Hash(unit, generation, position read at) ──▶ placer
//!           until the rest fits the stun     ▲                                                             │
//!                                            └───────────── Done(unit, position) │ Again(unit) ◀───────────┘
//! ```
//!
//! **Before lockstep** only one side runs. `passes` sends what was written during the last pass until what is left fits
//! the stun, and slows the writer where it would never get there.
//!
//! **Under lockstep** both sides execute the same guest writes, at the same positions of the log but at different
//! moments. A unit that is copied meanwhile is in a race: the source reads v1, the guest writes v2 on both sides, and
//! the copy puts v1 back. The rule that excludes it, by positions alone:
//!
//! 1. What is carried names the position at which it was read: it holds every guest write up to there and none after.
//! 2. The target uses it only once its own guest has reached that position. Before, it would show the guest a write
//!    from the future, and an older write of the target's own would go over a newer one.
//! 3. If the target's guest has written to the unit after that position, what is carried is old: it is dropped, and the
//!    unit is asked for again.
//! 4. A mark goes only on the target's durable word, and only if nothing set it since the read.
//! 5. What is of another generation is dropped: a late packet of an earlier pairing.
//!
//! A comparison follows the same rule with a hash in the place of the bytes. So it never judges two different moments,
//! and a busy disk raises no false alarm: a unit written to meanwhile is compared again.
//!
//! Where the log itself says at which position both sides begin, nothing need be numbered: [`Watch`] tells what is as it
//! was there, and only that is compared or moved.

mod live;
mod passes;
mod placement;
#[cfg(test)]
mod tests;
mod watch;

pub use live::{Live, LiveError};
pub use passes::{Next, Passes, StunBudget};
pub use placement::{Carried, Mover, Order, Placer, Position, Reply, Unit, Use};
pub use watch::{Slice, Watch};
