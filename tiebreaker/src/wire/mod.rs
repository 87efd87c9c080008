//! What nodes, sites and operators say to each other, and the sockets that they say it through (T1, S1, S2).
//!
//! ```text
//!   frame    0        4      5
//!            ├─ length┼ kind ┼─ payload, `length` bytes, at most FRAME_BYTES_MAX ─┤
//!
//!   a node to a node      Hello ▶  Message ▶ Message ▶ Part ▶ Part ▶ LastPart ▶ …        nothing comes back
//!   a client to a node    Hello ▶  Demand ▶ ◀ Reply  Demand ▶ ◀ Reply …                  one at a time
//! ```
//!
//! - Length and kind are checked before a byte of the payload is read, the whole before any parser sees it: protobuf's
//!   parser for Rust has been known to recurse as deep as its input says.
//! - Hello, Demand and Reply are JSON; Message is raft-rs's protobuf. A message longer than a frame, as a snapshot is,
//!   travels in parts.
//! - Who speaks is in the certificate, not in the Hello; that a Hello's node id belongs to that name is checked.
//! - The first thing that is wrong ends the session, and is counted. TLS guards the bytes: there is no checksum.
//! - A Hello names the latest version that its sender knows. There is one so far.

mod frame;
mod hello;
mod parts;
mod stream;

pub use frame::{FrameError, HEAD_BYTES, Head, Kind};
pub use hello::{Hello, HelloError, PROTOCOL_VERSION};
pub use parts::{Assembler, MessageError, parts_of};
pub use stream::{Listener, Stream, StreamError, dial};

#[cfg(test)]
mod tests;
