//! Replicas as files: what a second digest reads, and that it is never wrong.

use std::fs::OpenOptions;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::*;
use crate::decision::{Consent, Outcome, Relation, decide};
use crate::image::OpenError;
use crate::limits::HOT_WRITES_MIN;
use crate::online::Position;
use crate::replica::{GenerationId, ReplicaId};
use crate::tree::{Threads, Tree, Wanted};
use crate::units::{LEAF_BYTES, MEBIBYTE, Run, in_memory};

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
    Tree::build(&image, threads(), wanted, &|_| true).unwrap()
}

/// Digests, checks the roots against a digest of everything, and answers how many bytes were hashed.
fn hashed(paths: &Paths, wanted: Wanted) -> u64 {
    hashed_by(paths, wanted, Reading::Changed)
}

fn hashed_by(paths: &Paths, wanted: Wanted, reading: Reading) -> u64 {
    let found = digest(paths, wanted, reading, threads(), &mut |_| (), &|_| true).unwrap();
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

struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

fn options() -> Options {
    Options {
        consent: Consent::default(),
        dry_run: false,
        compress: false,
        bytes_per_second: None,
        threads: threads(),
    }
}

/// What each end came to.
fn synced(source: Disk, target: Disk, [ours, theirs]: [&Options; 2]) -> [Result<Report, RunError>; 2] {
    let (here, there) = Link::pair().unwrap();
    std::thread::scope(|scope| {
        let target = scope.spawn(move || target.run(Role::Target, there, theirs, &Stopped, &mut |_| ()));
        let source = source.run(Role::Source, here, ours, &Stopped, &mut |_| ());
        [source, target.join().unwrap()]
    })
}

#[test]
fn a_target_that_is_only_compared_is_left_as_it_was() {
    let bench = Bench::new();
    let (source, target) = (bench.made("a", Some(1)), bench.made("b", None));
    let seen = || [&source, &target].map(|paths| fs::read(&paths.metadata).unwrap());
    let before = seen();
    let comparing = Options {
        dry_run: true,
        ..options()
    };
    // The target was opened to be written to: what the source wants is known later.
    let open = |paths: &Paths, role, dry_run| Disk::open(paths.clone(), role, dry_run).unwrap();
    let ends = synced(
        open(&source, Role::Source, true),
        open(&target, Role::Target, false),
        [&comparing, &options()],
    );
    for end in ends {
        let report = end.unwrap();
        assert!(report.finish.dry_run && report.finish.root.is_some());
    }
    assert!(seen() == before);
    // Nor does one that is refused before it is overwritten change anything.
    let unrelated = bench.made("c", Some(9));
    let [ours, theirs] = synced(
        open(&source, Role::Source, false),
        open(&unrelated, Role::Target, false),
        [&options(), &options()],
    );
    assert!(ours.is_err() && theirs.is_err());
    assert!(info(&unrelated).unwrap().was_changed_behind);
    let ends = synced(
        open(&source, Role::Source, false),
        open(&target, Role::Target, false),
        [&options(), &options()],
    );
    assert!(
        ends.iter()
            .all(|end| matches!(end, Ok(report) if !report.finish.dry_run))
    );
    assert_eq!(state_of(&target).unwrap(), State::Clean);
    assert!(!info(&target).unwrap().metadata.is_in_use());
}

#[test]
fn one_that_somebody_died_with_is_closed_by_a_sync_that_finds_nothing_to_do() {
    let bench = Bench::new();
    let (source, target) = (bench.bare("a", Some(1)), bench.bare("b", Some(1)));
    drop(
        Standby::open(target.clone())
            .unwrap()
            .go_live(Position(0))
            .unwrap(),
    );
    assert!(info(&target).unwrap().metadata.is_in_use());
    let open = |paths: &Paths, role| Disk::open(paths.clone(), role, false).unwrap();
    let ends = synced(
        open(&source, Role::Source),
        open(&target, Role::Target),
        [&options(), &options()],
    );
    for end in ends {
        assert_eq!(end.unwrap().finish.decision.unwrap().outcome, Outcome::Nothing);
    }
    assert!(!info(&target).unwrap().metadata.is_in_use());
}

#[test]
fn after_a_sync_it_reads_what_the_sync_wrote() {
    let bench = Bench::new();
    let (source, target) = (bench.made("a", Some(1)), bench.made("b", None));
    let file = OpenOptions::new().write(true).open(&target.image).unwrap();
    file.write_all_at(b"differs", 5 * MEBIBYTE).unwrap();
    file.write_all_at(b"differs", 9 * MEBIBYTE).unwrap();
    bench.settle(&target);
    for paths in [&source, &target] {
        assert_eq!(hashed(paths, Wanted::Content), BYTES);
    }
    let open = |paths: &Paths, role| Disk::open(paths.clone(), role, false).unwrap();
    let (one, other) = (open(&source, Role::Source), open(&target, Role::Target));
    sync_here(one, other, &options(), &Stopped, &mut |_| ()).unwrap();
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

/// A running machine's replica, of this generation.
fn origin(generation: Option<u8>) -> Origin {
    Origin {
        vm: "vm".parse().unwrap(),
        replica: ReplicaId([1; 16]),
        lineage: generation.map(|byte| Lineage::new(GenerationId([byte; 16]))),
        byte_count: BYTES,
    }
}

#[test]
fn what_may_not_become_a_copy_is_left_as_it_was() {
    let bench = Bench::new();
    let paths = bench.made("a", Some(1));
    let seen = || {
        let image = fs::read(&paths.image).unwrap();
        (image, fs::read(&paths.metadata).unwrap())
    };
    let before = seen();
    let refused = |origin: &Origin| {
        let error = SyncTarget::begin(paths.clone(), origin, Consent::default()).unwrap_err();
        assert!(seen() == before, "{error}");
        error
    };
    let of_another_vm = Origin {
        vm: "other".parse().unwrap(),
        ..origin(Some(1))
    };
    let itself = Origin {
        replica: ReplicaId([b'a'; 16]),
        ..origin(Some(1))
    };
    for (origin, expected) in [
        (of_another_vm, Relation::OtherVm),
        (itself, Relation::Itself),
        (origin(None), Relation::SourceBlank),
        (origin(Some(9)), Relation::Unrelated),
    ] {
        match refused(&origin) {
            DiskError::Refused { decision, .. } => assert_eq!(decision.relation, expected),
            error => panic!("{error}"),
        }
    }
    let longer = Origin {
        byte_count: BYTES + 512,
        ..origin(Some(1))
    };
    assert!(matches!(refused(&longer), DiskError::OtherLength { .. }));
    // Writes that it alone holds are lost by nobody's wish.
    let (disk, _) = Standby::open(paths.clone())
        .unwrap()
        .go_live(Position(0))
        .unwrap();
    disk.live().lose_peer(GenerationId([2; 16]));
    disk.live().write(0, b"its own").unwrap();
    disk.close().unwrap();
    let before = seen();
    let error = SyncTarget::begin(paths.clone(), &origin(Some(1)), Consent::default()).unwrap_err();
    assert!(
        matches!(&error, DiskError::Refused { decision, .. } if decision.relation == Relation::Behind),
        "{error}"
    );
    assert!(seen() == before);
    assert!(SyncTarget::begin(paths.clone(), &origin(Some(2)), Consent::default()).is_ok());
}

#[test]
fn an_image_that_cannot_become_a_replica_is_not_left_behind() {
    let bench = Bench::new();
    let mut paths = bench.paths("a");
    paths.metadata = bench.folder.path().join("no-folder").join("a.replica");
    let new = |size| NewDisk {
        vm: "vm".parse().unwrap(),
        replica: ReplicaId([1; 16]),
        content: None,
        size: Some(size),
    };
    assert!(matches!(
        create(&paths, new(BYTES)),
        Err(DiskError::Metadata { .. })
    ));
    assert!(!paths.image.exists());
    // Longer than any disk: it is made before that is found.
    assert!(create(&bench.paths("b"), new(1 << 50)).is_err());
    assert!(!bench.paths("b").image.exists());
    // One that was there before is nobody's to take away.
    fs::write(&paths.image, [1; 512]).unwrap();
    assert!(matches!(create(&paths, new(512)), Err(DiskError::Exists(_))));
    assert!(paths.image.exists());
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
    mark_stale(&other, false).unwrap();
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
    mark_stale(&one, false).unwrap();
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
    drop(SyncTarget::begin(half.clone(), &origin(Some(1)), Consent::default()).unwrap());
    adopt(&half).unwrap();
    assert!(matches!(state_of(&half), Ok(State::Syncing(_))));
}

#[test]
fn a_copy_of_a_machine_that_was_no_copy_is_compared_whole() {
    let bench = Bench::new();
    let (one, other) = (bench.bare("a", Some(1)), bench.bare("b", Some(1)));
    let (disk, _) = Standby::open(one.clone()).unwrap().go_live(Position(0)).unwrap();
    disk.live().lose_peer(GenerationId([2; 16]));
    disk.live().write(0, b"on").unwrap();
    disk.close().unwrap();
    mark_stale(&other, true).unwrap();
    assert_eq!(decided(&one, &other), (Relation::Ahead, Outcome::Partial));
    let marked = info(&other).unwrap().metadata.marks().count();
    assert_eq!(marked, BYTES.div_ceil(65_536));
}

/// A live replica that writes on while the other one has gone on without that, and then ends in order: what it wrote last
/// is found and undone, whether it learns before or after it is closed that it has lost, and however long it did not know.
#[test]
fn what_a_loser_wrote_alone_is_undone_though_it_ended_in_order() {
    for (knows_when, writes_after) in [("open", 0), ("closed", 0), ("closed", HOT_WRITES_MIN * 3 / 2)] {
        let bench = Bench::new();
        let (winner, loser) = (bench.bare("a", Some(1)), bench.bare("b", Some(1)));
        let live = |paths: &Paths| {
            let (disk, _) = Standby::open(paths.clone())
                .unwrap()
                .go_live(Position(0))
                .unwrap();
            disk.live().write(MEBIBYTE, b"both have this").unwrap();
            disk
        };
        let disk = live(&loser);
        disk.live().doubt_peer(true);
        disk.live().write(5 * MEBIBYTE, b"never acknowledged").unwrap();
        disk.live().flush().unwrap();
        for _ in 0..writes_after {
            disk.live().write(9 * MEBIBYTE, b"nor this").unwrap();
        }
        if knows_when == "open" {
            disk.live().mark_stale().unwrap();
            disk.live().write(9 * MEBIBYTE, b"its last").unwrap();
        }
        disk.close().unwrap();
        mark_stale(&loser, false).unwrap();
        let disk = live(&winner);
        disk.live().lose_peer(GenerationId([2; 16]));
        disk.live().write(2 * MEBIBYTE, b"alone").unwrap();
        disk.close().unwrap();
        assert_eq!(decided(&winner, &loser), (Relation::Ahead, Outcome::Partial));
        let open = |paths: &Paths, role| Disk::open(paths.clone(), role, false).unwrap();
        let (one, other) = (open(&winner, Role::Source), open(&loser, Role::Target));
        sync_here(one, other, &options(), &Stopped, &mut |_| ()).unwrap();
        let same = fs::read(&winner.image).unwrap() == fs::read(&loser.image).unwrap();
        assert!(same, "{knows_when}, {writes_after}");
    }
}

#[test]
fn a_machine_s_copy_looks_at_what_is_marked_and_goes_on_after_an_interruption() {
    let bench = Bench::new();
    let (one, other) = (bench.bare("a", Some(1)), bench.bare("b", Some(1)));
    let (source, _) = Standby::open(one).unwrap().go_live(Position(0)).unwrap();
    // Nothing was written since it was alone: it is what it was, and equal again.
    source.live().lose_peer(GenerationId([9; 16]));
    source.live().peer_is_equal().unwrap();
    source.live().write(0, b"with its peer").unwrap();
    assert_eq!(source.live().lineage().unwrap().current, GenerationId([1; 16]));
    assert!(source.live().marks().is_empty());
    source.live().lose_peer(GenerationId([2; 16]));
    source.live().write(5 * MEBIBYTE, b"alone").unwrap();
    // The other one dies with a write under way.
    let (copy, _) = Standby::open(other.clone())
        .unwrap()
        .go_live(Position(0))
        .unwrap();
    copy.live().write(9 * MEBIBYTE, b"its last").unwrap();
    drop(copy);
    let origin = Origin {
        replica: source.live().replica_id(),
        lineage: source.live().lineage(),
        ..origin(None)
    };
    let begin = || SyncTarget::begin(other.clone(), &origin, Consent::default()).unwrap();
    let mut target = begin();
    assert_eq!(
        (
            target.decision().outcome,
            target.decision().relation,
            target.is_blank()
        ),
        (Outcome::Partial, Relation::Ahead, false)
    );
    assert!(target.marks().contains(9 * 16) && !target.marks().contains(5 * 16));
    assert!(source.live().marks().contains(5 * 16));
    let differs = |target: &SyncTarget, leaf: u64| {
        target.leaf_hash(leaf).unwrap() != leaf_hash(source.live().image(), leaf).unwrap()
    };
    assert!(differs(&target, 9 * 16) && differs(&target, 5 * 16) && !differs(&target, 10 * 16));
    assert!(target.leaf_hash(u64::MAX).is_err());
    let mut settled = LeafSet::none(target.length());
    settled.insert(&Run::new(9 * 16, 16));
    let left = target.marks().count() - 16;
    target.settle(&settled).unwrap();
    drop(target);
    let mut resumed = begin();
    assert_eq!(resumed.decision().relation, Relation::Resuming);
    assert_eq!(resumed.marks().count(), left);
    // Nothing is settled that the disk does not keep. What is not written is not tested.
    spoil(&other, 7 * MEBIBYTE);
    resumed
        .write_leaf(6 * 16, &vec![3; in_memory(LEAF_BYTES)])
        .unwrap();
    resumed.settle(&settled).unwrap();
    resumed
        .write_leaf(7 * 16, &vec![3; in_memory(LEAF_BYTES)])
        .unwrap();
    spoil(&other, 7 * MEBIBYTE + 9);
    let unkept = resumed.settle(&LeafSet::all(resumed.length()));
    assert!(matches!(unkept, Err(DiskError::Unverified { .. })), "{unkept:?}");
    drop(resumed);
    assert_eq!(begin().marks().count(), left);
}

/// Changes an image as a disk does that does not keep what it was given.
fn spoil(paths: &Paths, offset: u64) {
    let file = OpenOptions::new().write(true).open(&paths.image).unwrap();
    file.write_all_at(b"spoilt", offset).unwrap();
}

#[test]
fn a_copy_is_clean_only_if_it_reads_as_what_was_written() {
    let bench = Bench::new();
    let leaf = vec![7; in_memory(LEAF_BYTES)];
    let written = |name: &str, leaves: u64| {
        let paths = bench.bare(name, None);
        let mut target = SyncTarget::begin(paths.clone(), &origin(Some(1)), Consent::default()).unwrap();
        (0..leaves).for_each(|index| target.write_leaf(index, &leaf).unwrap());
        (paths, target)
    };
    let finish = |target: SyncTarget| target.finish([1; 16], Vec::new());
    let (paths, mut target) = written("a", 70);
    // Written again, with something else: the last counts. And zeros, of which nothing is kept.
    target.write_leaf(3, &vec![8; in_memory(LEAF_BYTES)]).unwrap();
    target.write_leaf(4, &vec![0; in_memory(LEAF_BYTES)]).unwrap();
    target.pause().unwrap();
    finish(target).unwrap();
    assert_eq!(state_of(&paths).unwrap(), State::Clean);
    for (name, place) in [("b", 0), ("c", 5 * LEAF_BYTES + 9)] {
        let (paths, target) = written(name, 6);
        spoil(&paths, place);
        let error = finish(target).unwrap_err();
        let offset = format!("offset {}", place / LEAF_BYTES * LEAF_BYTES);
        assert!(
            matches!(&error, DiskError::Unverified { source, .. } if source.to_string().contains(&offset)),
            "{error}"
        );
        assert!(matches!(state_of(&paths).unwrap(), State::Syncing(_)));
    }
    // On the way it is noticed too, once there is enough to read back.
    let (paths, mut target) = written("d", 63);
    spoil(&paths, LEAF_BYTES);
    target.pause().unwrap();
    target.write_leaf(100, &leaf).unwrap();
    let error = target.pause().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    // An image that became shorter cannot be read back.
    let (paths, target) = written("e", 6);
    let file = OpenOptions::new().write(true).open(&paths.image).unwrap();
    file.set_len(LEAF_BYTES).unwrap();
    assert!(matches!(finish(target), Err(DiskError::Unverified { .. })));
}
