use std::time::Duration;

use proptest::prelude::*;

use super::super::{PortDevice, bench::Bench};
use super::Rtc;
use crate::base::units::VirtualTime;

/// 2024-02-29 23:59:58 UTC, a Thursday.
const LEAP_EVE: i64 = 1_709_251_198;

fn read(bench: &mut Bench, rtc: &mut Rtc, register: u8) -> u8 {
    bench.outb(rtc, 0x70, register);
    bench.inb(rtc, 0x71)
}

fn write(bench: &mut Bench, rtc: &mut Rtc, register: u8, value: u8) {
    bench.outb(rtc, 0x70, register);
    bench.outb(rtc, 0x71, value);
}

/// Seconds, minutes, hours, weekday, day, month, year, century.
fn time_bytes(bench: &mut Bench, rtc: &mut Rtc) -> [u8; 8] {
    [0, 2, 4, 6, 7, 8, 9, 0x32].map(|register| read(bench, rtc, register))
}

fn write_time(bench: &mut Bench, rtc: &mut Rtc, bytes: [u8; 8]) {
    for (register, value) in [0, 2, 4, 6, 7, 8, 9, 0x32].into_iter().zip(bytes) {
        write(bench, rtc, register, value);
    }
}

fn advance_to(bench: &mut Bench, rtc: &mut Rtc, nanos: u64) -> bool {
    bench.now = VirtualTime::from_nanos(nanos);
    rtc.advance(&mut bench.at());
    bench.rose(8)
}

#[test]
fn shows_the_injected_time_in_bcd_and_rolls_over() {
    let mut bench = Bench::new();
    let mut rtc = Rtc::new(LEAP_EVE);
    assert_eq!(
        time_bytes(&mut bench, &mut rtc),
        [0x58, 0x59, 0x23, 5, 0x29, 0x02, 0x24, 0x20]
    );
    bench.pass(Duration::from_secs(2));
    assert_eq!(
        time_bytes(&mut bench, &mut rtc),
        [0, 0, 0, 6, 0x01, 0x03, 0x24, 0x20]
    );
    assert_eq!(read(&mut bench, &mut rtc, 0x0D), 0x80);
}

#[test]
fn binary_and_twelve_hour_modes() {
    let mut bench = Bench::new();
    let mut rtc = Rtc::new(LEAP_EVE);
    write(&mut bench, &mut rtc, 0x0B, 0x06);
    assert_eq!(time_bytes(&mut bench, &mut rtc), [58, 59, 23, 5, 29, 2, 24, 20]);
    write(&mut bench, &mut rtc, 0x0B, 0x00);
    assert_eq!(read(&mut bench, &mut rtc, 4), 0x91);
    bench.pass(Duration::from_secs(2));
    assert_eq!(read(&mut bench, &mut rtc, 4), 0x12, "midnight is 12 AM");
    bench.pass(Duration::from_secs(12 * 3600));
    assert_eq!(read(&mut bench, &mut rtc, 4), 0x92, "noon is 12 PM");
    write(&mut bench, &mut rtc, 4, 0x12);
    write(&mut bench, &mut rtc, 0x0B, 0x02);
    assert_eq!(read(&mut bench, &mut rtc, 4), 0x00);
}

#[test]
fn setting_the_time_as_linux_does_starts_half_a_second_in() {
    let mut bench = Bench::new();
    let mut rtc = Rtc::new(LEAP_EVE);
    bench.pass(Duration::from_millis(900));
    write(&mut bench, &mut rtc, 0x0B, 0x82);
    write(&mut bench, &mut rtc, 0x0A, 0x76);
    let new_year = [0x59, 0x59, 0x23, 6, 0x31, 0x12, 0x99, 0x20];
    write_time(&mut bench, &mut rtc, new_year);
    bench.pass(Duration::from_secs(5));
    assert_eq!(time_bytes(&mut bench, &mut rtc), new_year, "halted");
    write(&mut bench, &mut rtc, 0x0B, 0x02);
    assert_eq!(
        time_bytes(&mut bench, &mut rtc),
        new_year,
        "the divider is still in reset"
    );
    write(&mut bench, &mut rtc, 0x0A, 0x26);
    bench.pass(Duration::from_millis(499));
    assert_eq!(time_bytes(&mut bench, &mut rtc), new_year);
    bench.pass(Duration::from_millis(1));
    assert_eq!(
        time_bytes(&mut bench, &mut rtc),
        [0, 0, 0, 7, 0x01, 0x01, 0x00, 0x21]
    );
}

#[test]
fn set_alone_keeps_the_phase_of_the_second() {
    let mut bench = Bench::new();
    let mut rtc = Rtc::new(LEAP_EVE);
    bench.pass(Duration::from_millis(300));
    write(&mut bench, &mut rtc, 0x0B, 0x82);
    write(&mut bench, &mut rtc, 0x00, 0x10);
    write(&mut bench, &mut rtc, 0x0B, 0x02);
    bench.pass(Duration::from_millis(699));
    assert_eq!(read(&mut bench, &mut rtc, 0), 0x10);
    bench.pass(Duration::from_millis(1));
    assert_eq!(read(&mut bench, &mut rtc, 0), 0x11);
}

#[test]
fn a_running_clock_takes_single_bytes() {
    let mut bench = Bench::new();
    let mut rtc = Rtc::new(LEAP_EVE);
    write(&mut bench, &mut rtc, 0x02, 0x30);
    write(&mut bench, &mut rtc, 0x08, 0x04);
    write(&mut bench, &mut rtc, 0x09, 0x26);
    assert_eq!(
        time_bytes(&mut bench, &mut rtc),
        [0x58, 0x30, 0x23, 5, 0x29, 0x04, 0x26, 0x20]
    );
    write(&mut bench, &mut rtc, 0x06, 0x04);
    bench.pass(Duration::from_secs(86_400));
    assert_eq!(read(&mut bench, &mut rtc, 6), 5, "the weekday counts on its own");
}

#[test]
fn update_in_progress_shows_just_before_the_second_and_never_while_halted() {
    let mut bench = Bench::new();
    let mut rtc = Rtc::new(LEAP_EVE);
    let mut at = |nanos: u64, b: u8| {
        bench.now = VirtualTime::from_nanos(nanos);
        write(&mut bench, &mut rtc, 0x0B, b);
        read(&mut bench, &mut rtc, 0x0A)
    };
    assert_eq!(at(999_755_999, 2), 0x26);
    assert_eq!(at(999_756_000, 2), 0xA6);
    assert_eq!(at(999_999_999, 2), 0xA6);
    assert_eq!(at(1_000_000_000, 2), 0x26);
    assert_eq!(at(1_999_999_999, 0x82), 0x26);
}

#[test]
fn update_ended_interrupts_each_second_until_register_c_is_read() {
    let mut bench = Bench::new();
    let mut rtc = Rtc::new(LEAP_EVE);
    write(&mut bench, &mut rtc, 0x0B, 0x12);
    assert_eq!(rtc.next_deadline(), Some(VirtualTime::from_nanos(1_000_000_000)));
    assert!(!advance_to(&mut bench, &mut rtc, 999_999_999));
    assert!(advance_to(&mut bench, &mut rtc, 1_000_000_000));
    assert_eq!(rtc.next_deadline(), None, "the line is high");
    assert!(!advance_to(&mut bench, &mut rtc, 2_500_000_000));
    assert_eq!(read(&mut bench, &mut rtc, 0x0C) & 0x90, 0x90);
    assert!(!bench.is_high(8));
    assert_eq!(read(&mut bench, &mut rtc, 0x0C), 0);
    assert_eq!(rtc.next_deadline(), Some(VirtualTime::from_nanos(3_000_000_000)));
}

#[test]
fn set_clears_the_update_interrupt_enable() {
    let mut bench = Bench::new();
    let mut rtc = Rtc::new(LEAP_EVE);
    write(&mut bench, &mut rtc, 0x0B, 0x92);
    assert_eq!(read(&mut bench, &mut rtc, 0x0B), 0x82);
}

#[test]
fn the_periodic_interrupt_keeps_its_rate() {
    let mut bench = Bench::new();
    let mut rtc = Rtc::new(LEAP_EVE);
    write(&mut bench, &mut rtc, 0x0B, 0x42);
    for (rate, hertz) in [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2)] {
        write(&mut bench, &mut rtc, 0x0A, 0x20 | rate);
        read(&mut bench, &mut rtc, 0x0C);
        let end = bench.now + Duration::from_secs(1);
        let mut count = 0;
        while let Some(due) = rtc.next_deadline().filter(|&due| due <= end) {
            assert!(advance_to(&mut bench, &mut rtc, due.as_nanos()));
            assert_eq!(read(&mut bench, &mut rtc, 0x0C) & 0xC0, 0xC0);
            count += 1;
        }
        assert_eq!(count, hertz, "rate {rate}");
        bench.now = end;
    }
    write(&mut bench, &mut rtc, 0x0A, 0x20);
    assert_eq!(rtc.next_deadline(), None);
}

#[test]
fn flags_without_enable_raise_no_line_until_enabled() {
    let mut bench = Bench::new();
    let mut rtc = Rtc::new(LEAP_EVE);
    assert!(!advance_to(&mut bench, &mut rtc, 1_500_000_000));
    assert_eq!(rtc.next_deadline(), None);
    write(&mut bench, &mut rtc, 0x0B, 0x12);
    assert!(bench.rose(8), "the flag was set already");
}

#[test]
fn the_alarm_matches_the_time_of_day_and_wildcards() {
    let mut bench = Bench::new();
    let mut rtc = Rtc::new(LEAP_EVE);
    for (register, value) in [(1, 0x05), (3, 0x00), (5, 0x00), (0x0B, 0x22)] {
        write(&mut bench, &mut rtc, register, value);
    }
    assert_eq!(rtc.next_deadline(), Some(VirtualTime::from_nanos(7_000_000_000)));
    assert!(!advance_to(&mut bench, &mut rtc, 6_999_999_999));
    assert!(advance_to(&mut bench, &mut rtc, 7_000_000_000));
    assert_eq!(
        read(&mut bench, &mut rtc, 0x0C),
        0xF0,
        "flags do not need their enable bit"
    );
    assert_eq!(
        rtc.next_deadline(),
        Some(VirtualTime::from_nanos(86_407_000_000_000))
    );

    write(&mut bench, &mut rtc, 5, 0xFF);
    write(&mut bench, &mut rtc, 3, 0xC0);
    assert_eq!(rtc.next_deadline(), Some(VirtualTime::from_nanos(67_000_000_000)));
    write(&mut bench, &mut rtc, 1, 0x77);
    assert_eq!(rtc.next_deadline(), None, "no second has that number");
}

#[test]
fn cmos_bytes_are_kept_and_the_index_port_is_write_only() {
    let mut bench = Bench::new();
    let mut rtc = Rtc::new(LEAP_EVE);
    write(&mut bench, &mut rtc, 0xFF, 0x5A);
    assert_eq!(read(&mut bench, &mut rtc, 0x7F), 0x5A);
    assert_eq!(bench.inb(&mut rtc, 0x70), 0xFF);
    bench.outw(&mut rtc, 0x70, 0xA57F);
    assert_eq!(bench.inl(&mut rtc, 0x70), 0xFFFF_A5FF);
}

proptest! {
    /// Setting what the clock shows changes nothing, in every mode.
    #[test]
    fn reading_and_writing_back_is_neutral(start in any::<i64>(), mode in 0_u8..4) {
        let mut bench = Bench::new();
        let mut rtc = Rtc::new(start);
        write(&mut bench, &mut rtc, 0x0B, mode << 1);
        let shown = time_bytes(&mut bench, &mut rtc);
        write(&mut bench, &mut rtc, 0x0B, mode << 1 | 0x80);
        write_time(&mut bench, &mut rtc, shown);
        write(&mut bench, &mut rtc, 0x0B, mode << 1);
        prop_assert_eq!(time_bytes(&mut bench, &mut rtc), shown);
    }

    /// Whatever the guest writes, IRQ 8 rises at the deadline and not a nanosecond before.
    #[test]
    fn deadlines_are_exact(
        start in any::<i64>(),
        accesses in prop::collection::vec(
            (
                prop_oneof![4 => Just(0x70_u16), 1 => Just(0x71), 1 => any::<u16>()],
                prop_oneof![
                    (prop_oneof![0_u8..0x10, Just(0x0A), Just(0x0B)], any::<u8>())
                        .prop_map(|(index, value)| vec![index, value]),
                    prop::collection::vec(any::<u8>(), 0..6),
                ],
                any::<bool>(),
                0_u64..2_000_000_000,
            ),
            0..60,
        ),
    ) {
        let mut bench = Bench::new();
        let mut rtc = Rtc::new(start);
        for (port, mut data, writes, pause_ns) in accesses {
            if writes {
                rtc.port_write(port, &data, &mut bench.at());
            } else {
                rtc.port_read(port, &mut data, &mut bench.at());
            }
            bench.rose(8);
            let resume = bench.now + Duration::from_nanos(pause_ns);
            if let Some(due) = rtc.next_deadline() {
                prop_assert!(due > bench.now);
                prop_assert!(!advance_to(&mut bench, &mut rtc, due.as_nanos() - 1));
                prop_assert_eq!(rtc.next_deadline(), Some(due));
                prop_assert!(advance_to(&mut bench, &mut rtc, due.as_nanos()));
            }
            bench.now = bench.now.max(resume);
        }
    }
}
