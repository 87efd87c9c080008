//! The registers of a virtio PCI function, over any [`VirtioDevice`].

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::ring::{RingFault, Virtqueue};
use super::{byte, feature};
use crate::devices::pci::config_space::{BAR0_BYTES, ConfigSpace, PciIdentity};
use crate::devices::{AtExit, Effect, GuestFault, IrqLines};

const COMMON: u16 = 0x00;
const COMMON_BYTES: u16 = 60;
const NOTIFY: u16 = 0x40;
const NOTIFY_MULTIPLIER: u16 = 4;
const ISR: u16 = 0x60;
const DEVICE: u16 = 0x80;
/// Bytes of device configuration; the longest of ours is shorter.
pub const DEVICE_CONFIG_BYTES: usize = DEVICE_BYTES as usize;
const DEVICE_BYTES: u16 = 64;

const STATUS_FEATURES_OK: u8 = byte(VIRTIO_CONFIG_S_FEATURES_OK);
const STATUS_DRIVER_OK: u8 = byte(VIRTIO_CONFIG_S_DRIVER_OK);
const STATUS_NEEDS_RESET: u8 = byte(VIRTIO_CONFIG_S_NEEDS_RESET);
const ISR_QUEUE: u8 = 1;
const NO_VECTOR: u16 = 0xFFFF;

const VENDOR: u16 = 0x1AF4;
const DEVICE_ID_BASE: u16 = 0x1040;
/// At least 0x40, so that no legacy driver takes the device (§ 4.1.2.1).
const SUBSYSTEM_ID: u16 = 0x1100;
const CAPABILITY_VENDOR: u8 = 0x09;
/// From the start of the configuration access capability to its data window (§ 4.1.4.9).
const WINDOW_BAR: usize = 4;
const WINDOW_OFFSET: usize = 8;
const WINDOW_LENGTH: usize = 12;
const WINDOW_DATA: usize = 16;

const TRANSPORT_FEATURES: u64 =
    feature(VIRTIO_F_VERSION_1) | feature(VIRTIO_RING_F_EVENT_IDX) | feature(VIRTIO_RING_F_INDIRECT_DESC);

const _: () = assert!(COMMON + COMMON_BYTES <= NOTIFY);
const _: () = assert!(DEVICE + DEVICE_BYTES <= BAR0_BYTES);

/// What a virtio device type is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// As in `virtio-blk`.
    pub name: &'static str,
    /// virtio device id (§ 5).
    pub device_id: u16,
    /// PCI class code.
    pub class: u32,
    /// Virtqueues.
    pub queue_count: u16,
}

/// A device behind the transport. It touches rings only when called.
pub trait VirtioDevice {
    /// What it is.
    const IDENTITY: Identity;

    /// Its saved form, beside registers and queues.
    type State: Serialize + DeserializeOwned;

    /// Saves it.
    fn save(&self) -> Self::State;

    /// Makes it what `state` is of.
    ///
    /// # Errors
    /// What cannot be, in words.
    fn restore(&mut self, state: Self::State) -> Result<(), String>;

    /// Features it offers, without those of the transport.
    fn features(&self) -> u64;

    /// Whether `accepted`, a subset of what is offered, is a sound choice.
    fn accepts(&self, accepted: u64) -> bool;

    /// Its configuration (§ 5), zero-padded.
    fn config(&self) -> [u8; DEVICE_CONFIG_BYTES];

    /// The driver is up, with `accepted` features.
    fn start(&mut self, accepted: u64);

    /// The driver reset the device: forget every chain.
    fn reset(&mut self);

    /// Does what can be done: takes chains offered, puts into rings what waits for them.
    ///
    /// # Errors
    /// [`RingFault`] when the guest broke a rule; the device is dead then.
    fn serve(&mut self, queues: &mut [Virtqueue], at: &mut AtExit<'_>) -> Result<(), RingFault>;
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct CommonRegisters {
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    status: u8,
    queue_select: u16,
}

/// A PCI function with a virtio device in it.
#[derive(Debug)]
pub struct VirtioPci<D> {
    pub(super) device: D,
    pub(super) config: ConfigSpace,
    /// Offset of the configuration access capability.
    window: usize,
    io_base_at_power_on: u16,
    line: u8,
    pub(super) common: CommonRegisters,
    pub(super) queues: Vec<Virtqueue>,
    pub(super) isr: u8,
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// `device` with its BAR at `io_base` and INTA# wired to `line`.
    #[must_use]
    pub fn new(device: D, io_base: u16, line: u8) -> Self {
        let (config, window) = config_space(D::IDENTITY, io_base, line);
        Self {
            device,
            config,
            window,
            io_base_at_power_on: io_base,
            line,
            common: CommonRegisters::default(),
            queues: (0..D::IDENTITY.queue_count).map(Virtqueue::new).collect(),
            isr: 0,
        }
    }

    /// The device itself.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Back to power-on: configuration space too. What the device has asked of the host stays asked.
    pub fn power_on(&mut self, irqs: &mut IrqLines) {
        self.reset(irqs);
        (self.config, self.window) = config_space(D::IDENTITY, self.io_base_at_power_on, self.line);
    }

    /// First port of the BAR, if decoded.
    #[must_use]
    pub fn io_base(&self) -> Option<u16> {
        self.config.io_base()
    }

    /// Hands an input to the device, with its queues if it may use them now, then serves the rings and looks once
    /// whether the guest wants an interrupt.
    pub fn input(
        &mut self,
        at: &mut AtExit<'_>,
        take: impl FnOnce(&mut D, Option<&mut [Virtqueue]>, &mut AtExit<'_>) -> Result<(), RingFault>,
    ) {
        let usable = self.is_running();
        let queues = usable.then_some(self.queues.as_mut_slice());
        let mut done = take(&mut self.device, queues, at);
        if usable {
            done = done.and_then(|()| self.device.serve(&mut self.queues, at));
            done = done.and_then(|()| self.offer_interrupt(at));
        }
        self.settle(done, at);
    }

    fn is_running(&self) -> bool {
        let status = self.common.status;
        status & STATUS_DRIVER_OK != 0 && status & STATUS_NEEDS_RESET == 0 && self.config.is_bus_master()
    }

    fn serve(&mut self, at: &mut AtExit<'_>) {
        self.input(at, |_, _, _| Ok(()));
    }

    fn offer_interrupt(&mut self, at: &mut AtExit<'_>) -> Result<(), RingFault> {
        for queue in &mut self.queues {
            if queue.interrupt_wanted(at.memory)? {
                self.isr |= ISR_QUEUE;
            }
        }
        self.drive_line(at.irqs);
        Ok(())
    }

    fn drive_line(&mut self, irqs: &mut IrqLines) {
        let driven = self.config.interrupt(self.isr != 0);
        irqs.set(self.line, driven);
    }

    fn settle(&mut self, done: Result<(), RingFault>, at: &mut AtExit<'_>) {
        let Err(fault) = done else { return };
        self.common.status |= STATUS_NEEDS_RESET;
        at.effects.push(Effect::Fault(GuestFault {
            device: D::IDENTITY.name,
            what: fault.to_string(),
        }));
    }

    fn reset(&mut self, irqs: &mut IrqLines) {
        self.device.reset();
        self.common = CommonRegisters::default();
        self.queues.iter_mut().for_each(Virtqueue::reset);
        self.isr = 0;
        self.drive_line(irqs);
    }

    fn offered_features(&self) -> u64 {
        self.device.features() | TRANSPORT_FEATURES
    }

    /// The guest reads configuration space.
    pub fn config_read(&mut self, offset: usize, data: &mut [u8], at: &mut AtExit<'_>) {
        if self.touches_window(offset, data.len())
            && let Some((start, length)) = self.window_target()
        {
            let mut bytes = [0; 4];
            self.io_read(start, &mut bytes[..length], at);
            self.config.place(self.window + WINDOW_DATA, &bytes[..length]);
        }
        self.config.read(offset, data);
    }

    /// The guest writes configuration space.
    pub fn config_write(&mut self, offset: usize, data: &[u8], at: &mut AtExit<'_>) {
        let was_bus_master = self.config.is_bus_master();
        self.config.write(offset, data);
        self.drive_line(at.irqs);
        if !was_bus_master && self.config.is_bus_master() {
            self.serve(at);
        }
        if self.touches_window(offset, data.len())
            && let Some((start, length)) = self.window_target()
        {
            let mut bytes = [0; 4];
            self.config.read(self.window + WINDOW_DATA, &mut bytes);
            self.io_write(start, &bytes[..length], at);
        }
    }

    fn touches_window(&self, offset: usize, byte_count: usize) -> bool {
        let data = self.window + WINDOW_DATA;
        offset < data + 4 && data < offset + byte_count
    }

    /// The BAR offset and width that the guest's configuration access names, if sound (§ 4.1.4.9).
    fn window_target(&self) -> Option<(u16, usize)> {
        let offset = self.config.dword(self.window + WINDOW_OFFSET);
        let length = self.config.dword(self.window + WINDOW_LENGTH);
        let bar = self.config.dword(self.window + WINDOW_BAR) & 0xFF;
        let inside = u32::from(BAR0_BYTES).checked_sub(length)? >= offset;
        let sound = bar == 0 && matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length);
        let start = u16::try_from(offset).ok()?;
        (inside && sound).then_some((start, usize::try_from(length).ok()?))
    }

    /// The guest reads the BAR at `offset`. What is no register reads as zeros.
    pub fn io_read(&mut self, offset: u16, data: &mut [u8], at: &mut AtExit<'_>) {
        data.fill(0);
        match offset {
            COMMON..NOTIFY => copy_from(&self.common_image(), offset - COMMON, data),
            ISR => {
                copy_from(&[self.isr], 0, data);
                self.isr = 0;
                self.drive_line(at.irqs);
            }
            DEVICE.. => copy_from(&self.device.config(), offset - DEVICE, data),
            _ => {}
        }
    }

    /// The guest writes the BAR at `offset`.
    pub fn io_write(&mut self, offset: u16, data: &[u8], at: &mut AtExit<'_>) {
        match offset {
            COMMON..NOTIFY => self.common_write(offset - COMMON, data, at),
            NOTIFY..ISR if (offset - NOTIFY) / NOTIFY_MULTIPLIER < D::IDENTITY.queue_count => self.serve(at),
            _ => {}
        }
    }

    /// § 4.1.4.3, as the guest would read it whole.
    fn common_image(&self) -> [u8; COMMON_BYTES as usize] {
        let common = &self.common;
        let half = |features: u64, select: u32| match select {
            0 => (features & 0xFFFF_FFFF).to_le_bytes(),
            1 => (features >> 32).to_le_bytes(),
            _ => [0; 8],
        };
        let offered = half(self.offered_features(), common.device_feature_select);
        let accepted = half(common.driver_features, common.driver_feature_select);
        let mut image = [0; COMMON_BYTES as usize];
        let mut put =
            |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, &common.device_feature_select.to_le_bytes());
        put(4, &offered[..4]);
        put(8, &common.driver_feature_select.to_le_bytes());
        put(12, &accepted[..4]);
        put(16, &NO_VECTOR.to_le_bytes());
        put(18, &D::IDENTITY.queue_count.to_le_bytes());
        // The configuration never changes while the device lives, so its generation stays 0.
        put(20, &[common.status, 0]);
        put(22, &common.queue_select.to_le_bytes());
        if let Some(queue) = self.queues.get(usize::from(common.queue_select)) {
            put(24, &queue.registers.size.to_le_bytes());
            put(26, &NO_VECTOR.to_le_bytes());
            put(28, &u16::from(queue.is_enabled()).to_le_bytes());
            put(30, &common.queue_select.to_le_bytes());
            put(32, &queue.registers.descriptors.to_le_bytes());
            put(40, &queue.registers.driver.to_le_bytes());
            put(48, &queue.registers.device.to_le_bytes());
        }
        image
    }

    /// Takes writes of a register's own width; a 64-bit register also half by half. Others are ignored (§ 4.1.3.1).
    fn common_write(&mut self, offset: u16, data: &[u8], at: &mut AtExit<'_>) {
        let mut wide = [0; 4];
        copy_from(data, 0, &mut wide);
        let value = u32::from_le_bytes(wide);
        let low = (value & 0xFFFF) as u16;
        match (offset, data.len()) {
            (0, 4) => self.common.device_feature_select = value,
            (8, 4) => self.common.driver_feature_select = value,
            (12, 4) => self.accept_features(value),
            (20, 1) => self.write_status((value & 0xFF) as u8, at),
            (22, 2) => self.common.queue_select = low,
            (24.., _) => self.write_queue_register(offset, data.len(), value, at),
            _ => {}
        }
    }

    fn accept_features(&mut self, value: u32) {
        if self.common.status & STATUS_FEATURES_OK != 0 {
            return;
        }
        let shift = match self.common.driver_feature_select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        self.common.driver_features &= !(0xFFFF_FFFF << shift);
        self.common.driver_features |= u64::from(value) << shift;
    }

    /// § 2.1: bits are only ever added; zero resets. `FEATURES_OK` sticks only if the choice is sound, `DRIVER_OK`
    /// only after it.
    fn write_status(&mut self, value: u8, at: &mut AtExit<'_>) {
        if value == 0 {
            self.reset(at.irqs);
            return;
        }
        let accepted = self.common.driver_features;
        let mut added = value & !self.common.status & !STATUS_NEEDS_RESET;
        if added & STATUS_FEATURES_OK != 0 {
            let sound = accepted & !self.offered_features() == 0
                && accepted & feature(VIRTIO_F_VERSION_1) != 0
                && self.device.accepts(accepted);
            if !sound {
                added &= !STATUS_FEATURES_OK;
            }
        }
        if (self.common.status | added) & STATUS_FEATURES_OK == 0 {
            added &= !STATUS_DRIVER_OK;
        }
        self.common.status |= added;
        if added & STATUS_DRIVER_OK != 0 {
            let event_idx = accepted & feature(VIRTIO_RING_F_EVENT_IDX) != 0;
            self.queues
                .iter_mut()
                .for_each(|queue| queue.use_event_idx(event_idx));
            self.device.start(accepted);
            self.serve(at);
        }
    }

    /// Queue registers are open until the queue is enabled, queues until the driver is up.
    fn write_queue_register(&mut self, offset: u16, width: usize, value: u32, at: &mut AtExit<'_>) {
        let closed = self.common.status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET) != 0;
        let Some(queue) = self.queues.get_mut(usize::from(self.common.queue_select)) else {
            return;
        };
        if closed || queue.is_enabled() {
            return;
        }
        let registers = &mut queue.registers;
        match (offset, width) {
            (24, 2) => registers.size = (value & 0xFFFF) as u16,
            (28, 2) if value == 1 => {
                let enabled = queue.enable(at.memory);
                self.settle(enabled, at);
            }
            (32 | 36, 4) => set_half(&mut registers.descriptors, offset == 36, value),
            (40 | 44, 4) => set_half(&mut registers.driver, offset == 44, value),
            (48 | 52, 4) => set_half(&mut registers.device, offset == 52, value),
            _ => {}
        }
    }
}

fn set_half(register: &mut u64, high: bool, value: u32) {
    let shift = if high { 32 } else { 0 };
    *register = (*register & !(0xFFFF_FFFF << shift)) | (u64::from(value) << shift);
}

fn copy_from(image: &[u8], offset: u16, data: &mut [u8]) {
    for (byte, source) in data.iter_mut().zip(image.iter().skip(usize::from(offset))) {
        *byte = *source;
    }
}

/// The function's configuration space, and the offset of its configuration access capability.
fn config_space(identity: Identity, io_base: u16, line: u8) -> (ConfigSpace, usize) {
    let pci = PciIdentity {
        vendor: VENDOR,
        device: DEVICE_ID_BASE + identity.device_id,
        revision: 1,
        class: identity.class,
        subsystem: (VENDOR, SUBSYSTEM_ID),
    };
    let mut space = ConfigSpace::new(pci).with_io_bar(io_base, line);
    let notify_bytes = NOTIFY_MULTIPLIER * identity.queue_count;
    // Type of structure, its place in BAR 0, its length, what follows the common part (§ 4.1.4).
    let structures: [(u8, u16, u16, &[u8]); 4] = [
        (1, COMMON, COMMON_BYTES, &[]),
        (
            2,
            NOTIFY,
            notify_bytes,
            &u32::from(NOTIFY_MULTIPLIER).to_le_bytes(),
        ),
        (3, ISR, 1, &[]),
        (4, DEVICE, DEVICE_BYTES, &[]),
    ];
    for (kind, offset, length, tail) in structures {
        space.add_capability(CAPABILITY_VENDOR, &capability_body(kind, offset, length, tail));
    }
    let window = usize::from(space.add_capability(CAPABILITY_VENDOR, &capability_body(5, 0, 0, &[0; 4])));
    space.allow(window + WINDOW_BAR, &[0xFF]);
    space.allow(window + WINDOW_OFFSET, &[0xFF; 12]);
    (space, window)
}

fn capability_body(kind: u8, offset: u16, length: u16, tail: &[u8]) -> Vec<u8> {
    let whole = u8::try_from(16 + tail.len()).unwrap_or(u8::MAX);
    let mut body = vec![whole, kind, 0, 0, 0, 0];
    body.extend_from_slice(&u32::from(offset).to_le_bytes());
    body.extend_from_slice(&u32::from(length).to_le_bytes());
    body.extend_from_slice(tail);
    body
}
