//! The configuration of one VM: a TOML file, validated whole before anything starts (O2).
//!
//! [`crate::base::configuration`] gives a tree whose keys and values know their places; here it becomes a [`VmConfig`],
//! whose types carry the limits, so that nobody checks them again. Every mistake is collected with line, column, what
//! is wrong and what to do, unknown keys included; a file with one mistake yields no configuration.
//!
//! Parsing reads no file and no clock: whether a kernel, disk or TAP exists is asked by whoever opens it. The
//! reader's page, with a sample that is tested, is `docs/vm-configuration.md`.

mod fields;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use parse::parse;

use crate::base::configuration::{self, ConfigError};

/// A VM as its file describes it, every limit kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmConfig {
    /// The VM's name.
    pub name: VmName,
    /// Guest RAM in bytes, a whole number of mebibytes within `base::limits`.
    pub memory_bytes: u64,
    /// What is booted.
    pub kernel: KernelConfig,
    /// The disk, `/dev/vda` in the guest.
    pub disk: Option<DiskConfig>,
    /// The network card.
    pub network: Option<NetworkConfig>,
    /// The serial console.
    pub console: ConsoleMode,
    /// Whether an output of a protected VM leaves only when the other copy has made it too (H3).
    pub verifies_output: bool,
    /// How the copy of a protected VM is kept the same (H4).
    pub kept: Kept,
    /// What the guest's real-time clock shows when the VM is created; `None` for the host's time of day.
    pub clock_start: Option<UnixSeconds>,
}

/// What is booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelConfig {
    /// The Debian `vmlinuz`.
    pub path: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The words of the kernel's command line that the operator chose; the machine adds its own.
    pub cmdline: String,
}

/// A raw disk image or block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskConfig {
    /// The file or block device.
    pub path: PathBuf,
    /// The metadata of the replica that it is, if that is not beside it.
    pub metadata: Option<PathBuf>,
    /// Whether the guest may only read.
    pub read_only: bool,
}

/// A network card joined to a TAP interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The host's interface.
    pub tap: TapName,
    /// The guest's Ethernet address.
    pub mac: MacAddress,
}

/// Where the serial console leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConsoleMode {
    /// Standard input and output of `antipode`; keys go to the guest.
    #[default]
    Interactive,
    /// Standard output alone; nothing is read.
    OutputOnly,
    /// Nowhere.
    Off,
}

/// How a copy is kept the same (H4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Kept {
    /// As it costs least.
    Auto,
    /// By replay, always.
    #[default]
    Replay,
    /// By checkpoints, always.
    Checkpoint,
}

impl Kept {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Auto, Self::Replay, Self::Checkpoint];

    /// As a definition says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Replay => "replay",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// A VM's name: 1 to 63 of `a`–`z`, `0`–`9` and `-`, neither beginning nor ending with `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VmName(String);

/// A name that the kernel takes for a network interface (at most 15 bytes), and that is no `%d` template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapName(String);

/// A unicast Ethernet address that is not all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacAddress([u8; 6]);

/// Seconds since 1970-01-01T00:00:00Z, before 2070: what a clock with a two-digit year can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixSeconds(u64);

impl VmName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TapName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl MacAddress {
    /// The six octets in the order they travel.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl UnixSeconds {
    /// The number of seconds.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Reads and parses the file at `path`; relative paths in it are taken from its folder.
///
/// # Errors
/// [`ConfigError`], which the caller shows whole; nothing was started or changed.
pub fn load(path: &Path) -> Result<VmConfig, ConfigError> {
    configuration::load(path, parse)
}
