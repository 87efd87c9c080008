//! `cargo lab tiebreaker`: three real nodes over mutual TLS, two contenders, and what goes wrong in between.
//!
//! ```text
//!   contender a ──┐                     ┌── proxy ──▶ node ◀── proxy ──┐
//!                 ├── claims ──▶ nodes ─┤                              ├─ each way of each link has a proxy of its own
//!   contender b ──┘                     └── proxy ──▶ node ◀── proxy ──┘
//! ```
//!
//! In each round a VM is paired, then both sites claim it at once. One must win, the other must learn by whom, and a read
//! afterwards must show it. In some rounds, at a moment drawn from the seed, the leader is killed (and comes back), is
//! frozen, or loses its links to the others while clients still reach it.
//!
//! The nodes are processes of this machine on loopback addresses of their own; no emulated host takes part.

mod contest;
mod fault;
pub(crate) mod proxy;
mod scenario;
pub(crate) mod town;

pub use scenario::{Args, run};
