//! The entropy device: one queue of buffers to fill.

use std::collections::VecDeque;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use crate::base::limits::{ENTROPY_BYTES_MAX, VIRTQUEUE_SIZE_MAX};
use crate::devices::virtio::device::DEVICE_CONFIG_BYTES;
use crate::devices::virtio::{Chain, ChainState, Identity, RingFault, VirtioDevice, Virtqueue, word};
use crate::devices::{AtExit, Effect};

/// A virtio-rng device.
#[derive(Debug, Default)]
pub struct VirtioRng {
    /// Buffers to fill, at most as many as the queue holds.
    waiting: VecDeque<Chain>,
    /// Whether the machine owes an answer.
    asked: bool,
    byte_count: u64,
}

impl VirtioRng {
    /// A device that nobody has asked for bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes given to the guest.
    #[must_use]
    pub fn byte_count(&self) -> u64 {
        self.byte_count
    }

    /// Fills waiting buffers, oldest first, with the machine's answer.
    ///
    /// # Errors
    /// [`RingFault`] if a buffer cannot be put into the ring.
    pub fn provide(
        &mut self,
        bytes: &[u8],
        queues: Option<&mut [Virtqueue]>,
        at: &mut AtExit<'_>,
    ) -> Result<(), RingFault> {
        self.asked = false;
        let Some([queue, ..]) = queues else { return Ok(()) };
        let mut rest = bytes;
        while !rest.is_empty()
            && let Some(chain) = self.waiting.pop_front()
        {
            let (now, later) = rest.split_at(chain.writable_bytes().min(rest.len()));
            chain.write(at.memory, 0, now)?;
            queue.add_used(at.memory, &chain, now.len())?;
            self.byte_count += now.len() as u64;
            rest = later;
        }
        Ok(())
    }
}

impl VirtioDevice for VirtioRng {
    /// The buffers that wait, whether the machine owes an answer, bytes given.
    type State = (Vec<ChainState>, bool, u64);

    fn save(&self) -> Self::State {
        let waiting = self.waiting.iter().map(Chain::save).collect();
        (waiting, self.asked, self.byte_count)
    }

    fn restore(&mut self, (waiting, asked, byte_count): Self::State) -> Result<(), String> {
        if waiting.len() > usize::from(VIRTQUEUE_SIZE_MAX) {
            return Err("more buffers wait than its queue holds".into());
        }
        *self = Self {
            waiting: waiting.iter().map(Chain::restored).collect::<Result<_, _>>()?,
            asked,
            byte_count,
        };
        Ok(())
    }

    const IDENTITY: Identity = Identity {
        name: "virtio-rng",
        device_id: word(VIRTIO_ID_RNG),
        class: 0x00_FF_00,
        queue_count: 1,
    };

    fn features(&self) -> u64 {
        0
    }

    fn accepts(&self, _: u64) -> bool {
        true
    }

    fn config(&self) -> [u8; DEVICE_CONFIG_BYTES] {
        [0; DEVICE_CONFIG_BYTES]
    }

    fn start(&mut self, _: u64) {}

    fn reset(&mut self) {
        self.waiting.clear();
    }

    fn serve(&mut self, queues: &mut [Virtqueue], at: &mut AtExit<'_>) -> Result<(), RingFault> {
        let [queue, ..] = queues else { return Ok(()) };
        for _ in 0..queue.available(at.memory)? {
            let Some(chain) = queue.pop(at.memory)? else { break };
            chain.only_writable()?;
            if chain.writable_bytes() == 0 {
                return Err(chain.too_short("writable", 0, 1));
            }
            self.waiting.push_back(chain);
        }
        queue.ask_for_notification(at.memory, true)?;
        let wanted: usize = self.waiting.iter().map(Chain::writable_bytes).sum();
        if wanted > 0 && !self.asked {
            self.asked = true;
            at.effects.push(Effect::EntropyWanted {
                byte_count: wanted.min(ENTROPY_BYTES_MAX),
            });
        }
        Ok(())
    }
}
