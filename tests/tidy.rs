//! Style is a test: import direction, file length, dead links, unknown requirement ids, leftovers, `unsafe`.
//!
//! Each rule takes files as text and answers with [`Fault`]s, so that its own test can feed it a planted fault.
//! Rules read Rust through [`tidy::source::View`], which tells code from comments and literals; that is as much of
//! the grammar as they need.
#![expect(clippy::unwrap_used, reason = "a test: what fails is shown where it fails")]

mod tidy {
    pub(crate) mod imports;
    pub(crate) mod leftovers;
    pub(crate) mod links;
    pub(crate) mod repository;
    pub(crate) mod requirements;
    pub(crate) mod safety;
    pub(crate) mod size;
    pub(crate) mod source;
}

use std::path::Path;

use tidy::repository::{Fault, TextFile, read_all};

type Rule = fn(&[TextFile]) -> Vec<Fault>;

const RULES: &[Rule] = &[
    tidy::imports::check_layers,
    tidy::imports::check_members,
    tidy::leftovers::check,
    tidy::links::check_markdown,
    tidy::links::check_paths_in_comments,
    tidy::requirements::check,
    tidy::safety::check_unsafe,
    tidy::safety::check_ignored_tests,
    tidy::size::check,
];

#[test]
fn the_repository_is_tidy() {
    let files = read_all(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(
        files.iter().any(|file| file.path == "src/lib.rs"),
        "the walk found no sources: the rules would pass without reading anything"
    );
    let faults: Vec<String> = RULES
        .iter()
        .flat_map(|rule| rule(&files))
        .map(|fault| fault.to_string())
        .collect();
    assert!(
        faults.is_empty(),
        "{} untidy places:\n{}",
        faults.len(),
        faults.join("\n")
    );
}
