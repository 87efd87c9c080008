//! virtio-blk: the guest's disk.
//!
//! Models virtio 1.2 § 5.2 with one queue and the features `FLUSH`, `BLK_SIZE`, `SEG_MAX`, `SIZE_MAX` and, for a
//! disk that may not be written, `RO`. Requests are read, write, flush and get-id; others answer `UNSUPP`.
//!
//! # No race with the host's I/O (R4)
//! Data crosses between guest memory and host buffers at exits only: what is written leaves guest memory when the
//! request is taken, what was read enters it when the completion is handed in. Requests that overlap, one of them a
//! write, are never in flight together; the later one waits here, behind all that it conflicts with, so what a disk
//! holds never depends on the order in which host threads happen to work. A flush waits for nothing: it must cover
//! the writes completed before it was submitted, and those are done by then.
//!
//! ```text
//!   taken ──no conflict──▶ in flight ──completion──▶ used
//!     └──conflict──▶ waiting ──▲           └──reset──▶ abandoned ──completion──▶ forgotten
//! ```
//!
//! A request that was in flight when the driver reset the device is *abandoned*: nobody gets its answer, but new
//! requests still wait for it, because the host still works on it. Names are serial numbers that no reset turns
//! back, so a late completion can never be taken for that of a newer request.
//!
//! # Bounds
//! `SEG_MAX` × `SIZE_MAX` lies below `limits::DISK_REQUEST_BYTES_MAX`, so a driver that keeps to them never meets the
//! I/O error of an over-long request. No more is taken from the ring while `DISK_REQUESTS_IN_FLIGHT_MAX` requests or
//! `limits::DISK_BYTES_IN_FLIGHT_MAX` bytes are with the device; what stays there is taken when completions make room.
//!
//! [`device`] holds registers and flow, `request` the parser, `schedule` the order.

pub mod device;
mod request;
mod schedule;
mod state;
#[cfg(test)]
mod tests;

pub use device::{DiskConfig, DiskCounters, VirtioBlk};
pub use state::Unanswered;
