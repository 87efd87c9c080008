//! Threads that do the VM's I/O. They see host buffers only (E1): no worker can name guest memory, whose type stays
//! on the vCPU thread.
//!
//! ```text
//!   vCPU thread ──requests──▶ disk workers ─┐
//!   vCPU thread ──frames────▶ transmitter   │
//!                             receiver ─────┼──▶ Inbox ──wake──▶ vCPU thread, at its next exit
//!                             console ──────┘
//! ```
//!
//! Every queue towards the vCPU is bounded by [`Credits`]: a worker takes credits before it reads from the outside,
//! and the vCPU thread gives them back when the guest has taken the data.

mod console;
mod credits;
mod disk;
mod disk_queue;
mod disk_repair;
mod disk_watch;
mod entropy;
mod failures;
mod flushes;
mod network;
mod stop;
mod tap;
mod write_limit;

use std::sync::{Arc, Mutex, PoisonError};

pub use console::{Console, Shower, TerminalGuard};
pub use credits::Credits;
pub use disk::{Disk, DiskError, DiskFile, DiskHandle, DiskWorkers};
pub use disk_watch::{Hashes, Round};
pub use entropy::HostEntropy;
pub use flushes::{FlushGate, Flushes};
pub use network::{Network, Transmitter};
pub use tap::{Tap, TapError};

use super::kvm::VcpuWaker;
use crate::devices::Input;

/// What arrives at the vCPU thread.
#[derive(Debug)]
pub enum Event {
    /// Something for a device.
    Device(Input),
    /// The operator wants the VM stopped at once.
    Stop,
    /// The VM is to be held at the next position ([`crate::machine::Outcome::Held`]).
    Hold,
}

/// The way from any thread to the vCPU thread.
#[derive(Debug, Clone)]
pub struct Inbox {
    events: Arc<Mutex<Vec<Event>>>,
    waker: VcpuWaker,
}

impl Inbox {
    /// An empty inbox of the vCPU thread that `waker` wakes.
    #[must_use]
    pub fn new(waker: VcpuWaker) -> Self {
        Self {
            events: Arc::default(),
            waker,
        }
    }

    /// Hands `events` to the vCPU thread, in order, and wakes it.
    pub fn post(&self, events: impl IntoIterator<Item = Event>) {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(events);
        self.waker.wake();
    }

    /// What wakes its thread.
    #[must_use]
    pub fn waker(&self) -> &VcpuWaker {
        &self.waker
    }

    /// Takes everything that has arrived.
    #[must_use]
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
