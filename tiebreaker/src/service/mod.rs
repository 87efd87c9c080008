//! A node as a process: its desk, its sessions, and its beginning (T1, S1).
//!
//! ```text
//!   listener ──▶ session of a node ───── messages ─────▶ inbox ──▶ the node's desk ────▶ outbox ──▶ one task a node
//!           └──▶ session of a client ── demands ───────▶   │        step, then effects:    │
//!                                   ◀── replies ──────────────────  write, send, answer ◀──┘
//!   timer ───────────────────────────── ticks ─────────▶   │
//! ```
//!
//! - **One desk owns the node and its store.** It takes what has come, steps, and carries the effects out in their order
//!   ([`Driver`]).
//! - **All of it is one thread, and that thread waits for the disk.** A claim passes through a node's sockets, desk and disk
//!   three times over; a thread of its own for the node made six more wake-ups of it, which were felt. Nothing is lost by
//!   waiting: while a node writes it could not act on what a socket brings. What was to leave before the write has left by
//!   then ([`Outbox::depart`]).
//! - **Nothing waits without bound.** A full inbox drops a node's message (consensus sends it anew) and answers a client
//!   with [`Reply::Busy`](crate::node::Reply::Busy); a full outbox drops too.
//! - **Who may ask what** is [`authorise`]: by the certificate's role; the record decides the rest.
//! - **A store that fails** stops the node: no vote, no answer but that it is stalled. It is opened anew until that works,
//!   and the node goes on from what was durable, as after a crash. What is damaged stays stalled.
//! - Certificates are loaded anew when their files change.

mod daemon;
mod driver;
mod inbox;
mod outbound;
mod session;
mod setup;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use antipode_certs::{FileError, Name, Paths, WallClock};

pub use daemon::serve;
pub use driver::{Driver, Outbox, Stop};
pub use session::authorise;
pub use setup::{Backup, BackupError, SetupError, init, rejoin, restore};

use crate::store::StoreError;

/// A seat, as the configuration describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatSettings {
    /// Where its node is reached, as `host:port`.
    pub address: String,
    /// The higher, the rather it leads.
    pub priority: u32,
}

/// What a node's configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSettings {
    /// The cluster's name.
    pub cluster: Name,
    /// This node's seat.
    pub name: Name,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The folder of its data.
    pub data: PathBuf,
    /// Its certificate, key and CA.
    pub credentials: Paths,
    /// Every seat, its own too.
    pub seats: BTreeMap<Name, SeatSettings>,
    /// Milliseconds between a leader's heartbeats.
    pub heartbeat_ms: u64,
}

/// Time of day and chance, injected.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// For certificates and histories.
    pub clock: Arc<dyn WallClock>,
    /// Another one at each start.
    pub seed: u64,
}

/// Why a node did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Its data.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its certificate, key or CA.
    #[error(transparent)]
    Credentials(#[from] FileError),
    /// Its address.
    #[error("it cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests;
