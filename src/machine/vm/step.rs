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
//! | STI, a load of SS | some processors trap an instruction late | a HLT stands behind it for this step; the shadow that it ends is set again |
//! | a repeated string instruction | KVM's emulator goes through several repetitions | RCX tells how many |
//! | HLT | some KVMs tell of the step alone | it counts as the halt that it is |
//!
//! A guest that steps itself is not stepped: both would want the flag. Nor may it read the code of its handlers while an
//! instruction is stepped: it would find the HLT.

use kvm_bindings::{KVM_VCPUEVENT_VALID_SHADOW, kvm_regs, kvm_sregs};

use super::instruction::{Class, INSTRUCTION_BYTES_MAX, Shadow, classify};
use super::{RunError, Timeline, TimelineError, Vm};
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

/// As KVM names them (KVM_X86_SHADOW_INT_*).
const SHADOW_OF_MOV_SS: u8 = 1;
const SHADOW_OF_STI: u8 = 2;

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

/// An instruction before it is executed.
#[derive(Debug)]
struct Instruction {
    class: Class,
    registers: kvm_regs,
    /// The address behind it.
    end: u64,
    cr3: u64,
}

/// A byte that is a HLT now: a handler's first, or that behind an instruction (no vector).
#[derive(Debug, Clone, Copy)]
struct Landing {
    vector: Option<u8>,
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
    /// Steps on from where the guest stands, an interrupt perhaps injected, until `instructions` have completed: then there
    /// is no exit, and one before that is an error. Without a number, until the next counted exit.
    pub(super) fn step_on(
        &mut self,
        instructions: Option<u64>,
        timeline: &mut dyn Timeline,
    ) -> Result<Option<Exit>, RunError> {
        let mut completed = 0;
        while instructions.is_none_or(|wanted| completed < wanted) {
            match self.step_once()? {
                Step::Completed(count) => completed += count,
                Step::Delivered => {}
                Step::Exit(exit) => {
                    // A posted write that KVM did not post is no position.
                    self.take_posted_writes(timeline)?;
                    if self.take_unposted_write(&exit, timeline) {
                        completed += 1;
                    } else if instructions.is_none() {
                        return Ok(Some(exit));
                    } else {
                        return Err(self.beyond(completed));
                    }
                }
            }
        }
        self.vcpu.complete_instruction()?;
        if instructions.is_some_and(|wanted| completed > wanted) {
            return Err(cannot(
                "this KVM does not stop there, in the middle of a repetition",
            ));
        }
        Ok(None)
    }

    /// The next exit comes after so many instructions, before the one that was asked for.
    fn beyond(&self, instructions: u64) -> RunError {
        let exit = self.totals.exit_count.next();
        TimelineError::Beyond { exit, instructions }.into()
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
        let mut landings = self.plant(vectors, &sregs, here.registers.rip)?;
        // A program's HLT would be a fault; and only a kernel makes shadows, but for a rare load of SS.
        if matches!(here.class, Class::MakesShadow(_)) && sregs.cs.dpl == 0 {
            landings.extend(self.plant_at(here.end, sregs.cr3, None, &landings)?);
        }
        let exit = self.step_as(here.class);
        for landing in landings.iter().rev() {
            let memory = self.kvm.memory();
            memory.patch(landing.place, landing.byte).map_err(unplantable)?;
        }
        match exit? {
            Exit::Halt | Exit::Debug if let Some(landing) = self.landed(&landings)? => match landing.vector {
                Some(vector) => self.stand_at(landing.target, vector, &here),
                None => self.stand_behind(&here),
            },
            Exit::Debug if here.class == Class::Halts => Ok(Step::Exit(Exit::Halt)),
            Exit::Debug => self.settle(&here),
            exit => Ok(Step::Exit(exit)),
        }
    }

    /// The instruction that the guest stands at.
    fn next_instruction(&mut self, sregs: &kvm_sregs) -> Result<Instruction, RunError> {
        let registers = self.vcpu.registers()?;
        let bitness = if sregs.cs.l != 0 { 64 } else { 32 };
        let mut code = [0; INSTRUCTION_BYTES_MAX];
        let length = read_virtual(self.kvm.memory(), sregs.cr3, registers.rip, &mut code);
        let (class, byte_count) = classify(&code[..length], bitness);
        Ok(Instruction {
            class,
            registers,
            end: registers.rip.wrapping_add(byte_count),
            cr3: sregs.cr3,
        })
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
    fn stand_at(&mut self, handler: u64, vector: u8, here: &Instruction) -> Result<Step, RunError> {
        let mut regs = self.vcpu.registers()?;
        regs.rip = handler;
        if here.class == Class::LeavesKernel {
            regs.r11 &= !TRAP_FLAG;
        }
        self.vcpu.set_registers(&regs)?;
        let error_code = u64::from(WITH_ERROR_CODE.contains(&vector)) * 8;
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

    /// Puts the guest right behind an instruction that holds interrupts off, where it has met the HLT, which has ended that.
    fn stand_behind(&mut self, here: &Instruction) -> Result<Step, RunError> {
        let mut regs = self.vcpu.registers()?;
        regs.rip = here.end;
        self.vcpu.set_registers(&regs)?;
        let mut events = self.vcpu.events()?;
        events.flags |= KVM_VCPUEVENT_VALID_SHADOW;
        events.interrupt.shadow = match here.class {
            Class::MakesShadow(Shadow::Sti) => SHADOW_OF_STI,
            _ => SHADOW_OF_MOV_SS,
        };
        self.vcpu.set_events(&events)?;
        Ok(Step::Completed(1))
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
            Class::MakesShadow(_) if regs.rip != here.end => {
                return Err(cannot(
                    "this processor does not trap behind what holds interrupts off",
                ));
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
        let mut landings: Vec<Landing> = Vec::new();
        for vector in vectors {
            match handler(self.kvm.memory(), sregs, vector) {
                Some(target) if target != rip => {
                    landings.extend(self.plant_at(target, sregs.cr3, Some(vector), &landings)?);
                }
                _ => {}
            }
        }
        Ok(landings)
    }

    /// Puts a HLT at `target`, unless it is not mapped or there is one of `others`.
    fn plant_at(
        &self,
        target: u64,
        cr3: u64,
        vector: Option<u8>,
        others: &[Landing],
    ) -> Result<Option<Landing>, RunError> {
        let memory = self.kvm.memory();
        let Some(place) = translate(memory, cr3, target) else {
            return Ok(None);
        };
        let mut byte = [0];
        if others.iter().any(|landing| landing.place == place) || memory.read(place, &mut byte).is_err() {
            return Ok(None);
        }
        memory.patch(place, HLT).map_err(unplantable)?;
        Ok(Some(Landing {
            vector,
            target,
            place,
            byte: byte[0],
        }))
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

/// Where the handler of `vector` begins.
fn handler(memory: &GuestMemory, sregs: &kvm_sregs, vector: u8) -> Option<u64> {
    let mut gate = [0; 16];
    let offset = u64::from(vector) * GATE_BYTES;
    if offset + GATE_BYTES - 1 > u64::from(sregs.idt.limit) {
        return None;
    }
    let address = sregs.idt.base.wrapping_add(offset);
    let found = read_virtual(memory, sregs.cr3, address, &mut gate);
    (found == gate.len() && gate[5] & GATE_PRESENT != 0).then(|| gate_target(&gate))
}

fn unplantable(outside: crate::base::guest_memory::OutsideRam) -> RunError {
    RunError::Host {
        what: "single-stepping the guest",
        source: std::io::Error::other(outside),
    }
}
