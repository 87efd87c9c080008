//! The disk's registers, and the flow of requests through the ring.

use serde::{Deserialize, Serialize};
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
    VIRTIO_BLK_ID_BYTES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::request::{self, Parsed, STATUS_IO_ERROR, STATUS_OK};
use super::schedule::{Schedule, Touch};
use super::state::DiskState;
use crate::base::buffer_pool::BufferPool;
use crate::base::guest_memory::GuestMemory;
use crate::base::limits::{DISK_REQUEST_BYTES_MAX, VIRTQUEUE_SIZE_MAX};
use crate::base::units::SECTOR_BYTES;
use crate::devices::virtio::device::DEVICE_CONFIG_BYTES;
use crate::devices::virtio::{Chain, Identity, RingFault, VirtioDevice, Virtqueue, feature, word};
use crate::devices::{AtExit, DiskCompletion, DiskOperation, DiskOutcome, Effect};

/// A chain has two more: header and status.
const SEGMENTS_MAX: u32 = VIRTQUEUE_SIZE_MAX as u32 - 2;
const BLOCK_BYTES: u32 = 512;
const SEGMENT_BYTES_MAX: u32 = 16 * 1024;

const _: () = assert!(BLOCK_BYTES as u64 == SECTOR_BYTES);
const _: () = assert!((SEGMENTS_MAX * SEGMENT_BYTES_MAX) as usize <= DISK_REQUEST_BYTES_MAX);

/// What the disk is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskConfig {
    /// Its length; a last part of a sector is out of reach.
    pub byte_count: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// What Linux shows as `/sys/block/vda/serial`, zero-padded ASCII.
    pub serial: [u8; VIRTIO_BLK_ID_BYTES as usize],
}

impl DiskConfig {
    /// Whole sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.byte_count / SECTOR_BYTES
    }
}

/// What went through the disk since the VM was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiskCounters {
    /// Reads submitted to the host.
    pub reads: u64,
    /// Writes submitted to the host.
    pub writes: u64,
    /// Flushes submitted to the host.
    pub flushes: u64,
    /// Bytes of those reads.
    pub read_bytes: u64,
    /// Bytes of those writes.
    pub write_bytes: u64,
    /// Requests refused without asking the host: out of range, over-long, unknown, or a write to a read-only disk.
    pub refused: u64,
    /// Requests that the host failed.
    pub failed: u64,
    /// Completions of requests whose driver was reset meanwhile.
    pub abandoned: u64,
    /// Completions of no request.
    pub unknown: u64,
}

/// A virtio-blk device.
#[derive(Debug)]
pub struct VirtioBlk {
    pub(super) config: DiskConfig,
    pub(super) schedule: Schedule,
    /// For the data of writes.
    buffers: BufferPool,
    pub(super) counters: DiskCounters,
}

impl VirtioBlk {
    /// A disk with nothing in flight.
    #[must_use]
    pub fn new(config: DiskConfig) -> Self {
        Self {
            config,
            schedule: Schedule::default(),
            buffers: BufferPool::default(),
            counters: DiskCounters::default(),
        }
    }

    /// Requests that the host works on.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.schedule.in_flight_count()
    }

    /// What went through.
    #[must_use]
    pub fn counters(&self) -> DiskCounters {
        self.counters
    }

    /// The host has ended a request. Without `queues` (no driver, or one that may not use memory) the answer goes
    /// nowhere, but requests that waited for it may go on at the next call.
    ///
    /// # Errors
    /// [`RingFault`] if the answer cannot be put into the ring.
    pub fn complete(
        &mut self,
        completion: DiskCompletion,
        queues: Option<&mut [Virtqueue]>,
        at: &mut AtExit<'_>,
    ) -> Result<(), RingFault> {
        let Some(request) = self.schedule.finish(completion.id) else {
            self.counters.unknown += 1;
            return Ok(());
        };
        let (Some(chain), Some([queue, ..])) = (request.chain, queues) else {
            self.counters.abandoned += 1;
            return Ok(());
        };
        let (data, status) = match (request.touch, &completion.outcome) {
            (Touch::Read { byte_count, .. }, DiskOutcome::Read(data)) if data.len() == byte_count => {
                (&**data, STATUS_OK)
            }
            (Touch::Write { .. } | Touch::Flush, DiskOutcome::Done) => (&[][..], STATUS_OK),
            _ => {
                self.counters.failed += 1;
                (&[][..], STATUS_IO_ERROR)
            }
        };
        answer(&chain, queue, data, status, at.memory)
    }

    fn submit(&mut self, effects: &mut Vec<Effect>) {
        for request in self.schedule.release() {
            match &request.operation {
                DiskOperation::Read { byte_count, .. } => {
                    self.counters.reads += 1;
                    self.counters.read_bytes += *byte_count as u64;
                }
                DiskOperation::Write { data, .. } => {
                    self.counters.writes += 1;
                    self.counters.write_bytes += data.len() as u64;
                }
                DiskOperation::Flush => self.counters.flushes += 1,
            }
            effects.push(Effect::Disk(request));
        }
    }

    /// Takes what the guest offers, as far as there is room. Answers whether all was taken.
    fn take(&mut self, queue: &mut Virtqueue, memory: &GuestMemory) -> Result<bool, RingFault> {
        for _ in 0..queue.available(memory)? {
            if !self.schedule.has_room() {
                return Ok(false);
            }
            let Some(chain) = queue.pop(memory)? else { break };
            match request::parse(&chain, memory, &self.config, &self.buffers)? {
                Parsed::Disk(operation) => self.schedule.take(chain, operation),
                Parsed::Answer { data, status } => {
                    self.counters.refused += u64::from(status != STATUS_OK);
                    answer(&chain, queue, &data, status, memory)?;
                }
            }
        }
        Ok(true)
    }
}

/// Gives the chain back with `data` at its start and `status` in its last byte.
fn answer(
    chain: &Chain,
    queue: &mut Virtqueue,
    data: &[u8],
    status: u8,
    memory: &GuestMemory,
) -> Result<(), RingFault> {
    chain.write(memory, 0, data)?;
    let last = chain.writable_bytes().saturating_sub(1);
    chain.write(memory, last, &[status])?;
    queue.add_used(memory, chain, data.len() + 1)
}

impl VirtioDevice for VirtioBlk {
    type State = DiskState;

    fn save(&self) -> DiskState {
        DiskState::of(self)
    }

    fn restore(&mut self, state: DiskState) -> Result<(), String> {
        state.restore(self)
    }

    const IDENTITY: Identity = Identity {
        name: "virtio-blk",
        device_id: word(VIRTIO_ID_BLOCK),
        class: 0x01_00_00,
        queue_count: 1,
    };

    fn features(&self) -> u64 {
        let read_only = if self.config.read_only {
            feature(VIRTIO_BLK_F_RO)
        } else {
            0
        };
        feature(VIRTIO_BLK_F_FLUSH)
            | feature(VIRTIO_BLK_F_BLK_SIZE)
            | feature(VIRTIO_BLK_F_SEG_MAX)
            | feature(VIRTIO_BLK_F_SIZE_MAX)
            | read_only
    }

    fn accepts(&self, _: u64) -> bool {
        true
    }

    fn config(&self) -> [u8; DEVICE_CONFIG_BYTES] {
        let mut config = [0; DEVICE_CONFIG_BYTES];
        config[0..8].copy_from_slice(&self.config.sectors().to_le_bytes());
        config[8..12].copy_from_slice(&SEGMENT_BYTES_MAX.to_le_bytes());
        config[12..16].copy_from_slice(&SEGMENTS_MAX.to_le_bytes());
        config[20..24].copy_from_slice(&BLOCK_BYTES.to_le_bytes());
        config
    }

    fn start(&mut self, _: u64) {}

    fn reset(&mut self) {
        self.schedule.abandon();
    }

    fn serve(&mut self, queues: &mut [Virtqueue], at: &mut AtExit<'_>) -> Result<(), RingFault> {
        let [queue, ..] = queues else { return Ok(()) };
        let taken = self.take(queue, at.memory);
        // Even if a later chain is broken: those before it were sound and have been taken.
        self.submit(at.effects);
        if taken? {
            queue.ask_for_notification(at.memory, true)?;
        }
        Ok(())
    }
}
