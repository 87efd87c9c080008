//! The tree against plain BLAKE3, over shapes, holes, threads and changes.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::image::memory::{Faults, MemoryImage};
use crate::units::{LEAF_BYTES, MEBIBYTE, REGION_BYTES};

const LEAF: usize = in_memory(LEAF_BYTES);

fn threads(count: usize) -> Threads {
    Threads::new(NonZeroUsize::new(count).unwrap())
}

fn tree_of(image: &MemoryImage, count: usize, wanted: Wanted) -> Tree {
    Tree::build(image, threads(count), wanted, &|_| true).unwrap()
}

/// Bytes that differ everywhere, of leaves that are zeros where `data` says no.
fn content(length: usize, data: impl Fn(usize) -> bool) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (index, leaf) in bytes.chunks_mut(LEAF).enumerate() {
        if data(index) {
            let mut reader = blake3::Hasher::new().update(&index.to_le_bytes()).finalize_xof();
            reader.fill(leaf);
        }
    }
    bytes
}

#[test]
fn the_plain_root_is_blake3_of_the_file() {
    let sizes = [
        0,
        1,
        512,
        1023,
        1024,
        1025,
        LEAF - 1,
        LEAF,
        LEAF + 1,
        2 * LEAF,
        3 * LEAF + 7,
        16 * LEAF - 1,
        16 * LEAF,
        16 * LEAF + 1,
        17 * LEAF,
        33 * LEAF + 1024,
        5 * 16 * LEAF + 3 * LEAF,
        9 * 16 * LEAF + 1,
    ];
    for size in sizes {
        for pattern in [|_| true, |_| false, |leaf| leaf % 5 == 1, |leaf| leaf > 16] as [fn(usize) -> bool; 4]
        {
            let bytes = content(size, pattern);
            let expected = blake3::hash(&bytes);
            let tree = tree_of(&MemoryImage::of(bytes), 2, Wanted::Both);
            assert_eq!(tree.plain_root(), Some(expected), "{size} bytes");
        }
    }
}

#[test]
fn the_content_root_needs_no_zeros_and_does_not_depend_on_who_looked() {
    let bytes = content(70 * LEAF + 5, |leaf| leaf % 7 == 3);
    let image = MemoryImage::of(bytes.clone());
    let root = tree_of(&image, 1, Wanted::Content).content_root();
    let read = image.bytes_read();
    assert!(
        read <= 11 * LEAF_BYTES,
        "{read} bytes were read of 10 leaves with data"
    );
    assert_eq!(tree_of(&image, 4, Wanted::Both).content_root(), root);
    // Every region read whole: what is known of holes may not change what is found.
    let mut whole = Tree::of_zeros(image.length(), Wanted::Content);
    let mut buffer = Vec::new();
    for region in 0..image.length().regions() {
        let hash = hash_region(&image, region, Wanted::Content, &mut buffer).unwrap();
        whole.set(&Found::Hashed {
            first: region,
            regions: vec![hash],
        });
    }
    assert_eq!(whole.content_root(), root);
    // The same bytes with zeros at the end are another image.
    let longer = MemoryImage::of([bytes, vec![0]].concat());
    assert_ne!(tree_of(&longer, 1, Wanted::Content).content_root(), root);
}

#[test]
fn leaves_that_trade_places_are_seen() {
    let bytes = content(20 * LEAF, |_| true);
    let mut swapped = bytes.clone();
    let (first, second) = swapped.split_at_mut(LEAF);
    first.swap_with_slice(&mut second[..LEAF]);
    let root = |bytes| tree_of(&MemoryImage::of(bytes), 1, Wanted::Content).content_root();
    assert_ne!(root(bytes), root(swapped));
}

#[test]
fn a_second_digest_reads_only_what_changed() {
    let image = MemoryImage::of(content(64 * LEAF, |_| true));
    let tree = tree_of(&image, 2, Wanted::Both);
    image.write_at(20 * LEAF_BYTES + 9, b"changed").unwrap();
    let mut changed = LeafSet::none(image.length());
    changed.insert(
        &image
            .length()
            .leaves_touched(&(20 * LEAF_BYTES + 9..20 * LEAF_BYTES + 16)),
    );
    let before = image.bytes_read();
    let tree = tree.refresh(&image, &changed, threads(2), &|_| true).unwrap();
    assert_eq!(image.bytes_read() - before, REGION_BYTES);
    assert_eq!(tree.plain_root(), Some(blake3::hash(&image.bytes())));
    assert_eq!(
        tree.content_root(),
        tree_of(&image, 1, Wanted::Content).content_root()
    );
}

#[test]
fn progress_adds_up_to_the_image() {
    let image = MemoryImage::of(content(50 * LEAF + 100, |leaf| leaf > 40));
    for wanted in [Wanted::Content, Wanted::Both] {
        let done = Mutex::new(0);
        Tree::build(&image, threads(3), wanted, &|bytes| {
            *done.lock().unwrap() += bytes;
            true
        })
        .unwrap();
        assert_eq!(*done.lock().unwrap(), image.length().bytes());
    }
}

#[test]
fn what_cannot_be_read_is_told_with_its_place() {
    let image = MemoryImage::of(content(64 * LEAF, |_| true));
    image.set_faults(Faults {
        unreadable: BTreeSet::from([37]),
        ..Faults::default()
    });
    for count in [1, 3] {
        let error = Tree::build(&image, threads(count), Wanted::Content, &|_| true).unwrap_err();
        assert_eq!(
            (error.offset, error.source.raw_os_error()),
            (2 * MEBIBYTE, Some(nix::libc::EIO))
        );
    }
    image.set_faults(Faults {
        ends_at: Some(63 * LEAF_BYTES),
        ..Faults::default()
    });
    let error = Tree::build(&image, threads(2), Wanted::Content, &|_| true).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_sink_that_has_seen_enough_ends_it() {
    let image = MemoryImage::of(content(200 * LEAF, |_| true));
    let seen = Mutex::new(0);
    hash_regions(&image, None, threads(2), Wanted::Content, &|_| {
        *seen.lock().unwrap() += 1;
        false
    })
    .unwrap();
    assert!((1..=2).contains(&*seen.lock().unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_shape_any_holes(length in 0_usize..5 * 16 * LEAF, holes in any::<u64>(), work in any::<u64>(), count in 1_usize..4) {
        let image = MemoryImage::of(content(length, |leaf| holes >> (leaf % 61) & 1 == 1));
        let tree = tree_of(&image, count, Wanted::Both);
        prop_assert_eq!(tree.plain_root(), Some(blake3::hash(&image.bytes())));
        let content = tree_of(&image, 1, Wanted::Content);
        prop_assert_eq!(tree.content_root(), content.content_root());
        // Work on a part finds the same as work on all, and nothing else.
        let mut part = LeafSet::none(image.length());
        (0..64).filter(|bit| work >> bit & 1 == 1).for_each(|leaf| part.insert(&Run::new(leaf, 1)));
        let found = Mutex::new(Tree::of_zeros(image.length(), Wanted::Content));
        hash_regions(&image, Some(&part), threads(count), Wanted::Content, &|span| {
            assert!(span.regions().indices().all(|region| part.touches(region)));
            found.lock().unwrap().set(&span);
            true
        }).unwrap();
        let found = found.into_inner().unwrap();
        for region in 0..image.length().regions() {
            let expected = if part.touches(region) { content.region(region) } else { Value::ZERO };
            prop_assert_eq!(found.region(region), expected);
        }
    }
}
