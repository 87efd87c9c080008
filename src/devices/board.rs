//! The board: all devices, the port decoder and the interrupt lines between them.
//!
//! It is what the machine sees of the devices: port accesses and inputs go in, effects come out, and the PIC says
//! which interrupt the CPU shall take.

use super::acpi_pm::AcpiPm;
use super::hpet::Hpet;
use super::pci::{PciBus, PciDevices};
use super::pic::Pic;
use super::pit::Pit;
use super::platform::{
    ACPI_PORTS, HPET_MMIO, KEYBOARD_COMMAND_PORT, PCI_CONFIG_PORTS, PCI_IO_WINDOW, PIC_ELCR_PORTS,
    PIC_MASTER_PORTS, PIC_SLAVE_PORTS, PIT_GATE_PORT, PIT_PORTS, RTC_PORTS, SERIAL_PORTS,
};
use super::rtc::{Rtc, RtcState};
use super::serial::{Serial, SerialState};
use super::virtio_blk::VirtioBlk;
use super::virtio_net::Offloads;
use super::{AtExit, Effect, Input, IrqLines, PortDevice};
use crate::base::guest_memory::GuestMemory;
use crate::base::parts::{PartError, Parts};
use crate::base::units::VirtualTime;

/// The moment of an exit, as the board needs it.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// Virtual time.
    pub now: VirtualTime,
    /// Guest RAM.
    pub memory: &'a GuestMemory,
}

impl<'a> Moment<'a> {
    /// What a device that drives `irqs` sees of this moment.
    fn at_exit(self, irqs: &'a mut IrqLines, effects: &'a mut Vec<Effect>) -> AtExit<'a> {
        AtExit {
            now: self.now,
            memory: self.memory,
            irqs,
            effects,
        }
    }
}

/// The lines that PIT and RTC drive: with legacy routing the HPET has taken theirs, and they drive `cut_off`, which leads
/// nowhere (IA-PC HPET 1.0a, § 2.3.9.1).
fn lines_of_old_timers<'a>(
    hpet: &Hpet,
    irqs: &'a mut IrqLines,
    cut_off: &'a mut IrqLines,
) -> &'a mut IrqLines {
    if hpet.has_legacy_routing() { cut_off } else { irqs }
}

/// Of the saved forms of the devices that are no PCI functions.
const VERSION: u16 = 1;

/// All devices of a VM.
#[derive(Debug)]
pub struct Board {
    pic: Pic,
    pit: Pit,
    rtc: Rtc,
    hpet: Hpet,
    serial: Serial,
    acpi_pm: AcpiPm,
    pci: PciBus,
    irqs: IrqLines,
    effects: Vec<Effect>,
}

impl Board {
    /// A board in its reset state; its calendar starts at `wall_clock_unix_seconds`.
    #[must_use]
    pub fn new(wall_clock_unix_seconds: i64, pci_devices: PciDevices) -> Self {
        Self {
            pic: Pic::new(),
            pit: Pit::as_firmware_leaves_it(),
            rtc: Rtc::new(wall_clock_unix_seconds),
            hpet: Hpet::new(),
            serial: Serial::new(),
            acpi_pm: AcpiPm::new(),
            pci: PciBus::new(pci_devices),
            irqs: IrqLines::default(),
            effects: Vec::new(),
        }
    }

    /// Whether what `port` does depends on the time. Elsewhere the machine need not read the clock.
    #[must_use]
    pub fn needs_time(port: u16) -> bool {
        PIT_PORTS.contains(&port)
            || port == PIT_GATE_PORT
            || RTC_PORTS.contains(&port)
            || ACPI_PORTS.contains(&port)
    }

    /// The guest reads `data.len()` bytes at `port`.
    pub fn port_read(&mut self, port: u16, data: &mut [u8], moment: Moment<'_>) {
        // A port that nobody decodes floats high on an ISA bus; Linux probes many.
        data.fill(0xFF);
        self.with_device(port, moment, |device, at| device.port_read(port, data, at));
    }

    /// The guest writes `data` at `port`.
    pub fn port_write(&mut self, port: u16, data: &[u8], moment: Moment<'_>) {
        self.with_device(port, moment, |device, at| device.port_write(port, data, at));
    }

    fn with_device(
        &mut self,
        port: u16,
        moment: Moment<'_>,
        access: impl FnOnce(&mut dyn PortDevice, &mut AtExit<'_>),
    ) {
        let mut cut_off = IrqLines::default();
        let is_old_timer = PIT_PORTS.contains(&port) || port == PIT_GATE_PORT || RTC_PORTS.contains(&port);
        let lines = if is_old_timer {
            lines_of_old_timers(&self.hpet, &mut self.irqs, &mut cut_off)
        } else {
            &mut self.irqs
        };
        let mut at = moment.at_exit(lines, &mut self.effects);
        let device: &mut dyn PortDevice = match port {
            p if PIC_MASTER_PORTS.contains(&p)
                || PIC_SLAVE_PORTS.contains(&p)
                || PIC_ELCR_PORTS.contains(&p) =>
            {
                &mut self.pic
            }
            p if PIT_PORTS.contains(&p) || p == PIT_GATE_PORT => &mut self.pit,
            p if RTC_PORTS.contains(&p) => &mut self.rtc,
            p if SERIAL_PORTS.contains(&p) => &mut self.serial,
            p if ACPI_PORTS.contains(&p) || p == KEYBOARD_COMMAND_PORT => &mut self.acpi_pm,
            p if PCI_CONFIG_PORTS.contains(&p) || PCI_IO_WINDOW.contains(&p) => &mut self.pci,
            _ => return,
        };
        access(device, &mut at);
        self.pic.sync(&mut self.irqs);
    }

    /// Hands over what arrived from outside. Frames share one interrupt, and so do disk completions.
    pub fn deliver(&mut self, inputs: impl IntoIterator<Item = Input>, moment: Moment<'_>) {
        let mut at = moment.at_exit(&mut self.irqs, &mut self.effects);
        let (mut frames, mut completions) = (Vec::new(), Vec::new());
        for input in inputs {
            match input {
                Input::Frame(frame) => frames.push(frame),
                Input::Disk(completion) => completions.push(completion),
                Input::Console(bytes) => {
                    let taken = self.serial.console_input(&bytes, &mut at);
                    debug_assert_eq!(
                        taken,
                        bytes.len(),
                        "the console worker holds credits for what it sends"
                    );
                }
                Input::Entropy(bytes) => self.pci.provide_entropy(&bytes, &mut at),
                Input::PowerButton => self.acpi_pm.press_power_button(&mut at),
            }
        }
        if !frames.is_empty() {
            self.pci.receive_frames(frames, &mut at);
        }
        if !completions.is_empty() {
            self.pci.complete_disk(completions, &mut at);
        }
        self.pic.sync(&mut self.irqs);
    }

    /// What the guest's network driver agreed to receive unfinished.
    #[must_use]
    pub fn receive_offloads(&self) -> Offloads {
        self.pci.receive_offloads()
    }

    /// The guest writes memory at `address`; false if no device lives there.
    #[must_use]
    pub fn mmio_write(&mut self, address: u64, data: &[u8], moment: Moment<'_>) -> bool {
        if !HPET_MMIO.contains(&address) {
            return false;
        }
        let mut at = moment.at_exit(&mut self.irqs, &mut self.effects);
        self.hpet.mmio_write(address, data, &mut at);
        self.pic.sync(&mut self.irqs);
        true
    }

    /// The registers that the guest reads without an exit, to be shown on their page.
    #[must_use]
    pub fn hpet(&self) -> &Hpet {
        &self.hpet
    }

    /// Lets every timer that is due expire.
    pub fn advance(&mut self, moment: Moment<'_>) {
        let mut cut_off = IrqLines::default();
        let lines = lines_of_old_timers(&self.hpet, &mut self.irqs, &mut cut_off);
        let mut old_timers = moment.at_exit(lines, &mut self.effects);
        self.pit.advance(&mut old_timers);
        self.rtc.advance(&mut old_timers);
        let mut at = moment.at_exit(&mut self.irqs, &mut self.effects);
        self.hpet.advance(&mut at);
        self.acpi_pm.advance(&mut at);
        self.pic.sync(&mut self.irqs);
    }

    /// When the next timer expires, `None` if none runs.
    #[must_use]
    pub fn next_deadline(&self) -> Option<VirtualTime> {
        let old_timers = if self.hpet.has_legacy_routing() {
            [None, None]
        } else {
            [self.pit.next_deadline(), self.rtc.next_deadline()]
        };
        let others = [self.hpet.next_deadline(), self.acpi_pm.next_deadline()];
        old_timers.into_iter().chain(others).flatten().min()
    }

    /// Whether the PIC asks the CPU for an interrupt.
    #[must_use]
    pub fn interrupt_pending(&self) -> bool {
        self.pic.interrupt_pending()
    }

    /// Whether a posted write could make an interrupt pending, so that the machine should look as soon as the guest
    /// can take one.
    #[must_use]
    pub fn may_become_pending(&self) -> bool {
        self.pic.has_request()
    }

    /// The CPU takes the interrupt: its vector.
    pub fn acknowledge_interrupt(&mut self) -> u8 {
        self.pic.acknowledge()
    }

    /// Saves every device. What they ask of the outside world ([`Self::take_effects`]) is no part of it.
    pub fn save(&self, parts: &mut Parts) {
        parts.put("irq-lines", VERSION, &self.irqs);
        parts.put("pic", VERSION, &self.pic);
        parts.put("pit", VERSION, &self.pit);
        parts.put("rtc", VERSION, &self.rtc.save());
        parts.put("hpet", VERSION, &self.hpet);
        parts.put("serial", VERSION, &self.serial.save());
        parts.put("acpi-pm", VERSION, &self.acpi_pm);
        self.pci.save(parts);
    }

    /// Makes the board, with the same devices on it, what was saved.
    ///
    /// # Errors
    /// [`PartError`]; the board is of no use then.
    pub fn restore(&mut self, parts: &mut Parts, memory: &GuestMemory) -> Result<(), PartError> {
        let refused = |name| move |what| PartError::refused(name, what);
        self.irqs = parts.take("irq-lines", VERSION)?;
        self.pic = parts.take("pic", VERSION)?;
        self.pic.check().map_err(refused("pic"))?;
        self.pit = parts.take("pit", VERSION)?;
        self.pit.check().map_err(refused("pit"))?;
        let rtc: RtcState = parts.take("rtc", VERSION)?;
        self.rtc = Rtc::restored(&rtc).map_err(refused("rtc"))?;
        self.hpet = parts.take("hpet", VERSION)?;
        self.hpet.check().map_err(refused("hpet"))?;
        let serial: SerialState = parts.take("serial", VERSION)?;
        self.serial = Serial::restored(serial).map_err(refused("serial"))?;
        self.acpi_pm = parts.take("acpi-pm", VERSION)?;
        self.acpi_pm.check().map_err(refused("acpi-pm"))?;
        self.pci.restore(parts, memory)
    }

    /// The disk, if there is one.
    #[must_use]
    pub fn disk(&self) -> Option<&VirtioBlk> {
        self.pci.disk()
    }

    /// Takes what the devices ask of the outside world.
    #[must_use]
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Typed bytes that the serial port can still hold.
    #[must_use]
    pub fn console_input_room(&self) -> usize {
        self.serial.input_room()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::virtio_blk::DiskConfig;
    use crate::devices::virtio_net::{NetworkConfig, VirtioNet};
    use crate::devices::virtio_rng::VirtioRng;
    use crate::devices::{DiskCompletion, DiskOutcome, DiskRequestId, Frame};

    fn board() -> Board {
        let disk = DiskConfig {
            byte_count: 1 << 20,
            read_only: false,
            serial: [0; 20],
        };
        let network = NetworkConfig {
            mac: [2, 0, 0, 0, 0, 1],
            transmit: Offloads::ALL,
            receive: Offloads::ALL,
            mtu: None,
        };
        Board::new(
            0,
            PciDevices {
                disk: Some(VirtioBlk::new(disk)),
                network: Some(VirtioNet::new(network)),
                entropy: VirtioRng::new(),
            },
        )
    }

    /// One thing a guest or its surroundings may do.
    #[derive(Debug, Clone)]
    enum Act {
        Read(u16, usize),
        Write(u16, usize, u32),
        Input(Input),
        Wait(u64),
        TakeInterrupt,
    }

    /// Ports of devices are likelier than the rest, or most accesses would meet nobody.
    fn port() -> impl Strategy<Value = u16> {
        prop_oneof![
            any::<u16>(),
            0x20_u16..0x80,
            0xA0_u16..0xA2,
            0x3F8_u16..0x400,
            0x4D0_u16..0x4D2,
            0x600_u16..0x610,
            0xCF8_u16..0xD00,
            0xC400_u16..0xCE00
        ]
    }

    fn act() -> impl Strategy<Value = Act> {
        let size = prop_oneof![Just(1_usize), Just(2), Just(4)];
        let outcome = prop_oneof![
            Just(DiskOutcome::Done),
            Just(DiskOutcome::Failed),
            Just(DiskOutcome::Read(vec![7].into()))
        ];
        let input = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..90).prop_map(|bytes| Input::Frame(Frame(bytes))),
            (0..4_u64, outcome).prop_map(|(id, outcome)| Input::Disk(DiskCompletion {
                id: DiskRequestId(id),
                outcome
            })),
            prop::collection::vec(any::<u8>(), 0..9).prop_map(Input::Console),
            prop::collection::vec(any::<u8>(), 0..9).prop_map(Input::Entropy),
            Just(Input::PowerButton)
        ];
        prop_oneof![
            4 => (port(), size.clone()).prop_map(|(port, size)| Act::Read(port, size)),
            8 => (port(), size, any::<u32>()).prop_map(|(port, size, value)| Act::Write(port, size, value)),
            1 => input.prop_map(Act::Input),
            2 => (0..10_000_000_u64).prop_map(Act::Wait),
            1 => Just(Act::TakeInterrupt)
        ]
    }

    fn act_on(board: &mut Board, acts: Vec<Act>, memory: &GuestMemory) {
        let mut nanos = 0;
        for act in acts {
            let moment = Moment {
                now: VirtualTime::from_nanos(nanos),
                memory,
            };
            match act {
                Act::Read(port, size) => board.port_read(port, &mut [0; 4][..size], moment),
                Act::Write(port, size, value) => board.port_write(port, &value.to_le_bytes()[..size], moment),
                Act::Input(Input::Console(bytes)) if bytes.len() > board.console_input_room() => {}
                Act::Input(input) => board.deliver([input], moment),
                Act::Wait(span) => nanos += span,
                Act::TakeInterrupt if board.interrupt_pending() => {
                    board.acknowledge_interrupt();
                }
                Act::TakeInterrupt => {}
            }
            let address = HPET_MMIO.start() + nanos % 0x400;
            assert!(board.mmio_write(address, &nanos.to_le_bytes(), moment));
            assert!(
                !board.mmio_write(nanos, &[0; 4], moment),
                "no device lives so low"
            );
            if board
                .next_deadline()
                .is_some_and(|deadline| deadline <= moment.now)
            {
                board.advance(moment);
            }
            assert!(board.take_effects().len() <= 64, "an access has few effects");
        }
    }

    fn saved(board: &Board) -> Parts {
        let mut parts = Parts::default();
        board.save(&mut parts);
        parts
    }

    proptest! {
        #[test]
        fn a_restored_board_is_the_same(acts in prop::collection::vec(act(), 0..300)) {
            let memory = GuestMemory::allocate(64 << 20).unwrap();
            let mut original = board();
            act_on(&mut original, acts, &memory);
            let parts = saved(&original);
            let mut twin = board();
            let mut rest = parts.clone();
            twin.restore(&mut rest, &memory).unwrap();
            rest.finish().unwrap();
            prop_assert_eq!(saved(&twin), parts);
            prop_assert_eq!(twin.next_deadline(), original.next_deadline());
            prop_assert_eq!(twin.interrupt_pending(), original.interrupt_pending());
        }

        #[test]
        fn no_saved_bytes_break_the_board(
            before in prop::collection::vec(act(), 0..100),
            (which, place, bits) in (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1_u8..),
            after in prop::collection::vec(act(), 0..100),
        ) {
            let memory = GuestMemory::allocate(64 << 20).unwrap();
            let mut original = board();
            act_on(&mut original, before, &memory);
            let mut parts: Vec<_> = saved(&original).iter().cloned().collect();
            let content = &mut which.get_mut(&mut parts).content;
            *place.get_mut(content) ^= bits;
            let mut twin = board();
            if twin.restore(&mut parts.into_iter().collect(), &memory).is_ok() {
                act_on(&mut twin, after, &memory);
            }
        }

        #[test]
        fn nothing_a_guest_does_to_its_ports_breaks_the_board(acts in prop::collection::vec(act(), 0..300)) {
            let memory = GuestMemory::allocate(64 << 20).unwrap();
            act_on(&mut board(), acts, &memory);
        }
    }
}
