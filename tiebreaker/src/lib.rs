//! Which single site may be live: the record that is kept of each VM, and the changes that may be made to it (T2).
//!
//! [`decide`] is a pure function of record, request and caller. Whoever keeps records (three nodes that agree, a
//! model, a test) hands in the record it has and keeps the one it gets back; it knows nothing of VMs itself.
//!
//! ```text
//!                       register (site)
//!            absent ─────────────────────▶ Solo{site, boot} ◀──── force (operator), from any but Retired
//!                                          ▲ │  ▲       │  │
//!              claim (either), cold_start  │ │  │       │  └─ retire (operator) ─▶ Retired
//!                                          │ │  │       │                            ▲  │
//!                                 pair ────┼─┘  │       │ park (holder)              │  └▶ register: next incarnation
//!                                          │    │       ▼                            │
//!                            Paired{primary, backup} ─▶ Parked ──────────────────────┘ retire (operator)
//!                               └─┘ swap (primary)  park (primary)
//!                                               └── cold_start (either)
//! ```
//!
//! - **One winner of each generation.** A request names the generation that it changes. What is granted raises the
//!   generation by one, so of two requests that name the same one, the first alone is granted.
//! - **One exception.** `configure` keeps the generation: it moves nobody, and the session between the two sites is
//!   named by the generation (P2), so raising it would end a healthy pairing.
//! - **The same request gets the same answer.** A requester numbers its requests upwards. The last answer is kept in
//!   the record; a copy of that request gets it again, and a copy of an older one is refused: a late packet never
//!   grants what its sender has given up.
//! - **Nobody acts for another.** A site changes a record only to its own place in it; `configure`, `force` and
//!   `retire` are an operator's.
//! - Safety rests on generations. No clock is read, and the time in a history entry decides nothing.
#![forbid(unsafe_code)]

pub mod client;
mod decide;
pub mod limits;
pub mod node;
mod record;
mod request;
pub mod service;
pub mod store;
pub mod wire;

pub use decide::decide;
pub use record::{
    Boot, Flush, Generation, HistoryEntry, Incarnation, OperationName, Outcome, PairingId, Position, Record,
    RecordError, Remembered, Settings, State,
};
pub use request::{Answer, Hold, Operation, Reason, ReasonError, Refusal, Request, RequestId};

#[cfg(test)]
mod tests;
