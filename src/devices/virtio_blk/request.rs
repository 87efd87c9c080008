//! From a descriptor chain to a request (virtio 1.2 § 5.2.6): header, data, status byte, wherever the guest cut them.

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};

use super::device::DiskConfig;
use crate::base::buffer_pool::BufferPool;
use crate::base::guest_memory::GuestMemory;
use crate::base::limits::DISK_REQUEST_BYTES_MAX;
use crate::base::units::SECTOR_BYTES;
use crate::devices::DiskOperation;
use crate::devices::virtio::{Chain, RingFault, byte};

pub(super) const STATUS_OK: u8 = byte(VIRTIO_BLK_S_OK);
pub(super) const STATUS_IO_ERROR: u8 = byte(VIRTIO_BLK_S_IOERR);
pub(super) const STATUS_UNSUPPORTED: u8 = byte(VIRTIO_BLK_S_UNSUPP);
const HEADER_BYTES: usize = 16;
const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;

/// What to do about a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The host has work.
    Disk(DiskOperation),
    /// The device answers by itself: these bytes, then this status.
    Answer { data: Vec<u8>, status: u8 },
}

impl Parsed {
    fn status(status: u8) -> Self {
        Self::Answer {
            data: Vec::new(),
            status,
        }
    }
}

/// Reads the request in `chain`, the data of a write included.
///
/// # Errors
/// [`RingFault`] when there is no whole header or no status byte: such a request cannot even be refused.
pub(super) fn parse(
    chain: &Chain,
    memory: &GuestMemory,
    disk: &DiskConfig,
    buffers: &BufferPool,
) -> Result<Parsed, RingFault> {
    let mut header = [0; HEADER_BYTES];
    chain.read(memory, 0, &mut header)?;
    let Some(read_bytes) = chain.writable_bytes().checked_sub(1) else {
        return Err(chain.too_short("writable", 0, 1));
    };
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
    let sector = u64::from_le_bytes(sector);
    Ok(match u32::from_le_bytes([t0, t1, t2, t3]) {
        VIRTIO_BLK_T_IN => match extent(disk, sector, read_bytes) {
            Some((_, 0)) => Parsed::status(STATUS_OK),
            Some((offset, byte_count)) => Parsed::Disk(DiskOperation::Read { offset, byte_count }),
            None => Parsed::status(STATUS_IO_ERROR),
        },
        VIRTIO_BLK_T_OUT => {
            let write_bytes = chain.readable_bytes() - HEADER_BYTES;
            match extent(disk, sector, write_bytes) {
                _ if disk.read_only => Parsed::status(STATUS_IO_ERROR),
                Some((_, 0)) => Parsed::status(STATUS_OK),
                Some((offset, byte_count)) => {
                    let mut data = buffers.take(byte_count);
                    chain.read(memory, HEADER_BYTES, &mut data)?;
                    Parsed::Disk(DiskOperation::Write { offset, data })
                }
                None => Parsed::status(STATUS_IO_ERROR),
            }
        }
        VIRTIO_BLK_T_FLUSH => Parsed::Disk(DiskOperation::Flush),
        VIRTIO_BLK_T_GET_ID => Parsed::Answer {
            data: disk.serial[..ID_BYTES.min(read_bytes)].to_vec(),
            status: STATUS_OK,
        },
        _ => Parsed::status(STATUS_UNSUPPORTED),
    })
}

/// The byte range of whole sectors on the disk, if it is one and not over-long.
fn extent(disk: &DiskConfig, sector: u64, byte_count: usize) -> Option<(u64, usize)> {
    let start = sector.checked_mul(SECTOR_BYTES)?;
    let length = u64::try_from(byte_count).ok()?;
    let end = start.checked_add(length)?;
    let sound = length.is_multiple_of(SECTOR_BYTES)
        && byte_count <= DISK_REQUEST_BYTES_MAX
        && end <= disk.sectors() * SECTOR_BYTES;
    sound.then_some((start, byte_count))
}
