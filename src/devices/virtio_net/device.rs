//! The interface's registers, and the flow of frames through its two rings.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;

use super::header::{HEADER_BYTES, Offloads, RECEIVE, TRANSMIT, mend_received, mend_transmitted};
use crate::base::guest_memory::GuestMemory;
use crate::base::limits::{FRAME_BYTES_MAX, RECEIVE_FRAMES_PENDING_MAX};
use crate::devices::virtio::device::DEVICE_CONFIG_BYTES;
use crate::devices::virtio::{Chain, Identity, RingFault, VirtioDevice, Virtqueue, feature, word};
use crate::devices::{AtExit, Effect, Frame};

/// What the interface is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Its address.
    pub mac: [u8; 6],
    /// What the TAP does for frames that the guest transmits.
    pub transmit: Offloads,
    /// What the TAP may leave to the guest in frames that it receives.
    pub receive: Offloads,
    /// MTU to tell the guest.
    pub mtu: Option<u16>,
}

/// What went through the interface since the VM was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkCounters {
    /// Frames put into the guest's buffers.
    pub received_frames: u64,
    /// Bytes of those, headers included.
    pub received_bytes: u64,
    /// Frames dropped on receive: no driver, no buffer for too long, too large a frame, or an offload not negotiated.
    pub receive_dropped: u64,
    /// Frames given to the host.
    pub transmitted_frames: u64,
    /// Bytes of those, headers included.
    pub transmitted_bytes: u64,
    /// Frames of the guest that no TAP would take.
    pub transmit_dropped: u64,
}

/// A virtio-net device.
#[derive(Debug)]
pub struct VirtioNet {
    config: NetworkConfig,
    accepted: u64,
    /// Frames for which there was no buffer, mended already.
    pending: VecDeque<Vec<u8>>,
    counters: NetworkCounters,
}

/// What became of the oldest pending frame.
enum Delivery {
    Delivered,
    /// Even an empty ring has no place for it.
    Impossible,
    NoBuffer,
}

impl VirtioNet {
    /// An interface whose link is up.
    #[must_use]
    pub fn new(config: NetworkConfig) -> Self {
        Self {
            config,
            accepted: 0,
            pending: VecDeque::new(),
            counters: NetworkCounters::default(),
        }
    }

    /// What went through.
    #[must_use]
    pub fn counters(&self) -> NetworkCounters {
        self.counters
    }

    /// Offloads that the driver takes on receive.
    #[must_use]
    pub fn receive_offloads(&self) -> Offloads {
        Offloads::from_features(self.accepted, RECEIVE)
    }

    /// Takes a frame from the host. Without `queues` there is no driver that wants it.
    ///
    /// # Errors
    /// [`RingFault`] if a buffer for it breaks the rules.
    pub fn receive(
        &mut self,
        frame: Frame,
        queues: Option<&mut [Virtqueue]>,
        at: &AtExit<'_>,
    ) -> Result<(), RingFault> {
        let mended = mend_received(frame.0, self.receive_offloads());
        let (Some(frame), Some([queue, ..])) = (mended, queues) else {
            self.counters.receive_dropped += 1;
            return Ok(());
        };
        if self.pending.len() >= RECEIVE_FRAMES_PENDING_MAX {
            self.counters.receive_dropped += 1;
            return Ok(());
        }
        let nobody_waits = self.pending.is_empty();
        self.pending.push_back(frame);
        if nobody_waits {
            self.deliver(queue, at.memory)
        } else {
            Ok(())
        }
    }

    /// Puts pending frames into buffers, as far as there are any.
    fn deliver(&mut self, queue: &mut Virtqueue, memory: &GuestMemory) -> Result<(), RingFault> {
        let mergeable = self.accepted & feature(VIRTIO_NET_F_MRG_RXBUF) != 0;
        while let Some(mut frame) = self.pending.pop_front() {
            match put(&mut frame, mergeable, queue, memory)? {
                Delivery::Delivered => {
                    self.counters.received_frames += 1;
                    self.counters.received_bytes += frame.len() as u64;
                }
                Delivery::Impossible => self.counters.receive_dropped += 1,
                Delivery::NoBuffer => {
                    self.pending.push_front(frame);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes every frame that the guest offers.
    fn transmit(&mut self, queue: &mut Virtqueue, at: &mut AtExit<'_>) -> Result<(), RingFault> {
        let allowed = Offloads::from_features(self.accepted, TRANSMIT);
        for _ in 0..queue.available(at.memory)? {
            let Some(chain) = queue.pop(at.memory)? else { break };
            chain.only_readable()?;
            let byte_count = chain.readable_bytes();
            if byte_count < HEADER_BYTES {
                return Err(chain.too_short("readable", byte_count, HEADER_BYTES));
            }
            let mended = if byte_count <= FRAME_BYTES_MAX {
                let mut frame = vec![0; byte_count];
                chain.read(at.memory, 0, &mut frame)?;
                mend_transmitted(frame, allowed)
            } else {
                None
            };
            if let Some(frame) = mended {
                self.counters.transmitted_frames += 1;
                self.counters.transmitted_bytes += frame.len() as u64;
                at.effects.push(Effect::Transmit(Frame(frame)));
            } else {
                self.counters.transmit_dropped += 1;
            }
            queue.add_used(at.memory, &chain, 0)?;
        }
        queue.ask_for_notification(at.memory, true)
    }
}

/// Puts `frame` into one buffer, or into as many as it takes if `mergeable`, and writes their number into its header.
fn put(
    frame: &mut [u8],
    mergeable: bool,
    queue: &mut Virtqueue,
    memory: &GuestMemory,
) -> Result<Delivery, RingFault> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut room = 0;
    while room < frame.len() {
        let Some(chain) = queue.pop(memory)? else {
            // The ring can hold no more buffers than it offered: more time will not help.
            let hopeless = chains.len() >= usize::from(queue.size());
            queue.unpop(&chains);
            return Ok(if hopeless {
                Delivery::Impossible
            } else {
                Delivery::NoBuffer
            });
        };
        chain.only_writable()?;
        let byte_count = chain.writable_bytes();
        if byte_count < HEADER_BYTES {
            return Err(chain.too_short("writable", byte_count, HEADER_BYTES));
        }
        room += byte_count;
        chains.push(chain);
        if !mergeable && room < frame.len() {
            queue.unpop(&chains);
            return Ok(Delivery::Impossible);
        }
    }
    let buffers = u16::try_from(chains.len()).unwrap_or(u16::MAX);
    frame[10..HEADER_BYTES].copy_from_slice(&buffers.to_le_bytes());
    let mut rest = &*frame;
    for chain in &chains {
        let (now, later) = rest.split_at(chain.writable_bytes().min(rest.len()));
        chain.write(memory, 0, now)?;
        queue.add_used(memory, chain, now.len())?;
        rest = later;
    }
    Ok(Delivery::Delivered)
}

impl VirtioDevice for VirtioNet {
    /// Features that the driver accepted, frames that wait for a buffer, counters.
    type State = (u64, Vec<Vec<u8>>, NetworkCounters);

    fn save(&self) -> Self::State {
        let pending = self.pending.iter().cloned().collect();
        (self.accepted, pending, self.counters)
    }

    fn restore(&mut self, (accepted, pending, counters): Self::State) -> Result<(), String> {
        if pending.len() > RECEIVE_FRAMES_PENDING_MAX
            || pending
                .iter()
                .any(|frame| !(HEADER_BYTES..=FRAME_BYTES_MAX).contains(&frame.len()))
        {
            return Err("more frames wait, or longer or shorter ones, than the interface keeps".into());
        }
        self.accepted = accepted;
        self.pending = pending.into();
        self.counters = counters;
        Ok(())
    }

    const IDENTITY: Identity = Identity {
        name: "virtio-net",
        device_id: word(VIRTIO_ID_NET),
        class: 0x02_00_00,
        queue_count: 2,
    };

    fn features(&self) -> u64 {
        let mtu = self.config.mtu.map_or(0, |_| feature(VIRTIO_NET_F_MTU));
        feature(VIRTIO_NET_F_MAC)
            | feature(VIRTIO_NET_F_STATUS)
            | feature(VIRTIO_NET_F_MRG_RXBUF)
            | mtu
            | self.config.transmit.sound().features(TRANSMIT)
            | self.config.receive.sound().features(RECEIVE)
    }

    fn accepts(&self, accepted: u64) -> bool {
        [TRANSMIT, RECEIVE].into_iter().all(|direction| {
            let chosen = Offloads::from_features(accepted, direction);
            chosen == chosen.sound()
        })
    }

    fn config(&self) -> [u8; DEVICE_CONFIG_BYTES] {
        let mut config = [0; DEVICE_CONFIG_BYTES];
        config[0..6].copy_from_slice(&self.config.mac);
        config[6..8].copy_from_slice(&word(VIRTIO_NET_S_LINK_UP).to_le_bytes());
        config[8..10].copy_from_slice(&1_u16.to_le_bytes());
        config[10..12].copy_from_slice(&self.config.mtu.unwrap_or(0).to_le_bytes());
        config
    }

    fn start(&mut self, accepted: u64) {
        self.accepted = accepted;
    }

    fn reset(&mut self) {
        self.accepted = 0;
        let dropped = std::mem::take(&mut self.pending).len();
        self.counters.receive_dropped += dropped as u64;
    }

    fn serve(&mut self, queues: &mut [Virtqueue], at: &mut AtExit<'_>) -> Result<(), RingFault> {
        let [receive, transmit, ..] = queues else {
            return Ok(());
        };
        self.deliver(receive, at.memory)?;
        receive.ask_for_notification(at.memory, !self.pending.is_empty())?;
        self.transmit(transmit, at)
    }
}
