use proptest::prelude::*;

use super::super::{Effect, PortDevice, bench::Bench};
use super::Serial;
use crate::base::limits::CONSOLE_INPUT_BYTES_MAX;

const DATA: u16 = 0x3F8;
const ENABLE: u16 = 0x3F9;
const IDENTIFICATION: u16 = 0x3FA;
const LINE_CONTROL: u16 = 0x3FB;
const MODEM_CONTROL: u16 = 0x3FC;
const LINE_STATUS: u16 = 0x3FD;
const IRQ: u8 = 4;

fn take_output(bench: &mut Bench) -> Vec<u8> {
    let byte = |effect| match effect {
        Effect::ConsoleOutput(byte) => byte,
        other => panic!("a serial port does not ask for {other:?}"),
    };
    bench.effects.drain(..).map(byte).collect()
}

fn drain_input(bench: &mut Bench, serial: &mut Serial) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bench.inb(serial, LINE_STATUS) & 1 != 0 {
        bytes.push(bench.inb(serial, DATA));
    }
    bytes
}

#[test]
fn output_leaves_in_order_at_once() {
    let mut bench = Bench::new();
    let mut serial = Serial::new();
    for &byte in b"hello" {
        assert_eq!(bench.inb(&mut serial, LINE_STATUS) & 0x60, 0x60);
        bench.outb(&mut serial, DATA, byte);
    }
    assert_eq!(take_output(&mut bench), b"hello");
    assert!(!bench.is_high(IRQ));
}

#[test]
fn input_beyond_the_fifo_follows_as_it_drains() {
    let mut bench = Bench::new();
    let mut serial = Serial::new();
    let typed: Vec<u8> = (0..=255).cycle().take(1_000).collect();
    assert_eq!(serial.console_input(&typed, &mut bench.at()), 1_000);
    assert_eq!(drain_input(&mut bench, &mut serial), typed);
    assert_eq!(serial.input_room(), CONSOLE_INPUT_BYTES_MAX);
}

#[test]
fn input_beyond_the_backlog_is_refused() {
    let mut bench = Bench::new();
    let mut serial = Serial::new();
    let typed = vec![7; CONSOLE_INPUT_BYTES_MAX];
    assert_eq!(
        serial.console_input(&typed, &mut bench.at()),
        CONSOLE_INPUT_BYTES_MAX
    );
    let room = serial.input_room();
    assert!(room < 100);
    assert_eq!(serial.console_input(&typed, &mut bench.at()), room);
    assert_eq!(serial.input_room(), 0);
    assert_eq!(serial.console_input(b"x", &mut bench.at()), 0);
}

#[test]
fn the_receive_interrupt_lasts_until_the_data_is_taken() {
    let mut bench = Bench::new();
    let mut serial = Serial::new();
    serial.console_input(b"ab", &mut bench.at());
    assert!(!bench.is_high(IRQ));
    bench.outb(&mut serial, ENABLE, 1);
    assert!(bench.is_high(IRQ), "enabling finds the data that was there");
    for _ in 0..2 {
        assert_eq!(bench.inb(&mut serial, IDENTIFICATION), 0xC4);
        assert!(bench.is_high(IRQ));
    }
    assert_eq!(bench.inb(&mut serial, DATA), b'a');
    assert!(bench.is_high(IRQ));
    assert_eq!(bench.inb(&mut serial, DATA), b'b');
    assert!(!bench.is_high(IRQ));
    assert_eq!(bench.inb(&mut serial, IDENTIFICATION), 0xC1);
}

#[test]
fn the_transmit_interrupt_lasts_until_it_is_identified() {
    let mut bench = Bench::new();
    let mut serial = Serial::new();
    bench.outb(&mut serial, ENABLE, 2);
    assert!(bench.is_high(IRQ));
    assert_eq!(bench.inb(&mut serial, IDENTIFICATION), 0xC2);
    assert!(!bench.is_high(IRQ));
    bench.outb(&mut serial, DATA, b'x');
    assert!(bench.is_high(IRQ));
    bench.outb(&mut serial, ENABLE, 0);
    assert!(!bench.is_high(IRQ), "a masked interrupt does not drive the line");
}

#[test]
fn receive_is_identified_before_transmit_and_does_not_swallow_it() {
    let mut bench = Bench::new();
    let mut serial = Serial::new();
    serial.console_input(b"a", &mut bench.at());
    bench.outb(&mut serial, ENABLE, 3);
    assert_eq!(bench.inb(&mut serial, IDENTIFICATION), 0xC4);
    bench.inb(&mut serial, DATA);
    assert!(bench.is_high(IRQ));
    assert_eq!(bench.inb(&mut serial, IDENTIFICATION), 0xC2);
    assert!(!bench.is_high(IRQ));
}

#[test]
fn out2_gates_the_line() {
    let mut bench = Bench::new();
    let mut serial = Serial::new();
    bench.outb(&mut serial, ENABLE, 2);
    bench.outb(&mut serial, MODEM_CONTROL, 0);
    assert!(!bench.is_high(IRQ));
    bench.outb(&mut serial, MODEM_CONTROL, 8);
    assert!(bench.is_high(IRQ));
}

#[test]
fn loopback_returns_what_is_written_and_lets_typed_bytes_wait() {
    let mut bench = Bench::new();
    let mut serial = Serial::new();
    bench.outb(&mut serial, MODEM_CONTROL, 0x18);
    serial.console_input(b"typed", &mut bench.at());
    bench.outb(&mut serial, DATA, b'!');
    assert_eq!(drain_input(&mut bench, &mut serial), b"!");
    bench.outb(&mut serial, MODEM_CONTROL, 8);
    assert_eq!(drain_input(&mut bench, &mut serial), b"typed");
    assert_eq!(take_output(&mut bench), b"");
}

#[test]
fn wide_accesses_reach_successive_registers_and_end_with_the_port() {
    let mut bench = Bench::new();
    let mut serial = Serial::new();
    bench.outb(&mut serial, LINE_CONTROL, 0x80);
    bench.outw(&mut serial, DATA, 0x0102);
    assert_eq!(bench.inw(&mut serial, DATA), 0x0102);
    bench.outb(&mut serial, 0x3FF, 0x5A);
    assert_eq!(bench.inl(&mut serial, 0x3FF), 0xFFFF_FF5A);
}

proptest! {
    /// Typed bytes reach the guest whole and in order, however input and reads interleave.
    #[test]
    fn input_is_a_queue(
        steps in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), 0_usize..200), 0..40),
    ) {
        let mut bench = Bench::new();
        let mut serial = Serial::new();
        let (mut accepted, mut received) = (Vec::new(), Vec::new());
        for (typed, reads) in steps {
            let room = serial.input_room();
            let taken = serial.console_input(&typed, &mut bench.at());
            prop_assert_eq!(taken, typed.len().min(room));
            accepted.extend_from_slice(&typed[..taken]);
            for _ in 0..reads {
                if bench.inb(&mut serial, LINE_STATUS) & 1 != 0 {
                    received.push(bench.inb(&mut serial, DATA));
                }
            }
        }
        received.extend(drain_input(&mut bench, &mut serial));
        prop_assert_eq!(received, accepted);
    }

    /// No access panics, and an interrupt is on the line exactly while one is identified and OUT2 lets it through.
    #[test]
    fn the_line_agrees_with_the_registers(
        accesses in prop::collection::vec(
            (
                prop_oneof![0x3F5_u16..0x403, any::<u16>()],
                prop::collection::vec(any::<u8>(), 0..9),
                0_u8..3,
            ),
            0..100,
        ),
    ) {
        let mut bench = Bench::new();
        let mut serial = Serial::new();
        for (port, mut data, kind) in accesses {
            match kind {
                0 => serial.port_read(port, &mut data, &mut bench.at()),
                1 => serial.port_write(port, &data, &mut bench.at()),
                _ => {
                    serial.console_input(&data, &mut bench.at());
                }
            }
            let line = bench.is_high(IRQ);
            let gated_on = bench.inb(&mut serial, MODEM_CONTROL) & 0x18 == 0x08;
            let identified = bench.inb(&mut serial, IDENTIFICATION) != 0xC1;
            prop_assert_eq!(line, gated_on && identified);
        }
    }
}
