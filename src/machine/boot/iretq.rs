//! Finds the kernel's own `IRETQ` back to user mode.
//!
//! The machine answers a user program's trapped `RDTSC` from the `#GP` entry's first instruction: before `SWAPGS`,
//! with the user's page tables still loaded if the kernel isolates them. The way back must therefore be an `IRETQ`
//! that lies in the entry text, mapped in both sets of tables, and that runs with the user's GS base: the one with
//! which `swapgs_restore_regs_and_return_to_usermode` ends.
//!
//! It is found by what makes it that one: `SWAPGS`, then nothing but `VERW`, padding and direct jumps, then
//! `IRETQ`. Kernels with `CONFIG_X86_ESPFIX64` (Debian's, but not its cloud flavour) put `testb $4, 0x20(%rsp); jnz`
//! before it, which is stepped over: the test is for 16-bit stack segments, and the address wanted is that of the
//! `IRETQ`. Kernels hold a dozen other `IRETQ`s (NMI, `sync_core`, early boot); none is reached so.

use std::collections::BTreeSet;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::error::KernelError;
use super::sweep::{Kind, Swept, branch_target, locate};

/// Most instructions between `SWAPGS` and `IRETQ`; Debian 6.1 has four.
const STEPS_MAX: usize = 12;

/// The virtual address of the user-return `IRETQ`.
///
/// # Errors
/// None found, or more than one.
pub(super) fn find(sections: &[Swept<'_>]) -> Result<u64, KernelError> {
    let mut found = BTreeSet::new();
    for section in sections {
        for site in section.sites.iter().filter(|site| site.kind == Kind::Swapgs) {
            let next = section
                .address
                .wrapping_add((site.offset + site.byte_count) as u64);
            found.extend(follow(sections, next));
        }
    }
    let mut addresses = found.iter();
    match (addresses.next(), addresses.next()) {
        (Some(&address), None) => Ok(address),
        (None, _) => Err(refusal(
            "no SWAPGS of its code leads to an IRETQ to user mode".into(),
        )),
        (Some(first), Some(second)) => Err(refusal(format!(
            "two IRETQs lead to user mode, at {first:#x} and {second:#x}"
        ))),
    }
}

fn refusal(what: String) -> KernelError {
    KernelError::CannotEdit { what }
}

/// Follows the code after a `SWAPGS`; the address of the `IRETQ` if it leads straight to one.
fn follow(sections: &[Swept<'_>], mut address: u64) -> Option<u64> {
    for _ in 0..STEPS_MAX {
        let instruction = decode(sections, address)?;
        address = match instruction.mnemonic() {
            Mnemonic::Iretq => return Some(address),
            Mnemonic::Jmp => branch_target(&instruction)?,
            Mnemonic::Nop | Mnemonic::Verw => instruction.next_ip(),
            Mnemonic::Test if tests_stack_segment(&instruction) => {
                let jump = decode(sections, instruction.next_ip())?;
                (jump.mnemonic() == Mnemonic::Jne).then(|| jump.next_ip())?
            }
            _ => return None,
        };
    }
    None
}

fn decode(sections: &[Swept<'_>], address: u64) -> Option<Instruction> {
    let (section, offset) = locate(sections, address)?;
    sections[section].instruction_at(offset)
}

/// `testb $4, 0x20(%rsp)`: does the saved SS come from the LDT?
fn tests_stack_segment(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Memory
        && instruction.memory_base() == Register::RSP
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == 0x20
        && instruction.op1_kind() == OpKind::Immediate8
        && instruction.immediate8() == 4
}
