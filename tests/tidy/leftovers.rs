//! What work in progress leaves behind: markers, conflict lines, blank line ends.

use super::repository::{Fault, TextFile, whole_words};

/// Spelled in halves, so that this file passes its own rule.
const MARKERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
];
const CONFLICTS: &[&str] = &[
    concat!("<<<<", "<<< "),
    concat!(">>>>", ">>> "),
    concat!("||||", "||| "),
];

pub(crate) fn check(files: &[TextFile]) -> Vec<Fault> {
    files.iter().flat_map(check_file).collect()
}

fn check_file(file: &TextFile) -> Vec<Fault> {
    let fault = |line: usize, what: String, mend: &'static str| Fault {
        path: file.path.clone(),
        line,
        what,
        mend,
    };
    let mut faults = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        if let Some(marker) = MARKERS
            .iter()
            .find(|marker| whole_words(line, marker).next().is_some())
        {
            let what = format!("leftover marker {marker}");
            faults.push(fault(index + 1, what, "do it now or file an issue"));
        }
        if CONFLICTS.iter().any(|mark| line.starts_with(mark)) {
            faults.push(fault(
                index + 1,
                "merge conflict".to_owned(),
                "resolve it and remove the marks",
            ));
        }
        if line.ends_with([' ', '\t', '\r']) {
            faults.push(fault(
                index + 1,
                "blanks at the end of the line".to_owned(),
                "remove them",
            ));
        }
    }
    if !file.text.is_empty() && (!file.text.ends_with('\n') || file.text.ends_with("\n\n")) {
        faults.push(fault(
            file.text.lines().count(),
            "the file does not end in exactly one line end".to_owned(),
            "end the last line once",
        ));
    }
    faults
}

#[test]
fn planted_leftovers_are_found() {
    let text = format!(
        "fn f() {{}} // {}: later\nlet a = 1; \n{}main\nMETODOS\nend",
        MARKERS[0], CONFLICTS[0]
    );
    let faults = check(&[TextFile::planted("src/a.rs", &text)]);
    let lines: Vec<usize> = faults.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [1, 2, 3, 5]);
    assert!(check(&[TextFile::planted("src/a.rs", "fn f() {}\n")]).is_empty());
}
