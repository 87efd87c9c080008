//! Links and paths lead somewhere: relative links and anchors in Markdown, document paths in Rust comments.

use super::repository::{Fault, TextFile};
use super::source::View;

/// A file's prose, line by line: of Rust the comments, and of both no code, whether fenced or in backticks.
pub(crate) fn prose_lines(file: &TextFile) -> Vec<String> {
    let text = if file.is_rust() {
        View::of(&file.text).comments
    } else {
        file.text.clone()
    };
    let mut fenced = false;
    text.lines()
        .map(|line| {
            let body = line.trim_start().trim_start_matches(['/', '!']).trim_start();
            if body.starts_with("```") {
                fenced = !fenced;
                return String::new();
            }
            if fenced {
                String::new()
            } else {
                without_code_spans(line)
            }
        })
        .collect()
}

fn without_code_spans(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("·")
}

pub(crate) fn check_markdown(files: &[TextFile]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.is_markdown()) {
        for (index, line) in prose_lines(file).iter().enumerate() {
            faults.extend(link_targets(line).filter_map(|target| {
                let what = why_dead(files, file, target)?;
                Some(Fault {
                    path: file.path.clone(),
                    line: index + 1,
                    what,
                    mend: "name a file of the repository relative to this one, and a heading as its anchor is spelled",
                })
            }));
        }
    }
    faults
}

/// Targets of `[text](target)` and of `[label]: target`.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    let inline = line
        .match_indices("](")
        .filter_map(|(at, _)| line[at + 2..].split_once([')', ' ']))
        .map(|(target, _)| target);
    let definition = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]: "))
        .map(|(_, target)| target.trim());
    inline.chain(definition)
}

fn why_dead(files: &[TextFile], from: &TextFile, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let resolved = if path.is_empty() {
        from.path.clone()
    } else {
        resolve(&from.path, path)
    };
    let folder = format!("{}/", resolved.trim_end_matches('/'));
    let Some(file) = files.iter().find(|file| file.path == resolved) else {
        let is_folder = files.iter().any(|file| file.path.starts_with(&folder));
        return (!is_folder).then(|| format!("dead link: there is no {resolved}"));
    };
    let known = anchor.is_empty() || !file.is_markdown() || anchors(file).iter().any(|known| known == anchor);
    (!known).then(|| format!("dead anchor: {resolved} has no heading #{anchor}"))
}

/// `link` as a path from the root, as seen from the file `from`.
fn resolve(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The anchors of a document's headings, as common Markdown viewers spell them.
fn anchors(file: &TextFile) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    let mut fenced = false;
    for line in file.text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let hashes = line.bytes().take_while(|&byte| byte == b'#').count();
        let Some(title) = line[hashes..].strip_prefix(' ').filter(|_| hashes > 0 && !fenced) else {
            continue;
        };
        let slug: String = title
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let same = |anchor: &String| {
            anchor == &slug
                || anchor
                    .strip_prefix(&slug)
                    .and_then(|rest| rest.strip_prefix('-'))
                    .is_some_and(|rest| rest.parse::<u32>().is_ok())
        };
        match anchors.iter().filter(|anchor| same(anchor)).count() {
            0 => anchors.push(slug),
            earlier => anchors.push(format!("{slug}-{earlier}")),
        }
    }
    anchors
}

/// `docs/…` and `tests/…` in comments are paths from the root.
pub(crate) fn check_paths_in_comments(files: &[TextFile]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let comments = View::of(&file.text).comments;
        for (index, line) in comments.lines().enumerate() {
            let paths = line
                .split(|c: char| !(c.is_ascii_alphanumeric() || "/_-.".contains(c)))
                .map(|word| word.trim_end_matches('.'))
                .filter(|word| word.starts_with("docs/") || word.starts_with("tests/"))
                .filter(|word| {
                    [".md", ".rs", ".toml", ".txt"]
                        .iter()
                        .any(|ending| word.ends_with(ending))
                });
            faults.extend(
                paths
                    .filter(|path| !files.iter().any(|file| file.path == *path))
                    .map(|path| Fault {
                        path: file.path.clone(),
                        line: index + 1,
                        what: format!("there is no {path}"),
                        mend: "name the file's path from the repository's root",
                    }),
            );
        }
    }
    faults
}

#[test]
fn planted_dead_links_and_anchors_are_found() {
    let readme = "# One\n[a](docs/b.md) [c](docs/gone.md)\n[d](docs/b.md#two--three) [e](docs/b.md#four)\n\
                  [f](#one) `[g](gone.md)` [h](https://example.com/x)\n```\n[i](gone.md)\n```\n[j]: docs/gone.md\n[k](docs)\n";
    let files = [
        TextFile::planted("README.md", readme),
        TextFile::planted(
            "docs/b.md",
            "## Two · `three`\n## Same\n## Same\n[up](../README.md) [s](#same-1) [t](#same-2)\n",
        ),
    ];
    let faults = check_markdown(&files);
    let places: Vec<(&str, usize)> = faults.iter().map(|f| (f.path.as_str(), f.line)).collect();
    assert_eq!(
        places,
        [
            ("README.md", 2),
            ("README.md", 3),
            ("README.md", 8),
            ("docs/b.md", 4)
        ],
        "{faults:?}"
    );
}

#[test]
fn a_planted_dead_path_in_a_comment_is_found() {
    let text = "//! See `docs/a.md` and docs/gone.md.\nlet path = \"docs/other.md\";\n";
    let files = [
        TextFile::planted("src/a.rs", text),
        TextFile::planted("docs/a.md", ""),
    ];
    let faults = check_paths_in_comments(&files);
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].what, "there is no docs/gone.md");
}
