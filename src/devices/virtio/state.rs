//! The saved form of a virtio PCI function.

use serde::{Deserialize, Serialize};

use super::device::{CommonRegisters, VirtioDevice, VirtioPci};
use super::ring::{QueueState, Virtqueue};
use crate::base::guest_memory::GuestMemory;
use crate::base::parts::{PartError, Parts};

/// Registers, queues, and the device behind them.
#[derive(Debug, Serialize, Deserialize)]
struct FunctionState<S> {
    config: Vec<u8>,
    common: CommonRegisters,
    queues: Vec<QueueState>,
    isr: u8,
    device: S,
}

/// Of [`FunctionState`] and all that it holds.
const STATE_VERSION: u16 = 1;

impl<D: VirtioDevice> VirtioPci<D> {
    /// Saves it, under the device's name.
    pub fn save(&self, parts: &mut Parts) {
        let state = FunctionState {
            config: self.config.save(),
            common: self.common,
            queues: self.queues.iter().map(Virtqueue::save).collect(),
            isr: self.isr,
            device: self.device.save(),
        };
        parts.put(D::IDENTITY.name, STATE_VERSION, &state);
    }

    /// Makes it what was saved.
    ///
    /// # Errors
    /// [`PartError`].
    pub fn restore(&mut self, parts: &mut Parts, memory: &GuestMemory) -> Result<(), PartError> {
        let name = D::IDENTITY.name;
        let state: FunctionState<D::State> = parts.take(name, STATE_VERSION)?;
        if state.queues.len() != self.queues.len() {
            return Err(PartError::refused(name, "it has another number of queues"));
        }
        let restored = self.config.restore(&state.config);
        restored.map_err(|what| PartError::refused(name, what))?;
        self.common = state.common;
        self.isr = state.isr;
        for (queue, state) in self.queues.iter_mut().zip(&state.queues) {
            let restored = queue.restore(state, memory);
            restored.map_err(|fault| PartError::refused(name, fault))?;
        }
        let restored = self.device.restore(state.device);
        restored.map_err(|what| PartError::refused(name, what))
    }
}
