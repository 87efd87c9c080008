//! The board's map: which ports and interrupt lines belong to whom. ACPI tables, PCI routing and the devices all
//! read it from here, so they cannot disagree.

use std::ops::RangeInclusive;

/// Master PIC command and data ports.
pub const PIC_MASTER_PORTS: RangeInclusive<u16> = 0x20..=0x21;
/// Slave PIC command and data ports.
pub const PIC_SLAVE_PORTS: RangeInclusive<u16> = 0xA0..=0xA1;
/// Edge/level control registers, one per PIC.
pub const PIC_ELCR_PORTS: RangeInclusive<u16> = 0x4D0..=0x4D1;
/// PIT counters and control word.
pub const PIT_PORTS: RangeInclusive<u16> = 0x40..=0x43;
/// System control port B: gate and output of PIT channel 2.
pub const PIT_GATE_PORT: u16 = 0x61;
/// RTC index and data ports.
pub const RTC_PORTS: RangeInclusive<u16> = 0x70..=0x71;
/// COM1.
pub const SERIAL_PORTS: RangeInclusive<u16> = 0x3F8..=0x3FF;
/// Keyboard-controller command port: only its reset command (`0xFE`) exists.
pub const KEYBOARD_COMMAND_PORT: u16 = 0x64;
/// ACPI PM1a event block: status (2 bytes), enable (2 bytes).
pub const ACPI_PM1_EVENT_PORT: u16 = 0x600;
/// ACPI PM1a control block (2 bytes).
pub const ACPI_PM1_CONTROL_PORT: u16 = 0x604;
/// ACPI PM timer (4 bytes, 32-bit counter at [`ACPI_PM_TIMER_HERTZ`]).
pub const ACPI_PM_TIMER_PORT: u16 = 0x608;
/// ACPI reset register (1 byte); writing [`ACPI_RESET_VALUE`] resets the machine.
pub const ACPI_RESET_PORT: u16 = 0x60C;
/// All ACPI ports.
pub const ACPI_PORTS: RangeInclusive<u16> = 0x600..=0x60F;
/// PCI configuration mechanism 1: address (4 bytes), data (4 bytes).
pub const PCI_CONFIG_PORTS: RangeInclusive<u16> = 0xCF8..=0xCFF;
/// I/O window of the PCI root, where the BARs of virtio devices live.
pub const PCI_IO_WINDOW: RangeInclusive<u16> = 0xC000..=0xCFFF;
/// Registers of the HPET in guest physical memory.
pub const HPET_MMIO: RangeInclusive<u64> = 0xFED0_0000..=0xFED0_03FF;

/// The value that resets the machine when written to [`ACPI_RESET_PORT`].
pub const ACPI_RESET_VALUE: u8 = 1;
/// `SLP_TYP` of S5 in the DSDT's `_S5` package and in PM1a control.
pub const ACPI_S5_SLEEP_TYPE: u8 = 5;
/// Rate of the ACPI PM timer (ACPI 6.5 § 4.8.2.1).
pub const ACPI_PM_TIMER_HERTZ: u64 = 3_579_545;
/// Rate of the PIT's input clock.
pub const PIT_HERTZ: u64 = 1_193_182;
/// Rate of the HPET's counter: the slowest that the specification allows is fast enough, and reaches farthest.
pub const HPET_HERTZ: u64 = 10_000_000;

/// PIT channel 0.
pub const PIT_IRQ: u8 = 0;
/// COM1.
pub const SERIAL_IRQ: u8 = 4;
/// virtio-blk's INTA#, routed to the master PIC because an interrupt there costs fewer exits.
pub const DISK_IRQ: u8 = 5;
/// virtio-net's INTA#.
pub const NETWORK_IRQ: u8 = 6;
/// RTC.
pub const RTC_IRQ: u8 = 8;
/// ACPI system control interrupt.
pub const ACPI_SCI_IRQ: u8 = 9;
/// virtio-rng's INTA#.
pub const ENTROPY_IRQ: u8 = 10;

/// PCI device number of the host bridge on bus 0.
pub const PCI_HOST_BRIDGE_SLOT: u8 = 0;
/// PCI device number of virtio-blk.
pub const DISK_SLOT: u8 = 1;
/// PCI device number of virtio-net.
pub const NETWORK_SLOT: u8 = 2;
/// PCI device number of virtio-rng.
pub const ENTROPY_SLOT: u8 = 3;

/// Port that replaces a kernel-mode `RDTSC` (`in eax, imm8`, E2).
pub const TRAP_RDTSC_PORT: u16 = 0xF7;
/// Port that replaces the start of the kernel's `#GP` entry (`out imm8, al`, E2).
pub const TRAP_GENERAL_PROTECTION_PORT: u16 = 0xF4;
/// Ports that replace a kernel-mode `mov %reg, %cr4`: this plus the register's number, 0 (RAX) to 15 (R15). The
/// register is in the port, not in a table of addresses, so that code which the kernel copies still works.
pub const TRAP_CR4_PORTS: RangeInclusive<u16> = 0xE0..=0xEF;

/// Ports whose writes need no answer at once: KVM may collect them and hand them over with the next exit, in order
/// (`KVM_CAP_COALESCED_PIO`). Devices act at exits alone, and every read of these devices is one, so the guest cannot
/// tell; but the writes of an interrupt's acknowledgement, of a console line and of PCI and clock indices cost no exit
/// of their own. Left out is whatever starts something outside (notifications, power) or sets a deadline that nothing
/// else bounds (PIT counts).
pub const POSTED_WRITE_PORTS: [RangeInclusive<u16>; 6] = [
    PIC_MASTER_PORTS,
    PIC_SLAVE_PORTS,
    // The PIT's control word alone: counts begin with the write of the count.
    *PIT_PORTS.end()..=*PIT_PORTS.end(),
    // The RTC's index register.
    *RTC_PORTS.start()..=*RTC_PORTS.start(),
    // The serial port's data register.
    *SERIAL_PORTS.start()..=*SERIAL_PORTS.start(),
    // The address register of PCI configuration space.
    *PCI_CONFIG_PORTS.start()..=*PCI_CONFIG_PORTS.start() + 3,
];

/// Guest physical address of the one register whose writes KVM may collect too: the comparator of the HPET's first
/// timer. Linux writes it at every tick and before every sleep; an exit follows at once in both cases (the time-stamp
/// counter is read after every interrupt's handler, and a sleep is a `HLT`).
pub const POSTED_WRITE_REGISTER: u64 = *HPET_MMIO.start() + 0x108;
