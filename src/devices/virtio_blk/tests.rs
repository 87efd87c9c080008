//! The disk against the test guest, and its schedule against a model.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests cut values to register widths on purpose"
)]

use proptest::prelude::*;

use super::DiskConfig;
use super::schedule::Touch;
use crate::base::limits::{DISK_BYTES_IN_FLIGHT_MAX, DISK_REQUEST_BYTES_MAX};
use crate::devices::platform::DISK_IRQ;
use crate::devices::virtio::test_guest::{
    BUFFERS, DISK_BYTES, Driver, EVENT_IDX, INDIRECT, TestGuest, disk_config, readable, writable,
};
use crate::devices::virtio_net::Offloads;
use crate::devices::{DiskCompletion, DiskOperation, DiskOutcome, DiskRequest, DiskRequestId, Effect};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const STATUS: u64 = BUFFERS + 0xF000;
const DATA: u64 = BUFFERS + 0x10_0000;

fn started(features: u64) -> (TestGuest, Driver) {
    let mut guest = TestGuest::new();
    let mut driver = Driver::disk(&mut guest);
    driver.start(&mut guest, features, 256);
    (guest, driver)
}

/// Offers a request with its header and status byte in places of its own (`number` below 256), data at `data`.
fn offer(
    guest: &TestGuest,
    driver: &Driver,
    number: u64,
    kind: u32,
    sector: u64,
    data: u64,
    length: u32,
) -> u16 {
    let header = BUFFERS + 16 * number;
    guest.poke(header, &[kind.to_le_bytes(), [0; 4]].concat());
    guest.poke(header + 8, &sector.to_le_bytes());
    guest.poke(STATUS + number, &[0xEE]);
    let data = match kind {
        OUT => readable(data, length),
        _ => writable(data, length),
    };
    let buffers = [readable(header, 16), data, writable(STATUS + number, 1)];
    let without_data = [buffers[0], buffers[2]];
    driver.queues[0].offer(guest, if length == 0 { &without_data } else { &buffers })
}

fn status(guest: &TestGuest, number: u64) -> u8 {
    guest.peek(STATUS + number, 1)[0]
}

fn requests(guest: &mut TestGuest) -> Vec<DiskRequest> {
    let effects = guest.take_effects().into_iter();
    effects
        .map(|effect| match effect {
            Effect::Disk(request) => request,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn complete(guest: &mut TestGuest, completions: Vec<(DiskRequestId, DiskOutcome)>) {
    let completions = completions
        .into_iter()
        .map(|(id, outcome)| DiskCompletion { id, outcome });
    guest.exit(|bus, at| bus.complete_disk(completions.collect(), at));
}

#[test]
fn configuration_tells_capacity_limits_and_sector() {
    let (mut guest, driver) = started(0);
    let fields: Vec<u32> = [0, 4, 8, 12, 20]
        .map(|at| guest.port_in(driver.device + at, 4))
        .to_vec();
    assert_eq!(fields, vec![32768, 0, 16384, 254, 512]);
    let features = driver.offered(&mut guest);
    for bit in [1, 2, 6, 9] {
        assert_ne!(features & 1 << bit, 0, "feature {bit}");
    }
    assert_eq!(features & 1 << 5, 0, "not read-only");
}

#[test]
fn a_write_leaves_guest_memory_at_the_kick_and_a_read_enters_it_at_completion() {
    let (mut guest, driver) = started(INDIRECT);
    guest.poke(DATA, &[7; 1024]);
    offer(&guest, &driver, 0, OUT, 4, DATA, 1024);
    offer(&guest, &driver, 1, IN, 100, DATA + 4096, 512);
    driver.kick(&mut guest, 0);
    guest.poke(DATA, &[8; 1024]);
    let submitted = requests(&mut guest);
    let operations: Vec<_> = submitted
        .iter()
        .map(|request| request.operation.clone())
        .collect();
    let write = DiskOperation::Write {
        offset: 2048,
        data: vec![7; 1024].into(),
    };
    let read = DiskOperation::Read {
        offset: 51200,
        byte_count: 512,
    };
    assert_eq!(operations, vec![write, read]);
    assert_eq!(guest.bus.disk_requests_in_flight(), 2);
    assert_eq!(guest.peek(DATA + 4096, 512), vec![0; 512]);

    complete(
        &mut guest,
        vec![
            (submitted[1].id, DiskOutcome::Read(vec![9; 512].into())),
            (submitted[0].id, DiskOutcome::Done),
        ],
    );
    assert_eq!(guest.peek(DATA + 4096, 512), vec![9; 512]);
    assert_eq!((status(&guest, 0), status(&guest, 1)), (0, 0));
    assert_eq!(driver.queues[0].used(&guest), vec![(3, 513), (0, 1)]);
    assert_eq!(guest.bus.disk_requests_in_flight(), 0);
    assert!(guest.line(DISK_IRQ));
    let counters = guest.bus.counters().disk;
    assert_eq!((counters.reads, counters.writes), (1, 1));
    assert_eq!((counters.read_bytes, counters.write_bytes), (512, 1024));
}

#[test]
fn a_request_may_be_cut_into_buffers_anywhere_and_lie_in_an_indirect_table() {
    let (mut guest, driver) = started(INDIRECT);
    guest.poke(BUFFERS, &OUT.to_le_bytes());
    guest.poke(BUFFERS + 4, &[0; 12]);
    guest.poke(DATA, &(0..=255).cycle().take(512).collect::<Vec<u8>>());
    // The header ends inside the second buffer; data follows at once in the same one.
    guest.poke(DATA - 6, &[0; 6]);
    let buffers = [
        readable(BUFFERS, 10),
        readable(DATA - 6, 106),
        readable(DATA + 100, 0),
        readable(DATA + 100, 412),
        writable(STATUS, 1),
    ];
    driver.queues[0].offer_indirect(&guest, BUFFERS + 0x4000, &buffers);
    driver.kick(&mut guest, 0);
    let submitted = requests(&mut guest);
    let data: Vec<u8> = (0..=255).cycle().take(512).collect();
    assert_eq!(
        submitted[0].operation,
        DiskOperation::Write {
            offset: 0,
            data: data.into()
        }
    );
}

#[test]
fn what_cannot_be_done_is_refused_without_asking_the_host() {
    let cases = [
        (IN, 32767, 1024, 1),
        (IN, u64::MAX, 512, 1),
        (IN, u64::MAX / 512, 512, 1),
        (OUT, 32768, 512, 1),
        (IN, 0, 100, 1),
        (OUT, 0, 513, 1),
        (IN, 0, DISK_REQUEST_BYTES_MAX as u32 + 512, 1),
        (2, 0, 512, 2),
        (11, 0, 16, 2),
        (IN, 0, 0, 0),
        (OUT, 0, 0, 0),
    ];
    for (kind, sector, length, expected) in cases {
        let (mut guest, driver) = started(0);
        offer(&guest, &driver, 0, kind, sector, DATA, length);
        driver.kick(&mut guest, 0);
        assert!(guest.take_effects().is_empty(), "{kind} {sector} {length}");
        assert_eq!(status(&guest, 0), expected, "{kind} {sector} {length}");
        assert_eq!(driver.queues[0].used(&guest).len(), 1);
        assert!(guest.line(DISK_IRQ));
    }
}

#[test]
fn a_read_only_disk_says_so_and_refuses_writes() {
    let config = DiskConfig {
        read_only: true,
        ..disk_config()
    };
    let mut guest = TestGuest::with(config, Offloads::NONE);
    let mut driver = Driver::disk(&mut guest);
    assert_ne!(driver.offered(&mut guest) & 1 << 5, 0);
    driver.start(&mut guest, 1 << 5, 16);
    offer(&guest, &driver, 0, OUT, 0, DATA, 512);
    driver.kick(&mut guest, 0);
    assert!(guest.take_effects().is_empty());
    assert_eq!(status(&guest, 0), 1);
    assert_eq!(guest.bus.counters().disk.refused, 1);
}

#[test]
fn the_serial_is_told_cut_to_the_buffer() {
    let (mut guest, driver) = started(0);
    offer(&guest, &driver, 0, GET_ID, 0, DATA, 20);
    offer(&guest, &driver, 1, GET_ID, 0, DATA + 64, 4);
    driver.kick(&mut guest, 0);
    assert_eq!(guest.peek(DATA, 20), disk_config().serial);
    assert_eq!(guest.peek(DATA + 64, 6), b"anti\0\0");
    assert_eq!((status(&guest, 0), status(&guest, 1)), (0, 0));
}

#[test]
fn a_header_or_status_byte_that_is_missing_is_a_fault() {
    for buffers in [
        vec![readable(BUFFERS, 15), writable(STATUS, 1)],
        vec![writable(STATUS, 1)],
        vec![readable(BUFFERS, 16)],
        vec![readable(BUFFERS, 16), readable(DATA, 512), writable(STATUS, 0)],
    ] {
        let (mut guest, driver) = started(0);
        driver.queues[0].offer(&guest, &buffers);
        driver.kick(&mut guest, 0);
        let fault = guest.fault().unwrap();
        assert!(fault.what.contains("are needed"), "{}", fault.what);
        assert!(driver.queues[0].used(&guest).is_empty());
    }
}

#[test]
fn requests_that_overlap_a_write_wait_in_order_and_a_flush_does_not() {
    let (mut guest, driver) = started(0);
    offer(&guest, &driver, 0, OUT, 0, DATA, 1024);
    offer(&guest, &driver, 1, IN, 1, DATA + 4096, 1024);
    offer(&guest, &driver, 2, IN, 8, DATA + 8192, 512);
    offer(&guest, &driver, 3, OUT, 2, DATA, 512);
    offer(&guest, &driver, 4, FLUSH, 0, 0, 0);
    driver.kick(&mut guest, 0);
    let first = requests(&mut guest);
    let offsets: Vec<_> = first
        .iter()
        .map(|request| Touch::of(&request.operation))
        .collect();
    let free = Touch::Read {
        start: 4096,
        byte_count: 512,
    };
    let write = Touch::Write {
        start: 0,
        byte_count: 1024,
    };
    assert_eq!(offsets, vec![write, free, Touch::Flush]);

    complete(&mut guest, vec![(first[0].id, DiskOutcome::Done)]);
    let second = requests(&mut guest);
    assert_eq!(second.len(), 1, "the write behind the read still waits");
    assert!(matches!(
        second[0].operation,
        DiskOperation::Read { offset: 512, .. }
    ));
    complete(
        &mut guest,
        vec![(second[0].id, DiskOutcome::Read(vec![1; 1024].into()))],
    );
    assert!(matches!(
        requests(&mut guest)[0].operation,
        DiskOperation::Write { offset: 1024, .. }
    ));
}

#[test]
fn a_failed_or_short_answer_is_an_io_error() {
    let (mut guest, driver) = started(0);
    for number in 0..3 {
        offer(&guest, &driver, number, IN, number, DATA + 512 * number, 512);
    }
    driver.kick(&mut guest, 0);
    let ids: Vec<_> = requests(&mut guest).iter().map(|request| request.id).collect();
    complete(
        &mut guest,
        vec![
            (ids[0], DiskOutcome::Failed),
            (ids[1], DiskOutcome::Read(vec![1; 511].into())),
            (ids[2], DiskOutcome::Done),
        ],
    );
    assert_eq!([0, 1, 2].map(|number| status(&guest, number)), [1, 1, 1]);
    assert_eq!(guest.peek(DATA, 1536), vec![0; 1536]);
    assert_eq!(guest.bus.counters().disk.failed, 3);
}

#[test]
fn completions_after_a_reset_touch_nothing_but_free_what_waits_for_them() {
    let (mut guest, mut driver) = started(0);
    offer(&guest, &driver, 0, IN, 0, DATA, 512);
    offer(&guest, &driver, 1, OUT, 8, DATA, 512);
    driver.kick(&mut guest, 0);
    let old = requests(&mut guest);
    driver.start(&mut guest, 0, 256);
    assert_eq!(
        guest.bus.disk_requests_in_flight(),
        2,
        "the host still works on them"
    );
    offer(&guest, &driver, 2, IN, 8, DATA + 4096, 512);
    driver.kick(&mut guest, 0);
    assert!(
        requests(&mut guest).is_empty(),
        "an abandoned write is still a write"
    );

    complete(
        &mut guest,
        vec![
            (old[0].id, DiskOutcome::Read(vec![5; 512].into())),
            (old[1].id, DiskOutcome::Done),
            (old[1].id, DiskOutcome::Done),
        ],
    );
    assert_eq!(guest.peek(DATA, 512), vec![0; 512]);
    assert!(driver.queues[0].used(&guest).is_empty());
    let new = requests(&mut guest);
    assert!(
        old.iter().all(|request| request.id < new[0].id),
        "names are never used twice"
    );
    let counters = guest.bus.counters().disk;
    assert_eq!((counters.abandoned, counters.unknown), (2, 1));

    guest.exit(|bus, at| bus.reset(at.irqs));
    complete(
        &mut guest,
        vec![(new[0].id, DiskOutcome::Read(vec![5; 512].into()))],
    );
    assert_eq!(guest.peek(DATA + 4096, 512), vec![0; 512]);
    assert_eq!(guest.bus.disk_requests_in_flight(), 0);
}

#[test]
fn host_memory_in_flight_is_bounded_and_what_is_left_is_taken_without_a_kick() {
    let (mut guest, driver) = started(EVENT_IDX);
    let length = DISK_REQUEST_BYTES_MAX as u32;
    for number in 0..20 {
        offer(&guest, &driver, number, IN, 0, BUFFERS + 0x10_0000, length);
    }
    driver.kick(&mut guest, 0);
    let first = requests(&mut guest);
    assert_eq!(first.len(), DISK_BYTES_IN_FLIGHT_MAX / DISK_REQUEST_BYTES_MAX);
    let done = DiskOutcome::Read(vec![1; DISK_REQUEST_BYTES_MAX].into());
    complete(&mut guest, vec![(first[0].id, done)]);
    assert_eq!(requests(&mut guest).len(), 1);
}

#[test]
fn a_batch_of_completions_is_one_interrupt_and_event_idx_defers_it() {
    let (mut guest, driver) = started(EVENT_IDX);
    let queue = &driver.queues[0];
    queue.set_used_event(&guest, 2);
    for number in 0..4 {
        offer(&guest, &driver, number, IN, number, DATA + 512 * number, 512);
    }
    driver.kick(&mut guest, 0);
    assert_eq!(queue.available_event(&guest), 4, "tell me of the next one");
    let ids: Vec<_> = requests(&mut guest).iter().map(|request| request.id).collect();
    let done = |id: &DiskRequestId| (*id, DiskOutcome::Read(vec![1; 512].into()));
    complete(&mut guest, ids[..2].iter().map(done).collect());
    assert!(!guest.line(DISK_IRQ), "the third was asked for");
    guest.irqs.take_rising();
    complete(&mut guest, ids[2..].iter().map(done).collect());
    assert!(guest.line(DISK_IRQ));
    assert_eq!(guest.irqs.take_rising().count_ones(), 1);
}

#[test]
fn a_completion_takes_what_was_offered_meanwhile_and_saves_the_kick() {
    let (mut guest, driver) = started(EVENT_IDX);
    offer(&guest, &driver, 0, IN, 0, DATA, 512);
    driver.kick(&mut guest, 0);
    let first = requests(&mut guest);
    offer(&guest, &driver, 1, IN, 1, DATA, 512);
    complete(
        &mut guest,
        vec![(first[0].id, DiskOutcome::Read(vec![1; 512].into()))],
    );
    assert_eq!(requests(&mut guest).len(), 1);
    assert_eq!(driver.queues[0].available_event(&guest), 2);
}

#[test]
fn a_request_costs_two_exits() {
    let (mut guest, driver) = started(EVENT_IDX);
    guest.exits = 0;
    offer(&guest, &driver, 0, IN, 0, DATA, 512);
    driver.kick(&mut guest, 0);
    let id = requests(&mut guest)[0].id;
    complete(&mut guest, vec![(id, DiskOutcome::Read(vec![1; 512].into()))]);
    assert_eq!(driver.read_isr(&mut guest), 1);
    assert_eq!(guest.exits, 2, "the kick and the ISR");
}

/// A disk in memory that the host ends requests on in any order it likes.
fn apply(disk: &mut [u8], operation: &DiskOperation) -> DiskOutcome {
    match operation {
        DiskOperation::Read { offset, byte_count } => {
            let start = usize::try_from(*offset).unwrap();
            DiskOutcome::Read(disk[start..start + byte_count].to_vec().into())
        }
        DiskOperation::Write { offset, data } => {
            let start = usize::try_from(*offset).unwrap();
            disk[start..start + data.len()].copy_from_slice(data);
            DiskOutcome::Done
        }
        DiskOperation::Flush => DiskOutcome::Done,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    /// Whatever the order in which the host works, the guest sees the disk as if its requests ran one by one (R4).
    #[test]
    fn the_hosts_order_never_shows(
        offers in prop::collection::vec((0_u8..3, 0_u64..12, 1_u32..5), 1..40),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let (mut guest, driver) = started(0);
        let mut expected = vec![0_u8; usize::try_from(DISK_BYTES).unwrap()];
        let mut actual = expected.clone();
        let mut reads = Vec::new();
        for (number, (kind, sector, sectors)) in (0_u64..).zip(&offers) {
            let (data, length) = (DATA + 4096 * number, 512 * sectors);
            let place = usize::try_from(sector * 512).unwrap()..;
            let place = &mut expected[place][..length as usize];
            match *kind {
                0 => {
                    reads.push((data, place.to_vec()));
                    offer(&guest, &driver, number, IN, *sector, data, length);
                }
                1 => {
                    place.fill(number as u8 + 1);
                    guest.poke(data, place);
                    offer(&guest, &driver, number, OUT, *sector, data, length);
                }
                _ => { offer(&guest, &driver, number, FLUSH, 0, 0, 0); }
            }
        }
        driver.kick(&mut guest, 0);
        let mut in_flight: Vec<DiskRequest> = requests(&mut guest);
        for pick in picks {
            for (place, one) in in_flight.iter().enumerate() {
                let touch = Touch::of(&one.operation);
                let clash = in_flight[..place].iter().any(|other| Touch::of(&other.operation).conflicts(touch));
                prop_assert!(!clash, "two requests in flight overlap");
            }
            if in_flight.is_empty() { break }
            let request = in_flight.swap_remove(pick.index(in_flight.len()));
            let outcome = apply(&mut actual, &request.operation);
            complete(&mut guest, vec![(request.id, outcome)]);
            in_flight.extend(requests(&mut guest));
        }
        prop_assert_eq!(driver.queues[0].used(&guest).len(), offers.len());
        prop_assert!(actual == expected);
        for (address, data) in reads {
            prop_assert_eq!(guest.peek(address, data.len()), data);
        }
    }
}
