//! The whole state of a vCPU, saved and restored (H1).
//!
//! The order of a restore matters: system registers twice, with CR4.PGE flipped the first time, because only a change of it
//! makes KVM flush the guest's TLB; pending events last, because earlier calls change them. SYSENTER's addresses do not
//! survive a restore on SVM, which keeps 32 bits of them; so saving writes the MSRs once, and saves what reads back.

use kvm_bindings::{Msrs, kvm_debugregs, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events};
use zerocopy::{FromBytes, IntoBytes};

use super::{KvmError, Vcpu};

const CR4_PGE: u64 = 1 << 7;

/// SYSENTER, system calls, the user's GS base, and the page attribute table: Linux sets them, KVM keeps them.
const STATE_MSRS: [u32; 9] = [
    0x174,
    0x175,
    0x176,
    0x277,
    0xC000_0081,
    0xC000_0082,
    0xC000_0083,
    0xC000_0084,
    0xC000_0102,
];

/// Words of XSAVE's legacy region, header and the room behind them that KVM copies.
const XSAVE_WORDS: usize = 1024;

/// A vCPU's state between two runs.
#[derive(Debug, Clone, PartialEq)]
pub struct VcpuState {
    registers: kvm_regs,
    system_registers: kvm_sregs,
    debug_registers: kvm_debugregs,
    events: kvm_vcpu_events,
    msrs: Vec<(u32, u64)>,
    extended: Vec<u32>,
}

/// The bytes are no vCPU state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a saved vCPU has {expected} bytes, not {found}")]
pub struct NoVcpuState {
    /// What it has.
    pub expected: usize,
    /// What there were.
    pub found: usize,
}

impl VcpuState {
    const MSR_BYTES: usize = 12;

    /// Bytes of a saved state: registers, system registers, debug registers, events, MSRs as number and value, XSAVE, all
    /// little-endian, as KVM lays them out.
    pub const BYTES: usize = size_of::<kvm_regs>()
        + size_of::<kvm_sregs>()
        + size_of::<kvm_debugregs>()
        + size_of::<kvm_vcpu_events>()
        + STATE_MSRS.len() * Self::MSR_BYTES
        + XSAVE_WORDS * 4;

    /// The state as [`Self::BYTES`] bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.extend_from_slice(self.registers.as_bytes());
        bytes.extend_from_slice(self.system_registers.as_bytes());
        bytes.extend_from_slice(self.debug_registers.as_bytes());
        bytes.extend_from_slice(self.events.as_bytes());
        for (index, value) in &self.msrs {
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(self.extended.as_bytes());
        bytes
    }

    /// The state that `bytes` are.
    ///
    /// # Errors
    /// [`NoVcpuState`] unless there are [`Self::BYTES`]. Whether KVM takes the values, [`Vcpu::restore`] will tell.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NoVcpuState> {
        let wrong = NoVcpuState {
            expected: Self::BYTES,
            found: bytes.len(),
        };
        if bytes.len() != Self::BYTES {
            return Err(wrong);
        }
        let (registers, rest) = kvm_regs::read_from_prefix(bytes).map_err(|_| wrong)?;
        let (system_registers, rest) = kvm_sregs::read_from_prefix(rest).map_err(|_| wrong)?;
        let (debug_registers, rest) = kvm_debugregs::read_from_prefix(rest).map_err(|_| wrong)?;
        let (events, rest) = kvm_vcpu_events::read_from_prefix(rest).map_err(|_| wrong)?;
        let (msrs, extended) = rest.split_at(STATE_MSRS.len() * Self::MSR_BYTES);
        let msr = |bytes: &[u8]| {
            let (index, value) = u32::read_from_prefix(bytes).ok()?;
            Some((index, u64::read_from_bytes(value).ok()?))
        };
        let msrs: Option<Vec<_>> = msrs.chunks_exact(Self::MSR_BYTES).map(msr).collect();
        let word = |bytes: &[u8]| u32::read_from_bytes(bytes).ok();
        let extended: Option<Vec<_>> = extended.chunks_exact(4).map(word).collect();
        Ok(Self {
            registers,
            system_registers,
            debug_registers,
            events,
            msrs: msrs.ok_or(wrong)?,
            extended: extended.ok_or(wrong)?,
        })
    }
}

impl Vcpu {
    /// Saves the state. No instruction may be open ([`Vcpu::complete_instruction`]).
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn save(&mut self) -> Result<VcpuState, KvmError> {
        let events = self.events()?;
        let msrs = self.msrs()?;
        self.set_msrs(&msrs)?;
        Ok(VcpuState {
            registers: self.registers()?,
            system_registers: self.system_registers()?,
            debug_registers: self.debug_registers()?,
            events,
            msrs: self.msrs()?,
            extended: self.extended_state()?,
        })
    }

    /// The MSRs that hold a guest's state and which no other call shows, by number.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn msrs(&self) -> Result<Vec<(u32, u64)>, KvmError> {
        let call = "KVM_GET_MSRS";
        let entries = STATE_MSRS.map(|index| kvm_msr_entry {
            index,
            ..kvm_msr_entry::default()
        });
        let mut msrs = Msrs::from_entries(&entries).map_err(|error| KvmError::Ioctl {
            call,
            source: std::io::Error::other(format!("{error:?}")),
        })?;
        let read = self.fd.get_msrs(&mut msrs).map_err(KvmError::ioctl(call))?;
        if read < STATE_MSRS.len() {
            return Err(KvmError::Ioctl {
                call,
                source: std::io::Error::other(format!("KVM does not show MSR {:#x}", STATE_MSRS[read])),
            });
        }
        let values = msrs.as_slice().iter().map(|entry| (entry.index, entry.data));
        Ok(values.collect())
    }

    /// Sets MSRs.
    ///
    /// # Errors
    /// When KVM refuses one.
    pub fn set_msrs(&mut self, values: &[(u32, u64)]) -> Result<(), KvmError> {
        let call = "KVM_SET_MSRS";
        let failed = |what: String| KvmError::Ioctl {
            call,
            source: std::io::Error::other(what),
        };
        let entries: Vec<_> = values
            .iter()
            .map(|(index, data)| kvm_msr_entry {
                index: *index,
                data: *data,
                ..kvm_msr_entry::default()
            })
            .collect();
        let msrs = Msrs::from_entries(&entries).map_err(|error| failed(format!("{error:?}")))?;
        self.is_unsettled.set(true);
        let set = self.fd.set_msrs(&msrs).map_err(KvmError::ioctl(call))?;
        match values.get(set) {
            None => Ok(()),
            Some((index, value)) => Err(failed(format!("KVM does not take {value:#x} in MSR {index:#x}"))),
        }
    }

    /// Restores a saved state. An open instruction must have been completed.
    ///
    /// # Errors
    /// When KVM refuses, as it does for values that no processor takes.
    pub fn restore(&mut self, state: &VcpuState) -> Result<(), KvmError> {
        let mut flipped = state.system_registers;
        flipped.cr4 ^= CR4_PGE;
        self.set_system_registers(&flipped)?;
        self.set_system_registers(&state.system_registers)?;
        self.set_task_priority(state.system_registers.cr8);
        self.set_msrs(&state.msrs)?;
        self.set_extended_state(&state.extended)?;
        self.set_debug_registers(&state.debug_registers)?;
        self.set_registers(&state.registers)?;
        self.set_events(&state.events)
    }
}
