//! The binary as operators and scripts meet it.
#![expect(clippy::unwrap_used, reason = "a test: what fails is shown where it fails")]

use std::process::{Command, Output};

fn antipode(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_antipode"))
        .args(arguments)
        .env_remove("ANTIPODE_LOG")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn help_and_version_go_to_standard_output() {
    let help = antipode(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("Exit codes:"));
    assert!(text(&help.stdout).contains("kvm-unusable"));
    let version = antipode(&["--version"]);
    assert_eq!(
        text(&version.stdout),
        concat!("antipode ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn a_misuse_ends_with_the_usage_code() {
    for arguments in [&[][..], &["fly"], &["completions"], &["completions", "tcsh"]] {
        let output = antipode(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
        assert!(text(&output.stderr).contains("--help"), "{arguments:?}");
    }
}

#[test]
fn with_json_a_misuse_is_one_line_of_json() {
    let output = antipode(&["fly", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stderr.is_empty());
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["exit_name"], "usage");
    assert_eq!(said["errors"][0]["do"], "see antipode --help");
    assert_eq!(text(&output.stdout).matches('\n').count(), 1);
}

#[test]
fn a_wrong_log_filter_is_refused_with_what_to_do() {
    let output = antipode(&["man", "--log", "antipode=loud"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(
        said.starts_with("error: \"antipode=loud\" is no log filter\nwhere: --log\ndo:    use"),
        "{said}"
    );
}

#[test]
fn completions_are_written_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = antipode(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(text(&output.stdout).contains("completions"), "{shell}");
    }
}

#[test]
fn manual_pages_go_to_standard_output_or_into_a_folder() {
    let page = antipode(&["man"]);
    assert_eq!(page.status.code(), Some(0));
    assert!(text(&page.stdout).contains(".TH antipode 1"));
    assert!(text(&page.stdout).contains("triple\\-fault"));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let written = antipode(&["man", "--json", path]);
    assert_eq!(written.status.code(), Some(0));
    let said: serde_json::Value = serde_json::from_slice(&written.stdout).unwrap();
    let pages = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(said["pages"], pages);
    assert!(folder.path().join("antipode-completions.1").is_file());

    let missing = antipode(&["man", &format!("{path}/none")]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("do:    create it"));
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_antipode"))
        .args(["completions", "bash"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(30));
    assert!(text(&output.stderr).starts_with("error: the answer cannot be written"));
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_antipode"))
        .arg("man")
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}
