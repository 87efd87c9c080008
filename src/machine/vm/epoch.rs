//! Digests that close an epoch (R3): of all that a guest can have changed, at the cost of what it did change.
//!
//! RAM's digest is made of sums over all pages ever written ([`RamSums`]). So closing an epoch takes the pages written in
//! it alone, and the sums still stand for them all. Devices are digested in their saved form.

use twox_hash::XxHash3_64;

use super::ram_digest::RamSums;
use super::{RunError, Timeline, Vm};
use crate::base::parts::Parts;
use crate::devices::{DiskOperation, DiskRequest};

/// What a machine is at a counted exit, before that is handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochDigests {
    /// The general registers themselves, in the order of `kvm_regs`.
    pub registers: [u64; 18],
    /// All pages ever written.
    pub ram: RamSums,
    /// Each device by name, and what was written to the disk since the VM began here.
    pub parts: Vec<(String, u64)>,
}

/// In what two machines differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Differing {
    /// The vCPU.
    pub registers: bool,
    /// A device.
    pub devices: bool,
    /// What was written to the disk.
    pub disk: bool,
    /// RAM.
    pub ram: bool,
    /// The pages, by address, as far as they can be told.
    pub pages: Vec<u64>,
}

/// The part that stands for what was written to the disk.
const DISK_WRITES: &str = "disk writes";
/// The part that stands for all of the vCPU, where it is digested.
pub const WHOLE_VCPU: &str = "vCPU";

impl EpochDigests {
    /// In what the machine that `found` is of differs from this one.
    #[must_use]
    pub fn differing(&self, found: &Self) -> Differing {
        let mut differing = Differing {
            registers: self.registers != found.registers,
            ram: self.ram != found.ram,
            pages: self.ram.differing_pages(&found.ram),
            ..Differing::default()
        };
        let parts = found.parts.iter().filter(|part| !self.parts.contains(part));
        let missing = self
            .parts
            .iter()
            .filter(|(name, _)| found.parts.iter().all(|(found, _)| found != name));
        for (name, _) in parts.chain(missing) {
            match name.as_str() {
                DISK_WRITES => differing.disk = true,
                WHOLE_VCPU => differing.registers = true,
                _ => differing.devices = true,
            }
        }
        differing
    }
}

/// A rolling digest of what was written to the disk, and where.
pub(super) fn roll_disk_writes(digest: u64, requests: &[DiskRequest]) -> u64 {
    requests
        .iter()
        .fold(digest, |digest, request| match &request.operation {
            DiskOperation::Write { offset, data } => XxHash3_64::oneshot_with_seed(digest ^ offset, data),
            DiskOperation::Read { .. } | DiskOperation::Flush => digest,
        })
}

impl Vm {
    /// Closes the epoch that ends at this exit, and begins the next.
    pub(super) fn close_epoch(&mut self, timeline: &mut dyn Timeline) -> Result<(), RunError> {
        let (digests, changed) = self.digests()?;
        timeline.epoch_ended(self.standing(), digests)?;
        self.history.close(self.totals.exit_count, &changed);
        Ok(self.kvm.forget_written_pages()?)
    }

    /// What the machine is where it is held. An epoch ends and another begins here.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(in crate::machine) fn stand(&mut self) -> Result<EpochDigests, RunError> {
        self.vcpu.complete_instruction()?;
        let (digests, changed) = self.digests()?;
        self.history.close(self.totals.exit_count, &changed);
        self.kvm.forget_written_pages()?;
        Ok(digests)
    }

    /// What it is, and the pages that were written in the epoch.
    fn digests(&mut self) -> Result<(EpochDigests, Vec<u64>), RunError> {
        let changed = self.kvm.changed_pages()?;
        self.ram_digest.update(&changed, self.kvm.memory())?;
        let mut devices = Parts::default();
        self.board.save(&mut devices);
        let digest =
            |part: &crate::base::parts::Part| (part.name.clone(), XxHash3_64::oneshot(&part.content));
        let disk_writes = (DISK_WRITES.to_owned(), self.disk_writes);
        let digests = EpochDigests {
            registers: zerocopy::transmute!(self.vcpu.registers()?),
            ram: self.ram_digest.sums(),
            parts: devices.iter().map(digest).chain([disk_writes]).collect(),
        };
        Ok((digests, changed))
    }
}
