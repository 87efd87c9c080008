//! Work for a guest, and who does and judges it: `antipode-lab-load`, one small static program that runs in the guest
//! (`serve`, `echo`, `leak`), in the host beside it (`ask`) and on a client (`watch`).
//!
//! ```text
//!  host: ask ── "disk read random 4 1500\n" ──▶ guest: serve ── O_DIRECT requests ──▶ its disk
//!            ◀── "104857600\n" (bytes done) ──
//!            ── "send 1500\n" ──▶   ◀── zeros for 1.5 s, then the end ──      (guest → host)
//!            ── "receive\n", zeros for 1.5 s, the end ──▶  ◀── "<bytes>\n" ──  (host → guest)
//! ```
//!
//! - **The host's clock measures**: `ask` times from the order to the answer, so a guest whose clock is off cannot
//!   flatter itself.
//! - **The load reads no clock of its own**: a sleeping thread ends it by a flag. In a guest whose clock is a device,
//!   a clock read per request would be measured with the device.
//!
//! A guest's service is loaded from the client host, by `antipode-lab-load talk` ([`clients`]).
//!
//! - [`order`]: what may be asked, as text. - [`disk`]: requests past the page cache. - [`ends`]: both ends' sockets.
//! - [`watch`]: a client that keeps account of what it was told. - [`guest`]: this program laid over a guest's image.
//! - [`leak`]: what no copy of the guest can repeat.

pub mod clients;
pub mod disk;
pub mod ends;
pub mod guest;
pub mod leak;
pub mod order;
pub mod watch;
