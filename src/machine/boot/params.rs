//! `boot_params`, the page that tells Linux what it has been given (Documentation/x86/zero-page.rst of 6.1).
//!
//! Everything not written here stays zero. In particular `screen_info`: with no lines and columns the kernel's VGA
//! console gives way to the dummy one and never touches video memory.

use super::bzimage::{SETUP_HEADER_OFFSET, SetupHeader};
use super::layout::{ACPI_FACS, ACPI_TABLES, BASE_MEMORY_END, KERNEL_START_MIN};
use crate::base::guest_memory::GuestMemory;

/// Length of `boot_params`.
const BYTE_COUNT: usize = 4096;
const ACPI_RSDP_ADDRESS: usize = 0x070;
const E820_ENTRY_COUNT: usize = 0x1E8;
const TYPE_OF_LOADER: usize = 0x210;
const LOAD_FLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21C;
const CMDLINE_POINTER: usize = 0x228;
const SETUP_DATA: usize = 0x250;
const E820_TABLE: usize = 0x2D0;
const E820_ENTRY_BYTES: usize = 20;
/// The decompressor, which never runs here, sets this flag if it has randomised addresses; the kernel then
/// randomises its memory regions too.
const LOAD_FLAG_KASLR: u8 = 1 << 1;
/// A loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xFF;

/// What a range of guest physical memory is (ACPI 6.5 § 15, table 15.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MemoryKind {
    /// RAM, free to use.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
    /// Holds ACPI tables.
    AcpiTables = 3,
    /// Shared with ACPI firmware; here the FACS.
    AcpiNvs = 4,
}

/// The memory map of a VM with `ram_byte_count` bytes of RAM: (first byte, length, kind), ascending.
#[must_use]
pub fn memory_map(ram_byte_count: u64) -> Vec<(u64, u64, MemoryKind)> {
    let mut map = vec![
        (0, BASE_MEMORY_END, MemoryKind::Ram),
        (
            BASE_MEMORY_END,
            ACPI_TABLES.start - BASE_MEMORY_END,
            MemoryKind::Reserved,
        ),
        (
            ACPI_TABLES.start,
            ACPI_TABLES.end - ACPI_TABLES.start,
            MemoryKind::AcpiTables,
        ),
        (
            ACPI_FACS.start,
            ACPI_FACS.end - ACPI_FACS.start,
            MemoryKind::AcpiNvs,
        ),
        (
            ACPI_FACS.end,
            KERNEL_START_MIN - ACPI_FACS.end,
            MemoryKind::Reserved,
        ),
    ];
    for (start, byte_count) in GuestMemory::ranges(ram_byte_count) {
        let end = start + byte_count;
        let start = start.max(KERNEL_START_MIN);
        if start < end {
            map.push((start, end - start, MemoryKind::Ram));
        }
    }
    map
}

/// Where the loader has put things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) cmdline: u32,
    pub(super) initrd: u32,
    pub(super) initrd_byte_count: u32,
    pub(super) rsdp: u64,
    pub(super) setup_data: u64,
}

/// Bytes of the seed: what Linux's generator takes to count itself initialised.
pub const RANDOM_SEED_BYTES: usize = 32;

/// The seed as a node of the `setup_data` list (boot protocol 2.09, `SETUP_RNG_SEED` of Linux 6.0): without it the
/// kernel gathers randomness from thousands of counter reads, each of them an exit. Linux wipes it once used.
pub(super) fn random_seed_node(seed: &[u8; RANDOM_SEED_BYTES]) -> Vec<u8> {
    const SETUP_RNG_SEED: u32 = 9;
    let no_next = 0_u64.to_le_bytes();
    let length = 32_u32.to_le_bytes();
    [&no_next[..], &SETUP_RNG_SEED.to_le_bytes(), &length, seed].concat()
}

/// The page itself.
pub(super) fn boot_params(header: &SetupHeader, placement: Placement, ram_byte_count: u64) -> Vec<u8> {
    let mut page = vec![0; BYTE_COUNT];
    put(&mut page, SETUP_HEADER_OFFSET, &header.bytes);
    put(&mut page, TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
    page[LOAD_FLAGS] &= !LOAD_FLAG_KASLR;
    put(&mut page, RAMDISK_IMAGE, &placement.initrd.to_le_bytes());
    put(
        &mut page,
        RAMDISK_SIZE,
        &placement.initrd_byte_count.to_le_bytes(),
    );
    put(&mut page, CMDLINE_POINTER, &placement.cmdline.to_le_bytes());
    put(&mut page, ACPI_RSDP_ADDRESS, &placement.rsdp.to_le_bytes());
    put(&mut page, SETUP_DATA, &placement.setup_data.to_le_bytes());
    let map = memory_map(ram_byte_count);
    put(
        &mut page,
        E820_ENTRY_COUNT,
        &[u8::try_from(map.len()).unwrap_or(u8::MAX)],
    );
    for (index, (start, byte_count, kind)) in map.into_iter().enumerate() {
        let at = E820_TABLE + index * E820_ENTRY_BYTES;
        put(&mut page, at, &start.to_le_bytes());
        put(&mut page, at + 8, &byte_count.to_le_bytes());
        put(&mut page, at + 16, &u32::from(kind as u8).to_le_bytes());
    }
    page
}

fn put(page: &mut [u8], offset: usize, bytes: &[u8]) {
    page[offset..offset + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::LOW_RAM_END;

    #[test]
    fn the_map_covers_low_memory_without_gaps_and_all_ram() {
        for ram in [64 << 20, LOW_RAM_END, LOW_RAM_END + 4096, 8 << 30] {
            let map = memory_map(ram);
            let low_end = ram.min(LOW_RAM_END);
            let mut next = 0;
            for &(start, byte_count, _) in map.iter().filter(|(start, ..)| *start < low_end) {
                assert_eq!(start, next);
                next = start + byte_count;
            }
            assert_eq!(next, low_end);
            let high: u64 = map
                .iter()
                .filter(|(start, ..)| *start >= 1 << 32)
                .map(|(_, count, _)| count)
                .sum();
            assert_eq!(high, ram - low_end);
        }
    }

    #[test]
    fn fields_lie_where_linux_reads_them() {
        let placement = Placement {
            cmdline: 0x2_0000,
            initrd: 0x7F0_0000,
            initrd_byte_count: 77,
            rsdp: 0xE_0000,
            setup_data: 0x0011_2233_4455_6677,
        };
        let mut header = SetupHeader::for_bare_elf();
        header.bytes[LOAD_FLAGS - SETUP_HEADER_OFFSET] |= LOAD_FLAG_KASLR;
        let page = boot_params(&header, placement, 128 << 20);
        let word = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap());
        assert_eq!(page.len(), 4096);
        assert_eq!(page[0x1EF], 0, "sentinel");
        assert_eq!(&page[0x202..0x206], b"HdrS");
        assert_eq!((page[0x210], page[0x211]), (0xFF, 1));
        assert_eq!(
            (word(0x218), word(0x21C), word(0x228)),
            (0x7F0_0000, 77, 0x2_0000)
        );
        assert_eq!(word(0x070), 0xE_0000);
        assert_eq!(page[0x1E8], 6);
        assert_eq!((word(0x2D0), word(0x2D8), word(0x2E0)), (0, 0xA_0000, 1));
        assert!(page[..0x40].iter().all(|&byte| byte == 0), "no screen_info");
    }
}
