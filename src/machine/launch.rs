//! From a configuration to a running VM: everything that can be wrong is found before anything starts.
//!
//! The order is: read and edit the kernel, build the command line, see whether all fits into RAM, open disk and TAP,
//! ask KVM; only then is guest memory filled and a VM created. A refusal up to that point leaves nothing behind and
//! modifies nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::boot::{self, BootError, CmdlineError, CommandLine, EditedKernel, KernelError, RewriteReport};
use super::config::{ConsoleMode, VmConfig};
use super::cpu;
use super::kvm::{KvmError, KvmHost};
use super::outcome::Outcome;
use super::probe::{probe_cmpxchg16b, probe_exit_cost};
use super::vm::{Outside, RunError, Totals, Vm};
use super::workers::{
    Console, DiskError, DiskFile, DiskWorkers, HostEntropy, Inbox, Network, Tap, TapError, TerminalGuard,
};
use crate::base::clock::{HostClock, SystemClock, wall_clock_unix_seconds};
use crate::base::entropy::EntropySource;
use crate::base::guest_memory::GuestMemory;
use crate::base::limits::KERNEL_FILE_BYTES_MAX;
use crate::devices::board::Board;
use crate::devices::pci::PciDevices;
use crate::devices::virtio_blk::{self, VirtioBlk};
use crate::devices::virtio_net::{self, VirtioNet};
use crate::devices::virtio_rng::VirtioRng;

/// Why a VM was not started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A file of the guest cannot be read.
    #[error("cannot read {what} {path}: {source}", path = path.display())]
    Unreadable {
        /// What it is.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
    /// The kernel is refused.
    #[error("kernel {path}: {source}", path = path.display())]
    Kernel {
        /// The kernel.
        path: PathBuf,
        /// Why.
        #[source]
        source: KernelError,
    },
    /// The command line is refused.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// Kernel and initrd do not fit the guest's RAM.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The disk is refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The TAP interface is refused.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// There is no usable KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// KVM is there but cannot run Linux.
    #[error("this host's KVM cannot run a Linux guest: {0}; `antipode doctor` says more")]
    UnfitKvm(String),
    /// The VM could not be created or run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The host refuses a resource.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
}

/// What came of a run.
#[derive(Debug)]
pub struct RunReport {
    /// How it ended.
    pub outcome: Outcome,
    /// Totals.
    pub totals: Totals,
    /// What was rewritten in the kernel.
    pub rewritten: RewriteReport,
    /// Host time from the first instruction to the end.
    pub wall: Duration,
}

/// A VM that is ready to start: everything is open and checked.
#[derive(Debug)]
pub struct PreparedVm {
    kernel: EditedKernel,
    initrd: Vec<u8>,
    cmdline: CommandLine,
    memory_bytes: u64,
    disk: Option<(DiskFile, bool)>,
    network: Option<(Tap, [u8; 6])>,
    console: ConsoleMode,
    wall_clock_unix_seconds: i64,
    kvm: KvmHost,
}

fn read_bounded(what: &'static str, path: &Path, limit: u64) -> Result<Vec<u8>, LaunchError> {
    use std::io::Read;
    let unreadable = |source| LaunchError::Unreadable {
        what,
        path: path.to_path_buf(),
        source,
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

fn open_kvm() -> Result<KvmHost, LaunchError> {
    let kvm = KvmHost::open()?;
    let missing = cpu::missing_on_host(&kvm.supported_cpuid()?);
    if !missing.is_empty() {
        return Err(LaunchError::UnfitKvm(format!(
            "it does not offer {}",
            missing.join(", ")
        )));
    }
    if let super::probe::Finding::Fails(how) = probe_cmpxchg16b() {
        return Err(LaunchError::UnfitKvm(format!(
            "LOCK CMPXCHG16B in kernel mode does not work ({how})"
        )));
    }
    Ok(kvm)
}

impl PreparedVm {
    /// Opens and checks everything that `config` names.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing was started or modified.
    pub fn from_config(config: &VmConfig) -> Result<Self, LaunchError> {
        let path = &config.kernel.path;
        let file = read_bounded("kernel", path, KERNEL_FILE_BYTES_MAX)?;
        let kernel = boot::prepare(&file).map_err(|source| LaunchError::Kernel {
            path: path.clone(),
            source,
        })?;
        tracing::info!(
            release = kernel.report.release,
            rdtsc = kernel.report.rdtsc(),
            cr4_writes = kernel.report.cr4_writes(),
            mask_reads = kernel.report.dead_mask_reads(),
            look_alikes = kernel.report.look_alikes(),
            "rewrote the kernel's time-stamp reads and CR4 writes"
        );
        let initrd = match &config.kernel.initrd {
            Some(path) => read_bounded("initrd", path, config.memory_bytes)?,
            None => Vec::new(),
        };
        let cmdline = CommandLine::build(&config.kernel.cmdline)?;
        boot::check_room(&kernel, &initrd, &cmdline, config.memory_bytes)?;
        let disk = match &config.disk {
            Some(disk) => Some((DiskFile::open(&disk.path, disk.read_only)?, disk.read_only)),
            None => None,
        };
        let network = match &config.network {
            Some(network) => Some((Tap::open(network.tap.as_str())?, network.mac.octets())),
            None => None,
        };
        let start = config.clock_start.map(|start| start.get().cast_signed());
        Ok(Self {
            kernel,
            initrd,
            cmdline,
            memory_bytes: config.memory_bytes,
            disk,
            network,
            console: config.console,
            wall_clock_unix_seconds: start.unwrap_or_else(wall_clock_unix_seconds),
            kvm: open_kvm()?,
        })
    }

    /// Runs the VM on the calling thread until it ends. `on_start` gets the way to reach it.
    ///
    /// # Errors
    /// When the host fails the VM.
    pub fn run(self, on_start: impl FnOnce(&Inbox)) -> Result<RunReport, LaunchError> {
        let memory = GuestMemory::allocate(self.memory_bytes).map_err(|source| LaunchError::Host {
            what: "reserving guest RAM",
            source,
        })?;
        let mut entropy = host("opening the random-number generator", HostEntropy::open())?;
        let mut seed = [0; boot::RANDOM_SEED_BYTES];
        host("reading random bytes", entropy.fill(&mut seed))?;
        let entry = boot::place(&self.kernel, &self.initrd, &self.cmdline, &seed, &memory)?;
        drop(self.initrd);
        let board = Board::new(
            self.wall_clock_unix_seconds,
            PciDevices {
                disk: self
                    .disk
                    .as_ref()
                    .map(|(disk, read_only)| disk_device(disk, *read_only)),
                network: self.network.as_ref().map(|(tap, mac)| network_device(tap, *mac)),
                entropy: VirtioRng::new(),
            },
        );
        let rewritten = self.kernel.report.clone();
        let iretq = self.kernel.user_return_iretq;
        // The decompressed kernel is tens of megabytes; the guest has its own copy now.
        drop(self.kernel);
        let exit_cost = probe_exit_cost(&SystemClock).unwrap_or(Duration::ZERO);
        let vm = Vm::create(&self.kvm, memory, board, iretq, &entry, exit_cost)?;
        let inbox = vm.inbox();
        let _terminal = match self.console {
            ConsoleMode::Interactive => {
                Some(host("switching the terminal to raw mode", TerminalGuard::raw())?)
            }
            ConsoleMode::OutputOnly | ConsoleMode::Off => None,
        };
        let outside = Outside {
            console: host("starting the console", start_console(self.console, &inbox))?,
            disk: match self.disk {
                Some((disk, _)) => Some(host(
                    "starting the disk's workers",
                    DiskWorkers::start(disk, &inbox),
                )?),
                None => None,
            },
            network: match self.network {
                Some((tap, _)) => Some(host("starting the network", Network::start(tap, &inbox))?),
                None => None,
            },
            entropy,
        };
        on_start(&inbox);
        let start_ns = SystemClock.monotonic_ns();
        let (outcome, totals) = vm.run(&inbox, outside)?;
        let wall = Duration::from_nanos(SystemClock.monotonic_ns() - start_ns);
        Ok(RunReport {
            outcome,
            totals,
            rewritten,
            wall,
        })
    }
}

fn host<T>(what: &'static str, result: std::io::Result<T>) -> Result<T, LaunchError> {
    result.map_err(|source| LaunchError::Host { what, source })
}

/// Standard output by a descriptor of its own: whoever called us may hold the lock of `std::io::stdout`.
fn standard_output() -> std::io::Result<std::fs::File> {
    use std::os::fd::AsFd;
    Ok(std::io::stdout().as_fd().try_clone_to_owned()?.into())
}

fn start_console(mode: ConsoleMode, inbox: &Inbox) -> std::io::Result<Console> {
    match mode {
        ConsoleMode::Interactive => Console::start(inbox, Some(Box::new(standard_output()?)), true),
        ConsoleMode::OutputOnly => Console::start(inbox, Some(Box::new(standard_output()?)), false),
        ConsoleMode::Off => Console::start(inbox, None, false),
    }
}

fn disk_device(disk: &DiskFile, read_only: bool) -> VirtioBlk {
    VirtioBlk::new(virtio_blk::DiskConfig {
        byte_count: disk.byte_count(),
        read_only,
        serial: *b"antipode\0\0\0\0\0\0\0\0\0\0\0\0",
    })
}

fn network_device(tap: &Tap, mac: [u8; 6]) -> VirtioNet {
    let offloads = tap.offloads();
    VirtioNet::new(virtio_net::NetworkConfig {
        mac,
        transmit: offloads,
        receive: offloads,
        mtu: None,
    })
}
