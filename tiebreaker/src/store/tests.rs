//! The store on a real disk: what it gives back, and what it refuses.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use raft::eraftpb::{Entry, HardState};
use tempfile::TempDir;

use super::*;
use crate::node::{AppliedMark, Base, Machine, Recovered, Seats};
use crate::{Boot, Generation, Operation, Request, RequestId};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn owner() -> Owner {
    Owner {
        cluster: name("cluster"),
        era: 3,
        name: name("a"),
        id: NodeId(1),
    }
}

fn seats() -> Seats {
    Seats::first(["a", "b", "c"].map(name))
}

fn beginning() -> Recovered {
    Recovered::first(seats(), BTreeMap::new())
}

fn create() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    DiskStore::create(folder.path(), &owner(), &beginning()).unwrap();
    folder
}

fn open(folder: &Path) -> Result<(DiskStore, Owner, Recovered), StoreError> {
    DiskStore::open(folder, &name("cluster"), &name("a"))
}

fn entries(range: std::ops::Range<u64>) -> Vec<Entry> {
    range
        .map(|index| Entry {
            index,
            term: 1,
            data: vec![7; 100].into(),
            ..Entry::default()
        })
        .collect()
}

fn record() -> crate::Record {
    let mut machine = Machine::new(seats());
    let command = crate::node::Command::Change {
        caller: antipode_certs::Identity::from_uri("antipode://site/a").unwrap(),
        vm: name("vm"),
        request: Request {
            id: RequestId(1),
            expected: Generation(0),
            operation: Operation::Register { boot: Boot(1) },
            at_unix_seconds: 0,
        },
    };
    machine.apply(&command);
    crate::Record::clone(&machine.records[&name("vm")])
}

fn append(range: std::ops::Range<u64>) -> Batch {
    Batch {
        hard_state: Some(HardState {
            term: 1,
            commit: range.end - 1,
            ..HardState::default()
        }),
        entries: entries(range),
        ..Batch::default()
    }
}

#[test]
fn what_was_written_is_there_again() {
    let folder = create();
    let (mut store, found, content) = open(folder.path()).unwrap();
    assert_eq!((found, content), (owner(), beginning()));
    store.write(&append(2..6)).unwrap();
    let mark = AppliedMark {
        index: 4,
        base: Base { index: 3, term: 1 },
        ..beginning().applied
    };
    let batch = Batch {
        removed: vec![2..3, 3..4],
        applied: Some(mark.clone()),
        records: [(name("vm"), Arc::new(record()))].into(),
        ..Batch::default()
    };
    store.write(&batch).unwrap();
    drop(store);
    let (_store, _, content) = open(folder.path()).unwrap();
    assert_eq!(content.entries, entries(4..6));
    assert_eq!((content.applied, content.hard_state.commit), (mark, 5));
    assert_eq!(*content.records[&name("vm")], record());
}

#[test]
fn a_snapshot_replaces_everything() {
    let folder = create();
    let (mut store, ..) = open(folder.path()).unwrap();
    store.write(&append(2..300)).unwrap();
    let mark = AppliedMark {
        index: 500,
        base: Base { index: 500, term: 2 },
        ..beginning().applied
    };
    let records: BTreeMap<Name, Arc<crate::Record>> = (0..500)
        .map(|vm| (name(&format!("vm-{vm}")), Arc::new(record())))
        .collect();
    let batch = Batch {
        replaces_all: true,
        hard_state: Some(HardState {
            term: 2,
            commit: 500,
            ..HardState::default()
        }),
        applied: Some(mark),
        records: records.clone(),
        ..Batch::default()
    };
    store.write(&batch).unwrap();
    drop(store);
    let (_store, _, content) = open(folder.path()).unwrap();
    assert_eq!((content.entries, content.records), (Vec::new(), records));
}

#[test]
fn only_its_own_node_opens_a_store_and_only_once() {
    let folder = create();
    for (cluster, node) in [("other", "a"), ("cluster", "b")] {
        let error = DiskStore::open(folder.path(), &name(cluster), &name(node)).unwrap_err();
        assert!(matches!(&error, StoreError::Foreign { .. }), "{error}");
        assert!(
            error.to_string().contains("is of node a of cluster cluster"),
            "{error}"
        );
    }
    let _held = open(folder.path()).unwrap();
    assert!(matches!(open(folder.path()), Err(StoreError::Locked(_))));
}

#[test]
fn nothing_is_made_over_a_store_and_nothing_is_read_where_none_is() {
    let folder = create();
    let again = DiskStore::create(folder.path(), &owner(), &beginning());
    assert!(matches!(again, Err(StoreError::Exists(_))));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(open(empty.path()), Err(StoreError::Missing(_))));
    assert_eq!(
        fs::read_dir(empty.path()).unwrap().count(),
        0,
        "opening makes nothing"
    );
}

/// What a crash in the middle of the making leaves.
#[test]
fn an_unfinished_store_is_none() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("store.unfinished")).unwrap();
    fs::write(folder.path().join("store.unfinished/db"), "half").unwrap();
    assert!(matches!(open(folder.path()), Err(StoreError::Missing(_))));
    DiskStore::create(folder.path(), &owner(), &beginning()).unwrap();
    open(folder.path()).unwrap();
    let mode = fs::metadata(folder.path().join("witness"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// A damaged byte anywhere: the store opens with all that it had, or not at all.
#[test]
fn a_damaged_store_is_refused_or_whole() {
    let folder = create();
    let (mut store, ..) = open(folder.path()).unwrap();
    for index in 2..40 {
        store.write(&append(index..index + 1)).unwrap();
    }
    drop(store);
    let (store, _, whole) = open(folder.path()).unwrap();
    drop(store);
    let file = folder.path().join("store/db");
    let (good, witness) = (
        fs::read(&file).unwrap(),
        fs::read(folder.path().join("witness")).unwrap(),
    );
    let used = good.iter().rposition(|byte| *byte != 0).unwrap();
    let (mut refused, mut unharmed) = (0, 0);
    for step in 0..60 {
        let mut bad = good.clone();
        bad[used * step / 60] ^= 0x41;
        let copy = tempfile::tempdir().unwrap();
        copy_store(folder.path(), copy.path());
        fs::write(copy.path().join("store/db"), &bad).unwrap();
        let mut told = Vec::new();
        // What sled does away with at the first time must not make the second look whole.
        for _ in 0..2 {
            match open(copy.path()) {
                Ok((_store, _, content)) => {
                    assert!(content == whole, "byte {}: it opened with less", used * step / 60);
                    told.push(None);
                }
                Err(StoreError::Corrupt { what, .. }) => told.push(Some(what)),
                Err(other) => panic!("byte {}: {other}", used * step / 60),
            }
        }
        assert_eq!(told[0].is_some(), told[1].is_some(), "byte {}", used * step / 60);
        match &told[0] {
            Some(_) => refused += 1,
            None => unharmed += 1,
        }
        assert_eq!(fs::read(copy.path().join("witness")).unwrap(), witness);
    }
    assert!(refused >= 10, "{refused} refused, {unharmed} whole");
}

fn copy_store(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_store(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// An older copy of the store under the same witness: as after a restored disk image, or a cut-off log.
#[test]
fn a_store_that_has_forgotten_is_refused() {
    let folder = create();
    let old = tempfile::tempdir().unwrap();
    copy_store(folder.path(), old.path());
    let (mut store, ..) = open(folder.path()).unwrap();
    store.write(&append(2..6)).unwrap();
    drop(store);
    fs::copy(folder.path().join("witness"), old.path().join("witness")).unwrap();
    let error = open(old.path()).unwrap_err();
    assert!(
        error.to_string().contains("the last 1 of 2 batches are lost"),
        "{error}"
    );
    assert!(error.mend().contains("rejoin"));
    fs::write(old.path().join("witness"), "half").unwrap();
    assert!(open(old.path()).unwrap_err().to_string().contains("witness"));
}

#[test]
fn content_that_no_node_wrote_is_refused() {
    let good: BTreeMap<Vec<u8>, Vec<u8>> = layout::beginning(&owner(), &beginning())
        .put
        .into_iter()
        .collect();
    assert!(layout::read(good.clone()).is_ok());
    for key in [b"b", b"h", b"m", b"o"] {
        let mut bad = good.clone();
        bad.remove(key.as_slice());
        assert!(
            matches!(layout::read(bad), Err(ContentError::Missing(_))),
            "{key:?}"
        );
        let mut bad = good.clone();
        bad.insert(key.to_vec(), vec![0xff; 3]);
        assert!(
            matches!(layout::read(bad), Err(ContentError::Unreadable(_))),
            "{key:?}"
        );
    }
    let with = |key: &[u8], value: &[u8]| {
        let mut bad = good.clone();
        bad.insert(key.to_vec(), value.to_vec());
        layout::read(bad)
    };
    assert!(matches!(with(b"q", b""), Err(ContentError::UnknownKey(_))));
    assert!(matches!(
        with(b"rNo Name", b"{}"),
        Err(ContentError::Unreadable(_))
    ));
    assert!(matches!(
        with(b"l\0\0\0\0\0\0\0\x09", b""),
        Err(ContentError::Unreadable(_))
    ));
    let newer = br#"{"format":3,"owner":"of another form"}"#;
    assert_eq!(with(b"o", newer), Err(ContentError::Newer));
}
