//! 256 bytes of configuration space with a header of type 0.

const COMMAND: usize = 0x04;
const COMMAND_IO: u8 = 1 << 0;
const COMMAND_BUS_MASTER: u8 = 1 << 2;
/// In the command register's second byte.
const COMMAND_INTX_DISABLE: u8 = 1 << 2;
const STATUS: usize = 0x06;
const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const BAR0: usize = 0x10;
const BAR_IO: u8 = 1;
const CAPABILITIES: usize = 0x34;
const CAPABILITY_FIRST: u8 = 0x40;
const INTERRUPT_LINE: usize = 0x3C;
const INTERRUPT_PIN: usize = 0x3D;
const INTERRUPT_PIN_A: u8 = 1;

/// Bytes of I/O space behind BAR 0; more than 256 would break § 6.2.5.1's advice to device makers.
pub const BAR0_BYTES: u16 = 256;

/// Who a function says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciIdentity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision id.
    pub revision: u8,
    /// Base class, subclass and programming interface, as the 24-bit class code.
    pub class: u32,
    /// Subsystem vendor id and subsystem id.
    pub subsystem: (u16, u16),
}

/// The configuration space of one function.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; 256],
    /// Bits that the guest may change.
    writable: [u8; 256],
    capability_end: u8,
    capability_last: Option<u8>,
}

impl ConfigSpace {
    /// A function without BAR, interrupt or capability.
    #[must_use]
    pub fn new(identity: PciIdentity) -> Self {
        let mut space = Self {
            bytes: [0; 256],
            writable: [0; 256],
            capability_end: CAPABILITY_FIRST,
            capability_last: None,
        };
        space.place(0x00, &identity.vendor.to_le_bytes());
        space.place(0x02, &identity.device.to_le_bytes());
        space.place(0x08, &[identity.revision]);
        space.place(0x09, &identity.class.to_le_bytes()[..3]);
        space.place(0x2C, &identity.subsystem.0.to_le_bytes());
        space.place(0x2E, &identity.subsystem.1.to_le_bytes());
        space
    }

    /// Gives the function its I/O BAR at `base`, decoded, and INTA# on `line`.
    #[must_use]
    pub fn with_io_bar(mut self, base: u16, line: u8) -> Self {
        self.place(BAR0, &(u32::from(base) | u32::from(BAR_IO)).to_le_bytes());
        self.allow(BAR0, &[0x00, 0xFF, 0xFF, 0xFF]);
        self.place(COMMAND, &[COMMAND_IO]);
        self.allow(COMMAND, &[COMMAND_IO | COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE]);
        self.place(INTERRUPT_LINE, &[line]);
        self.allow(INTERRUPT_LINE, &[0xFF]);
        self.place(INTERRUPT_PIN, &[INTERRUPT_PIN_A]);
        self
    }

    /// Appends a capability: its id, then `body` after the link to the next one. Answers its offset.
    ///
    /// The layout is fixed by the callers, long before a guest runs; what does not fit is cut off.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> u8 {
        let start = self.capability_end;
        let link = self
            .capability_last
            .map_or(CAPABILITIES, |last| usize::from(last) + 1);
        self.place(link, &[start]);
        self.place(usize::from(start), &[id, 0]);
        self.place(usize::from(start) + 2, body);
        if let Some(status) = self.bytes.get_mut(STATUS) {
            *status |= STATUS_CAPABILITIES;
        }
        let length = u8::try_from(body.len() + 2).unwrap_or(u8::MAX);
        self.capability_last = Some(start);
        self.capability_end = start.saturating_add(length).next_multiple_of(4);
        start
    }

    /// Writes `bytes` at `offset`, whatever the guest may write; past the end is ignored.
    pub fn place(&mut self, offset: usize, bytes: &[u8]) {
        for (slot, byte) in self.bytes.iter_mut().skip(offset).zip(bytes) {
            *slot = *byte;
        }
    }

    /// Lets the guest change the bits of `mask` at `offset`.
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        for (slot, bits) in self.writable.iter_mut().skip(offset).zip(mask) {
            *slot = *bits;
        }
    }

    /// The saved form: all bytes.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// Makes it what was saved.
    ///
    /// # Errors
    /// When that is of another function: what no guest can change differs.
    pub fn restore(&mut self, saved: &[u8]) -> Result<(), &'static str> {
        let saved: [u8; 256] = saved
            .try_into()
            .map_err(|_| "its configuration has not 256 bytes")?;
        let may_differ = |index: usize| {
            if index == STATUS {
                STATUS_INTERRUPT
            } else {
                self.writable[index]
            }
        };
        let is_same = (0..256).all(|index| (self.bytes[index] ^ saved[index]) & !may_differ(index) == 0);
        if !is_same {
            return Err("it is of another PCI function");
        }
        self.bytes = saved;
        Ok(())
    }

    /// Reads `data.len()` bytes at `offset`; past the end reads as ones.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        data.fill(0xFF);
        for (byte, slot) in data.iter_mut().zip(self.bytes.iter().skip(offset)) {
            *byte = *slot;
        }
    }

    /// The guest writes `data` at `offset`: what is read-only keeps its value.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let slots = self.bytes.iter_mut().zip(&self.writable).skip(offset);
        for ((slot, mask), byte) in slots.zip(data) {
            *slot = (*slot & !mask) | (byte & mask);
        }
    }

    /// The 32-bit register at `offset`, zero past the end.
    #[must_use]
    pub fn dword(&self, offset: usize) -> u32 {
        let end = offset.saturating_add(4);
        self.bytes
            .get(offset..end)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_le_bytes)
    }

    /// First port of BAR 0 if the function decodes it now.
    #[must_use]
    pub fn io_base(&self) -> Option<u16> {
        let bar = self.dword(BAR0);
        let decoded = self.bytes[COMMAND] & COMMAND_IO != 0 && bar & u32::from(BAR_IO) != 0;
        let base = u16::try_from(bar & !u32::from(BAR0_BYTES - 1)).ok()?;
        (decoded && base != 0).then_some(base)
    }

    /// Whether the function may touch guest memory.
    #[must_use]
    pub fn is_bus_master(&self) -> bool {
        self.bytes[COMMAND] & COMMAND_BUS_MASTER != 0
    }

    /// Records whether the function has an interrupt pending, and answers whether INTA# is driven.
    pub fn interrupt(&mut self, pending: bool) -> bool {
        self.bytes[STATUS] &= !STATUS_INTERRUPT;
        if pending {
            self.bytes[STATUS] |= STATUS_INTERRUPT;
        }
        pending && self.bytes[COMMAND + 1] & COMMAND_INTX_DISABLE == 0
    }
}
