//! The transport: negotiation, queue set-up, the configuration access window; then hostile rings for every device.

use proptest::prelude::*;

use super::test_guest::{
    BUFFERS, Buffer, DISK_BYTES, Driver, EVENT_IDX, INDIRECT, RAM_BYTES, TestGuest, TestQueue, VERSION_1,
    readable, writable,
};
use crate::devices::platform::{DISK_SLOT, ENTROPY_IRQ, ENTROPY_SLOT, NETWORK_SLOT};
use crate::devices::{DiskCompletion, DiskOperation, DiskOutcome, Effect, Frame};

const NEEDS_RESET: u8 = 0x40;

#[test]
fn features_stick_only_if_offered_and_modern() {
    let mut guest = TestGuest::new();
    let driver = Driver::disk(&mut guest);
    let offered = driver.offered(&mut guest);
    assert_eq!(
        offered & (VERSION_1 | EVENT_IDX | INDIRECT),
        VERSION_1 | EVENT_IDX | INDIRECT
    );
    for (accepted, fine) in [
        (VERSION_1, true),
        (offered, true),
        (offered & !VERSION_1, false),
        (VERSION_1 | 1 << 34, false),
        (0, false),
    ] {
        driver.set_status(&mut guest, 0);
        driver.set_status(&mut guest, 3);
        driver.accept(&mut guest, accepted);
        driver.set_status(&mut guest, 11);
        assert_eq!(
            driver.status(&mut guest),
            if fine { 11 } else { 3 },
            "{accepted:#x}"
        );
        driver.set_status(&mut guest, 15);
        assert_eq!(
            driver.status(&mut guest) & 4,
            if fine { 4 } else { 0 },
            "no DRIVER_OK without FEATURES_OK"
        );
    }
}

#[test]
fn features_are_fixed_once_agreed_and_status_bits_only_grow() {
    let mut guest = TestGuest::new();
    let driver = Driver::disk(&mut guest);
    driver.set_status(&mut guest, 3);
    driver.accept(&mut guest, VERSION_1);
    driver.set_status(&mut guest, 11);
    driver.accept(&mut guest, VERSION_1 | 1 << 40);
    guest.port_out(driver.common + 8, 4, 1);
    assert_eq!(guest.port_in(driver.common + 12, 4), 1);
    driver.set_status(&mut guest, 1);
    assert_eq!(driver.status(&mut guest), 11);
    guest.port_out(driver.common + 8, 4, 7);
    assert_eq!(guest.port_in(driver.common + 12, 4), 0, "no third half");
    driver.set_status(&mut guest, 0);
    assert_eq!(driver.status(&mut guest), 0);
}

#[test]
fn queue_registers_read_back_until_the_queue_is_enabled() {
    let mut guest = TestGuest::new();
    let mut driver = Driver::network(&mut guest);
    assert_eq!(guest.port_in(driver.common + 18, 2), 2);
    assert_eq!(guest.port_in(driver.common + 24, 2), 256);
    guest.port_out(driver.common + 22, 2, 2);
    assert_eq!(guest.port_in(driver.common + 24, 2), 0, "no such queue");
    driver.start(&mut guest, 0, 64);
    guest.port_out(driver.common + 22, 2, 1);
    assert_eq!(guest.port_in(driver.common + 24, 2), 64);
    assert_eq!(guest.port_in(driver.common + 28, 2), 1);
    assert_eq!(
        guest.port_in(driver.common + 30, 2),
        1,
        "its notification is at 1 × multiplier"
    );
    assert_eq!(guest.port_in(driver.common + 16, 2), 0xFFFF, "no MSI-X");
    let descriptors = u32::try_from(driver.queues[1].descriptors).unwrap();
    guest.port_out(driver.common + 32, 4, 0xDEAD_0000);
    assert_eq!(guest.port_in(driver.common + 32, 4), descriptors, "closed");
}

#[test]
fn a_queue_that_cannot_be_is_a_fault_with_the_numbers() {
    let cases: [(u16, u64, u64, u64, &str); 6] = [
        (3, 0x1000, 0x2000, 0x3000, "size 3"),
        (512, 0x1000, 0x2000, 0x3000, "size 512"),
        (8, 0x1008, 0x2000, 0x3000, "0x1008"),
        (8, 0x1000, 0x2001, 0x3000, "0x2001"),
        (8, 0x1000, 0x2000, 0x3002, "0x3002"),
        (8, RAM_BYTES - 16, 0x2000, 0x3000, "0x3fffff0"),
    ];
    for (size, descriptors, available, used, expected) in cases {
        let mut guest = TestGuest::new();
        let mut driver = Driver::disk(&mut guest);
        driver.start(&mut guest, 0, 8);
        driver.set_status(&mut guest, 0);
        driver.set_status(&mut guest, 3);
        driver.accept(&mut guest, VERSION_1);
        driver.set_status(&mut guest, 11);
        let mut queue = driver.queues[0].clone();
        (queue.size, queue.descriptors, queue.driver, queue.device) = (size, descriptors, available, used);
        driver.set_up_queue(&mut guest, 0, &queue);
        let fault = guest.fault().unwrap();
        assert_eq!(fault.device, "virtio-blk");
        assert!(fault.what.contains(expected), "{}", fault.what);
        assert_eq!(driver.status(&mut guest) & NEEDS_RESET, NEEDS_RESET);
    }
}

#[test]
fn a_ring_at_the_end_of_the_address_space_is_refused() {
    let mut guest = TestGuest::new();
    let mut driver = Driver::disk(&mut guest);
    driver.start(&mut guest, 0, 8);
    driver.set_status(&mut guest, 0);
    driver.set_status(&mut guest, 11);
    let mut queue = driver.queues[0].clone();
    queue.descriptors = u64::MAX - 15;
    driver.set_up_queue(&mut guest, 0, &queue);
    assert!(guest.fault().is_some());
}

/// The fault of an entropy device with a ring of 8 on which `place` has put something.
fn fault_of(place: impl FnOnce(&TestGuest, &TestQueue)) -> String {
    let mut guest = TestGuest::new();
    let mut driver = Driver::entropy(&mut guest);
    driver.start(&mut guest, INDIRECT, 8);
    place(&guest, &driver.queues[0]);
    driver.kick(&mut guest, 0);
    guest.fault().map(|fault| fault.what).unwrap_or_default()
}

#[test]
fn heads_and_indices_out_of_bounds_are_named() {
    let ahead = fault_of(|guest, queue| queue.set_available(guest, 9));
    assert_eq!(ahead, "queue 0: 9 chains are available in a queue of 8");
    let outside = fault_of(|guest, queue| queue.offer_head(guest, 8));
    assert_eq!(
        outside,
        "queue 0: head 8 is out of range or already with the device"
    );
    let twice = fault_of(|guest, queue| {
        queue.offer(guest, &[writable(BUFFERS, 8)]);
        queue.offer_head(guest, 0);
    });
    assert_eq!(
        twice,
        "queue 0: head 0 is out of range or already with the device"
    );
}

#[test]
fn chains_that_do_not_end_are_named() {
    let first = |buffer: Buffer, flags: u16, next: u16| {
        fault_of(|guest, queue| {
            queue.describe(guest, 0, buffer, flags, next);
            queue.offer_head(guest, 0);
        })
    };
    let one = writable(BUFFERS, 8);
    let nested = fault_of(|guest, queue| {
        let inner = readable(BUFFERS + 64, 16);
        queue.offer_indirect(guest, BUFFERS, &[one, inner]);
        guest.poke(BUFFERS + 28, &[4, 0]);
    });
    let long = fault_of(|guest, queue| {
        queue.offer_indirect(guest, BUFFERS, &[one; 257]);
    });
    for (what, expected) in [
        (first(one, 1, 0), "breaks after 8 descriptors"),
        (first(one, 1, 9), "breaks after 1 descriptors"),
        (first(readable(RAM_BYTES, 32), 4, 0), "breaks after 0 descriptors"),
        (first(readable(BUFFERS, 24), 4, 0), "breaks after 0 descriptors"),
        (first(readable(BUFFERS, 0), 4, 0), "breaks after 0 descriptors"),
        (nested, "breaks after 1 descriptors"),
        (long, "more than 256 descriptors"),
    ] {
        assert!(what.contains(expected), "{expected:?} is not in {what:?}");
    }
}

#[test]
fn buffers_in_the_wrong_place_or_order_are_named() {
    let chain = |buffers: &[Buffer]| {
        fault_of(|guest, queue| {
            queue.offer(guest, buffers);
        })
    };
    for (what, expected) in [
        (
            chain(&[writable(RAM_BYTES - 4, 8)]),
            "8 bytes at 0x3fffffc, is not in RAM",
        ),
        (chain(&[writable(u64::MAX - 4, 8)]), "is not in RAM"),
        (chain(&[writable(BUFFERS, u32::MAX)]), "is not in RAM"),
        (
            chain(&[writable(BUFFERS, 8), readable(BUFFERS, 8)]),
            "readable buffer after a writable one",
        ),
        (chain(&[readable(BUFFERS, 8)]), "must hold writable buffers only"),
    ] {
        assert!(what.contains(expected), "{expected:?} is not in {what:?}");
    }
}

#[test]
fn a_dead_device_is_silent_until_reset_and_then_lives_again() {
    let mut guest = TestGuest::new();
    let mut driver = Driver::entropy(&mut guest);
    driver.start(&mut guest, 0, 8);
    driver.queues[0].set_available(&guest, 100);
    driver.kick(&mut guest, 0);
    driver.kick(&mut guest, 0);
    assert!(guest.fault().is_some());
    assert_eq!(driver.status(&mut guest), 15 | NEEDS_RESET);
    driver.queues[0].set_available(&guest, 0);
    driver.queues[0].offer(&guest, &[writable(BUFFERS, 8)]);
    driver.kick(&mut guest, 0);
    guest.exit(|bus, at| bus.provide_entropy(&[1; 8], at));
    assert!(driver.queues[0].used(&guest).is_empty());

    guest.take_effects();
    driver.start(&mut guest, 0, 8);
    driver.queues[0].offer(&guest, &[writable(BUFFERS, 8)]);
    driver.kick(&mut guest, 0);
    guest.exit(|bus, at| bus.provide_entropy(&[1; 8], at));
    assert_eq!(driver.queues[0].used(&guest), vec![(0, 8)]);
}

#[test]
fn reading_the_isr_clears_it_and_lowers_the_line() {
    let mut guest = TestGuest::new();
    let mut driver = Driver::entropy(&mut guest);
    driver.start(&mut guest, 0, 8);
    driver.queues[0].offer(&guest, &[writable(BUFFERS, 8)]);
    driver.kick(&mut guest, 0);
    assert!(!guest.line(ENTROPY_IRQ));
    guest.exit(|bus, at| bus.provide_entropy(&[1; 8], at));
    assert!(guest.line(ENTROPY_IRQ));
    assert_eq!(driver.read_isr(&mut guest), 1);
    assert!(!guest.line(ENTROPY_IRQ));
    assert_eq!(driver.read_isr(&mut guest), 0);
}

#[test]
fn no_interrupt_is_raised_for_a_driver_that_polls() {
    let mut guest = TestGuest::new();
    let mut driver = Driver::entropy(&mut guest);
    driver.start(&mut guest, 0, 8);
    let queue = &driver.queues[0];
    guest.poke(queue.driver, &1_u16.to_le_bytes());
    queue.offer(&guest, &[writable(BUFFERS, 8)]);
    driver.kick(&mut guest, 0);
    guest.exit(|bus, at| bus.provide_entropy(&[1; 8], at));
    assert_eq!(queue.used(&guest).len(), 1);
    assert!(!guest.line(ENTROPY_IRQ), "VIRTQ_AVAIL_F_NO_INTERRUPT");
}

#[test]
fn the_configuration_access_window_reaches_every_register() {
    let mut guest = TestGuest::new();
    let driver = Driver::disk(&mut guest);
    let aim = |guest: &mut TestGuest, offset: u32, length: u32| {
        guest.config_out(DISK_SLOT, driver.window + 4, 1, 0);
        guest.config_out(DISK_SLOT, driver.window + 8, 4, offset);
        guest.config_out(DISK_SLOT, driver.window + 12, 4, length);
    };
    let data = driver.window + 16;
    aim(&mut guest, 18, 2);
    assert_eq!(guest.config_in(DISK_SLOT, data, 2), 1, "num_queues");
    aim(&mut guest, 20, 1);
    guest.config_out(DISK_SLOT, data, 1, 3);
    assert_eq!(driver.status(&mut guest), 3);
    aim(&mut guest, 0x80, 4);
    assert_eq!(guest.config_in(DISK_SLOT, data, 4), 32768, "sectors of 16 MiB");
    for (offset, length) in [(255, 4), (256, 1), (0, 3), (u32::MAX, 4), (18, u32::MAX), (2, 4)] {
        aim(&mut guest, offset, length);
        guest.config_out(DISK_SLOT, data, 4, 0);
        guest.config_in(DISK_SLOT, data, 4);
        assert_eq!(driver.status(&mut guest), 3, "{offset} {length} reaches nothing");
    }
}

fn word() -> impl Strategy<Value = u16> {
    prop_oneof![0_u16..12, any::<u16>()]
}

fn buffer() -> impl Strategy<Value = Buffer> {
    let address = prop_oneof![
        4 => BUFFERS..RAM_BYTES,
        1 => any::<u64>(),
        1 => RAM_BYTES - 64..RAM_BYTES + 64,
        // On top of the rings.
        2 => 0x10_0000_u64..0x40_0000,
    ];
    let length = prop_oneof![4 => 0_u32..2048, 1 => any::<u32>(), 1 => Just(1), 1 => Just(16)];
    (address, length, any::<bool>()).prop_map(|(address, length, writable)| Buffer {
        address,
        length,
        writable,
    })
}

/// What a hostile guest does between two looks of the machine.
#[derive(Debug, Clone)]
enum Act {
    Describe {
        index: u16,
        buffer: Buffer,
        flags: u16,
        next: u16,
    },
    Offer {
        queue: usize,
        buffers: Vec<Buffer>,
    },
    OfferHead {
        queue: usize,
        head: u16,
    },
    SetAvailable {
        queue: usize,
        index: u16,
    },
    Kick {
        queue: u16,
    },
    Port {
        offset: u16,
        width: usize,
        value: u32,
    },
    Restart,
    Inputs {
        byte_count: usize,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let queue = 0_usize..2;
    prop_oneof![
        3 => (0_u16..16, buffer(), 0_u16..8, word())
            .prop_map(|(index, buffer, flags, next)| Act::Describe { index, buffer, flags, next }),
        4 => (queue.clone(), prop::collection::vec(buffer(), 1..5))
            .prop_map(|(queue, buffers)| Act::Offer { queue, buffers }),
        3 => (queue.clone(), word()).prop_map(|(queue, head)| Act::OfferHead { queue, head }),
        1 => (queue, word()).prop_map(|(queue, index)| Act::SetAvailable { queue, index }),
        4 => (0_u16..3).prop_map(|queue| Act::Kick { queue }),
        1 => (0_u16..256, prop::sample::select(vec![1, 2, 4]), any::<u32>())
            .prop_map(|(offset, width, value)| Act::Port { offset, width, value }),
        1 => Just(Act::Restart),
        3 => (0_usize..4000).prop_map(|byte_count| Act::Inputs { byte_count }),
    ]
}

/// The world's answers to whatever the devices asked for.
fn answer(guest: &mut TestGuest, byte_count: usize) {
    let mut completions = Vec::new();
    for effect in guest.take_effects() {
        if let Effect::Disk(request) = effect {
            completions.push(DiskCompletion {
                id: request.id,
                outcome: match request.operation {
                    DiskOperation::Read { byte_count, .. } => DiskOutcome::Read(vec![1; byte_count].into()),
                    DiskOperation::Write { .. } | DiskOperation::Flush => DiskOutcome::Done,
                },
            });
        }
    }
    guest.exit(|bus, at| {
        bus.complete_disk(completions, at);
        bus.receive_frames(vec![Frame(vec![0; byte_count]); 3], at);
        bus.provide_entropy(&vec![2; byte_count], at);
    });
}

fn on_the_disk(effect: &Effect) -> bool {
    let Effect::Disk(request) = effect else {
        return true;
    };
    let (start, length) = match &request.operation {
        DiskOperation::Read { offset, byte_count } => (*offset, *byte_count),
        DiskOperation::Write { offset, data } => (*offset, data.len()),
        DiskOperation::Flush => return true,
    };
    start + length as u64 <= DISK_BYTES && length.is_multiple_of(512)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// No panic, no access outside RAM (`GuestMemory` refuses those), and after a fault not one effect until the
    /// guest resets the device. Disk data is never taken from, and requests never made for, what is not on the disk.
    #[test]
    fn hostile_rings_stop_at_a_fault(
        slot in prop::sample::select(vec![DISK_SLOT, NETWORK_SLOT, ENTROPY_SLOT]),
        features in prop::sample::select(vec![0, INDIRECT, INDIRECT | EVENT_IDX, EVENT_IDX | 1 << 15]),
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let mut guest = TestGuest::new();
        let mut driver = Driver::find(&mut guest, slot);
        let features = features & driver.offered(&mut guest);
        driver.start(&mut guest, features, 16);
        for act in acts {
            let dead = driver.status(&mut guest) & NEEDS_RESET != 0;
            let effects_before = guest.effects.len();
            let may_revive = matches!(act, Act::Port { .. } | Act::Restart);
            let queue = |queue: usize| &driver.queues[queue % driver.queues.len()];
            match act {
                Act::Describe { index, buffer, flags, next } => queue(0).describe(&guest, index, buffer, flags, next),
                Act::Offer { queue: index, buffers } => { queue(index).offer(&guest, &buffers); }
                Act::OfferHead { queue: index, head } => queue(index).offer_head(&guest, head),
                Act::SetAvailable { queue: index, index: available } => queue(index).set_available(&guest, available),
                Act::Kick { queue } => driver.kick(&mut guest, queue),
                Act::Port { offset, width, value } => guest.port_out(driver.common + offset, width, value),
                Act::Restart => driver.start(&mut guest, features, 16),
                Act::Inputs { byte_count } => answer(&mut guest, byte_count),
            }
            let new = guest.effects.get(effects_before..).unwrap_or_default();
            prop_assert!(!dead || may_revive || new.is_empty(), "{new:?}");
            let faults = new.iter().filter(|effect| matches!(effect, Effect::Fault(_))).count();
            prop_assert!(faults <= 1);
            prop_assert!(guest.effects.iter().all(on_the_disk));
            if faults == 1 && !may_revive {
                prop_assert_ne!(driver.status(&mut guest) & NEEDS_RESET, 0);
            }
        }
    }
}
