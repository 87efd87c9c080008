//! The entropy device against the test guest.

use proptest::prelude::*;

use crate::base::limits::ENTROPY_BYTES_MAX;
use crate::devices::Effect;
use crate::devices::virtio::test_guest::{BUFFERS, Driver, TestGuest, writable};

fn started() -> (TestGuest, Driver) {
    let mut guest = TestGuest::new();
    let mut driver = Driver::entropy(&mut guest);
    driver.start(&mut guest, 0, 64);
    (guest, driver)
}

fn wanted(guest: &mut TestGuest) -> Vec<usize> {
    let effects = guest.take_effects().into_iter();
    effects
        .map(|effect| match effect {
            Effect::EntropyWanted { byte_count } => byte_count,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_buffer_waits_for_the_answer_and_is_filled() {
    let (mut guest, driver) = started();
    driver.queues[0].offer(&guest, &[writable(BUFFERS, 4), writable(BUFFERS + 100, 4)]);
    driver.kick(&mut guest, 0);
    assert_eq!(wanted(&mut guest), vec![8]);
    assert!(driver.queues[0].used(&guest).is_empty());
    guest.exit(|bus, at| bus.provide_entropy(&[1, 2, 3, 4, 5, 6, 7, 8], at));
    assert_eq!(driver.queues[0].used(&guest), vec![(0, 8)]);
    assert_eq!(guest.peek(BUFFERS, 4), vec![1, 2, 3, 4]);
    assert_eq!(guest.peek(BUFFERS + 100, 4), vec![5, 6, 7, 8]);
    assert_eq!(guest.bus.counters().entropy_bytes, 8);
}

#[test]
fn one_bounded_question_is_open_at_a_time() {
    let (mut guest, driver) = started();
    for place in 0..3 {
        driver.queues[0].offer(&guest, &[writable(BUFFERS + 0x1000 * place, 4096)]);
        driver.kick(&mut guest, 0);
    }
    assert_eq!(wanted(&mut guest), vec![4096]);
    guest.exit(|bus, at| bus.provide_entropy(&[9; ENTROPY_BYTES_MAX], at));
    assert_eq!(
        wanted(&mut guest),
        vec![ENTROPY_BYTES_MAX],
        "the next question follows the answer"
    );
}

#[test]
fn a_short_answer_fills_a_buffer_in_part_and_bytes_nobody_waits_for_are_lost() {
    let (mut guest, driver) = started();
    driver.queues[0].offer(&guest, &[writable(BUFFERS, 8)]);
    driver.kick(&mut guest, 0);
    guest.exit(|bus, at| bus.provide_entropy(&[5; 3], at));
    assert_eq!(driver.queues[0].used(&guest), vec![(0, 3)]);
    guest.exit(|bus, at| bus.provide_entropy(&[6; 30], at));
    guest.take_effects();
    driver.queues[0].offer(&guest, &[writable(BUFFERS, 8)]);
    driver.kick(&mut guest, 0);
    assert_eq!(wanted(&mut guest), vec![8]);
    assert!(driver.queues[0].used(&guest).is_empty());
}

#[test]
fn an_answer_that_outlives_a_reset_serves_the_new_driver_once() {
    let (mut guest, mut driver) = started();
    driver.queues[0].offer(&guest, &[writable(BUFFERS, 8)]);
    driver.kick(&mut guest, 0);
    assert_eq!(wanted(&mut guest), vec![8]);
    driver.start(&mut guest, 0, 64);
    driver.queues[0].offer(&guest, &[writable(BUFFERS + 64, 4)]);
    driver.kick(&mut guest, 0);
    assert_eq!(
        wanted(&mut guest),
        Vec::<usize>::new(),
        "the old question is still open"
    );
    guest.exit(|bus, at| bus.provide_entropy(&[5; 8], at));
    assert_eq!(driver.queues[0].used(&guest), vec![(0, 4)]);
    assert_eq!(
        guest.peek(BUFFERS, 8),
        vec![0; 8],
        "the old driver's buffer stays untouched"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn every_buffer_comes_back_whatever_the_answers_lengths(
        lengths in prop::collection::vec(1_u32..6000, 1..20),
        answers in prop::collection::vec(1_usize..5000, 1..20),
    ) {
        let (mut guest, driver) = started();
        for (place, length) in (0..).zip(&lengths) {
            driver.queues[0].offer(&guest, &[writable(BUFFERS + 0x2000 * place, *length)]);
        }
        driver.kick(&mut guest, 0);
        let mut used = Vec::new();
        for answer in answers.iter().cycle().take(100) {
            for byte_count in wanted(&mut guest) {
                prop_assert!(byte_count <= ENTROPY_BYTES_MAX);
                let given = vec![3; byte_count.min(*answer)];
                guest.exit(|bus, at| bus.provide_entropy(&given, at));
            }
            used.extend(driver.queues[0].used(&guest));
        }
        prop_assert_eq!(used.len(), lengths.len());
        for ((_, written), length) in used.iter().zip(&lengths) {
            prop_assert!(*written > 0 && written <= length);
        }
    }
}
