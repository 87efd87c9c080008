//! A power cut after every operation of every update: what is opened afterwards is the replica before the update or
//! after it, and no write that somebody may miss is unmarked.

use std::sync::{Arc, Mutex};

use super::loaded::fold;
use super::sim_store::SimStore;
use super::*;
use crate::limits::HOT_WRITES_MIN;
use crate::units::{EXTENT_BYTES, on_disk};

/// So many that the dirty map has some pages.
const LENGTH: u64 = 3000 * EXTENT_BYTES;

pub(crate) fn id(byte: u8) -> GenerationId {
    GenerationId([byte; 16])
}

fn creation(content: Option<GenerationId>) -> Creation {
    Creation {
        vm: "vm".parse().unwrap(),
        replica: ReplicaId([9; 16]),
        length: ImageLength::new(LENGTH).unwrap(),
        content,
        stamp: Some([3; 32]),
    }
}

/// What is true between two updates.
#[derive(Debug, Clone)]
struct Moment {
    operations: usize,
    state: State,
    lineage: Option<Lineage>,
    tracking: bool,
    /// What must be found marked: the map, and what was written since the last flush.
    required: LeafSet,
    /// What may be found marked: the map, and all that is hot.
    allowed: LeafSet,
}

fn moment(replica: &Replica<SimStore>) -> Moment {
    let flushed = replica.activity.sure();
    let hot: Vec<u32> = replica.activity.zones().collect();
    let unflushed: Vec<u32> = hot
        .iter()
        .copied()
        .filter(|zone| !flushed.contains(zone))
        .collect();
    let (mut required, mut allowed) = (replica.dirty.clone(), replica.dirty.clone());
    fold(&unflushed, &mut required);
    fold(&hot, &mut allowed);
    Moment {
        operations: replica.store.operations(),
        state: replica.header.state,
        lineage: replica.header.lineage.clone(),
        tracking: replica.header.tracking,
        required,
        allowed,
    }
}

type Step = (&'static str, fn(&mut Replica<SimStore>));

fn write(replica: &mut Replica<SimStore>, bytes: Range<u64>) {
    replica.begin_write(&bytes).unwrap();
    replica.end_write(&bytes);
}

fn flush(replica: &mut Replica<SimStore>) {
    let ticket = replica.begin_flush();
    replica.end_flush(ticket);
}

const KEY: SyncKey = SyncKey {
    source: ReplicaId([7; 16]),
    generation: GenerationId([8; 16]),
};

const STEPS: &[Step] = &[
    ("a first write", |replica| {
        write(replica, 5 * EXTENT_BYTES..5 * EXTENT_BYTES + 512)
    }),
    ("a write to what is hot", |replica| {
        write(replica, 5 * EXTENT_BYTES + 4096..5 * EXTENT_BYTES + 8192)
    }),
    ("the peer is lost", |replica| replica.lose_peer(id(2))),
    ("the write that begins a generation", |replica| {
        write(replica, 5 * EXTENT_BYTES..5 * EXTENT_BYTES + 512)
    }),
    ("a write over two extents", |replica| {
        write(replica, 7 * EXTENT_BYTES - 9..7 * EXTENT_BYTES + 9)
    }),
    ("a write over many zones", |replica| {
        flush(replica);
        write(replica, 8 * EXTENT_BYTES..2000 * EXTENT_BYTES);
    }),
    ("a write elsewhere", |replica| {
        flush(replica);
        write(replica, 2500 * EXTENT_BYTES..2500 * EXTENT_BYTES + 512);
    }),
    ("those that nobody wrote to for long leave", |replica| {
        for _ in 0..HOT_WRITES_MIN * 3 / 2 {
            write(replica, 2500 * EXTENT_BYTES..2500 * EXTENT_BYTES + 512);
        }
        assert!(replica.activity.zones().count() < 100);
    }),
    ("it becomes stale", |replica| replica.mark_stale().unwrap()),
    ("an operator has it go live", |replica| replica.adopt().unwrap()),
    ("it is synced", |replica| {
        flush(replica);
        let work = LeafSet::all(replica.length());
        replica.begin_sync(KEY, &work).unwrap();
    }),
    ("some of it is settled", |replica| {
        let mut settled = LeafSet::none(replica.length());
        settled.insert(&Run::new(0, 64 * 600));
        settled.insert(&Run::new(64 * 2000, 99));
        replica.settle(&settled).unwrap();
    }),
    ("the sync is finished", |replica| {
        let lineage = Lineage {
            current: id(8),
            base: Some(id(1)),
            history: vec![id(1)],
        };
        replica.finish_sync(lineage).unwrap();
    }),
    ("it goes on alone", |replica| {
        replica.lose_peer(id(4));
        write(replica, 0..LEAF);
    }),
    ("another one has become equal", |replica| {
        replica.peer_is_equal(&LeafSet::none(replica.length())).unwrap();
    }),
    ("its copy of the VM differs", |replica| {
        assert!(replica.begin_repair().unwrap().is_empty());
        assert_eq!(replica.dirty(), &LeafSet::all(replica.length()));
    }),
    ("that is repaired", |replica| {
        let marks = LeafSet::none(replica.length());
        replica.end_repair(marks).unwrap();
        assert_eq!(replica.state(), State::Clean);
    }),
];

const LEAF: u64 = crate::units::LEAF_BYTES;

/// Every operation of a replica's life, and what is true between the steps.
fn life() -> (SimStore, Vec<Moment>) {
    let store = SimStore::of(creation(Some(id(1))).encode());
    let (mut replica, _) = Replica::open(store.clone()).unwrap();
    let mut moments = vec![moment(&replica)];
    for (_, step) in STEPS {
        step(&mut replica);
        moments.push(moment(&replica));
    }
    let last = moments[moments.len() - 1].clone();
    replica.close(Some([4; 32])).unwrap();
    moments.push(Moment {
        operations: store.operations(),
        ..last
    });
    (store, moments)
}

/// What is wrong after a cut at one of `cuts`, for each of the things that it may leave; and how many there are.
fn check(store: &SimStore, moments: &[Moment], cuts: &Range<usize>) -> (usize, Vec<String>) {
    let (mut tried, mut wrong) = (0, Vec::new());
    for pair in moments.windows(2) {
        let [before, after] = pair else { continue };
        for done in (before.operations..=after.operations).filter(|done| cuts.contains(done)) {
            for content in store.after_cut(done) {
                tried += 1;
                if let Some(what) = judge(content, before, after) {
                    wrong.push(format!("after {done} operations: {what}"));
                }
            }
        }
    }
    (tried, wrong)
}

fn judge(content: Vec<u8>, before: &Moment, after: &Moment) -> Option<String> {
    let opened = Replica::open(SimStore::of(content));
    let (replica, recovery) = match opened {
        Ok(opened) => opened,
        Err(error) => return Some(format!("it does not open: {error}")),
    };
    let of = |moment: &Moment| (moment.state, moment.lineage.clone(), moment.tracking);
    let found = (
        replica.header.state,
        replica.header.lineage.clone(),
        replica.header.tracking,
    );
    if found != of(before) && found != of(after) {
        return Some(format!("{found:?} is neither before nor after"));
    }
    let marks = replica.dirty();
    let missing = before
        .required
        .runs()
        .flat_map(|run| run.indices())
        .find(|leaf| after.required.contains(*leaf) && !marks.contains(*leaf));
    if let Some(leaf) = missing {
        return Some(format!("leaf {leaf} is not marked"));
    }
    let beyond = |leaf: &u64| !before.allowed.contains(*leaf) && !after.allowed.contains(*leaf);
    let beyond = marks.runs().flat_map(|run| run.indices()).find(beyond);
    beyond
        .filter(|_| recovery.damaged_pages == 0)
        .map(|leaf| format!("leaf {leaf} is marked for nothing"))
}

#[test]
fn every_power_cut_leaves_the_replica_before_or_after() {
    let (store, moments) = life();
    let (tried, wrong) = check(&store, &moments, &(0..usize::MAX));
    assert!(
        wrong.is_empty(),
        "{} of {tried}: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(5)]
    );
    assert!(tried > 1000, "{tried} are fewer than there are sectors");
}

/// The check is only worth something if it sees a rule that is broken: here, each sync in turn did nothing.
#[test]
fn a_sync_that_is_left_out_is_noticed() {
    let (store, moments) = life();
    let syncs = store.syncs();
    let noticed = syncs
        .iter()
        .filter(|&&at| {
            !check(&store.without_sync(at), &moments, &(at..at + 6))
                .1
                .is_empty()
        })
        .count();
    assert!(noticed * 2 > syncs.len(), "{noticed} of {} noticed", syncs.len());
}

#[test]
fn after_a_failed_update_nothing_is_updated() {
    for allowed in 0..2 {
        let store = SimStore::of(creation(Some(id(1))).encode());
        let (mut replica, _) = Replica::open(store.clone()).unwrap();
        replica.store.left = Some(Arc::new(Mutex::new(allowed)));
        assert!(matches!(replica.mark_stale(), Err(ReplicaError::Io(_))));
        replica.store.left = None;
        assert!(matches!(replica.mark_stale(), Err(ReplicaError::Broken)));
        assert!(matches!(replica.begin_write(&(0..1)), Err(ReplicaError::Broken)));
        for content in store.after_cut(store.operations()) {
            let found = Loaded::read(&SimStore::of(content)).unwrap();
            assert!([State::Clean, State::Stale].contains(&found.state()));
        }
    }
}

/// An image so large that a zone is more than an extent: all of it is unsure where a byte of it was written to.
#[test]
fn a_zone_of_a_large_image_is_unsure_as_a_whole() {
    let length = ImageLength::new(1 << 40).unwrap();
    let zone = (1 << 40) / on_disk(crate::limits::ZONES_MAX);
    let creation = Creation {
        length,
        ..creation(Some(id(1)))
    };
    let store = SimStore::of(creation.encode());
    let (mut replica, _) = Replica::open(store.clone()).unwrap();
    write(&mut replica, 5 * zone + 512..5 * zone + 1024);
    replica.lose_peer(id(2));
    let expected = [Run::new(5 * zone / LEAF, zone / LEAF)];
    assert_eq!(replica.dirty().runs().collect::<Vec<_>>(), expected);
    let found = Loaded::read(&store).unwrap();
    assert_eq!(found.marks().runs().collect::<Vec<_>>(), expected);
    assert_eq!(found.hot_bytes(), zone);
}

#[test]
fn a_replica_in_good_order_has_nothing_to_recover() {
    let store = SimStore::of(creation(None).encode());
    let (mut replica, recovery) = Replica::open(store.clone()).unwrap();
    assert_eq!((recovery, replica.state()), (Recovery::default(), State::Stale));
    replica.finish_sync(Lineage::new(id(5))).unwrap();
    replica.close(Some([1; 32])).unwrap();
    let loaded = Loaded::read(&store).unwrap();
    assert!(!loaded.is_in_use() && loaded.marks().is_empty());
    assert!(loaded.was_changed_behind(Some([2; 32])) && !loaded.was_changed_behind(Some([1; 32])));
    assert_eq!(loaded.lineage(), Some(&Lineage::new(id(5))));
    let (_, recovery) = Replica::open(store.clone()).unwrap();
    assert!(!recovery.was_in_use);
    let (_, recovery) = Replica::open(store).unwrap();
    assert!(recovery.was_in_use);
}

#[test]
fn foreign_damaged_and_newer_metadata_is_refused() {
    let good = creation(None).encode();
    let open = |bytes: Vec<u8>| Loaded::read(&SimStore::of(bytes)).map(|_| ());
    assert!(matches!(open(vec![0; good.len()]), Err(ReplicaError::Foreign)));
    let mut damaged = good.clone();
    damaged[100] ^= 1;
    assert!(matches!(open(damaged), Err(ReplicaError::Damaged)));
    assert_eq!(
        on_disk(good.len()),
        metadata_bytes(ImageLength::new(LENGTH).unwrap())
    );
    assert!(open(good).is_ok());
}
