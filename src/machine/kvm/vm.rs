//! The host's KVM and one VM on it: memory slots and the MSR filter.

use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::rc::Rc;

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_clear_dirty_log, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{
    Cap, IoEventAddress, Kvm, MsrExitReason, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags,
    VmFd,
};
use nix::sys::mman::{MmapAdvise, madvise};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use super::{KvmError, Vcpu};
use crate::base::guest_memory::{GuestMemory, Ram, RegisterPage};
use crate::base::units::PAGE_BYTES;

nix::ioctl_readwrite!(
    /// `KVM_CLEAR_DIRTY_LOG`: `kvm-ioctls` has no wrapper for it.
    kvm_clear_dirty_log_ioctl,
    0xAE,
    0xC0,
    kvm_clear_dirty_log
);

/// The slot of the register page, after those of RAM.
const PAGE_SLOT: u32 = 8;

/// Numbers of capabilities that are asked for; Linux 6.12 knows 240.
const CAPABILITIES_MAX: u64 = 256;

/// A run of MSRs that KVM itself may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsrPassRange {
    /// First MSR.
    pub base: u32,
    /// How many.
    pub count: u32,
}

/// The host's KVM.
#[derive(Debug)]
pub struct KvmHost {
    kvm: Kvm,
}

impl KvmHost {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// [`KvmError::Open`] when it is missing or not accessible.
    pub fn open() -> Result<Self, KvmError> {
        let kvm =
            Kvm::new().map_err(|error| KvmError::Open(std::io::Error::from_raw_os_error(error.errno())))?;
        Ok(Self { kvm })
    }

    /// The CPUID leaves that this host's KVM can offer a guest.
    ///
    /// # Errors
    /// When KVM refuses to say.
    pub fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        self.kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::ioctl("KVM_GET_SUPPORTED_CPUID"))
    }

    /// What KVM answers of each of its capabilities, but for those that follow from how many processors the host has.
    #[must_use]
    pub fn capabilities(&self) -> Vec<u8> {
        /// `KVM_CAP_NR_VCPUS`.
        const BY_PROCESSORS: u64 = 9;
        (0..CAPABILITIES_MAX)
            .filter(|capability| *capability != BY_PROCESSORS)
            .flat_map(|capability| self.kvm.check_extension_raw(capability).to_le_bytes())
            .collect()
    }

    /// Creates a VM whose RAM is `memory`, with a dirty log if `log_dirty_pages`.
    ///
    /// # Errors
    /// When KVM refuses, or lacks what Antipode needs.
    pub fn create_vm(&self, memory: GuestMemory, log_dirty_pages: bool) -> Result<KvmVm, KvmError> {
        let fd = self.kvm.create_vm().map_err(KvmError::ioctl("KVM_CREATE_VM"))?;
        let vm = KvmVm {
            fd,
            memory: Rc::new(memory),
            page: None,
            posts_writes: false,
        };
        vm.require(Cap::UserMemory, "KVM_CAP_USER_MEMORY", "to give the guest RAM")?;
        vm.require(
            Cap::ImmediateExit,
            "KVM_CAP_IMMEDIATE_EXIT",
            "to stop a running vCPU without a race",
        )?;
        if log_dirty_pages {
            vm.clear_dirty_log_by_hand()?;
        }
        vm.map_memory(log_dirty_pages)?;
        Ok(vm)
    }
}

/// A VM: its memory, and at most one vCPU, which shares the memory so that it outlives both.
#[derive(Debug)]
pub struct KvmVm {
    fd: VmFd,
    memory: Rc<GuestMemory>,
    page: Option<Rc<RegisterPage>>,
    posts_writes: bool,
}

/// Asks for huge pages. A host without them, or one that grants none, runs the guest all the same.
fn advise_huge_pages(region: &GuestRegionMmap<AtomicBitmap>) {
    let Some(start) = NonNull::new(region.as_ptr()) else {
        return;
    };
    // SAFETY: the range is one live anonymous mapping, whose bytes the advice leaves as they are.
    let advised = unsafe { madvise(start.cast(), region.size(), MmapAdvise::MADV_HUGEPAGE) };
    if let Err(error) = advised {
        tracing::debug!(%error, "the host gives guest memory no huge pages");
    }
}

impl KvmVm {
    fn require(&self, cap: Cap, capability: &'static str, purpose: &'static str) -> Result<(), KvmError> {
        if self.fd.check_extension(cap) {
            Ok(())
        } else {
            Err(KvmError::Lacking { capability, purpose })
        }
    }

    fn map_memory(&self, log_dirty_pages: bool) -> Result<(), KvmError> {
        let flags = if log_dirty_pages {
            kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES
        } else {
            0
        };
        self.memory.ram().iter().for_each(advise_huge_pages);
        self.map(self.memory.ram(), 0, flags)
    }

    /// Lets the guest read `page` without an exit; its writes there stay exits. Call it once, before
    /// [`Self::create_vcpu`].
    ///
    /// # Errors
    /// When KVM lacks read-only memory or refuses.
    pub fn show_page(&mut self, page: RegisterPage) -> Result<(), KvmError> {
        self.require(
            Cap::ReadonlyMem,
            "KVM_CAP_READONLY_MEM",
            "to show the guest its clock",
        )?;
        let page = self.page.insert(Rc::new(page)).clone();
        self.map(page.mapping(), PAGE_SLOT, kvm_bindings::KVM_MEM_READONLY)
    }

    /// The page given to [`Self::show_page`].
    #[must_use]
    pub fn page(&self) -> Option<&RegisterPage> {
        self.page.as_deref()
    }

    /// Maps `ram`, which is one of the mappings this VM owns.
    pub(super) fn map(&self, ram: &Ram, first_slot: u32, flags: u32) -> Result<(), KvmError> {
        for (slot, region) in (first_slot..).zip(ram.iter()) {
            let slot = kvm_userspace_memory_region {
                slot,
                flags,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the range is a live mapping of `memory` or `page`, which this VM and its vCPU own together, so
            // that it is unmapped only when neither can run any more.
            unsafe { self.fd.set_user_memory_region(slot) }
                .map_err(KvmError::ioctl("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }

    /// The guest's RAM.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Fetching the log shall not clear it: each clearing write-protects the pages, whose next write then costs a fault.
    fn clear_dirty_log_by_hand(&self) -> Result<(), KvmError> {
        let cap = kvm_enable_cap {
            cap: kvm_bindings::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
            args: [
                u64::from(kvm_bindings::KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE),
                0,
                0,
                0,
            ],
            ..kvm_enable_cap::default()
        };
        self.fd.enable_cap(&cap).map_err(KvmError::ioctl(
            "KVM_ENABLE_CAP(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)",
        ))
    }

    /// Guest physical addresses of the pages of RAM that the guest has written since [`Self::forget_written_pages`] was
    /// last called, ascending. Nothing that we wrote is among them.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn written_pages(&self) -> Result<Vec<u64>, KvmError> {
        self.pages_marked(|slot, region| self.dirty_log(slot, region))
    }

    /// The same pages, and those that we have written.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn changed_pages(&self) -> Result<Vec<u64>, KvmError> {
        self.pages_marked(|slot, region| {
            let mut log = self.dirty_log(slot, region)?;
            for (index, word) in log.iter_mut().enumerate() {
                let is_ours = |bit: &usize| (**region).bitmap().is_bit_set(index * 64 + bit);
                *word |= (0..64).filter(is_ours).fold(0, |bits, bit| bits | 1 << bit);
            }
            Ok(log)
        })
    }

    fn pages_marked(
        &self,
        log_of: impl Fn(u32, &GuestRegionMmap<AtomicBitmap>) -> Result<Vec<u64>, KvmError>,
    ) -> Result<Vec<u64>, KvmError> {
        let mut pages = Vec::new();
        for (slot, region) in (0..).zip(self.memory.ram().iter()) {
            for (index, word) in (0_u64..).zip(log_of(slot, region)?) {
                let bits = (0..64_u64).filter(|bit| word >> bit & 1 != 0);
                pages.extend(bits.map(|bit| region.start_addr().0 + (index * 64 + bit) * PAGE_BYTES));
            }
        }
        Ok(pages)
    }

    /// Starts the log of written pages anew, the guest's and ours. The guest must be at rest.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn forget_written_pages(&self) -> Result<(), KvmError> {
        for (slot, region) in (0..).zip(self.memory.ram().iter()) {
            let mut log = self.dirty_log(slot, region)?;
            let mut clear = kvm_clear_dirty_log {
                slot,
                num_pages: u32::try_from(region.len() / PAGE_BYTES).unwrap_or(u32::MAX),
                first_page: 0,
                __bindgen_anon_1: kvm_bindings::kvm_clear_dirty_log__bindgen_ty_1 {
                    dirty_bitmap: log.as_mut_ptr().cast(),
                },
            };
            // SAFETY: the descriptor is a VM's; the bitmap has a bit for each page of the slot and outlives the call.
            unsafe { kvm_clear_dirty_log_ioctl(self.fd.as_raw_fd(), &raw mut clear) }.map_err(|errno| {
                KvmError::Ioctl {
                    call: "KVM_CLEAR_DIRTY_LOG",
                    source: errno.into(),
                }
            })?;
            (**region).bitmap().reset();
        }
        Ok(())
    }

    fn dirty_log(&self, slot: u32, region: &GuestRegionMmap<AtomicBitmap>) -> Result<Vec<u64>, KvmError> {
        self.fd
            .get_dirty_log(slot, region.size())
            .map_err(KvmError::ioctl("KVM_GET_DIRTY_LOG"))
    }

    /// Denies the guest every MSR but those in `pass`; a denied access comes back as an exit (E3).
    ///
    /// # Errors
    /// When KVM lacks MSR filtering or refuses the filter.
    pub fn deny_msrs_except(&self, pass: &[MsrPassRange]) -> Result<(), KvmError> {
        let purpose = "to keep host MSR values from the guest";
        self.require(Cap::X86UserSpaceMsr, "KVM_CAP_X86_USER_SPACE_MSR", purpose)?;
        self.require(Cap::X86MsrFilter, "KVM_CAP_X86_MSR_FILTER", purpose)?;
        let reasons = MsrExitReason::Unknown | MsrExitReason::Inval | MsrExitReason::Filter;
        let cap = kvm_enable_cap {
            cap: kvm_bindings::KVM_CAP_X86_USER_SPACE_MSR,
            args: [u64::from(reasons.bits()), 0, 0, 0],
            ..kvm_enable_cap::default()
        };
        self.fd
            .enable_cap(&cap)
            .map_err(KvmError::ioctl("KVM_ENABLE_CAP(KVM_CAP_X86_USER_SPACE_MSR)"))?;
        let bitmaps: Vec<Vec<u8>> = pass
            .iter()
            .map(|range| vec![0xFF; range.count.div_ceil(8) as usize])
            .collect();
        let ranges: Vec<MsrFilterRange<'_>> = pass
            .iter()
            .zip(&bitmaps)
            .map(|(range, bitmap)| MsrFilterRange {
                flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
                base: range.base,
                msr_count: range.count,
                bitmap,
            })
            .collect();
        self.fd
            .set_msr_filter(MsrFilterDefaultAction::DENY, &ranges)
            .map_err(KvmError::ioctl("KVM_X86_SET_MSR_FILTER"))
    }

    /// Lets KVM collect writes to `ports` and to the 8-byte register at guest physical `register` until the next exit
    /// ([`Vcpu::next_posted_write`]) where it can; elsewhere each stays an exit of its own. Call it before
    /// [`Self::create_vcpu`].
    ///
    /// # Errors
    /// When KVM has the capability and refuses.
    pub fn post_writes(&mut self, ports: &[RangeInclusive<u16>], register: u64) -> Result<(), KvmError> {
        if !self.fd.check_extension(Cap::CoalescedPio) {
            return Ok(());
        }
        let ports = ports.iter().map(|range| {
            let length = u32::from(range.end() - range.start()) + 1;
            (IoEventAddress::Pio(u64::from(*range.start())), length)
        });
        for (start, length) in ports.chain([(IoEventAddress::Mmio(register), 8)]) {
            self.fd
                .register_coalesced_mmio(start, length)
                .map_err(KvmError::ioctl("KVM_REGISTER_COALESCED_MMIO"))?;
        }
        self.posts_writes = true;
        Ok(())
    }

    /// Creates the vCPU, which makes the calling thread its thread.
    ///
    /// # Errors
    /// When KVM refuses, or the thread has a vCPU already.
    pub fn create_vcpu(&self) -> Result<Vcpu, KvmError> {
        let fd = self
            .fd
            .create_vcpu(0)
            .map_err(KvmError::ioctl("KVM_CREATE_VCPU"))?;
        let has_sync_regs = self.fd.check_extension(Cap::SyncRegs);
        let mut vcpu = Vcpu::new(fd, has_sync_regs, (Rc::clone(&self.memory), self.page.clone()))?;
        if self.posts_writes {
            vcpu.map_posted_writes()?;
        }
        Ok(vcpu)
    }
}
