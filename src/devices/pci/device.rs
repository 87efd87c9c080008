//! Dispatch: from ports to functions, from the machine's inputs to devices.

use super::config_space::{BAR0_BYTES, ConfigSpace, PciIdentity};
use crate::base::guest_memory::GuestMemory;
use crate::base::parts::{PartError, Parts};
use crate::devices::platform::{
    DISK_IRQ, DISK_SLOT, ENTROPY_IRQ, ENTROPY_SLOT, NETWORK_IRQ, NETWORK_SLOT, PCI_CONFIG_PORTS,
    PCI_HOST_BRIDGE_SLOT, PCI_IO_WINDOW,
};
use crate::devices::virtio::{VirtioDevice, VirtioPci};
use crate::devices::virtio_blk::{DiskCounters, VirtioBlk};
use crate::devices::virtio_net::{NetworkCounters, Offloads, VirtioNet};
use crate::devices::virtio_rng::VirtioRng;
use crate::devices::{AtExit, DiskCompletion, Frame, IrqLines, PortDevice};

const CONFIG_ADDRESS: u16 = *PCI_CONFIG_PORTS.start();
const CONFIG_DATA: u16 = CONFIG_ADDRESS + 4;
/// In the address register's last byte.
const ENABLE: u8 = 1 << 7;
/// Reserved bits of the address register, and those of the byte within a register, read as zero.
const ADDRESS_BITS: u32 = 0x80FF_FFFC;

/// Between the BARs at power-on: 1 KiB, which keeps them clear of the ISA aliases that Linux avoids.
const BAR_STRIDE: u16 = 0x400;
const HOST_BRIDGE: PciIdentity = PciIdentity {
    vendor: 0x8086,
    device: 0x0D57,
    revision: 0,
    class: 0x06_00_00,
    subsystem: (0, 0),
};

const _: () = assert!(DISK_SLOT != NETWORK_SLOT && NETWORK_SLOT != ENTROPY_SLOT && ENTROPY_SLOT != DISK_SLOT);
const _: () = assert!(DISK_SLOT < 4 && NETWORK_SLOT < 4 && ENTROPY_SLOT < 4);
const _: () = assert!(*PCI_IO_WINDOW.end() - *PCI_IO_WINDOW.start() >= 4 * BAR_STRIDE - 1);

/// What sits on the bus.
#[derive(Debug)]
pub struct PciDevices {
    /// The disk.
    pub disk: Option<VirtioBlk>,
    /// The network interface.
    pub network: Option<VirtioNet>,
    /// The entropy device.
    pub entropy: VirtioRng,
}

/// What went through the devices since the VM was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PciCounters {
    /// The disk's; zeros without one.
    pub disk: DiskCounters,
    /// The network interface's; zeros without one.
    pub network: NetworkCounters,
    /// Random bytes given to the guest.
    pub entropy_bytes: u64,
}

/// The bus and its devices.
#[derive(Debug)]
pub struct PciBus {
    address: u32,
    host_bridge: ConfigSpace,
    disk: Option<VirtioPci<VirtioBlk>>,
    network: Option<VirtioPci<VirtioNet>>,
    entropy: VirtioPci<VirtioRng>,
}

impl PciBus {
    /// The bus at power-on.
    #[must_use]
    pub fn new(devices: PciDevices) -> Self {
        Self {
            address: 0,
            host_bridge: ConfigSpace::new(HOST_BRIDGE),
            disk: devices
                .disk
                .map(|disk| VirtioPci::new(disk, bar_base(DISK_SLOT), DISK_IRQ)),
            network: devices
                .network
                .map(|network| VirtioPci::new(network, bar_base(NETWORK_SLOT), NETWORK_IRQ)),
            entropy: VirtioPci::new(devices.entropy, bar_base(ENTROPY_SLOT), ENTROPY_IRQ),
        }
    }

    /// Back to power-on, as the machine resets. Requests that the host still works on stay known: their completions
    /// and entropy answers must still be handed in, and new disk requests wait for those they overlap.
    pub fn reset(&mut self, irqs: &mut IrqLines) {
        self.address = 0;
        if let Some(disk) = &mut self.disk {
            disk.power_on(irqs);
        }
        if let Some(network) = &mut self.network {
            network.power_on(irqs);
        }
        self.entropy.power_on(irqs);
    }

    /// Saves the bus and each function on it.
    pub fn save(&self, parts: &mut Parts) {
        parts.put(BUS_PART, BUS_VERSION, &(self.address, self.host_bridge.save()));
        if let Some(disk) = &self.disk {
            disk.save(parts);
        }
        if let Some(network) = &self.network {
            network.save(parts);
        }
        self.entropy.save(parts);
    }

    /// Makes the bus, with the same functions on it, what was saved.
    ///
    /// # Errors
    /// [`PartError`].
    pub fn restore(&mut self, parts: &mut Parts, memory: &GuestMemory) -> Result<(), PartError> {
        let (address, bridge): (u32, Vec<u8>) = parts.take(BUS_PART, BUS_VERSION)?;
        let restored = self.host_bridge.restore(&bridge);
        restored.map_err(|what| PartError::refused(BUS_PART, what))?;
        self.address = address & ADDRESS_BITS;
        if let Some(disk) = &mut self.disk {
            disk.restore(parts, memory)?;
        }
        if let Some(network) = &mut self.network {
            network.restore(parts, memory)?;
        }
        self.entropy.restore(parts, memory)
    }

    /// The disk, if there is one.
    #[must_use]
    pub fn disk(&self) -> Option<&VirtioBlk> {
        self.disk.as_ref().map(VirtioPci::device)
    }

    /// Disk requests have ended. All completions of one exit go in one call: one interrupt.
    pub fn complete_disk(&mut self, completions: Vec<DiskCompletion>, at: &mut AtExit<'_>) {
        let Some(disk) = &mut self.disk else { return };
        disk.input(at, |device, mut queues, at| {
            let mut done = Ok(());
            for completion in completions {
                // All are handed in, even past a fault: what the host has ended must not stay in flight.
                let usable = if done.is_ok() { queues.as_deref_mut() } else { None };
                done = done.and(device.complete(completion, usable, at));
            }
            done
        });
    }

    /// Frames have arrived. All frames of one exit go in one call: one interrupt.
    pub fn receive_frames(&mut self, frames: Vec<Frame>, at: &mut AtExit<'_>) {
        let Some(network) = &mut self.network else { return };
        network.input(at, |device, mut queues, at| {
            frames
                .into_iter()
                .try_for_each(|frame| device.receive(frame, queues.as_deref_mut(), at))
        });
    }

    /// Random bytes, in answer to [`Effect::EntropyWanted`](crate::devices::Effect::EntropyWanted).
    pub fn provide_entropy(&mut self, bytes: &[u8], at: &mut AtExit<'_>) {
        self.entropy
            .input(at, |device, queues, at| device.provide(bytes, queues, at));
    }

    /// Disk requests that the host works on now, those of a driver that has been reset included.
    #[must_use]
    pub fn disk_requests_in_flight(&self) -> usize {
        self.disk
            .as_ref()
            .map_or(0, |disk| disk.device().requests_in_flight())
    }

    /// Offloads that the running driver takes on receive: what the TAP may leave undone. All off while no driver
    /// runs. May change at any exit that touches the network's ports.
    #[must_use]
    pub fn receive_offloads(&self) -> Offloads {
        let network = self.network.as_ref();
        network.map_or(Offloads::NONE, |network| network.device().receive_offloads())
    }

    /// What went through the devices.
    #[must_use]
    pub fn counters(&self) -> PciCounters {
        PciCounters {
            disk: self
                .disk
                .as_ref()
                .map(|disk| disk.device().counters())
                .unwrap_or_default(),
            network: self
                .network
                .as_ref()
                .map(|network| network.device().counters())
                .unwrap_or_default(),
            entropy_bytes: self.entropy.device().byte_count(),
        }
    }

    /// The functions present, by slot.
    fn functions(&mut self) -> impl Iterator<Item = (u8, &mut dyn PciFunction)> {
        let bridge: &mut dyn PciFunction = &mut self.host_bridge;
        let disk = self
            .disk
            .as_mut()
            .map(|disk| (DISK_SLOT, disk as &mut dyn PciFunction));
        let network = self
            .network
            .as_mut()
            .map(|network| (NETWORK_SLOT, network as &mut dyn PciFunction));
        let entropy: &mut dyn PciFunction = &mut self.entropy;
        [
            Some((PCI_HOST_BRIDGE_SLOT, bridge)),
            disk,
            network,
            Some((ENTROPY_SLOT, entropy)),
        ]
        .into_iter()
        .flatten()
    }

    /// The function and the first configuration byte that the address register chooses.
    fn chosen(&mut self) -> Option<(&mut dyn PciFunction, usize)> {
        let [register, slot_and_function, bus, enable] = self.address.to_le_bytes();
        let slot = slot_and_function >> 3;
        if enable & ENABLE == 0 || bus != 0 || slot_and_function & 7 != 0 {
            return None;
        }
        let (_, function) = self.functions().find(|(of, _)| *of == slot)?;
        Some((function, usize::from(register)))
    }

    /// The function whose BAR covers `port`, and the offset in it.
    fn at_port(&mut self, port: u16) -> Option<(&mut dyn PciFunction, u16)> {
        self.functions().find_map(|(_, function)| {
            let offset = port.checked_sub(function.io_base()?)?;
            (offset < BAR0_BYTES).then_some((function, offset))
        })
    }

    fn config_port_read(&mut self, port: u16, data: &mut [u8], at: &mut AtExit<'_>) {
        let Some(offset) = port.checked_sub(CONFIG_DATA) else {
            let register = self.address.to_le_bytes();
            let bytes = register.iter().skip(usize::from(port - CONFIG_ADDRESS));
            data.iter_mut()
                .zip(bytes)
                .for_each(|(byte, value)| *byte = *value);
            return;
        };
        // What reaches past the data register belongs to other ports.
        let inside = data.len().min(usize::from(4 - offset.min(4)));
        if let Some((function, register)) = self.chosen() {
            function.config_read(register + usize::from(offset), &mut data[..inside], at);
        }
    }

    fn config_port_write(&mut self, port: u16, data: &[u8], at: &mut AtExit<'_>) {
        let Some(offset) = port.checked_sub(CONFIG_DATA) else {
            if let (CONFIG_ADDRESS, Ok(bytes)) = (port, data.try_into()) {
                self.address = u32::from_le_bytes(bytes) & ADDRESS_BITS;
            }
            return;
        };
        let inside = data.len().min(usize::from(4 - offset.min(4)));
        if let Some((function, register)) = self.chosen() {
            function.config_write(register + usize::from(offset), &data[..inside], at);
        }
    }
}

impl PortDevice for PciBus {
    fn port_read(&mut self, port: u16, data: &mut [u8], at: &mut AtExit<'_>) {
        data.fill(0xFF);
        if PCI_CONFIG_PORTS.contains(&port) {
            self.config_port_read(port, data, at);
        } else if PCI_IO_WINDOW.contains(&port)
            && let Some((function, offset)) = self.at_port(port)
        {
            function.io_read(offset, data, at);
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8], at: &mut AtExit<'_>) {
        if PCI_CONFIG_PORTS.contains(&port) {
            self.config_port_write(port, data, at);
        } else if PCI_IO_WINDOW.contains(&port)
            && let Some((function, offset)) = self.at_port(port)
        {
            function.io_write(offset, data, at);
        }
    }
}

const fn bar_base(slot: u8) -> u16 {
    *PCI_IO_WINDOW.start() + slot as u16 * BAR_STRIDE
}

const BUS_PART: &str = "pci-bus";
const BUS_VERSION: u16 = 1;

/// What the bus asks of a function.
trait PciFunction {
    fn io_base(&self) -> Option<u16>;
    fn config_read(&mut self, offset: usize, data: &mut [u8], at: &mut AtExit<'_>);
    fn config_write(&mut self, offset: usize, data: &[u8], at: &mut AtExit<'_>);
    fn io_read(&mut self, offset: u16, data: &mut [u8], at: &mut AtExit<'_>);
    fn io_write(&mut self, offset: u16, data: &[u8], at: &mut AtExit<'_>);
}

/// The host bridge: configuration space and nothing else.
impl PciFunction for ConfigSpace {
    fn io_base(&self) -> Option<u16> {
        None
    }

    fn config_read(&mut self, offset: usize, data: &mut [u8], _: &mut AtExit<'_>) {
        self.read(offset, data);
    }

    fn config_write(&mut self, offset: usize, data: &[u8], _: &mut AtExit<'_>) {
        self.write(offset, data);
    }

    fn io_read(&mut self, _: u16, _: &mut [u8], _: &mut AtExit<'_>) {}

    fn io_write(&mut self, _: u16, _: &[u8], _: &mut AtExit<'_>) {}
}

impl<D: VirtioDevice> PciFunction for VirtioPci<D> {
    fn io_base(&self) -> Option<u16> {
        self.io_base()
    }

    fn config_read(&mut self, offset: usize, data: &mut [u8], at: &mut AtExit<'_>) {
        self.config_read(offset, data, at);
    }

    fn config_write(&mut self, offset: usize, data: &[u8], at: &mut AtExit<'_>) {
        self.config_write(offset, data, at);
    }

    fn io_read(&mut self, offset: u16, data: &mut [u8], at: &mut AtExit<'_>) {
        self.io_read(offset, data, at);
    }

    fn io_write(&mut self, offset: u16, data: &[u8], at: &mut AtExit<'_>) {
        self.io_write(offset, data, at);
    }
}
