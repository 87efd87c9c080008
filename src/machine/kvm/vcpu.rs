//! One vCPU: run it, answer its exits, inject its interrupts, read and write its registers.
//!
//! General registers travel through `kvm_run` (KVM_CAP_SYNC_REGS) where the host offers it: no ioctl per exit.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use kvm_bindings::{
    CpuId, kvm_debugregs, kvm_guest_debug, kvm_interrupt, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xsave,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use nix::libc::{EAGAIN, EINTR};

use super::kick::Attachment;
use super::visible::{without_host_notes, without_leftovers};
use super::{Exit, Kicker, KvmError, PortAccess, PostedWrite, WritePlace};
use crate::base::guest_memory::{GuestMemory, RegisterPage};

nix::ioctl_write_ptr!(
    /// `KVM_INTERRUPT` (0x4004ae86): `kvm-ioctls` has no wrapper for it.
    kvm_interrupt_ioctl,
    0xAE,
    0x86,
    kvm_interrupt
);

/// RAM and the register page.
type Mappings = (Rc<GuestMemory>, Option<Rc<RegisterPage>>);

/// A vCPU.
#[derive(Debug)]
pub struct Vcpu {
    /// Before `fd` because fields are dropped in this order: a kick that comes when `kvm_run` is unmapped already must
    /// not find its address.
    attachment: Attachment,
    pub(super) fd: VcpuFd,
    has_sync_regs: bool,
    posts_writes: bool,
    /// What the last run said about interrupts no longer holds: its exit left an instruction open, which KVM completes
    /// at the start of the next run, or state was set.
    pub(super) is_unsettled: Cell<bool>,
    /// General registers were set that KVM takes at the next run only.
    has_set_registers: bool,
    /// An exit that came of completing an instruction: the next run returns it.
    next_exit: Option<Exit>,
    /// Keeps what the guest sees mapped for as long as the vCPU can run.
    _mappings: Mappings,
}

impl Vcpu {
    pub(super) fn new(mut fd: VcpuFd, has_sync_regs: bool, mappings: Mappings) -> Result<Self, KvmError> {
        if has_sync_regs {
            fd.set_sync_valid_reg(SyncReg::Register);
        }
        let attachment =
            Attachment::new(&raw mut fd.get_kvm_run().immediate_exit).map_err(|source| KvmError::Ioctl {
                call: "installing the kick signal",
                source,
            })?;
        Ok(Self {
            attachment,
            fd,
            has_sync_regs,
            posts_writes: false,
            is_unsettled: Cell::new(false),
            has_set_registers: false,
            next_exit: None,
            _mappings: mappings,
        })
    }

    /// How the creating thread, which is the one to run this vCPU, is interrupted and waits.
    #[must_use]
    pub fn kicker(&self) -> &Kicker {
        self.attachment.kicker()
    }

    /// Sets the CPUID table.
    ///
    /// # Errors
    /// When KVM refuses it.
    pub fn set_cpuid(&self, table: &CpuId) -> Result<(), KvmError> {
        self.fd
            .set_cpuid2(table)
            .map_err(KvmError::ioctl("KVM_SET_CPUID2"))
    }

    /// Runs the guest until something must be handled.
    ///
    /// # Errors
    /// When KVM_RUN fails for another reason than a signal.
    pub fn run(&mut self) -> Result<Exit, KvmError> {
        if let Some(exit) = self.next_exit.take() {
            return Ok(exit);
        }
        let exit = self.run_to_exit()?;
        self.is_unsettled.set(matches!(
            exit,
            Exit::PortRead(_)
                | Exit::PortWrite(_)
                | Exit::MmioRead { .. }
                | Exit::MmioWrite { .. }
                | Exit::Rdmsr { .. }
                | Exit::Wrmsr { .. }
        ));
        Ok(exit)
    }

    fn run_to_exit(&mut self) -> Result<Exit, KvmError> {
        self.has_set_registers = false;
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) if error.errno() == EINTR || error.errno() == EAGAIN => {
                self.fd.set_kvm_immediate_exit(0);
                return Ok(Exit::Interrupted);
            }
            Err(error) => return Err(KvmError::ioctl("KVM_RUN")(error)),
        };
        Ok(match exit {
            VcpuExit::IoIn(..) => Exit::PortRead(self.port_access()),
            VcpuExit::IoOut(..) => Exit::PortWrite(self.port_access()),
            VcpuExit::MmioRead(address, _) => Exit::MmioRead { address },
            VcpuExit::MmioWrite(address, _) => Exit::MmioWrite { address },
            VcpuExit::Hlt => Exit::Halt,
            VcpuExit::IrqWindowOpen => Exit::IrqWindow,
            VcpuExit::X86Rdmsr(read) => Exit::Rdmsr { index: read.index },
            VcpuExit::X86Wrmsr(write) => Exit::Wrmsr {
                index: write.index,
                value: write.data,
            },
            VcpuExit::SetTpr => Exit::SetTpr,
            VcpuExit::Debug(_) => Exit::Debug,
            VcpuExit::Shutdown => Exit::Shutdown,
            VcpuExit::Intr => Exit::Interrupted,
            VcpuExit::InternalError => Exit::Refused(self.describe_internal_error()),
            VcpuExit::FailEntry(reason, cpu) => Exit::Refused(format!(
                "KVM could not enter the guest (hardware reason {reason:#x} on CPU {cpu})"
            )),
            other => Exit::Refused(format!("KVM exit outside the closed list: {other:?}")),
        })
    }

    /// Completes the instruction of the last exit without running the guest further. From here on
    /// [`Self::ready_for_interrupt`] knows what the completion did (an MSR access answered by a fault leaves an
    /// exception to be delivered first) and what was set since. If the instruction is not over, because the next
    /// element of a string instruction exits in its turn, the next run returns that exit.
    ///
    /// False if nothing was open. A kick that comes meanwhile may be swallowed.
    ///
    /// # Errors
    /// When KVM_RUN fails.
    pub fn complete_instruction(&mut self) -> Result<bool, KvmError> {
        if !self.is_unsettled.get() || self.next_exit.is_some() {
            return Ok(false);
        }
        self.fd.set_kvm_immediate_exit(1);
        let exit = self.run();
        self.fd.set_kvm_immediate_exit(0);
        self.next_exit = Some(exit?).filter(|exit| *exit != Exit::Interrupted);
        Ok(true)
    }

    /// The exit that [`Self::complete_instruction`] came upon, if it did: the next run would return it.
    pub fn take_next_exit(&mut self) -> Option<Exit> {
        self.next_exit.take()
    }

    /// Executes one instruction. [`Exit::Debug`] if it caused no exit of its own; kicks are passed over.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn step(&mut self) -> Result<Exit, KvmError> {
        let mut debug = kvm_guest_debug {
            control: kvm_bindings::KVM_GUESTDBG_ENABLE | kvm_bindings::KVM_GUESTDBG_SINGLESTEP,
            ..kvm_guest_debug::default()
        };
        self.set_guest_debug(&debug)?;
        let exit = loop {
            match self.run()? {
                Exit::Interrupted => {}
                exit => break exit,
            }
        };
        debug.control = 0;
        self.set_guest_debug(&debug)?;
        Ok(exit)
    }

    pub(super) fn map_posted_writes(&mut self) -> Result<(), KvmError> {
        self.fd
            .map_coalesced_mmio_ring()
            .map_err(KvmError::ioctl("mmap of the coalesced-write ring"))?;
        self.posts_writes = true;
        Ok(())
    }

    /// Takes the oldest write that KVM collected. Take all of them before anything else of an exit is handled:
    /// they precede it.
    ///
    /// # Errors
    /// When KVM's ring holds what no write can be.
    pub fn next_posted_write(&mut self) -> Result<Option<PostedWrite>, KvmError> {
        if !self.posts_writes {
            return Ok(None);
        }
        let call = "reading the coalesced-write ring";
        let Some(entry) = self.fd.coalesced_mmio_read().map_err(KvmError::ioctl(call))? else {
            return Ok(None);
        };
        // SAFETY: both fields of the union are the same plain integer.
        let is_port = unsafe { entry.__bindgen_anon_1.pio } == 1;
        let place = if is_port {
            u16::try_from(entry.phys_addr).ok().map(WritePlace::Port)
        } else {
            Some(WritePlace::Memory(entry.phys_addr))
        };
        let impossible = || KvmError::Ioctl {
            call,
            source: std::io::Error::other("an entry is no write"),
        };
        place
            .zip(entry.data.get(..entry.len as usize))
            .and_then(|(place, data)| PostedWrite::new(place, data))
            .ok_or_else(impossible)
            .map(Some)
    }

    fn describe_internal_error(&mut self) -> String {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, so `internal` is the field KVM filled; all its
        // fields are plain integers.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let kind = match internal.suberror {
            1 => "cannot emulate an instruction",
            2 => "unexpected simultaneous exceptions",
            3 => "an exit while delivering an event",
            4 => "an exit reason of the hardware that it does not know",
            _ => "an unnamed internal error",
        };
        let rip = self.registers().map_or(0, |regs| regs.rip);
        format!(
            "KVM internal error {}: {kind}, at guest RIP {rip:#x}",
            internal.suberror
        )
    }

    fn port_access(&mut self) -> PortAccess {
        let run = self.fd.get_kvm_run();
        // SAFETY: called only right after an exit with KVM_EXIT_IO, so `io` is the field KVM filled.
        let io = unsafe { run.__bindgen_anon_1.io };
        PortAccess {
            port: io.port,
            size: io.size,
            count: io.count,
        }
    }

    /// The bytes of the present port access. Call it only while handling a port exit.
    pub fn port_data(&mut self) -> &mut [u8] {
        let run = self.fd.get_kvm_run();
        // SAFETY: the union field holds plain integers, valid in any state.
        let io = unsafe { run.__bindgen_anon_1.io };
        let length = usize::from(io.size) * io.count as usize;
        let offset = usize::try_from(io.data_offset).unwrap_or(0);
        let mapping = (&raw mut *run).cast::<u8>();
        // SAFETY: KVM places the data inside the mapping that `kvm_run` heads (API documentation, KVM_EXIT_IO).
        let data = unsafe { mapping.add(offset) };
        // SAFETY: as above for `length` bytes; the borrow of `self` keeps others off the mapping.
        unsafe { std::slice::from_raw_parts_mut(data, length) }
    }

    /// The bytes of the present memory access outside RAM: written ones, or the place for those to be read. Call it
    /// only while handling such an exit.
    pub fn mmio_data(&mut self) -> &mut [u8] {
        let run = self.fd.get_kvm_run();
        // SAFETY: called only right after an exit with KVM_EXIT_MMIO, so `mmio` is the field KVM filled and will read.
        let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
        let length = usize::try_from(mmio.len).unwrap_or(0).min(mmio.data.len());
        &mut mmio.data[..length]
    }

    /// Answers an MSR access: `Some(value)` for a read (ignored for a write), `None` for `#GP`.
    pub fn answer_msr(&mut self, answer: Option<u64>) {
        let run = self.fd.get_kvm_run();
        // SAFETY: called only while handling an MSR exit, so `msr` is the field KVM filled and will read.
        let msr = unsafe { &mut run.__bindgen_anon_1.msr };
        msr.error = u8::from(answer.is_none());
        msr.data = answer.unwrap_or(0);
    }

    /// Whether [`Self::inject_interrupt`] may be called. False while an instruction is open
    /// ([`Self::complete_instruction`]): were it to fault, KVM would deliver the fault and forget the interrupt.
    pub fn ready_for_interrupt(&mut self) -> bool {
        if self.is_unsettled.get() || self.next_exit.is_some() {
            return false;
        }
        let run = self.fd.get_kvm_run();
        run.ready_for_interrupt_injection != 0 && run.if_flag != 0
    }

    /// Whether the guest's interrupt flag was set when the last run ended.
    pub fn interrupts_enabled(&mut self) -> bool {
        self.fd.get_kvm_run().if_flag != 0
    }

    /// Asks for an exit as soon as the guest can take an interrupt, or withdraws the wish.
    pub fn request_interrupt_window(&mut self, wanted: bool) {
        self.fd.get_kvm_run().request_interrupt_window = u8::from(wanted);
    }

    /// Queues external interrupt `vector`. At most once between two runs: KVM's queue has one place.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn inject_interrupt(&mut self, vector: u8) -> Result<(), KvmError> {
        let interrupt = kvm_interrupt {
            irq: u32::from(vector),
        };
        // SAFETY: the descriptor is a vCPU's, the pointer is to a live `kvm_interrupt`, which KVM only reads.
        unsafe { kvm_interrupt_ioctl(self.fd.as_raw_fd(), &raw const interrupt) }.map_err(|errno| {
            KvmError::Ioctl {
                call: "KVM_INTERRUPT",
                source: errno.into(),
            }
        })?;
        Ok(())
    }

    /// The general registers.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn registers(&mut self) -> Result<kvm_regs, KvmError> {
        if self.has_sync_regs {
            return Ok(self.fd.sync_regs_mut().regs);
        }
        self.fd.get_regs().map_err(KvmError::ioctl("KVM_GET_REGS"))
    }

    /// Sets the general registers.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn set_registers(&mut self, registers: &kvm_regs) -> Result<(), KvmError> {
        self.is_unsettled.set(true);
        if self.has_sync_regs {
            self.fd.sync_regs_mut().regs = *registers;
            self.fd.set_sync_dirty_reg(SyncReg::Register);
            self.has_set_registers = true;
            return Ok(());
        }
        self.fd
            .set_regs(registers)
            .map_err(KvmError::ioctl("KVM_SET_REGS"))
    }

    /// The system registers.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn system_registers(&self) -> Result<kvm_sregs, KvmError> {
        self.fd.get_sregs().map_err(KvmError::ioctl("KVM_GET_SREGS"))
    }

    /// Sets the system registers.
    ///
    /// # Errors
    /// When KVM refuses, as it does for values that the processor would not take.
    pub fn set_system_registers(&self, registers: &kvm_sregs) -> Result<(), KvmError> {
        self.is_unsettled.set(true);
        self.fd
            .set_sregs(registers)
            .map_err(KvmError::ioctl("KVM_SET_SREGS"))
    }

    /// Sets CR8 as the next run will find it: KVM takes it from `kvm_run` then.
    pub(super) fn set_task_priority(&mut self, cr8: u64) {
        self.fd.get_kvm_run().cr8 = cr8;
    }

    /// Sets the floating-point and vector registers.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn set_extended_state(&mut self, words: &[u32]) -> Result<(), KvmError> {
        let mut state = kvm_xsave::default();
        for (to, from) in state.region.iter_mut().zip(words) {
            *to = *from;
        }
        self.is_unsettled.set(true);
        // SAFETY: no feature with state beyond these 4096 bytes was ever enabled for this process, so KVM reads no more.
        unsafe { self.fd.set_xsave(&state) }.map_err(KvmError::ioctl("KVM_SET_XSAVE"))
    }

    /// The floating-point and vector registers, in the layout of XSAVE, without what depends on the host.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn extended_state(&self) -> Result<Vec<u32>, KvmError> {
        let state = self.fd.get_xsave().map_err(KvmError::ioctl("KVM_GET_XSAVE"))?;
        Ok(without_host_notes(&state.region))
    }

    /// Pending exceptions and interrupts.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn events(&self) -> Result<kvm_vcpu_events, KvmError> {
        let events = self.fd.get_vcpu_events();
        events
            .map(without_leftovers)
            .map_err(KvmError::ioctl("KVM_GET_VCPU_EVENTS"))
    }

    /// Sets pending exceptions and interrupts.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn set_events(&self, events: &kvm_vcpu_events) -> Result<(), KvmError> {
        self.is_unsettled.set(true);
        self.fd
            .set_vcpu_events(events)
            .map_err(KvmError::ioctl("KVM_SET_VCPU_EVENTS"))
    }

    /// The debug registers.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn debug_registers(&self) -> Result<kvm_debugregs, KvmError> {
        self.fd
            .get_debug_regs()
            .map_err(KvmError::ioctl("KVM_GET_DEBUGREGS"))
    }

    /// Sets the debug registers.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn set_debug_registers(&self, registers: &kvm_debugregs) -> Result<(), KvmError> {
        self.fd
            .set_debug_regs(registers)
            .map_err(KvmError::ioctl("KVM_SET_DEBUGREGS"))
    }

    /// Sets what makes the guest stop for a debugger: single steps, breakpoints.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn set_guest_debug(&mut self, debug: &kvm_guest_debug) -> Result<(), KvmError> {
        // KVM notes the RIP to step from in this call, so registers that were set must have arrived. None are set without
        // need: within a read that KVM's emulator completes, that makes it forget what was read.
        if std::mem::take(&mut self.has_set_registers) {
            let registers = self.fd.sync_regs_mut().regs;
            self.fd
                .set_regs(&registers)
                .map_err(KvmError::ioctl("KVM_SET_REGS"))?;
            self.fd.clear_sync_dirty_reg(SyncReg::Register);
        }
        self.fd
            .set_guest_debug(debug)
            .map_err(KvmError::ioctl("KVM_SET_GUEST_DEBUG"))
    }
}
