//! The network interface against the test guest.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests cut values to register widths on purpose"
)]

use proptest::prelude::*;

use super::Offloads;
use crate::base::limits::{FRAME_BYTES_MAX, RECEIVE_FRAMES_PENDING_MAX};
use crate::devices::platform::NETWORK_IRQ;
use crate::devices::virtio::test_guest::{
    BUFFERS, Driver, EVENT_IDX, INDIRECT, MAC, TestGuest, disk_config, readable, writable,
};
use crate::devices::{Effect, Frame};

const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_ECN: u64 = 1 << 9;
const HOST_TSO4: u64 = 1 << 11;
const HOST_ECN: u64 = 1 << 13;
const MRG_RXBUF: u64 = 1 << 15;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

fn started(features: u64) -> (TestGuest, Driver) {
    let mut guest = TestGuest::new();
    let mut driver = Driver::network(&mut guest);
    driver.start(&mut guest, features, 256);
    (guest, driver)
}

/// A header of all zeros, then `byte_count` bytes that tell their place.
fn frame(byte_count: usize) -> Vec<u8> {
    let body = (0..byte_count).map(|place| (place % 251) as u8);
    [0; 12].into_iter().chain(body).collect()
}

fn receive(guest: &mut TestGuest, frames: Vec<Vec<u8>>) {
    let frames = frames.into_iter().map(Frame).collect();
    guest.exit(|bus, at| bus.receive_frames(frames, at));
}

fn transmitted(guest: &mut TestGuest) -> Vec<Vec<u8>> {
    let effects = guest.take_effects().into_iter();
    effects
        .map(|effect| match effect {
            Effect::Transmit(Frame(bytes)) => bytes,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Sends `bytes` in one buffer and answers what reaches the host.
fn send(guest: &mut TestGuest, driver: &Driver, bytes: &[u8]) -> Vec<Vec<u8>> {
    guest.poke(BUFFERS, bytes);
    driver.queues[1].offer(guest, &[readable(BUFFERS, u32::try_from(bytes.len()).unwrap())]);
    driver.kick(guest, TRANSMIT);
    transmitted(guest)
}

#[test]
fn configuration_tells_address_link_and_mtu() {
    let (mut guest, driver) = started(0);
    let mac: Vec<u8> = (0..6)
        .map(|at| guest.port_in(driver.device + at, 1) as u8)
        .collect();
    assert_eq!(mac, MAC);
    assert_eq!(guest.port_in(driver.device + 6, 2), 1, "link up");
    assert_eq!(guest.port_in(driver.device + 10, 2), 1500);
}

#[test]
fn offloads_are_offered_as_configured_and_soundly() {
    let offered = |offloads| {
        let mut guest = TestGuest::with(disk_config(), offloads);
        let driver = Driver::network(&mut guest);
        driver.offered(&mut guest) & 0x7FFF & !(1 << 5 | 1 << 3)
    };
    assert_eq!(offered(Offloads::NONE), 0);
    assert_eq!(offered(Offloads::ALL), 0b0011_1011_1000_0011);
    let without_base = Offloads {
        checksum: false,
        ..Offloads::ALL
    };
    assert_eq!(offered(without_base), 0);
}

#[test]
fn a_driver_that_takes_an_offload_without_its_base_is_refused() {
    for features in [
        HOST_TSO4,
        GUEST_TSO4,
        CSUM | HOST_ECN,
        GUEST_CSUM | GUEST_ECN,
        GUEST_CSUM | HOST_TSO4,
    ] {
        let mut guest = TestGuest::new();
        let driver = Driver::network(&mut guest);
        driver.set_status(&mut guest, 3);
        driver.accept(&mut guest, 1 << 32 | features);
        driver.set_status(&mut guest, 11);
        assert_eq!(driver.status(&mut guest), 3, "{features:#x}");
    }
}

#[test]
fn one_kick_transmits_all_that_is_offered_and_returns_it_at_once() {
    let (mut guest, driver) = started(INDIRECT | EVENT_IDX);
    let sent = frame(200);
    guest.poke(BUFFERS, &sent);
    let halves = [
        readable(BUFFERS, 12),
        readable(BUFFERS + 12, 100),
        readable(BUFFERS + 112, 100),
    ];
    driver.queues[1].offer(&guest, &halves);
    driver.queues[1].offer_indirect(&guest, BUFFERS + 0x1000, &halves);
    driver.kick(&mut guest, TRANSMIT);
    assert_eq!(transmitted(&mut guest), vec![sent.clone(), sent]);
    assert_eq!(driver.queues[1].used(&guest).len(), 2);
    assert_eq!(driver.queues[1].available_event(&guest), 2);
    let counters = guest.bus.counters().network;
    assert_eq!(
        (counters.transmitted_frames, counters.transmitted_bytes),
        (2, 424)
    );
}

#[test]
fn what_no_tap_would_take_is_dropped_and_counted() {
    let tso = |kind: u8, flags: u8, segment: u16| {
        let mut bytes = frame(200);
        (bytes[0], bytes[1]) = (flags, kind);
        bytes[4..6].copy_from_slice(&segment.to_le_bytes());
        bytes[6..8].copy_from_slice(&34_u16.to_le_bytes());
        bytes[8..10].copy_from_slice(&16_u16.to_le_bytes());
        bytes
    };
    let mut sum_outside = tso(0, 1, 0);
    sum_outside[6..8].copy_from_slice(&190_u16.to_le_bytes());
    let cases = [
        (frame(13), false),
        (frame(14), true),
        (frame(FRAME_BYTES_MAX - 12), true),
        (frame(FRAME_BYTES_MAX - 11), false),
        (tso(0, 1, 0), true),
        (sum_outside, false),
        (tso(1, 1, 1400), true),
        (tso(1, 1, 0), false),
        (tso(1, 0, 1400), false),
        (tso(4, 1, 1400), false),
        (tso(0x81, 1, 1400), false),
        (tso(3, 1, 1400), false),
        (tso(0x80, 1, 0), false),
    ];
    for (bytes, passes) in cases {
        let (mut guest, driver) = started(CSUM | HOST_TSO4);
        let out = send(&mut guest, &driver, &bytes);
        assert_eq!(out.len(), usize::from(passes), "{:?}", &bytes[..12]);
        assert_eq!(driver.queues[1].used(&guest).len(), 1);
        assert_eq!(guest.bus.counters().network.transmit_dropped, u64::from(!passes));
    }
    let (mut guest, driver) = started(0);
    assert!(
        send(&mut guest, &driver, &tso(0, 1, 0)).is_empty(),
        "CSUM was not negotiated"
    );
}

#[test]
fn header_bits_without_meaning_do_not_reach_the_host() {
    let (mut guest, driver) = started(0);
    let mut bytes = frame(60);
    bytes[0] = 0xFE;
    bytes[10..12].copy_from_slice(&[9, 9]);
    assert_eq!(send(&mut guest, &driver, &bytes), vec![frame(60)]);
}

#[test]
fn a_chain_without_a_whole_header_or_with_a_writable_buffer_is_a_fault() {
    for buffer in [readable(BUFFERS, 11), writable(BUFFERS, 100)] {
        let (mut guest, driver) = started(0);
        driver.queues[1].offer(&guest, &[buffer]);
        driver.kick(&mut guest, TRANSMIT);
        assert_eq!(guest.fault().unwrap().device, "virtio-net");
    }
    for buffer in [writable(BUFFERS, 11), readable(BUFFERS, 2000)] {
        let (mut guest, driver) = started(MRG_RXBUF);
        driver.queues[0].offer(&guest, &[buffer]);
        receive(&mut guest, vec![frame(60)]);
        assert_eq!(guest.fault().unwrap().device, "virtio-net");
    }
}

#[test]
fn a_batch_of_frames_enters_the_ring_with_one_interrupt() {
    let (mut guest, driver) = started(MRG_RXBUF);
    for place in 0..4 {
        driver.queues[0].offer(&guest, &[writable(BUFFERS + 4096 * place, 2048)]);
    }
    driver.kick(&mut guest, RECEIVE);
    guest.irqs.take_rising();
    receive(&mut guest, vec![frame(60), frame(1500), frame(100)]);
    assert_eq!(driver.queues[0].used(&guest), vec![(0, 72), (1, 1512), (2, 112)]);
    let mut expected = frame(1500);
    expected[10] = 1;
    assert_eq!(guest.peek(BUFFERS + 4096, 1512), expected);
    assert_eq!(guest.irqs.take_rising(), 1 << NETWORK_IRQ);
    assert!(guest.line(NETWORK_IRQ));
    assert_eq!(guest.bus.counters().network.received_frames, 3);
}

#[test]
fn a_large_frame_spans_buffers_and_their_number_is_told() {
    let (mut guest, driver) = started(MRG_RXBUF | GUEST_CSUM | GUEST_TSO4);
    for place in 0..40 {
        driver.queues[0].offer(&guest, &[writable(BUFFERS + 4096 * place, 2048)]);
    }
    let sent = frame(60_000);
    receive(&mut guest, vec![sent.clone()]);
    let used = driver.queues[0].used(&guest);
    assert_eq!(used.len(), 60_012_usize.div_ceil(2048));
    assert_eq!(guest.peek(BUFFERS + 10, 2), vec![30, 0]);
    let mut joined = Vec::new();
    for (head, length) in used {
        joined.extend(guest.peek(BUFFERS + 4096 * u64::from(head), length as usize));
    }
    assert_eq!(joined[12..], sent[12..]);
}

#[test]
fn frames_wait_for_buffers_and_the_guest_is_asked_to_kick_only_then() {
    let (mut guest, driver) = started(MRG_RXBUF | EVENT_IDX);
    let queue = &driver.queues[0];
    for place in 0..2 {
        queue.offer(&guest, &[writable(BUFFERS + 4096 * place, 100)]);
    }
    driver.kick(&mut guest, RECEIVE);
    assert_eq!(queue.available_event(&guest), 0, "no kick wanted for a refill");
    receive(&mut guest, vec![frame(60)]);
    assert_eq!(queue.used(&guest).len(), 1);
    assert_eq!(
        queue.available_event(&guest),
        0,
        "nor after a frame that found its buffer"
    );
    receive(&mut guest, vec![frame(150), frame(60)]);
    assert!(
        queue.used(&guest).is_empty(),
        "half a frame is no frame, and order is kept"
    );
    assert_eq!(
        queue.available_event(&guest),
        1,
        "the buffer not used is still the guest's next"
    );
    for place in 2..4 {
        queue.offer(&guest, &[writable(BUFFERS + 4096 * place, 100)]);
    }
    driver.kick(&mut guest, RECEIVE);
    assert_eq!(queue.used(&guest), vec![(1, 100), (2, 62), (3, 72)]);
}

#[test]
fn frames_held_are_bounded_and_a_large_batch_is_not_cut_while_buffers_last() {
    let (mut guest, driver) = started(MRG_RXBUF);
    for place in 0..200 {
        driver.queues[0].offer(&guest, &[writable(BUFFERS + 256 * place, 256)]);
    }
    receive(&mut guest, vec![frame(60); 200 + RECEIVE_FRAMES_PENDING_MAX + 5]);
    assert_eq!(driver.queues[0].used(&guest).len(), 200);
    assert_eq!(guest.bus.counters().network.receive_dropped, 5);
}

#[test]
fn a_frame_that_can_never_fit_does_not_block_those_behind_it() {
    let (mut guest, driver) = started(0);
    driver.queues[0].offer(&guest, &[writable(BUFFERS, 1526)]);
    receive(&mut guest, vec![frame(2000), frame(60)]);
    assert_eq!(driver.queues[0].used(&guest), vec![(0, 72)]);
    assert_eq!(guest.bus.counters().network.receive_dropped, 1);

    let mut driver = Driver::network(&mut guest);
    driver.start(&mut guest, MRG_RXBUF, 4);
    for place in 0..4 {
        driver.queues[0].offer(&guest, &[writable(BUFFERS + 4096 * place, 100)]);
    }
    receive(&mut guest, vec![frame(1000), frame(60)]);
    assert_eq!(driver.queues[0].used(&guest), vec![(0, 72)]);
}

#[test]
fn without_a_driver_frames_are_dropped_and_a_reset_forgets_those_held() {
    let mut guest = TestGuest::new();
    receive(&mut guest, vec![frame(60)]);
    assert_eq!(guest.bus.counters().network.receive_dropped, 1);
    let mut driver = Driver::network(&mut guest);
    driver.start(&mut guest, 0, 16);
    receive(&mut guest, vec![frame(60); 3]);
    driver.start(&mut guest, 0, 16);
    assert_eq!(guest.bus.counters().network.receive_dropped, 4);
    driver.queues[0].offer(&guest, &[writable(BUFFERS, 2000)]);
    driver.kick(&mut guest, RECEIVE);
    assert!(driver.queues[0].used(&guest).is_empty());
}

#[test]
fn offloads_not_negotiated_are_mended_or_dropped() {
    let mut needs_sum = frame(20);
    needs_sum[0] = 1;
    // A sum over four bytes at 14, of which the first two are its place.
    needs_sum[6..8].copy_from_slice(&14_u16.to_le_bytes());
    needs_sum[26..32].copy_from_slice(&[0x00, 0x05, 0x12, 0x34, 0x01, 0x00]);
    let mut segmented = needs_sum.clone();
    segmented[1] = 1;
    segmented[4] = 100;

    let (mut guest, driver) = started(0);
    assert_eq!(guest.bus.receive_offloads(), Offloads::NONE);
    driver.queues[0].offer(&guest, &[writable(BUFFERS, 2000)]);
    receive(&mut guest, vec![segmented.clone(), needs_sum.clone()]);
    assert_eq!(driver.queues[0].used(&guest), vec![(0, 32)]);
    let received = guest.peek(BUFFERS, 32);
    assert_eq!(received[0], 0);
    let sum = !(0x0005_u16 + 0x1234 + 0x0100);
    assert_eq!(received[26..28], sum.to_be_bytes());

    let (mut guest, mut driver) = started(0);
    driver.start(&mut guest, GUEST_CSUM | GUEST_TSO4, 16);
    assert!(guest.bus.receive_offloads().tso4);
    for place in 0..2 {
        driver.queues[0].offer(&guest, &[writable(BUFFERS + 4096 * place, 2000)]);
    }
    receive(&mut guest, vec![segmented, needs_sum.clone()]);
    assert_eq!(driver.queues[0].used(&guest).len(), 2);
    assert_eq!(guest.peek(BUFFERS + 4096, 10), needs_sum[..10]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    /// Frames arrive whole and in order, whatever the sizes of frames, buffers and batches.
    #[test]
    fn frames_arrive_whole_and_in_order(
        sizes in prop::collection::vec(14_usize..9000, 1..20),
        buffer_bytes in 64_u32..4096,
        refill in 1_usize..40,
        batch in 1_usize..6,
    ) {
        let (mut guest, driver) = started(MRG_RXBUF | EVENT_IDX);
        let sent: Vec<Vec<u8>> = sizes.iter().map(|size| frame(*size)).collect();
        let mut batches = sent.chunks(batch);
        let mut received = Vec::new();
        let mut free: Vec<u64> = (0..255).collect();
        let mut addresses = std::collections::BTreeMap::new();
        for _ in 0..4000 {
            if let Some(batch) = batches.next() { receive(&mut guest, batch.to_vec()); }
            for place in free.split_off(free.len().saturating_sub(refill)) {
                let address = BUFFERS + 4096 * place;
                let head = driver.queues[0].offer(&guest, &[writable(address, buffer_bytes)]);
                addresses.insert(u32::from(head), place);
            }
            driver.kick(&mut guest, RECEIVE);
            let mut left = 0_u16;
            for (head, length) in driver.queues[0].used(&guest) {
                let place = addresses[&head];
                let bytes = guest.peek(BUFFERS + 4096 * place, length as usize);
                free.push(place);
                if left == 0 {
                    left = u16::from_le_bytes([bytes[10], bytes[11]]);
                    received.push(Vec::new());
                }
                left -= 1;
                received.last_mut().unwrap().extend(bytes);
            }
            prop_assert_eq!(left, 0, "a frame is never there in part");
            if received.len() == sent.len() { break }
        }
        prop_assert!(guest.fault().is_none());
        prop_assert_eq!(received.len(), sent.len());
        for (received, sent) in received.iter().zip(&sent) {
            prop_assert_eq!(&received[12..], &sent[12..]);
        }
    }
}
