//! A running VM: the vCPU thread's loop.
//!
//! ```text
//!   ┌──▶ carry out effects ─▶ ended? ──────────────────────────────────────────────▶ Outcome
//!   │            │
//!   │    next arrival of the timeline ──one──▶ devices ──┐
//!   │            │ none                                  │
//!   │    halted, no interrupt ──▶ sleep ─────────────────┤
//!   │            │                                       │
//!   │    inject, or ask for a window                     │
//!   │            │                                       │
//!   │         KVM_RUN ──counted exit n──▶ devices ───────┤
//!   │            ├─ posted write ─▶ devices ─┐           │
//!   │            └─ kick ────────────────────┴─▶ go on   │
//!   └────────────────────────────────────────────────────┘
//! ```
//!
//! All devices and all of guest memory are touched on this thread, between two runs of the vCPU, and nowhere else
//! (E1). What is no function of the guest's state comes from the [`Timeline`] alone.
//!
//! # Positions and injection points
//!
//! Everything enters at a counted exit, after that exit was handled, one arrival at a time; then, and only then, an
//! interrupt is injected or a window asked for (E6). The next counted exit is therefore a function of the state at this
//! one and of what entered here, whatever the host does meanwhile:
//!
//! - A *kick* or any other host noise (EINTR, EAGAIN) leads straight back into the guest, with the wish for a window as
//!   it was. Only a timeline that needs no positions lets arrivals in there ([`Kick::Arrival`]). A guest that computes
//!   while something waits is *pre-empted* after a while ([`Kick::Preempt`], H1): what it did since the last exit is
//!   captured as its result, and the point counts as the next exit.
//! - A *posted write* is applied to its device when it is seen, at the latest before the next counted exit is handled;
//!   no interrupt enters before. Where KVM posts nothing, or its ring is full, the write is an exit that is not counted,
//!   so how many fit the ring and how often noise empties it does not matter.
//! - A *window exit* inside the shadow of STI or MOV SS, where KVM sometimes opens it one instruction early, is moved out
//!   of it by a single step ([`shadow`]).
//! - The instruction of an exit is complete before an interrupt is injected ([`Vcpu::complete_instruction`]), so that
//!   KVM's answer whether the guest takes one is about the same instruction everywhere.
//!
//! What would break it: reading the host's clock or an inbox elsewhere; asking for a window after a kick; a device that
//! acts between exits; an exit reason that KVM sometimes handles itself.

mod copy;
mod effects;
mod epoch;
mod exits;
mod history;
mod instruction;
mod live;
mod preempt;
mod ram_digest;
mod repair;
mod saved;
mod shadow;
mod shown_clock;
mod step;
mod timeline;

use serde::{Deserialize, Serialize};

use super::boot::EntryPoint;
use super::cpu;
use super::entry::set_entry_state;
use super::kvm::{Exit, ExitKind, Kicker, KvmError, KvmHost, KvmVm, PostedWrite, Vcpu};
use super::outcome::Outcome;
use super::user_tsc::{UserTsc, UserTscError};
use super::workers::{Console, DiskWorkers, Network};
use crate::base::guest_memory::{GuestMemory, RegisterPage};
use crate::base::units::{ExitOrdinal, GuestPhys, VirtualTime};
use crate::devices::board::{Board, Moment};
use crate::devices::platform::{HPET_MMIO, POSTED_WRITE_PORTS, POSTED_WRITE_REGISTER};
use crate::devices::virtio_net::Offloads;
use crate::devices::{Frame, Input};
pub use copy::{CopiedPage, Filling, RamCopy};
pub use epoch::{Differing, EpochDigests, WHOLE_VCPU};
use history::History;
pub use live::Live;
pub use ram_digest::{RamDigest, RamSums};
pub use repair::{Capture, CodeAround, NoCapture, Touched};
pub use saved::RestoreError;
pub use timeline::{
    Arrival, ExitTrace, Kick, Output, Release, Rest, Resumption, Standing, Timeline, TimelineError, Turn,
};

/// The host failed the VM.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// User-mode RDTSC cannot be trapped in this kernel.
    #[error(transparent)]
    UserTsc(#[from] UserTscError),
    /// The timeline cannot go on.
    #[error(transparent)]
    Timeline(#[from] TimelineError),
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

/// What left the guest and may not leave the VM yet (P1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeldOutput {
    /// A frame.
    Frame(Frame),
    /// Console bytes.
    Console(Vec<u8>),
}

/// Takes what leaves the guest, on the vCPU's thread. It must not wait.
pub trait OutputKeeper: std::fmt::Debug {
    /// Takes `output`, which the guest has put out at `position`, to let it out when `release` says so.
    fn keep(&mut self, position: ExitOrdinal, release: Release, output: HeldOutput);

    /// The other copy has put out a frame of this digest at `position`, and this one leaves that out (H2).
    fn left_out(&mut self, position: ExitOrdinal, digest: u64);
}

/// What carries a VM's effects to the outside.
#[derive(Debug)]
pub(super) struct Outside {
    /// Takes all that leaves, of a VM that has a second copy or may get one.
    pub keeper: Option<Box<dyn OutputKeeper>>,
    /// The console.
    pub console: Console,
    /// The disk's workers, if the VM has a disk.
    pub disk: Option<DiskWorkers>,
    /// The network, if the VM has one.
    pub network: Option<Network>,
}

impl Outside {
    /// Lets `output`, made at `position`, go its way.
    fn put_out(&mut self, position: ExitOrdinal, release: Release, output: HeldOutput) {
        match (&mut self.keeper, output, &self.network) {
            (Some(keeper), output, _) => keeper.keep(position, release, output),
            (None, _, _) if release == Release::Never => {}
            (None, HeldOutput::Frame(frame), Some(network)) => network.transmit([frame]),
            (None, HeldOutput::Frame(_), None) => {}
            (None, HeldOutput::Console(bytes), _) => self.console.show(&bytes),
        }
    }
}

/// Totals of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// The time that the guest was last shown.
    now: VirtualTime,
    user_tsc: UserTsc,
    is_halted: bool,
    is_between_exits: bool,
    /// The guest has not run since its last counted exit.
    is_at_exit: bool,
    window_just_opened: bool,
    awaits_window: bool,
    /// What the guest wrote since the last counted exit without another one.
    posted: Vec<PostedWrite>,
    console_room: usize,
    console_bytes: Vec<u8>,
    receive_offloads: Offloads,
    ram_digest: RamDigest,
    history: History,
    /// Of all that was written to the disk ([`epoch::roll_disk_writes`]).
    disk_writes: u64,
    totals: Totals,
}

impl Vm {
    /// Creates the VM on the calling thread, which becomes its vCPU thread. `memory` holds the loaded
    /// kernel, whose user-return `IRETQ` is at guest virtual address `kernel_iretq`.
    ///
    /// With `logs_written_pages`, it can be pre-empted.
    ///
    /// # Errors
    /// When the host's KVM refuses.
    pub(super) fn create(
        kvm: &KvmHost,
        memory: GuestMemory,
        board: Board,
        kernel_iretq: u64,
        logs_written_pages: bool,
    ) -> Result<Self, RunError> {
        let mut kvm = kvm.create_vm(memory, logs_written_pages)?;
        kvm.post_writes(&POSTED_WRITE_PORTS, POSTED_WRITE_REGISTER)?;
        kvm.deny_msrs_except(cpu::PASSED_RANGES)?;
        let page = RegisterPage::at(GuestPhys(*HPET_MMIO.start())).map_err(|source| RunError::Host {
            what: "reserving the clock's page",
            source,
        })?;
        kvm.show_page(page)?;
        let vcpu = kvm.create_vcpu()?;
        vcpu.set_cpuid(&cpu::deterministic_table())?;
        let console_room = board.console_input_room();
        let vm = Self {
            vcpu,
            kvm,
            board,
            now: VirtualTime::ZERO,
            user_tsc: UserTsc::searching(kernel_iretq),
            is_halted: false,
            is_between_exits: false,
            is_at_exit: true,
            window_just_opened: false,
            awaits_window: false,
            posted: Vec::new(),
            console_room,
            console_bytes: Vec::new(),
            receive_offloads: Offloads::default(),
            ram_digest: RamDigest::default(),
            history: History::default(),
            disk_writes: 0,
            totals: Totals::default(),
        };
        vm.show_hpet()?;
        Ok(vm)
    }

    /// Lets the guest begin as `entry` says.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(super) fn enter_at(&mut self, entry: &EntryPoint) -> Result<(), KvmError> {
        set_entry_state(&mut self.vcpu, entry)
    }

    /// The time that the guest was last shown.
    #[must_use]
    pub(super) fn now(&self) -> VirtualTime {
        self.now
    }

    /// Typed bytes that the console may send at once.
    #[must_use]
    pub(super) fn console_room(&self) -> usize {
        self.console_room
    }

    /// How this VM's thread is interrupted and waits.
    #[must_use]
    pub(super) fn kicker(&self) -> Kicker {
        self.vcpu.kicker().clone()
    }

    /// The guest's RAM.
    #[must_use]
    pub(super) fn memory(&self) -> &GuestMemory {
        self.kvm.memory()
    }

    /// The vCPU, while the guest stands still.
    #[must_use]
    pub(super) fn vcpu(&mut self) -> &mut Vcpu {
        &mut self.vcpu
    }

    /// Totals so far.
    #[must_use]
    pub(super) fn totals(&self) -> Totals {
        Totals {
            user_rdtsc: self.user_tsc.answered(),
            virtual_time: self.now,
            ..self.totals.clone()
        }
    }

    /// Runs the VM to its end.
    ///
    /// # Errors
    /// When the host fails it or the timeline cannot go on.
    pub(super) fn run(
        &mut self,
        timeline: &mut dyn Timeline,
        outside: &mut Outside,
    ) -> Result<Outcome, RunError> {
        let ended = loop {
            match self.go_on(timeline, outside) {
                Ok(None) => {}
                // What it would still show belongs to what comes after.
                Ok(Some(Outcome::Held)) => return Ok(Outcome::Held),
                Ok(Some(outcome)) => {
                    // Effects of the last exit (console bytes, a final write) still go out.
                    break self.carry_out_effects(timeline, outside).map(|_| outcome);
                }
                Err(error) => break Err(error),
            }
        };
        let shown = self.show_console(timeline, outside);
        match ended.and_then(|outcome| shown.map(|()| outcome)) {
            // What it would still do or show waits for a log that nobody waits for any more.
            Err(RunError::Timeline(TimelineError::Stopped)) => Ok(Outcome::Stopped),
            ended => ended,
        }
    }

    /// One step of the loop.
    fn go_on(
        &mut self,
        timeline: &mut dyn Timeline,
        outside: &mut Outside,
    ) -> Result<Option<Outcome>, RunError> {
        if self.is_between_exits {
            return self.run_once(timeline);
        }
        if let Some(outcome) = self.carry_out_effects(timeline, outside)? {
            return Ok(Some(outcome));
        }
        if self.is_halted {
            // Before anything is asked for: what goes out at this exit must not depend on what comes in, or when.
            self.show_console(timeline, outside)?;
        }
        if let Some(arrival) = timeline.next_arrival(self.standing())? {
            return Ok(self.take_in(arrival, outside));
        }
        if self.board.interrupt_pending() {
            // KVM can say whether the guest takes an interrupt only when no instruction is open. And what a kick
            // would have told may have come meanwhile.
            if self.vcpu.complete_instruction()? {
                return Ok(None);
            }
        } else if self.is_halted {
            return Ok(match timeline.sleep(self.standing())? {
                Rest::Over => None,
                Rest::Hold => Some(Outcome::Held),
            });
        }
        self.run_once(timeline)
    }

    fn standing(&self) -> Standing {
        Standing {
            exit: self.totals.exit_count,
            now: self.now,
            deadline: self.board.next_deadline(),
            is_between_exits: self.is_between_exits,
            awaits_window: self.awaits_window,
            is_at_exit: self.is_at_exit,
        }
    }

    fn take_in(&mut self, arrival: Arrival, outside: &Outside) -> Option<Outcome> {
        match arrival {
            Arrival::Stop => return Some(Outcome::Stopped),
            Arrival::Expiry(now) => {
                self.show_time(now);
                let moment = Moment {
                    now: self.now,
                    memory: self.kvm.memory(),
                };
                self.board.advance(moment);
            }
            Arrival::Device(input) => {
                if let (Input::Frame(_), Some(network)) = (&input, &outside.network) {
                    network.frames_taken(1);
                }
                let moment = Moment {
                    now: self.now,
                    memory: self.kvm.memory(),
                };
                self.board.deliver([input], moment);
            }
        }
        None
    }

    /// Enters the guest once and handles the exit.
    fn run_once(&mut self, timeline: &mut dyn Timeline) -> Result<Option<Outcome>, RunError> {
        let turn = timeline.enter_guest(self.standing())?;
        match turn {
            Turn::Wait => return Ok(None),
            Turn::Hold => {
                timeline.leave_guest();
                return Ok(Some(Outcome::Held));
            }
            Turn::Run | Turn::Become(_) | Turn::Step(_) => {}
        }
        if !self.is_between_exits {
            self.prepare_entry()?;
        }
        self.is_at_exit = false;
        let exit = match turn {
            Turn::Become(resumption) => self.become_resumed(&resumption, timeline),
            Turn::Step(instructions) => match self.step_on(instructions, timeline) {
                Ok(None) => {
                    timeline.leave_guest();
                    return Ok(Some(Outcome::Held));
                }
                Ok(Some(exit)) => Ok(exit),
                Err(error) => Err(error),
            },
            Turn::Run | Turn::Wait | Turn::Hold => self.vcpu.run().map_err(RunError::from),
        };
        timeline.leave_guest();
        let exit = shadow::leave(&mut self.vcpu, self.kvm.memory(), exit?)?;
        tracing::trace!(?exit, rip = format_args!("{:#x}", self.vcpu.registers()?.rip));
        self.take_posted_writes(timeline)?;
        if self.take_unposted_write(&exit, timeline) {
            self.is_between_exits = true;
            return Ok(self.judge_posted_writes());
        }
        let exit = match exit {
            Exit::Interrupted => match self.take_kick(timeline)? {
                Some(exit) => exit,
                None => return Ok(None),
            },
            exit => exit,
        };
        if let Some(kind) = exit.counted() {
            self.is_between_exits = false;
            self.is_at_exit = true;
            self.forget_posted_writes()?;
            self.window_just_opened = kind == ExitKind::IrqWindow;
            self.totals.exit_count = self.totals.exit_count.next();
            self.totals.exits[kind as usize] += 1;
            self.trace(&exit, timeline)?;
            if timeline.begins_epoch(self.standing())? {
                self.close_epoch(timeline)?;
            }
        }
        self.handle(exit, timeline)
    }

    /// Injects an interrupt or asks for a window, as the state at the last counted exit wants it (E6).
    fn prepare_entry(&mut self) -> Result<(), KvmError> {
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
        self.awaits_window = another || look;
        self.vcpu.request_interrupt_window(self.awaits_window);
        Ok(())
    }
}
