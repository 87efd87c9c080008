//! Window exits are moved out of interrupt shadows (E6).
//!
//! STI and MOV SS hold interrupts off for one more instruction. Where the host interrupts the guest right there, KVM may
//! open an interrupt window inside that shadow, one instruction before the place at which it opens undisturbed. So behind
//! such an instruction one step is taken:
//!
//! ```text
//!   window exit, the instruction before is STI or MOV SS ──step──▶ stepped, IF set    : the window, here
//!                                                                  stepped, IF clear  : no window yet, go on
//!                                                                  another exit       : that exit; the wish stays
//! ```
//!
//! A byte that merely looks like STI costs the same step on every host, because it stands at the same place.

use super::super::kvm::{Exit, KvmError, Vcpu};
use super::super::paging::read_virtual;
use crate::base::guest_memory::GuestMemory;

const STI: u8 = 0xFB;
const MOV_TO_SEGMENT: u8 = 0x8E;
/// The ModRM bytes of `mov %reg, %ss`.
const SS_FROM_REGISTER: std::ops::RangeInclusive<u8> = 0xD0..=0xD7;

/// The exit that stands for `exit`, which the last run ended with.
pub(super) fn leave(vcpu: &mut Vcpu, memory: &GuestMemory, exit: Exit) -> Result<Exit, KvmError> {
    if exit != Exit::IrqWindow || !is_behind_shadow_maker(vcpu, memory)? {
        return Ok(exit);
    }
    vcpu.request_interrupt_window(false);
    let stepped = vcpu.step();
    vcpu.request_interrupt_window(true);
    Ok(match stepped? {
        Exit::Debug if vcpu.interrupts_enabled() => Exit::IrqWindow,
        Exit::Debug => Exit::Interrupted,
        other => other,
    })
}

fn is_behind_shadow_maker(vcpu: &mut Vcpu, memory: &GuestMemory) -> Result<bool, KvmError> {
    let rip = vcpu.registers()?.rip;
    let page_tables = vcpu.system_registers()?.cr3;
    let mut before = [0; 2];
    let found = read_virtual(memory, page_tables, rip.wrapping_sub(2), &mut before);
    Ok(found == before.len() && makes_shadow(before))
}

/// Whether an instruction that ends in these two bytes may be one that makes a shadow.
fn makes_shadow(last: [u8; 2]) -> bool {
    last[1] == STI || last[0] == MOV_TO_SEGMENT && SS_FROM_REGISTER.contains(&last[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sti_and_loads_of_ss_make_shadows() {
        assert!(makes_shadow([0x90, 0xFB]) && makes_shadow([0x8E, 0xD0]) && makes_shadow([0x8E, 0xD7]));
        assert!(!makes_shadow([0xFB, 0x90]) && !makes_shadow([0x8E, 0xD8]) && !makes_shadow([0x8E, 0xC0]));
    }
}
