//! What each exit of the guest means.

use super::{ExitTrace, RunError, Timeline, Vm};
use crate::devices::board::{Board, Moment};
use crate::devices::platform::{
    POSTED_WRITE_PORTS, POSTED_WRITE_REGISTER, TRAP_CR4_PORTS, TRAP_GENERAL_PROTECTION_PORT, TRAP_RDTSC_PORT,
};
use crate::machine::cpu::{self, MsrAnswer};
use crate::machine::kvm::{Exit, KvmError, PortAccess, PostedWrite, WritePlace};
use crate::machine::outcome::Outcome;

const GENERAL_PROTECTION_VECTOR: u8 = 13;

fn is_posted_port(port: u16) -> bool {
    POSTED_WRITE_PORTS.iter().any(|ports| ports.contains(&port))
}

fn is_posted_register(address: u64) -> bool {
    (POSTED_WRITE_REGISTER..POSTED_WRITE_REGISTER + 8).contains(&address)
}

impl Vm {
    /// Hands over the writes that KVM collected before the present exit.
    pub(super) fn take_posted_writes(&mut self, timeline: &mut dyn Timeline) -> Result<(), RunError> {
        while let Some(write) = self.vcpu.next_posted_write()? {
            self.post(write, timeline);
        }
        Ok(())
    }

    pub(super) fn post(&mut self, write: PostedWrite, timeline: &mut dyn Timeline) {
        timeline.posted(&write);
        self.totals.posted_writes += 1;
        self.posted.push(write);
        let moment = Moment {
            now: self.now,
            memory: self.kvm.memory(),
        };
        match write.place {
            WritePlace::Port(port) => self.board.port_write(port, write.data(), moment),
            WritePlace::Memory(address) => {
                let has_device = self.board.mmio_write(address, write.data(), moment);
                debug_assert!(has_device, "only a device's register is posted");
            }
        }
    }

    /// Takes `exit` as a posted write if it is one that KVM did not post: it posts none, or its ring was full.
    pub(super) fn take_unposted_write(&mut self, exit: &Exit, timeline: &mut dyn Timeline) -> bool {
        let (place, size) = match exit {
            Exit::PortWrite(access) if is_posted_port(access.port) => {
                (WritePlace::Port(access.port), usize::from(access.size))
            }
            Exit::MmioWrite { address } if is_posted_register(*address) => (WritePlace::Memory(*address), 8),
            _ => return false,
        };
        let data = match place {
            WritePlace::Port(_) => self.vcpu.port_data().to_vec(),
            WritePlace::Memory(_) => self.vcpu.mmio_data().to_vec(),
        };
        for write in data
            .chunks(size)
            .filter_map(|element| PostedWrite::new(place, element))
        {
            self.post(write, timeline);
        }
        true
    }

    /// Tells the timeline of the exit.
    pub(super) fn trace(&mut self, exit: &Exit, timeline: &mut dyn Timeline) -> Result<(), RunError> {
        let registers = self.vcpu.registers()?;
        let ordinal = self.totals.exit_count;
        let written = match exit {
            Exit::PortWrite(_) => &*self.vcpu.port_data(),
            Exit::MmioWrite { .. } => &*self.vcpu.mmio_data(),
            _ => &[],
        };
        timeline.exited(&ExitTrace {
            ordinal,
            exit,
            written,
            registers: &registers,
        })?;
        Ok(())
    }

    /// Reads the clock for the exit being handled.
    fn read_time(&mut self, timeline: &mut dyn Timeline) -> Result<(), RunError> {
        let now = timeline.read_time(self.standing())?;
        self.show_time(now);
        Ok(())
    }

    pub(super) fn handle(
        &mut self,
        exit: Exit,
        timeline: &mut dyn Timeline,
    ) -> Result<Option<Outcome>, RunError> {
        match exit {
            Exit::PortRead(access) => self.port_read(access, timeline)?,
            Exit::PortWrite(access) => self.port_write(access, timeline)?,
            Exit::Rdmsr { index } => {
                self.read_time(timeline)?;
                let answer = cpu::answer_read(index, self.now);
                self.answer_msr(answer);
            }
            Exit::Wrmsr { index, value } => {
                let answer = cpu::answer_write(index, value, self.now);
                self.answer_msr(answer);
            }
            Exit::Halt if !self.vcpu.interrupts_enabled() => return Ok(Some(Outcome::DeadHalt)),
            Exit::Halt => self.is_halted = true,
            Exit::IrqWindow | Exit::SetTpr | Exit::Debug | Exit::Preempted | Exit::Interrupted => {}
            Exit::MmioRead { address } => {
                return Ok(Some(Outcome::WildMmio {
                    address,
                    is_write: false,
                }));
            }
            Exit::MmioWrite { address } => return self.mmio_write(address),
            Exit::Shutdown => return Ok(Some(Outcome::TripleFault)),
            Exit::Refused(reason) => return Ok(Some(Outcome::Refused(reason))),
        }
        Ok(None)
    }

    /// A memory write where there is no RAM: a device's register, or the end of the VM.
    ///
    /// The clock is not read: the guest has derived what it writes from the time it can see, and a later time would
    /// put a deadline that lies ahead of it into the past.
    fn mmio_write(&mut self, address: u64) -> Result<Option<Outcome>, RunError> {
        let moment = Moment {
            now: self.now,
            memory: self.kvm.memory(),
        };
        if !self.board.mmio_write(address, self.vcpu.mmio_data(), moment) {
            return Ok(Some(Outcome::WildMmio {
                address,
                is_write: true,
            }));
        }
        self.show_hpet()?;
        Ok(None)
    }

    fn answer_msr(&mut self, answer: MsrAnswer) {
        self.vcpu.answer_msr(match answer {
            MsrAnswer::Value(value) => Some(value),
            MsrAnswer::Fault => None,
        });
    }

    fn port_read(&mut self, access: PortAccess, timeline: &mut dyn Timeline) -> Result<(), RunError> {
        // A string instruction is not the edited kernel's, and has no EDX:EAX to answer in.
        if access.port == TRAP_RDTSC_PORT && access.size == 4 && access.count == 1 {
            return self.answer_rdtsc(timeline);
        }
        if Board::needs_time(access.port) {
            self.read_time(timeline)?;
        }
        let moment = Moment {
            now: self.now,
            memory: self.kvm.memory(),
        };
        for element in self.vcpu.port_data().chunks_exact_mut(usize::from(access.size)) {
            self.board.port_read(access.port, element, moment);
        }
        Ok(())
    }

    fn port_write(&mut self, access: PortAccess, timeline: &mut dyn Timeline) -> Result<(), RunError> {
        if access.port == TRAP_GENERAL_PROTECTION_PORT && self.is_kernel_mode()? {
            self.read_time(timeline)?;
            self.user_tsc
                .general_protection(&mut self.vcpu, self.kvm.memory(), self.now)?;
            return Ok(());
        }
        if TRAP_CR4_PORTS.contains(&access.port) && self.is_kernel_mode()? {
            return self.write_cr4(access.port - TRAP_CR4_PORTS.start());
        }
        if Board::needs_time(access.port) {
            self.read_time(timeline)?;
        }
        let moment = Moment {
            now: self.now,
            memory: self.kvm.memory(),
        };
        for element in self.vcpu.port_data().chunks_exact(usize::from(access.size)) {
            self.board.port_write(access.port, element, moment);
        }
        Ok(())
    }

    /// Whether the guest runs at privilege level 0: a program with I/O privilege gets no trap port.
    pub(super) fn is_kernel_mode(&self) -> Result<bool, KvmError> {
        Ok(self.vcpu.system_registers()?.ss.dpl == 0)
    }

    /// EDX goes back through the registers, EAX as the port's data; and through the registers too, because where KVM
    /// completes the port read by its emulator, setting registers makes it forget the data.
    fn answer_rdtsc(&mut self, timeline: &mut dyn Timeline) -> Result<(), RunError> {
        // The kernel reads the counter at every hard interrupt, so the final IDT is found long before the first
        // program runs, without a look at the system registers at every exit.
        if !self.user_tsc.is_armed() {
            self.user_tsc.try_arm(&self.vcpu, self.kvm.memory())?;
        }
        self.read_time(timeline)?;
        self.totals.kernel_rdtsc += 1;
        let ticks = self.now.ticks_at(cpu::TSC_HERTZ);
        let mut regs = self.vcpu.registers()?;
        regs.rax = ticks & 0xFFFF_FFFF;
        regs.rdx = ticks >> 32;
        self.vcpu.set_registers(&regs)?;
        self.vcpu.port_data().copy_from_slice(&ticks.to_le_bytes()[..4]);
        Ok(())
    }

    fn write_cr4(&mut self, register: u16) -> Result<(), RunError> {
        let regs = self.vcpu.registers()?;
        let general = [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9,
            regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ];
        let value = general.get(usize::from(register)).copied().unwrap_or_default();
        if !self.user_tsc.write_cr4(&self.vcpu, value)? {
            self.inject_general_protection_at(regs.rip)?;
        }
        Ok(())
    }

    /// Makes the instruction at `rip`, whose exit is being handled, fault.
    fn inject_general_protection_at(&mut self, rip: u64) -> Result<(), KvmError> {
        self.vcpu.complete_instruction()?;
        let mut regs = self.vcpu.registers()?;
        regs.rip = rip;
        self.vcpu.set_registers(&regs)?;
        let mut events = self.vcpu.events()?;
        events.exception.injected = 1;
        events.exception.nr = GENERAL_PROTECTION_VECTOR;
        events.exception.has_error_code = 1;
        events.exception.error_code = 0;
        self.vcpu.set_events(&events)
    }
}
