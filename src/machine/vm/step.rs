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
//! | a repeated string instruction | KVM's emulator goes through several repetitions | RCX tells how many |
//! | HLT | some KVMs tell of the step alone | it counts as the halt that it is |
//!
//! A guest that steps itself is not stepped: both would want the flag. Nor may it read the code of its handlers while an
//! instruction is stepped: it would find the HLT.

use kvm_bindings::{kvm_regs, kvm_sregs};

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

/// An instruction before it is executed.
#[derive(Debug)]
struct Instruction {
    class: Class,
    registers: kvm_regs,
    /// The address behind it.
    end: u64,
    cr3: u64,
    bitness: u32,
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
            return Err(cannot(
                "this KVM does not stop there, in the middle of a repetition or behind a load of SS",
            ));
        }
        Ok(Stepped::There)
    }

    fn step_once(&mut self) -> Result<Step, RunError> {
        if self.vcpu.complete_instruction()?
            && let Some(exit) = self.vcpu.take_next_exit()
        {
            return Ok(Step::Exit(exit));
        }
        let sregs = self.vcpu.system_registers()?;
        if sregs.efer & EFER_LONG_MODE_ACTIVE == 0 {
            return Err(cannot("it is not in long mode"));
        }
        let here = self.next_instruction(&sregs)?;
        self.ensure_flag_is_free(&here)?;
        let injected = self.vcpu.events()?.interrupt;
        let others = [
            (injected.injected != 0).then_some(injected.nr),
            match here.class {
                Class::Interrupts(vector) => Some(vector),
                _ => None,
            },
        ];
        let vectors = (0..EXCEPTION_VECTORS).chain(others.into_iter().flatten());
        let landings = self.plant(vectors, &sregs, here.registers.rip)?;
        let exit = self.step_as(here.class);
        for landing in landings.iter().rev() {
            let memory = self.kvm.memory();
            memory.patch(landing.place, landing.byte).map_err(unplantable)?;
        }
        match exit? {
            Exit::Halt | Exit::Debug if let Some(landing) = self.landed(&landings)? => {
                self.stand_at(landing, &here)
            }
            Exit::Debug if here.class == Class::Halts => Ok(Step::Exit(Exit::Halt)),
            Exit::Debug => self.settle(&here),
            exit => Ok(Step::Exit(exit)),
        }
    }

    /// The instruction that the guest stands at.
    fn next_instruction(&mut self, sregs: &kvm_sregs) -> Result<Instruction, RunError> {
        let registers = self.vcpu.registers()?;
        let bitness = if sregs.cs.l != 0 { 64 } else { 32 };
        let (class, byte_count) = self.class_at(registers.rip, sregs.cr3, bitness);
        Ok(Instruction {
            class,
            registers,
            end: registers.rip.wrapping_add(byte_count),
            cr3: sregs.cr3,
            bitness,
        })
    }

    fn class_at(&self, rip: u64, cr3: u64, bitness: u32) -> (Class, u64) {
        let mut code = [0; INSTRUCTION_BYTES_MAX];
        let length = read_virtual(self.kvm.memory(), cr3, rip, &mut code);
        classify(&code[..length], bitness)
    }

    /// Refuses an instruction by which the guest sets the flag itself.
    fn ensure_flag_is_free(&self, here: &Instruction) -> Result<(), RunError> {
        let registers = &here.registers;
        let is_popped = match here.class {
            Class::LeavesKernel => registers.r11 & TRAP_FLAG != 0,
            Class::PopsFlags(offset) => {
                let mut byte = [0];
                let address = registers.rsp.wrapping_add(offset.into());
                let found = read_virtual(self.kvm.memory(), here.cr3, address, &mut byte);
                found == byte.len() && byte[0] & TRAP_FLAG.to_le_bytes()[1] != 0
            }
            _ => false,
        };
        if is_popped || registers.rflags & TRAP_FLAG != 0 {
            return Err(cannot("it single-steps itself here"));
        }
        Ok(())
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
    fn stand_at(&mut self, landing: Landing, here: &Instruction) -> Result<Step, RunError> {
        let mut regs = self.vcpu.registers()?;
        regs.rip = landing.target;
        if here.class == Class::LeavesKernel {
            regs.r11 &= !TRAP_FLAG;
        }
        self.vcpu.set_registers(&regs)?;
        let error_code = u64::from(WITH_ERROR_CODE.contains(&landing.vector)) * 8;
        let frame = regs.rsp.wrapping_add(error_code);
        self.clear_pushed_flag(here.cr3, frame.wrapping_add(16), 8)?;
        let mut returns_to = [0; 8];
        if read_virtual(self.kvm.memory(), here.cr3, frame, &mut returns_to) < returns_to.len() {
            return Err(cannot("the frame of its handler cannot be read"));
        }
        // INT n is over when its handler begins; whatever else is delivered comes before the instruction.
        Ok(if u64::from_le_bytes(returns_to) == here.registers.rip {
            Step::Delivered
        } else {
            Step::Completed(1)
        })
    }

    /// Takes the flag out of where a completed instruction has put it.
    fn settle(&mut self, here: &Instruction) -> Result<Step, RunError> {
        let mut regs = self.vcpu.registers()?;
        match here.class {
            Class::PushesFlags(bytes) => self.clear_pushed_flag(here.cr3, regs.rsp, bytes)?,
            Class::EntersKernel | Class::LeavesKernel => {
                regs.r11 &= !TRAP_FLAG;
                self.vcpu.set_registers(&regs)?;
            }
            Class::Repeats => {
                // No KVM does 2^32 repetitions at once, and of a short counter the rest of RCX says nothing.
                let count = here.registers.rcx.wrapping_sub(regs.rcx) & u64::from(u32::MAX);
                // KVM's emulator ends the instruction in a pass of its own, in which nothing happens.
                let is_open = count > 0 && regs.rcx == 0 && regs.rip == here.registers.rip;
                if is_open && self.vcpu.step()? != Exit::Debug {
                    return Err(cannot("a repetition does not end"));
                }
                return Ok(Step::Completed(count.max(1)));
            }
            Class::LoadsStackSegment if regs.rip != here.end => {
                return match self.class_at(here.end, here.cr3, here.bitness) {
                    (Class::Plain, _) => Ok(Step::Completed(2)),
                    _ => Err(cannot("no way is known to step behind its load of SS")),
                };
            }
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
        sregs: &kvm_sregs,
        rip: u64,
    ) -> Result<Vec<Landing>, RunError> {
        let memory = self.kvm.memory();
        let mut landings: Vec<Landing> = Vec::new();
        for vector in vectors {
            let Some((target, place, byte)) = handler(memory, sregs, vector) else {
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
fn handler(memory: &GuestMemory, sregs: &kvm_sregs, vector: u8) -> Option<(u64, GuestPhys, u8)> {
    let mut gate = [0; 16];
    let offset = u64::from(vector) * GATE_BYTES;
    if offset + GATE_BYTES - 1 > u64::from(sregs.idt.limit) {
        return None;
    }
    let address = sregs.idt.base.wrapping_add(offset);
    if read_virtual(memory, sregs.cr3, address, &mut gate) < gate.len() || gate[5] & GATE_PRESENT == 0 {
        return None;
    }
    let target = gate_target(&gate);
    let place = translate(memory, sregs.cr3, target)?;
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
