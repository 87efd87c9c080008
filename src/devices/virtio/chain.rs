//! Descriptor chains, parsed once: afterwards every buffer is known to lie in RAM and to come in the right order.

use serde::{Deserialize, Serialize};
use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::GuestMemoryBackend;

use super::ring::RingFault;
use crate::base::guest_memory::{GuestMemory, Ram};
use crate::base::limits::VIRTQUEUE_SIZE_MAX;
use crate::base::units::GuestPhys;

/// One buffer, wholly inside RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    address: GuestPhys,
    byte_count: usize,
}

/// A descriptor chain that the device holds: what it may read, then what it may write (virtio 1.2 § 2.7.4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    queue: u16,
    head: u16,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

/// A chain's saved form: its buffers as address and length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainState {
    queue: u16,
    head: u16,
    readable: Vec<(u64, usize)>,
    writable: Vec<(u64, usize)>,
}

impl Chain {
    /// The saved form.
    pub(in crate::devices) fn save(&self) -> ChainState {
        let saved = |segments: &[Segment]| {
            let pairs = segments
                .iter()
                .map(|segment| (segment.address.0, segment.byte_count));
            pairs.collect()
        };
        ChainState {
            queue: self.queue,
            head: self.head,
            readable: saved(&self.readable),
            writable: saved(&self.writable),
        }
    }

    /// The chain that `state` is of. Whether its buffers lie in RAM shows when they are touched.
    ///
    /// # Errors
    /// What cannot be.
    pub(in crate::devices) fn restored(state: &ChainState) -> Result<Self, &'static str> {
        let restored = |pairs: &[(u64, usize)]| -> Vec<Segment> {
            let segment = |&(address, byte_count): &(u64, usize)| Segment {
                address: GuestPhys(address),
                byte_count,
            };
            pairs.iter().map(segment).collect()
        };
        let is_long = |(_, byte_count): &(u64, usize)| u32::try_from(*byte_count).is_err();
        let segment_count = state.readable.len() + state.writable.len();
        if segment_count > usize::from(VIRTQUEUE_SIZE_MAX)
            || state.readable.iter().chain(&state.writable).any(is_long)
        {
            return Err("a chain is longer than any");
        }
        Ok(Self {
            queue: state.queue,
            head: state.head,
            readable: restored(&state.readable),
            writable: restored(&state.writable),
        })
    }

    /// Walks the chain. The crate's iterator ends silently at what it cannot follow (loops, indices and tables out
    /// of range, nested indirect tables), so a chain counts as whole only if its last descriptor says it is the last.
    pub(super) fn parse(
        queue: u16,
        descriptors: DescriptorChain<&Ram>,
        memory: &GuestMemory,
    ) -> Result<Self, RingFault> {
        let mut chain = Self {
            queue,
            head: descriptors.head_index(),
            readable: Vec::new(),
            writable: Vec::new(),
        };
        let mut walked = 0_u16;
        let mut whole = false;
        for descriptor in descriptors {
            if walked == VIRTQUEUE_SIZE_MAX {
                return Err(RingFault::ChainTooLong {
                    queue,
                    head: chain.head,
                });
            }
            walked += 1;
            whole = !descriptor.has_next();
            chain.push(descriptor, memory)?;
        }
        if !whole {
            return Err(RingFault::ChainBroken {
                queue,
                head: chain.head,
                descriptors: walked,
            });
        }
        Ok(chain)
    }

    fn push(&mut self, descriptor: Descriptor, memory: &GuestMemory) -> Result<(), RingFault> {
        let (queue, head, address) = (self.queue, self.head, descriptor.addr());
        let outside = RingFault::BufferOutsideRam {
            queue,
            head,
            address: address.0,
            byte_count: descriptor.len(),
        };
        let byte_count = usize::try_from(descriptor.len()).map_err(|_| outside.clone())?;
        if byte_count > 0 && !memory.ram().check_range(address, byte_count) {
            return Err(outside);
        }
        let segment = Segment { address, byte_count };
        if descriptor.is_write_only() {
            self.writable.push(segment);
        } else if self.writable.is_empty() {
            self.readable.push(segment);
        } else {
            return Err(RingFault::ReadableAfterWritable { queue, head });
        }
        Ok(())
    }

    /// Descriptor index of the chain's head: its name in the used ring.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes that the device may read.
    #[must_use]
    pub fn readable_bytes(&self) -> usize {
        self.readable.iter().map(|segment| segment.byte_count).sum()
    }

    /// Bytes that the device may write.
    #[must_use]
    pub fn writable_bytes(&self) -> usize {
        self.writable.iter().map(|segment| segment.byte_count).sum()
    }

    /// Demands a chain with no readable buffer.
    ///
    /// # Errors
    /// [`RingFault::WrongDirection`] if it has one.
    pub fn only_writable(&self) -> Result<(), RingFault> {
        self.only("writable", &self.readable)
    }

    /// Demands a chain with no writable buffer.
    ///
    /// # Errors
    /// [`RingFault::WrongDirection`] if it has one.
    pub fn only_readable(&self) -> Result<(), RingFault> {
        self.only("readable", &self.writable)
    }

    fn only(&self, wanted: &'static str, others: &[Segment]) -> Result<(), RingFault> {
        if others.is_empty() {
            return Ok(());
        }
        Err(RingFault::WrongDirection {
            queue: self.queue,
            head: self.head,
            wanted,
        })
    }

    /// The fault of a chain that lacks bytes.
    #[must_use]
    pub fn too_short(&self, part: &'static str, has: usize, needs: usize) -> RingFault {
        RingFault::ChainTooShort {
            queue: self.queue,
            head: self.head,
            part,
            has,
            needs,
        }
    }

    /// Copies readable bytes, from the `start`-th on, into `buffer`.
    ///
    /// # Errors
    /// [`RingFault::ChainTooShort`] if there are not that many.
    pub fn read(&self, memory: &GuestMemory, start: usize, buffer: &mut [u8]) -> Result<(), RingFault> {
        let needs = start.saturating_add(buffer.len());
        let mut rest = buffer;
        for (address, byte_count) in pieces(&self.readable, start) {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at_mut(byte_count.min(rest.len()));
            memory
                .read(address, now)
                .map_err(|_| self.outside(address, now.len()))?;
            rest = later;
        }
        if rest.is_empty() {
            return Ok(());
        }
        Err(self.too_short("readable", self.readable_bytes(), needs))
    }

    /// Copies `bytes` over the writable bytes, from the `start`-th on.
    ///
    /// # Errors
    /// [`RingFault::ChainTooShort`] if there are not that many.
    pub fn write(&self, memory: &GuestMemory, start: usize, bytes: &[u8]) -> Result<(), RingFault> {
        let needs = start.saturating_add(bytes.len());
        let mut rest = bytes;
        for (address, byte_count) in pieces(&self.writable, start) {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(byte_count.min(rest.len()));
            memory
                .write(address, now)
                .map_err(|_| self.outside(address, now.len()))?;
            rest = later;
        }
        if rest.is_empty() {
            return Ok(());
        }
        Err(self.too_short("writable", self.writable_bytes(), needs))
    }

    fn outside(&self, address: GuestPhys, byte_count: usize) -> RingFault {
        RingFault::BufferOutsideRam {
            queue: self.queue,
            head: self.head,
            address: address.0,
            byte_count: u32::try_from(byte_count).unwrap_or(u32::MAX),
        }
    }
}

/// What is left of `segments` after their first `skip` bytes.
fn pieces(segments: &[Segment], mut skip: usize) -> impl Iterator<Item = (GuestPhys, usize)> + '_ {
    segments.iter().filter_map(move |segment| {
        let skipped = skip.min(segment.byte_count);
        skip -= skipped;
        // Inside RAM, hence no overflow: the range was checked when the chain was parsed.
        let address = GuestPhys(segment.address.0.saturating_add(skipped as u64));
        let byte_count = segment.byte_count - skipped;
        (byte_count > 0).then_some((address, byte_count))
    })
}
