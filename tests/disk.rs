//! `antipode disk` as operators and scripts meet it: two files, two hosts, kills and bad input.
#![expect(clippy::unwrap_used, reason = "a test: what fails is shown where it fails")]

use std::fs::{self, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const LEAF: usize = 64 * 1024;

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_antipode"));
    command
        .args(arguments)
        .arg("--json")
        .current_dir(folder)
        .env_remove("ANTIPODE_LOG");
    command
}

/// Runs a command; answers with its exit code and its last line.
#[track_caller]
fn run(folder: &Path, arguments: &[&str]) -> (i32, Value) {
    let output = command(folder, arguments).output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    let said: Value = serde_json::from_str(line.lines().last().unwrap_or("null")).unwrap();
    let code = output.status.code().unwrap();
    assert_eq!(
        said["exit_code"],
        code,
        "{arguments:?}: {said} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    (code, said)
}

#[track_caller]
fn done(folder: &Path, arguments: &[&str]) -> Value {
    let (code, said) = run(folder, arguments);
    assert_eq!(code, 0, "{arguments:?}: {said}");
    said
}

/// Leaves of bytes that do not repeat, every fifth of them zeros.
fn content(leaves: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; leaves * LEAF];
    for (index, leaf) in bytes
        .chunks_mut(LEAF)
        .enumerate()
        .filter(|(index, _)| index % 5 != 4)
    {
        let name = [seed, index.to_le_bytes()[0], index.to_le_bytes()[1]];
        blake3::Hasher::new().update(&name).finalize_xof().fill(leaf);
    }
    bytes
}

/// A source with content and a target that shall become its copy.
fn pair(leaves: usize) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("a.img"), content(leaves, 1)).unwrap();
    done(folder.path(), &["disk", "create", "a.img", "--vm", "web"]);
    let size = (leaves * LEAF).to_string();
    done(
        folder.path(),
        &[
            "disk", "create", "b.img", "--vm", "web", "--size", &size, "--empty",
        ],
    );
    folder
}

fn are_equal(folder: &Path) -> bool {
    fs::read(folder.join("a.img")).unwrap() == fs::read(folder.join("b.img")).unwrap()
}

/// Writes to an image as a program that knows nothing of replicas does.
fn write_behind(folder: &Path, image: &str, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(folder.join(image)).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    let later = fs::metadata(folder.join(image)).unwrap().modified().unwrap();
    file.set_modified(later + std::time::Duration::from_secs(1))
        .unwrap();
}

#[test]
fn two_files_become_equal_and_stay_known() {
    let folder = pair(100);
    let here = folder.path();
    assert_eq!(done(here, &["disk", "info", "b.img"])["state"], "stale");
    let plan = done(here, &["disk", "sync", "a.img", "b.img", "--dry-run"]);
    assert_eq!(
        (&plan["outcome"], &plan["leaves_sent"]),
        (&"full".into(), &80.into())
    );
    assert_eq!(done(here, &["disk", "info", "b.img"])["state"], "stale");
    let synced = done(here, &["disk", "sync", "a.img", "b.img"]);
    assert_eq!(
        (&synced["leaves_sent"], &synced["root"]),
        (&plan["leaves_sent"], &plan["root"])
    );
    assert!(are_equal(here));
    let info = done(here, &["disk", "info", "b.img"]);
    assert_eq!(
        (&info["state"], &info["marked_leaves"], &info["in_use"]),
        (&"clean".into(), &0.into(), &false.into())
    );
    assert_eq!(
        done(here, &["disk", "sync", "a.img", "b.img"])["outcome"],
        "nothing"
    );
    done(here, &["disk", "verify", "a.img", "b.img"]);
    // What is not tracked is noticed, and only what differs is sent.
    write_behind(here, "a.img", 7 * LEAF as u64 + 5, b"changed");
    assert_eq!(run(here, &["disk", "verify", "a.img", "b.img"]).0, 50);
    let (code, diff) = run(here, &["disk", "diff", "a.img", "b.img"]);
    assert_eq!(
        (code, &diff["ranges"][0]["offset"], &diff["range_count"]),
        (50, &(7 * LEAF).into(), &1.into())
    );
    let synced = done(here, &["disk", "sync", "a.img", "b.img"]);
    assert_eq!(
        (&synced["outcome"], &synced["leaves_sent"]),
        (&"full".into(), &1.into())
    );
    assert!(are_equal(here));
    done(here, &["disk", "diff", "a.img", "b.img"]);
}

#[test]
fn the_digest_is_what_everybody_else_computes() {
    let folder = TempDir::new().unwrap();
    for (leaves, rest) in [(0, 0), (0, 77), (1, 0), (16, 0), (37, 1234)] {
        let mut bytes = content(leaves + 1, 3);
        bytes.truncate(leaves * LEAF + rest);
        fs::write(folder.path().join("x"), &bytes).unwrap();
        let said = done(folder.path(), &["disk", "digest", "x"]);
        assert_eq!(said["blake3"], blake3::hash(&bytes).to_string());
        assert_eq!(
            done(folder.path(), &["disk", "digest", "x", "--content"])["content"],
            said["content"]
        );
    }
}

#[test]
fn a_second_digest_of_a_replica_reads_only_what_changed() {
    let folder = pair(40);
    let here = folder.path();
    // Not in the tick of the clock in which it is digested: what changes then is not kept.
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let image = OpenOptions::new().write(true).open(here.join("a.img")).unwrap();
    image.set_modified(long_ago).unwrap();
    let digest = |more: &[&str]| done(here, &[&["disk", "digest", "a.img"], more].concat());
    let first = digest(&[]);
    assert_eq!(first["bytes_hashed"], 40 * LEAF);
    let second = digest(&[]);
    assert_eq!(
        (&second["bytes_hashed"], &second["blake3"], &second["content"]),
        (&0.into(), &first["blake3"], &first["content"])
    );
    assert_eq!(digest(&["--full"])["bytes_hashed"], 40 * LEAF);
    // A sync from it uses the replica and writes nothing.
    done(here, &["disk", "sync", "a.img", "b.img"]);
    assert_eq!(digest(&["--content"])["bytes_hashed"], 0);
    write_behind(here, "a.img", 5, b"changed");
    let after = digest(&[]);
    let bytes = fs::read(here.join("a.img")).unwrap();
    assert_eq!(
        (&after["bytes_hashed"], &after["blake3"]),
        (&(40 * LEAF).into(), &blake3::hash(&bytes).to_string().into())
    );
}

/// A service that waits at a port that the host chose.
struct Service {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    address: String,
}

impl Service {
    /// One that ends after a session.
    fn start(folder: &Path, image: &str, role: &str, more: &[&str]) -> Self {
        Self::start_for_ever(folder, image, role, &[&["--once"], more].concat())
    }

    fn start_for_ever(folder: &Path, image: &str, role: &str, more: &[&str]) -> Self {
        let fixed = [
            "disk",
            "serve",
            image,
            "--listen",
            "127.0.0.1:0",
            "--cert",
            "site-paris.pem",
        ];
        let role: &[&str] = if role.is_empty() { &[] } else { &["--as", role] };
        let mut child = command(folder, &[&fixed[..], role, more].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let address = format!("tls://{}", said["listening"].as_str().unwrap());
        Self {
            child,
            output,
            address,
        }
    }

    /// Its exit code and last line.
    fn end(&mut self) -> (i32, Value) {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        let code = self.child.wait().unwrap().code().unwrap();
        (code, serde_json::from_str(rest.lines().last().unwrap()).unwrap())
    }
}

/// A test that fails leaves nothing behind that waits for ever.
impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn with_certificates(folder: &Path) {
    done(folder, &["certs", "init"]);
    for name in ["paris", "berlin"] {
        done(folder, &["certs", "issue", "site", name]);
    }
}

#[test]
fn two_hosts_sync_in_either_direction() {
    let folder = pair(100);
    let here = folder.path();
    with_certificates(here);
    let mut service = Service::start(here, "b.img", "target", &["--peer", "berlin"]);
    let proof = ["--cert", "site-berlin.pem", "--peer", "paris"];
    let said = done(
        here,
        &[&["disk", "sync", "a.img", &service.address][..], &proof].concat(),
    );
    let (code, theirs) = service.end();
    assert_eq!((code, &theirs["root"]), (0, &said["root"]));
    assert!(are_equal(here));
    // The other way round: what was copied is the source now.
    write_behind(here, "b.img", 0, b"changed");
    let mut service = Service::start(here, "b.img", "source", &["--limit", "50M"]);
    let said = done(
        here,
        &[&["disk", "sync", &service.address, "a.img"][..], &proof].concat(),
    );
    assert_eq!((service.end().0, &said["leaves_sent"]), (0, &1.into()));
    assert!(are_equal(here));
}

#[test]
fn a_far_target_that_is_only_looked_at_is_left_as_it_was() {
    let folder = pair(20);
    let here = folder.path();
    with_certificates(here);
    let before = fs::read(here.join("b.img.replica")).unwrap();
    let looks: [(&[&str], i32); 2] = [
        (&["disk", "verify", "a.img", "--limit", "50M"], 50),
        (&["disk", "sync", "a.img", "--dry-run"], 0),
    ];
    for (look, expected) in looks {
        let mut service = Service::start(here, "b.img", "target", &[]);
        let more = [service.address.as_str(), "--cert", "site-berlin.pem"];
        let (code, said) = run(here, &[look, &more].concat());
        assert_eq!((code, &said["dry_run"]), (expected, &true.into()));
        let (code, theirs) = service.end();
        assert_eq!((code, &theirs["dry_run"]), (0, &true.into()));
        assert!(fs::read(here.join("b.img.replica")).unwrap() == before);
    }
}

#[test]
fn a_far_image_is_digested_as_one_of_this_host_is() {
    let folder = pair(40);
    let here = folder.path();
    with_certificates(here);
    // A replica, whatever it is served as; and a file that is none.
    fs::write(here.join("x"), &content(3, 9)[..100_000]).unwrap();
    let proof = ["--cert", "site-berlin.pem", "--peer", "paris"];
    for (image, role) in [("a.img", "source"), ("b.img", "target"), ("x", "")] {
        for more in [&[][..], &["--content"], &["--full"]] {
            let mut service = Service::start(here, image, role, &[]);
            let ours = done(here, &[&["disk", "digest", image], more].concat());
            let asked = [&["disk", "digest", &service.address], more, &proof[..]].concat();
            let told = done(here, &asked);
            for field in ["bytes", "blake3", "content"] {
                assert_eq!(told[field], ours[field], "{image} {more:?} {field}");
            }
            assert_eq!(
                (told["image"].as_str(), told["blake3"].is_null()),
                (Some(&*service.address), more == ["--content"])
            );
            let (code, theirs) = service.end();
            assert_eq!((code, &theirs["content"]), (0, &told["content"]));
        }
    }
    // What is kept of a digest is kept at the far end too.
    let mut service = Service::start(here, "a.img", "source", &[]);
    let again = done(
        here,
        &[&["disk", "digest", &service.address][..], &proof].concat(),
    );
    assert_eq!((service.end().0, &again["bytes_hashed"]), (0, &0.into()));
}

#[test]
fn a_far_image_is_compared_as_one_of_this_host_is() {
    let folder = TempDir::new().unwrap();
    let here = folder.path();
    with_certificates(here);
    let bytes = content(40, 1);
    fs::write(here.join("x"), &bytes).unwrap();
    fs::write(here.join("y"), &bytes).unwrap();
    let proof = ["--cert", "site-berlin.pem"];
    let diff = |far: &str, is_swapped: bool| {
        let mut service = Service::start(here, far, "", &[]);
        let mut ends = ["x", service.address.as_str()];
        if is_swapped {
            ends.reverse();
        }
        let found = run(here, &[&["disk", "diff"], &ends[..], &proof].concat());
        let (code, said) = service.end();
        assert_eq!(code, 0, "{said}");
        found
    };
    assert_eq!(diff("y", false).0, 0);
    write_behind(here, "y", 7 * LEAF as u64 + 5, b"changed");
    write_behind(here, "y", 30 * LEAF as u64, b"changed");
    let near = run(here, &["disk", "diff", "x", "y"]);
    assert_eq!((near.0, &near.1["range_count"]), (50, &2.into()));
    assert!(diff("y", false) == near && diff("y", true) == near);
    let file = OpenOptions::new().write(true).open(here.join("y")).unwrap();
    file.set_len(5 * LEAF as u64).unwrap();
    let lengths = |found: (i32, Value)| (found.0, found.1["lengths"].clone());
    let expected = vec![40 * LEAF, 5 * LEAF];
    assert_eq!(lengths(diff("y", false)), (50, expected.clone().into()));
    let expected: Vec<usize> = expected.into_iter().rev().collect();
    assert_eq!(lengths(diff("y", true)), (50, expected.into()));
}

#[test]
fn what_is_not_served_is_refused_with_the_reason() {
    let folder = pair(20);
    let here = folder.path();
    with_certificates(here);
    let proof = ["--cert", "site-berlin.pem"];
    let why = |found: (i32, Value)| {
        let what = found.1["errors"][0]["what"].as_str().unwrap_or_default();
        (found.0, what.to_owned())
    };
    // A sync with an image that is only looked at.
    let mut service = Service::start(here, "b.img", "", &[]);
    let (code, what) = why(run(
        here,
        &[&["disk", "sync", "a.img", &service.address][..], &proof].concat(),
    ));
    assert!(
        code == 52 && what.contains("`disk digest` and `disk diff` alone"),
        "{what}"
    );
    assert_eq!(service.end().0, 51);
    // An image that somebody has open for writing.
    let held = fs::File::open(here.join("b.img")).unwrap();
    held.lock().unwrap();
    for (look, role) in [("digest", ""), ("diff", ""), ("sync", "target")] {
        let mut service = Service::start(here, "b.img", role, &[]);
        let address = service.address.clone();
        let ends = if look == "digest" {
            vec![&*address]
        } else {
            vec!["a.img", &address]
        };
        let (code, what) = why(run(here, &[&["disk", look], &ends[..], &proof].concat()));
        assert!(code == 52 && what.contains("in use"), "{look}: {code}: {what}");
        assert_ne!(service.end().0, 0);
    }
    let far = "tls://127.0.0.1:1";
    for (arguments, expected) in [
        (&["disk", "digest", far][..], "no certificate"),
        (&["disk", "diff", "a.img", far], "no certificate"),
        (&["disk", "diff", far, far], "both ends"),
        (
            &["disk", "digest", far, "--metadata", "m"],
            "cannot be named here",
        ),
        (
            &["disk", "sync", "a.img", far, "--target-metadata", "m"],
            "cannot be named here",
        ),
    ] {
        let (code, what) = why(run(here, arguments));
        assert!(
            code == 2 && what.contains(expected),
            "{arguments:?}: {code}: {what}"
        );
    }
}

/// Ticks of the clock that a process has used, as programs count them.
fn ticks(child: &Child) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(11).unwrap().parse().unwrap()
}

#[test]
fn a_peer_that_vanishes_while_its_digest_is_made_holds_nobody_up() {
    let folder = TempDir::new().unwrap();
    let here = folder.path();
    with_certificates(here);
    // So many zeros take some seconds to hash.
    let size = 200 << 30;
    fs::File::create(here.join("x")).unwrap().set_len(size).unwrap();
    let mut service = Service::start_for_ever(here, "x", "", &[]);
    let proof = ["--cert", "site-berlin.pem"];
    let mut child = command(
        here,
        &[&["disk", "digest", &service.address][..], &proof].concat(),
    )
    .stdout(Stdio::null())
    .spawn()
    .unwrap();
    // It has begun once the service has used some time of the processor.
    while ticks(&service.child) < 20 {
        assert!(child.try_wait().unwrap().is_none(), "it took no time");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let asked = [&["disk", "digest", &service.address, "--content"][..], &proof].concat();
    assert_eq!(done(here, &asked)["bytes"], size);
    assert!(service.child.try_wait().unwrap().is_none());
}

#[test]
fn who_says_nothing_holds_nobody_up() {
    let folder = pair(20);
    let here = folder.path();
    with_certificates(here);
    let mut service = Service::start(here, "b.img", "target", &[]);
    let address = service.address.strip_prefix("tls://").unwrap().to_owned();
    let _silent = [(); 3].map(|()| TcpStream::connect(&address).unwrap());
    let proof = ["--cert", "site-berlin.pem"];
    done(
        here,
        &[&["disk", "sync", "a.img", &service.address][..], &proof].concat(),
    );
    assert_eq!(service.end().0, 0);
    assert!(are_equal(here));
}

#[test]
fn whom_nobody_named_is_refused() {
    let folder = pair(20);
    let here = folder.path();
    with_certificates(here);
    let before = fs::read(here.join("b.img.replica")).unwrap();
    let mut service = Service::start(here, "b.img", "target", &["--peer", "rome"]);
    let sync = [
        "disk",
        "sync",
        "a.img",
        &service.address,
        "--cert",
        "site-berlin.pem",
    ];
    let (code, _) = run(here, &sync);
    assert!([40, 52].contains(&code), "{code}");
    assert_eq!(service.end().0, 40);
    assert_eq!(fs::read(here.join("b.img.replica")).unwrap(), before);
}

#[test]
fn a_killed_sync_says_syncing_and_goes_on() {
    let folder = pair(400);
    let here = folder.path();
    // 21 MB at 4 MiB a second: long enough to be killed in the middle.
    let mut child = command(here, &["disk", "sync", "a.img", "b.img", "--limit", "4M"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let is_syncing = || done(here, &["disk", "info", "b.img"])["state"] == "syncing";
    while !is_syncing() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it began to write"
        );
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_syncing() && !are_equal(here));
    let plan = done(here, &["disk", "sync", "a.img", "b.img", "--dry-run"]);
    assert_eq!(
        (&plan["relation"], &plan["outcome"]),
        (&"resuming".into(), &"partial".into())
    );
    // What another program writes to the source meanwhile is not marked, and must be seen nevertheless.
    write_behind(here, "a.img", 3, b"changed");
    let said = done(here, &["disk", "sync", "a.img", "b.img"]);
    assert_eq!(
        (&said["relation"], &said["outcome"]),
        (&"resuming".into(), &"full".into())
    );
    assert!(are_equal(here));
    assert_eq!(done(here, &["disk", "info", "b.img"])["state"], "clean");
}

#[test]
fn a_sync_that_never_began_leaves_no_trace() {
    let folder = pair(20);
    let here = folder.path();
    with_certificates(here);
    done(here, &["disk", "sync", "a.img", "b.img"]);
    let metadata = |image: &str| fs::read(here.join(format!("{image}.replica"))).unwrap();
    let before = ["a.img", "b.img"].map(metadata);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let there = format!("tls://{nobody}");
    let proof = ["--cert", "site-berlin.pem"];
    for ends in [["a.img", &there], [&there, "b.img"]] {
        let (code, said) = run(here, &[&["disk", "sync"], &ends[..], &proof].concat());
        let what = said["errors"][0]["what"].as_str().unwrap();
        assert!(code == 52 && what.contains(&nobody.to_string()), "{said}");
    }
    assert_eq!(run(here, &["disk", "sync", "a.img", "none.img"]).0, 13);
    assert_eq!(run(here, &["disk", "sync", "a.img", "./a.img"]).0, 2);
    assert!(["a.img", "b.img"].map(metadata) == before);
    write_behind(here, "a.img", 9, b"changed");
    assert_eq!(done(here, &["disk", "sync", "a.img", "b.img"])["outcome"], "full");
    assert!(are_equal(here));
}

#[test]
fn an_image_of_another_length_is_told() {
    let folder = pair(20);
    let here = folder.path();
    let image = OpenOptions::new().write(true).open(here.join("b.img")).unwrap();
    image.set_len(10 * LEAF as u64).unwrap();
    let info = done(here, &["disk", "info", "b.img"]);
    assert_eq!(
        (&info["bytes"], &info["image_bytes"]),
        (&(20 * LEAF).into(), &(10 * LEAF).into())
    );
    assert_eq!(run(here, &["disk", "sync", "a.img", "b.img"]).0, 13);
}

#[test]
fn what_would_do_harm_is_refused_and_changes_nothing() {
    let folder = pair(20);
    let here = folder.path();
    let refused = |arguments: &[&str], code: i32, what: &str| {
        let before = fs::read(here.join("b.img")).unwrap();
        let (found, said) = run(here, arguments);
        let error = said["errors"][0]["what"].as_str().unwrap_or_default();
        assert_eq!(found, code, "{said}");
        assert!(error.contains(what), "{said}");
        assert!(
            said["errors"][0]["do"]
                .as_str()
                .is_some_and(|mend| !mend.is_empty())
        );
        assert_eq!(fs::read(here.join("b.img")).unwrap(), before);
    };
    refused(&["disk", "sync", "b.img", "a.img"], 51, "holds nothing yet");
    refused(
        &["disk", "create", "a.img", "--vm", "web"],
        42,
        "is there already",
    );
    refused(&["disk", "info", "c.img"], 13, "No such file");
    fs::write(here.join("c.img"), content(19, 5)).unwrap();
    refused(&["disk", "sync", "c.img", "b.img"], 53, "no replica's metadata");
    done(here, &["disk", "create", "c.img", "--vm", "web"]);
    refused(&["disk", "sync", "c.img", "b.img"], 51, "length");
    done(here, &["disk", "sync", "a.img", "b.img"]);
    refused(&["disk", "sync", "c.img", "b.img"], 51, "no content in common");
    done(
        here,
        &["disk", "create", "d.img", "--vm", "mail", "--size", "1280K"],
    );
    refused(&["disk", "sync", "d.img", "b.img"], 51, "two different VMs");
    refused(
        &["disk", "create", "e.img", "--vm", "x", "--size", "1000"],
        13,
        "sectors",
    );
    refused(
        &["disk", "create", "e.img", "--vm", "X", "--size", "1M"],
        2,
        "no VM id",
    );
    with_certificates(here);
    for address in ["nowhere", "127.0.0.1:x"] {
        let serve = ["disk", "serve", "b.img", "--as", "target", "--listen", address];
        refused(&[&serve[..], &["--cert", "site-paris.pem"]].concat(), 61, address);
    }
    refused(
        &["disk", "sync", "a.img", "tls://127.0.0.1:1"],
        2,
        "no certificate",
    );
    // A disk that somebody has open.
    let held = fs::File::open(here.join("b.img")).unwrap();
    held.lock_shared().unwrap();
    refused(&["disk", "sync", "a.img", "b.img"], 14, "in use");
    drop(held);
    // Metadata that is not what was written.
    let metadata = OpenOptions::new()
        .write(true)
        .open(here.join("b.img.replica"))
        .unwrap();
    for slot in [0, 16_384] {
        metadata.write_all_at(&[0xff; 8], slot + 64).unwrap();
    }
    refused(&["disk", "sync", "a.img", "b.img"], 53, "damaged");
}

/// Nobody's number. Root may write to anything: as root the command is run as this user.
const NOBODY: u32 = 65_534;

#[test]
fn a_target_that_may_not_be_written_is_refused() {
    use std::os::unix::fs::{MetadataExt, chown};
    use std::os::unix::process::CommandExt;
    let folder = pair(20);
    let here = folder.path();
    fs::set_permissions(here.join("b.img"), Permissions::from_mode(0o400)).unwrap();
    let program = here.join("antipode");
    fs::copy(env!("CARGO_BIN_EXE_antipode"), &program).unwrap();
    let mut sync = Command::new(program);
    sync.args(["disk", "sync", "a.img", "b.img", "--json"])
        .current_dir(here);
    if fs::metadata(here).unwrap().uid() == 0 {
        for entry in fs::read_dir(here).unwrap() {
            chown(entry.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        chown(here, Some(NOBODY), Some(NOBODY)).unwrap();
        sync.uid(NOBODY).gid(NOBODY);
    }
    let output = sync.output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &said["exit_code"]),
        (Some(13), &13.into()),
        "{said}"
    );
    let error = &said["errors"][0];
    assert!(
        error["what"]
            .as_str()
            .unwrap()
            .contains("b.img: cannot be opened"),
        "{said}"
    );
    assert_eq!(done(here, &["disk", "info", "b.img"])["state"], "stale");
}
