//! Trapping the time-stamp counter in user mode (E2).
//!
//! KVM never lets user space trap RDTSC, so the guest's own kernel is made to lead it to us:
//!
//! ```text
//!   Searching ──final IDT found: #GP entry rewritten, CR4.TSD set──▶ Armed ──▶ (for the VM's life)
//!
//!   user RDTSC ──CR4.TSD──▶ #GP ──▶ kernel entry `out %al, $0xF4` ──▶ exit
//!        ├─ ring 3, error 0, TSD ours, RDTSC or RDTSCP ─▶ answered: registers set, back by the kernel's IRETQ
//!        └─ anything else ─▶ the exit has no effect, Linux handles its #GP
//! ```
//!
//! The entry is rewritten only in the *final* IDT (at `0xfffffe00_00000000`, in the CPU entry area); early ones are
//! thrown away by the kernel. Its first instruction slot is the three bytes of `CLAC`, which the CPUID table hides,
//! so they are no-operations. TSD is set only from that exit on, so that Linux's shadow of CR4 never holds it; a TSD
//! in a value which Linux writes later is the guest's own wish (`prctl(PR_SET_TSC)`), and its #GP is passed on.
//! Every kernel-mode write of CR4 was rewritten at load into a port write, which [`UserTsc::write_cr4`] carries out.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use serde::{Deserialize, Serialize};

use super::cpu::TSC_HERTZ;
use super::kvm::{KvmError, Vcpu};
use super::paging::{read_virtual, write_virtual};
use crate::base::guest_memory::GuestMemory;
use crate::base::units::VirtualTime;
use crate::devices::platform::TRAP_GENERAL_PROTECTION_PORT;

const CR4_TSD: u64 = 1 << 2;
const RFLAGS_TRAP: u64 = 1 << 8;
const RFLAGS_RESUME: u64 = 1 << 16;
const DR6_SINGLE_STEP: u64 = 1 << 14;

const GENERAL_PROTECTION_VECTOR: u64 = 13;
const DEBUG_VECTOR: u8 = 1;
const FINAL_IDT_BASE_HIGH: u64 = 0xFFFF_FE00;

/// Linux's `__USER_CS`, `__USER32_CS` and `__USER_DS`.
const USER_CODE_64: u64 = 0x33;
const USER_CODE_32: u64 = 0x23;
const USER_DATA: u64 = 0x2B;

/// Longest x86 instruction.
const INSTRUCTION_BYTES_MAX: usize = 15;

/// The kernel's `#GP` entry is not what every supported kernel has there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this kernel's #GP entry at {address:#x} begins with {found:02x?}, not with a free CLAC slot, so user-mode RDTSC \
     cannot be trapped; use a Debian kernel of the 6.1 series"
)]
pub struct UnknownTrapEntry {
    /// Guest virtual address of the entry.
    pub address: u64,
    /// The bytes found.
    pub found: Vec<u8>,
}

/// What trapping needs, failed.
#[derive(Debug, thiserror::Error)]
pub enum UserTscError {
    /// The kernel cannot be edited.
    #[error(transparent)]
    UnknownEntry(#[from] UnknownTrapEntry),
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// The interrupt frame that the processor pushes for an exception with an error code (AMD APM volume 2, § 8.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ExceptionFrame {
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

impl ExceptionFrame {
    const BYTES: usize = 48;

    fn parse(bytes: [u8; Self::BYTES]) -> Self {
        let word = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
            u64::from_le_bytes(word)
        };
        Self {
            error_code: word(0),
            rip: word(1),
            cs: word(2),
            rflags: word(3),
            rsp: word(4),
            ss: word(5),
        }
    }
}

/// The trap's state, and how many instructions it answered.
#[derive(Debug)]
pub(super) struct UserTsc {
    kernel_iretq: u64,
    is_armed: bool,
    guest_wants_fault: bool,
    answered: u64,
}

/// The trap's saved form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UserTscState {
    is_armed: bool,
    guest_wants_fault: bool,
    answered: u64,
}

impl UserTsc {
    /// A trap for a kernel whose user-return `IRETQ` is at guest virtual address `kernel_iretq`.
    #[must_use]
    pub(super) fn searching(kernel_iretq: u64) -> Self {
        Self {
            kernel_iretq,
            is_armed: false,
            guest_wants_fault: false,
            answered: 0,
        }
    }

    /// The saved form.
    pub(super) fn save(&self) -> UserTscState {
        UserTscState {
            is_armed: self.is_armed,
            guest_wants_fault: self.guest_wants_fault,
            answered: self.answered,
        }
    }

    /// Makes it what was saved, of the same kernel.
    pub(super) fn restore(&mut self, state: &UserTscState) {
        self.is_armed = state.is_armed;
        self.guest_wants_fault = state.guest_wants_fault;
        self.answered = state.answered;
    }

    /// Whether the final IDT was found and the trap is in force.
    #[must_use]
    pub(super) fn is_armed(&self) -> bool {
        self.is_armed
    }

    /// User-mode RDTSC and RDTSCP instructions answered so far.
    #[must_use]
    pub(super) fn answered(&self) -> u64 {
        self.answered
    }

    /// Looks for the final IDT and arms the trap there. Call it at every exit of one kind, until armed.
    ///
    /// # Errors
    /// [`UnknownTrapEntry`] when the kernel's #GP entry has no room for the trap.
    pub(super) fn try_arm(&mut self, vcpu: &Vcpu, memory: &GuestMemory) -> Result<(), UserTscError> {
        let mut sregs = vcpu.system_registers()?;
        if sregs.idt.base >> 32 != FINAL_IDT_BASE_HIGH {
            return Ok(());
        }
        let mut gate = [0; 16];
        let gate_address = sregs.idt.base + GENERAL_PROTECTION_VECTOR * 16;
        if read_virtual(memory, sregs.cr3, gate_address, &mut gate) < gate.len() {
            return Ok(());
        }
        let entry = gate_target(&gate);
        rewrite_trap_entry(memory, sregs.cr3, entry)?;
        sregs.cr4 |= CR4_TSD;
        vcpu.set_system_registers(&sregs)?;
        self.is_armed = true;
        Ok(())
    }

    /// Carries out a kernel-mode `mov reg, %cr4` at its port exit. False if the processor would have refused the
    /// value: the caller injects `#GP`.
    ///
    /// # Errors
    /// When KVM refuses for another reason than the value.
    pub(super) fn write_cr4(&mut self, vcpu: &Vcpu, value: u64) -> Result<bool, KvmError> {
        let mut sregs = vcpu.system_registers()?;
        sregs.cr4 = value;
        if self.is_armed {
            self.guest_wants_fault = value & CR4_TSD != 0;
            sregs.cr4 |= CR4_TSD;
        }
        match vcpu.set_system_registers(&sregs) {
            Ok(()) => Ok(true),
            Err(KvmError::Ioctl { source, .. })
                if source.raw_os_error() == Some(nix::errno::Errno::EINVAL as i32) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Handles the exit at the kernel's `#GP` entry: answers a trapped RDTSC, or leaves the fault to Linux.
    ///
    /// # Errors
    /// When KVM refuses to read or write registers.
    pub(super) fn general_protection(
        &mut self,
        vcpu: &mut Vcpu,
        memory: &GuestMemory,
        now: VirtualTime,
    ) -> Result<(), KvmError> {
        vcpu.complete_instruction()?;
        let mut regs = vcpu.registers()?;
        let sregs = vcpu.system_registers()?;
        let mut bytes = [0; ExceptionFrame::BYTES];
        if read_virtual(memory, sregs.cr3, regs.rsp, &mut bytes) < bytes.len() {
            return Ok(());
        }
        let frame = ExceptionFrame::parse(bytes);
        let Some(instruction) = self.trapped_instruction(memory, sregs.cr3, &frame) else {
            return Ok(());
        };
        set_time_stamp(&mut regs, instruction, now);
        let next_rip = frame.rip.wrapping_add(instruction.byte_count);
        let next_rip = if frame.cs == USER_CODE_32 {
            next_rip & 0xFFFF_FFFF
        } else {
            next_rip
        };
        self.answered += 1;
        if frame.rflags & RFLAGS_TRAP == 0 {
            let at_rip = regs.rsp + 8;
            let flags = frame.rflags & !RFLAGS_RESUME;
            // The frame was read through the same translation just now, so these writes cannot miss; a frame that
            // crosses a page is no frame of Linux's (its entry stacks are page-aligned) and is left to Linux.
            if write_virtual(memory, sregs.cr3, at_rip, &next_rip.to_le_bytes())
                && write_virtual(memory, sregs.cr3, at_rip + 16, &flags.to_le_bytes())
            {
                regs.rsp = at_rip;
                regs.rip = self.kernel_iretq;
                vcpu.set_registers(&regs)?;
            }
            return Ok(());
        }
        return_stepping(vcpu, regs, sregs, &frame, next_rip)
    }

    fn trapped_instruction(
        &self,
        memory: &GuestMemory,
        cr3: u64,
        frame: &ExceptionFrame,
    ) -> Option<TimeStampInstruction> {
        let is_user = frame.cs == USER_CODE_64 || frame.cs == USER_CODE_32;
        if !self.is_armed || self.guest_wants_fault || !is_user || frame.error_code != 0 {
            return None;
        }
        let mut code = [0; INSTRUCTION_BYTES_MAX];
        let length = read_virtual(memory, cr3, frame.rip, &mut code);
        decode_time_stamp_instruction(&code[..length], frame.cs == USER_CODE_64)
    }
}

/// A trapped instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TimeStampInstruction {
    byte_count: u64,
    with_processor_id: bool,
}

/// Recognises RDTSC (`0F 31`) and RDTSCP (`0F 01 F9`) behind prefixes. LOCK makes them invalid: not recognised.
fn decode_time_stamp_instruction(code: &[u8], is_64_bit: bool) -> Option<TimeStampInstruction> {
    let is_prefix = |byte: u8| matches!(byte, 0x26 | 0x2E | 0x36 | 0x3E | 0x64..=0x67 | 0xF2 | 0xF3);
    let mut length = code.iter().take_while(|byte| is_prefix(**byte)).count();
    if is_64_bit && code.get(length).is_some_and(|byte| byte & 0xF0 == 0x40) {
        length += 1;
    }
    let (opcode_bytes, with_processor_id) = match code.get(length..)? {
        [0x0F, 0x31, ..] => (2, false),
        [0x0F, 0x01, 0xF9, ..] => (3, true),
        _ => return None,
    };
    Some(TimeStampInstruction {
        byte_count: (length + opcode_bytes) as u64,
        with_processor_id,
    })
}

fn set_time_stamp(regs: &mut kvm_regs, instruction: TimeStampInstruction, now: VirtualTime) {
    let ticks = now.ticks_at(TSC_HERTZ);
    regs.rax = ticks & 0xFFFF_FFFF;
    regs.rdx = ticks >> 32;
    if instruction.with_processor_id {
        // IA32_TSC_AUX is not in the MSR table, so it never left its reset value.
        regs.rcx = 0;
    }
}

/// Returns to a user program that single-steps itself: an IRETQ would lose one step, so the return is made by hand
/// and the pending single-step trap is injected.
fn return_stepping(
    vcpu: &mut Vcpu,
    mut regs: kvm_regs,
    mut sregs: kvm_sregs,
    frame: &ExceptionFrame,
    next_rip: u64,
) -> Result<(), KvmError> {
    let is_64_bit = frame.cs == USER_CODE_64;
    sregs.cs = kvm_segment {
        selector: selector(frame.cs),
        l: u8::from(is_64_bit),
        db: u8::from(!is_64_bit),
        type_: 0xB,
        ..flat_user_segment()
    };
    sregs.ss = kvm_segment {
        selector: selector(USER_DATA),
        db: 1,
        type_: 0x3,
        ..flat_user_segment()
    };
    regs.rip = next_rip;
    regs.rsp = frame.rsp;
    regs.rflags = frame.rflags & !RFLAGS_RESUME;
    vcpu.set_system_registers(&sregs)?;
    vcpu.set_registers(&regs)?;
    let mut debug = vcpu.debug_registers()?;
    debug.dr6 |= DR6_SINGLE_STEP;
    vcpu.set_debug_registers(&debug)?;
    let mut events = vcpu.events()?;
    events.exception.injected = 1;
    events.exception.nr = DEBUG_VECTOR;
    events.exception.has_error_code = 0;
    vcpu.set_events(&events)
}

fn selector(value: u64) -> u16 {
    u16::try_from(value & 0xFFFF).unwrap_or(0)
}

fn flat_user_segment() -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xFFFF_FFFF,
        present: 1,
        dpl: 3,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    }
}

/// The handler address in a 64-bit interrupt gate (AMD APM volume 2, § 4.8.4).
pub(super) fn gate_target(gate: &[u8; 16]) -> u64 {
    let low = u64::from(u16::from_le_bytes([gate[0], gate[1]]));
    let middle = u64::from(u16::from_le_bytes([gate[6], gate[7]]));
    let high = u64::from(u32::from_le_bytes([gate[8], gate[9], gate[10], gate[11]]));
    low | middle << 16 | high << 32
}

/// Puts `out %al, $port; nop` over the no-operations that stand where CLAC would.
fn rewrite_trap_entry(memory: &GuestMemory, cr3: u64, entry: u64) -> Result<(), UnknownTrapEntry> {
    const CLD: u8 = 0xFC;
    const SLOTS: [[u8; 4]; 2] = [[0x90, 0x90, 0x90, CLD], [0x0F, 0x1F, 0x00, CLD]];
    let mut found = [0; 4];
    let length = read_virtual(memory, cr3, entry, &mut found);
    let unknown = || UnknownTrapEntry {
        address: entry,
        found: found[..length].to_vec(),
    };
    if length < found.len() || !SLOTS.contains(&found) {
        return Err(unknown());
    }
    let port = u8::try_from(TRAP_GENERAL_PROTECTION_PORT).map_err(|_| unknown())?;
    if write_virtual(memory, cr3, entry, &[0xE6, port, 0x90]) {
        Ok(())
    } else {
        Err(unknown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(code: &[u8]) -> Option<(u64, bool)> {
        decode_time_stamp_instruction(code, true).map(|found| (found.byte_count, found.with_processor_id))
    }

    #[test]
    fn rdtsc_is_recognised_behind_prefixes() {
        assert_eq!(decode(&[0x0F, 0x31]), Some((2, false)));
        assert_eq!(decode(&[0x0F, 0x01, 0xF9]), Some((3, true)));
        assert_eq!(
            decode(&[0x66, 0x2E, 0xF3, 0x48, 0x0F, 0x31, 0xC3]),
            Some((6, false))
        );
        assert_eq!(
            decode_time_stamp_instruction(&[0x48, 0x0F, 0x31], false),
            None,
            "48 is DEC EAX in 32-bit code"
        );
    }

    #[test]
    fn what_is_no_valid_rdtsc_stays_linux_s_business() {
        for code in [
            &[0xF0, 0x0F, 0x31][..],
            &[0xF4],
            &[0x0F, 0x01, 0xF8],
            &[0x0F],
            &[],
            &[0x48, 0x66, 0x0F, 0x31],
        ] {
            assert_eq!(decode(code), None, "{code:02x?}");
        }
    }

    #[test]
    fn a_gate_s_target_is_put_together_from_three_parts() {
        let gate = [
            0x90, 0x0B, 0x10, 0, 0, 0x8E, 0xA0, 0x81, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0,
        ];
        assert_eq!(gate_target(&gate), 0xFFFF_FFFF_81A0_0B90);
    }

    fn identity_mapped_page(content: &[u8]) -> (GuestMemory, u64) {
        use crate::base::units::GuestPhys;
        let memory = GuestMemory::allocate(64 << 20).unwrap();
        for (table, next) in [(0x1000_u64, 0x2000_u64), (0x2000, 0x3000), (0x3000, 0x80)] {
            memory.write(GuestPhys(table), &(next | 1).to_le_bytes()).unwrap();
        }
        memory.write(GuestPhys(0x8000), content).unwrap();
        (memory, 0x1000)
    }

    #[test]
    fn the_trap_goes_into_a_free_slot_only() {
        let (memory, cr3) = identity_mapped_page(&[0x90, 0x90, 0x90, 0xFC, 0x48]);
        rewrite_trap_entry(&memory, cr3, 0x8000).unwrap();
        let mut code = [0; 5];
        assert_eq!(read_virtual(&memory, cr3, 0x8000, &mut code), 5);
        assert_eq!(code, [0xE6, 0xF4, 0x90, 0xFC, 0x48]);

        let (memory, cr3) = identity_mapped_page(&[0x0F, 0x01, 0xCA, 0xFC]);
        let error = rewrite_trap_entry(&memory, cr3, 0x8000).unwrap_err();
        assert_eq!(
            (error.address, error.found),
            (0x8000, vec![0x0F, 0x01, 0xCA, 0xFC])
        );
    }
}
