use std::time::Duration;

use proptest::prelude::*;

use super::super::{PortDevice, bench::Bench, platform::PIT_HERTZ};
use super::Pit;
use crate::base::units::VirtualTime;

const CONTROL: u16 = 0x43;
const PORT_B: u16 = 0x61;

fn at_tick(bench: &mut Bench, tick: u64) {
    bench.now = VirtualTime::of_tick(tick, PIT_HERTZ);
}

/// Programs `channel` with both bytes of `count`.
fn program(bench: &mut Bench, pit: &mut Pit, channel: u8, mode_and_bcd: u8, count: u16) {
    bench.outb(pit, CONTROL, channel << 6 | 0x30 | mode_and_bcd);
    write_count(bench, pit, channel, count);
}

fn write_count(bench: &mut Bench, pit: &mut Pit, channel: u8, count: u16) {
    for byte in count.to_le_bytes() {
        bench.outb(pit, 0x40 + u16::from(channel), byte);
    }
}

fn latched(bench: &mut Bench, pit: &mut Pit, channel: u8) -> u16 {
    bench.outb(pit, CONTROL, channel << 6);
    let port = 0x40 + u16::from(channel);
    u16::from_le_bytes([bench.inb(pit, port), bench.inb(pit, port)])
}

fn out2(bench: &mut Bench, pit: &mut Pit) -> bool {
    bench.inb(pit, PORT_B) & 0x20 != 0
}

/// Advances to `tick`; whether IRQ 0 rose.
fn advance(bench: &mut Bench, pit: &mut Pit, tick: u64) -> bool {
    at_tick(bench, tick);
    pit.advance(&mut bench.at());
    bench.rose(0)
}

/// OUT of channel 2 at each of `ticks` after now, as `1` and `0`.
fn wave(bench: &mut Bench, pit: &mut Pit, ticks: std::ops::RangeInclusive<u64>) -> String {
    ticks
        .map(|tick| {
            at_tick(bench, tick);
            if out2(bench, pit) { '1' } else { '0' }
        })
        .collect()
}

#[test]
fn an_unprogrammed_timer_is_silent() {
    let mut bench = Bench::new();
    let mut pit = Pit::new();
    assert_eq!(pit.next_deadline(), None);
    assert!(!advance(&mut bench, &mut pit, 10_000_000));
}

#[test]
fn mode_2_ticks_without_drift_however_late_the_exits_are() {
    let mut bench = Bench::new();
    let mut pit = Pit::new();
    program(&mut bench, &mut pit, 0, 0x04, 4773);
    let mut lateness = 0;
    for period in 1..=10_000_u64 {
        let due = VirtualTime::of_tick(1 + period * 4773, PIT_HERTZ);
        assert_eq!(pit.next_deadline(), Some(due));
        lateness = (lateness * 31 + 7) % 3_000_000;
        bench.now = due + Duration::from_nanos(lateness);
        pit.advance(&mut bench.at());
        assert!(bench.rose(0));
        pit.advance(&mut bench.at());
        assert!(!bench.rose(0));
    }
}

#[test]
fn missed_periods_merge_into_one_edge() {
    let mut bench = Bench::new();
    let mut pit = Pit::new();
    program(&mut bench, &mut pit, 0, 0x04, 1000);
    assert!(advance(&mut bench, &mut pit, 1 + 5_500));
    assert_eq!(
        pit.next_deadline(),
        Some(VirtualTime::of_tick(1 + 6_000, PIT_HERTZ))
    );
}

#[test]
fn mode_4_fires_once_and_a_new_count_rearms_it_as_linux_does() {
    let mut bench = Bench::new();
    let mut pit = Pit::new();
    bench.outb(&mut pit, CONTROL, 0x38);
    assert_eq!(pit.next_deadline(), None);
    write_count(&mut bench, &mut pit, 0, 500);
    // Loaded at tick 1, zero at 501, low for one tick.
    assert!(!advance(&mut bench, &mut pit, 501));
    assert!(advance(&mut bench, &mut pit, 502));
    assert_eq!(pit.next_deadline(), None);
    assert!(!advance(&mut bench, &mut pit, 200_000));

    write_count(&mut bench, &mut pit, 0, 100);
    at_tick(&mut bench, 200_050);
    write_count(&mut bench, &mut pit, 0, 100);
    assert!(
        !advance(&mut bench, &mut pit, 200_151),
        "the first count was replaced"
    );
    assert!(advance(&mut bench, &mut pit, 200_152));
}

#[test]
fn an_edge_that_came_due_before_reprogramming_is_kept() {
    let mut bench = Bench::new();
    let mut pit = Pit::new();
    program(&mut bench, &mut pit, 0, 0x08, 100);
    at_tick(&mut bench, 150);
    bench.outb(&mut pit, CONTROL, 0x30);
    assert!(bench.rose(0));
}

#[test]
fn mode_0_rises_at_the_end_and_its_first_byte_stops_it() {
    let mut bench = Bench::new();
    let mut pit = Pit::new();
    program(&mut bench, &mut pit, 0, 0x00, 0);
    assert_eq!(
        pit.next_deadline(),
        Some(VirtualTime::of_tick(1 + 0x1_0000, PIT_HERTZ))
    );
    bench.outb(&mut pit, 0x40, 10);
    assert_eq!(pit.next_deadline(), None);
    bench.outb(&mut pit, 0x40, 0);
    assert!(!advance(&mut bench, &mut pit, 10));
    assert!(advance(&mut bench, &mut pit, 11));
    assert_eq!(latched(&mut bench, &mut pit, 0), 0);
    at_tick(&mut bench, 13);
    assert_eq!(
        latched(&mut bench, &mut pit, 0),
        0xFFFE,
        "counting goes on past zero"
    );
}

#[test]
fn a_new_count_of_a_periodic_mode_waits_for_the_period_to_end() {
    let mut bench = Bench::new();
    let mut pit = Pit::new();
    program(&mut bench, &mut pit, 0, 0x04, 100);
    at_tick(&mut bench, 50);
    write_count(&mut bench, &mut pit, 0, 30);
    assert!(advance(&mut bench, &mut pit, 101));
    assert!(advance(&mut bench, &mut pit, 131));
    at_tick(&mut bench, 140);
    assert_eq!(latched(&mut bench, &mut pit, 0), 21);
}

#[test]
fn outputs_have_the_shapes_of_the_data_sheet() {
    let shape = |mode: u8, count: u16, gate_pulse: bool| {
        let mut bench = Bench::new();
        let mut pit = Pit::new();
        bench.outb(&mut pit, PORT_B, u8::from(!gate_pulse));
        program(&mut bench, &mut pit, 2, mode << 1, count);
        bench.outb(&mut pit, PORT_B, 1);
        wave(&mut bench, &mut pit, 0..=12)
    };
    assert_eq!(shape(0, 4, false), "0000011111111");
    assert_eq!(shape(1, 4, true), "1000011111111");
    assert_eq!(shape(2, 3, false), "1110110110110");
    assert_eq!(shape(3, 4, false), "1110011001100");
    assert_eq!(shape(3, 5, false), "1111001110011");
    assert_eq!(shape(4, 4, false), "1111101111111");
    assert_eq!(shape(5, 4, true), "1111101111111");
}

#[test]
fn the_gate_pauses_mode_0_and_restarts_mode_2() {
    let mut bench = Bench::new();
    let mut pit = Pit::new();
    bench.outb(&mut pit, PORT_B, 1);
    program(&mut bench, &mut pit, 2, 0x00, 100);
    at_tick(&mut bench, 41);
    bench.outb(&mut pit, PORT_B, 0);
    at_tick(&mut bench, 1_000);
    assert_eq!(latched(&mut bench, &mut pit, 2), 60);
    bench.outb(&mut pit, PORT_B, 1);
    at_tick(&mut bench, 1_059);
    assert!(!out2(&mut bench, &mut pit));
    at_tick(&mut bench, 1_060);
    assert!(out2(&mut bench, &mut pit));

    program(&mut bench, &mut pit, 2, 0x04, 10);
    at_tick(&mut bench, 1_070);
    assert!(!out2(&mut bench, &mut pit));
    bench.outb(&mut pit, PORT_B, 0);
    assert!(out2(&mut bench, &mut pit), "a low gate forces OUT high");
    bench.outb(&mut pit, PORT_B, 1);
    at_tick(&mut bench, 1_075);
    assert_eq!(latched(&mut bench, &mut pit, 2), 6);
}

#[test]
fn a_latch_holds_until_both_bytes_are_read() {
    let mut bench = Bench::new();
    let mut pit = Pit::new();
    program(&mut bench, &mut pit, 0, 0x04, 0x1234);
    at_tick(&mut bench, 1);
    bench.outb(&mut pit, CONTROL, 0x00);
    at_tick(&mut bench, 0x200);
    bench.outb(&mut pit, CONTROL, 0x00);
    assert_eq!(
        [bench.inb(&mut pit, 0x40), bench.inb(&mut pit, 0x40)],
        [0x34, 0x12]
    );
    assert_eq!(
        [bench.inb(&mut pit, 0x40), bench.inb(&mut pit, 0x40)],
        [0x35, 0x10]
    );
}

#[test]
fn single_byte_accesses_write_and_read_their_half() {
    let mut bench = Bench::new();
    let mut pit = Pit::new();
    bench.outb(&mut pit, CONTROL, 0x14);
    bench.outb(&mut pit, 0x40, 50);
    assert_eq!(pit.next_deadline(), Some(VirtualTime::of_tick(51, PIT_HERTZ)));
    bench.outb(&mut pit, CONTROL, 0x24);
    bench.outb(&mut pit, 0x40, 2);
    assert_eq!(pit.next_deadline(), Some(VirtualTime::of_tick(513, PIT_HERTZ)));
    at_tick(&mut bench, 1);
    assert_eq!(bench.inb(&mut pit, 0x40), 2);
    at_tick(&mut bench, 2);
    assert_eq!(bench.inb(&mut pit, 0x40), 1);
}

#[test]
fn bcd_counts_decimally() {
    let mut bench = Bench::new();
    let mut pit = Pit::new();
    program(&mut bench, &mut pit, 0, 0x05, 0x1000);
    assert_eq!(pit.next_deadline(), Some(VirtualTime::of_tick(1001, PIT_HERTZ)));
    at_tick(&mut bench, 2);
    assert_eq!(latched(&mut bench, &mut pit, 0), 0x0999);
    program(&mut bench, &mut pit, 0, 0x05, 0);
    assert_eq!(
        pit.next_deadline(),
        Some(VirtualTime::of_tick(2 + 1 + 10_000, PIT_HERTZ))
    );
}

#[test]
fn read_back_gives_status_first_then_the_count() {
    let mut bench = Bench::new();
    let mut pit = Pit::new();
    program(&mut bench, &mut pit, 0, 0x04, 100);
    bench.outb(&mut pit, CONTROL, 0xE2);
    assert_eq!(bench.inb(&mut pit, 0x40), 0xF4, "OUT high, count not yet loaded");
    at_tick(&mut bench, 11);
    bench.outb(&mut pit, CONTROL, 0xC2);
    assert_eq!(bench.inb(&mut pit, 0x40), 0xB4);
    assert_eq!([bench.inb(&mut pit, 0x40), bench.inb(&mut pit, 0x40)], [90, 0]);
}

#[test]
fn square_waves_count_by_two() {
    let mut bench = Bench::new();
    let mut pit = Pit::new();
    program(&mut bench, &mut pit, 0, 0x06, 5);
    let mut values = Vec::new();
    for tick in 1..=6 {
        at_tick(&mut bench, tick);
        values.push(latched(&mut bench, &mut pit, 0));
    }
    assert_eq!(values, [4, 2, 0, 4, 2, 4]);
}

#[test]
fn port_b_keeps_its_two_bits_and_shows_refresh() {
    let mut bench = Bench::new();
    let mut pit = Pit::new();
    bench.outb(&mut pit, PORT_B, 0xFF);
    assert_eq!(bench.inb(&mut pit, PORT_B) & 0xCF, 0x03);
    let refresh: Vec<u8> = (0..4)
        .map(|step| {
            at_tick(&mut bench, step * 18);
            bench.inb(&mut pit, PORT_B) & 0x10
        })
        .collect();
    assert_eq!(refresh, [0, 0x10, 0, 0x10]);
}

#[test]
fn what_is_no_register_reads_as_ones() {
    let mut bench = Bench::new();
    let mut pit = Pit::new();
    assert_eq!(bench.inb(&mut pit, CONTROL), 0xFF);
    assert_eq!(bench.inl(&mut pit, 0x43), 0xFFFF_FFFF);
}

proptest! {
    /// Whatever the guest programs, IRQ 0 rises at the deadline and not a nanosecond before.
    #[test]
    fn deadlines_are_exact(
        accesses in prop::collection::vec(
            (
                prop_oneof![0x40_u16..=0x43, Just(0x40_u16), Just(CONTROL), Just(PORT_B), any::<u16>()],
                prop::collection::vec(any::<u8>(), 0..6),
                any::<bool>(),
                0_u64..200_000_000,
            ),
            0..60,
        ),
    ) {
        let mut bench = Bench::new();
        let mut pit = Pit::new();
        for (port, mut data, writes, pause_ns) in accesses {
            if writes {
                pit.port_write(port, &data, &mut bench.at());
            } else {
                pit.port_read(port, &mut data, &mut bench.at());
            }
            bench.rose(0);
            let resume = bench.now + Duration::from_nanos(pause_ns);
            if let Some(due) = pit.next_deadline() {
                prop_assert!(due > bench.now);
                bench.now = VirtualTime::from_nanos(due.as_nanos() - 1);
                pit.advance(&mut bench.at());
                prop_assert!(!bench.rose(0));
                prop_assert_eq!(pit.next_deadline(), Some(due));
                bench.now = due;
                pit.advance(&mut bench.at());
                prop_assert!(bench.rose(0));
            }
            bench.now = bench.now.max(resume);
        }
    }

    /// The far end of time is as harmless as its beginning.
    #[test]
    fn time_at_its_end_overflows_nothing(control in any::<u8>(), count in any::<u16>()) {
        let mut bench = Bench::new();
        let mut pit = Pit::new();
        bench.now = VirtualTime::from_nanos(u64::MAX);
        bench.outb(&mut pit, CONTROL, control);
        write_count(&mut bench, &mut pit, 0, count);
        pit.advance(&mut bench.at());
        let _ = (pit.next_deadline(), latched(&mut bench, &mut pit, 0));
    }
}

#[test]
fn after_the_firmware_channel_0_has_a_count() {
    let mut bench = Bench::new();
    let mut pit = Pit::as_firmware_leaves_it();
    at_tick(&mut bench, 3);
    bench.outb(&mut pit, CONTROL, 0xC2);
    let status = bench.inb(&mut pit, 0x40);
    assert_eq!(status & 0x7F, 0x36, "mode 3, both bytes, count loaded");
    assert!(pit.next_deadline().is_some());
}
