//! The repository's text files, and what a rule says about them.

use std::fmt;
use std::fs;
use std::path::Path;

/// A file of the repository. Of one that holds no text, the path alone is known and the text is empty.
#[derive(Debug, Clone)]
pub(crate) struct TextFile {
    /// Path from the repository's root, with `/` between its parts.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl TextFile {
    /// A made-up file for a rule's own test.
    pub(crate) fn planted(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub(crate) fn is_markdown(&self) -> bool {
        self.path.ends_with(".md")
    }
}

/// One untidy place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) path: String,
    /// Counted from 1.
    pub(crate) line: usize,
    pub(crate) what: String,
    pub(crate) mend: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            what,
            mend,
        } = self;
        write!(f, "{path}:{line}: {what}\n    mend: {mend}")
    }
}

const TEXT_ENDINGS: &[&str] = &[
    ".rs", ".md", ".toml", ".txt", ".sh", ".service", ".html", ".css", ".js",
];
const TEXT_NAMES: &[&str] = &["run", "LICENSE", ".gitignore"];
const FOLDERS_SKIPPED: &[&str] = &["target", ".git"];

/// Every file under `root` but build output, in the order of their paths.
pub(crate) fn read_all(root: &Path) -> Vec<TextFile> {
    let mut files = Vec::new();
    walk(root, "", &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<TextFile>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && !FOLDERS_SKIPPED.contains(&name.as_str()) {
            walk(&entry.path(), &format!("{path}/"), files);
        } else if kind.is_file() {
            let text = if is_text(&name) {
                fs::read_to_string(entry.path())
                    .unwrap_or_else(|error| panic!("{path} should be UTF-8 text: {error}"))
            } else {
                String::new()
            };
            files.push(TextFile { path, text });
        }
    }
}

fn is_text(name: &str) -> bool {
    TEXT_NAMES.contains(&name) || TEXT_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Lines of a data file beside the rules, without comments and blank lines, with their numbers.
pub(crate) fn data_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// Whether `byte` can be part of a Rust identifier.
pub(crate) fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Byte offsets at which `word` stands in `text` as a whole word.
pub(crate) fn whole_words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = text.as_bytes();
    text.match_indices(word)
        .map(|(start, _)| start)
        .filter(move |&start| {
            let before = start.checked_sub(1).map(|index| bytes[index]);
            let after = bytes.get(start + word.len()).copied();
            !before.is_some_and(is_word_byte) && !after.is_some_and(is_word_byte)
        })
}

/// The line, counted from 1, on which byte `offset` of `text` lies.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset]
        .iter()
        .filter(|&&byte| byte == b'\n')
        .count()
        + 1
}

#[test]
fn a_fault_names_the_place_and_the_mend() {
    let fault = Fault {
        path: "src/a.rs".to_owned(),
        line: 7,
        what: "too long".to_owned(),
        mend: "split it",
    };
    assert_eq!(fault.to_string(), "src/a.rs:7: too long\n    mend: split it");
}

#[test]
fn whole_words_leave_longer_names_alone() {
    let found: Vec<usize> = whole_words("unsafe unsafe_op (unsafe)", "unsafe").collect();
    assert_eq!(found, [0, 18]);
}
