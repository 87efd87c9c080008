//! A guest for tests: 64 MiB of RAM, and a driver that finds and drives virtio functions as Linux does.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests cut values to register widths on purpose"
)]

use std::cell::Cell;

use crate::base::guest_memory::GuestMemory;
use crate::base::units::{GuestPhys, VirtualTime};
use crate::devices::pci::{PciBus, PciDevices};
use crate::devices::platform::{DISK_SLOT, ENTROPY_SLOT, NETWORK_SLOT};
use crate::devices::virtio_blk::{DiskConfig, VirtioBlk};
use crate::devices::virtio_net::{NetworkConfig, Offloads, VirtioNet};
use crate::devices::virtio_rng::VirtioRng;
use crate::devices::{AtExit, Effect, GuestFault, IrqLines, PortDevice};

pub(crate) const RAM_BYTES: u64 = 64 << 20;
/// Where tests put their buffers: above all rings.
pub(crate) const BUFFERS: u64 = 32 << 20;
pub(crate) const DISK_BYTES: u64 = 16 << 20;
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const INDIRECT: u64 = 1 << 28;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

pub(crate) struct TestGuest {
    pub(crate) bus: PciBus,
    pub(crate) memory: GuestMemory,
    pub(crate) irqs: IrqLines,
    pub(crate) effects: Vec<Effect>,
    /// Port accesses so far: each is an exit.
    pub(crate) exits: u64,
}

pub(crate) fn disk_config() -> DiskConfig {
    let mut serial = [0; 20];
    serial[..8].copy_from_slice(b"antipode");
    DiskConfig {
        byte_count: DISK_BYTES,
        read_only: false,
        serial,
    }
}

impl TestGuest {
    /// All three devices.
    pub(crate) fn new() -> Self {
        Self::with(disk_config(), Offloads::ALL)
    }

    pub(crate) fn with(disk: DiskConfig, offloads: Offloads) -> Self {
        let network = NetworkConfig {
            mac: MAC,
            transmit: offloads,
            receive: offloads,
            mtu: Some(1500),
        };
        Self {
            bus: PciBus::new(PciDevices {
                disk: Some(VirtioBlk::new(disk)),
                network: Some(VirtioNet::new(network)),
                entropy: VirtioRng::new(),
            }),
            memory: GuestMemory::allocate(RAM_BYTES).unwrap(),
            irqs: IrqLines::default(),
            effects: Vec::new(),
            exits: 0,
        }
    }

    /// One exit: `act` gets the bus and what a device may see.
    pub(crate) fn exit<R>(&mut self, act: impl FnOnce(&mut PciBus, &mut AtExit<'_>) -> R) -> R {
        let mut at = AtExit {
            now: VirtualTime::ZERO,
            memory: &self.memory,
            irqs: &mut self.irqs,
            effects: &mut self.effects,
        };
        act(&mut self.bus, &mut at)
    }

    pub(crate) fn port_in(&mut self, port: u16, width: usize) -> u32 {
        self.exits += 1;
        let mut data = [0; 4];
        self.exit(|bus, at| bus.port_read(port, &mut data[..width], at));
        u32::from_le_bytes(data)
    }

    pub(crate) fn port_out(&mut self, port: u16, width: usize, value: u32) {
        self.exits += 1;
        self.exit(|bus, at| bus.port_write(port, &value.to_le_bytes()[..width], at));
    }

    pub(crate) fn config_in(&mut self, slot: u8, offset: u8, width: usize) -> u32 {
        self.choose(slot, offset);
        self.port_in(0xCFC + u16::from(offset & 3), width)
    }

    pub(crate) fn config_out(&mut self, slot: u8, offset: u8, width: usize, value: u32) {
        self.choose(slot, offset);
        self.port_out(0xCFC + u16::from(offset & 3), width, value);
    }

    fn choose(&mut self, slot: u8, offset: u8) {
        let address = 0x8000_0000 | u32::from(slot) << 11 | u32::from(offset & !3);
        self.port_out(0xCF8, 4, address);
    }

    pub(crate) fn line(&self, irq: u8) -> bool {
        self.irqs.levels() & (1 << irq) != 0
    }

    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// The fault among the effects, if there is one; at most one is allowed.
    pub(crate) fn fault(&self) -> Option<GuestFault> {
        let mut faults = self.effects.iter().filter_map(|effect| match effect {
            Effect::Fault(fault) => Some(fault.clone()),
            _ => None,
        });
        let first = faults.next();
        assert_eq!(faults.next(), None, "a dead device must be silent");
        first
    }

    pub(crate) fn poke(&self, address: u64, bytes: &[u8]) {
        self.memory.write(GuestPhys(address), bytes).unwrap();
    }

    pub(crate) fn peek(&self, address: u64, byte_count: usize) -> Vec<u8> {
        let mut bytes = vec![0; byte_count];
        self.memory.read(GuestPhys(address), &mut bytes).unwrap();
        bytes
    }

    pub(crate) fn peek_word(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.peek(address, 2).try_into().unwrap())
    }
}

/// A buffer of a chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Buffer {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) writable: bool,
}

pub(crate) fn readable(address: u64, length: u32) -> Buffer {
    Buffer {
        address,
        length,
        writable: false,
    }
}

pub(crate) fn writable(address: u64, length: u32) -> Buffer {
    Buffer {
        address,
        length,
        writable: true,
    }
}

/// A queue as the driver sees it. Descriptors are handed out in turn and never run out in a test of fewer than `size`.
#[derive(Debug, Clone)]
pub(crate) struct TestQueue {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) driver: u64,
    pub(crate) device: u64,
    pub(crate) next_descriptor: Cell<u16>,
    pub(crate) seen_used: Cell<u16>,
}

impl TestQueue {
    fn at(slot: u8, index: u16, size: u16) -> Self {
        let base = 0x10_0000 * u64::from(slot) + 0x1_0000 * u64::from(index);
        Self {
            size,
            descriptors: base,
            driver: base + 0x4000,
            device: base + 0x8000,
            next_descriptor: Cell::new(0),
            seen_used: Cell::new(0),
        }
    }

    pub(crate) fn describe(&self, guest: &TestGuest, index: u16, buffer: Buffer, flags: u16, next: u16) {
        let address = self.descriptors + 16 * u64::from(index);
        poke_descriptor(guest, address, buffer, flags, next);
    }

    /// Writes a chain into the table and offers it, without a kick. Answers its head.
    pub(crate) fn offer(&self, guest: &TestGuest, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor.get();
        for (place, buffer) in buffers.iter().enumerate() {
            let index = self.next_descriptor.get();
            let next = (index + 1) % self.size;
            let more = if place + 1 < buffers.len() { NEXT } else { 0 };
            self.describe(guest, index, *buffer, more, next);
            self.next_descriptor.set(next);
        }
        self.offer_head(guest, head);
        head
    }

    /// Offers a chain whose one descriptor points at a table of its own.
    pub(crate) fn offer_indirect(&self, guest: &TestGuest, table: u64, buffers: &[Buffer]) -> u16 {
        for (place, buffer) in buffers.iter().enumerate() {
            let next = u16::try_from(place + 1).unwrap();
            let more = if place + 1 < buffers.len() { NEXT } else { 0 };
            poke_descriptor(guest, table + 16 * place as u64, *buffer, more, next);
        }
        let head = self.next_descriptor.get();
        let length = u32::try_from(16 * buffers.len()).unwrap();
        self.describe(guest, head, readable(table, length), 4, 0);
        self.next_descriptor.set((head + 1) % self.size);
        self.offer_head(guest, head);
        head
    }

    pub(crate) fn offer_head(&self, guest: &TestGuest, head: u16) {
        let index = guest.peek_word(self.driver + 2);
        guest.poke(
            self.driver + 4 + 2 * u64::from(index % self.size),
            &head.to_le_bytes(),
        );
        self.set_available(guest, index.wrapping_add(1));
    }

    pub(crate) fn set_available(&self, guest: &TestGuest, index: u16) {
        guest.poke(self.driver + 2, &index.to_le_bytes());
    }

    /// What the device used since the last call: head and bytes written.
    pub(crate) fn used(&self, guest: &TestGuest) -> Vec<(u32, u32)> {
        let end = guest.peek_word(self.device + 2);
        let mut used = Vec::new();
        while self.seen_used.get() != end {
            let place = u64::from(self.seen_used.get() % self.size);
            let element = guest.peek(self.device + 4 + 8 * place, 8);
            let [head, length] = [0, 4].map(|at| u32::from_le_bytes(element[at..at + 4].try_into().unwrap()));
            used.push((head, length));
            self.seen_used.set(self.seen_used.get().wrapping_add(1));
        }
        used
    }

    /// With `EVENT_IDX`: interrupt me when used buffer number `index` is there.
    pub(crate) fn set_used_event(&self, guest: &TestGuest, index: u16) {
        guest.poke(self.driver + 4 + 2 * u64::from(self.size), &index.to_le_bytes());
    }

    /// With `EVENT_IDX`: the offer that the device wants to be told of.
    pub(crate) fn available_event(&self, guest: &TestGuest) -> u16 {
        guest.peek_word(self.device + 4 + 8 * u64::from(self.size))
    }
}

fn poke_descriptor(guest: &TestGuest, address: u64, buffer: Buffer, flags: u16, next: u16) {
    let flags = flags | if buffer.writable { WRITE } else { 0 };
    let mut bytes = buffer.address.to_le_bytes().to_vec();
    bytes.extend_from_slice(&buffer.length.to_le_bytes());
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes.extend_from_slice(&next.to_le_bytes());
    guest.poke(address, &bytes);
}

/// Where a function's structures are, found through its capability list.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) slot: u8,
    pub(crate) common: u16,
    pub(crate) notify: u16,
    pub(crate) notify_multiplier: u16,
    pub(crate) isr: u16,
    pub(crate) device: u16,
    /// Configuration-space offset of the configuration access capability.
    pub(crate) window: u8,
    pub(crate) queues: Vec<TestQueue>,
}

impl Driver {
    pub(crate) fn find(guest: &mut TestGuest, slot: u8) -> Self {
        assert_eq!(guest.config_in(slot, 0, 2), 0x1AF4);
        assert_ne!(guest.config_in(slot, 6, 2) & 0x10, 0, "no capability list");
        let base = (guest.config_in(slot, 0x10, 4) & !3) as u16;
        let mut found = Self {
            slot,
            common: 0,
            notify: 0,
            notify_multiplier: 0,
            isr: 0,
            device: 0,
            window: 0,
            queues: Vec::new(),
        };
        let mut at = guest.config_in(slot, 0x34, 1) as u8;
        while at != 0 {
            assert_eq!(guest.config_in(slot, at, 1), 9);
            let offset = base + guest.config_in(slot, at + 8, 4) as u16;
            match guest.config_in(slot, at + 3, 1) {
                1 => found.common = offset,
                2 => {
                    found.notify = offset;
                    found.notify_multiplier = guest.config_in(slot, at + 16, 4) as u16;
                }
                3 => found.isr = offset,
                4 => found.device = offset,
                5 => found.window = at,
                other => panic!("unknown structure {other}"),
            }
            at = guest.config_in(slot, at + 1, 1) as u8;
        }
        found
    }

    pub(crate) fn disk(guest: &mut TestGuest) -> Self {
        Self::find(guest, DISK_SLOT)
    }

    pub(crate) fn network(guest: &mut TestGuest) -> Self {
        Self::find(guest, NETWORK_SLOT)
    }

    pub(crate) fn entropy(guest: &mut TestGuest) -> Self {
        Self::find(guest, ENTROPY_SLOT)
    }

    pub(crate) fn status(&self, guest: &mut TestGuest) -> u8 {
        guest.port_in(self.common + 20, 1) as u8
    }

    pub(crate) fn set_status(&self, guest: &mut TestGuest, status: u8) {
        guest.port_out(self.common + 20, 1, u32::from(status));
    }

    pub(crate) fn offered(&self, guest: &mut TestGuest) -> u64 {
        let mut half = |select| {
            guest.port_out(self.common, 4, select);
            u64::from(guest.port_in(self.common + 4, 4))
        };
        half(0) | half(1) << 32
    }

    pub(crate) fn accept(&self, guest: &mut TestGuest, features: u64) {
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            guest.port_out(self.common + 8, 4, select);
            guest.port_out(self.common + 12, 4, half);
        }
    }

    pub(crate) fn set_up_queue(&self, guest: &mut TestGuest, index: u16, queue: &TestQueue) {
        guest.port_out(self.common + 22, 2, u32::from(index));
        guest.port_out(self.common + 24, 2, u32::from(queue.size));
        for (offset, address) in [(32, queue.descriptors), (40, queue.driver), (48, queue.device)] {
            guest.port_out(self.common + offset, 4, address as u32);
            guest.port_out(self.common + offset + 4, 4, (address >> 32) as u32);
        }
        guest.port_out(self.common + 28, 2, 1);
    }

    /// From power-on or any other state to `DRIVER_OK`, with zeroed rings.
    pub(crate) fn start(&mut self, guest: &mut TestGuest, features: u64, size: u16) {
        guest.config_out(self.slot, 4, 2, 0b101);
        self.set_status(guest, 0);
        self.set_status(guest, 3);
        self.accept(guest, features | VERSION_1);
        self.set_status(guest, 11);
        assert_eq!(self.status(guest), 11, "the features were refused");
        let count = guest.port_in(self.common + 18, 2) as u16;
        self.queues = (0..count)
            .map(|index| TestQueue::at(self.slot, index, size))
            .collect();
        for (index, queue) in (0..).zip(&self.queues) {
            guest.poke(queue.descriptors, &[0; 0xC000]);
            self.set_up_queue(guest, index, queue);
        }
        self.set_status(guest, 15);
    }

    pub(crate) fn kick(&self, guest: &mut TestGuest, index: u16) {
        guest.port_out(self.notify + index * self.notify_multiplier, 2, u32::from(index));
    }

    pub(crate) fn read_isr(&self, guest: &mut TestGuest) -> u8 {
        guest.port_in(self.isr, 1) as u8
    }
}
