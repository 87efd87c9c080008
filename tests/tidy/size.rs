//! File length: 500 lines, 800 with tests. (Function length is clippy's.)

use super::repository::{Fault, TextFile, data_lines};

const LINES_MAX: usize = 500;
const LINES_WITH_TESTS_MAX: usize = 800;
const LIST_PATH: &str = "tests/tidy/long_files.txt";
const LIST: &str = include_str!("long_files.txt");

pub(crate) fn check(files: &[TextFile]) -> Vec<Fault> {
    check_against(files, LIST)
}

/// A file made of tests alone.
fn holds_tests_only(path: &str) -> bool {
    path.ends_with("/tests.rs")
        || path.contains("/tests/") && !path.starts_with("tests/")
        || path.starts_with("tests/") && !path.starts_with("tests/lab/src/")
}

/// Lines before the module of unit tests, all lines, and whether they keep the limits.
fn measure(file: &TextFile) -> (usize, usize, bool) {
    let lines: Vec<&str> = file.text.lines().collect();
    let tests_begin = lines
        .windows(2)
        .position(|pair| {
            pair[0].trim() == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
        })
        .unwrap_or(lines.len());
    let code_max = if holds_tests_only(&file.path) {
        LINES_WITH_TESTS_MAX
    } else {
        LINES_MAX
    };
    let fits = tests_begin <= code_max && lines.len() <= LINES_WITH_TESTS_MAX;
    (tests_begin, lines.len(), fits)
}

fn check_against(files: &[TextFile], list: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let exceptions: Vec<(usize, &str, usize)> = data_lines(list)
        .map(|(line, entry)| {
            let mut words = entry.split_whitespace();
            let path = words.next().unwrap();
            let length = words.next().and_then(|word| word.parse().ok());
            (line, path, length.unwrap_or(0))
        })
        .collect();
    for file in files.iter().filter(|f| f.is_rust() || f.path == ".ci/run") {
        let (code, all, fits) = measure(file);
        let excepted = exceptions
            .iter()
            .any(|&(_, path, max)| path == file.path && all <= max);
        if !fits && !excepted {
            faults.push(Fault {
                path: file.path.clone(),
                line: LINES_MAX.min(all),
                what: format!(
                    "{code} lines, {all} with unit tests; the limits are {LINES_MAX} and {LINES_WITH_TESTS_MAX}"
                ),
                mend: "split the file along its parts",
            });
        }
    }
    for (line, path, _) in exceptions {
        if !files.iter().any(|file| file.path == path && !measure(file).2) {
            faults.push(Fault {
                path: LIST_PATH.to_owned(),
                line,
                what: format!("{path} needs no exception any more"),
                mend: "remove the line: the list only shrinks",
            });
        }
    }
    faults
}

#[test]
fn planted_long_files_are_found() {
    let long = "x\n".repeat(501);
    let tested = format!(
        "{}#[cfg(test)]\nmod tests {{\n{}",
        "x\n".repeat(400),
        "y\n".repeat(300)
    );
    let files = [
        TextFile::planted("src/long.rs", &long),
        TextFile::planted("src/tested.rs", &tested),
        TextFile::planted("src/devices/pit/tests.rs", &long),
        TextFile::planted("src/known.rs", &long),
        TextFile::planted("src/grown.rs", &long),
    ];
    let list = "src/known.rs 501 a table\nsrc/grown.rs 500 a table\nsrc/tested.rs 900 was long\n";
    let faults = check_against(&files, list);
    let places: Vec<(&str, usize)> = faults.iter().map(|f| (f.path.as_str(), f.line)).collect();
    assert_eq!(
        places,
        [("src/long.rs", 500), ("src/grown.rs", 500), (LIST_PATH, 3)]
    );
}
