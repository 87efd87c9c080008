//! Requirement ids cited in comments and documents exist.

use super::links::prose_lines;
use super::repository::{Fault, TextFile, data_lines, is_word_byte};

const LIST: &str = include_str!("requirements.txt");
const AREAS: &[u8] = b"EHRPTDSOL";

/// Registers of the processor and sleep states of ACPI, which comments here speak of often.
const LOOKALIKES: &[&str] = &["R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15", "S4", "S5"];

pub(crate) fn check(files: &[TextFile]) -> Vec<Fault> {
    let known: Vec<&str> = data_lines(LIST)
        .filter_map(|(_, entry)| entry.split_whitespace().next())
        .collect();
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() || file.is_markdown()) {
        for (index, line) in prose_lines(file).iter().enumerate() {
            faults.extend(
                ids_in(line)
                    .filter(|id| !known.contains(id) && !LOOKALIKES.contains(id))
                    .map(|id| Fault {
                        path: file.path.clone(),
                        line: index + 1,
                        what: format!("{id} is no requirement"),
                        mend: "cite one of tests/tidy/requirements.txt; put what only looks like one (a register, a bus state) in backticks",
                    }),
            );
        }
    }
    faults
}

/// Words of an area's letter and one or two digits.
fn ids_in(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_ascii() || !is_word_byte(c as u8))
        .filter(|word| {
            let bytes = word.as_bytes();
            matches!(bytes.len(), 2 | 3)
                && AREAS.contains(&bytes[0])
                && bytes[1..].iter().all(u8::is_ascii_digit)
        })
}

#[test]
fn a_planted_unknown_id_is_found() {
    let text = "//! Kept by E1 and P10, like E99 (R0), not R15.\nlet a = \"E77\"; // `E88` E820 E5–E6\n";
    let faults = check(&[TextFile::planted("src/a.rs", text)]);
    let said: Vec<(usize, &str)> = faults.iter().map(|f| (f.line, f.what.as_str())).collect();
    assert_eq!(said, [(1, "E99 is no requirement"), (1, "R0 is no requirement")]);
}

#[test]
fn no_requirement_hides_among_the_lookalikes() {
    for (_, entry) in data_lines(LIST) {
        let id = entry.split_whitespace().next().unwrap();
        assert!(!LOOKALIKES.contains(&id), "{id}");
    }
}

#[test]
fn the_list_has_every_area() {
    for &area in AREAS {
        let first = format!("{}1", char::from(area));
        assert!(
            data_lines(LIST).any(|(_, entry)| entry.starts_with(&first)),
            "{first}"
        );
    }
}
