//! Where everything that the loader writes lies in guest physical memory.
//!
//! ```text
//!   0x00000   page 0: left to the guest; its word at 0x472 tells a warm reboot from a cold one
//!   0x06000   GDT
//!   0x07000   boot_params (the "zero page")
//!   0x08000   stack of the first instructions, downward from 0x09000
//!   0x09000   page tables: PML4, PDPT, four page directories
//!   0x20000   command line
//!   0x21000   seed of the guest's random-number generator, as `setup_data`
//!   0xA0000   nothing (a PC's video memory)
//!   0xE0000   ACPI tables; the FACS, which the guest writes, in the last page before 0xF0000
//!   0x100000  kernel, then free RAM, the initrd as high as it may lie
//! ```
//!
//! Linux keeps the whole first MiB to itself and copies `boot_params` and the command line away early, so none of
//! this needs to be reserved against the guest, but the ACPI area, which it reads for ever.

use std::ops::Range;

/// The GDT.
pub(super) const GDT: u64 = 0x6000;
/// `boot_params`.
pub(super) const BOOT_PARAMS: u64 = 0x7000;
/// Stack pointer at entry; Linux sets its own in its first instructions.
pub(super) const STACK_TOP: u64 = 0x9000;
/// Page tables, six pages.
pub(super) const PAGE_TABLES: u64 = 0x9000;
/// The command line, at most 2048 bytes with its terminating zero.
pub(super) const CMDLINE: u64 = 0x2_0000;
/// The seed of the guest's random-number generator.
pub(super) const RANDOM_SEED: u64 = 0x2_1000;
/// End of RAM below the area of a PC's adapters.
pub(super) const BASE_MEMORY_END: u64 = 0xA_0000;
/// ACPI tables that the guest only reads.
pub(super) const ACPI_TABLES: Range<u64> = 0xE_0000..0xE_F000;
/// The FACS: ACPI memory that the guest also writes.
pub(super) const ACPI_FACS: Range<u64> = 0xE_F000..0xF_0000;
/// First byte where a kernel may lie.
pub(super) const KERNEL_START_MIN: u64 = 0x10_0000;

const _: () =
    assert!(PAGE_TABLES + 6 * 4096 <= CMDLINE && CMDLINE < RANDOM_SEED && RANDOM_SEED < BASE_MEMORY_END);
