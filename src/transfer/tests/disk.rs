//! Disks that return, are new, or are large.

use std::os::unix::fs::FileExt;

use super::*;

/// A replica of eight extents in `folder`, equal to any other of this content.
fn replica_in(folder: &std::path::Path, name: u8, content: Option<GenerationId>) -> Paths {
    replica_of(8, folder, name, content)
}

fn replica_of(extents: u64, folder: &std::path::Path, name: u8, content: Option<GenerationId>) -> Paths {
    let paths = Paths::new(folder.join(name.to_string()), None);
    let new = NewDisk {
        vm: "redis".parse().unwrap(),
        replica: ReplicaId([name; 16]),
        content,
        size: Some(extents * EXTENT_BYTES),
    };
    create(&paths, new).unwrap();
    paths
}

fn in_service(paths: &Paths) -> Disk {
    let file = DiskFile::open(&paths.image, None, false).unwrap();
    file.into_service().unwrap()
}

/// Has a guest write this byte to each of these leaves.
fn write_leaves(disk: &Disk, leaves: &[u64], byte: u8) {
    for leaf in leaves {
        disk.write(leaf * LEAF_BYTES, &[byte; 4096]).unwrap();
    }
}

/// The other site's replica, which becomes the source's.
struct DiskDesk(Paths);

impl Reception for DiskDesk {
    fn kept(&self, _: BootFile) -> Option<FileOffer> {
        None
    }

    fn prepare(&mut self, offer: &Offer, _: SentFiles) -> Result<Option<SyncTarget>, Unfit> {
        let disk = offer.disk.as_ref().unwrap();
        let origin = Origin {
            vm: "redis".parse().unwrap(),
            replica: ReplicaId(disk.replica),
            lineage: disk.lineage.as_ref().map(Into::into),
            byte_count: disk.byte_count,
        };
        let target = SyncTarget::begin(self.0.clone(), &origin, Consent::default());
        target
            .map(Some)
            .map_err(|error| Unfit::new(UnfitKind::OtherDisk, error))
    }

    fn take(&mut self, _: Arriving) -> bool {
        true
    }

    fn heard(&mut self) -> Result<(), Unfit> {
        Ok(())
    }

    fn restored(&mut self) -> Result<(), Unfit> {
        Ok(())
    }
}

/// Makes the replica at `target` equal to the running machine's disk, which writes to leaf 77 meanwhile; what it took, and
/// whether that went well.
fn resynced(source: &Disk, target: &Paths) -> (Option<Resync>, Result<(), SourceError>) {
    let (mut here, mut there) = streams();
    let mut desk = DiskDesk(target.clone());
    let receiving = std::thread::spawn(move || receive(&mut there, &mut desk).is_ok());
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    std::fs::write(&kernel, &KERNEL[..]).unwrap();
    let offer = Offer {
        disk: Some(DiskOffer {
            byte_count: source.image().length().bytes(),
            replica: source.replica_id().unwrap(),
            lineage: source.lineage().as_ref().map(LineageOffer::from),
            discard: false,
        }),
        ..offer()
    };
    let sending = Sending {
        offer,
        kernel: &kernel,
        initrd: None,
        disk: Some(source),
    };
    let (go, may_go) = channel();
    let mut resync = None;
    let mut tell = |told: News| match told {
        News::Resync(told) => resync = Some(told),
        News::DiskInSync => {
            write_leaves(source, &[77], 7);
            go.send(Go::Ram).unwrap();
        }
        News::RamInSync => go.send(Go::Stun).unwrap(),
        _ => {}
    };
    let outcome = send(
        &mut here,
        &sending,
        &Machine::new(),
        &SystemClock,
        &mut tell,
        &may_go,
    );
    drop(here);
    assert_eq!(receiving.join().unwrap(), outcome.is_ok());
    (resync, outcome)
}

/// The other site's replica is in use, has what nobody has acknowledged, and ends: as after a crash, or in order, when it
/// knows that it has lost.
fn lose(paths: &Paths, ends_in_order: bool) {
    if ends_in_order {
        let (disk, _) = Standby::open(paths.clone())
            .unwrap()
            .go_live(Position(0))
            .unwrap();
        for leaf in [130, 131] {
            disk.live().write(leaf * LEAF_BYTES, &[9; 4096]).unwrap();
        }
        disk.live().mark_stale().unwrap();
        disk.close().unwrap();
    } else {
        let disk = DiskFile::open(&paths.image, None, false).unwrap().following();
        write_leaves(&disk.into_service().unwrap(), &[130, 131], 9);
    }
}

#[test]
fn a_disk_that_returns_gets_what_differs_and_what_it_alone_wrote_is_undone() {
    const CONTENT: Option<GenerationId> = Some(GenerationId([1; 16]));
    for ends_in_order in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (
            replica_in(folder.path(), 1, CONTENT),
            replica_in(folder.path(), 2, CONTENT),
        );
        lose(&other, ends_in_order);
        let winner = in_service(&one);
        write_leaves(&winner, &[3, 200], 5);
        let (resync, outcome) = resynced(&winner, &other);
        outcome.unwrap();
        let resync = resync.unwrap();
        assert_eq!(resync.kind, ResyncKind::Partial);
        // Two leaves of the winner, one extent of the loser, and leaf 77.
        assert_eq!(resync.planned_bytes, 2 * LEAF_BYTES + EXTENT_BYTES);
        assert_eq!(resync.changed_bytes, resync.planned_bytes + LEAF_BYTES);
        assert_eq!(
            resync.sent_bytes,
            5 * LEAF_BYTES,
            "what differs, and what was written meanwhile"
        );
        drop(winner);
        assert!(std::fs::read(&one.image).unwrap() == std::fs::read(&other.image).unwrap());
        assert!(matches!(state_of(&other), Ok(State::Clean)));
    }
}

#[test]
fn a_new_disk_gets_all_that_is_not_zeros_and_a_foreign_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let one = replica_in(folder.path(), 1, Some(GenerationId([1; 16])));
    let new = replica_in(folder.path(), 2, None);
    let winner = in_service(&one);
    write_leaves(&winner, &[3, 200], 5);
    let (resync, outcome) = resynced(&winner, &new);
    outcome.unwrap();
    let resync = resync.unwrap();
    assert_eq!(
        (resync.kind, resync.sent_bytes),
        (ResyncKind::New, 3 * LEAF_BYTES)
    );
    let foreign = replica_in(folder.path(), 3, Some(GenerationId([8; 16])));
    let (_, refused) = resynced(&winner, &foreign);
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("no content in common"), "{said}");
    drop(winner);
    assert!(std::fs::read(&one.image).unwrap() == std::fs::read(&new.image).unwrap());
}

#[test]
fn more_is_compared_than_may_be_unanswered_or_unsettled_at_once() {
    const CONTENT: Option<GenerationId> = Some(GenerationId([1; 16]));
    const MARKED: u64 = 40 * 256 + 3;
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = [1, 2].map(|name| replica_of(MARKED / 64 + 1, folder.path(), name, CONTENT));
    let winner = in_service(&one);
    winner.lose_peer().unwrap();
    write_leaves(&winner, &(0..MARKED).collect::<Vec<_>>(), 0);
    write_leaves(&winner, &[0, 255, 256, 5_000, MARKED - 1], 5);
    let (resync, outcome) = resynced(&winner, &other);
    outcome.unwrap();
    let resync = resync.unwrap();
    assert_eq!(
        (resync.kind, resync.planned_bytes),
        (ResyncKind::Partial, MARKED * LEAF_BYTES)
    );
    assert_eq!(resync.sent_bytes, 6 * LEAF_BYTES, "and leaf 77");
    drop(winner);
    for leaf in [0, 77, 255, 256, 5_000, MARKED - 1] {
        let [here, there] = [&one, &other].map(|paths| {
            let mut bytes = vec![0; 65_536];
            let image = std::fs::File::open(&paths.image).unwrap();
            image.read_exact_at(&mut bytes, leaf * LEAF_BYTES).unwrap();
            bytes
        });
        assert!(here == there && here[0] != 0, "leaf {leaf}");
    }
    assert!(matches!(state_of(&other), Ok(State::Clean)));
}

#[test]
fn the_end_of_hashes_that_did_not_come_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = [1, 2].map(|name| replica_in(folder.path(), name, Some(GenerationId([1; 16]))));
    let winner = in_service(&one);
    let (mut here, mut there) = streams();
    let mut desk = DiskDesk(other.clone());
    let receiving = std::thread::spawn(move || receive(&mut there, &mut desk));
    let offer = Offer {
        disk: Some(DiskOffer {
            byte_count: winner.image().length().bytes(),
            replica: winner.replica_id().unwrap(),
            lineage: winner.lineage().as_ref().map(LineageOffer::from),
            discard: false,
        }),
        ..offer()
    };
    here.put(&Head::Offer(Box::new(offer)), &[]).unwrap();
    here.put(&Head::Kernel, &KERNEL).unwrap();
    here.put(&Head::Settled { frames: 1 }, &[]).unwrap();
    let refused = receiving.join().unwrap().unwrap_err().to_string();
    assert!(refused.contains("hashes that did not come"), "{refused}");
}
