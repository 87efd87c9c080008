//! A split virtqueue (virtio 1.2 § 2.7) and what a guest can do wrong with one.
//!
//! `virtio-queue` moves the indices; this type adds what it leaves to its user: registers that are validated once,
//! at enable; heads that may not be offered twice; `VIRTQ_AVAIL_F_NO_INTERRUPT`; errors that carry the numbers.

use std::num::Wrapping;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::Bytes;

use super::chain::Chain;
use crate::base::guest_memory::{GuestMemory, Ram};
use crate::base::limits::VIRTQUEUE_SIZE_MAX;
use crate::base::units::GuestPhys;

/// How a guest broke the rules of virtqueues.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// The queue's size is unusable.
    #[error("queue {queue}: size {size} is not a power of two from 1 to {VIRTQUEUE_SIZE_MAX}")]
    Size {
        /// The queue.
        queue: u16,
        /// Its size register.
        size: u16,
    },
    /// A ring is not where a ring may be.
    #[error("queue {queue}: {part} at {address:#x} is misaligned")]
    Misaligned {
        /// The queue.
        queue: u16,
        /// Which of the three areas.
        part: &'static str,
        /// Its address.
        address: u64,
    },
    /// A ring is not in RAM.
    #[error(
        "queue {queue} of {size}: descriptors at {descriptors:#x}, driver area at {driver:#x} and device area at \
         {device:#x} are not all inside RAM"
    )]
    RingOutsideRam {
        /// The queue.
        queue: u16,
        /// Its size.
        size: u16,
        /// Its descriptor table.
        descriptors: u64,
        /// Its available ring.
        driver: u64,
        /// Its used ring.
        device: u64,
    },
    /// More chains are offered than a queue can hold.
    #[error("queue {queue}: {available} chains are available in a queue of {size}")]
    AvailableIndex {
        /// The queue.
        queue: u16,
        /// Chains offered, by the available index.
        available: u16,
        /// The queue's size.
        size: u16,
    },
    /// A head that the device holds was offered again, or one that does not exist.
    #[error("queue {queue}: head {head} is out of range or already with the device")]
    Head {
        /// The queue.
        queue: u16,
        /// The head.
        head: u16,
    },
    /// A chain that does not end.
    #[error(
        "queue {queue}: the chain at head {head} breaks after {descriptors} descriptors: it loops, nests, or leaves \
         its table or RAM"
    )]
    ChainBroken {
        /// The queue.
        queue: u16,
        /// The chain's head.
        head: u16,
        /// Descriptors that could be followed.
        descriptors: u16,
    },
    /// A chain with too many descriptors.
    #[error("queue {queue}: the chain at head {head} has more than {VIRTQUEUE_SIZE_MAX} descriptors")]
    ChainTooLong {
        /// The queue.
        queue: u16,
        /// The chain's head.
        head: u16,
    },
    /// A buffer that is not in RAM.
    #[error(
        "queue {queue}: a buffer of the chain at head {head}, {byte_count} bytes at {address:#x}, is not in RAM"
    )]
    BufferOutsideRam {
        /// The queue.
        queue: u16,
        /// The chain's head.
        head: u16,
        /// Start of the buffer.
        address: u64,
        /// Its length.
        byte_count: u32,
    },
    /// Buffers in the wrong order.
    #[error("queue {queue}: the chain at head {head} has a readable buffer after a writable one")]
    ReadableAfterWritable {
        /// The queue.
        queue: u16,
        /// The chain's head.
        head: u16,
    },
    /// Buffers of the wrong kind.
    #[error("queue {queue}: the chain at head {head} must hold {wanted} buffers only")]
    WrongDirection {
        /// The queue.
        queue: u16,
        /// The chain's head.
        head: u16,
        /// `readable` or `writable`, from the device's side.
        wanted: &'static str,
    },
    /// A chain that lacks what the device must have.
    #[error("queue {queue}: the chain at head {head} has {has} {part} bytes, {needs} are needed")]
    ChainTooShort {
        /// The queue.
        queue: u16,
        /// The chain's head.
        head: u16,
        /// `readable` or `writable`, from the device's side.
        part: &'static str,
        /// Bytes it has.
        has: usize,
        /// Bytes needed.
        needs: usize,
    },
    /// An access that `virtio-queue` refused.
    #[error("queue {queue}: {error}")]
    Refused {
        /// The queue.
        queue: u16,
        /// Its words.
        error: String,
    },
}

/// The registers by which the guest places a queue, as written; validated when it enables the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueRegisters {
    pub(super) size: u16,
    pub(super) descriptors: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
}

impl QueueRegisters {
    const AT_RESET: Self = Self {
        size: VIRTQUEUE_SIZE_MAX,
        descriptors: 0,
        driver: 0,
        device: 0,
    };
}

/// A virtqueue's saved form. It is saved between two exits, when every look at the guest's wish for interrupts has been
/// taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    size: u16,
    /// Where the guest put the descriptor table, the driver area and the device area.
    areas: [u64; 3],
    /// Of an enabled queue.
    ring: Option<RingState>,
    /// Heads of the chains that the device holds.
    held: Vec<u16>,
}

/// How far an enabled queue has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct RingState {
    next_available: u16,
    next_used: u16,
    uses_event_index: bool,
}

/// A virtqueue of one device.
#[derive(Debug)]
pub struct Virtqueue {
    index: u16,
    pub(super) registers: QueueRegisters,
    /// `Some` while enabled.
    ring: Option<Queue>,
    /// By head: whether the device holds the chain.
    held: Vec<bool>,
    /// Whether the used ring grew since the last look at the guest's wish for interrupts.
    grew: bool,
}

impl Virtqueue {
    /// Queue number `index`, disabled.
    #[must_use]
    pub fn new(index: u16) -> Self {
        Self {
            index,
            registers: QueueRegisters::AT_RESET,
            ring: None,
            held: Vec::new(),
            grew: false,
        }
    }

    /// The saved form.
    pub(super) fn save(&self) -> QueueState {
        let ring = self.ring.as_ref().map(Queue::state);
        let held = (0..).zip(&self.held).filter(|(_, held)| **held);
        QueueState {
            size: self.registers.size,
            areas: [
                self.registers.descriptors,
                self.registers.driver,
                self.registers.device,
            ],
            ring: ring.map(|ring| RingState {
                next_available: ring.next_avail,
                next_used: ring.next_used,
                uses_event_index: ring.event_idx_enabled,
            }),
            held: held.map(|(head, _)| head).collect(),
        }
    }

    /// Makes it what `state` is of.
    ///
    /// # Errors
    /// What cannot be.
    pub(super) fn restore(&mut self, state: &QueueState, memory: &GuestMemory) -> Result<(), RingFault> {
        self.reset();
        let [descriptors, driver, device] = state.areas;
        self.registers = QueueRegisters {
            size: state.size,
            descriptors,
            driver,
            device,
        };
        let Some(saved) = &state.ring else { return Ok(()) };
        self.enable(memory)?;
        for head in &state.held {
            let fault = RingFault::Head {
                queue: self.index,
                head: *head,
            };
            *self.held.get_mut(usize::from(*head)).ok_or(fault)? = true;
        }
        if let Some(ring) = &mut self.ring {
            ring.set_next_avail(saved.next_available);
            ring.set_next_used(saved.next_used);
            ring.set_event_idx(saved.uses_event_index);
        }
        Ok(())
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.index);
    }

    /// Most chains it can hold.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.registers.size
    }

    /// Whether the guest has enabled the queue.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.ring.is_some()
    }

    pub(super) fn enable(&mut self, memory: &GuestMemory) -> Result<(), RingFault> {
        let (queue, at) = (self.index, self.registers);
        let sized =
            Queue::new(VIRTQUEUE_SIZE_MAX).and_then(|mut ring| ring.try_set_size(at.size).map(|()| ring));
        let mut ring = sized.map_err(|_| RingFault::Size { queue, size: at.size })?;
        let misaligned = |part, address| RingFault::Misaligned { queue, part, address };
        ring.try_set_desc_table_address(GuestPhys(at.descriptors))
            .map_err(|_| misaligned("the descriptor table", at.descriptors))?;
        ring.try_set_avail_ring_address(GuestPhys(at.driver))
            .map_err(|_| misaligned("the driver area", at.driver))?;
        ring.try_set_used_ring_address(GuestPhys(at.device))
            .map_err(|_| misaligned("the device area", at.device))?;
        ring.set_ready(true);
        if !ring.is_valid(memory.ram()) {
            return Err(RingFault::RingOutsideRam {
                queue,
                size: at.size,
                descriptors: at.descriptors,
                driver: at.driver,
                device: at.device,
            });
        }
        self.held = vec![false; usize::from(at.size)];
        self.ring = Some(ring);
        Ok(())
    }

    pub(super) fn use_event_idx(&mut self, on: bool) {
        if let Some(ring) = &mut self.ring {
            ring.set_event_idx(on);
        }
    }

    /// Chains that the guest offers now; none while the queue is disabled.
    ///
    /// # Errors
    /// [`RingFault::AvailableIndex`] if there are more than the queue can hold.
    pub fn available(&self, memory: &GuestMemory) -> Result<u16, RingFault> {
        let Some(ring) = &self.ring else { return Ok(0) };
        let offered = ring.avail_idx(memory.ram(), Ordering::Acquire);
        let offered = offered.map_err(|error| self.refused(&error))?;
        let available = (offered - Wrapping(ring.next_avail())).0;
        if available > ring.size() {
            return Err(RingFault::AvailableIndex {
                queue: self.index,
                available,
                size: ring.size(),
            });
        }
        Ok(available)
    }

    /// Takes the next chain, if there is one.
    ///
    /// # Errors
    /// [`RingFault`] for whatever is wrong with it.
    pub fn pop(&mut self, memory: &GuestMemory) -> Result<Option<Chain>, RingFault> {
        if self.available(memory)? == 0 {
            return Ok(None);
        }
        let Some(ring) = &mut self.ring else {
            return Ok(None);
        };
        let next = ring.iter(memory.ram()).map(|mut offered| offered.next());
        let Some(descriptors) = next.map_err(|error| self.refused(&error))? else {
            return Ok(None);
        };
        let head = descriptors.head_index();
        match self.held.get_mut(usize::from(head)) {
            Some(held) if !*held => *held = true,
            _ => {
                return Err(RingFault::Head {
                    queue: self.index,
                    head,
                });
            }
        }
        Chain::parse(self.index, descriptors, memory).map(Some)
    }

    /// Gives back chains that were popped last, unused: the next pop finds them again.
    pub fn unpop(&mut self, chains: &[Chain]) {
        let Some(ring) = &mut self.ring else { return };
        for chain in chains {
            ring.go_to_previous_position();
            if let Some(held) = self.held.get_mut(usize::from(chain.head())) {
                *held = false;
            }
        }
    }

    /// Returns `chain` to the guest, `byte_count` bytes of it written.
    ///
    /// # Errors
    /// [`RingFault::Refused`] if the used ring cannot be written, which enabling the queue has ruled out.
    pub fn add_used(
        &mut self,
        memory: &GuestMemory,
        chain: &Chain,
        byte_count: usize,
    ) -> Result<(), RingFault> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        let written = u32::try_from(byte_count).unwrap_or(u32::MAX);
        let added = ring.add_used(memory.ram(), chain.head(), written);
        added.map_err(|error| self.refused(&error))?;
        if let Some(held) = self.held.get_mut(usize::from(chain.head())) {
            *held = false;
        }
        self.grew = true;
        Ok(())
    }

    /// Tells the guest whether to notify at the next chain it offers. With `EVENT_IDX`, `false` is the state after
    /// every notification and costs nothing.
    ///
    /// # Errors
    /// [`RingFault::Refused`] if the used ring cannot be written, which enabling the queue has ruled out.
    pub fn ask_for_notification(&mut self, memory: &GuestMemory, wanted: bool) -> Result<(), RingFault> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        let asked = if wanted {
            ring.enable_notification(memory.ram()).map(|_| ())
        } else {
            ring.disable_notification(memory.ram())
        };
        asked.map_err(|error| self.refused(&error))
    }

    /// Whether the guest wants an interrupt for what was used since the last call.
    pub(super) fn interrupt_wanted(&mut self, memory: &GuestMemory) -> Result<bool, RingFault> {
        if !std::mem::take(&mut self.grew) {
            return Ok(false);
        }
        let Some(ring) = &mut self.ring else {
            return Ok(false);
        };
        if !ring.event_idx_enabled() {
            return Ok(!interrupts_suppressed(memory.ram(), self.registers.driver));
        }
        let wanted = ring.needs_notification(memory.ram());
        wanted.map_err(|error| self.refused(&error))
    }

    fn refused(&self, error: &virtio_queue::Error) -> RingFault {
        RingFault::Refused {
            queue: self.index,
            error: error.to_string(),
        }
    }
}

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (virtio 1.2 § 2.7.7), which `virtio-queue` does not look at.
fn interrupts_suppressed(ram: &Ram, available_ring: u64) -> bool {
    let flags = ram.load::<u16>(GuestPhys(available_ring), Ordering::Relaxed);
    flags.is_ok_and(|flags| u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT != 0)
}
