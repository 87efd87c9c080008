//! A guest of a few instructions, in 64-bit mode at privilege level 0, for probing a host's KVM.
//!
//! ```text
//!   0x1000 page tables (identity map of the first GiB in 2 MiB pages)   0x8000 stack top
//!   0x10000 code      0x20000 data, 16-byte aligned
//! ```

use iced_x86::code_asm::CodeAssembler;

use crate::base::guest_memory::GuestMemory;
use crate::base::limits::GUEST_RAM_BYTES_MIN;
use crate::base::units::GuestPhys;
use crate::machine::boot::EntryPoint;
use crate::machine::cpu;
use crate::machine::entry::set_entry_state;
use crate::machine::kvm::{Exit, KvmError, KvmHost, KvmVm, Vcpu};

const PAGE_TABLES: u64 = 0x1000;
const STACK_TOP: u64 = 0x8000;
/// Where the code lies.
pub const CODE: u64 = 0x1_0000;
/// Where the code may keep data.
pub const DATA: u64 = 0x2_0000;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;

/// A tiny guest cannot be made or run.
#[derive(Debug, thiserror::Error)]
pub enum TinyGuestError {
    /// KVM refuses.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The host refuses memory, or the code does not fit.
    #[error("cannot set up the probe guest: {0}")]
    SetUp(String),
}

fn set_up(error: impl std::fmt::Display) -> TinyGuestError {
    TinyGuestError::SetUp(error.to_string())
}

/// The guest.
#[derive(Debug)]
pub struct TinyGuest {
    /// Its vCPU.
    pub vcpu: Vcpu,
    /// Its VM.
    pub vm: KvmVm,
}

impl TinyGuest {
    /// A guest that will run what `write_code` assembles.
    ///
    /// # Errors
    /// [`TinyGuestError`].
    pub fn new(
        write_code: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
    ) -> Result<Self, TinyGuestError> {
        let (memory, entry) = tiny_program(write_code)?;
        let vm = KvmHost::open()?.create_vm(memory, true)?;
        vm.deny_msrs_except(cpu::PASSED_RANGES)?;
        let mut vcpu = vm.create_vcpu()?;
        vcpu.set_cpuid(&cpu::deterministic_table())?;
        set_entry_state(&mut vcpu, &entry)?;
        Ok(Self { vcpu, vm })
    }

    /// Runs until the guest causes an exit; kicks are passed over.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn run(&mut self) -> Result<Exit, KvmError> {
        loop {
            match self.vcpu.run()? {
                Exit::Interrupted => {}
                exit => return Ok(exit),
            }
        }
    }
}

/// Guest memory that holds what `write_code` assembles and page tables for it, and where it begins.
///
/// # Errors
/// When the code does not assemble or the host has no memory.
pub fn tiny_program(
    write_code: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> Result<(GuestMemory, EntryPoint), TinyGuestError> {
    let mut assembler = CodeAssembler::new(64).map_err(set_up)?;
    write_code(&mut assembler).map_err(set_up)?;
    let code = assembler.assemble(CODE).map_err(set_up)?;
    let memory = GuestMemory::allocate(GUEST_RAM_BYTES_MIN).map_err(set_up)?;
    memory.write(GuestPhys(CODE), &code).map_err(set_up)?;
    write_page_tables(&memory).map_err(set_up)?;
    Ok((memory, entry_point()))
}

fn entry_point() -> EntryPoint {
    EntryPoint {
        rip: CODE,
        boot_params: 0,
        stack: STACK_TOP,
        page_tables: PAGE_TABLES,
        gdt_base: 0,
        gdt_limit: 0,
        code_selector: 0x10,
        data_selector: 0x18,
    }
}

fn write_page_tables(memory: &GuestMemory) -> Result<(), crate::base::guest_memory::OutsideRam> {
    let (level_3, level_2) = (PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    memory.write(
        GuestPhys(PAGE_TABLES),
        &(level_3 | PRESENT_WRITABLE).to_le_bytes(),
    )?;
    memory.write(GuestPhys(level_3), &(level_2 | PRESENT_WRITABLE).to_le_bytes())?;
    for index in 0..512_u64 {
        let entry = index << 21 | LARGE | PRESENT_WRITABLE;
        memory.write(GuestPhys(level_2 + index * 8), &entry.to_le_bytes())?;
    }
    Ok(())
}
