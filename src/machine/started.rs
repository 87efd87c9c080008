//! A VM with its workers, on the calling thread.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::boot::{EntryPoint, RewriteReport};
use super::config::ConsoleMode;
use super::kvm::{Kicker, KvmHost, Vcpu};
use super::launch::{LaunchError, RunReport, host};
use super::vm::{
    Capture, CodeAround, EpochDigests, HeldOutput, Live, NoCapture, OutputKeeper, Outside, RamCopy,
    RamDigest, RunError, Timeline, Totals, Touched, Vm,
};
use super::workers::{
    Console, DiskFile, DiskHandle, DiskWorkers, Event, HostEntropy, Inbox, Network, Shower, Tap,
    TerminalGuard, Transmitter,
};
use crate::base::clock::{HostClock, SystemClock, process_cpu_time};
use crate::base::guest_memory::GuestMemory;
use crate::base::parts::Parts;
use crate::base::units::ExitOrdinal;
use crate::devices::board::Board;
use crate::devices::pci::PciDevices;
use crate::devices::virtio_blk::Unanswered;
use crate::devices::virtio_rng::VirtioRng;
use crate::devices::{DiskRequestId, Input};

/// A VM on the calling thread, before its first instruction or after its last.
#[derive(Debug)]
pub struct StartedVm {
    vm: Vm,
    outside: Outside,
    inbox: Inbox,
    tap_later: Option<Arc<Tap>>,
    rewritten: RewriteReport,
    /// Puts the terminal back when the VM is gone.
    _terminal: Option<TerminalGuard>,
}

/// Where kept outputs leave, from any thread.
#[derive(Debug, Clone)]
pub struct Exits {
    network: Option<Transmitter>,
    console: Shower,
}

impl Exits {
    /// Lets `output` out. A frame of a VM that has no network is lost, as on a cable that is not plugged in.
    pub fn let_out(&self, output: HeldOutput) {
        match (output, &self.network) {
            (HeldOutput::Frame(frame), Some(network)) => network.transmit([frame]),
            (HeldOutput::Frame(_), None) => {}
            (HeldOutput::Console(bytes), _) => self.console.show(&bytes),
        }
    }
}

/// What a VM begins as. Its RAM is filled already.
#[derive(Debug)]
pub enum Beginning<'a> {
    /// At its first instruction.
    Boot(&'a EntryPoint),
    /// As it was saved by [`StartedVm::save`].
    Saved(Parts),
}

/// What a VM's effects reach.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) console: ConsoleMode,
    pub(super) disk: Option<DiskFile>,
    pub(super) tap: Option<Tap>,
    pub(super) tap_later: Option<Tap>,
}

impl StartedVm {
    /// A VM that runs bare code of ours in `memory`, with no disk, network or console: for tests of the machine itself.
    ///
    /// # Errors
    /// When the host refuses a resource, or what was saved is not of such a VM.
    pub fn bare(kvm: &KvmHost, memory: GuestMemory, beginning: Beginning<'_>) -> Result<Self, LaunchError> {
        let devices = PciDevices {
            disk: None,
            network: None,
            entropy: VirtioRng::new(),
        };
        let vm = Vm::create(kvm, memory, Board::new(0, devices), 0, true)?;
        let nothing = Attached {
            console: ConsoleMode::Off,
            disk: None,
            tap: None,
            tap_later: None,
        };
        Self::begin(vm, beginning, nothing, RewriteReport::default())
    }

    pub(super) fn begin(
        mut vm: Vm,
        beginning: Beginning<'_>,
        outside: Attached,
        rewritten: RewriteReport,
    ) -> Result<Self, LaunchError> {
        match beginning {
            Beginning::Boot(entry) => vm.enter_at(entry).map_err(RunError::from)?,
            Beginning::Saved(parts) => vm.restore(parts)?,
        }
        let unanswered = vm.unanswered();
        let tap_later = outside.tap_later;
        let inbox = Inbox::new(vm.kicker().waker());
        let terminal = match outside.console {
            ConsoleMode::Interactive => {
                Some(host("switching the terminal to raw mode", TerminalGuard::raw())?)
            }
            ConsoleMode::OutputOnly | ConsoleMode::Off => None,
        };
        let start_disk = |disk: DiskFile| {
            let disk = disk.into_service()?;
            host("starting the disk's workers", DiskWorkers::start(disk, &inbox))
        };
        let start_network = |tap| host("starting the network", Network::start(Arc::new(tap), &inbox));
        let outside = Outside {
            keeper: None,
            console: host(
                "starting the console",
                start_console(outside.console, &inbox, vm.console_room()),
            )?,
            disk: outside.disk.map(start_disk).transpose()?,
            network: outside.tap.map(start_network).transpose()?,
        };
        let vm = Self {
            vm,
            outside,
            inbox,
            tap_later: tap_later.map(Arc::new),
            rewritten,
            _terminal: terminal,
        };
        vm.go_on_with(unanswered);
        Ok(vm)
    }

    /// Sees to the disk requests that were in flight when it was saved.
    fn go_on_with(&self, unanswered: Vec<Unanswered>) {
        for request in unanswered {
            match (request, &self.outside.disk) {
                (Unanswered::Again(request), Some(disk)) => {
                    disk.submit(self.vm.totals().exit_count, [request])
                }
                (Unanswered::Done(completion), _) => {
                    self.inbox.post([Event::Device(Input::Disk(completion))]);
                }
                // Without a disk there are no requests.
                (Unanswered::Again(_), None) => {}
            }
        }
    }

    /// Everything of a held VM but its RAM and the content of its disk, to be restored by [`super::launch::PreparedVm::resume`].
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn save(&mut self) -> Result<Parts, LaunchError> {
        Ok(self.vm.save()?)
    }

    /// Disk writes and flushes of a held VM that must have ended before it is saved.
    #[must_use]
    pub fn unfinished_writes(&self) -> Vec<DiskRequestId> {
        self.vm.unfinished_writes()
    }

    /// Begins a copy of its RAM, held or before it runs: from here on it is known what is written.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn begin_copy(&mut self) -> Result<RamCopy, LaunchError> {
        Ok(self.vm.begin_copy()?)
    }

    /// Addresses of the pages written since the copy began or this was last asked. It must be held.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn take_written(&mut self) -> Result<Vec<u64>, LaunchError> {
        Ok(self.vm.take_written()?)
    }

    /// What it is where it is held, for a copy that is held there too. It is digested anew from here on.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn stand(&mut self) -> Result<EpochDigests, LaunchError> {
        Ok(self.vm.stand()?)
    }

    /// Its copy goes on from here too, and is compared with it.
    pub fn begin_lockstep(&mut self) {
        self.vm.begin_lockstep();
    }

    /// What it may have written since it and its copy were last found to be the same, where it is held or has been found to
    /// differ. None if it has no copy.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn touched(&mut self) -> Result<Option<Touched>, LaunchError> {
        Ok(self.vm.touched()?)
    }

    /// The same, since an epoch began at `since`. None if that is not remembered.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn touched_since(&mut self, since: ExitOrdinal) -> Result<Option<Touched>, LaunchError> {
        Ok(self.vm.touched_since(since)?)
    }

    /// The guest's instructions before the place where it is.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn code_around(&mut self) -> Result<CodeAround, LaunchError> {
        Ok(self.vm.code_around()?)
    }

    /// What it is where it is held, its disk drained, with the pages at `addresses`: what makes its copy the same again.
    ///
    /// # Errors
    /// When KVM refuses. Within: a page that there is not.
    pub fn capture(&mut self, addresses: &BTreeSet<u64>) -> Result<Result<Capture, NoCapture>, LaunchError> {
        Ok(self.vm.capture(addresses)?)
    }

    /// Becomes what was captured. Its disk is drained and holds what it then did, and what requests came to is forgotten.
    ///
    /// # Errors
    /// When that is no such VM's; it is of no use then.
    pub fn be_repaired(&mut self, capture: &Capture) -> Result<(), LaunchError> {
        self.vm.be_repaired(capture)?;
        self.go_on_with(self.vm.unanswered());
        Ok(())
    }

    /// Takes over the digest that was kept while its RAM was copied ([`RamCopy`]) or filled ([`super::Filling`]). It must be
    /// held.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn adopt(&mut self, digest: RamDigest) -> Result<(), LaunchError> {
        Ok(self.vm.adopt(digest)?)
    }

    /// Gives `keeper` what may not leave the VM yet.
    pub fn keep_outputs_with(&mut self, keeper: Box<dyn OutputKeeper>) {
        self.outside.keeper = Some(keeper);
    }

    /// The other copy has put out a frame of this digest at `position`, and this one leaves that out.
    pub fn left_out(&mut self, position: ExitOrdinal, digest: u64) {
        if let Some(keeper) = &mut self.outside.keeper {
            keeper.left_out(position, digest);
        }
    }

    /// Connects it to its network, if it is apart from one ([`super::launch::Connection::Later`]).
    ///
    /// # Errors
    /// When the host refuses a thread or a descriptor.
    pub fn attach_network(&mut self) -> Result<(), LaunchError> {
        let Some(tap) = self.tap_later.take() else {
            return Ok(());
        };
        // What came in so far was for the copy that was live.
        host("emptying the TAP interface", tap.drop_received())?;
        let network = host("starting the network", Network::start(tap, &self.inbox))?;
        self.vm.show_receive_offloads(&network);
        self.outside.network = Some(network);
        Ok(())
    }

    /// Parts it from its network, until it is attached again: another copy is there now.
    pub fn detach_network(&mut self) {
        if let Some(network) = self.outside.network.take() {
            self.tap_later = Some(network.stop());
        }
    }

    /// The way for outputs that were kept ([`OutputKeeper`]) to the outside, of what there is of it now.
    #[must_use]
    pub fn exits(&self) -> Exits {
        Exits {
            network: self.outside.network.as_ref().map(Network::transmitter),
            console: self.outside.console.shower(),
        }
    }

    /// Its disk, for whoever copies it.
    #[must_use]
    pub fn disk(&self) -> Option<DiskHandle> {
        self.outside.disk.as_ref().and_then(DiskWorkers::handle)
    }

    /// Waits until no disk request is under way; what they came to is in the inbox.
    pub fn drain_disk(&self) {
        if let Some(disk) = &self.outside.disk {
            disk.drain();
        }
    }

    /// The way to reach it from any thread.
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// How its thread is interrupted and waits.
    #[must_use]
    pub fn kicker(&self) -> Kicker {
        self.vm.kicker()
    }

    /// The timeline of a VM that lives here, from now on, on a host where an exit costs `exit_cost`.
    ///
    /// # Errors
    /// When the host refuses a timer.
    pub fn live(&self, entropy: HostEntropy, exit_cost: Duration) -> Result<Live, LaunchError> {
        let live = Live::starting_at(
            self.vm.now(),
            self.kicker(),
            self.inbox.clone(),
            entropy,
            exit_cost,
        );
        host("creating the vCPU's timer", live)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When the host fails it, or `timeline` cannot go on.
    pub fn run(&mut self, timeline: &mut dyn Timeline) -> Result<RunReport, LaunchError> {
        let (start_ns, start_cpu) = (SystemClock.monotonic_ns(), process_cpu_time());
        let outcome = self.vm.run(timeline, &mut self.outside)?;
        Ok(RunReport {
            outcome,
            totals: self.vm.totals(),
            rewritten: self.rewritten.clone(),
            wall: Duration::from_nanos(SystemClock.monotonic_ns() - start_ns),
            cpu: process_cpu_time().saturating_sub(start_cpu),
        })
    }

    /// Its RAM, while it does not run.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        self.vm.memory()
    }

    /// Its vCPU, while it does not run.
    #[must_use]
    pub fn vcpu(&mut self) -> &mut Vcpu {
        self.vm.vcpu()
    }

    /// Its totals so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.vm.totals()
    }
}

/// Standard output by a descriptor of its own: whoever called us may hold the lock of `std::io::stdout`.
fn standard_output() -> std::io::Result<std::fs::File> {
    use std::os::fd::AsFd;
    Ok(std::io::stdout().as_fd().try_clone_to_owned()?.into())
}

fn start_console(mode: ConsoleMode, inbox: &Inbox, room: usize) -> std::io::Result<Console> {
    match mode {
        ConsoleMode::Interactive => Console::start(inbox, Some(Box::new(standard_output()?)), true, room),
        ConsoleMode::OutputOnly => Console::start(inbox, Some(Box::new(standard_output()?)), false, room),
        ConsoleMode::Off => Console::start(inbox, None, false, room),
    }
}
