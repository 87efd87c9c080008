//! Whole sessions with their threads, over a socket, on disks that fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::session::tests::{Site, content};
use super::*;
use crate::decision::{Consent, Summary};
use crate::image::Image;
use crate::image::memory::Faults;
use crate::leaf_set::LeafSet;
use crate::limits::FRAME_BYTES_MAX;
use crate::replica::sim_store::SimStore;
use crate::replica::{Replica, State};
use crate::tree::Threads;
use crate::units::{LEAF_BYTES, in_memory};

const LEAF: usize = in_memory(LEAF_BYTES);

/// Time that passes by itself, a millisecond a look.
#[derive(Default)]
struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

pub(crate) fn options() -> Options {
    Options {
        consent: Consent::default(),
        dry_run: false,
        compress: true,
        bytes_per_second: None,
        threads: Threads::new(NonZeroUsize::new(2).unwrap()),
    }
}

type Place<'a> = (&'a dyn Image, &'a mut Replica<SimStore>, Link);

/// Runs both ends and answers with the source's outcome and the target's.
pub(crate) fn both(source: Place<'_>, target: Place<'_>, options: &Options) -> (Outcome, Outcome) {
    both_on(source, target, options, &Ticking::default())
}

/// One end, told how far it is.
fn end(
    role: Role,
    (image, replica, link): Place<'_>,
    options: &Options,
    clock: &dyn Clock,
    watch: &mut dyn FnMut(&Status),
) -> Outcome {
    let (summary, marks) = (Summary::of(replica, false), replica.dirty().clone());
    let side = Side {
        role,
        image,
        ledger: replica,
        summary: Some(summary),
        marks,
    };
    run(side, link, options, clock, watch)
}

fn both_on(source: Place<'_>, target: Place<'_>, options: &Options, clock: &dyn Clock) -> (Outcome, Outcome) {
    let end = |role, place: Place<'_>| end(role, place, options, clock, &mut |_| ());
    std::thread::scope(|scope| {
        let target = scope.spawn(move || end(Role::Target, target));
        (end(Role::Source, source), target.join().unwrap())
    })
}

type Outcome = Result<Report, RunError>;

fn sync(source: &Site, target: &Site, options: &Options) -> (Outcome, Outcome) {
    let (here, there) = Link::pair().unwrap();
    both(
        (&source.image, &mut source.open(), here),
        (&target.image, &mut target.open(), there),
        options,
    )
}

#[test]
fn two_images_become_equal_and_only_what_differs_travels() {
    let leaves = 1000;
    let source = Site::new(
        1,
        content(leaves, |leaf| if leaf % 100 == 7 { 5 } else { 1 }),
        Some(1),
    );
    let target = Site::new(2, content(leaves, |_| 1), None);
    let (ours, theirs) = sync(&source, &target, &options());
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    assert!(source.image.bytes() == target.image.bytes());
    assert_eq!(ours.finish.tally.leaves_sent, 10);
    assert_eq!(
        (ours.finish.root, ours.status.data_bytes.0),
        (theirs.finish.root, 10 * LEAF_BYTES)
    );
    // Random data does not compress; 12 bytes for each leaf of the image bound all the rest.
    let wire = ours.status.bytes_sent + ours.status.bytes_received;
    assert!(wire <= 10 * LEAF_BYTES * 105 / 100 + 12 * leaves as u64, "{wire}");
    assert_eq!(ours.status.bytes_sent, theirs.status.bytes_received);
}

#[test]
fn what_compresses_travels_compressed() {
    let mut bytes = b"the same words over and over, ".repeat(70_000);
    bytes.truncate(32 * LEAF);
    let source = Site::new(1, bytes, Some(1));
    let target = Site::new(2, vec![0; 32 * LEAF], None);
    let (ours, theirs) = sync(&source, &target, &options());
    assert!(ours.unwrap().status.bytes_sent < 32 * LEAF_BYTES / 20);
    assert!(theirs.is_ok() && source.image.bytes() == target.image.bytes());
}

/// Leaves of disks that fail: of the target's, every other one differs.
const FAILING_LEAVES: usize = 40;

/// Lets a session fail of these faults; once the disk is mended, the same command goes on. Answers what the ends said
/// and what the target's state was.
fn fails(source_faults: Faults, target_faults: Faults) -> (RunError, RunError, State) {
    let source = Site::new(1, content(FAILING_LEAVES, |_| 1), Some(1));
    let target = Site::new(2, content(FAILING_LEAVES, |leaf| leaf as u64 % 2), None);
    source.image.set_faults(source_faults);
    target.image.set_faults(target_faults);
    let (ours, theirs) = sync(&source, &target, &options());
    let state = target.open().state();
    target.image.power_cut();
    source.image.power_cut();
    let (again, _) = sync(&source, &target, &options());
    assert!(again.is_ok() && source.image.bytes() == target.image.bytes());
    (ours.unwrap_err(), theirs.unwrap_err(), state)
}

/// Whether an end learnt that the other one failed. It may have been sending when that hung up.
fn was_told(error: &RunError) -> bool {
    matches!(
        error,
        RunError::Session(SessionError::Aborted(_)) | RunError::Link(_)
    )
}

#[test]
fn a_disk_that_cannot_be_read_ends_both_ends() {
    let unreadable = || Faults {
        unreadable: BTreeSet::from([20]),
        ..Faults::default()
    };
    let (ours, theirs, _) = fails(unreadable(), Faults::default());
    assert!(
        matches!(ours, RunError::Hash(_)) && was_told(&theirs),
        "{ours}, {theirs}"
    );
    let (ours, theirs, _) = fails(Faults::default(), unreadable());
    assert!(
        matches!(theirs, RunError::Hash(_)) && was_told(&ours),
        "{ours}, {theirs}"
    );
    let short = || Faults {
        ends_at: Some(10 * LEAF_BYTES),
        ..Faults::default()
    };
    let (ours, theirs, state) = fails(short(), Faults::default());
    assert!(
        matches!(ours, RunError::Hash(_)) && was_told(&theirs),
        "{ours}, {theirs}"
    );
    assert!(!matches!(state, State::Clean));
    let (ours, theirs, state) = fails(Faults::default(), short());
    assert!(
        matches!(theirs, RunError::Hash(_)) && was_told(&ours),
        "{ours}, {theirs}"
    );
    assert!(!matches!(state, State::Clean));
}

/// What was read to be hashed cannot be read to be sent, or to be hashed again at the end.
#[test]
fn a_disk_that_goes_bad_after_it_was_hashed_ends_both_ends() {
    let bad_later = |leaf| Faults {
        unreadable_after: BTreeMap::from([(leaf, 1)]),
        ..Faults::default()
    };
    let (ours, theirs, _) = fails(bad_later(20), Faults::default());
    assert!(
        matches!(&ours, RunError::Image { what: "read", offset, .. } if *offset == 20 * LEAF_BYTES),
        "{ours}"
    );
    assert!(was_told(&theirs), "{theirs}");
    // One that is equal, beside others that are written.
    let (ours, theirs, state) = fails(Faults::default(), bad_later(21));
    assert!(matches!(theirs, RunError::Hash(_)), "{theirs}");
    assert!(was_told(&ours) && matches!(state, State::Syncing(_)), "{ours}");
}

/// A host whose disk could not take what was flushed keeps it in memory, as if it were written.
#[test]
fn what_a_failed_flush_left_in_memory_is_not_taken_for_what_is_on_the_disk() {
    for (faults, is_lie) in [
        (
            Faults {
                flush_fails: true,
                ..Faults::default()
            },
            false,
        ),
        (
            Faults {
                flush_lies: true,
                ..Faults::default()
            },
            true,
        ),
    ] {
        let source = Site::new(1, content(FAILING_LEAVES, |_| 1), Some(1));
        let target = Site::new(2, content(FAILING_LEAVES, |leaf| leaf as u64 % 2), None);
        target.image.set_faults(faults);
        let error = sync(&source, &target, &options()).1.unwrap_err();
        assert_eq!(
            matches!(error, RunError::Session(SessionError::Unequal)),
            is_lie,
            "{error}"
        );
        assert!(matches!(target.open().state(), State::Syncing(_)));
        // The disk is mended; the host runs on.
        target.image.set_faults(Faults::default());
        let (ours, theirs) = sync(&source, &target, &options());
        assert!(ours.is_ok() && theirs.is_ok());
        target.image.power_cut();
        assert!(source.image.bytes() == target.image.bytes());
    }
}

#[test]
fn a_disk_that_cannot_be_written_ends_both_ends_and_the_replica_says_syncing() {
    let full = Faults {
        writes_left: Some(3),
        ..Faults::default()
    };
    let (ours, theirs, state) = fails(Faults::default(), full);
    let is_full = |error: &std::io::Error| error.raw_os_error() == Some(nix::libc::ENOSPC);
    assert!(
        matches!(&theirs, RunError::Image { what: "written", source, .. } if is_full(source)),
        "{theirs}"
    );
    assert!(was_told(&ours) && matches!(state, State::Syncing(_)), "{ours}");
    let unflushable = Faults {
        flush_fails: true,
        ..Faults::default()
    };
    let (_, theirs, state) = fails(Faults::default(), unflushable);
    assert!(
        matches!(
            theirs,
            RunError::Image {
                what: "made durable",
                ..
            }
        ),
        "{theirs}"
    );
    assert!(matches!(state, State::Syncing(_)));
}

#[test]
fn images_of_two_lengths_and_unrelated_ones_are_refused_untouched() {
    let source = Site::new(1, content(20, |_| 1), Some(1));
    for (bytes, generation) in [
        (vec![0; 19 * LEAF], None),
        (vec![0; 21 * LEAF], None),
        (content(20, |_| 2), Some(9)),
    ] {
        let target = Site::new(2, bytes.clone(), generation);
        let (ours, theirs) = sync(&source, &target, &options());
        for outcome in [ours, theirs] {
            let refused = outcome.unwrap_err();
            let is_refusal = matches!(
                refused,
                RunError::Session(
                    SessionError::Refused(_) | SessionError::Lengths { .. } | SessionError::Aborted(_)
                )
            );
            assert!(is_refusal, "{refused}");
        }
        assert_eq!(target.image.bytes(), bytes);
    }
}

/// Compares two images as they are, the second at the far end.
fn comparison(one: &Site, other: &Site) -> (Result<Comparison, RunError>, Outcome) {
    fn side<'a>(role: Role, site: &'a Site, ledger: &'a mut Replica<SimStore>) -> Side<'a> {
        Side {
            role,
            image: &site.image,
            ledger,
            summary: None,
            marks: LeafSet::none(site.image.length()),
        }
    }
    let (here, there) = Link::pair().unwrap();
    let (clock, mut ours, mut theirs) = (Ticking::default(), one.open(), other.open());
    std::thread::scope(|scope| {
        let far = scope.spawn(|| {
            let (wish, there) = hear(there)?;
            assert_eq!(wish, Wish::Compare);
            let side = side(Role::Target, other, &mut theirs);
            run(side, there, &options(), &clock, &mut |_| ())
        });
        let side = side(Role::Source, one, &mut ours);
        let near = compare(side, here, &options(), &clock, &mut |_| ());
        (near, far.join().unwrap())
    })
}

#[test]
fn any_two_images_are_compared_and_neither_is_changed() {
    let leaves = 100;
    let one = Site::new(1, content(leaves, |leaf| u64::from(leaf != 40)), Some(1));
    // Another content, zeros on one side, zeros on the other side; of another replica altogether.
    let kind = |leaf| match leaf {
        3 | 4 => 2,
        70 => 0,
        _ => 1,
    };
    let other = Site::new(2, content(leaves, kind), Some(9));
    let before = [&one, &other].map(|site| site.image.bytes());
    let (near, far) = comparison(&one, &other);
    let (near, far) = (near.unwrap(), far.unwrap());
    let found: Vec<u64> = near.differing.runs().flat_map(|run| run.indices()).collect();
    assert_eq!(found, [3, 4, 40, 70]);
    assert_eq!(near.lengths, [leaves as u64 * LEAF_BYTES; 2]);
    assert_eq!((far.finish.decision, far.finish.dry_run), (None, true));
    assert!(before == [&one, &other].map(|site| site.image.bytes()));
    assert_eq!(other.open().state(), State::Clean);
    // Hashes alone have travelled.
    assert!(far.status.bytes_sent + far.status.bytes_received < 12 * leaves as u64 + 4 * 600);
    let (same, _) = comparison(&one, &one);
    assert!(same.unwrap().differing.is_empty());
}

#[test]
fn images_of_two_lengths_differ_and_one_that_cannot_be_read_is_told() {
    let one = Site::new(1, content(20, |_| 1), Some(1));
    let longer = Site::new(2, content(21, |_| 1), Some(1));
    let (near, far) = comparison(&one, &longer);
    assert_eq!(near.unwrap().lengths, [20 * LEAF_BYTES, 21 * LEAF_BYTES]);
    assert!(far.is_ok());
    let bad = Site::new(2, content(20, |_| 1), Some(1));
    bad.image.set_faults(Faults {
        unreadable: BTreeSet::from([7]),
        ..Faults::default()
    });
    let (near, far) = comparison(&one, &bad);
    let (near, far) = (near.unwrap_err(), far.unwrap_err());
    assert!(
        matches!(far, RunError::Hash(_)) && was_told(&near),
        "{near}, {far}"
    );
    let (near, far) = comparison(&bad, &one);
    let (near, far) = (near.unwrap_err(), far.unwrap_err());
    assert!(
        matches!(near, RunError::Hash(_)) && was_told(&far),
        "{near}, {far}"
    );
}

/// A line between two ends that dies after so many bytes were sent by the first of them.
fn cut_after(bytes: u64) -> (Link, Link) {
    let (here, relay_in) = UnixStream::pair().unwrap();
    let (relay_out, there) = UnixStream::pair().unwrap();
    let (mut back_in, mut back_out) = (relay_out.try_clone().unwrap(), relay_in.try_clone().unwrap());
    let end = (relay_in.try_clone().unwrap(), relay_out.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut back_in, &mut back_out);
        let _ = back_out.shutdown(std::net::Shutdown::Both);
    });
    std::thread::spawn(move || {
        let (mut from, mut to) = (relay_in.take(bytes), relay_out);
        let _ = std::io::copy(&mut from, &mut to).and_then(|_| to.flush());
        for end in [end.0, end.1] {
            let _ = end.shutdown(std::net::Shutdown::Both);
        }
    });
    (Link::local(here).unwrap(), Link::local(there).unwrap())
}

#[test]
fn a_line_that_dies_at_any_byte_ends_both_ends_and_the_next_session_goes_on() {
    let source = Site::new(1, content(30, |_| 1), Some(1));
    let total = 30 * LEAF_BYTES;
    // Around every frame at the beginning, then in strides; all of what a target says is short.
    let of_source = (0..200).step_by(20).chain((200..total).step_by(200_000));
    let of_target = (0..1500).step_by(50);
    let cuts = of_source
        .map(|bytes| (true, bytes))
        .chain(of_target.map(|bytes| (false, bytes)));
    for (source_is_first, bytes) in cuts {
        let target = Site::new(2, content(30, |leaf| leaf as u64 % 2), None);
        let (first, second) = cut_after(bytes);
        let (here, there) = if source_is_first {
            (first, second)
        } else {
            (second, first)
        };
        let (ours, theirs) = both(
            (&source.image, &mut source.open(), here),
            (&target.image, &mut target.open(), there),
            &options(),
        );
        let broken = |outcome: &Outcome| matches!(outcome, Err(RunError::Link(_)));
        let place = format!("after {bytes} bytes, of the source: {source_is_first}");
        assert!(theirs.is_ok() || broken(&theirs), "{place}: {theirs:?}");
        assert!(ours.is_ok() || broken(&ours), "{place}: {ours:?}");
        let (again, _) = sync(&source, &target, &options());
        assert!(
            again.is_ok() && source.image.bytes() == target.image.bytes(),
            "{place}"
        );
    }
}

/// Every update of the target's metadata fails in turn, for good: the session ends, and what was written down is enough
/// to go on.
#[test]
fn metadata_that_cannot_be_written_ends_the_session_wherever_that_happens() {
    let source = Site::new(1, content(30, |_| 1), Some(1));
    let mut failures = 0;
    for allowed in 4.. {
        let mut target = Site::new(2, content(30, |leaf| leaf as u64 % 2), None);
        let old = target.image.bytes();
        target.store.left = Some(Arc::new(Mutex::new(allowed)));
        let (ours, theirs) = sync(&source, &target, &options());
        if theirs.is_ok() {
            break;
        }
        failures += 1;
        let error = theirs.unwrap_err();
        assert!(matches!(error, RunError::Replica(_)), "after {allowed}: {error}");
        assert!(was_told(&ours.unwrap_err()), "after {allowed}");
        target.store.left = None;
        target.image.power_cut();
        let state = target.open().state();
        assert!(
            matches!(state, State::Syncing(_))
                || target.image.bytes() == old
                || target.image.bytes() == source.image.bytes(),
            "after {allowed}: {state:?}"
        );
        let (again, _) = sync(&source, &target, &options());
        assert!(
            again.is_ok() && source.image.bytes() == target.image.bytes(),
            "after {allowed}"
        );
    }
    assert!(failures >= 6, "{failures} places are fewer than a sync has");
}

/// The disk gets full at every write in turn, and a leaf of either end cannot be read, each in turn.
#[test]
fn a_disk_that_fails_anywhere_ends_the_session_and_the_next_goes_on() {
    for left in 0..FAILING_LEAVES as u64 / 2 {
        let full = Faults {
            writes_left: Some(left),
            ..Faults::default()
        };
        let (_, theirs, state) = fails(Faults::default(), full);
        assert!(
            matches!(theirs, RunError::Image { what: "written", .. }),
            "{left}: {theirs}"
        );
        assert!(matches!(state, State::Syncing(_)), "{left}: {state:?}");
    }
    for leaf in 0..FAILING_LEAVES as u64 {
        let unreadable = || Faults {
            unreadable: BTreeSet::from([leaf]),
            ..Faults::default()
        };
        for (at_source, (ours, theirs, state)) in [
            (true, fails(unreadable(), Faults::default())),
            (false, fails(Faults::default(), unreadable())),
        ] {
            let (own, told) = if at_source { (ours, theirs) } else { (theirs, ours) };
            assert!(
                matches!(own, RunError::Hash(_)) && was_told(&told),
                "{leaf}: {own}, {told}"
            );
            assert!(!matches!(state, State::Clean), "{leaf}: {state:?}");
        }
    }
}

/// What the end that plays `role` makes of a stranger who says `bytes` and no more.
fn told(role: Role, bytes: &[u8]) -> RunError {
    let site = Site::new(2, vec![0; 20 * LEAF], (role == Role::Source).then_some(1));
    let (mut stranger, here) = UnixStream::pair().unwrap();
    stranger.write_all(bytes).unwrap();
    stranger.shutdown(std::net::Shutdown::Write).unwrap();
    let place: Place<'_> = (&site.image, &mut site.open(), Link::local(here).unwrap());
    end(role, place, &options(), &Ticking::default(), &mut |_| ()).unwrap_err()
}

#[test]
fn what_is_no_frame_is_refused() {
    let too_long = (u32::try_from(FRAME_BYTES_MAX).unwrap() + 1)
        .to_le_bytes()
        .to_vec();
    let no_frame = [5_u32.to_le_bytes().to_vec(), vec![99; 5]].concat();
    let sign_of_life_before = [0_u32.to_le_bytes().to_vec(), no_frame.clone()].concat();
    for bytes in [too_long, no_frame, sign_of_life_before] {
        for role in [Role::Source, Role::Target] {
            let refused = told(role, &bytes);
            assert!(
                matches!(refused, RunError::Session(SessionError::Breach(_))),
                "{refused}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Bytes of a peer that are anything, with lengths before them or not: no frame of them, or one out of place.
    #[test]
    fn bytes_of_a_peer_that_are_anything_end_the_session(
        pieces in proptest::collection::vec((any::<bool>(), 0..20_u8, any::<Vec<u8>>()), 1..4),
        is_source in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        for (has_length, kind, piece) in pieces {
            if has_length {
                bytes.extend((u32::try_from(piece.len()).unwrap() + 1).to_le_bytes());
                bytes.push(kind);
            }
            bytes.extend(piece);
        }
        let refused = told(if is_source { Role::Source } else { Role::Target }, &bytes);
        prop_assert!(matches!(refused, RunError::Session(_) | RunError::Link(_)), "{}", refused);
    }
}

/// How far an end is, it says of what has been sent or has arrived: never of what is still under way.
#[test]
fn what_is_still_to_arrive_is_not_done() {
    let leaves = 700;
    let source = Site::new(1, content(leaves, |_| 1), Some(1));
    let target = Site::new(2, content(leaves, |leaf| leaf as u64 % 2), None);
    let to_send = leaves as u64 / 2 * LEAF_BYTES;
    let (here, there) = Link::pair().unwrap();
    let watched = |role, site: &Site, link| {
        let mut seen = Vec::new();
        let place: Place<'_> = (&site.image, &mut site.open(), link);
        end(role, place, &options(), &Ticking::default(), &mut |status| {
            seen.push(*status);
        })
        .unwrap();
        seen
    };
    let ends = std::thread::scope(|scope| {
        let target = scope.spawn(|| watched(Role::Target, &target, there));
        [watched(Role::Source, &source, here), target.join().unwrap()]
    });
    for seen in ends {
        let total = seen.last().unwrap().bytes();
        for status in &seen {
            let left = to_send - status.data_bytes.0;
            assert!(status.bytes_done() + left <= total, "{status:?}");
        }
        assert_eq!(seen.last().unwrap().bytes_done(), total);
        // Not all at once at the end.
        assert!(
            seen.iter()
                .any(|status| (total / 4..total * 3 / 4).contains(&status.bytes_done()))
        );
    }
}

#[test]
fn the_rate_is_limited() {
    #[derive(Clone)]
    struct Real(std::time::Instant);
    impl Clock for Real {
        #[expect(clippy::disallowed_methods, reason = "what is tested is how long it takes")]
        fn now(&self) -> Duration {
            self.0.elapsed()
        }
    }
    #[expect(clippy::disallowed_methods, reason = "what is tested is how long it takes")]
    let clock = Real(std::time::Instant::now());
    let leaves = 192;
    let source = Site::new(1, content(leaves, |_| 1), Some(1));
    let target = Site::new(2, vec![0; leaves * LEAF], None);
    let (here, there) = Link::pair().unwrap();
    let rate = 24_000_000;
    let limited = Options {
        bytes_per_second: Some(rate),
        ..options()
    };
    let begun = clock.now();
    let (ours, theirs) = both_on(
        (&source.image, &mut source.open(), here),
        (&target.image, &mut target.open(), there),
        &limited,
        &clock,
    );
    assert!(ours.is_ok() && theirs.is_ok());
    // But for the burst that is allowed, and for the last piece, which nothing waits behind.
    let bytes = (leaves as u64 - 16) * LEAF_BYTES;
    let least = Duration::from_millis(bytes * 1000 / rate - 50);
    let took = clock.now().checked_sub(begun).unwrap();
    assert!(took >= least, "{took:?} is less than {least:?}");
}
