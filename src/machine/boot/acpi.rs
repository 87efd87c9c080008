//! The ACPI tables: what Linux learns of the board, all of it taken from `devices::platform`.
//!
//! RSDP → XSDT → FADT → DSDT, FACS. There is no MADT: interrupts go through the PIC pair alone, and a `_PRT` that
//! names global interrupt 5 means PIC line 5. PCI lines are level-triggered and active low as PCI has it; Linux sets
//! the PIC's level register for each as it routes it. Not hardware-reduced: the fixed power button, the PM timer
//! and S5 need the PM1a blocks. `SMI_CMD` is zero: the machine is always in ACPI mode, there is nothing to switch.
//!
//! Written once per boot at a fixed place, and equal for all VMs: nothing depends on a VM's size.

use std::ops::RangeInclusive;

use acpi_tables::aml::{self, Path, ResourceTemplate};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::{Aml, facs::FACS, rsdp::Rsdp, sdt::Sdt, xsdt::XSDT};

use super::layout::{ACPI_FACS, ACPI_TABLES};
use crate::base::limits::LOW_RAM_END;
use crate::devices::{hpet, platform};

const OEM_ID: [u8; 6] = *b"ANTIPO";
const OEM_TABLE_ID: [u8; 8] = *b"ANTIPODE";
const OEM_REVISION: u32 = 1;

/// The RSDP, whose address goes into `boot_params`.
pub(super) const RSDP: u64 = ACPI_TABLES.start;
const XSDT_AT: u64 = RSDP + 0x40;
const FADT_AT: u64 = RSDP + 0x100;
const HPET_AT: u64 = RSDP + 0x300;
const DSDT_AT: u64 = RSDP + 0x400;

/// Last byte of the memory window that PCI devices may use: below the addresses of a PC's interrupt controllers.
const PCI_MEMORY_WINDOW_LAST: u32 = 0xFEBF_FFFF;
const PCI_MEMORY_WINDOW_FIRST: u32 = 0xC000_0000;
const _: () = assert!(PCI_MEMORY_WINDOW_FIRST as u64 == LOW_RAM_END);

/// Boot-architecture flags (ACPI 6.5, table 5.10): devices on the ISA bus; no keyboard controller, no VGA, no MSI,
/// no ASPM; a CMOS RTC.
const BOOT_ARCHITECTURE: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 4;
/// A latency past these bounds says that C2 and C3 do not exist.
const C2_LATENCY_NONE: u16 = 101;
const C3_LATENCY_NONE: u16 = 1001;
/// CMOS register that holds the century.
const RTC_CENTURY_REGISTER: u8 = 0x32;

/// All tables: where each goes, and its bytes.
pub(super) fn tables() -> Vec<(u64, Vec<u8>)> {
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(FADT_AT);
    xsdt.add_entry(HPET_AT);
    vec![
        (RSDP, bytes_of(&Rsdp::new(OEM_ID, XSDT_AT))),
        (XSDT_AT, bytes_of(&xsdt)),
        (FADT_AT, fadt()),
        (HPET_AT, event_timer()),
        (DSDT_AT, dsdt()),
        (ACPI_FACS.start, bytes_of(&FACS::new())),
    ]
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn io_register(bit_width: u8, access: AccessSize, port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, bit_width, 0, access, u64::from(port))
}

fn fadt() -> Vec<u8> {
    use platform::{ACPI_PM_TIMER_PORT, ACPI_PM1_CONTROL_PORT, ACPI_PM1_EVENT_PORT, ACPI_RESET_PORT};
    // The area lies below 1 MiB, so the 32-bit fields hold both addresses.
    let facs = u32::try_from(ACPI_FACS.start).unwrap_or(0);
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .firmware_ctrl_32(facs)
        .dsdt_64(DSDT_AT)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // No sleep button; the power button is a fixed feature (flag clear). No RTC alarm in PM1.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.sci_int = u16::from(platform::ACPI_SCI_IRQ).into();
    fadt.pm1a_evt_blk = u32::from(ACPI_PM1_EVENT_PORT).into();
    fadt.pm1a_cnt_blk = u32::from(ACPI_PM1_CONTROL_PORT).into();
    fadt.pm_tmr_blk = u32::from(ACPI_PM_TIMER_PORT).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_len = 4;
    fadt.p_lvl2_lat = C2_LATENCY_NONE.into();
    fadt.p_lvl3_lat = C3_LATENCY_NONE.into();
    fadt.century = RTC_CENTURY_REGISTER;
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = io_register(8, AccessSize::ByteAccess, ACPI_RESET_PORT);
    fadt.reset_value = platform::ACPI_RESET_VALUE;
    fadt.x_pm1a_evt_blk = io_register(32, AccessSize::WordAccess, ACPI_PM1_EVENT_PORT);
    fadt.x_pm1a_cnt_blk = io_register(16, AccessSize::WordAccess, ACPI_PM1_CONTROL_PORT);
    fadt.x_pm_tmr_blk = io_register(32, AccessSize::DwordAccess, ACPI_PM_TIMER_PORT);
    bytes_of(&fadt.finalize())
}

/// The HPET's table (IA-PC HPET 1.0a, § 3.2.4).
fn event_timer() -> Vec<u8> {
    let registers = GAS::new(
        AddressSpace::SystemMemory,
        64,
        0,
        AccessSize::Undefined,
        *platform::HPET_MMIO.start(),
    );
    let mut table = Sdt::new(*b"HPET", 36, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append(hpet::EVENT_TIMER_BLOCK);
    table.append_slice(&bytes_of(&registers));
    // HPET number 0; 128 ticks at least between two periodic interrupts; no page protection.
    table.append_slice(&[0, 128, 0, 0]);
    bytes_of(&table)
}

fn dsdt() -> Vec<u8> {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let mut body = Vec::new();
    let (s5, zero) = (platform::ACPI_S5_SLEEP_TYPE, 0_u8);
    aml::Name::new("\\_S5_".into(), &aml::Package::new(vec![&s5, &s5, &zero, &zero])).to_aml_bytes(&mut body);
    let root = pci_root();
    let com1 = isa_device("COM1", "PNP0501", &platform::SERIAL_PORTS, platform::SERIAL_IRQ);
    let rtc = isa_device("RTC_", "PNP0B00", &platform::RTC_PORTS, platform::RTC_IRQ);
    let pit = isa_device("PIT_", "PNP0100", &platform::PIT_PORTS, platform::PIT_IRQ);
    let devices: Vec<&dyn Aml> = vec![&root, &com1, &rtc, &pit];
    aml::Scope::new("\\_SB_".into(), devices).to_aml_bytes(&mut body);
    dsdt.append_slice(&body);
    dsdt.as_slice().to_vec()
}

/// Finished AML, to be put inside other AML.
struct Encoded(Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// A device on the ISA bus with one port range and one edge-triggered line.
fn isa_device(path: &str, hid: &str, ports: &RangeInclusive<u16>, line: u8) -> Encoded {
    let count = u8::try_from(ports.end() - ports.start() + 1).unwrap_or(u8::MAX);
    let io = aml::IO::new(*ports.start(), *ports.start(), 1, count);
    let irq = aml::Interrupt::new(true, true, false, false, u32::from(line));
    let resources = ResourceTemplate::new(vec![&io, &irq]);
    Encoded(bytes_of(&aml::Device::new(
        Path::new(path),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new(hid)),
            &aml::Name::new("_UID".into(), &0_u8),
            &aml::Name::new("_CRS".into(), &resources),
        ],
    )))
}

/// The root bridge: bus 0, its configuration ports, its windows and the routing of each slot's INTA#.
fn pci_root() -> Encoded {
    use platform::{PCI_CONFIG_PORTS, PCI_IO_WINDOW};
    let bus = aml::AddressSpace::new_bus_number(0_u16, 0);
    let config = aml::IO::new(*PCI_CONFIG_PORTS.start(), *PCI_CONFIG_PORTS.start(), 1, 8);
    let io = aml::AddressSpace::new_io(*PCI_IO_WINDOW.start(), *PCI_IO_WINDOW.end(), None);
    let uncached = aml::AddressSpaceCacheable::NotCacheable;
    let (first, last) = (PCI_MEMORY_WINDOW_FIRST, PCI_MEMORY_WINDOW_LAST);
    let memory = aml::AddressSpace::new_memory(uncached, true, first, last, None);
    let resources = ResourceTemplate::new(vec![&bus, &config, &io, &memory]);
    let routes = [
        route(platform::DISK_SLOT, platform::DISK_IRQ),
        route(platform::NETWORK_SLOT, platform::NETWORK_IRQ),
        route(platform::ENTROPY_SLOT, platform::ENTROPY_IRQ),
    ];
    let routing = aml::Package::new(routes.iter().map(|route| route as &dyn Aml).collect());
    Encoded(bytes_of(&aml::Device::new(
        "PCI0".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0A03")),
            &aml::Name::new("_ADR".into(), &0_u8),
            &aml::Name::new("_BBN".into(), &0_u8),
            &aml::Name::new("_UID".into(), &0_u8),
            &aml::Name::new("_CRS".into(), &resources),
            &aml::Name::new("_PRT".into(), &routing),
        ],
    )))
}

/// One line of `_PRT`: INTA# (0) of every function of `slot` goes to PIC line `line`, hard-wired.
fn route(slot: u8, line: u8) -> Encoded {
    let address = u32::from(slot) << 16 | 0xFFFF;
    Encoded(bytes_of(&aml::Package::new(vec![&address, &0_u8, &0_u8, &line])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(at: u64) -> Vec<u8> {
        tables()
            .into_iter()
            .find(|(address, _)| *address == at)
            .unwrap()
            .1
    }

    fn dword(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn tables_fit_their_area_and_do_not_overlap() {
        let tables = tables();
        for pair in tables.windows(2) {
            assert!(pair[0].0 + pair[0].1.len() as u64 <= pair[1].0);
        }
        let last = &tables[tables.len() - 2];
        assert!(last.0 + (last.1.len() as u64) < ACPI_TABLES.end);
        assert_eq!(table(ACPI_FACS.start).len(), 64);
    }

    #[test]
    fn every_checksum_is_zero_and_every_length_is_true() {
        for (at, bytes) in tables().into_iter().filter(|(at, _)| *at != ACPI_FACS.start) {
            assert_eq!(
                bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)),
                0,
                "{at:#x}"
            );
            let length_at = if at == RSDP { 20 } else { 4 };
            assert_eq!(dword(&bytes, length_at) as usize, bytes.len(), "{at:#x}");
        }
    }

    #[test]
    fn the_chain_leads_from_rsdp_to_dsdt() {
        assert_eq!(u64::from(dword(&table(RSDP), 24)), XSDT_AT);
        assert_eq!(u64::from(dword(&table(XSDT_AT), 36)), FADT_AT);
        let fadt = table(FADT_AT);
        assert_eq!(u64::from(dword(&fadt, 140)), DSDT_AT, "X_DSDT");
        assert_eq!(u64::from(dword(&fadt, 36)), ACPI_FACS.start, "FIRMWARE_CTRL");
    }

    #[test]
    fn the_fadt_says_what_the_board_has() {
        let fadt = table(FADT_AT);
        assert_eq!(fadt[46], 9, "SCI");
        assert_eq!(dword(&fadt, 48), 0, "SMI_CMD");
        assert_eq!(
            (dword(&fadt, 56), dword(&fadt, 64), dword(&fadt, 76)),
            (0x600, 0x604, 0x608)
        );
        assert_eq!((fadt[88], fadt[89], fadt[91]), (4, 2, 4));
        assert_eq!(fadt[108], 0x32, "century");
        assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 0b1_1101);
        let flags = dword(&fadt, 112);
        assert_eq!(
            flags & (1 << 4 | 1 << 20),
            0,
            "fixed power button, not hardware-reduced"
        );
        assert_eq!(
            flags & (1 << 8 | 1 << 10),
            1 << 8 | 1 << 10,
            "32-bit timer, reset register"
        );
        assert_eq!(
            (fadt[116], dword(&fadt, 120), fadt[128]),
            (1, 0x60C, 1),
            "reset register"
        );
        assert_eq!(
            (fadt[208], fadt[209], dword(&fadt, 212)),
            (1, 32, 0x608),
            "X_PM_TMR_BLK"
        );
    }

    #[test]
    fn the_routing_names_each_slots_line() {
        let dsdt = table(DSDT_AT);
        for (slot, line) in [(1_u8, 5_u8), (2, 6), (3, 10)] {
            // Package of 4: DWord address, Zero, Zero, Byte line.
            let entry = [4, 0x0C, 0xFF, 0xFF, slot, 0, 0, 0, 0x0A, line];
            assert!(
                dsdt.windows(entry.len()).any(|window| window == entry),
                "slot {slot}"
            );
        }
    }
}
