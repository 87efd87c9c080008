//! `antipode certs` as operators and scripts meet it: files, exit codes, and what is said when something is wrong.
#![expect(clippy::unwrap_used, reason = "a test: what fails is shown where it fails")]

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use antipode::base::clock::wall_clock_unix_seconds;
use antipode_certs::{Authority, AuthorityDays, Existing, Identity, LeafDays, UnixTime};
use serde_json::Value;
use tempfile::TempDir;

const DAY: i64 = 86_400;

fn certs(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_antipode"))
        .arg("certs")
        .args(arguments)
        .current_dir(folder)
        .env_remove("ANTIPODE_LOG")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs a command that must succeed; returns what it says.
#[track_caller]
fn done(folder: &Path, arguments: &[&str]) -> String {
    let output = certs(folder, arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{arguments:?}: {}",
        text(&output.stderr)
    );
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

/// Runs a command with `--json`; returns its exit code and its one line.
#[track_caller]
fn json(folder: &Path, arguments: &[&str]) -> (i32, Value) {
    let output = certs(folder, &[arguments, &["--json"]].concat());
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).matches('\n').count(), 1);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["exit_code"], output.status.code().unwrap());
    assert_eq!(said["ok"], output.status.success());
    (output.status.code().unwrap(), said)
}

/// Runs a command that must fail with `code` and name `place`, and must change nothing.
#[track_caller]
fn refused(folder: &Path, arguments: &[&str], code: i32, place: &str, what: &str) {
    let before = inventory(folder);
    let output = certs(folder, arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(inventory(folder) == before, "something was changed");
    let lines: Vec<&str> = said.lines().collect();
    let [error, at, mend] = lines[..] else {
        panic!("{said}")
    };
    assert!(error.starts_with("error: ") && error.contains(what), "{said}");
    assert!(at.starts_with("where: ") && at.ends_with(place), "{said}");
    assert!(mend.starts_with("do:    "), "{said}");
}

fn inventory(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(inventory(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn with_ca() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    done(folder.path(), &["init"]);
    folder
}

/// A folder with a CA and a site's certificate.
fn with_site() -> TempDir {
    let folder = with_ca();
    done(folder.path(), &["issue", "site", "berlin"]);
    folder
}

/// A folder whose CA was made a year ago, and whose site's certificate was issued `days` ago.
fn issued_days_ago(days: i64) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let now = UnixTime::from_seconds(wall_clock_unix_seconds());
    let authority = Authority::create(AuthorityDays::default(), now.plus(-400 * DAY)).unwrap();
    authority.save(folder.path()).unwrap();
    let identity = Identity::from_uri("antipode://site/berlin").unwrap();
    let issued = authority.issue(&identity, LeafDays::default(), now.plus(-days * DAY));
    let path = folder.path().join("site-berlin.pem");
    issued.unwrap().save(&path, Existing::Keep).unwrap();
    folder
}

#[test]
fn a_ca_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let said = done(folder.path(), &["init", "ca"]);
    assert!(
        said.starts_with("Antipode CA ") && said.contains("expires in 10 years"),
        "{said}"
    );
    let at = |name: &str| folder.path().join("ca").join(name);
    assert_eq!(
        (mode(&at("ca.key")), mode(&at("ca.crt")), mode(&at(""))),
        (0o600, 0o644, 0o700)
    );
    refused(folder.path(), &["init", "ca"], 42, "ca/ca.crt", "not overwritten");
    fs::remove_file(at("ca.crt")).unwrap();
    refused(folder.path(), &["init", "ca"], 42, "ca/ca.key", "not overwritten");
}

#[test]
fn a_certificate_of_each_role_is_issued_and_good() {
    let folder = with_ca();
    for role in ["site", "tiebreaker", "operator"] {
        let file = format!("{role}-one.pem");
        let said = done(folder.path(), &["issue", role, "one"]);
        assert!(
            said.contains(&file) && said.contains("expires in 12 months"),
            "{said}"
        );
        assert_eq!(mode(&folder.path().join(&file)), 0o600);
        let said = done(folder.path(), &["verify", &file, "--role", role]);
        assert_eq!(said.matches("good: ").count(), 2, "{said}");
        refused(
            folder.path(),
            &["issue", role, "one"],
            42,
            &file,
            "not overwritten",
        );
    }
}

#[test]
fn the_umask_does_not_open_a_key() {
    let folder = with_ca();
    let command = format!(
        "umask 0; exec {} certs issue site berlin",
        env!("CARGO_BIN_EXE_antipode")
    );
    let status = Command::new("sh")
        .args(["-c", &command])
        .current_dir(folder.path())
        .output();
    assert!(status.unwrap().status.success());
    assert_eq!(mode(&folder.path().join("site-berlin.pem")), 0o600);
}

#[test]
fn a_certificate_goes_into_another_folder_with_its_ca() {
    let folder = with_ca();
    fs::create_dir(folder.path().join("host")).unwrap();
    done(folder.path(), &["issue", "site", "berlin", "--into", "host"]);
    done(folder.path(), &["verify", "host/site-berlin.pem"]);
    done(folder.path(), &["issue", "tiebreaker", "one", "--into", "host"]);
    fs::write(folder.path().join("host/ca.crt"), "another").unwrap();
    let arguments = ["issue", "site", "paris", "--into", "host"];
    refused(folder.path(), &arguments, 42, "host/ca.crt", "not overwritten");
    let arguments = ["issue", "site", "paris", "--into", "none"];
    refused(folder.path(), &arguments, 30, "none/ca.crt", "No such file");
}

#[test]
fn certificates_are_shown_as_text_and_json() {
    let folder = with_site();
    let said = done(folder.path(), &["show"]);
    for part in [
        "ca.crt",
        "site-berlin.pem",
        "antipode://site/berlin",
        "Antipode CA ",
        "sha256",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (code, said) = json(folder.path(), &["show", "site-berlin.pem", "ca.crt"]);
    assert_eq!(code, 0);
    let [leaf, ca] = &said["certificates"].as_array().unwrap()[..] else {
        panic!("{said}")
    };
    assert_eq!((&leaf["role"], &leaf["name"]), (&"site".into(), &"berlin".into()));
    assert_eq!(
        (&leaf["issuer"], &leaf["standing"]),
        (&ca["name"], &"good".into())
    );
    assert_eq!(ca["role"], "ca");
    let days = (leaf["not_after"].as_i64().unwrap() - wall_clock_unix_seconds()) / DAY;
    assert!((364..=365).contains(&days), "{days}");
}

#[test]
fn what_can_be_shown_is_shown_beside_what_cannot() {
    let folder = with_site();
    fs::write(
        folder.path().join("broken.pem"),
        "-----BEGIN CERTIFICATE-----\nAAA\n",
    )
    .unwrap();
    let output = certs(folder.path(), &["show", ".", "gone.pem"]);
    assert_eq!(output.status.code(), Some(40));
    assert!(text(&output.stdout).contains("antipode://site/berlin"));
    let said = text(&output.stderr);
    assert!(said.contains("broken.pem") && said.contains("gone.pem"), "{said}");
    let (code, said) = json(folder.path(), &["show"]);
    assert_eq!((code, &said["exit_name"]), (40, &"certs-refused".into()));
    assert_eq!(said["certificates"].as_array().unwrap().len(), 2);
    assert_eq!(said["errors"][0]["where"], "./broken.pem");
    let empty = tempfile::tempdir().unwrap();
    refused(empty.path(), &["show"], 40, "./*.pem", "there is no such file");
}

#[test]
fn a_renewal_has_the_same_holder_and_a_new_key() {
    let folder = issued_days_ago(370);
    refused(
        folder.path(),
        &["verify", "site-berlin.pem"],
        40,
        "site-berlin.pem",
        "it expired at",
    );
    let before = fs::read(folder.path().join("site-berlin.pem")).unwrap();
    let said = done(folder.path(), &["renew", "site-berlin.pem", "--days", "90"]);
    assert!(said.contains("antipode://site/berlin, expires in"), "{said}");
    assert_ne!(fs::read(folder.path().join("site-berlin.pem")).unwrap(), before);
    assert_eq!(mode(&folder.path().join("site-berlin.pem")), 0o600);
    done(folder.path(), &["verify", "site-berlin.pem", "--role", "site"]);
    let (_, said) = json(folder.path(), &["renew", "site-berlin.pem"]);
    assert_eq!(said["certificates"][0]["file"], "site-berlin.pem");
    // An exposed key is replaced by one that is not.
    let path = folder.path().join("site-berlin.pem");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    done(folder.path(), &["renew", "site-berlin.pem"]);
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_renewal_of_several_is_all_or_nothing() {
    let (folder, foreign) = (with_site(), with_site());
    fs::copy(
        foreign.path().join("site-berlin.pem"),
        folder.path().join("foreign.pem"),
    )
    .unwrap();
    let arguments = ["renew", "site-berlin.pem", "foreign.pem"];
    refused(
        folder.path(),
        &arguments,
        40,
        "foreign.pem",
        "not signed by the CA",
    );
}

#[test]
fn an_end_that_is_near_is_warned_about() {
    let folder = issued_days_ago(340);
    let output = certs(folder.path(), &["verify", "site-berlin.pem"]);
    assert_eq!(output.status.code(), Some(41));
    let said = text(&output.stdout);
    assert!(
        said.contains("do: antipode certs renew site-berlin.pem"),
        "{said}"
    );
    let (_, said) = json(folder.path(), &["verify", "site-berlin.pem"]);
    assert_eq!(said["certificates"][0]["standing"], "expires-soon");
    assert_eq!(said["exit_name"], "expires-soon");
    assert!(done(folder.path(), &["show"]).contains("  do:          antipode certs renew ./site-berlin.pem"));
}

#[test]
fn every_fault_names_its_file() {
    let file = "site-berlin.pem";
    let verify = ["verify", file];
    let folder = with_site();
    let path = folder.path().join(file);
    let wrong_role = ["verify", file, "--role", "tiebreaker"];
    refused(
        folder.path(),
        &wrong_role,
        40,
        file,
        "one for the role tiebreaker is needed",
    );
    refused(
        folder.path(),
        &["verify", "gone.pem"],
        40,
        "gone.pem",
        "no such file",
    );
    let other = with_site();
    let other_ca = other.path().join("ca.crt");
    let wrong_ca = ["verify", file, "--ca", other_ca.to_str().unwrap()];
    refused(folder.path(), &wrong_ca, 40, file, "not signed by the CA");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    refused(folder.path(), &verify, 40, file, "its mode is 0644");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let halves = |folder: &TempDir| {
        let whole = fs::read_to_string(folder.path().join(file)).unwrap();
        let middle = whole.find("-----BEGIN PRIVATE").unwrap();
        (whole[..middle].to_owned(), whole[middle..].to_owned())
    };
    fs::write(&path, halves(&folder).0 + &halves(&other).1).unwrap();
    refused(
        folder.path(),
        &verify,
        40,
        file,
        "does not belong to its certificate",
    );
    fs::write(folder.path().join("ca.crt"), "").unwrap();
    refused(folder.path(), &verify, 40, "ca.crt", "0 certificates");
    let early = issued_days_ago(-2);
    refused(early.path(), &verify, 40, file, "it is not valid before");
}

#[test]
fn an_exposed_or_foreign_ca_key_issues_nothing() {
    let (folder, other) = (with_ca(), with_ca());
    let issue = ["issue", "site", "berlin"];
    let key = folder.path().join("ca.key");
    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    refused(folder.path(), &issue, 40, "ca.key", "its mode is 0640");
    fs::copy(other.path().join("ca.key"), &key).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    refused(folder.path(), &issue, 40, "ca.key", "does not belong to a CA");
    fs::remove_file(&key).unwrap();
    refused(folder.path(), &issue, 40, "ca.key", "there is no such file");
}

#[test]
fn no_certificate_outlives_its_ca() {
    let folder = tempfile::tempdir().unwrap();
    done(folder.path(), &["init", "--days", "10"]);
    let output = certs(folder.path(), &["issue", "site", "berlin"]);
    assert_eq!(output.status.code(), Some(40));
    assert!(
        text(&output.stderr).contains("give fewer --days"),
        "{}",
        text(&output.stderr)
    );
    done(folder.path(), &["issue", "site", "berlin", "--days", "9"]);
}

#[test]
fn wrong_words_are_a_misuse() {
    let folder = with_site();
    for (arguments, place, what) in [
        (&["issue", "king", "berlin"][..], "ROLE", "\"king\" is no role"),
        (&["issue", "site", "Berlin"], "NAME", "\"Berlin\" is no name"),
        (&["issue", "site", "../berlin"], "NAME", "is no name"),
        (
            &["issue", "site", "paris", "--days", "2000"],
            "--days",
            "1 to 1096 days",
        ),
        (&["init", "new", "--days", "0"], "--days", "1 to 7300 days"),
        (
            &["renew", "site-berlin.pem", "--days", "0"],
            "--days",
            "1 to 1096 days",
        ),
        (
            &["verify", "site-berlin.pem", "--role", "x"],
            "--role",
            "is no role",
        ),
    ] {
        refused(folder.path(), arguments, 2, place, what);
    }
}
