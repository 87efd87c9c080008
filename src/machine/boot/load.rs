//! Puts an edited kernel and everything it needs into guest memory, and says how to enter it.
//!
//! Placement is a pure function of its arguments: both sites, and every later reset, write the same bytes. RAM is
//! taken as it is; what the kernel expects to be zero is written as zero. Page 0 is not touched: the word at 0x472
//! there belongs to the guest.

use vm_memory::GuestAddress;

use super::acpi;
use super::cmdline::CommandLine;
use super::elf::Segment;
use super::error::BootError;
use super::layout::{BOOT_PARAMS, CMDLINE, GDT, PAGE_TABLES, RANDOM_SEED, STACK_TOP};
use super::params::{Placement, RANDOM_SEED_BYTES, boot_params, random_seed_node};
use super::{EditedKernel, layout};
use crate::base::guest_memory::GuestMemory;
use crate::base::limits::LOW_RAM_END;
use crate::base::units::PAGE_BYTES;

/// Linux's `__BOOT_CS`.
const BOOT_CODE_SELECTOR: u16 = 0x10;
/// Linux's `__BOOT_DS`.
const BOOT_DATA_SELECTOR: u16 = 0x18;
/// The GDT: nothing, nothing, a flat 64-bit code segment, a flat data segment; both already marked accessed, so that
/// the processor never writes to the table.
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];
/// Page-table flags: present, writable, accessed, and dirty where it means something; already set, so that the
/// processor has nothing to set in these tables.
const TABLE_ENTRY: u64 = 0x23;
const LARGE_PAGE_ENTRY: u64 = 0xE3;
/// Bytes mapped by one page-directory entry.
const LARGE_PAGE_BYTES: u64 = 2 << 20;
/// Gibibytes mapped.
const MAPPED_GIBIBYTES: u64 = 4;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The state of the vCPU at the kernel's first instruction, besides what is fixed: 64-bit mode, interrupts off, all
/// data segments `data_selector`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryPoint {
    /// RIP: the kernel's entry, a physical address, mapped one to one.
    pub rip: u64,
    /// RSI: the address of `boot_params`.
    pub boot_params: u64,
    /// RSP: end of one page of stack.
    pub stack: u64,
    /// CR3: tables that map the first 4 GiB one to one.
    pub page_tables: u64,
    /// GDTR base.
    pub gdt_base: u64,
    /// GDTR limit.
    pub gdt_limit: u16,
    /// CS, a flat 64-bit code segment.
    pub code_selector: u16,
    /// DS, ES and SS, a flat data segment.
    pub data_selector: u16,
}

/// Writes the kernel, `boot_params`, the command line, the random seed, the initrd, ACPI tables, a GDT and page tables into `memory`.
///
/// # Errors
/// A kernel, initrd or command line that does not fit; nothing has been written then.
pub fn place(
    kernel: &EditedKernel,
    initrd: &[u8],
    cmdline: &CommandLine,
    random_seed: &[u8; RANDOM_SEED_BYTES],
    memory: &GuestMemory,
) -> Result<EntryPoint, BootError> {
    let initrd_address = plan(kernel, initrd, cmdline, memory.byte_count())?;

    for segment in &kernel.segments {
        write(memory, "the kernel", segment.physical, kernel.bytes_of(segment))?;
        write_zeros(memory, segment)?;
    }
    write(memory, "the initrd", u64::from(initrd_address), initrd)?;
    let mut line = cmdline.as_str().as_bytes().to_vec();
    line.push(0);
    write(memory, "the command line", CMDLINE, &line)?;
    write(
        memory,
        "the random seed",
        RANDOM_SEED,
        &random_seed_node(random_seed),
    )?;
    for (address, table) in acpi::tables() {
        write(memory, "an ACPI table", address, &table)?;
    }
    write(memory, "the GDT", GDT, &words(&DESCRIPTORS))?;
    write(memory, "the page tables", PAGE_TABLES, &words(&page_tables()))?;
    let placement = Placement {
        cmdline: low_address(CMDLINE),
        initrd: if initrd.is_empty() { 0 } else { initrd_address },
        initrd_byte_count: u32::try_from(initrd.len()).unwrap_or(u32::MAX),
        rsdp: acpi::RSDP,
        setup_data: RANDOM_SEED,
    };
    write(
        memory,
        "boot_params",
        BOOT_PARAMS,
        &boot_params(&kernel.header, placement, memory.byte_count()),
    )?;

    Ok(EntryPoint {
        rip: kernel.entry,
        boot_params: BOOT_PARAMS,
        stack: STACK_TOP,
        page_tables: PAGE_TABLES,
        gdt_base: GDT,
        gdt_limit: u16::try_from(DESCRIPTORS.len() * 8 - 1).unwrap_or(0),
        code_selector: BOOT_CODE_SELECTOR,
        data_selector: BOOT_DATA_SELECTOR,
    })
}

/// Whether [`place`] would find room in so much RAM: asked before anything is opened or reserved.
///
/// # Errors
/// A kernel, initrd or command line that does not fit.
pub fn check_room(
    kernel: &EditedKernel,
    initrd: &[u8],
    cmdline: &CommandLine,
    memory_byte_count: u64,
) -> Result<(), BootError> {
    plan(kernel, initrd, cmdline, memory_byte_count).map(drop)
}

/// Checks that everything fits and finds the initrd's place: as high as it may lie, on a page boundary.
fn plan(
    kernel: &EditedKernel,
    initrd: &[u8],
    cmdline: &CommandLine,
    memory_byte_count: u64,
) -> Result<u32, BootError> {
    let ram_end = memory_byte_count.min(LOW_RAM_END);
    let kernel_end = kernel.memory_end();
    if kernel_end > ram_end {
        return Err(BootError::KernelBeyondRam {
            end: kernel_end,
            ram_end,
        });
    }
    if u64::from(kernel.header.cmdline_byte_count_max) < cmdline.as_str().len() as u64 {
        let (byte_count, limit) = (cmdline.as_str().len(), kernel.header.cmdline_byte_count_max);
        return Err(BootError::CmdlineTooLong { byte_count, limit });
    }
    let limit = ram_end.min(u64::from(kernel.header.initrd_address_max) + 1);
    let first = kernel_end
        .max(layout::KERNEL_START_MIN)
        .next_multiple_of(PAGE_BYTES);
    let initrd_byte_count = initrd.len() as u64;
    let address = limit
        .checked_sub(initrd_byte_count)
        .map(|address| address / PAGE_BYTES * PAGE_BYTES);
    match address.filter(|&address| address >= first) {
        Some(address) => Ok(low_address(address)),
        None => Err(BootError::InitrdTooLarge {
            initrd_byte_count,
            room_byte_count: limit.saturating_sub(first) / PAGE_BYTES * PAGE_BYTES,
            kernel_end,
            limit,
        }),
    }
}

/// An address that `plan` or the layout keeps below 4 GiB.
fn low_address(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(u32::MAX)
}

fn write(memory: &GuestMemory, what: &'static str, address: u64, bytes: &[u8]) -> Result<(), BootError> {
    memory
        .write(GuestAddress(address), bytes)
        .map_err(|outside| BootError::OutsideRam { what, outside })
}

fn write_zeros(memory: &GuestMemory, segment: &Segment) -> Result<(), BootError> {
    let mut address = segment.physical + segment.file_range.len() as u64;
    let end = segment.physical + segment.memory_byte_count;
    while address < end {
        let count = usize::try_from(end - address)
            .unwrap_or(usize::MAX)
            .min(ZEROS.len());
        write(memory, "the kernel's zeroed data", address, &ZEROS[..count])?;
        address += count as u64;
    }
    Ok(())
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// PML4, PDPT and one page directory per GiB, in that order, mapping the first 4 GiB one to one.
fn page_tables() -> Vec<u64> {
    let entries = 512;
    let mut tables = vec![0; entries * 2];
    tables[0] = (PAGE_TABLES + PAGE_BYTES) | TABLE_ENTRY;
    for gibibyte in 0..MAPPED_GIBIBYTES {
        let directory = PAGE_TABLES + (2 + gibibyte) * PAGE_BYTES;
        tables[entries + usize::try_from(gibibyte).unwrap_or(0)] = directory | TABLE_ENTRY;
    }
    tables.extend((0..MAPPED_GIBIBYTES * 512).map(|page| (page * LARGE_PAGE_BYTES) | LARGE_PAGE_ENTRY));
    tables
}
