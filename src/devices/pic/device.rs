//! Registers and behaviour of the 8259A pair.

use serde::{Deserialize, Serialize};

use super::super::{AtExit, IrqLines, PortDevice, platform, ports_read, ports_written};

/// The master's input that the slave's INT output drives.
const CASCADE_INPUT: u8 = 2;
/// The input whose vector answers an acknowledge without a request.
const SPURIOUS_INPUT: u8 = 7;

/// Inputs that may be level-triggered: not the timer, the keyboard and the cascade (82371 § 2.5.7).
const MASTER_LEVEL_ALLOWED: u8 = 0xF8;
/// Inputs that may be level-triggered: not the RTC and the coprocessor (82371 § 2.5.7).
const SLAVE_LEVEL_ALLOWED: u8 = 0xDE;

const ICW1_SELECT: u8 = 1 << 4;
const ICW1_SINGLE: u8 = 1 << 1;
const ICW1_ICW4_FOLLOWS: u8 = 1 << 0;
const ICW4_AUTO_EOI: u8 = 1 << 1;
const ICW4_SPECIAL_FULLY_NESTED: u8 = 1 << 4;
const OCW3_SELECT: u8 = 1 << 3;
const OCW3_SPECIAL_MASK_ENABLE: u8 = 1 << 6;
const OCW3_SPECIAL_MASK: u8 = 1 << 5;
const OCW3_POLL: u8 = 1 << 2;
const OCW3_READ_REGISTER: u8 = 1 << 1;
const OCW3_READ_IN_SERVICE: u8 = 1 << 0;
/// Bit 7 of a poll's answer: an interrupt was there.
const POLL_INTERRUPT: u8 = 1 << 7;

/// Which command word the next write to the data port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum DataPort {
    /// ICW2, the vector base.
    Icw2,
    /// ICW3, the cascade wiring.
    Icw3,
    /// ICW4, the modes.
    Icw4,
    /// OCW1, the mask: initialisation is over.
    Mask,
}

/// One 8259A.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Chip {
    /// Present levels of the inputs.
    lines: u8,
    /// Rising edges not yet acknowledged.
    edges: u8,
    /// ELCR: inputs that are level-triggered.
    level_triggered: u8,
    /// ELCR bits that exist.
    level_allowed: u8,
    /// The input driven by another chip's INT: always follows its level.
    cascade: u8,
    mask: u8,
    in_service: u8,
    vector_base: u8,
    /// The input of lowest priority; the one after it has the highest.
    lowest_priority: u8,
    data_port: DataPort,
    single: bool,
    icw4_follows: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    special_fully_nested: bool,
    read_in_service: bool,
    poll: bool,
}

impl Chip {
    fn new(vector_base: u8, level_allowed: u8, cascade: u8) -> Self {
        Self {
            lines: 0,
            edges: 0,
            level_triggered: 0,
            level_allowed,
            cascade,
            mask: 0xFF,
            in_service: 0,
            vector_base,
            lowest_priority: 7,
            data_port: DataPort::Mask,
            single: false,
            icw4_follows: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_mask: false,
            special_fully_nested: false,
            read_in_service: false,
            poll: false,
        }
    }

    /// Whether a restored chip can be one that began as `fresh`.
    fn check(&self, fresh: &Self) -> bool {
        self.level_allowed == fresh.level_allowed
            && self.cascade == fresh.cascade
            && self.lowest_priority < 8
            && self.vector_base & 7 == 0
    }

    /// The interrupt request register (IRR).
    fn requests(&self) -> u8 {
        let follows_level = self.level_triggered | self.cascade;
        (self.edges & !follows_level) | (self.lines & follows_level)
    }

    fn absorb(&mut self, levels: u8, rising: u8) {
        self.lines = (levels & !self.cascade) | (self.lines & self.cascade);
        self.edges |= rising & !(self.level_triggered | self.cascade);
    }

    fn drive_cascade(&mut self, high: bool) {
        if high {
            self.lines |= self.cascade;
        } else {
            self.lines &= !self.cascade;
        }
    }

    /// Inputs from the highest priority to the lowest.
    fn by_priority(&self) -> impl Iterator<Item = u8> + use<> {
        let lowest = self.lowest_priority;
        (1..=8).map(move |distance| (lowest + distance) & 7)
    }

    /// The input for which INT is asserted.
    fn candidate(&self) -> Option<u8> {
        if self.data_port != DataPort::Mask {
            return None;
        }
        let requests = self.requests() & !self.mask;
        let mut blocking = self.in_service;
        if self.special_mask {
            blocking &= !self.mask;
        }
        for input in self.by_priority() {
            let bit = 1 << input;
            // Special fully nested mode: a slave in service may interrupt itself, what lies below it may not.
            let nests = self.special_fully_nested && self.cascade == bit;
            if requests & bit != 0 && (blocking & bit == 0 || nests) {
                return Some(input);
            }
            if blocking & bit != 0 {
                return None;
            }
        }
        None
    }

    /// What INTA does to the chip whose `input` is served.
    fn take(&mut self, input: u8) {
        let bit = 1 << input;
        self.edges &= !bit;
        if !self.auto_eoi {
            self.in_service |= bit;
        } else if self.rotate_on_auto_eoi {
            self.lowest_priority = input;
        }
    }

    fn read_command(&self) -> u8 {
        if self.read_in_service {
            self.in_service
        } else {
            self.requests()
        }
    }

    /// Poll mode: the read stands for INTA.
    fn answer_poll(&mut self) -> u8 {
        match self.candidate() {
            Some(input) => {
                self.take(input);
                POLL_INTERRUPT | input
            }
            None => SPURIOUS_INPUT,
        }
    }

    fn read(&mut self, is_data_port: bool) -> u8 {
        if std::mem::take(&mut self.poll) {
            self.answer_poll()
        } else if is_data_port {
            self.mask
        } else {
            self.read_command()
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & ICW1_SELECT != 0 {
            self.initialise(value);
        } else if value & OCW3_SELECT != 0 {
            self.operate(value);
        } else {
            self.end_of_interrupt(value);
        }
    }

    /// ICW1. Edges must come anew, the mask is cleared, IR7 is lowest, IRR is read; without ICW4 its modes are off.
    fn initialise(&mut self, value: u8) {
        let fresh = Self::new(self.vector_base, self.level_allowed, self.cascade);
        *self = Self {
            lines: self.lines,
            level_triggered: self.level_triggered,
            mask: 0,
            data_port: DataPort::Icw2,
            single: value & ICW1_SINGLE != 0,
            icw4_follows: value & ICW1_ICW4_FOLLOWS != 0,
            ..fresh
        };
    }

    /// OCW3: special mask mode, poll, and which register is read.
    fn operate(&mut self, value: u8) {
        if value & OCW3_SPECIAL_MASK_ENABLE != 0 {
            self.special_mask = value & OCW3_SPECIAL_MASK != 0;
        }
        self.poll = value & OCW3_POLL != 0;
        if value & OCW3_READ_REGISTER != 0 {
            self.read_in_service = value & OCW3_READ_IN_SERVICE != 0;
        }
    }

    /// OCW2, by its bits R, SL, EOI.
    fn end_of_interrupt(&mut self, value: u8) {
        let named = value & 7;
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            0b001 => drop(self.end_highest()),
            0b101 => {
                if let Some(ended) = self.end_highest() {
                    self.lowest_priority = ended;
                }
            }
            0b011 => self.in_service &= !(1 << named),
            0b111 => {
                self.in_service &= !(1 << named);
                self.lowest_priority = named;
            }
            0b110 => self.lowest_priority = named,
            _ => {}
        }
    }

    /// Non-specific EOI. In special mask mode it spares masked inputs (data sheet, "Special Mask Mode").
    fn end_highest(&mut self) -> Option<u8> {
        let endable = if self.special_mask {
            self.in_service & !self.mask
        } else {
            self.in_service
        };
        let ended = self.by_priority().find(|input| endable & (1 << input) != 0)?;
        self.in_service &= !(1 << ended);
        Some(ended)
    }

    fn write_data(&mut self, value: u8) {
        let after_icw3 = if self.icw4_follows {
            DataPort::Icw4
        } else {
            DataPort::Mask
        };
        self.data_port = match self.data_port {
            DataPort::Mask => {
                self.mask = value;
                DataPort::Mask
            }
            DataPort::Icw2 => {
                self.vector_base = value & 0xF8;
                if self.single { after_icw3 } else { DataPort::Icw3 }
            }
            // The wiring is what it is, whatever the guest says about it.
            DataPort::Icw3 => after_icw3,
            DataPort::Icw4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.special_fully_nested = value & ICW4_SPECIAL_FULLY_NESTED != 0;
                DataPort::Mask
            }
        };
    }

    fn write_level_triggered(&mut self, value: u8) {
        self.level_triggered = value & self.level_allowed;
        // A level-triggered input has no edge to remember, should it become edge-triggered again.
        self.edges &= !self.level_triggered;
    }
}

/// The pair of interrupt controllers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pic {
    master: Chip,
    slave: Chip,
}

impl Default for Pic {
    fn default() -> Self {
        Self::new()
    }
}

impl Pic {
    /// A pair with every input masked and edge-triggered.
    #[must_use]
    pub fn new() -> Self {
        Self {
            master: Chip::new(0x08, MASTER_LEVEL_ALLOWED, 1 << CASCADE_INPUT),
            slave: Chip::new(0x70, SLAVE_LEVEL_ALLOWED, 0),
        }
    }

    /// Whether a restored pair can be.
    ///
    /// # Errors
    /// What cannot.
    pub fn check(&self) -> Result<(), &'static str> {
        let fresh = Self::new();
        let is_sound = self.master.check(&fresh.master) && self.slave.check(&fresh.slave);
        is_sound
            .then_some(())
            .ok_or("a chip is wired or programmed as none can be")
    }

    /// Takes in the present levels and the rising edges since the last call. IRQ 2 is no line: the cascade is there.
    pub fn sync(&mut self, irqs: &mut IrqLines) {
        let [master_rising, slave_rising] = irqs.take_rising().to_le_bytes();
        let [master_levels, slave_levels] = irqs.levels().to_le_bytes();
        self.master.absorb(master_levels, master_rising);
        self.slave.absorb(slave_levels, slave_rising);
        self.settle();
    }

    /// Whether INTR to the CPU is asserted.
    #[must_use]
    pub fn interrupt_pending(&self) -> bool {
        self.master.candidate().is_some()
    }

    /// Whether any line asks for service, be it masked or behind one in service: whether a write that the guest has
    /// made and the PIC has not seen yet could make an interrupt pending.
    #[must_use]
    pub fn has_request(&self) -> bool {
        (self.master.requests() & !self.master.cascade) | self.slave.requests() != 0
    }

    /// The CPU takes the interrupt: the vector to inject. Without a request it is the spurious one.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.master.candidate() {
            None => self.master.vector_base | SPURIOUS_INPUT,
            Some(CASCADE_INPUT) => {
                self.master.take(CASCADE_INPUT);
                let served = self.slave.candidate();
                if let Some(input) = served {
                    self.slave.take(input);
                }
                self.slave.vector_base | served.unwrap_or(SPURIOUS_INPUT)
            }
            Some(input) => {
                self.master.take(input);
                self.master.vector_base | input
            }
        };
        self.settle();
        vector
    }

    /// The slave's INT drives the master's IR2.
    fn settle(&mut self) {
        self.master.drive_cascade(self.slave.candidate().is_some());
    }

    fn read_byte(&mut self, port: u16) -> u8 {
        match Register::at(port) {
            Some((Register::Command, chip)) => self.chip(chip).read(false),
            Some((Register::Data, chip)) => self.chip(chip).read(true),
            Some((Register::EdgeLevel, chip)) => self.chip(chip).level_triggered,
            None => 0xFF,
        }
    }

    fn write_byte(&mut self, port: u16, value: u8) {
        match Register::at(port) {
            Some((Register::Command, chip)) => self.chip(chip).write_command(value),
            Some((Register::Data, chip)) => self.chip(chip).write_data(value),
            Some((Register::EdgeLevel, chip)) => self.chip(chip).write_level_triggered(value),
            None => {}
        }
    }

    fn chip(&mut self, which: Which) -> &mut Chip {
        match which {
            Which::Master => &mut self.master,
            Which::Slave => &mut self.slave,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Which {
    Master,
    Slave,
}

#[derive(Debug, Clone, Copy)]
enum Register {
    Command,
    Data,
    EdgeLevel,
}

impl Register {
    fn at(port: u16) -> Option<(Self, Which)> {
        const MASTER_COMMAND: u16 = *platform::PIC_MASTER_PORTS.start();
        const MASTER_DATA: u16 = *platform::PIC_MASTER_PORTS.end();
        const SLAVE_COMMAND: u16 = *platform::PIC_SLAVE_PORTS.start();
        const SLAVE_DATA: u16 = *platform::PIC_SLAVE_PORTS.end();
        const MASTER_EDGE_LEVEL: u16 = *platform::PIC_ELCR_PORTS.start();
        const SLAVE_EDGE_LEVEL: u16 = *platform::PIC_ELCR_PORTS.end();
        Some(match port {
            MASTER_COMMAND => (Self::Command, Which::Master),
            MASTER_DATA => (Self::Data, Which::Master),
            SLAVE_COMMAND => (Self::Command, Which::Slave),
            SLAVE_DATA => (Self::Data, Which::Slave),
            MASTER_EDGE_LEVEL => (Self::EdgeLevel, Which::Master),
            SLAVE_EDGE_LEVEL => (Self::EdgeLevel, Which::Slave),
            _ => return None,
        })
    }
}

impl PortDevice for Pic {
    fn port_read(&mut self, port: u16, data: &mut [u8], _at: &mut AtExit<'_>) {
        for (port, byte) in ports_read(port, data) {
            *byte = self.read_byte(port);
            self.settle();
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8], _at: &mut AtExit<'_>) {
        for (port, byte) in ports_written(port, data) {
            self.write_byte(port, byte);
            self.settle();
        }
    }
}
