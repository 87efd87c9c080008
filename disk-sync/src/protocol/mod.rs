//! Making two replicas equal over a line.
//!
//! - `frame`: what is said.
//! - `session`: who says what when; pure.
//! - `queue`, `pace`, `link`: threads, room, time, sockets.
//! - `wire`, `pack`: frames as bytes, and fewer of them.
//! - `engine`: carries out what a session wants, for one end.
//! - `look`: what a peer wants that has just connected, and a digest for it, which is no session.
mod engine;
mod frame;
mod link;
mod look;
mod pace;
mod pack;
mod queue;
pub(crate) mod session;
#[cfg(test)]
pub(crate) mod tests;
mod wire;

pub use engine::{Ledger, Options, Report, RunError, Side, Status, compare, run};
pub use frame::{DigestRequest, Digested, Role};
pub use link::{Link, LinkError};
pub use look::{Teller, Wish, ask_digest, hear, refuse, tell_digest};
pub use pace::Clock;
pub use session::{Comparison, Finish, SessionError, Tally};
