//! Replicas as files: what a second digest reads, and that it is never wrong.

use std::fs::OpenOptions;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;

use super::*;
use crate::decision::{Consent, Outcome, Relation, decide};
use crate::online::Position;
use crate::tree::{Threads, Tree, Wanted};
use crate::units::{MEBIBYTE, in_memory};

const REGIONS: u64 = 12;
const BYTES: u64 = REGIONS * MEBIBYTE - 1024;

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn paths(&self, name: &str) -> Paths {
        Paths::new(self.folder.path().join(name), None)
    }

    /// A replica of zeros.
    fn bare(&self, name: &str, content: Option<u8>) -> Paths {
        let paths = self.paths(name);
        let new = NewDisk {
            vm: "vm".parse().unwrap(),
            replica: ReplicaId([name.as_bytes()[0]; 16]),
            content: content.map(|byte| GenerationId([byte; 16])),
            size: Some(BYTES),
        };
        create(&paths, new).unwrap();
        paths
    }

    /// A replica whose image holds something everywhere but in its last third.
    fn made(&self, name: &str, content: Option<u8>) -> Paths {
        let paths = self.bare(name, content);
        let file = OpenOptions::new().write(true).open(&paths.image).unwrap();
        for region in 0..REGIONS * 2 / 3 {
            let bytes = vec![u8::try_from(region).unwrap() + 1; in_memory(MEBIBYTE)];
            file.write_all_at(&bytes, region * MEBIBYTE).unwrap();
        }
        self.settle(&paths);
        paths
    }

    /// Waits until the host's clock for files has gone on since the image was written to.
    fn settle(&self, paths: &Paths) {
        let modified = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        let probe = self.folder.path().join("probe");
        loop {
            fs::write(&probe, "now").unwrap();
            if modified(&probe) > modified(&paths.image) {
                return;
            }
        }
    }
}

fn threads() -> Threads {
    Threads::new(NonZeroUsize::MIN)
}

fn build(paths: &Paths, wanted: Wanted) -> Tree {
    let image = FileImage::open(&paths.image, Access::Read).unwrap();
    Tree::build(&image, threads(), wanted, &|_| ()).unwrap()
}

/// Digests, checks the roots against a digest of everything, and answers how many bytes were hashed.
fn hashed(paths: &Paths, wanted: Wanted) -> u64 {
    hashed_by(paths, wanted, Reading::Changed)
}

fn hashed_by(paths: &Paths, wanted: Wanted, reading: Reading) -> u64 {
    let found = digest(paths, wanted, reading, threads(), &mut |_| (), &|_| ()).unwrap();
    let fresh = build(paths, wanted);
    assert_eq!(found.tree.content_root(), fresh.content_root());
    if wanted == Wanted::Both {
        assert_eq!(found.tree.plain_root(), fresh.plain_root());
        let bytes = fs::read(&paths.image).unwrap();
        assert_eq!(found.tree.plain_root(), Some(blake3::hash(&bytes)));
    }
    found.bytes_hashed
}

#[test]
fn a_second_digest_reads_nothing_and_one_of_more_reads_all() {
    let bench = Bench::new();
    let paths = bench.made("a", Some(1));
    assert_eq!(hashed(&paths, Wanted::Content), BYTES);
    assert_eq!(hashed(&paths, Wanted::Content), 0);
    assert_eq!(
        hashed(&paths, Wanted::Both),
        BYTES,
        "BLAKE3's own was not asked for"
    );
    assert_eq!(hashed(&paths, Wanted::Both), 0);
    assert_eq!(hashed_by(&paths, Wanted::Both, Reading::Everything), BYTES);
    assert_eq!(hashed(&paths, Wanted::Content), 0);
}

#[test]
fn after_a_guest_it_reads_what_the_guest_wrote() {
    let bench = Bench::new();
    let paths = bench.made("a", Some(1));
    hashed(&paths, Wanted::Both);
    for round in 0..3 {
        let (disk, _) = Standby::open(paths.clone())
            .unwrap()
            .go_live(Position(0))
            .unwrap();
        // Over the border of two regions, and in the short last one.
        disk.live().write(3 * MEBIBYTE - 7, &[round; 20]).unwrap();
        disk.live().write(BYTES - 9, &[round; 9]).unwrap();
        bench.settle(&paths);
        disk.close().unwrap();
    }
    assert_eq!(hashed(&paths, Wanted::Both), 3 * MEBIBYTE);
    assert_eq!(hashed(&paths, Wanted::Both), 0);
}

#[test]
fn after_a_sync_it_reads_what_the_sync_wrote() {
    struct Stopped;
    impl Clock for Stopped {
        fn now(&self) -> std::time::Duration {
            std::time::Duration::ZERO
        }
    }
    let bench = Bench::new();
    let (source, target) = (bench.made("a", Some(1)), bench.made("b", None));
    let file = OpenOptions::new().write(true).open(&target.image).unwrap();
    file.write_all_at(b"differs", 5 * MEBIBYTE).unwrap();
    file.write_all_at(b"differs", 9 * MEBIBYTE).unwrap();
    bench.settle(&target);
    for paths in [&source, &target] {
        assert_eq!(hashed(paths, Wanted::Content), BYTES);
    }
    let options = Options {
        consent: Consent::default(),
        dry_run: false,
        compress: false,
        bytes_per_second: None,
        threads: threads(),
    };
    let open = |paths: &Paths, role| Disk::open(paths.clone(), role, false).unwrap();
    let (one, other) = (open(&source, Role::Source), open(&target, Role::Target));
    sync_here(one, other, &options, &Stopped, &mut |_| ()).unwrap();
    assert_eq!(hashed(&source, Wanted::Content), 0);
    let after = hashed(&target, Wanted::Content);
    // Where the sync ended in the very tick of its last write, nothing is kept.
    assert!(after == 2 * MEBIBYTE || after == BYTES, "{after}");
    assert_eq!(
        build(&source, Wanted::Content).content_root(),
        build(&target, Wanted::Content).content_root()
    );
}

#[test]
fn after_a_crash_or_a_write_behind_our_back_it_reads_all() {
    let bench = Bench::new();
    let paths = bench.made("a", Some(1));
    hashed(&paths, Wanted::Content);
    let (disk, _) = Standby::open(paths.clone())
        .unwrap()
        .go_live(Position(0))
        .unwrap();
    disk.live().write(0, b"x").unwrap();
    drop(disk);
    bench.settle(&paths);
    assert_eq!(hashed(&paths, Wanted::Content), BYTES);
    assert_eq!(
        hashed(&paths, Wanted::Content),
        BYTES,
        "it counts as in use still"
    );
    let (disk, _) = Standby::open(paths.clone())
        .unwrap()
        .go_live(Position(0))
        .unwrap();
    disk.close().unwrap();
    assert_eq!(hashed(&paths, Wanted::Content), BYTES);
    assert_eq!(hashed(&paths, Wanted::Content), 0);
    let file = OpenOptions::new().write(true).open(&paths.image).unwrap();
    file.write_all_at(b"y", 2 * MEBIBYTE).unwrap();
    assert_eq!(hashed(&paths, Wanted::Content), BYTES);
}

#[test]
fn what_changes_in_the_tick_of_a_digest_is_seen_by_the_next() {
    let bench = Bench::new();
    let paths = bench.made("a", Some(1));
    let file = OpenOptions::new().write(true).open(&paths.image).unwrap();
    for round in 0..200_u8 {
        // Each digest is checked against one of everything.
        file.write_all_at(&[round], u64::from(round) * 1000).unwrap();
        hashed(&paths, Wanted::Content);
    }
}

#[test]
fn a_kept_tree_that_is_cut_short_or_damaged_counts_for_nothing() {
    let bench = Bench::new();
    let paths = bench.made("a", Some(1));
    hashed(&paths, Wanted::Both);
    let path = kept_tree::path_of(&paths);
    let whole = fs::read(&path).unwrap();
    let image = FileImage::open(&paths.image, Access::Read).unwrap();
    let metadata = Loaded::read(&FileStore::open(&paths.metadata, false).unwrap()).unwrap();
    let key = key_of(&metadata, &image).unwrap();
    let is_read = || kept_tree::read(&path, &key, image.length()).is_some();
    assert!(is_read());
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for (at, byte) in (0..).zip(&whole) {
        file.write_all_at(&[byte ^ 1 << (at % 8)], at).unwrap();
        assert!(!is_read(), "byte {at} is damaged");
        file.write_all_at(&[*byte], at).unwrap();
    }
    assert!(is_read());
    for end in (0..whole.len()).rev() {
        file.set_len(u64::try_from(end).unwrap()).unwrap();
        assert!(!is_read(), "it ends at {end}");
    }
    assert_eq!(hashed(&paths, Wanted::Both), BYTES);
}

#[test]
fn only_a_clean_replica_goes_live_and_only_once() {
    let bench = Bench::new();
    let blank = bench.made("b", None);
    for error in [
        Standby::open(blank.clone()).unwrap_err(),
        open_to_read(&blank).unwrap_err(),
    ] {
        assert!(
            matches!(error, DiskError::NotClean { state: "stale", .. }),
            "{error}"
        );
    }
    let paths = bench.made("a", Some(1));
    let before = fs::read(&paths.metadata).unwrap();
    let standby = Standby::open(paths.clone()).unwrap();
    assert!(matches!(
        Standby::open(paths.clone()),
        Err(DiskError::Image(OpenError::Locked { .. }))
    ));
    drop(standby);
    assert!(fs::read(&paths.metadata).unwrap() == before, "nobody has used it");
    let (disk, recovery) = Standby::open(paths.clone())
        .unwrap()
        .go_live(Position(7))
        .unwrap();
    assert_eq!(
        (recovery, disk.live().position()),
        (Recovery::default(), Position(7))
    );
    drop(disk);
    let (_, recovery) = Standby::open(paths).unwrap().go_live(Position(7)).unwrap();
    assert!(recovery.was_in_use);
}

/// What is to be done to make `target` equal to `source`.
fn decided(source: &Paths, target: &Paths) -> (Relation, Outcome) {
    let summary = |paths: &Paths| {
        let found = info(paths).unwrap();
        Summary::of_loaded(&found.metadata, found.was_changed_behind)
    };
    let decision = decide(&summary(source), &summary(target), Consent::default());
    (decision.relation, decision.outcome)
}

#[test]
fn one_that_an_operator_adopts_keeps_its_marks_and_is_never_taken_for_equal() {
    let bench = Bench::new();
    let (one, other) = (bench.bare("a", Some(1)), bench.bare("b", Some(1)));
    assert_eq!(decided(&one, &other), (Relation::Same, Outcome::Nothing));
    // It goes on alone, dies with a write of which nobody knows whether it is there, and is found to lack others.
    let (disk, _) = Standby::open(other.clone())
        .unwrap()
        .go_live(Position(0))
        .unwrap();
    disk.live().lose_peer(GenerationId([2; 16]));
    disk.live().write(9 * MEBIBYTE, b"unsure").unwrap();
    drop(disk);
    mark_stale(&other).unwrap();
    let before = info(&other).unwrap().metadata;
    assert!(before.marks().contains(9 * 16));
    adopt(&other).unwrap();
    let after = info(&other).unwrap().metadata;
    assert_eq!((after.state(), after.lineage()), (State::Clean, before.lineage()));
    let mut kept = before.marks();
    kept.unite(&after.marks());
    assert_eq!(kept, after.marks());
    assert_eq!(decided(&other, &one), (Relation::Ahead, Outcome::Partial));
    // One that lacks writes of its own generation which are marked nowhere.
    mark_stale(&one).unwrap();
    let equal = bench.bare("c", Some(1));
    assert_eq!(decided(&equal, &one), (Relation::Same, Outcome::Full));
    adopt(&one).unwrap();
    assert_eq!(decided(&equal, &one), (Relation::Same, Outcome::Partial));
    assert_eq!(
        info(&one).unwrap().metadata.marks().count(),
        BYTES.div_ceil(65_536)
    );
}

#[test]
fn one_that_is_being_synced_or_holds_nothing_is_not_adopted() {
    let bench = Bench::new();
    let blank = bench.bare("b", None);
    adopt(&blank).unwrap();
    assert_eq!(state_of(&blank).unwrap(), State::Stale);
    assert!(info(&blank).unwrap().metadata.marks().is_empty());
    let half = bench.bare("c", Some(1));
    drop(SyncTarget::begin(half.clone(), [2; 16], BYTES).unwrap());
    adopt(&half).unwrap();
    assert!(matches!(state_of(&half), Ok(State::Syncing(_))));
}
