//! Making two replicas equal over a line.
//!
//! - `frame`: what is said.
//! - `session`: who says what when; pure.
//! - `queue`, `pace`, `link`: threads, room, time, sockets.
//! - `wire`, `pack`: frames as bytes, and fewer of them.
//! - `engine`: carries out what a session wants, for one end.
mod engine;
mod frame;
mod link;
mod pace;
mod pack;
mod queue;
pub(crate) mod session;
#[cfg(test)]
pub(crate) mod tests;
mod wire;

pub use engine::{Ledger, Options, Report, RunError, Side, Status, run};
pub use frame::Role;
pub use link::{Link, LinkError};
pub use pace::Clock;
pub use session::{Finish, SessionError, Tally};
