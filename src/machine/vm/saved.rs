//! A VM that is held, saved and restored: everything but RAM, which is [`crate::replay`]'s to carry, and the disk's content.

use serde::{Deserialize, Serialize};

use super::{Totals, Vm};
use crate::base::parts::{PartError, Parts};
use crate::base::units::VirtualTime;
use crate::devices::DiskRequestId;
use crate::devices::virtio_blk::{Unanswered, VirtioBlk};
use crate::machine::kvm::{KvmError, VcpuState};
use crate::machine::user_tsc::UserTscState;

const VCPU: &str = "vcpu";
const MACHINE: &str = "machine";
const VERSION: u16 = 1;

/// Why a VM cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A part of the saved state is at fault.
    #[error(transparent)]
    Part(#[from] PartError),
    /// Whoever sent it has given up.
    #[error("it did not arrive whole")]
    GivenUp,
    /// There is no such page in this VM.
    #[error("it holds a page at {0:#x}, where this VM has no RAM")]
    NoSuchPage(u64),
    /// It is another machine than was sent.
    #[error("it differs from what was sent in {0}")]
    Differs(String),
    /// KVM does not take the vCPU's state.
    #[error("KVM refuses the saved vCPU: {0}")]
    Kvm(#[from] KvmError),
}

/// What the loop keeps besides devices and vCPU.
#[derive(Debug, Serialize, Deserialize)]
struct MachineState {
    now: VirtualTime,
    user_tsc: UserTscState,
    is_halted: bool,
    window_just_opened: bool,
    awaits_window: bool,
    /// Of a line that the guest has not ended yet.
    console_bytes: Vec<u8>,
    totals: Totals,
}

impl Vm {
    /// Saves a VM that is held.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(in crate::machine) fn save(&mut self) -> Result<Parts, KvmError> {
        debug_assert!(
            !self.is_between_exits && self.posted.is_empty(),
            "held at an exit"
        );
        self.vcpu.complete_instruction()?;
        let mut parts = Parts::default();
        parts.put(VCPU, VERSION, &self.vcpu.save()?.to_bytes());
        let state = MachineState {
            now: self.now,
            user_tsc: self.user_tsc.save(),
            is_halted: self.is_halted,
            window_just_opened: self.window_just_opened,
            awaits_window: self.awaits_window,
            console_bytes: self.console_bytes.clone(),
            totals: self.totals.clone(),
        };
        parts.put(MACHINE, VERSION, &state);
        self.board.save(&mut parts);
        Ok(parts)
    }

    /// Makes this VM, which has not run and has the same devices, the one that was saved. RAM comes first.
    ///
    /// # Errors
    /// [`RestoreError`]; the VM is of no use then.
    pub(in crate::machine) fn restore(&mut self, mut parts: Parts) -> Result<(), RestoreError> {
        let vcpu: Vec<u8> = parts.take(VCPU, VERSION)?;
        let vcpu = VcpuState::from_bytes(&vcpu).map_err(|error| PartError::refused(VCPU, error))?;
        let state: MachineState = parts.take(MACHINE, VERSION)?;
        self.board.restore(&mut parts, self.kvm.memory())?;
        parts.finish()?;
        self.vcpu.restore(&vcpu)?;
        self.now = state.now;
        self.user_tsc.restore(&state.user_tsc);
        self.is_halted = state.is_halted;
        self.window_just_opened = state.window_just_opened;
        self.awaits_window = state.awaits_window;
        self.console_bytes = state.console_bytes;
        self.totals = state.totals;
        self.console_room = self.board.console_input_room();
        let shown = self.show_hpet();
        shown.map_err(|error| PartError::refused("hpet", error))?;
        Ok(())
    }

    /// What is to be done for the disk requests that were in flight when it was saved.
    pub(in crate::machine) fn unanswered(&self) -> Vec<Unanswered> {
        let disk = self.board.disk();
        disk.into_iter().flat_map(VirtioBlk::unanswered).collect()
    }

    /// Writes and flushes that must have ended before the disk's content belongs to this state.
    pub(in crate::machine) fn unfinished_writes(&self) -> Vec<DiskRequestId> {
        let disk = self.board.disk();
        disk.into_iter().flat_map(VirtioBlk::unfinished_writes).collect()
    }
}
