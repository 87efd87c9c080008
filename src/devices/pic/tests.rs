use proptest::prelude::*;

use super::super::{PortDevice, bench::Bench};
use super::*;

const MASTER: u16 = 0x20;
const SLAVE: u16 = 0xA0;
const ELCR: u16 = 0x4D0;

/// A pair initialised as Linux does it: vectors 0x30 and 0x38, then `mask`.
fn linux_pair(bench: &mut Bench, mask: u16) -> Pic {
    let mut pic = Pic::new();
    for (port, value) in [
        (MASTER, 0x11),
        (MASTER + 1, 0x30),
        (MASTER + 1, 0x04),
        (MASTER + 1, 0x01),
        (SLAVE, 0x11),
        (SLAVE + 1, 0x38),
        (SLAVE + 1, 0x02),
        (SLAVE + 1, 0x01),
    ] {
        bench.outb(&mut pic, port, value);
    }
    set_mask(bench, &mut pic, mask);
    pic
}

fn set_mask(bench: &mut Bench, pic: &mut Pic, mask: u16) {
    let [master, slave] = mask.to_le_bytes();
    bench.outb(pic, MASTER + 1, master);
    bench.outb(pic, SLAVE + 1, slave);
}

fn pulse(bench: &mut Bench, pic: &mut Pic, line: u8) {
    bench.irqs.pulse(line);
    pic.sync(&mut bench.irqs);
}

fn drive(bench: &mut Bench, pic: &mut Pic, line: u8, high: bool) {
    bench.irqs.set(line, high);
    pic.sync(&mut bench.irqs);
}

/// The bits a read of IRR (`0x0A`) or ISR (`0x0B`) gives.
fn read_register(bench: &mut Bench, pic: &mut Pic, port: u16, ocw3: u8) -> u8 {
    bench.outb(pic, port, ocw3);
    bench.inb(pic, port)
}

#[test]
fn everything_is_masked_until_the_guest_initialises() {
    let mut bench = Bench::new();
    let mut pic = Pic::new();
    pulse(&mut bench, &mut pic, 0);
    assert!(!pic.interrupt_pending());
    // Linux's probe for a PIC.
    bench.outb(&mut pic, MASTER + 1, 0xFB);
    assert_eq!(bench.inb(&mut pic, MASTER + 1), 0xFB);
}

#[test]
fn an_edge_is_delivered_once_and_blocks_lower_inputs_until_eoi() {
    let mut bench = Bench::new();
    let mut pic = linux_pair(&mut bench, 0);
    pulse(&mut bench, &mut pic, 4);
    assert_eq!(pic.acknowledge(), 0x34);
    assert!(!pic.interrupt_pending());
    assert_eq!(read_register(&mut bench, &mut pic, MASTER, 0x0B), 1 << 4);

    pulse(&mut bench, &mut pic, 6);
    assert!(!pic.interrupt_pending(), "lower priority waits");
    pulse(&mut bench, &mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x31, "higher priority nests");

    bench.outb(&mut pic, MASTER, 0x20);
    assert_eq!(read_register(&mut bench, &mut pic, MASTER, 0x0B), 1 << 4);
    bench.outb(&mut pic, MASTER, 0x20);
    assert_eq!(pic.acknowledge(), 0x36);
}

#[test]
fn an_edge_while_masked_or_in_service_is_kept() {
    let mut bench = Bench::new();
    let mut pic = linux_pair(&mut bench, 1 << 4);
    pulse(&mut bench, &mut pic, 4);
    pulse(&mut bench, &mut pic, 4);
    assert!(!pic.interrupt_pending());
    assert_eq!(read_register(&mut bench, &mut pic, MASTER, 0x0A), 1 << 4);
    set_mask(&mut bench, &mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x34);
    pulse(&mut bench, &mut pic, 4);
    assert!(!pic.interrupt_pending());
    bench.outb(&mut pic, MASTER, 0x64);
    assert_eq!(pic.acknowledge(), 0x34);
    bench.outb(&mut pic, MASTER, 0x64);
    assert!(
        !pic.interrupt_pending(),
        "two edges while masked were one request"
    );
}

#[test]
fn a_level_requests_for_as_long_as_it_is_high() {
    let mut bench = Bench::new();
    let mut pic = linux_pair(&mut bench, 0);
    bench.outw(&mut pic, ELCR, 1 << 5);
    drive(&mut bench, &mut pic, 5, true);
    assert_eq!(pic.acknowledge(), 0x35);
    assert!(!pic.interrupt_pending());
    bench.outb(&mut pic, MASTER, 0x65);
    assert!(pic.interrupt_pending(), "still high after EOI");
    drive(&mut bench, &mut pic, 5, false);
    assert!(!pic.interrupt_pending());
    assert_eq!(read_register(&mut bench, &mut pic, MASTER, 0x0A), 0);
}

#[test]
fn the_slave_interrupts_through_ir2() {
    let mut bench = Bench::new();
    let mut pic = linux_pair(&mut bench, 0);
    pulse(&mut bench, &mut pic, 8);
    assert_eq!(read_register(&mut bench, &mut pic, MASTER, 0x0A), 1 << 2);
    pulse(&mut bench, &mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x38, "IR2 is above IR3");
    assert_eq!(read_register(&mut bench, &mut pic, MASTER, 0x0B), 1 << 2);
    assert_eq!(read_register(&mut bench, &mut pic, SLAVE, 0x0B), 1);

    pulse(&mut bench, &mut pic, 9);
    bench.outb(&mut pic, SLAVE, 0x60);
    assert!(!pic.interrupt_pending(), "the master's ISR still holds IR2");
    bench.outb(&mut pic, MASTER, 0x62);
    assert_eq!(pic.acknowledge(), 0x39);
}

#[test]
fn special_fully_nested_mode_lets_the_slave_nest_and_nothing_below_it() {
    let mut bench = Bench::new();
    let mut pic = linux_pair(&mut bench, 0);
    for (port, value) in [
        (MASTER, 0x11),
        (MASTER + 1, 0x30),
        (MASTER + 1, 0x04),
        (MASTER + 1, 0x11),
    ] {
        bench.outb(&mut pic, port, value);
    }
    pulse(&mut bench, &mut pic, 9);
    assert_eq!(pic.acknowledge(), 0x39);
    pulse(&mut bench, &mut pic, 3);
    assert!(!pic.interrupt_pending());
    pulse(&mut bench, &mut pic, 8);
    assert_eq!(pic.acknowledge(), 0x38);
}

#[test]
fn a_withdrawn_level_is_answered_by_the_spurious_vector_without_isr() {
    let mut bench = Bench::new();
    let mut pic = linux_pair(&mut bench, 0);
    bench.outw(&mut pic, ELCR, 1 << 9);
    drive(&mut bench, &mut pic, 9, true);
    assert!(pic.interrupt_pending());
    drive(&mut bench, &mut pic, 9, false);
    assert!(!pic.interrupt_pending());
    assert_eq!(pic.acknowledge(), 0x37);
    assert_eq!(read_register(&mut bench, &mut pic, MASTER, 0x0B), 0);
    assert_eq!(read_register(&mut bench, &mut pic, SLAVE, 0x0B), 0);
}

#[test]
fn auto_eoi_leaves_nothing_in_service_and_can_rotate() {
    let mut bench = Bench::new();
    let mut pic = linux_pair(&mut bench, 0);
    for (port, value) in [
        (MASTER, 0x11),
        (MASTER + 1, 0x30),
        (MASTER + 1, 0x04),
        (MASTER + 1, 0x03),
    ] {
        bench.outb(&mut pic, port, value);
    }
    pulse(&mut bench, &mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x30);
    assert_eq!(read_register(&mut bench, &mut pic, MASTER, 0x0B), 0);

    bench.outb(&mut pic, MASTER, 0x80);
    pulse(&mut bench, &mut pic, 0);
    pulse(&mut bench, &mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x30);
    pulse(&mut bench, &mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x31, "IR0 went to the end of the line");
    assert_eq!(pic.acknowledge(), 0x30);
}

#[test]
fn rotation_moves_the_ended_input_to_the_lowest_priority() {
    let mut bench = Bench::new();
    let mut pic = linux_pair(&mut bench, 0);
    pulse(&mut bench, &mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x33);
    bench.outb(&mut pic, MASTER, 0xA0);
    pulse(&mut bench, &mut pic, 3);
    pulse(&mut bench, &mut pic, 7);
    assert_eq!(pic.acknowledge(), 0x37);
    bench.outb(&mut pic, MASTER, 0xE7);
    bench.outb(&mut pic, MASTER, 0xC2);
    pulse(&mut bench, &mut pic, 1);
    assert_eq!(
        pic.acknowledge(),
        0x33,
        "set priority: IR2 lowest, so IR3 highest"
    );
}

#[test]
fn special_mask_mode_lets_lower_inputs_through_a_masked_one_in_service() {
    let mut bench = Bench::new();
    let mut pic = linux_pair(&mut bench, 0);
    pulse(&mut bench, &mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x33);
    pulse(&mut bench, &mut pic, 5);
    assert!(!pic.interrupt_pending());
    set_mask(&mut bench, &mut pic, 1 << 3);
    bench.outb(&mut pic, MASTER, 0x68);
    assert_eq!(pic.acknowledge(), 0x35);
    bench.outb(&mut pic, MASTER, 0x20);
    assert_eq!(
        read_register(&mut bench, &mut pic, MASTER, 0x0B),
        1 << 3,
        "EOI spares the masked input"
    );
    bench.outb(&mut pic, MASTER, 0x48);
    bench.outb(&mut pic, MASTER, 0x20);
    assert_eq!(read_register(&mut bench, &mut pic, MASTER, 0x0B), 0);
}

#[test]
fn a_poll_acknowledges() {
    let mut bench = Bench::new();
    let mut pic = linux_pair(&mut bench, 0);
    assert_eq!(read_register(&mut bench, &mut pic, MASTER, 0x0C) & 0x80, 0);
    pulse(&mut bench, &mut pic, 10);
    assert_eq!(read_register(&mut bench, &mut pic, MASTER, 0x0C), 0x82);
    assert_eq!(read_register(&mut bench, &mut pic, SLAVE, 0x0C), 0x82);
    assert!(!pic.interrupt_pending());
    assert_eq!(read_register(&mut bench, &mut pic, MASTER, 0x0B), 1 << 2);
    assert_eq!(read_register(&mut bench, &mut pic, SLAVE, 0x0B), 1 << 2);
    assert_eq!(bench.inb(&mut pic, SLAVE + 1), 0, "one poll, then the mask again");
}

#[test]
fn nothing_interrupts_between_icw1_and_the_last_icw() {
    let mut bench = Bench::new();
    let mut pic = linux_pair(&mut bench, 0);
    bench.outb(&mut pic, MASTER, 0x11);
    pulse(&mut bench, &mut pic, 0);
    assert!(!pic.interrupt_pending());
    for value in [0x20, 0x04] {
        bench.outb(&mut pic, MASTER + 1, value);
        assert!(!pic.interrupt_pending());
    }
    bench.outb(&mut pic, MASTER + 1, 0x01);
    assert_eq!(pic.acknowledge(), 0x20);
}

#[test]
fn edge_level_control_refuses_the_fixed_inputs_and_words_span_both_chips() {
    let mut bench = Bench::new();
    let mut pic = linux_pair(&mut bench, 0);
    bench.outw(&mut pic, ELCR, 0xFFFF);
    assert_eq!(bench.inw(&mut pic, ELCR), 0xDEF8);
    assert_eq!(bench.inl(&mut pic, ELCR), 0xFFFF_DEF8);
}

/// Linux's `handle_level_irq` on an 8259A: mask and specific EOI, serve, unmask.
fn serve_like_linux(bench: &mut Bench, pic: &mut Pic, mask: &mut u16) -> u8 {
    let line = pic.acknowledge() - 0x30;
    *mask |= 1 << line;
    if line < 8 {
        bench.outb(pic, MASTER + 1, mask.to_le_bytes()[0]);
        bench.outb(pic, MASTER, 0x60 + line);
    } else {
        bench.outb(pic, SLAVE + 1, mask.to_le_bytes()[1]);
        bench.outb(pic, SLAVE, 0x60 + (line & 7));
        bench.outb(pic, MASTER, 0x62);
    }
    line
}

#[derive(Debug, Clone)]
enum Step {
    Pulse(u8),
    RaiseLevel(u8),
    BeginService,
    EndService,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let edge_line = prop::sample::select(vec![0_u8, 1, 4, 8, 12]);
    let level_line = prop::sample::select(vec![3_u8, 5, 9, 11]);
    prop::collection::vec(
        prop_oneof![
            edge_line.prop_map(Step::Pulse),
            level_line.prop_map(Step::RaiseLevel),
            Just(Step::BeginService),
            Just(Step::EndService),
        ],
        0..200,
    )
}

proptest! {
    /// Under Linux's flow, each request is served: once for edges that merged, and never without a request.
    #[test]
    fn linux_sees_every_request_exactly_once(steps in steps()) {
        let mut bench = Bench::new();
        let mut mask = 0_u16;
        let mut pic = linux_pair(&mut bench, mask);
        bench.outw(&mut pic, ELCR, 1 << 3 | 1 << 5 | 1 << 9 | 1 << 11);
        let mut wanted = 0_u16;
        let mut in_handler: Vec<u8> = Vec::new();
        let drain = (0..64).flat_map(|_| [Step::BeginService, Step::EndService]);
        for step in steps.into_iter().chain(drain) {
            match step {
                Step::Pulse(line) => {
                    pulse(&mut bench, &mut pic, line);
                    wanted |= 1 << line;
                }
                Step::RaiseLevel(line) => {
                    drive(&mut bench, &mut pic, line, true);
                    wanted |= 1 << line;
                }
                Step::BeginService => {
                    prop_assert_eq!(pic.interrupt_pending(), wanted & !mask != 0);
                    if pic.interrupt_pending() {
                        let line = serve_like_linux(&mut bench, &mut pic, &mut mask);
                        prop_assert!(wanted & (1 << line) != 0, "IRQ {} was served unasked", line);
                        drive(&mut bench, &mut pic, line, false);
                        wanted &= !(1 << line);
                        in_handler.push(line);
                    }
                }
                Step::EndService => {
                    if let Some(line) = in_handler.pop() {
                        mask &= !(1 << line);
                        set_mask(&mut bench, &mut pic, mask);
                    }
                }
            }
        }
        prop_assert_eq!(wanted, 0);
        prop_assert!(!pic.interrupt_pending());
    }

    /// No sequence of accesses, lines and acknowledges panics.
    #[test]
    fn a_wild_guest_breaks_nothing(
        accesses in prop::collection::vec(
            (
                prop_oneof![0x1D_u16..0x23, 0x9E_u16..0xA3, 0x4CE_u16..0x4D3, any::<u16>()],
                prop::collection::vec(any::<u8>(), 0..9),
                any::<u8>(),
            ),
            0..200,
        ),
    ) {
        let mut bench = Bench::new();
        let mut pic = Pic::new();
        for (port, mut data, choice) in accesses {
            match choice & 3 {
                0 => pic.port_read(port, &mut data, &mut bench.at()),
                1 => drive(&mut bench, &mut pic, choice >> 4, choice & 8 != 0),
                2 => {
                    pic.acknowledge();
                }
                _ => pic.port_write(port, &data, &mut bench.at()),
            }
        }
    }
}

#[test]
fn a_request_shows_though_it_is_masked_or_behind_one_in_service() {
    let mut pic = Pic::new();
    let mut irqs = crate::devices::IrqLines::default();
    assert!(!pic.has_request());
    irqs.set(11, true);
    pic.sync(&mut irqs);
    assert!(pic.has_request(), "a new PIC masks everything");
    assert!(!pic.interrupt_pending());
}
