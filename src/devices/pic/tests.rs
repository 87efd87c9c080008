use proptest::prelude::*;

use super::super::{PortDevice, bench::Bench};
use super::*;

const MASTER: u16 = 0x20;
const SLAVE: u16 = 0xA0;
const ELCR: u16 = 0x4D0;

/// The pair as a guest drives it.
struct Pair {
    bench: Bench,
    pic: Pic,
}

impl Pair {
    fn after_reset() -> Self {
        Self {
            bench: Bench::new(),
            pic: Pic::new(),
        }
    }

    /// Initialised as Linux does it: vectors 0x30 and 0x38, normal EOI; then `mask`.
    fn of_linux(mask: u16) -> Self {
        let mut pair = Self::after_reset();
        pair.initialise_master(0x01);
        for (port, value) in [
            (SLAVE, 0x11),
            (SLAVE + 1, 0x38),
            (SLAVE + 1, 0x02),
            (SLAVE + 1, 0x01),
        ] {
            pair.outb(port, value);
        }
        pair.set_mask(mask);
        pair
    }

    /// ICW1 to ICW4; the last one says in which mode.
    fn initialise_master(&mut self, icw4: u8) {
        self.outb(MASTER, 0x11);
        for value in [0x30, 0x04, icw4] {
            self.outb(MASTER + 1, value);
        }
    }

    fn set_mask(&mut self, mask: u16) {
        let [master, slave] = mask.to_le_bytes();
        self.outb(MASTER + 1, master);
        self.outb(SLAVE + 1, slave);
    }

    fn pulse(&mut self, line: u8) {
        self.bench.irqs.pulse(line);
        self.pic.sync(&mut self.bench.irqs);
    }

    fn drive(&mut self, line: u8, high: bool) {
        self.bench.irqs.set(line, high);
        self.pic.sync(&mut self.bench.irqs);
    }

    fn is_pending(&self) -> bool {
        self.pic.interrupt_pending()
    }

    fn acknowledge(&mut self) -> u8 {
        self.pic.acknowledge()
    }

    fn outb(&mut self, port: u16, value: u8) {
        self.bench.outb(&mut self.pic, port, value);
    }

    fn outw(&mut self, port: u16, value: u16) {
        self.bench.outw(&mut self.pic, port, value);
    }

    fn inb(&mut self, port: u16) -> u8 {
        self.bench.inb(&mut self.pic, port)
    }

    /// The bits a read of IRR (`0x0A`) or ISR (`0x0B`) gives.
    fn register(&mut self, port: u16, ocw3: u8) -> u8 {
        self.outb(port, ocw3);
        self.inb(port)
    }
}

#[test]
fn everything_is_masked_until_the_guest_initialises() {
    let mut pair = Pair::after_reset();
    pair.pulse(0);
    assert!(!pair.is_pending());
    // Linux's probe for a PIC.
    pair.outb(MASTER + 1, 0xFB);
    assert_eq!(pair.inb(MASTER + 1), 0xFB);
}

#[test]
fn an_edge_is_delivered_once_and_blocks_lower_inputs_until_eoi() {
    let mut pair = Pair::of_linux(0);
    pair.pulse(4);
    assert_eq!(pair.acknowledge(), 0x34);
    assert!(!pair.is_pending());
    assert_eq!(pair.register(MASTER, 0x0B), 1 << 4);

    pair.pulse(6);
    assert!(!pair.is_pending(), "lower priority waits");
    pair.pulse(1);
    assert_eq!(pair.acknowledge(), 0x31, "higher priority nests");

    pair.outb(MASTER, 0x20);
    assert_eq!(pair.register(MASTER, 0x0B), 1 << 4);
    pair.outb(MASTER, 0x20);
    assert_eq!(pair.acknowledge(), 0x36);
}

#[test]
fn an_edge_while_masked_or_in_service_is_kept() {
    let mut pair = Pair::of_linux(1 << 4);
    pair.pulse(4);
    pair.pulse(4);
    assert!(!pair.is_pending());
    assert_eq!(pair.register(MASTER, 0x0A), 1 << 4);
    pair.set_mask(0);
    assert_eq!(pair.acknowledge(), 0x34);
    pair.pulse(4);
    assert!(!pair.is_pending());
    pair.outb(MASTER, 0x64);
    assert_eq!(pair.acknowledge(), 0x34);
    pair.outb(MASTER, 0x64);
    assert!(!pair.is_pending(), "two edges while masked were one request");
}

#[test]
fn a_level_requests_for_as_long_as_it_is_high() {
    let mut pair = Pair::of_linux(0);
    pair.outw(ELCR, 1 << 5);
    pair.drive(5, true);
    assert_eq!(pair.acknowledge(), 0x35);
    assert!(!pair.is_pending());
    pair.outb(MASTER, 0x65);
    assert!(pair.is_pending(), "still high after EOI");
    pair.drive(5, false);
    assert!(!pair.is_pending());
    assert_eq!(pair.register(MASTER, 0x0A), 0);
}

#[test]
fn the_slave_interrupts_through_ir2() {
    let mut pair = Pair::of_linux(0);
    pair.pulse(8);
    assert_eq!(pair.register(MASTER, 0x0A), 1 << 2);
    pair.pulse(3);
    assert_eq!(pair.acknowledge(), 0x38, "IR2 is above IR3");
    assert_eq!(pair.register(MASTER, 0x0B), 1 << 2);
    assert_eq!(pair.register(SLAVE, 0x0B), 1);

    pair.pulse(9);
    pair.outb(SLAVE, 0x60);
    assert!(!pair.is_pending(), "the master's ISR still holds IR2");
    pair.outb(MASTER, 0x62);
    assert_eq!(pair.acknowledge(), 0x39);
}

#[test]
fn special_fully_nested_mode_lets_the_slave_nest_and_nothing_below_it() {
    let mut pair = Pair::of_linux(0);
    pair.initialise_master(0x11);
    pair.pulse(9);
    assert_eq!(pair.acknowledge(), 0x39);
    pair.pulse(3);
    assert!(!pair.is_pending());
    pair.pulse(8);
    assert_eq!(pair.acknowledge(), 0x38);
}

#[test]
fn a_withdrawn_level_is_answered_by_the_spurious_vector_without_isr() {
    let mut pair = Pair::of_linux(0);
    pair.outw(ELCR, 1 << 9);
    pair.drive(9, true);
    assert!(pair.is_pending());
    pair.drive(9, false);
    assert!(!pair.is_pending());
    assert_eq!(pair.acknowledge(), 0x37);
    assert_eq!(pair.register(MASTER, 0x0B), 0);
    assert_eq!(pair.register(SLAVE, 0x0B), 0);
}

#[test]
fn auto_eoi_leaves_nothing_in_service_and_can_rotate() {
    let mut pair = Pair::of_linux(0);
    pair.initialise_master(0x03);
    pair.pulse(0);
    assert_eq!(pair.acknowledge(), 0x30);
    assert_eq!(pair.register(MASTER, 0x0B), 0);

    pair.outb(MASTER, 0x80);
    pair.pulse(0);
    pair.pulse(1);
    assert_eq!(pair.acknowledge(), 0x30);
    pair.pulse(0);
    assert_eq!(pair.acknowledge(), 0x31, "IR0 went to the end of the line");
    assert_eq!(pair.acknowledge(), 0x30);
}

#[test]
fn rotation_moves_the_ended_input_to_the_lowest_priority() {
    let mut pair = Pair::of_linux(0);
    pair.pulse(3);
    assert_eq!(pair.acknowledge(), 0x33);
    pair.outb(MASTER, 0xA0);
    pair.pulse(3);
    pair.pulse(7);
    assert_eq!(pair.acknowledge(), 0x37);
    pair.outb(MASTER, 0xE7);
    pair.outb(MASTER, 0xC2);
    pair.pulse(1);
    assert_eq!(
        pair.acknowledge(),
        0x33,
        "set priority: IR2 lowest, so IR3 highest"
    );
}

#[test]
fn special_mask_mode_lets_lower_inputs_through_a_masked_one_in_service() {
    let mut pair = Pair::of_linux(0);
    pair.pulse(3);
    assert_eq!(pair.acknowledge(), 0x33);
    pair.pulse(5);
    assert!(!pair.is_pending());
    pair.set_mask(1 << 3);
    pair.outb(MASTER, 0x68);
    assert_eq!(pair.acknowledge(), 0x35);
    pair.outb(MASTER, 0x20);
    assert_eq!(pair.register(MASTER, 0x0B), 1 << 3, "EOI spares the masked input");
    pair.outb(MASTER, 0x48);
    pair.outb(MASTER, 0x20);
    assert_eq!(pair.register(MASTER, 0x0B), 0);
}

#[test]
fn a_poll_acknowledges() {
    let mut pair = Pair::of_linux(0);
    assert_eq!(pair.register(MASTER, 0x0C) & 0x80, 0);
    pair.pulse(10);
    assert_eq!(pair.register(MASTER, 0x0C), 0x82);
    assert_eq!(pair.register(SLAVE, 0x0C), 0x82);
    assert!(!pair.is_pending());
    assert_eq!(pair.register(MASTER, 0x0B), 1 << 2);
    assert_eq!(pair.register(SLAVE, 0x0B), 1 << 2);
    assert_eq!(pair.inb(SLAVE + 1), 0, "one poll, then the mask again");
}

#[test]
fn nothing_interrupts_between_icw1_and_the_last_icw() {
    let mut pair = Pair::of_linux(0);
    pair.outb(MASTER, 0x11);
    pair.pulse(0);
    assert!(!pair.is_pending());
    for value in [0x20, 0x04] {
        pair.outb(MASTER + 1, value);
        assert!(!pair.is_pending());
    }
    pair.outb(MASTER + 1, 0x01);
    assert_eq!(pair.acknowledge(), 0x20);
}

#[test]
fn edge_level_control_refuses_the_fixed_inputs_and_words_span_both_chips() {
    let mut pair = Pair::of_linux(0);
    pair.outw(ELCR, 0xFFFF);
    assert_eq!(pair.bench.inw(&mut pair.pic, ELCR), 0xDEF8);
    assert_eq!(pair.bench.inl(&mut pair.pic, ELCR), 0xFFFF_DEF8);
}

/// Linux's `handle_level_irq` on an 8259A: mask and specific EOI, serve, unmask.
fn serve_like_linux(pair: &mut Pair, mask: &mut u16) -> u8 {
    let line = pair.acknowledge() - 0x30;
    *mask |= 1 << line;
    if line < 8 {
        pair.outb(MASTER + 1, mask.to_le_bytes()[0]);
        pair.outb(MASTER, 0x60 + line);
    } else {
        pair.outb(SLAVE + 1, mask.to_le_bytes()[1]);
        pair.outb(SLAVE, 0x60 + (line & 7));
        pair.outb(MASTER, 0x62);
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
        let mut mask = 0_u16;
        let mut pair = Pair::of_linux(mask);
        pair.outw(ELCR, 1 << 3 | 1 << 5 | 1 << 9 | 1 << 11);
        let mut wanted = 0_u16;
        let mut in_handler: Vec<u8> = Vec::new();
        let drain = (0..64).flat_map(|_| [Step::BeginService, Step::EndService]);
        for step in steps.into_iter().chain(drain) {
            match step {
                Step::Pulse(line) => {
                    pair.pulse(line);
                    wanted |= 1 << line;
                }
                Step::RaiseLevel(line) => {
                    pair.drive(line, true);
                    wanted |= 1 << line;
                }
                Step::BeginService => {
                    prop_assert_eq!(pair.is_pending(), wanted & !mask != 0);
                    if pair.is_pending() {
                        let line = serve_like_linux(&mut pair, &mut mask);
                        prop_assert!(wanted & (1 << line) != 0, "IRQ {} was served unasked", line);
                        pair.drive(line, false);
                        wanted &= !(1 << line);
                        in_handler.push(line);
                    }
                }
                Step::EndService => {
                    if let Some(line) = in_handler.pop() {
                        mask &= !(1 << line);
                        pair.set_mask(mask);
                    }
                }
            }
        }
        prop_assert_eq!(wanted, 0);
        prop_assert!(!pair.is_pending());
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
        let mut pair = Pair::after_reset();
        for (port, mut data, choice) in accesses {
            match choice & 3 {
                0 => pair.pic.port_read(port, &mut data, &mut pair.bench.at()),
                1 => pair.drive(choice >> 4, choice & 8 != 0),
                2 => {
                    pair.acknowledge();
                }
                _ => pair.pic.port_write(port, &data, &mut pair.bench.at()),
            }
        }
    }
}

#[test]
fn a_request_shows_though_it_is_masked_or_behind_one_in_service() {
    let mut pair = Pair::after_reset();
    assert!(!pair.pic.has_request());
    pair.drive(11, true);
    assert!(pair.pic.has_request(), "a new PIC masks everything");
    assert!(!pair.is_pending());
}
