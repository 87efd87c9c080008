//! The lab's Ethernet switch: one process that joins emulated hosts and shapes every cable between them.
//!
//! ```text
//!   host ──QEMU stream socket──▶ [ link tx ] ─▶ learn, look up ─▶ [ link rx ] ──▶ other host
//!                                    │                                │
//!                              capture as sent                 capture as received
//! ```
//!
//! A *port* is one cable; it belongs to a *segment* (a broadcast domain), and frames never cross segments. Each
//! port has two links named from the host's point of view: `tx` carries what the host sends, `rx` what it
//! receives. Each link has its own shape (latency, jitter, loss, duplication, reordering, bandwidth, cut), its own
//! random stream and its own counters, so a one-way cut is `tx` or `rx` alone.
//!
//! - [`random`], [`link`], [`fabric`]: pure. `Fabric::step(event, now)` appends effects; no socket, no clock.
//! - [`framing`]: QEMU's stream framing (4-byte big-endian length, then the frame).
//! - [`capture`]: pcapng with one interface per port and direction flags per frame.
//! - [`control`]: commands and answers, one JSON object a line, over a unix socket.
//! - [`transport`]: the only file with sockets; one thread, `ppoll`, batched reads and writes. `operator` is what it
//!   does when told to.
//! - [`process`], [`units`], [`cli`]: the switch as a child of the lab, and quantities as people write them.
//! - [`client`]: how the lab and the command line talk to a running switch.
//!
//! QEMU 7.2 connects (`-netdev stream,server=off`) and does not reconnect, so the switch listens and starts first;
//! a host that is booted again takes over its port's socket and starts with an empty pipe.

pub mod capture;
pub mod cli;
pub mod client;
pub mod control;
pub mod fabric;
pub mod framing;
pub mod link;
mod operator;
pub mod process;
pub mod random;
pub mod transport;
pub mod units;
