//! The `step` clock: by single steps from a counted exit to an instruction behind it, exactly (E5).
//!
//! A position between two exits is a pair (n, k): the first moment after exit n at which k instructions have completed. A
//! repetition of a string instruction counts as one; an instruction that faults has not completed.
//!
//! A processor steps by its trap flag. The guest must not see the flag, and must not get rid of it:
//!
//! | what runs | what becomes of the flag | what is done |
//! | ---- | ---- | ---- |
//! | PUSHF | it is pushed | it is cleared in the pushed word |
//! | SYSCALL | it is saved in R11, and masked | the mask spares it for this step; it is cleared in R11 |
//! | SYSRET | it comes from R11 | it is set in R11 for this step, and cleared again |
//! | a fault, INT n, an injected interrupt | it is pushed, and cleared in the handler | the handler's first byte is a HLT for this step, so that it stops there; it is cleared in the pushed frame |
//! | POPF, IRET | another one is popped | nothing: the trap behind them is decided before, and the next step sets it anew |
//! | a load of SS | the trap may come an instruction late | RIP tells how many have completed |
//!
//! A guest that steps itself is not stepped: both would want the flag.

use super::instruction::{Class, INSTRUCTION_BYTES_MAX, classify};
use super::{RunError, Timeline, Vm};
use crate::base::guest_memory::GuestMemory;
use crate::base::units::GuestPhys;
use crate::machine::kvm::Exit;
use crate::machine::paging::{read_virtual, translate, write_virtual};
use crate::machine::user_tsc::gate_target;

const TRAP_FLAG: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
const SYSCALL_FLAG_MASK_MSR: u32 = 0xC000_0084;
const HLT: u8 = 0xF4;

/// Vectors that an instruction can raise by itself.
const EXCEPTION_VECTORS: u8 = 32;
/// Those that push an error code (AMD APM volume 2, § 8.2).
const WITH_ERROR_CODE: [u8; 10] = [8, 10, 11, 12, 13, 14, 17, 21, 29, 30];

const GATE_BYTES: u64 = 16;
const GATE_PRESENT: u8 = 1 << 7;

/// What a step came to.
#[derive(Debug)]
enum Step {
    /// So many instructions have completed.
    Completed(u64),
    /// An event was delivered; the guest stands at its handler.
    Delivered,
    /// A counted exit.
    Exit(Exit),
}

/// How far stepping came.
#[derive(Debug)]
pub(super) enum Stepped {
    /// To the instruction that was asked for.
    There,
    /// To an exit before it, after so many instructions.
    Exit(Exit, u64),
}

/// A handler's first byte, which is a HLT now.
#[derive(Debug, Clone, Copy)]
struct Landing {
    vector: u8,
    target: u64,
    place: GuestPhys,
    byte: u8,
}

fn cannot(what: &'static str) -> RunError {
    RunError::Host {
        what: "single-stepping the guest",
        source: std::io::Error::other(what),
    }
}

impl Vm {
    /// Steps on from where the guest stands, an interrupt perhaps injected, until `instructions` have completed, or until
    /// the next counted exit (`None`: until that).
    pub(super) fn step_on(
        &mut self,
        instructions: Option<u64>,
        timeline: &mut dyn Timeline,
    ) -> Result<Stepped, RunError> {
        let mut completed = 0;
        while instructions.is_none_or(|wanted| completed < wanted) {
            match self.step_once()? {
                Step::Completed(count) => completed += count,
                Step::Delivered => {}
                Step::Exit(exit) => {
                    // A posted write that KVM did not post is no position.
                    self.take_posted_writes(timeline)?;
                    if !self.take_unposted_write(&exit, timeline) {
                        return Ok(Stepped::Exit(exit, completed));
                    }
                    completed += 1;
                }
            }
        }
        self.vcpu.complete_instruction()?;
        if instructions.is_some_and(|wanted| completed > wanted) {
            return Err(cannot("this processor does not stop behind a load of SS"));
        }
        Ok(Stepped::There)
    }

    fn step_once(&mut self) -> Result<Step, RunError> {
        if self.vcpu.complete_instruction()?
            && let Some(exit) = self.vcpu.take_next_exit()
        {
            return Ok(Step::Exit(exit));
        }
        let regs = self.vcpu.registers()?;
        let sregs = self.vcpu.system_registers()?;
        if regs.rflags & TRAP_FLAG != 0 {
            return Err(cannot("it single-steps itself here"));
        }
        if sregs.efer & EFER_LONG_MODE_ACTIVE == 0 {
            return Err(cannot("it is not in long mode"));
        }
        let bitness = if sregs.cs.l != 0 { 64 } else { 32 };
        let mut code = [0; INSTRUCTION_BYTES_MAX];
        let length = read_virtual(self.kvm.memory(), sregs.cr3, regs.rip, &mut code);
        let (class, byte_count) = classify(&code[..length], bitness);
        let injected = self.vcpu.events()?.interrupt;
        let vectors = (0..EXCEPTION_VECTORS).chain((injected.injected != 0).then_some(injected.nr));
        let landings = self.plant(vectors, sregs.idt.base, sregs.cr3, regs.rip)?;
        let exit = self.step_as(class);
        for landing in landings.iter().rev() {
            let memory = self.kvm.memory();
            memory.patch(landing.place, landing.byte).map_err(unplantable)?;
        }
        match exit? {
            Exit::Halt if let Some(landing) = self.landed(&landings)? => {
                self.stand_at(landing, class)?;
                let is_over = class == Class::Interrupts;
                Ok(if is_over {
                    Step::Completed(1)
                } else {
                    Step::Delivered
                })
            }
            Exit::Debug => self.settle(class, sregs.cr3, regs.rip.wrapping_add(byte_count)),
            exit => Ok(Step::Exit(exit)),
        }
    }

    /// Steps an instruction of `class` such that the flag outlives it.
    fn step_as(&mut self, class: Class) -> Result<Exit, RunError> {
        match class {
            Class::Unknown => Err(cannot("no way is known to step across its next instruction")),
            Class::LeavesKernel => {
                let mut regs = self.vcpu.registers()?;
                regs.r11 |= TRAP_FLAG;
                self.vcpu.set_registers(&regs)?;
                Ok(self.vcpu.step()?)
            }
            Class::EntersKernel => {
                let mask = self.syscall_flag_mask()?;
                self.vcpu
                    .set_msrs(&[(SYSCALL_FLAG_MASK_MSR, mask & !TRAP_FLAG)])?;
                let exit = self.vcpu.step();
                self.vcpu.set_msrs(&[(SYSCALL_FLAG_MASK_MSR, mask)])?;
                Ok(exit?)
            }
            _ => Ok(self.vcpu.step()?),
        }
    }

    /// The handler whose planted HLT the guest has executed.
    fn landed(&mut self, landings: &[Landing]) -> Result<Option<Landing>, RunError> {
        let rip = self.vcpu.registers()?.rip;
        let landed = landings
            .iter()
            .find(|landing| landing.target.wrapping_add(1) == rip);
        Ok(landed.copied())
    }

    /// Puts the guest to the beginning of the handler where it has landed, and takes the flag out of what was pushed.
    fn stand_at(&mut self, landing: Landing, class: Class) -> Result<(), RunError> {
        let mut regs = self.vcpu.registers()?;
        regs.rip = landing.target;
        if class == Class::LeavesKernel {
            regs.r11 &= !TRAP_FLAG;
        }
        self.vcpu.set_registers(&regs)?;
        let cr3 = self.vcpu.system_registers()?.cr3;
        let error_code = u64::from(WITH_ERROR_CODE.contains(&landing.vector)) * 8;
        self.clear_pushed_flag(cr3, regs.rsp + error_code + 16, 8)
    }

    /// Takes the flag out of where a completed instruction of `class` has put it; `next` is behind it.
    fn settle(&mut self, class: Class, cr3: u64, next: u64) -> Result<Step, RunError> {
        let mut regs = self.vcpu.registers()?;
        match class {
            Class::PushesFlags(bytes) => self.clear_pushed_flag(cr3, regs.rsp, bytes)?,
            Class::EntersKernel | Class::LeavesKernel => {
                regs.r11 &= !TRAP_FLAG;
                self.vcpu.set_registers(&regs)?;
            }
            Class::LoadsStackSegment if regs.rip != next => return Ok(Step::Completed(2)),
            _ => {}
        }
        Ok(Step::Completed(1))
    }

    fn syscall_flag_mask(&self) -> Result<u64, RunError> {
        let msrs = self.vcpu.msrs()?;
        let mask = msrs
            .into_iter()
            .find(|(index, _)| *index == SYSCALL_FLAG_MASK_MSR);
        mask.map(|(_, mask)| mask)
            .ok_or_else(|| cannot("KVM does not tell what SYSCALL masks"))
    }

    /// Puts a HLT at the first byte of the handlers of `vectors`, but not where the guest stands.
    fn plant(
        &self,
        vectors: impl Iterator<Item = u8>,
        table: u64,
        cr3: u64,
        rip: u64,
    ) -> Result<Vec<Landing>, RunError> {
        let memory = self.kvm.memory();
        let mut landings: Vec<Landing> = Vec::new();
        for vector in vectors {
            let Some((target, place, byte)) = handler(memory, table, cr3, vector) else {
                continue;
            };
            if target == rip || landings.iter().any(|landing| landing.place == place) {
                continue;
            }
            memory.patch(place, HLT).map_err(unplantable)?;
            landings.push(Landing {
                vector,
                target,
                place,
                byte,
            });
        }
        Ok(landings)
    }

    fn clear_pushed_flag(&self, cr3: u64, address: u64, byte_count: u8) -> Result<(), RunError> {
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..usize::from(byte_count)];
        let memory = self.kvm.memory();
        let read = read_virtual(memory, cr3, address, bytes);
        if read == bytes.len() {
            // The flag is the lowest bit of the second byte.
            bytes[1] &= !1;
            if write_virtual(memory, cr3, address, bytes) {
                return Ok(());
            }
        }
        Err(cannot("its flags were pushed across a page"))
    }
}

/// Where the handler of `vector` begins: its virtual and physical address, and the byte there.
fn handler(memory: &GuestMemory, table: u64, cr3: u64, vector: u8) -> Option<(u64, GuestPhys, u8)> {
    let mut gate = [0; 16];
    let address = table.wrapping_add(u64::from(vector) * GATE_BYTES);
    if read_virtual(memory, cr3, address, &mut gate) < gate.len() || gate[5] & GATE_PRESENT == 0 {
        return None;
    }
    let target = gate_target(&gate);
    let place = translate(memory, cr3, target)?;
    let mut byte = [0];
    memory.read(place, &mut byte).ok()?;
    Some((target, place, byte[0]))
}

fn unplantable(outside: crate::base::guest_memory::OutsideRam) -> RunError {
    RunError::Host {
        what: "single-stepping the guest",
        source: std::io::Error::other(outside),
    }
}
