//! The logging channel between the two copies of one VM (P2, P3, P4): pure cores, and one file of sockets each for TCP
//! and UDP.
//!
//! ```text
//!             primary                                                          backup
//!   recorder ──batch──▶ Sender ──Log──▶ Writer ══ TLS 1.3 ══▶ Reader ──Log──▶ Receiver ──batch──▶ replay
//!                         ▲                                                      │                  │
//!   outputs ◀──received── │ ◀──Ack──── Reader ◀══════════════ Writer ◀───Ack──── │ ◀──replayed──────┘
//!                         │
//!                    lag, room: the VM waits where there is none
//!
//!              Heartbeats ══ UDP, MAC by a key of that TLS session ══ Heartbeats ──▶ silence, round trips
//! ```
//!
//! | file | what |
//! | ---- | ---- |
//! | `session` | what a channel belongs to: VM, incarnation, generation, pairing; and which end one is |
//! | `hello` | the first frame both ways, and why two ends do not belong together |
//! | `frame` | the frames, and frames from bytes in whatever pieces they come |
//! | `check` | what the two ends of a verification say to each other |
//! | `gate` | which frames an open connection lets through |
//! | `sender`, `receiver` | both ends of the log: numbers, acknowledgements, room, lag, resuming |
//! | `outbox` | what waits to be written |
//! | `heartbeat` | datagrams, and what they measure |
//! | `transport`, `datagrams` | the sockets: nothing else here does I/O |
//!
//! # A session and its connections
//!
//! ```text
//!   (no session) ──dial/accept, greet──▶ open ──cut──▶ no connection ──dial/accept, greet, resume──▶ open
//!                        │                │                  │                  │
//!                        └─ Refused ──────┴─ Misbehaviour, Bye, a claim ────────┴──▶ over: the tiebreaker decides
//! ```
//!
//! Whoever holds [`Sender`] or [`Receiver`] holds the session: connections come and go under it. A connection that is cut
//! changes nothing of what was acknowledged. Over the next one, both ends say in their Hello where they are, and the
//! primary sends what the backup lacks ([`Sender::resume`]). That it may be done at all is for the role to say: not after
//! a claim was sent, which [`Hello::claimed`] tells the other end (P2).
//!
//! Where the roles turn round (P7), another session follows over the same connection: what waits is sent in the old one,
//! then the writer speaks in the new one ([`Writer::turn`]), and the reader, told before what to expect, hears the other end
//! do so ([`Turning`]). Whoever misses that finds a gap, and the next connection begins with Hellos of the new session.
//!
//! There is one connection at a time: before a new one is greeted the reader of the old one is dropped, or what still
//! comes from it contradicts what the Hello has said.
//!
//! Time is handed in, as a reading of the host's monotonic clock.

mod check;
mod datagrams;
mod fault;
mod frame;
mod gate;
mod heartbeat;
mod hello;
mod outbox;
mod receiver;
mod sender;
mod session;
mod transport;

pub use check::Check;
pub use datagrams::{Datagrams, Received};
pub use fault::Misbehaviour;
pub use frame::{Ack, ByeReason, Deframer, Frame, FrameError, HEAD_BYTES, LogFrame, Message};
pub use gate::{Gate, Turning};
pub use heartbeat::{Dropped, HEARTBEAT_BYTES, Heard, HeartbeatKeys, Heartbeats, Vitals};
pub use hello::{CHANNEL_VERSION, Common, Hello, HelloError, Refusal};
pub use outbox::Outbox;
pub use receiver::{Arrival, Receiver};
pub use sender::{Full, Lag, Sender};
pub use session::{LogSeq, Session, Side, Tag};
pub use transport::{Connection, Listener, Opened, Reader, TransportError, Writer, dial};

#[cfg(test)]
mod tests;
