use std::time::Duration;

use proptest::prelude::*;

use super::super::{Effect, PortDevice, bench::Bench, platform::ACPI_PM_TIMER_HERTZ};
use super::AcpiPm;
use crate::base::units::VirtualTime;

const STATUS: u16 = 0x600;
const ENABLE: u16 = 0x602;
const CONTROL: u16 = 0x604;
const TIMER: u16 = 0x608;
const RESET: u16 = 0x60C;
const SCI: u8 = 9;

#[test]
fn the_timer_counts_virtual_time_and_wraps_at_32_bits() {
    let mut bench = Bench::new();
    let mut pm = AcpiPm::new();
    assert_eq!(bench.inl(&mut pm, TIMER), 0);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.inl(&mut pm, TIMER), 3_579_545);
    bench.now = VirtualTime::of_tick((1 << 32) + 7, ACPI_PM_TIMER_HERTZ);
    assert_eq!(bench.inl(&mut pm, TIMER), 7);
    bench.outw(&mut pm, TIMER, 0xFFFF);
    assert_eq!(bench.inl(&mut pm, TIMER), 7, "read-only");
}

#[test]
fn the_power_button_holds_sci_until_its_status_is_cleared() {
    let mut bench = Bench::new();
    let mut pm = AcpiPm::new();
    pm.press_power_button(&mut bench.at());
    assert!(!bench.is_high(SCI));
    assert_eq!(bench.inw(&mut pm, STATUS), 1 << 8);
    bench.outw(&mut pm, ENABLE, 1 << 8);
    assert!(bench.is_high(SCI));
    bench.outw(&mut pm, STATUS, !(1 << 8));
    assert!(bench.is_high(SCI), "writing zero clears nothing");
    bench.outw(&mut pm, STATUS, 1 << 8);
    assert!(!bench.is_high(SCI));
    assert_eq!(bench.inw(&mut pm, STATUS), 0);
}

#[test]
fn the_timer_status_follows_the_highest_bit_both_ways() {
    let mut bench = Bench::new();
    let mut pm = AcpiPm::new();
    assert_eq!(pm.next_deadline(), None);
    bench.outw(&mut pm, ENABLE, 1);
    for half in 1..=3_u64 {
        let due = VirtualTime::of_tick(half << 31, ACPI_PM_TIMER_HERTZ);
        assert_eq!(pm.next_deadline(), Some(due));
        bench.now = VirtualTime::from_nanos(due.as_nanos() - 1);
        pm.advance(&mut bench.at());
        assert!(!bench.is_high(SCI));
        bench.now = due;
        pm.advance(&mut bench.at());
        assert!(bench.is_high(SCI));
        assert_eq!(pm.next_deadline(), None);
        bench.outw(&mut pm, STATUS, 1);
        assert!(!bench.is_high(SCI));
    }
}

#[test]
fn enable_bits_read_back_and_the_others_do_not_exist() {
    let mut bench = Bench::new();
    let mut pm = AcpiPm::new();
    bench.outw(&mut pm, ENABLE, 0xFFFF);
    assert_eq!(bench.inw(&mut pm, ENABLE), 0x0521);
    bench.outb(&mut pm, ENABLE + 1, 0);
    assert_eq!(bench.inl(&mut pm, STATUS), 0x0021_0000);
}

#[test]
fn sleeping_in_s5_powers_off_and_nothing_else_does() {
    let mut bench = Bench::new();
    let mut pm = AcpiPm::new();
    assert_eq!(bench.inw(&mut pm, CONTROL), 1, "ACPI mode is on");
    bench.outw(&mut pm, CONTROL, 5 << 10);
    bench.outw(&mut pm, CONTROL, 3 << 10 | 1 << 13);
    assert_eq!(bench.effects, []);
    // ACPICA writes the type first, then type and enable.
    bench.outw(&mut pm, CONTROL, 5 << 10 | 1);
    assert_eq!(bench.inw(&mut pm, CONTROL), 5 << 10 | 1);
    bench.outw(&mut pm, CONTROL, 5 << 10 | 1 << 13 | 1);
    assert_eq!(bench.effects, [Effect::PowerOff]);
    assert_eq!(bench.inw(&mut pm, CONTROL) & 1 << 13, 0, "SLP_EN is write-only");
}

#[test]
fn both_reset_registers_reset_on_their_value_alone() {
    let mut bench = Bench::new();
    let mut pm = AcpiPm::new();
    for value in [0, 2, 0xFE] {
        bench.outb(&mut pm, RESET, value);
    }
    bench.outb(&mut pm, 0x64, 0xFF);
    assert_eq!(bench.effects, []);
    bench.outb(&mut pm, RESET, 1);
    bench.outb(&mut pm, 0x64, 0xFE);
    assert_eq!(bench.effects, [Effect::Reset, Effect::Reset]);
    assert_eq!(
        bench.inw(&mut pm, 0x64),
        0xFF00,
        "input buffer empty; 0x65 is nobody"
    );
}

proptest! {
    /// After any access SCI is high exactly while an enabled status is set, and deadlines are exact.
    #[test]
    fn sci_is_status_and_enable(
        accesses in prop::collection::vec(
            (
                prop_oneof![0x600_u16..0x610, Just(ENABLE), Just(0x64), any::<u16>()],
                prop::collection::vec(any::<u8>(), 0..9),
                0_u8..3,
                0_u64..1_000_000_000_000,
            ),
            0..60,
        ),
    ) {
        let mut bench = Bench::new();
        let mut pm = AcpiPm::new();
        for (port, mut data, kind, pause_ns) in accesses {
            match kind {
                0 => pm.port_read(port, &mut data, &mut bench.at()),
                1 => pm.port_write(port, &data, &mut bench.at()),
                _ => pm.press_power_button(&mut bench.at()),
            }
            let sci = bench.is_high(SCI);
            let both = bench.inw(&mut pm, STATUS) & bench.inw(&mut pm, ENABLE);
            prop_assert_eq!(sci, both != 0);
            let due = pm.next_deadline();
            bench.pass(Duration::from_nanos(pause_ns));
            pm.advance(&mut bench.at());
            if let Some(due) = due {
                prop_assert_eq!(pm.next_deadline().is_none(), due <= bench.now);
            }
        }
    }
}
