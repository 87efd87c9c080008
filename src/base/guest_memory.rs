//! Guest RAM, reachable from the vCPU thread alone (E1).
//!
//! Guest execution between two exits is a pure function of state only if nobody else touches RAM meanwhile. The
//! type enforces it: [`GuestMemory`] is neither `Send` nor `Sync`, so a worker thread cannot hold it; workers get
//! host buffers. Every write of ours goes through `vm-memory`, whose bitmap records the page: the one path for
//! all writes that the dirty log of KVM does not see. A copy of RAM is read by another thread ([`RamReader`]), which
//! changes nothing.

use std::marker::PhantomData;

use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::limits::LOW_RAM_END;

/// The mapping type that `virtio-queue` works on.
pub type Ram = GuestMemoryMmap<AtomicBitmap>;

/// An access that is not wholly inside guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{byte_count} bytes at guest address {address:#x} are not all inside RAM")]
pub struct OutsideRam {
    /// First byte of the access.
    pub address: u64,
    /// Length of the access.
    pub byte_count: usize,
}

/// Guest RAM. Not `Send`: it stays on the thread that runs the vCPU.
///
/// ```compile_fail
/// fn on_a_worker<T: Send>(_: T) {}
/// let memory = antipode::base::guest_memory::GuestMemory::allocate(64 << 20).unwrap();
/// on_a_worker(memory);
/// ```
#[derive(Debug)]
pub struct GuestMemory {
    ram: Ram,
    byte_count: u64,
    vcpu_thread_only: PhantomData<*const ()>,
}

impl GuestMemory {
    /// Reserves `byte_count` bytes of zeroed RAM: from 0 up to [`LOW_RAM_END`], the rest from 4 GiB.
    ///
    /// # Errors
    /// When the host refuses the mapping.
    pub fn allocate(byte_count: u64) -> std::io::Result<Self> {
        let regions = Self::ranges(byte_count)
            .into_iter()
            .map(|(start, length)| {
                let mapping = map_for_huge_pages(usize::try_from(length).map_err(std::io::Error::other)?)?;
                GuestRegionMmap::new(mapping, GuestAddress(start))
                    .ok_or_else(|| std::io::Error::other("guest RAM would end beyond the address space"))
            })
            .collect::<std::io::Result<Vec<_>>>()?;
        let ram = Ram::from_regions(regions).map_err(std::io::Error::other)?;
        Ok(Self {
            ram,
            byte_count,
            vcpu_thread_only: PhantomData,
        })
    }

    /// The RAM ranges `(start, length)` of a VM with `byte_count` bytes, in ascending order.
    #[must_use]
    pub fn ranges(byte_count: u64) -> Vec<(u64, u64)> {
        const FOUR_GIB: u64 = 1 << 32;
        if byte_count <= LOW_RAM_END {
            vec![(0, byte_count)]
        } else {
            vec![(0, LOW_RAM_END), (FOUR_GIB, byte_count - LOW_RAM_END)]
        }
    }

    /// Total bytes of RAM.
    #[must_use]
    pub fn byte_count(&self) -> u64 {
        self.byte_count
    }

    /// The mapping, for `virtio-queue`.
    #[must_use]
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// What any thread may read it by.
    #[must_use]
    pub fn reader(&self) -> RamReader {
        RamReader {
            ram: self.ram.clone(),
            byte_count: self.byte_count,
        }
    }

    /// Copies guest bytes at `address` into `buffer`.
    ///
    /// # Errors
    /// [`OutsideRam`] if any byte is outside; `buffer` is then unspecified.
    pub fn read(&self, address: GuestAddress, buffer: &mut [u8]) -> Result<(), OutsideRam> {
        read(&self.ram, address, buffer)
    }

    /// Changes a byte at `address` without marking its page as written: for what is put back before anyone looks.
    ///
    /// # Errors
    /// [`OutsideRam`] if it is outside.
    pub fn patch(&self, address: GuestAddress, byte: u8) -> Result<(), OutsideRam> {
        let outside = OutsideRam {
            address: address.0,
            byte_count: 1,
        };
        let (region, place) = self.ram.to_region_addr(address).ok_or(outside)?;
        let place = usize::try_from(place.0).map_err(|_| outside)?;
        let marks = (**region).bitmap();
        let was_marked = marks.is_addr_set(place);
        self.write(address, &[byte])?;
        if !was_marked {
            marks.reset_addr_range(place, 1);
        }
        Ok(())
    }

    /// Copies `bytes` into guest memory at `address`.
    ///
    /// # Errors
    /// [`OutsideRam`] if any byte would land outside; nothing is written then.
    pub fn write(&self, address: GuestAddress, bytes: &[u8]) -> Result<(), OutsideRam> {
        let outside = OutsideRam {
            address: address.0,
            byte_count: bytes.len(),
        };
        if !self.ram.check_range(address, bytes.len()) {
            return Err(outside);
        }
        self.ram.write_slice(bytes, address).map_err(|_| outside)
    }
}

fn read(ram: &Ram, address: GuestAddress, buffer: &mut [u8]) -> Result<(), OutsideRam> {
    ram.read_slice(buffer, address).map_err(|_| OutsideRam {
        address: address.0,
        byte_count: buffer.len(),
    })
}

/// Guest RAM as another thread sees it while the guest runs: what is being written is read half old and half new, and is
/// told of as written afterwards.
#[derive(Debug, Clone)]
pub struct RamReader {
    ram: Ram,
    byte_count: u64,
}

impl RamReader {
    /// Total bytes of RAM.
    #[must_use]
    pub fn byte_count(&self) -> u64 {
        self.byte_count
    }

    /// Copies guest bytes at `address` into `buffer`.
    ///
    /// # Errors
    /// [`OutsideRam`] if any byte is outside; `buffer` is then unspecified.
    pub fn read(&self, address: GuestAddress, buffer: &mut [u8]) -> Result<(), OutsideRam> {
        read(&self.ram, address, buffer)
    }
}

/// What the host maps with one entry of its page tables, if host and guest addresses agree below it.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Maps `length` bytes at a multiple of [`HUGE_PAGE_BYTES`], where the host lets us: KVM then maps the guest's memory by
/// huge pages, which spares a fault for each of its small ones. A boot of Linux takes some 30,000 of those.
///
/// The host places a mapping at the top of the highest gap that holds it. So where the first one lies badly, a spacer
/// above the second moves it down to a multiple. If the gap holds the mapping and not the spacer too, both are left
/// where they are while the next gap is tried; after a few, or if another thread maps memory meanwhile, the guest is
/// merely slower.
fn map_for_huge_pages(length: usize) -> std::io::Result<MmapRegion<AtomicBitmap>> {
    const ATTEMPTS: usize = 8;
    let map = || MmapRegion::<AtomicBitmap>::new(length).map_err(std::io::Error::other);
    let is_aligned =
        |region: &MmapRegion<AtomicBitmap>| region.as_ptr().addr().is_multiple_of(HUGE_PAGE_BYTES);
    let mut occupants = Vec::new();
    for _ in 0..ATTEMPTS {
        let first = map()?;
        if is_aligned(&first) {
            return Ok(first);
        }
        let below = first.as_ptr().addr().wrapping_sub(length) % HUGE_PAGE_BYTES;
        drop(first);
        let spacer = MmapRegion::<()>::new(length + below).map_err(std::io::Error::other)?;
        let second = map()?;
        if is_aligned(&second) {
            return Ok(second);
        }
        occupants.push((spacer, second));
    }
    drop(occupants);
    map()
}

/// A page of device registers that the guest may read without an exit. It is no RAM: what it shows changes only while
/// an exit is handled, by [`RegisterPage::show`]. Not `Send`, as [`GuestMemory`].
#[derive(Debug)]
pub struct RegisterPage {
    page: Ram,
    vcpu_thread_only: PhantomData<*const ()>,
}

impl RegisterPage {
    /// A page of zeros at guest physical `address`.
    ///
    /// # Errors
    /// When the host refuses the mapping.
    pub fn at(address: GuestAddress) -> std::io::Result<Self> {
        let page = Ram::from_ranges(&[(address, 4096)]).map_err(std::io::Error::other)?;
        Ok(Self {
            page,
            vcpu_thread_only: PhantomData,
        })
    }

    /// The mapping.
    #[must_use]
    pub fn mapping(&self) -> &Ram {
        &self.page
    }

    /// Shows `value` in the register at guest physical `address`.
    ///
    /// # Errors
    /// [`OutsideRam`] if the register is not on the page.
    pub fn show(&self, address: GuestAddress, value: u64) -> Result<(), OutsideRam> {
        self.page.write_obj(value, address).map_err(|_| OutsideRam {
            address: address.0,
            byte_count: 8,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_above_the_hole_continues_at_four_gib() {
        assert_eq!(GuestMemory::ranges(1 << 30), vec![(0, 1 << 30)]);
        assert_eq!(
            GuestMemory::ranges(4 << 30),
            vec![(0, 3 << 30), (4 << 30, 1 << 30)]
        );
    }

    #[test]
    fn a_mapping_lies_where_huge_pages_can() {
        // In a process of its own no other thread maps memory meanwhile: nextest runs each test so.
        for length in [64 << 20, (3 << 20) + 4096, 1 << 30] {
            let mapping = map_for_huge_pages(length).unwrap();
            assert_eq!(mapping.size(), length);
            if std::env::var_os("NEXTEST").is_some() {
                assert_eq!(mapping.as_ptr().addr() % HUGE_PAGE_BYTES, 0, "{length}");
            }
        }
    }

    #[test]
    fn a_patch_leaves_no_mark_and_takes_none_away() {
        let memory = GuestMemory::allocate(64 << 20).unwrap();
        let is_marked = |page: usize| {
            let region = memory.ram().iter().next().unwrap();
            (**region).bitmap().is_bit_set(page)
        };
        memory.patch(GuestAddress(0x1001), 7).unwrap();
        memory.write(GuestAddress(0x2001), &[1]).unwrap();
        memory.patch(GuestAddress(0x2002), 7).unwrap();
        assert_eq!([1, 2, 3].map(is_marked), [false, true, false]);
        let mut byte = [0];
        memory.read(GuestAddress(0x1001), &mut byte).unwrap();
        assert_eq!(byte, [7]);
        assert!(memory.patch(GuestAddress(64 << 20), 7).is_err());
    }

    #[test]
    fn an_access_past_the_end_is_refused_whole() {
        let memory = GuestMemory::allocate(64 << 20).unwrap();
        let last = GuestAddress((64 << 20) - 2);
        assert!(memory.write(last, &[1, 2, 3]).is_err());
        let mut two = [9; 2];
        memory.read(last, &mut two).unwrap();
        assert_eq!(two, [0, 0]);
        assert!(memory.read(GuestAddress(u64::MAX), &mut two).is_err());
    }
}
