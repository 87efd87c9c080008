//! Digests that close an epoch (R3): of all that a guest can have changed, at the cost of what it did change.
//!
//! RAM's digest is the sum of the digests of all pages ever written, each with its address. So closing an epoch takes the
//! pages written in it alone, and the sum still stands for them all. Devices are digested in their saved form.

use twox_hash::XxHash3_64;

use super::{RunError, Timeline, Vm};
use crate::base::guest_memory::GuestMemory;
use crate::base::parts::Parts;
use crate::base::units::{GuestPhys, PAGE_BYTES, PAGE_SIZE};
use crate::devices::{DiskOperation, DiskRequest};

/// What a machine is at a counted exit, before that is handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochDigests {
    /// The general registers themselves, in the order of `kvm_regs`.
    pub registers: [u64; 18],
    /// All pages ever written.
    pub ram: u64,
    /// Each device by name, and what was written to the disk since the VM began here.
    pub parts: Vec<(String, u64)>,
}

/// The sum of the digests of pages.
#[derive(Debug, Default)]
pub(super) struct RamDigest {
    /// By page number; zero if it was never written.
    pages: Vec<u64>,
    sum: u64,
}

impl RamDigest {
    /// Takes in what the pages at `addresses` hold now.
    fn update(&mut self, addresses: &[u64], memory: &GuestMemory) -> Result<(), RunError> {
        let mut content = [0; PAGE_SIZE];
        for address in addresses {
            let read = memory.read(GuestPhys(*address), &mut content);
            read.map_err(|outside| RunError::Host {
                what: "reading a page that the guest wrote",
                source: std::io::Error::other(outside),
            })?;
            let page = usize::try_from(address / PAGE_BYTES).unwrap_or(usize::MAX);
            if page >= self.pages.len() {
                self.pages.resize(page + 1, 0);
            }
            let digest = XxHash3_64::oneshot_with_seed(*address, &content);
            let old = std::mem::replace(&mut self.pages[page], digest);
            self.sum = self.sum.wrapping_sub(old).wrapping_add(digest);
        }
        Ok(())
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
        self.ram_digest
            .update(&self.kvm.changed_pages()?, self.kvm.memory())?;
        let mut devices = Parts::default();
        self.board.save(&mut devices);
        let digest =
            |part: &crate::base::parts::Part| (part.name.clone(), XxHash3_64::oneshot(&part.content));
        let disk_writes = ("disk writes".to_owned(), self.disk_writes);
        let digests = EpochDigests {
            registers: zerocopy::transmute!(self.vcpu.registers()?),
            ram: self.ram_digest.sum,
            parts: devices.iter().map(digest).chain([disk_writes]).collect(),
        };
        timeline.epoch_ended(self.standing(), digests)?;
        Ok(self.kvm.forget_written_pages()?)
    }
}
