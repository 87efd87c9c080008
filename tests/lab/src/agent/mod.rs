//! Controlling an emulated host from outside, without a network: the lab's end, the host's end, and what they say.
//!
//! ```text
//!   lab ── unix socket ── QEMU ── virtio-serial port "antipode.agent" ── antipode-lab-agent (in the host)
//! ```
//!
//! One connection carries many *channels*. The lab opens a channel with a [`Request`](message::Request): run a
//! program, put a file, get a file. A channel ends with exactly one `Exit` or `Failed` from the agent, or with
//! `Close` from the lab, which kills what runs there.
//!
//! ```text
//!   lab                            agent
//!    ◀────────── Hello ─────────────   once, when the host is up
//!    ─── Open(request) ────────────▶   new channel number
//!    ─── Data(input), End(input) ──▶   ◀── Data(output | error), End(..)
//!    ─── Signal, Resize ───────────▶
//!    ─── Credit ───────────────────▶   ◀── Credit
//!    ◀────── Exit | Failed ─────────   the channel is over; its number is not used again
//! ```
//!
//! Each side may have [`message::WINDOW_BYTES`] of data unconsumed per channel; the consumer gives credit back as it
//! consumes. A channel that nobody reads therefore stops its own program and nothing else.
//!
//! A program's channel ends when the program has exited *and* its output is closed: redirect the output of a
//! daemon that is to stay behind, as with ssh.
//!
//! - [`message`]: the messages, their bytes and their bounds. Pure.
//! - `window`: credit.
//! - [`server`]: the host's end; the binary `antipode-lab-agent` is only this.
//! - [`hold`]: another thing that the same binary does in a host: one thread stands still.
//! - [`client`]: the lab's end, and [`client::Agent::relay`], through which another process reaches the same host.

pub mod client;
pub mod hold;
pub mod message;
pub mod server;
mod terminal;
mod window;

/// The name of the virtio-serial port.
pub const PORT_NAME: &str = "antipode.agent";

#[cfg(test)]
mod tests;
