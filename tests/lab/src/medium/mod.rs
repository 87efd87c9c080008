//! A host's disk that can go wrong. QEMU reaches it over NBD; what is behind the socket is ours.
//!
//! ```text
//!   host ── virtio-blk ── QEMU ── unix socket ── Medium ──┬─ cache: written, and not flushed
//!                                        ▲                └─ file: what outlives the host's power
//!                          Health: well, slow, hung, failing
//! ```
//!
//! A disk has a memory of its own. What was written is read again at once, and a flush alone makes it durable: when the
//! power goes, each sector that was not flushed is on the disk or is not, whatever was written before or after it.
//! QEMU's own file would keep all of it, because this machine's power stays.
//!
//! - `cache`: sectors that wait for a flush. - `wire`: NBD's messages. - `server`: the thread behind the socket.

mod cache;
mod server;
mod wire;

pub use server::{Health, Medium};
