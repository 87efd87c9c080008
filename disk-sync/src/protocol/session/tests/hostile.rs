//! A peer that has proven who it is and says what it wants: it is refused by a typed reason, costs no more memory than an
//! honest one, and what it makes of a replica never looks usable.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::decision::Summary;
use crate::limits::{HOLE_SPAN_REGIONS_MAX, LEAVES_ASKED_MAX, REGIONS_UNCOMPARED_MAX};
use crate::protocol::frame::tests::frames;
use crate::replica::{Lineage, SyncKey};
use crate::tree::{Found, RegionHash};
use crate::units::{MEBIBYTE, REGION_BYTES};

/// Runs of things of which there are `count`, and now and then one beyond.
fn runs_within(count: u64) -> impl Strategy<Value = Vec<Run>> {
    let run = (0..count, 1..=4_u64).prop_map(|(first, count)| Run::new(first, count));
    proptest::collection::vec(run, 0..4)
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::ZERO), (1..4_u8).prop_map(|byte| Value([byte; 32]))]
}

/// An introduction that may lead anywhere in the table.
fn hellos_of(leaves: u64) -> impl Strategy<Value = Frame> {
    let id = || 1..4_u8;
    let lineage = proptest::option::of((id(), proptest::option::of(id()), id()));
    (any::<[bool; 4]>(), id(), 0..4_u8, lineage).prop_map(move |(flags, replica, state, lineage)| {
        let summary = Summary {
            vm: "vm".parse().unwrap(),
            replica: ReplicaId([replica; 16]),
            state: match state {
                0 | 1 => State::Clean,
                2 => State::Stale,
                _ => State::Syncing(SyncKey {
                    source: ReplicaId([1; 16]),
                    generation: GenerationId([2; 16]),
                }),
            },
            lineage: lineage.map(|(current, base, before)| Lineage {
                current: GenerationId([current; 16]),
                base: base.map(|base| GenerationId([base; 16])),
                history: vec![GenerationId([before; 16])],
            }),
            has_marks: flags[0],
            was_changed_behind: flags[1],
        };
        Frame::Hello(Box::new(Hello {
            version: VERSION,
            role: if flags[2] { Role::Source } else { Role::Target },
            consent: Consent {
                discard: flags[3],
                compare_all: false,
            },
            dry_run: false,
            length: leaves * LEAF_BYTES,
            summary: Some(summary),
        }))
    })
}

/// Frames whose numbers are, or might be, those of an image of so many leaves.
fn frames_within(leaves: u64) -> impl Strategy<Value = Frame> {
    let regions = leaves.div_ceil(16);
    let root = || {
        prop_oneof![
            Just(ContentRoot([0; 32])),
            any::<[u8; 32]>().prop_map(ContentRoot)
        ]
    };
    prop_oneof![
        hellos_of(leaves),
        (runs_within(leaves), any::<bool>()).prop_map(|(runs, last)| Frame::Marks { runs, last }),
        (runs_within(leaves), any::<bool>()).prop_map(|(runs, last)| Frame::Work { runs, last }),
        (0..regions, proptest::collection::vec(value(), 1..4))
            .prop_map(|(first, values)| Frame::Regions { first, values }),
        (0..regions, 1..4_u64).prop_map(|(first, count)| Frame::Zeros(Run::new(first, count))),
        proptest::collection::vec(0..regions, 0..4).prop_map(Frame::Ask),
        (0..regions, proptest::collection::vec(value(), 16))
            .prop_map(|(region, values)| Frame::Leaves { region, values }),
        (0..leaves, 1..=4_u64, 0..9_u8).prop_map(|(first, count, byte)| Frame::Data {
            leaves: Run::new(first, count),
            compressed: false,
            bytes: vec![byte; in_memory(count) * LEAF],
        }),
        (0..leaves, 1..=4_u64).prop_map(|(first, count)| Frame::Clear(Run::new(first, count))),
        (runs_within(regions), any::<bool>()).prop_map(|(regions, last)| Frame::Settled { regions, last }),
        (0..=regions + 1).prop_map(Frame::Compared),
        root().prop_map(Frame::End),
        root().prop_map(Frame::Equal),
    ]
}

/// So many samples, the same each time.
fn samples<T>(count: usize, strategy: &impl Strategy<Value = T>) -> impl Iterator<Item = T> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(move |_| strategy.new_tree(&mut runner).unwrap().current())
}

/// Whether it says what the source holds, or where the target holds the same.
fn is_of_content(frame: &Frame) -> bool {
    matches!(
        frame,
        Frame::Data { .. } | Frame::Clear(_) | Frame::Settled { .. }
    )
}

/// Some frames of either end are replaced by others, most of which could have been said: the session ends by a typed
/// error, comes to its end, or stands still. What is clean afterwards is what it was or what the source is, and an honest
/// peer makes the rest equal.
#[test]
fn some_frames_of_a_peer_are_others() {
    const LEAVES: u64 = 36;
    let strange = prop_oneof![9 => frames_within(LEAVES), 1 => frames()];
    let replaced = proptest::collection::btree_map(0..30_usize, strange, 1..3);
    let (mut refused, mut passed) = (0, 0);
    for (replaced, makes_partial) in samples(192, &(replaced, any::<bool>())) {
        let (mut source, target) = if makes_partial {
            diverged(36, &[(3, 7), (20, 8), (21, 0), (22, 3), (35, 9)])
        } else {
            let source = Site::new(1, content(36, |leaf| u64::from(leaf % 3 > 0)), Some(1));
            (
                source,
                Site::new(2, content(36, |leaf| u64::from(leaf % 5 > 0)), None),
            )
        };
        let old = target.image.bytes();
        let mut said = 0;
        let trace = session_between(&source, &target, false, ALL, [true; 2], &mut |frame| {
            said += 1;
            replaced.get(&(said - 1)).cloned().unwrap_or(frame)
        });
        refused += usize::from(trace.error.is_some());
        passed += usize::from(trace.error.is_none());
        match target.open().state() {
            State::Clean => assert!(
                target.image.bytes() == old || is_equal(&source, &target),
                "clean, but neither old nor new: {replaced:?}"
            ),
            State::Stale | State::Syncing(_) => {
                // Who lies about what the source holds, and then leaves, is found out by a full comparison.
                source.consent.compare_all = replaced.values().any(is_of_content);
                let again = session(&source, &target, false, ALL);
                assert!(again.finishes.is_some(), "{:?} after {replaced:?}", again.error);
                assert!(is_equal(&source, &target), "{replaced:?}");
            }
        }
    }
    assert!(refused > 20 && passed > 20, "{refused} refused, {passed} not");
}

/// An image so long that no end keeps the values of its leaves.
const LONG_BYTES: u64 = 65 * 1024 * MEBIBYTE;

fn opening(role: Role, bytes: u64) -> Opening {
    let length = ImageLength::new(bytes).unwrap();
    let id = match role {
        Role::Source => 1,
        Role::Target => 2,
    };
    Opening {
        role,
        summary: Some(Summary {
            vm: "vm".parse().unwrap(),
            replica: ReplicaId([id; 16]),
            state: match role {
                Role::Source => State::Clean,
                Role::Target => State::Stale,
            },
            lineage: (role == Role::Source).then(|| Lineage::new(GenerationId([1; 16]))),
            has_marks: false,
            was_changed_behind: false,
        }),
        length,
        marks: LeafSet::none(length),
        consent: Consent::default(),
        dry_run: false,
        checkpoint_bytes: 256 * MEBIBYTE,
    }
}

/// A source and a target that have been introduced to the other and compare everything.
fn greeted(bytes: u64) -> (Source, Target) {
    let (ours, theirs) = (opening(Role::Source, bytes), opening(Role::Target, bytes));
    let (mut source, mut target) = (Source::new(ours.clone()), Target::new(theirs.clone()));
    source.step(Event::Peer(theirs.hello()), &mut Vec::new()).unwrap();
    target.step(Event::Peer(ours.hello()), &mut Vec::new()).unwrap();
    (source, target)
}

/// Regions that hold something.
fn found(regions: &Run) -> Event {
    let leaves = if regions.end() * REGION_BYTES > LONG_BYTES / 2 {
        0
    } else {
        16
    };
    let region = RegionHash {
        content: Value([7; 32]),
        plain: None,
        leaves: vec![Value([7; 32]); leaves],
    };
    Event::Hashed(Found::Hashed {
        first: regions.first,
        regions: vec![region; in_memory(regions.count)],
    })
}

/// What is said first, and then what is refused, and why.
fn refusal_of(step: &mut dyn FnMut(Event) -> Step, frames: Vec<Frame>) -> &'static str {
    let count = frames.len();
    for (index, frame) in (1..).zip(frames) {
        match step(Event::Peer(frame)) {
            Ok(()) => assert!(index < count, "all was taken"),
            Err(SessionError::Breach(why)) => {
                assert_eq!(index, count, "{why}");
                return why;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("nothing was said")
}

#[test]
fn a_source_takes_each_region_once_and_no_more_than_may_wait() {
    let values = |byte| vec![Value([byte; 32]); 2];
    let told = |first, byte| Frame::Regions {
        first,
        values: values(byte),
    };
    let cases: [(bool, Vec<Frame>, &str); 6] = [
        (true, vec![told(0, 7), told(0, 7)], "a region told twice"),
        (true, vec![told(0, 8), told(1, 8)], "a region told twice"),
        (false, vec![told(0, 7), told(1, 7)], "a region told twice"),
        (
            true,
            vec![Frame::Zeros(Run::new(0, 3)), Frame::Zeros(Run::new(2, 1))],
            "a region told twice",
        ),
        (
            true,
            vec![Frame::Zeros(Run::new(2, 3))],
            "a region that is not compared",
        ),
        (
            true,
            vec![Frame::Zeros(Run::new(0, HOLE_SPAN_REGIONS_MAX + 1))],
            "more zeros than are told at once",
        ),
    ];
    for (is_hashed, frames, expected) in cases {
        let (mut source, _) = greeted(4 * MEBIBYTE);
        if is_hashed {
            source.step(found(&Run::new(0, 4)), &mut Vec::new()).unwrap();
        }
        let why = refusal_of(&mut |event| source.step(event, &mut Vec::new()), frames);
        assert_eq!(why, expected);
    }
    // All that may be told ahead, and one more.
    let most = REGIONS_UNCOMPARED_MAX;
    let (mut source, _) = greeted((most + 1) * REGION_BYTES);
    let mut frames: Vec<Frame> = (0..most / HOLE_SPAN_REGIONS_MAX)
        .map(|span| Frame::Zeros(Run::new(span * HOLE_SPAN_REGIONS_MAX, HOLE_SPAN_REGIONS_MAX)))
        .collect();
    frames.push(Frame::Zeros(Run::new(most, 1)));
    let why = refusal_of(&mut |event| source.step(event, &mut Vec::new()), frames);
    assert_eq!(why, "more regions than may be told ahead");
}

#[test]
fn a_list_that_never_ends_is_refused() {
    let settled = |first: u64, last| Frame::Settled {
        regions: vec![Run::new(first, 1)],
        last,
    };
    let nothing = Frame::Settled {
        regions: Vec::new(),
        last: false,
    };
    let no_order = "a list that is in no order";
    let cases = [
        (
            vec![settled(0, false), settled(1, false), settled(1, false)],
            no_order,
        ),
        (vec![settled(1, false), settled(0, true)], no_order),
        // The next list may say so again.
        (
            vec![settled(1, true), settled(1, true), settled(4, true)],
            "a run outside the image",
        ),
        (
            vec![settled(0, false), nothing],
            "a piece of a list that holds nothing",
        ),
        (vec![settled(3, true)], "a region settled that was not told"),
    ];
    for (frames, expected) in cases {
        let (_, mut target) = greeted(4 * MEBIBYTE);
        target.step(found(&Run::new(0, 3)), &mut Vec::new()).unwrap();
        let why = refusal_of(&mut |event| target.step(event, &mut Vec::new()), frames);
        assert_eq!(why, expected);
    }
    let listed = |runs: &[Run]| Frame::Marks {
        runs: runs.to_vec(),
        last: false,
    };
    let mut theirs = opening(Role::Target, 4 * MEBIBYTE);
    let summary = theirs.summary.as_mut().unwrap();
    summary.lineage = Some(Lineage::new(GenerationId([1; 16])));
    summary.state = State::Clean;
    summary.has_marks = true;
    for again in [Run::new(4, 1), Run::new(0, 1)] {
        let mut source = Source::new(opening(Role::Source, 4 * MEBIBYTE));
        let said = vec![theirs.hello(), listed(&[Run::new(2, 3)]), listed(&[again])];
        let why = refusal_of(&mut |event| source.step(event, &mut Vec::new()), said);
        assert_eq!(why, no_order);
    }
}

#[test]
fn a_target_hashes_for_no_more_questions_than_may_be_open() {
    let (_, mut target) = greeted(LONG_BYTES);
    let regions = LEAVES_ASKED_MAX as u64 + 1;
    target
        .step(Event::Hashed(Found::Zeros(Run::new(0, regions))), &mut Vec::new())
        .unwrap();
    let mut effects = Vec::new();
    let most: Vec<u64> = (1..regions).collect();
    target.step(Event::Peer(Frame::Ask(most)), &mut effects).unwrap();
    assert_eq!(effects.len(), LEAVES_ASKED_MAX);
    let answer = Event::OwnLeaves {
        region: 1,
        values: vec![Value::ZERO; 16],
    };
    target.step(answer, &mut Vec::new()).unwrap();
    let more = vec![Frame::Ask(vec![0]), Frame::Ask(vec![0])];
    let why = refusal_of(&mut |event| target.step(event, &mut Vec::new()), more);
    assert_eq!(why, "more questions than may wait for an answer");
}

/// Of an image whose leaves it does not keep, a source hashes few regions at once, however many are told at once.
#[test]
fn a_hole_that_is_told_at_once_is_hashed_again_piece_by_piece() {
    let regions = HOLE_SPAN_REGIONS_MAX;
    let (mut source, _) = greeted(LONG_BYTES);
    source
        .step(found(&Run::new(0, regions)), &mut Vec::new())
        .unwrap();
    let (mut asked, mut sent, mut waiting) = (0, 0, VecDeque::new());
    let mut event = Some(Event::Peer(Frame::Zeros(Run::new(0, regions))));
    while let Some(next) = event.take() {
        let mut effects = Vec::new();
        source.step(next, &mut effects).unwrap();
        for effect in effects {
            match effect {
                Effect::OwnLeaves(region) => waiting.push_back(region),
                Effect::Transfer(leaves) => sent += leaves.count,
                _ => {}
            }
        }
        assert!(waiting.len() <= LEAVES_ASKED_MAX, "{}", waiting.len());
        event = waiting.pop_front().map(|region| {
            asked += 1;
            let values = vec![Value([7; 32]); 16];
            Event::OwnLeaves { region, values }
        });
    }
    assert_eq!((asked, sent), (regions, regions * 16));
}

/// Whatever a target says, in whatever order: a source keeps one thing of each region.
#[test]
fn what_a_source_keeps_is_bounded_by_the_image() {
    const REGIONS: u64 = 24;
    let said = proptest::collection::vec((frames_within(REGIONS * 16), 0..REGIONS), 1..80);
    let mut most = 0;
    for said in samples(300, &said) {
        let (mut source, _) = greeted(REGIONS * REGION_BYTES);
        let mut is_hashed = [false; in_memory(REGIONS)];
        for (frame, region) in said {
            let mut effects = Vec::new();
            if !std::mem::replace(&mut is_hashed[in_memory(region)], true) {
                source.step(found(&Run::new(region, 1)), &mut effects).unwrap();
            }
            // One that goes on after a refusal is worse than any.
            let _ = source.step(Event::Peer(frame), &mut effects);
            assert!(source.held() <= in_memory(REGIONS), "{}", source.held());
            most = most.max(source.held());
        }
    }
    assert!(most > 10, "{most} are hardly anything");
}

#[test]
fn a_peer_that_says_what_has_no_place_is_refused() {
    let target = Site::new(2, vec![0; 40 * LEAF], None);
    let source = Site::new(1, content(40, |_| 1), Some(1));
    let frames = [
        Frame::Equal(ContentRoot([0; 32])),
        Frame::Marks {
            runs: Vec::new(),
            last: true,
        },
        Frame::Ask(vec![0]),
        Frame::Ask(vec![u64::MAX]),
        Frame::Clear(Run::new(0, 1)),
        Frame::Clear(Run::new(u64::MAX, u64::MAX)),
        Frame::Settled {
            regions: vec![Run::new(9, 9)],
            last: true,
        },
        Frame::Data {
            leaves: Run::new(2, 1),
            compressed: false,
            bytes: Vec::new(),
        },
        Frame::Zeros(Run::new(0, 1)),
    ];
    let hello = source.opening(Role::Source, &source.open(), false).hello();
    for frame in frames {
        // Before the introduction, and after it while nothing is hashed yet.
        for greeted in [false, true] {
            let mut end = End::new(Role::Target, &target, false);
            if greeted {
                end.step(Event::Peer(hello.clone())).unwrap();
            }
            let refused = end.step(Event::Peer(frame.clone()));
            let kept_quiet = matches!(frame, Frame::Ask(_)) && refused.is_ok();
            assert!(refused.is_err() && !kept_quiet, "{frame:?}");
        }
    }
    let hello = target.opening(Role::Target, &target.open(), false).hello();
    let frames = [
        Frame::Regions {
            first: 2,
            values: vec![Value::ZERO; 2],
        },
        Frame::Zeros(Run::new(1, u64::MAX)),
        Frame::Leaves {
            region: 0,
            values: vec![Value::ZERO; 16],
        },
        Frame::Equal(ContentRoot([0; 32])),
        hello.clone(),
    ];
    for frame in frames {
        let mut end = End::new(Role::Source, &source, false);
        end.step(Event::Peer(hello.clone())).unwrap();
        assert!(end.step(Event::Peer(frame.clone())).is_err(), "{frame:?}");
    }
}
