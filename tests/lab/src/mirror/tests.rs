//! Both ends on this machine, over a socket.

use super::backup::serve;
use super::primary::{self, Outcome};
use super::{Files, LEAF, alone, open_replica};
use antipode_disk_sync::disk::{self, NewDisk, Paths};
use antipode_disk_sync::replica::{GenerationId, ReplicaId, State};
use std::fs;
use std::net::TcpListener;
use std::path::Path;

const LEAVES: usize = 128;

fn made(folder: &Path, name: &str, content: Option<u8>) -> Files {
    let image = folder.join(name);
    let paths = Paths::new(image.clone(), None);
    let new = NewDisk {
        vm: "vm".parse().unwrap(),
        replica: ReplicaId([name.as_bytes()[0]; 16]),
        content: content.map(|byte| GenerationId([byte; 16])),
        size: Some((LEAVES * LEAF) as u64),
    };
    disk::create(&paths, new).unwrap();
    Files {
        image,
        metadata: paths.metadata,
    }
}

#[test]
fn a_disk_is_cloned_and_compared_under_a_writer_that_never_stops() {
    let folder = tempfile::tempdir().unwrap();
    let source = made(folder.path(), "a", Some(1));
    let target = made(folder.path(), "b", None);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let outcome: Outcome = std::thread::scope(|scope| {
        let backup = scope.spawn(|| serve(&listener, &target, 3));
        let outcome = primary::run(&primary::Args::new(source.clone(), address, 8 << 20, 4)).unwrap();
        backup.join().unwrap().unwrap();
        outcome
    });
    assert_eq!(
        (outcome.false_alarms, outcome.found, outcome.repaired),
        (0, 3, 3),
        "{outcome:?}"
    );
    assert!(
        outcome.stun_bytes <= outcome.stun_bytes_max && outcome.passes >= 1,
        "{outcome:?}"
    );
    assert!(
        outcome.compared >= 3 * LEAVES as u64 && outcome.writes_while_comparing > 0,
        "{outcome:?}"
    );
    // Three comparisons, and the repair of three leaves.
    assert_eq!(outcome.overtaken, 3 * LEAVES.div_ceil(32) as u64 + 1);
    assert!(outcome.again >= outcome.overtaken, "{outcome:?}");
    assert!(fs::read(&source.image).unwrap() == fs::read(&target.image).unwrap());
    assert_eq!(open_replica(&target.metadata).unwrap().state(), State::Clean);
}

#[test]
fn a_replica_alone_marks_what_it_writes_and_a_crash_what_it_may_have_written() {
    use clap::Parser;
    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: alone::Args,
    }
    let folder = tempfile::tempdir().unwrap();
    let files = made(folder.path(), "a", Some(1));
    let (image, metadata) = (files.image.to_str().unwrap(), files.metadata.to_str().unwrap());
    let run = |more: &[&str]| {
        let line = [&["alone", image, metadata, "--leaves", "5"], more].concat();
        alone::run(&Alone::parse_from(line).args).unwrap()
    };
    assert_eq!(run(&["--first", "3"]), 5);
    assert_eq!(open_replica(&files.metadata).unwrap().dirty().count(), 5);
    // The whole extent is unsure.
    assert_eq!(run(&["--first", "70", "--crash", "--seed", "2"]), 5);
    assert_eq!(open_replica(&files.metadata).unwrap().dirty().count(), 5 + 64);
}
