//! Probe guests: what this host's KVM really does.

use std::time::Duration;

use iced_x86::code_asm::{al, dx, eax, ecx, qword_ptr, r8, rax, rbx, rcx, rdx, xmmword_ptr};
use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP,
    kvm_guest_debug, kvm_guest_debug_arch,
};

use super::Finding;
use super::tiny_guest::{CODE, DATA, TinyGuest, TinyGuestError};
use crate::base::clock::HostClock;
use crate::base::units::PAGE_BYTES;
use crate::machine::cpu;
use crate::machine::kvm::{Exit, KickTimer, KvmError, KvmHost};

/// How long each speed probe runs.
const SPEED_PROBE_SPAN: Duration = Duration::from_millis(100);
/// Instructions of one round of the speed loop.
const LOOP_INSTRUCTIONS: u64 = 2;
/// DR7: enable local breakpoint 0, on execution.
const DR7_EXECUTE_0: u64 = 0b1;

/// What the probe guests showed.
#[derive(Debug, Clone)]
pub struct KvmFindings {
    /// CPUID features of the guest's table that the host lacks.
    pub missing_features: Vec<&'static str>,
    /// Instructions per second in kernel mode.
    pub kernel_instructions_per_second: u64,
    /// Exits per second of a guest that does nothing but write a port.
    pub port_exits_per_second: u64,
    /// `LOCK CMPXCHG16B` in ring 0, which Linux's slab allocator uses.
    pub cmpxchg16b: Finding,
    /// A denied MSR comes back as an exit and can be answered.
    pub msr_filter: Finding,
    /// An interrupt window opens and an interrupt can be queued.
    pub interrupt_window: Finding,
    /// Single-stepping is exact.
    pub single_step: Finding,
    /// A hardware breakpoint fires.
    pub hardware_breakpoint: Finding,
    /// A software breakpoint fires.
    pub software_breakpoint: Finding,
    /// The dirty log shows a page the guest wrote, and only such.
    pub dirty_log: Finding,
}

/// Runs every probe guest.
///
/// # Errors
/// When `/dev/kvm` is missing or a VM cannot even be created; a probe that fails is a finding, not an error.
pub fn probe_kvm(clock: &impl HostClock) -> Result<KvmFindings, KvmError> {
    let host = KvmHost::open()?;
    nops(1).map(drop).or_else(|error| match error {
        TinyGuestError::Kvm(error) => Err(error),
        TinyGuestError::SetUp(_) => Ok(()),
    })?;
    Ok(KvmFindings {
        missing_features: cpu::missing_on_host(&host.supported_cpuid()?),
        kernel_instructions_per_second: kernel_instructions_per_second(clock).unwrap_or(0),
        port_exits_per_second: probe_exit_cost(clock).map_or(0, exits_per_second),
        cmpxchg16b: probe_cmpxchg16b(),
        msr_filter: Finding::from_result(msr_filter()),
        interrupt_window: Finding::from_result(interrupt_window()),
        single_step: Finding::from_result(single_step()),
        hardware_breakpoint: Finding::from_result(hardware_breakpoint()),
        software_breakpoint: Finding::from_result(software_breakpoint()),
        dirty_log: Finding::from_result(dirty_log()),
    })
}

fn unexpected(exit: &Exit) -> Finding {
    Finding::Fails(format!("unexpected end of the probe guest: {exit:?}"))
}

fn halts(exit: &Exit) -> Finding {
    if *exit == Exit::Halt {
        Finding::Works
    } else {
        unexpected(exit)
    }
}

fn kernel_instructions_per_second(clock: &impl HostClock) -> Result<u64, TinyGuestError> {
    let mut guest = TinyGuest::new(|a| {
        a.xor(rcx, rcx)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(rcx)?;
        a.jmp(again)
    })?;
    let mut timer = KickTimer::for_this_thread().map_err(|error| TinyGuestError::SetUp(error.to_string()))?;
    timer
        .arm(SPEED_PROBE_SPAN)
        .map_err(|error| TinyGuestError::SetUp(error.to_string()))?;
    let start_ns = clock.monotonic_ns();
    while guest.vcpu.run()? != Exit::Interrupted {}
    let elapsed_us = (clock.monotonic_ns() - start_ns) / 1000;
    let rounds = guest.vcpu.registers()?.rcx;
    Ok(rounds * LOOP_INSTRUCTIONS * 1_000_000 / elapsed_us.max(1))
}

/// Mean time of an exit to us and back, of a guest that does nothing else.
///
/// # Errors
/// When the probe guest cannot be made or run.
pub fn probe_exit_cost(clock: &impl HostClock) -> Result<Duration, TinyGuestError> {
    const WARM_UP: u64 = 8;
    const MEASURED: u64 = 64;
    let mut guest = port_writer()?;
    for _ in 0..WARM_UP {
        guest.run()?;
    }
    let start_ns = clock.monotonic_ns();
    for _ in 0..MEASURED {
        guest.run()?;
    }
    Ok(Duration::from_nanos((clock.monotonic_ns() - start_ns) / MEASURED))
}

fn exits_per_second(cost: Duration) -> u64 {
    let nanos = cost.as_nanos().max(1);
    u64::try_from(Duration::from_secs(1).as_nanos() / nanos).unwrap_or(u64::MAX)
}

/// A guest that writes a port for ever.
fn port_writer() -> Result<TinyGuest, TinyGuestError> {
    TinyGuest::new(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.out(0x80_i32, al)?;
        a.jmp(again)
    })
}

/// Whether kernel-mode `LOCK CMPXCHG16B` works: the quickest sign of a software KVM.
#[must_use]
pub fn probe_cmpxchg16b() -> Finding {
    Finding::from_result(cmpxchg16b())
}

fn cmpxchg16b() -> Result<Finding, TinyGuestError> {
    let mut guest = TinyGuest::new(|a| {
        a.mov(r8, DATA)?;
        a.xor(eax, eax)?;
        a.xor(rdx, rdx)?;
        a.mov(rbx, 5_i64)?;
        a.mov(rcx, 7_i64)?;
        a.lock().cmpxchg16b(xmmword_ptr(r8))?;
        a.hlt()
    })?;
    Ok(halts(&guest.run()?))
}

fn msr_filter() -> Result<Finding, TinyGuestError> {
    const PATCH_LEVEL: u32 = 0x8B;
    const MARK: u64 = 0x1234_5678;
    let mut guest = TinyGuest::new(|a| {
        a.mov(ecx, PATCH_LEVEL)?;
        a.rdmsr()?;
        a.hlt()
    })?;
    let exit = guest.run()?;
    if exit != (Exit::Rdmsr { index: PATCH_LEVEL }) {
        return Ok(unexpected(&exit));
    }
    guest.vcpu.answer_msr(Some(MARK));
    let exit = guest.run()?;
    let answer = guest.vcpu.registers()?.rax;
    Ok(if answer == MARK {
        halts(&exit)
    } else {
        Finding::Fails(format!("the guest read {answer:#x}"))
    })
}

fn interrupt_window() -> Result<Finding, TinyGuestError> {
    let mut guest = TinyGuest::new(|a| {
        a.out(0x80_i32, al)?;
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.hlt()
    })?;
    let exit = guest.run()?;
    if !matches!(exit, Exit::PortWrite(_)) {
        return Ok(unexpected(&exit));
    }
    guest.vcpu.request_interrupt_window(true);
    let exit = guest.run()?;
    Ok(if exit == Exit::IrqWindow && guest.vcpu.ready_for_interrupt() {
        Finding::Works
    } else {
        unexpected(&exit)
    })
}

fn debug(control: u32, arch: kvm_guest_debug_arch) -> kvm_guest_debug {
    kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | control,
        arch,
        ..kvm_guest_debug::default()
    }
}

/// A guest of `count` one-byte instructions and a halt.
fn nops(count: usize) -> Result<TinyGuest, TinyGuestError> {
    TinyGuest::new(|a| {
        for _ in 0..count {
            a.nop()?;
        }
        a.hlt()
    })
}

fn single_step() -> Result<Finding, TinyGuestError> {
    const STEPS: u64 = 5;
    let mut guest = nops(8)?;
    guest
        .vcpu
        .set_guest_debug(&debug(KVM_GUESTDBG_SINGLESTEP, kvm_guest_debug_arch::default()))?;
    for step in 1..=STEPS {
        let exit = guest.run()?;
        let rip = guest.vcpu.registers()?.rip;
        if exit != Exit::Debug || rip != CODE + step {
            return Ok(Finding::Fails(format!(
                "step {step} ended with {exit:?} at {rip:#x}, not {:#x}",
                CODE + step
            )));
        }
    }
    Ok(Finding::Works)
}

fn stops_at(guest: &mut TinyGuest, address: u64) -> Result<Finding, TinyGuestError> {
    let exit = guest.run()?;
    let rip = guest.vcpu.registers()?.rip;
    Ok(match exit {
        Exit::Debug if rip == address => Finding::Works,
        Exit::Halt => Finding::Fails("it did not fire".into()),
        other => Finding::Fails(format!("{other:?} at {rip:#x}, not a stop at {address:#x}")),
    })
}

fn hardware_breakpoint() -> Result<Finding, TinyGuestError> {
    let mut guest = nops(8)?;
    let mut arch = kvm_guest_debug_arch::default();
    arch.debugreg[0] = CODE + 3;
    arch.debugreg[7] = DR7_EXECUTE_0;
    guest.vcpu.set_guest_debug(&debug(KVM_GUESTDBG_USE_HW_BP, arch))?;
    stops_at(&mut guest, CODE + 3)
}

fn software_breakpoint() -> Result<Finding, TinyGuestError> {
    let mut guest = TinyGuest::new(|a| {
        a.nop()?;
        a.int3()?;
        a.hlt()
    })?;
    guest
        .vcpu
        .set_guest_debug(&debug(KVM_GUESTDBG_USE_SW_BP, kvm_guest_debug_arch::default()))?;
    stops_at(&mut guest, CODE + 1)
}

fn dirty_log() -> Result<Finding, TinyGuestError> {
    let mut guest = TinyGuest::new(|a| {
        a.mov(rax, DATA)?;
        a.mov(dx, 1_i32)?;
        a.mov(qword_ptr(rax), rdx)?;
        a.hlt()
    })?;
    guest.vm.forget_written_pages()?;
    let exit = guest.run()?;
    if exit != Exit::Halt {
        return Ok(unexpected(&exit));
    }
    let written = guest.vm.written_pages()?;
    let is_dirty = |address: u64| written.contains(&address);
    Ok(match (is_dirty(DATA), is_dirty(DATA + PAGE_BYTES)) {
        (true, false) => Finding::Works,
        (false, _) => Finding::Fails("a page the guest wrote is not in the log".into()),
        (true, true) => Finding::Fails("a page the guest did not write is in the log".into()),
    })
}
