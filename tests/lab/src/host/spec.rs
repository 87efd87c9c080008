//! What a host is made of.

use std::path::PathBuf;

/// Where a host finds this machine's loopback if it has [`HostSpec::outside`]: QEMU speaks for it.
pub const OUTSIDE_ADDRESS: &str = "10.7.0.2";

/// The host's own address there, and the network.
pub(super) const OUTSIDE_OWN: &str = "10.7.0.15/24";
pub(super) const OUTSIDE_NETWORK: &str = "10.7.0.0/24";

/// One emulated host. [`HostSpec::new`] gives one that runs KVM with 1 GiB and no network or disk.
#[derive(Debug, Clone)]
pub struct HostSpec {
    /// Its host name, and the name of its directory in a run.
    pub name: String,
    /// Memory, guests of its own included.
    pub memory_mib: u32,
    /// Processors. Each is a thread of this machine. With more than one, QEMU 7.2 now and then delivers an interrupt
    /// between a VM's exit and the host's first instruction after it, where SVM keeps interrupts off: the host's kernel
    /// then runs on the VM's segment bases, and dies or kills the VM's process. With one it has not been seen.
    pub cpus: u32,
    /// Load `kvm_amd`, so that there is `/dev/kvm`. Costs about a second of boot.
    pub kvm: bool,
    /// Network cards, `eth0` first.
    pub nics: Vec<Nic>,
    /// One more card, after those, behind which processes of this machine are reached: see [`OUTSIDE_ADDRESS`].
    pub outside: bool,
    /// Disks, `/dev/vda` first.
    pub disks: Vec<Disk>,
    /// Files in its system from the start.
    pub files: Vec<HostFile>,
    /// Modules to load beyond the usual, with what they need.
    pub modules: Vec<String>,
    /// Added to the kernel's command line.
    pub kernel_parameters: Vec<String>,
}

impl HostSpec {
    /// A host that runs KVM with 1 GiB, one processor, no network and no disk.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            memory_mib: 1_024,
            cpus: 1,
            kvm: true,
            nics: Vec::new(),
            outside: false,
            disks: Vec::new(),
            files: Vec::new(),
            modules: Vec::new(),
            kernel_parameters: Vec::new(),
        }
    }
}

/// A network card joined to a port of the switch.
#[derive(Debug, Clone)]
pub struct Nic {
    /// The port's socket; the switch must listen on it.
    pub socket: PathBuf,
    /// Its address on the wire.
    pub mac: [u8; 6],
    /// Address and prefix length that init sets, such as `10.9.0.11/24`.
    pub address: Option<String>,
}

/// A disk: a raw file of this machine, or what somebody serves.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The file, or a socket.
    pub path: PathBuf,
    /// What becomes of writes.
    pub mode: DiskMode,
}

/// What becomes of writes to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskMode {
    /// They go to the file, and survive a power cut once flushed.
    ReadWrite,
    /// They vanish with the host.
    Snapshot,
    /// They fail.
    ReadOnly,
    /// They go to whoever serves the disk, over NBD, on that socket.
    Served,
}

/// A file placed into a host's system before it boots.
#[derive(Debug, Clone)]
pub struct HostFile {
    /// Absolute path in the host.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// The file of this machine that is copied.
    pub source: PathBuf,
}
