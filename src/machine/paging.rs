//! A walk of the guest's own page tables, without KVM and without side effects.
//!
//! `KVM_TRANSLATE` would set accessed bits and depends on KVM's state; this walk is a pure function of guest RAM and
//! CR3, so that it gives the same answer at the same position on both sites. Four-level paging only: the CPUID table
//! offers neither 5-level paging nor 1 GiB pages, but a guest's tables are untrusted and may hold anything. Source:
//! AMD APM volume 2, section 5.3.

use crate::base::guest_memory::GuestMemory;
use crate::base::units::{GuestPhys, PAGE_BYTES};

const PRESENT: u64 = 1 << 0;
const LARGE: u64 = 1 << 7;
const FRAME_MASK: u64 = 0x000F_FFFF_FFFF_F000;

/// Translates guest virtual `address` under `cr3`, `None` if it is not mapped or the tables lie outside RAM.
#[must_use]
pub(super) fn translate(memory: &GuestMemory, cr3: u64, address: u64) -> Option<GuestPhys> {
    let mut table = cr3 & FRAME_MASK;
    for level in (0..4_u32).rev() {
        let shift = 12 + 9 * level;
        let index = address >> shift & 0x1FF;
        let mut entry = [0; 8];
        memory.read(GuestPhys(table + index * 8), &mut entry).ok()?;
        let entry = u64::from_le_bytes(entry);
        if entry & PRESENT == 0 {
            return None;
        }
        let is_leaf = level == 0 || (entry & LARGE != 0 && level < 3);
        if is_leaf {
            let offset_mask = (1_u64 << shift) - 1;
            return Some(GuestPhys(
                (entry & FRAME_MASK & !offset_mask) | (address & offset_mask),
            ));
        }
        table = entry & FRAME_MASK;
    }
    None
}

/// Reads guest virtual memory into `buffer`, page by page; the number of bytes read before the first that is not
/// mapped.
#[must_use]
pub(super) fn read_virtual(memory: &GuestMemory, cr3: u64, address: u64, buffer: &mut [u8]) -> usize {
    let mut done = 0;
    while done < buffer.len() {
        let at = address.wrapping_add(done as u64);
        let to_page_end = usize::try_from(PAGE_BYTES - at % PAGE_BYTES).unwrap_or(1);
        let end = buffer.len().min(done + to_page_end);
        let Some(physical) = translate(memory, cr3, at) else {
            break;
        };
        if memory.read(physical, &mut buffer[done..end]).is_err() {
            break;
        }
        done = end;
    }
    done
}

/// Writes guest virtual memory that lies in one page.
#[must_use]
pub(super) fn write_virtual(memory: &GuestMemory, cr3: u64, address: u64, bytes: &[u8]) -> bool {
    let crosses = address % PAGE_BYTES + bytes.len() as u64 > PAGE_BYTES;
    !crosses && translate(memory, cr3, address).is_some_and(|physical| memory.write(physical, bytes).is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn memory() -> GuestMemory {
        GuestMemory::allocate(64 << 20).unwrap()
    }

    fn put(memory: &GuestMemory, address: u64, entry: u64) {
        memory.write(GuestPhys(address), &entry.to_le_bytes()).unwrap();
    }

    /// Maps 0x40_0000 (2 MiB page) to 0x20_0000 and 0x1000 (4 KiB page) to 0x9000.
    fn mapped() -> (GuestMemory, u64) {
        let memory = memory();
        put(&memory, 0x1000, 0x2000 | PRESENT);
        put(&memory, 0x2000, 0x3000 | PRESENT);
        put(&memory, 0x3000, 0x4000 | PRESENT);
        put(&memory, 0x3000 + 2 * 8, 0x20_0000 | LARGE | PRESENT);
        put(&memory, 0x4000 + 8, 0x9000 | PRESENT | 1 << 63);
        (memory, 0x1000)
    }

    #[test]
    fn small_and_large_pages_translate() {
        let (memory, cr3) = mapped();
        assert_eq!(translate(&memory, cr3, 0x1234), Some(GuestPhys(0x9234)));
        assert_eq!(translate(&memory, cr3, 0x41_2345), Some(GuestPhys(0x21_2345)));
        assert_eq!(translate(&memory, cr3, 0x2000), None);
    }

    #[test]
    fn a_read_stops_at_the_first_unmapped_page() {
        let (memory, cr3) = mapped();
        let mut buffer = [0; 8];
        assert_eq!(read_virtual(&memory, cr3, 0x1FFD, &mut buffer), 3);
        assert!(
            !write_virtual(&memory, cr3, 0x1FFD, &buffer),
            "a write may not cross a page"
        );
        assert!(write_virtual(&memory, cr3, 0x1FF8, &buffer));
    }

    proptest! {
        #[test]
        fn hostile_tables_never_reach_outside_ram(
            entries in prop::collection::vec(any::<u64>(), 64), cr3: u64, address: u64,
        ) {
            let memory = memory();
            for (index, entry) in (0_u64..).zip(entries) {
                put(&memory, (index * 0x1008) % (1 << 20), entry);
            }
            let mut buffer = [0; 16];
            let read = read_virtual(&memory, cr3, address, &mut buffer);
            prop_assert!(read <= buffer.len());
        }
    }
}
