//! `unsafe` lives in named files only (S3), and no test is switched off.

use super::repository::{Fault, TextFile, data_lines, line_of, whole_words};
use super::source::View;

const LIST_PATH: &str = "tests/tidy/unsafe_files.txt";
const LIST: &str = include_str!("unsafe_files.txt");

pub(crate) fn check_unsafe(files: &[TextFile]) -> Vec<Fault> {
    check_unsafe_against(files, LIST)
}

/// A listed folder ends in `/` and stands for all files below it.
fn covers(listed: &str, path: &str) -> bool {
    path == listed || (listed.ends_with('/') && path.starts_with(listed))
}

fn check_unsafe_against(files: &[TextFile], list: &str) -> Vec<Fault> {
    let listed: Vec<(usize, &str)> = data_lines(list)
        .filter_map(|(line, entry)| Some((line, entry.split_whitespace().next()?)))
        .collect();
    let mut faults = Vec::new();
    let mut used = vec![false; listed.len()];
    for file in files.iter().filter(|file| file.is_rust()) {
        let code = View::of(&file.text).code;
        let Some(first) = whole_words(&code, "unsafe").next() else {
            continue;
        };
        match listed.iter().position(|(_, entry)| covers(entry, &file.path)) {
            Some(index) => used[index] = true,
            None => faults.push(Fault {
                path: file.path.clone(),
                line: line_of(&code, first),
                what: "unsafe code outside the files that may hold it".to_owned(),
                mend: "go through a safe call of a listed file, or list this one in tests/tidy/unsafe_files.txt with its reason",
            }),
        }
    }
    faults.extend(listed.iter().zip(used).filter_map(|(&(line, entry), used)| {
        let exists = files.iter().any(|file| covers(entry, &file.path));
        (exists && !used).then(|| Fault {
            path: LIST_PATH.to_owned(),
            line,
            what: format!("{entry} holds no unsafe code any more"),
            mend: "remove the line: the list only shrinks",
        })
    }));
    faults
}

pub(crate) fn check_ignored_tests(files: &[TextFile]) -> Vec<Fault> {
    let marker = concat!("#[ign", "ore");
    files
        .iter()
        .filter(|file| file.is_rust())
        .flat_map(|file| {
            let code = View::of(&file.text).code;
            let lines: Vec<usize> = code
                .match_indices(marker)
                .map(|(at, _)| line_of(&code, at))
                .collect();
            lines.into_iter().map(|line| Fault {
                path: file.path.clone(),
                line,
                what: "a test that does not run".to_owned(),
                mend: "make it run, have it report `skipped: <reason>` where a means is missing, or delete it",
            })
        })
        .collect()
}

#[test]
fn planted_unsafe_code_is_found_and_listed_code_is_not() {
    let list = "src/machine/kvm/ ioctls\nsrc/base/calm.rs was unsafe once\n";
    let files = [
        TextFile::planted("src/machine/kvm/vcpu.rs", "fn f() { unsafe { g() } }"),
        TextFile::planted("src/base/calm.rs", "// nothing unsafe here"),
        TextFile::planted("src/devices/wild.rs", "fn f() {}\nfn h() { unsafe { g() } }"),
    ];
    let faults = check_unsafe_against(&files, list);
    let places: Vec<(&str, usize)> = faults.iter().map(|f| (f.path.as_str(), f.line)).collect();
    assert_eq!(places, [("src/devices/wild.rs", 2), (LIST_PATH, 2)]);
}

#[test]
fn a_planted_ignored_test_is_found() {
    let text = format!("// {0}]\n{0} = \"slow\"]\nfn f() {{}}", concat!("#[ign", "ore"));
    let faults = check_ignored_tests(&[TextFile::planted("src/a.rs", &text)]);
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].line, 2);
}
