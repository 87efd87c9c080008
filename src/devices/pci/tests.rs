//! Configuration mechanism 1 and BARs, register by register; then anything at all.

use proptest::prelude::*;

use crate::devices::platform::{
    DISK_IRQ, DISK_SLOT, ENTROPY_IRQ, ENTROPY_SLOT, NETWORK_IRQ, NETWORK_SLOT, PCI_HOST_BRIDGE_SLOT,
};
use crate::devices::virtio::test_guest::{Driver, TestGuest, writable};

const BAR0: u8 = 0x10;
const FIRST_BAR: u16 = 0xC000 + 0x400 * DISK_SLOT as u16;

#[test]
fn the_bus_holds_a_bridge_and_three_virtio_functions() {
    let mut guest = TestGuest::new();
    let present: Vec<(u8, u32)> = (0..32)
        .map(|slot| (slot, guest.config_in(slot, 0, 4)))
        .filter(|(_, id)| *id != 0xFFFF_FFFF)
        .collect();
    let expected = vec![
        (PCI_HOST_BRIDGE_SLOT, 0x0D57_8086),
        (DISK_SLOT, 0x1042_1AF4),
        (NETWORK_SLOT, 0x1041_1AF4),
        (ENTROPY_SLOT, 0x1044_1AF4),
    ];
    assert_eq!(present, expected);
    assert_eq!(guest.config_in(PCI_HOST_BRIDGE_SLOT, 0x0A, 2), 0x0600);
    assert_eq!(guest.config_in(DISK_SLOT, 0x08, 4), 0x0100_0001);
    assert_eq!(guest.config_in(NETWORK_SLOT, 0x08, 4), 0x0200_0001);
    assert_eq!(guest.config_in(ENTROPY_SLOT, 0x08, 4), 0x00FF_0001);
    for (slot, irq) in [
        (DISK_SLOT, DISK_IRQ),
        (NETWORK_SLOT, NETWORK_IRQ),
        (ENTROPY_SLOT, ENTROPY_IRQ),
    ] {
        assert_eq!(
            guest.config_in(slot, 0x3C, 2),
            0x0100 | u32::from(irq),
            "INTA# on the platform's line"
        );
        assert_eq!(guest.config_in(slot, 0x0E, 1), 0, "one function, header type 0");
    }
}

#[test]
fn other_buses_functions_and_a_disabled_address_read_as_ones() {
    let mut guest = TestGuest::new();
    let slot = u32::from(DISK_SLOT) << 11;
    for address in [slot, 0x8001_0000 | slot, 0x8000_0100 | slot, 0x80FF_0000 | slot] {
        guest.port_out(0xCF8, 4, address);
        assert_eq!(guest.port_in(0xCFC, 4), 0xFFFF_FFFF, "{address:#x}");
        guest.port_out(0xCFC, 4, 0);
    }
}

#[test]
fn the_address_register_takes_dwords_only_and_reads_back() {
    let mut guest = TestGuest::new();
    guest.port_out(0xCF8, 4, 0xFFFF_FFFF);
    assert_eq!(guest.port_in(0xCF8, 4), 0x80FF_FFFC);
    guest.port_out(0xCF8, 4, 0x8000_0000);
    // Linux's probe for mechanism 1 writes this byte first.
    guest.port_out(0xCFB, 1, 1);
    guest.port_out(0xCF8, 2, 0x1234);
    assert_eq!(guest.port_in(0xCF8, 4), 0x8000_0000);
    assert_eq!(guest.port_in(0xCFB, 1), 0x80);
}

#[test]
fn data_is_reached_by_byte_word_and_dword_and_not_past_its_end() {
    let mut guest = TestGuest::new();
    assert_eq!(guest.config_in(DISK_SLOT, 0, 1), 0xF4);
    assert_eq!(guest.config_in(DISK_SLOT, 1, 1), 0x1A);
    assert_eq!(guest.config_in(DISK_SLOT, 2, 2), 0x1042);
    assert_eq!(guest.config_in(DISK_SLOT, 2, 4), 0xFFFF_1042);
    // A dword at 0xCFE must not change the register after the one chosen.
    let before = guest.config_in(DISK_SLOT, 0x40, 4);
    guest.config_out(DISK_SLOT, 0x3E, 4, 0xFFFF_FFFF);
    assert_eq!(guest.config_in(DISK_SLOT, 0x40, 4), before);
}

#[test]
fn a_bar_is_sized_and_moved() {
    let mut guest = TestGuest::new();
    assert_eq!(guest.config_in(DISK_SLOT, BAR0, 4), u32::from(FIRST_BAR) | 1);
    guest.config_out(DISK_SLOT, BAR0, 4, 0xFFFF_FFFF);
    assert_eq!(guest.config_in(DISK_SLOT, BAR0, 4), 0xFFFF_FF01);
    assert_eq!(guest.port_in(FIRST_BAR + 18, 2), 0xFFFF, "the old place is empty");
    for bar in [0x14, 0x18, 0x1C, 0x20, 0x24, 0x30] {
        guest.config_out(DISK_SLOT, bar, 4, 0xFFFF_FFFF);
        assert_eq!(guest.config_in(DISK_SLOT, bar, 4), 0);
    }
    guest.config_out(DISK_SLOT, BAR0, 4, 0xCF00);
    assert_eq!(guest.port_in(0xCF00 + 18, 2), 1, "num_queues at the new place");
    guest.config_out(DISK_SLOT, BAR0, 4, 0x0001_C000);
    assert_eq!(
        guest.port_in(0xC000 + 18, 2),
        0xFFFF,
        "beyond 64 KiB there are no ports"
    );
}

#[test]
fn the_lower_slot_answers_where_bars_overlap() {
    let mut guest = TestGuest::new();
    guest.config_out(NETWORK_SLOT, BAR0, 4, u32::from(FIRST_BAR));
    assert_eq!(
        guest.port_in(FIRST_BAR + 18, 2),
        1,
        "the disk has one queue, the network two"
    );
    guest.config_out(DISK_SLOT, 4, 2, 0);
    assert_eq!(guest.port_in(FIRST_BAR + 18, 2), 2);
}

#[test]
fn the_command_register_gates_ports_dma_and_the_line() {
    let mut guest = TestGuest::new();
    assert_eq!(guest.config_in(ENTROPY_SLOT, 4, 2), 1, "as firmware leaves it");
    guest.config_out(ENTROPY_SLOT, 4, 2, 0xFFFF);
    assert_eq!(guest.config_in(ENTROPY_SLOT, 4, 2), 0x0405);
    let mut driver = Driver::entropy(&mut guest);
    driver.start(&mut guest, 0, 8);
    let queue = &driver.queues[0];

    guest.config_out(ENTROPY_SLOT, 4, 2, 0b001);
    queue.offer(&guest, &[writable(0x200_0000, 8)]);
    driver.kick(&mut guest, 0);
    assert!(guest.take_effects().is_empty(), "no bus master, no ring access");
    guest.config_out(ENTROPY_SLOT, 4, 2, 0b101);
    assert_eq!(
        guest.take_effects().len(),
        1,
        "what was offered meanwhile is found"
    );

    guest.exit(|bus, at| bus.provide_entropy(&[7; 8], at));
    assert!(guest.line(ENTROPY_IRQ));
    assert_eq!(guest.config_in(ENTROPY_SLOT, 6, 2) & 8, 8, "interrupt status");
    guest.config_out(ENTROPY_SLOT, 4, 2, 0x0405);
    assert!(!guest.line(ENTROPY_IRQ), "INTx disabled");
    assert_eq!(guest.config_in(ENTROPY_SLOT, 6, 2) & 8, 8);
    guest.config_out(ENTROPY_SLOT, 4, 2, 0x0005);
    assert!(guest.line(ENTROPY_IRQ));
    guest.config_out(ENTROPY_SLOT, 4, 2, 0x0004);
    assert_eq!(driver.read_isr(&mut guest), 0xFF, "ports no longer decoded");
}

#[test]
fn a_machine_reset_restores_power_on_state_and_lowers_the_line() {
    let mut guest = TestGuest::new();
    let mut driver = Driver::entropy(&mut guest);
    driver.start(&mut guest, 0, 8);
    driver.queues[0].offer(&guest, &[writable(0x200_0000, 8)]);
    driver.kick(&mut guest, 0);
    guest.exit(|bus, at| bus.provide_entropy(&[7; 8], at));
    guest.config_out(ENTROPY_SLOT, BAR0, 4, 0xCF00);
    assert!(guest.line(ENTROPY_IRQ));
    guest.exit(|bus, at| bus.reset(at.irqs));
    assert!(!guest.line(ENTROPY_IRQ));
    assert_eq!(guest.config_in(ENTROPY_SLOT, BAR0, 4), 0xCC01);
    assert_eq!(guest.config_in(ENTROPY_SLOT, 4, 2), 1);
    assert_eq!(driver.status(&mut guest), 0);
}

/// One access of a guest that knows nothing, or means harm.
fn access() -> impl Strategy<Value = (u16, usize, Option<u32>)> {
    let port = prop_oneof![0xCF8_u16..=0xCFF, 0xC000_u16..=0xCFFF, any::<u16>()];
    let value = prop_oneof![
        any::<u32>(),
        (0_u32..4, 0_u32..256).prop_map(|(slot, register)| 0x8000_0000 | slot << 11 | register),
        0_u32..32,
    ];
    (
        port,
        prop::sample::select(vec![1, 2, 4]),
        prop::option::weighted(0.7, value),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_accesses_leave_the_bus_standing(accesses in prop::collection::vec(access(), 1..200)) {
        let mut guest = TestGuest::new();
        for (port, width, value) in accesses {
            match value {
                Some(value) => guest.port_out(port, width, value),
                None => { guest.port_in(port, width); }
            }
        }
        guest.exit(|bus, at| bus.reset(at.irqs));
        prop_assert_eq!(guest.irqs.levels(), 0);
        prop_assert_eq!(guest.config_in(DISK_SLOT, 0, 4), 0x1042_1AF4);
        prop_assert_eq!(guest.config_in(DISK_SLOT, BAR0, 4), u32::from(FIRST_BAR) | 1);
    }
}
