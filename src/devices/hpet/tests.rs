//! Register-level tests of the HPET.

use std::time::Duration;

use proptest::prelude::*;

use super::Hpet;
use crate::base::units::VirtualTime;
use crate::devices::bench::Bench;
use crate::devices::platform::HPET_MMIO;

const CONFIGURATION: u64 = 0x10;
const COUNTER: u64 = 0xF0;
const TIMER_0: u64 = 0x100;
const COMPARATOR_0: u64 = 0x108;
const ENABLE_LEGACY: u32 = 0b11;
const INTERRUPT: u32 = 1 << 2 | 1 << 8;
const PERIODIC: u32 = 1 << 3;
const VALUE_SET: u32 = 1 << 6;

/// The 32-bit register at `register`, as the page shows it at the bench's present time.
fn read(bench: &mut Bench, hpet: &mut Hpet, register: u64) -> u32 {
    let at = HPET_MMIO.start() + (register & !7);
    let (_, value) = hpet
        .registers(bench.now)
        .find(|(address, _)| address.0 == at)
        .unwrap();
    u32::try_from(value >> (8 * (register & 7)) & 0xFFFF_FFFF).unwrap()
}

fn write(bench: &mut Bench, hpet: &mut Hpet, register: u64, value: u32) {
    hpet.mmio_write(
        HPET_MMIO.start() + register,
        &value.to_le_bytes(),
        &mut bench.at(),
    );
}

/// Lets `ticks` of 100 ns pass and expires what is due; whether IRQ 0 rose.
fn pass(bench: &mut Bench, hpet: &mut Hpet, ticks: u64) -> bool {
    bench.pass(Duration::from_nanos(ticks * 100));
    hpet.advance(&mut bench.at());
    bench.rose(0)
}

#[test]
fn it_says_what_linux_looks_for() {
    let (mut bench, mut hpet) = (Bench::new(), Hpet::new());
    let capabilities = read(&mut bench, &mut hpet, 0);
    assert_eq!(capabilities & 1 << 15, 1 << 15, "legacy routing");
    assert_eq!(capabilities >> 8 & 0x1F, 2, "three timers");
    assert_eq!(read(&mut bench, &mut hpet, 4), 100_000_000, "femtoseconds a tick");
    assert_eq!(
        read(&mut bench, &mut hpet, TIMER_0) & 1 << 4,
        1 << 4,
        "timer 0 is periodic"
    );
}

#[test]
fn the_counter_alone_is_what_the_page_shows() {
    let (mut bench, mut hpet) = (Bench::new(), Hpet::new());
    write(&mut bench, &mut hpet, CONFIGURATION, 1);
    pass(&mut bench, &mut hpet, 70);
    let (address, value) = hpet.main_counter(bench.now);
    assert_eq!((address.0, value), (HPET_MMIO.start() + COUNTER, 70));
}

#[test]
fn the_counter_runs_while_enabled_and_keeps_its_value_while_not() {
    let (mut bench, mut hpet) = (Bench::new(), Hpet::new());
    pass(&mut bench, &mut hpet, 50);
    assert_eq!(read(&mut bench, &mut hpet, COUNTER), 0);
    write(&mut bench, &mut hpet, CONFIGURATION, 1);
    pass(&mut bench, &mut hpet, 70);
    assert_eq!(read(&mut bench, &mut hpet, COUNTER), 70);
    write(&mut bench, &mut hpet, CONFIGURATION, 0);
    pass(&mut bench, &mut hpet, 70);
    assert_eq!(read(&mut bench, &mut hpet, COUNTER), 70);
    write(&mut bench, &mut hpet, COUNTER, 5);
    write(&mut bench, &mut hpet, CONFIGURATION, 1);
    pass(&mut bench, &mut hpet, 3);
    assert_eq!(read(&mut bench, &mut hpet, COUNTER), 8);
}

#[test]
fn a_one_shot_fires_once_at_its_tick() {
    let (mut bench, mut hpet) = (Bench::new(), Hpet::new());
    write(&mut bench, &mut hpet, CONFIGURATION, ENABLE_LEGACY);
    write(&mut bench, &mut hpet, TIMER_0, INTERRUPT);
    write(&mut bench, &mut hpet, COMPARATOR_0, 1000);
    assert_eq!(hpet.next_deadline(), Some(VirtualTime::from_nanos(100_000)));
    assert!(!pass(&mut bench, &mut hpet, 999));
    assert!(pass(&mut bench, &mut hpet, 1));
    assert!(!pass(&mut bench, &mut hpet, 100_000));
    write(&mut bench, &mut hpet, COMPARATOR_0, 200_000);
    assert!(pass(&mut bench, &mut hpet, 500_000), "however late the exit");
}

#[test]
fn a_match_across_the_counter_s_wrap_is_seen() {
    let (mut bench, mut hpet) = (Bench::new(), Hpet::new());
    write(&mut bench, &mut hpet, COUNTER, u32::MAX - 9);
    write(&mut bench, &mut hpet, CONFIGURATION, ENABLE_LEGACY);
    write(&mut bench, &mut hpet, TIMER_0, INTERRUPT);
    write(&mut bench, &mut hpet, COMPARATOR_0, 5);
    assert!(!pass(&mut bench, &mut hpet, 14));
    assert!(pass(&mut bench, &mut hpet, 1));
}

#[test]
fn periods_do_not_drift_however_late_the_exits_are() {
    let (mut bench, mut hpet) = (Bench::new(), Hpet::new());
    write(&mut bench, &mut hpet, TIMER_0, INTERRUPT | PERIODIC | VALUE_SET);
    write(&mut bench, &mut hpet, COMPARATOR_0, 1000);
    write(&mut bench, &mut hpet, COMPARATOR_0, 1000);
    write(&mut bench, &mut hpet, CONFIGURATION, ENABLE_LEGACY);
    assert!(pass(&mut bench, &mut hpet, 3700), "three periods, one edge");
    assert_eq!(hpet.next_deadline(), Some(VirtualTime::from_nanos(400_000)));
    assert!(!pass(&mut bench, &mut hpet, 299));
    assert!(pass(&mut bench, &mut hpet, 1));
}

#[test]
fn without_legacy_routing_nothing_is_raised() {
    let (mut bench, mut hpet) = (Bench::new(), Hpet::new());
    write(&mut bench, &mut hpet, CONFIGURATION, 1);
    write(&mut bench, &mut hpet, TIMER_0, INTERRUPT);
    write(&mut bench, &mut hpet, COMPARATOR_0, 10);
    assert!(!hpet.has_legacy_routing());
    assert_eq!(hpet.next_deadline(), None);
    assert!(!pass(&mut bench, &mut hpet, 100));
}

proptest! {
    #[test]
    fn any_access_is_survived_and_deadlines_lie_ahead(
        accesses in prop::collection::vec((0..0x400_u64, 1..=8_usize, any::<u64>(), 0..1_000_000_u64), 0..100),
    ) {
        let (mut bench, mut hpet) = (Bench::new(), Hpet::new());
        for (offset, length, value, span) in accesses {
            let address = HPET_MMIO.start() + offset;
            hpet.mmio_write(address, &value.to_le_bytes()[..length], &mut bench.at());
            if let Some(deadline) = hpet.next_deadline() {
                prop_assert!(deadline > bench.now, "due interrupts were raised by the access");
            }
            bench.pass(Duration::from_nanos(span));
        }
    }
}
