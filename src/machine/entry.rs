//! The vCPU's state at the kernel's 64-bit entry point (Linux boot protocol, "64-bit boot protocol").

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use super::boot::EntryPoint;
use super::kvm::{KvmError, Vcpu};

const CR0_PROTECTION: u64 = 1 << 0;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER_LONG_MODE_ENABLE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 1 << 1;

fn segment(selector: u16) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xFFFF_FFFF,
        selector,
        present: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    }
}

fn long_mode_registers(mut sregs: kvm_sregs, entry: &EntryPoint) -> kvm_sregs {
    sregs.cs = kvm_segment {
        type_: 0xB,
        l: 1,
        ..segment(entry.code_selector)
    };
    let data = kvm_segment {
        type_: 0x3,
        db: 1,
        ..segment(entry.data_selector)
    };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        type_: 0xB,
        present: 1,
        limit: 0x67,
        ..kvm_segment::default()
    };
    sregs.ldt = kvm_segment {
        type_: 0x2,
        unusable: 1,
        ..kvm_segment::default()
    };
    sregs.gdt.base = entry.gdt_base;
    sregs.gdt.limit = entry.gdt_limit;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PROTECTION | CR0_EXTENSION_TYPE | CR0_PAGING;
    sregs.cr3 = entry.page_tables;
    sregs.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
    sregs.efer = EFER_LONG_MODE_ENABLE | EFER_LONG_MODE_ACTIVE;
    // No local APIC exists (E1); KVM would otherwise show its CPUID bit.
    sregs.apic_base = 0;
    sregs
}

/// Puts the vCPU at `entry`, in long mode with interrupts off.
///
/// # Errors
/// When KVM refuses the state.
pub(super) fn set_entry_state(vcpu: &mut Vcpu, entry: &EntryPoint) -> Result<(), KvmError> {
    let sregs = long_mode_registers(vcpu.system_registers()?, entry);
    vcpu.set_system_registers(&sregs)?;
    vcpu.set_registers(&kvm_regs {
        rip: entry.rip,
        rsp: entry.stack,
        rsi: entry.boot_params,
        rflags: RFLAGS_RESERVED,
        ..kvm_regs::default()
    })
}
