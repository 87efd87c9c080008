//! A running VM: the vCPU thread's loop.
//!
//! ```text
//!        ┌──────────────────────────────────────────────────────────────┐
//!        ▼                                                              │
//!   take what arrived ─▶ expire timers ─▶ carry out effects ─▶ ended? ──┼─▶ Outcome
//!                                              │                        │
//!                       halted, no interrupt ◀─┤                        │
//!                         (park till work)     ▼                        │
//!                                        inject or ask for a window     │
//!                                              │                        │
//!                                           KVM_RUN ─▶ exit ─▶ devices ─┘
//! ```
//!
//! All devices and all of guest memory are touched on this thread, between two runs of the vCPU, and nowhere else
//! (E1). Virtual time is sampled only where an exit needs it: at ports whose device depends on time, at RDTSC, and
//! when a timer may be due; all other exits see the last sample.
//!
//! An unprotected VM takes events where they arrive: a kick interrupts the guest anywhere. Nothing is recorded, so
//! no position needs a name.

mod effects;
mod exits;

use std::time::Duration;

use super::boot::EntryPoint;
use super::cpu::{self};
use super::entry::set_entry_state;
use super::kvm::{Exit, ExitKind, KickTimer, KvmError, KvmHost, KvmVm, Vcpu};
use super::outcome::Outcome;
use super::user_tsc::{UserTsc, UserTscError};
use super::workers::{Console, DiskWorkers, HostEntropy, Inbox, Network};
use crate::base::clock::{SystemClock, VirtualClock};
use crate::base::guest_memory::{GuestMemory, RegisterPage};
use crate::base::units::{ExitOrdinal, GuestPhys, VirtualTime};
use crate::devices::board::{Board, Moment};
use crate::devices::platform::{HPET_MMIO, POSTED_WRITE_PORTS, POSTED_WRITE_REGISTER};
use crate::devices::virtio_net::Offloads;

/// The span between two timer expiries of a guest that computes, in exits. Linux makes about eight exits an expiry
/// (its interrupt, acknowledgement, entropy and next deadline), so ticks take a fifth of its time at most. Where an
/// exit is so dear that this exceeds the tick's period, the guest gets fewer ticks and goes by its clock, as it does
/// after an idle spell; without the guard it would do nothing but tick.
const TIMER_GUARD_EXITS: u32 = 40;
/// Bounds of the span between two timer expiries of a guest that computes. The lower one guards against a guest that
/// programs its timer faster than a host can kick, the upper one keeps a slow host's guest in time.
const TIMER_GUARD_MIN: Duration = Duration::from_micros(20);
const TIMER_GUARD_MAX: Duration = Duration::from_millis(8);

/// The host failed the VM.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// User-mode RDTSC cannot be trapped in this kernel.
    #[error(transparent)]
    UserTsc(#[from] UserTscError),
    /// Another host resource failed.
    #[error("{what}: {source}")]
    Host {
        /// What was done.
        what: &'static str,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
}

/// What carries a VM's effects to the outside.
#[derive(Debug)]
pub(super) struct Outside {
    /// The console.
    pub console: Console,
    /// The disk's workers, if the VM has a disk.
    pub disk: Option<DiskWorkers>,
    /// The network, if the VM has one.
    pub network: Option<Network>,
    /// Random bytes for the guest.
    pub entropy: HostEntropy,
}

/// Totals of a run.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Counted exits by kind.
    pub exits: [u64; ExitKind::ALL.len()],
    /// All counted exits.
    pub exit_count: ExitOrdinal,
    /// Writes that were collected without an exit.
    pub posted_writes: u64,
    /// Interrupts injected.
    pub interrupts: u64,
    /// Times the vCPU was kicked out of the guest.
    pub kicks: u64,
    /// Kernel-mode RDTSC answered.
    pub kernel_rdtsc: u64,
    /// User-mode RDTSC answered.
    pub user_rdtsc: u64,
    /// Virtual time at the end.
    pub virtual_time: VirtualTime,
}

impl Totals {
    /// Exits of each kind that occurred.
    pub fn exits_by_kind(&self) -> impl Iterator<Item = (ExitKind, u64)> {
        ExitKind::ALL
            .into_iter()
            .zip(self.exits)
            .filter(|(_, count)| *count > 0)
    }
}

/// A VM on its vCPU thread.
#[derive(Debug)]
pub(super) struct Vm {
    vcpu: Vcpu,
    kvm: KvmVm,
    board: Board,
    clock: VirtualClock<SystemClock>,
    now: VirtualTime,
    timer: KickTimer,
    timer_armed_for: Option<VirtualTime>,
    timer_guard: Duration,
    /// Until when a guest that has not halted since the last timer expiry is left alone.
    guarded_until: VirtualTime,
    user_tsc: UserTsc,
    is_halted: bool,
    window_just_opened: bool,
    console_room: usize,
    console_bytes: Vec<u8>,
    receive_offloads: Offloads,
    totals: Totals,
}

impl Vm {
    /// Creates the VM on the calling thread, which becomes its vCPU thread. `memory` holds the loaded
    /// kernel, whose user-return `IRETQ` is at guest virtual address `kernel_iretq`; an exit costs `exit_cost` here.
    ///
    /// # Errors
    /// When the host's KVM refuses.
    pub(super) fn create(
        kvm: &KvmHost,
        memory: GuestMemory,
        board: Board,
        kernel_iretq: u64,
        entry: &EntryPoint,
        exit_cost: Duration,
    ) -> Result<Self, RunError> {
        let mut kvm = kvm.create_vm(memory, false)?;
        kvm.post_writes(&POSTED_WRITE_PORTS, POSTED_WRITE_REGISTER)?;
        kvm.deny_msrs_except(cpu::PASSED_RANGES)?;
        let page = RegisterPage::at(GuestPhys(*HPET_MMIO.start())).map_err(|source| RunError::Host {
            what: "reserving the clock's page",
            source,
        })?;
        kvm.show_page(page)?;
        let mut vcpu = kvm.create_vcpu()?;
        vcpu.set_cpuid(&cpu::deterministic_table())?;
        set_entry_state(&mut vcpu, entry)?;
        let timer = KickTimer::for_this_thread().map_err(|source| RunError::Host {
            what: "creating the vCPU's timer",
            source,
        })?;
        let console_room = board.console_input_room();
        let vm = Self {
            vcpu,
            kvm,
            board,
            clock: VirtualClock::starting_now(SystemClock),
            now: VirtualTime::ZERO,
            timer,
            timer_armed_for: None,
            timer_guard: (exit_cost * TIMER_GUARD_EXITS).clamp(TIMER_GUARD_MIN, TIMER_GUARD_MAX),
            guarded_until: VirtualTime::ZERO,
            user_tsc: UserTsc::searching(kernel_iretq),
            is_halted: false,
            window_just_opened: false,
            console_room,
            console_bytes: Vec::new(),
            receive_offloads: Offloads::default(),
            totals: Totals::default(),
        };
        vm.show_hpet()?;
        Ok(vm)
    }

    /// The way for other threads to reach this VM.
    #[must_use]
    pub(super) fn inbox(&self) -> Inbox {
        Inbox::new(self.vcpu.kicker().waker())
    }

    /// Runs the VM to its end.
    ///
    /// # Errors
    /// When the host fails it.
    pub(super) fn run(mut self, inbox: &Inbox, mut outside: Outside) -> Result<(Outcome, Totals), RunError> {
        let outcome = loop {
            if self.vcpu.kicker().take_work()
                && let Some(outcome) = self.take_events(inbox, &outside)
            {
                break outcome;
            }
            if let Some(outcome) = self.carry_out_effects(&mut outside)? {
                break outcome;
            }
            if self.is_halted && !self.board.interrupt_pending() {
                self.wait_for_work(&outside)?;
                continue;
            }
            if let Some(outcome) = self.run_once()? {
                // Effects of the last exit (console bytes, a final write) still go out.
                self.carry_out_effects(&mut outside)?;
                break outcome;
            }
        };
        outside.console.show(&std::mem::take(&mut self.console_bytes));
        self.totals.user_rdtsc = self.user_tsc.answered();
        self.totals.virtual_time = self.now;
        Ok((outcome, self.totals))
    }

    /// When the next timer shall expire: when it is due, but not before the guest has had time for the last one.
    fn next_expiry(&self) -> Option<VirtualTime> {
        self.board
            .next_deadline()
            .map(|deadline| deadline.max(self.guarded_until))
    }

    /// Reads the clock, shows the guest the time, and lets due timers expire.
    fn sample_time(&mut self) {
        self.now = self.clock.sample();
        if self.next_expiry().is_some_and(|deadline| deadline <= self.now) {
            self.board.advance(Moment {
                now: self.now,
                memory: self.kvm.memory(),
            });
            self.guarded_until = self.now + self.timer_guard;
        }
        let (address, counter) = self.board.hpet().main_counter(self.now);
        if let Some(page) = self.kvm.page() {
            // The page was made for this register; only another page would refuse it.
            let shown = page.show(address, counter);
            debug_assert_eq!(shown, Ok(()));
        }
    }

    /// Shows the guest all registers of its clock.
    fn show_hpet(&self) -> Result<(), RunError> {
        let Some(page) = self.kvm.page() else {
            return Ok(());
        };
        for (address, value) in self.board.hpet().registers(self.now) {
            page.show(address, value).map_err(|outside| RunError::Host {
                what: "showing the clock",
                source: std::io::Error::other(outside),
            })?;
        }
        Ok(())
    }

    fn wait_for_work(&mut self, outside: &Outside) -> Result<(), RunError> {
        if !self.console_bytes.is_empty() {
            outside.console.show(&std::mem::take(&mut self.console_bytes));
        }
        // It has halted, so it has done all that the last expiry gave it to do.
        self.guarded_until = VirtualTime::ZERO;
        let limit = self
            .next_expiry()
            .map(|deadline| self.clock.host_span_until(deadline));
        if limit.is_none_or(|limit| limit > Duration::ZERO) {
            self.disarm_timer()?;
            self.vcpu.kicker().park(limit);
        }
        self.sample_time();
        Ok(())
    }

    /// Enters the guest once and handles the exit.
    fn run_once(&mut self) -> Result<Option<Outcome>, RunError> {
        if self.board.interrupt_pending() {
            // KVM can say whether the guest takes an interrupt only when no instruction is open.
            if self.vcpu.complete_instruction()? {
                // The timer's kick may have been swallowed.
                self.sample_time();
            }
        }
        self.arm_timer()?;
        if !self.vcpu.kicker().enter_guest() {
            return Ok(None);
        }
        let exit = self.enter();
        self.vcpu.kicker().leave_guest();
        let exit = exit?;
        tracing::trace!(?exit, rip = format_args!("{:#x}", self.vcpu.registers()?.rip));
        self.take_posted_writes()?;
        if let Some(kind) = exit.counted() {
            self.window_just_opened = kind == ExitKind::IrqWindow;
            self.totals.exit_count = self.totals.exit_count.next();
            self.totals.exits[kind as usize] += 1;
        }
        self.handle(exit)
    }

    fn enter(&mut self) -> Result<Exit, KvmError> {
        let pending = self.board.interrupt_pending();
        let inject = pending && self.vcpu.ready_for_interrupt();
        if inject {
            let vector = self.board.acknowledge_interrupt();
            self.vcpu.inject_interrupt(vector)?;
            self.totals.interrupts += 1;
        }
        // Entering the guest ends its halt, with an interrupt or without one.
        self.is_halted = false;
        // After one injection another line may be waiting: it needs a window of its own. And a line that is masked or
        // behind one in service may be freed by a posted write: a look at the next window tells. One look an exit, or
        // a line that stays masked would keep the guest from running.
        let another = if inject {
            self.board.interrupt_pending()
        } else {
            pending
        };
        let look = !self.window_just_opened && self.board.may_become_pending();
        self.vcpu.request_interrupt_window(another || look);
        self.vcpu.run()
    }

    /// Arms the host timer for the next deadline, unless it fires before that anyway.
    fn arm_timer(&mut self) -> Result<(), RunError> {
        let Some(deadline) = self.next_expiry() else {
            return Ok(());
        };
        // One that has fired without being noticed counts as none.
        if self
            .timer_armed_for
            .is_none_or(|armed| deadline < armed || armed <= self.now)
        {
            let span = self.clock.host_span_until(deadline);
            self.timer.arm(span).map_err(|source| RunError::Host {
                what: "arming the vCPU's timer",
                source,
            })?;
            self.timer_armed_for = Some(deadline);
        }
        Ok(())
    }

    /// A guest that sleeps needs no kick, and the signal of one would cost more than this call.
    fn disarm_timer(&mut self) -> Result<(), RunError> {
        if self.timer_armed_for.take().is_some() {
            self.timer.disarm().map_err(|source| RunError::Host {
                what: "disarming the vCPU's timer",
                source,
            })?;
        }
        Ok(())
    }
}
