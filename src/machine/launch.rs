//! From a configuration to a running VM: everything that can be wrong is found before anything starts.
//!
//! The order is: read and edit the kernel, build the command line, see whether all fits into RAM, open disk and TAP,
//! ask KVM; only then is guest memory filled and a VM created. A refusal up to that point leaves nothing behind and
//! modifies nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::boot::{self, BootError, CmdlineError, CommandLine, EditedKernel, KernelError, RewriteReport};
use super::config::{ConsoleMode, DiskConfig, VmConfig};
use super::cpu;
use super::kvm::{KvmError, KvmHost};
use super::outcome::Outcome;
use super::probe::{probe_cmpxchg16b, probe_exit_cost};
use super::started::Attached;
pub use super::started::{Beginning, StartedVm};
use super::vm::{RestoreError, RunError, Totals, Vm};
use super::workers::{DiskError, DiskFile, Tap, TapError};
use crate::base::clock::{SystemClock, wall_clock_unix_seconds};
use crate::base::entropy::EntropySource;
use crate::base::guest_memory::GuestMemory;
use crate::base::limits::KERNEL_FILE_BYTES_MAX;
use crate::base::parts::Parts;
use crate::devices::board::Board;
use crate::devices::pci::PciDevices;
use crate::devices::virtio_blk::{self, VirtioBlk};
use crate::devices::virtio_net::{self, Offloads, VirtioNet};
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
    /// What was saved cannot be restored.
    #[error("the saved machine cannot be restored: {0}")]
    Restore(#[from] RestoreError),
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
    /// Processor time that this process used meanwhile, the guest's included.
    pub cpu: Duration,
}

/// What chance and the host give a VM at its birth, besides the files it is made of. With the same files and the same
/// birth, two VMs begin as the same machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// The seed of the guest kernel's random numbers.
    pub random_seed: [u8; boot::RANDOM_SEED_BYTES],
    /// The time of day.
    pub wall_clock_unix_seconds: i64,
    /// What the host's network takes unfinished, if there is a network.
    pub offloads: Option<Offloads>,
}

/// Whether a VM is connected to its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Through its TAP interface.
    Tap,
    /// Not at all: what it sends is dropped, what it receives comes from a record.
    None,
    /// Not before it goes live ([`StartedVm::attach_network`]); its TAP interface is held from the start, so that a takeover
    /// finds it usable, and the bridge behind it forwarding. Its disk is opened when its RAM is there
    /// ([`PreparedVm::resume`]), and follows another.
    Later,
}

/// A VM that is ready to start: everything is open and checked.
#[derive(Debug)]
pub struct PreparedVm {
    kernel: EditedKernel,
    initrd: Vec<u8>,
    cmdline: CommandLine,
    memory_bytes: u64,
    disk: Option<(DiskFile, bool)>,
    /// The disk that is opened once it is whole.
    disk_later: Option<DiskConfig>,
    mac: Option<[u8; 6]>,
    tap: Option<Tap>,
    /// The TAP interface that it is connected to later.
    tap_later: Option<Tap>,
    console: ConsoleMode,
    clock_start: Option<i64>,
    can_be_preempted: bool,
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
    pub fn from_config(config: &VmConfig, connection: Connection) -> Result<Self, LaunchError> {
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
        let disk_later = config.disk.clone().filter(|_| connection == Connection::Later);
        let disk = match &config.disk {
            Some(_) if disk_later.is_some() => None,
            Some(disk) => {
                let opened = DiskFile::open(&disk.path, disk.metadata.as_deref(), disk.read_only)?;
                Some((opened, disk.read_only))
            }
            None => None,
        };
        let open_tap = || {
            config
                .network
                .as_ref()
                .map(|network| Tap::open(network.tap.as_str()))
                .transpose()
        };
        let (tap, tap_later) = match connection {
            Connection::Tap => (open_tap()?, None),
            Connection::None => (None, None),
            Connection::Later => (None, open_tap()?),
        };
        Ok(Self {
            kernel,
            initrd,
            cmdline,
            memory_bytes: config.memory_bytes,
            disk,
            disk_later,
            mac: config.network.as_ref().map(|network| network.mac.octets()),
            tap,
            tap_later,
            console: config.console,
            clock_start: config.clock_start.map(|start| start.get().cast_signed()),
            can_be_preempted: false,
            kvm: open_kvm()?,
        })
    }

    /// The same VM, able to be stopped at a position while it computes ([`crate::machine::Kick::Preempt`]): KVM logs the
    /// pages that it writes, which costs it a fault each.
    #[must_use]
    pub fn preemptible(self) -> Self {
        Self {
            can_be_preempted: true,
            ..self
        }
    }

    /// A birth here and now.
    ///
    /// # Errors
    /// When the host has no random bytes.
    pub fn birth(&self, entropy: &mut impl EntropySource) -> Result<Birth, LaunchError> {
        let mut random_seed = [0; boot::RANDOM_SEED_BYTES];
        host("reading random bytes", entropy.fill(&mut random_seed))?;
        Ok(Birth {
            random_seed,
            wall_clock_unix_seconds: self.clock_start.unwrap_or_else(wall_clock_unix_seconds),
            offloads: self.tap.as_ref().map(Tap::offloads),
        })
    }

    /// What an exit costs on this host; zero if that cannot be told. The probe is a VM of the calling thread.
    #[must_use]
    pub fn exit_cost() -> Duration {
        probe_exit_cost(&SystemClock).unwrap_or(Duration::ZERO)
    }

    /// The whole kernel command line.
    #[must_use]
    pub fn cmdline(&self) -> &CommandLine {
        &self.cmdline
    }

    /// Creates the VM and starts its workers. The calling thread becomes its vCPU thread.
    ///
    /// # Errors
    /// When the host refuses a resource.
    pub fn start(mut self, birth: &Birth) -> Result<StartedVm, LaunchError> {
        let memory = allocate(self.memory_bytes)?;
        let seed = &birth.random_seed;
        let entry = boot::place(&self.kernel, &self.initrd, &self.cmdline, seed, &memory)?;
        self.initrd = Vec::new();
        self.create(birth, memory, Beginning::Boot(&entry))
    }

    /// Creates the VM, born as `birth` says, as what was saved: `fill` writes its RAM, which is zeros, and answers the
    /// other parts. The calling thread becomes its vCPU thread.
    ///
    /// # Errors
    /// When the host refuses a resource, `fill` fails, or what was saved is not of this VM.
    pub fn resume(
        mut self,
        birth: &Birth,
        fill: impl FnOnce(&GuestMemory) -> Result<Parts, RestoreError>,
    ) -> Result<StartedVm, LaunchError> {
        let memory = allocate(self.memory_bytes)?;
        let parts = fill(&memory)?;
        if let Some(disk) = self.disk_later.take() {
            let opened = DiskFile::open(&disk.path, disk.metadata.as_deref(), disk.read_only)?;
            self.disk = Some((opened.following(), disk.read_only));
        }
        self.initrd = Vec::new();
        self.create(birth, memory, Beginning::Saved(parts))
    }

    fn create(
        self,
        birth: &Birth,
        memory: GuestMemory,
        beginning: Beginning<'_>,
    ) -> Result<StartedVm, LaunchError> {
        let disk = self.disk.as_ref();
        let devices = PciDevices {
            disk: disk.map(|(disk, read_only)| disk_device(disk, *read_only)),
            network: self
                .mac
                .map(|mac| network_device(birth.offloads.unwrap_or_default(), mac)),
            entropy: VirtioRng::new(),
        };
        let board = Board::new(birth.wall_clock_unix_seconds, devices);
        let rewritten = self.kernel.report.clone();
        let iretq = self.kernel.user_return_iretq;
        // The decompressed kernel is tens of megabytes; the guest has its own copy now.
        drop(self.kernel);
        let vm = Vm::create(&self.kvm, memory, board, iretq, self.can_be_preempted)?;
        let outside = Attached {
            console: self.console,
            disk: self.disk.map(|(disk, _)| disk),
            tap: self.tap,
            tap_later: self.tap_later,
        };
        StartedVm::begin(vm, beginning, outside, rewritten)
    }
}

fn allocate(memory_bytes: u64) -> Result<GuestMemory, LaunchError> {
    GuestMemory::allocate(memory_bytes).map_err(|source| LaunchError::Host {
        what: "reserving guest RAM",
        source,
    })
}

pub(super) fn host<T>(what: &'static str, result: std::io::Result<T>) -> Result<T, LaunchError> {
    result.map_err(|source| LaunchError::Host { what, source })
}

fn disk_device(disk: &DiskFile, read_only: bool) -> VirtioBlk {
    VirtioBlk::new(virtio_blk::DiskConfig {
        byte_count: disk.byte_count(),
        read_only,
        serial: *b"antipode\0\0\0\0\0\0\0\0\0\0\0\0",
    })
}

fn network_device(offloads: Offloads, mac: [u8; 6]) -> VirtioNet {
    VirtioNet::new(virtio_net::NetworkConfig {
        mac,
        transmit: offloads,
        receive: offloads,
        mtu: None,
    })
}
